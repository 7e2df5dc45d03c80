package keyring

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring/keyringtest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

// testdata/*-65ed6e0* were written by release 65ed6e0, with one instance denied in
// each state.
const deniedID = "11111111-aaaa-4aaa-8aaa-000000000001"

func open(t *testing.T, store state.Store, seen string, encryption ...string) *Ring {
	t.Helper()
	s, err := OpenSeen(seen, testIssuer)
	if err != nil {
		t.Fatal(err)
	}
	config := testConfig
	config.EncryptionKeyFile = encryption
	r, err := New(plan(t, config, 10*time.Minute), store, Options{
		Issuer: testIssuer, Initialize: len(encryption) == 0, Seen: s,
		Entries: func(ctx context.Context) (map[string][]byte, error) { return attest.FormerDenials(ctx, store) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func kids(r *Ring) (all []string) {
	for _, k := range r.infos(r.keys()) {
		all = append(all, k.KeyID)
	}
	return all
}

func TestAStateFileOf65ed6e0IsTakenOverOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	packed, err := os.Open(filepath.Join("testdata", "state-65ed6e0.db.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	z, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	id := attesttest.ID(t, deniedID)
	var first []string
	for i, want := range []bool{true, true, false} {
		f, err := state.OpenFile(state.FileConfig{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		r := open(t, f, path+".seen")
		if err := r.Load(t.Context()); err != nil {
			t.Fatalf("start %d: %v", i, err)
		}
		if first == nil {
			first = kids(r)
		}
		if !slices.Equal(kids(r), first) || len(first) != 2 || r.Usable() != nil {
			t.Errorf("start %d: keys %v, want %v; %v", i, kids(r), first, r.Usable())
		}
		register := &attest.Register{Store: f, Denials: r.Denials()}
		kept, err := register.Show(t.Context(), id)
		if err != nil || (kept.Denial != nil) != want || want && kept.Denial.Reason != "broken into" {
			t.Errorf("start %d: %+v, %v; want denied %v", i, kept.Denial, err, want)
		}
		if i == 1 { // the old entries are not read again
			if err := register.Allow(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// A copy from before the upgrade is a restored copy.
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := state.OpenFile(state.FileConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := open(t, f, path+".seen")
	if err := r.Load(t.Context()); !errors.Is(err, errOlder) {
		t.Errorf("the state of before: %v", err)
	}
	if _, err := r.Accept(t.Context()); err != nil || !slices.Equal(kids(r), first) {
		t.Errorf("accepted: %v; keys %v", err, kids(r))
	}
}

// A value of 65ed6e0 has no confirmation. An operator accepts it at one server, and the
// others then start without an operator.
func TestARedisOf65ed6e0IsTakenOverOnce(t *testing.T) {
	ctx := t.Context()
	former, err := os.ReadFile(filepath.Join("testdata", "keys-65ed6e0.sealed"))
	if err != nil {
		t.Fatal(err)
	}
	redis, key := &state.Memory{Size: 10}, keyringtest.EncryptionKeyFile(t, "0123456789abcdefghijklmnopqrstuv")
	put := func(name string, value []byte) {
		t.Helper()
		if err := redis.Put(ctx, name, value, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	put("keys", former)
	put("denied/"+deniedID, []byte(`{"reason":"broken into"}`))
	seen := filepath.Join(t.TempDir(), "state.seen")
	one := open(t, redis, seen, key)
	if err := one.Load(ctx); !errors.Is(err, errUnconfirmed) || one.Usable() == nil || len(one.KeySet().Keys()) != 0 {
		t.Fatalf("Load = %v", err)
	}
	if _, err := one.Init(ctx); !errors.Is(err, errUnconfirmed) {
		t.Errorf("Init = %v", err)
	}
	accepted, err := one.Accept(ctx)
	if err != nil || len(accepted) != 2 || accepted[0].Generation != 1 || !accepted[0].Confirmed.IsZero() || one.Usable() != nil {
		t.Fatalf("Accept = %+v, %v", accepted, err)
	}
	two := open(t, redis, filepath.Join(t.TempDir(), "state.seen"), key)
	if err := two.Load(ctx); err != nil || two.Usable() != nil || !slices.Equal(kids(one), kids(two)) {
		t.Errorf("the next server: %v, %v; keys %v and %v", err, two.Usable(), kids(one), kids(two))
	}
	for _, r := range []*Ring{one, two} {
		if v, err := r.Denials().Entry(ctx, deniedID); err != nil || !strings.Contains(string(v), "broken into") {
			t.Errorf("the denial is %q, %v", v, err)
		}
	}

	// A replica of 65ed6e0 or an attacker may put a former value back. Running servers replace
	// it, and a server that starts refuses it.
	revoked := kids(one)[0]
	if err := one.Revoke(ctx, revoked); err != nil {
		t.Fatal(err)
	}
	put("keys", former)
	again := open(t, redis, seen, key)
	if err := again.Load(ctx); !errors.Is(err, errOlder) || len(again.KeySet().Keys()) != 0 {
		t.Errorf("a start with the former value: %v", err)
	}
	if _, err := one.Init(ctx); err != nil || slices.Contains(kids(one), revoked) {
		t.Errorf("a running server: %v, %v", err, kids(one))
	}
	if now, err := redis.Get(ctx, "keys"); err != nil || bytes.Equal(now, former) {
		t.Errorf("the former value is still there, %v", err)
	}
	if err := again.Load(ctx); err != nil || slices.Contains(kids(again), revoked) {
		t.Errorf("and then: %v, %v", err, kids(again))
	}
}
