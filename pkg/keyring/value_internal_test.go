package keyring

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring/keyringtest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

// server is the setup of a server on a shared state such as Redis, with the file of what it
// has seen. The attacker can read and write all values, and has no encryption key.
func server(t *testing.T) setup {
	t.Helper()
	return setup{shared: true, unloaded: true, config: Config{EncryptionKeyFile: []string{sharedKey(t)}}, seen: filepath.Join(t.TempDir(), "state.seen")}
}

// begin makes what the state lacks and starts a server on it.
func begin(t *testing.T, store *state.Memory, s setup) *replica {
	t.Helper()
	r := newReplica(t, store, s)
	if _, err := r.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

// otherServer is another server on the state, with the same setup.
func otherServer(t *testing.T, store *state.Memory, s setup) *replica {
	t.Helper()
	s.seen, s.unloaded = filepath.Join(t.TempDir(), "state.seen"), false
	return newReplica(t, store, s)
}

// restarted starts the server of a setup again, at a time.
func restarted(t *testing.T, store *state.Memory, s setup, at time.Time) (*replica, error) {
	t.Helper()
	s.unloaded, s.at = false, at
	return tryReplica(t, store, s)
}

func get(t *testing.T, store *state.Memory, kind string) []byte {
	t.Helper()
	raw, err := store.Get(t.Context(), kind)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func set(t *testing.T, store *state.Memory, kind string, raw []byte) {
	t.Helper()
	if raw == nil {
		if err := store.Forget(t.Context(), kind); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := store.Put(t.Context(), kind, raw, time.Time{}); err != nil {
		t.Fatal(err)
	}
}

func (r *replica) deny(t *testing.T, instance string) {
	t.Helper()
	if err := r.Denials().Change(t.Context(), func(all map[string][]byte) error {
		all[instance] = []byte(`{"reason":"broken into"}`)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// denies reports whether an instance is denied. An error says that this is not known.
func (r *replica) denies(t *testing.T, instance string) (bool, error) {
	t.Helper()
	v, err := r.Denials().Entry(t.Context(), instance)
	return v != nil, err
}

func (r *replica) mustDeny(t *testing.T, when, instance string) {
	t.Helper()
	if denied, err := r.denies(t, instance); err == nil && !denied {
		t.Errorf("%s: the instance gets a token", when)
	}
}

// An attacker puts the value from before a revocation back while no server runs.
func TestARevokedKeyDoesNotReturnAtAStart(t *testing.T) {
	store, s := newStore(), server(t)
	r := begin(t, store, s)
	stolen, old := r.signs(), get(t, store, keysKind)
	if err := r.Revoke(t.Context(), stolen); err != nil {
		t.Fatal(err)
	}
	revoked := get(t, store, keysKind)

	set(t, store, keysKind, old)
	again, err := restarted(t, store, s, r.wall)
	if !errors.Is(err, errOlder) || len(again.KeySet().Keys()) != 0 || again.Usable() == nil {
		t.Fatalf("a restart with the old value: %v; published %v", err, again.kids())
	}
	wantError(t, err, "generation 1, this server has seen 2", "keys init --accept")
	if _, err := again.Init(t.Context()); !errors.Is(err, errOlder) {
		t.Errorf("`keys init` without --accept: %v", err)
	}
	for _, act := range map[string]error{"rotate": errOf(again.Rotate(t.Context())), "import": errOf(again.Import(t.Context(), keyringtest.PKCS8(t, keyringtest.EC(t, elliptic.P256())))), "revoke": again.Revoke(t.Context(), stolen), "list": errOf(again.List(t.Context()))} {
		if !errors.Is(act, errOlder) {
			t.Errorf("an operator's act on the old value: %v", act)
		}
	}
	again.turn()
	if again.Usable() == nil || len(again.KeySet().Keys()) != 0 {
		t.Error("a turn adopts the old value")
	}

	// A server that held the newer value has written it back. No operator is needed.
	set(t, store, keysKind, revoked)
	again.turn()
	if err := again.Usable(); err != nil || slices.Contains(again.kids(), stolen) {
		t.Errorf("with the newest value: %v; published %v", err, again.kids())
	}
}

func errOf[T any](_ T, err error) error { return err }

// Without the file of what it has seen, a server needs a value that a running server
// confirmed within maxAge. An operator may accept another one.
func TestANewServerNeedsAConfirmedValue(t *testing.T) {
	store, s := newStore(), server(t)
	r := begin(t, store, s)
	old, oldList := get(t, store, keysKind), get(t, store, denialsKind)
	host := s
	host.seen = filepath.Join(t.TempDir(), "state.seen")
	if _, err := restarted(t, store, host, r.wall.Add(testConfig.MaxAge)); err != nil {
		t.Errorf("confirmed within maxAge: %v", err)
	}
	for name, at := range map[string]time.Time{
		"long after it was confirmed":  r.wall.Add(testConfig.MaxAge + 1),
		"long before it was confirmed": r.wall.Add(-skew - 1),
	} {
		set(t, store, keysKind, old)
		set(t, store, denialsKind, oldList)
		host.seen = filepath.Join(t.TempDir(), "state.seen")
		late, err := restarted(t, store, host, at)
		if !errors.Is(err, errUnconfirmed) || late.Usable() == nil || len(late.kids()) != 0 {
			t.Errorf("%s: %v; published %v", name, err, late.kids())
		}
		if _, err := late.Init(t.Context()); !errors.Is(err, errUnconfirmed) {
			t.Errorf("%s: `keys init` without --accept: %v", name, err)
		}
		if _, err := late.denies(t, "a"); !errors.Is(err, errUnconfirmed) {
			t.Errorf("%s: the list of denials: %v", name, err)
		}
		accepted, err := late.Accept(t.Context())
		if err != nil || late.Usable() != nil || len(accepted) != 2 || accepted[0].Generation != 1 || !accepted[0].Confirmed.Equal(r.wall) || accepted[0].Seen != 0 {
			t.Errorf("%s: Accept = %+v, %v", name, accepted, err)
		}
		if _, err := late.denies(t, "a"); err != nil {
			t.Errorf("%s: the list of denials: %v", name, err)
		}
		// The running server takes the accepted value, although its own has as many
		// confirmations.
		r.turn()
		if !slices.Equal(late.kids(), r.kids()) || get(t, store, keysKind) == nil {
			t.Errorf("%s: %v and %v are published", name, late.kids(), r.kids())
		}
	}
}

// All servers were down. Their files of what they have seen count, however old.
func TestServersThatWereAllDownStartWithoutAnOperator(t *testing.T) {
	store, s := newStore(), server(t)
	r := begin(t, store, s)
	r.deny(t, "a")
	for _, down := range []time.Duration{12 * time.Hour, 1000 * time.Hour} {
		again, err := restarted(t, store, s, r.wall.Add(down))
		if err != nil || again.Usable() != nil || !slices.Equal(again.kids(), r.kids()) {
			t.Errorf("down for %v: %v, %v", down, err, again.Usable())
		}
		if denied, err := again.denies(t, "a"); err != nil || !denied {
			t.Errorf("down for %v: denied %v, %v", down, denied, err)
		}
	}
	// The server starts before Redis.
	late := s
	late.at = r.wall.Add(2000 * time.Hour)
	again := newReplica(t, store, late)
	again.fail = errors.New("connection refused")
	if again.Load(t.Context()) == nil {
		t.Error("it was loaded from nothing")
	}
	again.turn()
	again.fail = nil
	again.turn()
	if err := again.Usable(); err != nil {
		t.Error(err)
	}
	again.mustDeny(t, "Redis came late", "a")
}

// An attacker puts the old value back after each turn of the replica that revoked the key.
// The other replica must not count its own confirmation.
func TestAHiddenRevocationStopsSigning(t *testing.T) {
	for name, first := range map[string]bool{"before the other one's turn": true, "before each turn of both": false} {
		store, s := newStore(), server(t)
		a := begin(t, store, s)
		b := otherServer(t, store, s)
		stolen, old := a.signs(), get(t, store, keysKind)
		if err := a.Revoke(t.Context(), stolen); err != nil {
			t.Fatal(err)
		}
		var signed time.Duration
		for range 360 { // an hour
			a.pass(10 * time.Second)
			b.pass(10 * time.Second)
			if !first {
				set(t, store, keysKind, old)
			}
			a.turn() // writes the newer one back
			set(t, store, keysKind, old)
			b.turn()
			if b.Usable() == nil && b.signs() == stolen {
				signed = b.mono
			}
			if slices.Contains(a.kids(), stolen) {
				t.Fatalf("%s: the replica that revoked the key publishes it", name)
			}
		}
		if signed > testConfig.MaxAge {
			t.Errorf("%s: a replica signs with the revoked key for %v", name, signed)
		}
		// After the attack both agree again.
		for range 3 {
			a.turn()
			b.turn()
		}
		if a.Usable() != nil || b.Usable() != nil || slices.Contains(b.kids(), stolen) || !slices.Equal(a.kids(), b.kids()) {
			t.Errorf("%s: afterwards: %v, %v; %v and %v are published", name, a.Usable(), b.Usable(), a.kids(), b.kids())
		}
		if n := strings.Count(a.log.String(), "is older than the one that this server holds"); n == 0 || n > 65 {
			t.Errorf("%s: the attack was logged %d times in an hour", name, n)
		}
	}
}

// A replica without a revocation changes the set, which then has a higher generation. The
// key is revoked there, too.
func TestARevocationSurvivesASetWithoutIt(t *testing.T) {
	store, s := newStore(), server(t)
	a := begin(t, store, s)
	b := otherServer(t, store, s)
	for i, which := range []string{"current", "next"} {
		stolen, old := a.kids()[i], get(t, store, keysKind)
		if err := a.Revoke(t.Context(), stolen); err != nil {
			t.Fatal(err)
		}
		set(t, store, keysKind, old)
		for range 3 {
			b.WillIssue(time.Duration(b.life.Load()) + time.Minute)
			b.turn() // changes the set, and its generation
		}
		if found, _, err := a.set.open(get(t, store, keysKind)); err != nil || found.Generation <= a.set.held().Generation {
			t.Fatalf("%s: generation %d, %v", which, found.Generation, err)
		}
		a.turn()
		if slices.Contains(a.kids(), stolen) {
			t.Errorf("%s: the revoked key is back where it was revoked", which)
		}
		b.turn()
		if slices.Contains(b.kids(), stolen) || !slices.Equal(a.kids(), b.kids()) {
			t.Errorf("%s: %v and %v are published", which, a.kids(), b.kids())
		}
		if _, err := b.Import(t.Context(), exported(t, old, a, stolen)); err == nil || !strings.Contains(err.Error(), "was revoked") {
			t.Errorf("%s: it is imported: %v", which, err)
		}
	}
}

// exported returns a key of a value, in PEM.
func exported(t *testing.T, raw []byte, r *replica, kid string) []byte {
	t.Helper()
	found, _, err := r.set.open(raw)
	if err != nil {
		t.Fatal(err)
	}
	k, _ := found.content.find(kid)
	return keyringtest.PKCS8(t, k.private)
}

func TestMergeKeysEnds(t *testing.T) {
	many := func(from, n int) (all []string) {
		for i := range n {
			all = append(all, fmt.Sprint(from+i))
		}
		return all
	}
	for name, sets := range map[string][2][]string{
		"apart":                {many(0, 10), many(100, 10)},
		"in another order":     {{"a", "b"}, {"b", "a"}},
		"more than are stored": {many(0, maxRevoked), many(1000, maxRevoked)},
	} {
		a, b := &managedSet{revoked: sets[0]}, &managedSet{revoked: sets[1]}
		for range 3 {
			b = mergeKeys(a, b)
			a = mergeKeys(b, a)
		}
		if mergeKeys(a, b) != b || len(a.revoked) > maxRevoked || len(b.revoked) > maxRevoked {
			t.Errorf("%s: they go on: %d and %d", name, len(a.revoked), len(b.revoked))
		}
	}
}

// No value that an attacker can write ends a denial.
func TestAnAttackerCannotEndADenial(t *testing.T) {
	store, s := newStore(), server(t)
	before := begin(t, store, s)
	empty := get(t, store, denialsKind)
	before.deny(t, "a")
	denied := get(t, store, denialsKind)
	foreign := begin(t, newStore(), setup{shared: true, unloaded: true, config: Config{EncryptionKeyFile: []string{encryptionKey(t)}}})
	elsewhere := server(t)
	elsewhere.issuer = testIssuer + "/b"
	values := map[string][]byte{
		"deleted":                    nil,
		"of before":                  empty,
		"the key set in its place":   get(t, store, keysKind),
		"garbage":                    []byte("garbage"),
		"empty":                      {},
		"huge":                       bytes.Repeat([]byte("x"), maxStored+1),
		"sealed with another key":    get(t, foreign.store, denialsKind),
		"sealed for another issuer":  get(t, begin(t, newStore(), elsewhere).store, denialsKind),
		"not sealed":                 []byte(plainPrefix(denialsKind, formatVersion) + "{}"),
		"of a former format":         []byte(plainPrefix(denialsKind, formerVersion) + "{}"),
		"of a newer format":          []byte(format + denialsKind + "/3 sealed x"),
		"the key set, called a list": append([]byte(sealedPrefix(denialsKind, formatVersion)), bytes.TrimPrefix(get(t, store, keysKind), []byte(sealedPrefix(keysKind, formatVersion)))...),
	}
	for name, raw := range values {
		set(t, store, denialsKind, denied)
		set(t, store, keysKind, get(t, before.store, keysKind))
		running, err := restarted(t, store, s, before.wall)
		if err != nil {
			t.Fatal(err)
		}
		set(t, store, denialsKind, raw)
		running.mustDeny(t, name, "a")
		running.turn()
		running.mustDeny(t, name+", a turn later", "a")
		running.pass(testConfig.MaxAge)
		running.turn()
		running.mustDeny(t, name+", maxAge later", "a")
		if now := get(t, store, denialsKind); bytes.Equal(now, raw) == (name == "deleted" || name == "of before") {
			t.Errorf("%s: the state has %.60q", name, now) // it may belong to another program
		}

		set(t, store, denialsKind, raw)
		starting, err := restarted(t, store, s, before.wall)
		if err == nil {
			t.Errorf("%s: a server that has seen the list starts without it", name)
		}
		starting.turn()
		if denied, err := starting.denies(t, "a"); err == nil {
			t.Errorf("%s: a server that starts knows that it is denied: %v", name, denied)
		}
	}
}

// slow returns the value from before the last change, once.
type slow struct {
	Store
	raw []byte
}

func (s *slow) Get(ctx context.Context, key string) ([]byte, error) {
	if raw := s.raw; raw != nil {
		s.raw = nil
		return raw, nil
	}
	return s.Store.Get(ctx, key)
}

// If its own process changes the list during a read, a decision does not log an attack.
func TestAReadDuringAChange(t *testing.T) {
	store, s := newStore(), server(t)
	r := begin(t, store, s)
	old := get(t, store, denialsKind)
	r.deny(t, "a")
	before := get(t, store, denialsKind)
	r.shared.store = &slow{r, old}
	if denied, err := r.denies(t, "a"); !denied || err != nil {
		t.Errorf("denied %v, %v", denied, err)
	}
	if strings.Contains(r.log.String(), "older") || !bytes.Equal(get(t, store, denialsKind), before) {
		t.Errorf("log %s", r.log.String())
	}
}

// Two replicas change the list at the same time.
func TestConcurrentDenialsAreKept(t *testing.T) {
	store, s := newStore(), server(t)
	a := begin(t, store, s)
	b := otherServer(t, store, s)
	var running sync.WaitGroup
	for i := range 40 {
		running.Go(func() { []*replica{a, b}[i%2].deny(t, fmt.Sprint(i)) })
	}
	running.Wait()
	for _, r := range []*replica{a, b} {
		all, err := r.Denials().Entries(t.Context())
		if err != nil || len(all) != 40 {
			t.Errorf("%d entries, %v", len(all), err)
		}
	}
	// An instance that is allowed at one replica is at once allowed at the other.
	if err := a.Denials().Change(t.Context(), func(all map[string][]byte) error { delete(all, "0"); return nil }); err != nil {
		t.Fatal(err)
	}
	if denied, err := b.denies(t, "0"); denied || err != nil {
		t.Errorf("denied %v, %v", denied, err)
	}
	refuse := errors.New("no")
	if err := a.Denials().Change(t.Context(), func(map[string][]byte) error { return refuse }); !errors.Is(err, refuse) {
		t.Error(err)
	}
}

// Each of two replicas finds only its own writes, and then both find the same.
func TestDenialsOfSeparatedReplicasAreJoined(t *testing.T) {
	store, s := newStore(), server(t)
	a := begin(t, store, s)
	a.deny(t, "lifted")
	b := otherServer(t, store, s)
	apart := get(t, store, denialsKind)
	a.pass(time.Second)
	b.pass(2 * time.Second)
	a.deny(t, "a")
	if err := a.Denials().Change(t.Context(), func(all map[string][]byte) error { delete(all, "lifted"); return nil }); err != nil {
		t.Fatal(err)
	}
	set(t, store, denialsKind, apart)
	b.deny(t, "b")
	b.deny(t, "c")
	b.deny(t, "d")
	for _, r := range []*replica{a, b} {
		all, err := r.Denials().Entries(t.Context())
		if want := []string{"a", "b", "c", "d"}; err != nil || !slices.Equal(slices.Sorted(maps.Keys(all)), want) {
			t.Errorf("entries %q, %v; want %q", slices.Sorted(maps.Keys(all)), err, want)
		}
	}
}

func TestTheDenialListIsBounded(t *testing.T) {
	store, s := newStore(), server(t)
	r := begin(t, store, s)
	reason, err := json.Marshal(map[string]string{"reason": strings.Repeat("x", 500)})
	if err != nil {
		t.Fatal(err)
	}
	err = r.Denials().Change(t.Context(), func(all map[string][]byte) error {
		for i := range 200 {
			all[fmt.Sprintf("00000000-0000-4000-8000-%012d", i)] = reason
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	before := get(t, store, denialsKind)
	err = r.Denials().Change(t.Context(), func(all map[string][]byte) error {
		for i := range 100 {
			all[fmt.Sprintf("10000000-0000-4000-8000-%012d", i)] = reason
		}
		return nil
	})
	if !errors.Is(err, errDenialsFull) || !bytes.Equal(get(t, store, denialsKind), before) {
		t.Errorf("Change = %v", err)
	}
	// Removed entries make room, and are forgotten in time.
	rounds := 300
	if testing.Short() {
		rounds = 10
	}
	for i := range rounds {
		if err := r.Denials().Change(t.Context(), func(all map[string][]byte) error {
			clear(all)
			for j := range 180 {
				all[fmt.Sprintf("%08d-0000-4000-8000-%012d", i, j)] = reason
			}
			return nil
		}); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
	}
	if e := r.Denials().list.content(); len(e.all) > 180+maxRemoved {
		t.Errorf("%d entries are remembered", len(e.all))
	}
}

// Replicas renew the confirmation with few writes.
func TestConfirmationsAreFew(t *testing.T) {
	store, s := newStore(), server(t)
	replicas := []*replica{begin(t, store, s)}
	for range 4 {
		s.seen, s.unloaded = filepath.Join(t.TempDir(), "state.seen"), false
		replicas = append(replicas, newReplica(t, store, s))
	}
	before := map[string]uint64{keysKind: replicas[0].set.held().Confirmation, denialsKind: replicas[0].denials.list.held().Confirmation}
	for range 360 {
		for i, r := range replicas {
			r.pass(10 * time.Second)
			if i == 0 || r.mono%(20*time.Second) == 0 { // some replicas are slower
				r.turn()
			}
			if r.Usable() != nil {
				t.Fatalf("%v: replica %d is stale", r.mono, i)
			}
			if _, err := r.denies(t, "a"); err != nil {
				t.Fatalf("%v: replica %d: %v", r.mono, i, err)
			}
		}
	}
	for kind, now := range map[string]uint64{keysKind: replicas[0].set.held().Confirmation, denialsKind: replicas[0].denials.list.held().Confirmation} {
		if n := now - before[kind]; n < 10 || n > 65 {
			t.Errorf("%s: five replicas confirmed it %d times in an hour", kind, n)
		}
	}
	if g := replicas[0].set.held().Generation; g != 1 {
		t.Errorf("a confirmation is a new generation: %d", g)
	}
}

// The clocks of replicas differ by a minute, or one is far off.
func TestClocksThatDiffer(t *testing.T) {
	for name, offset := range map[string]time.Duration{"a minute ahead": time.Minute, "a minute behind": -time.Minute} {
		store, s := newStore(), server(t)
		s.config.MaxAge, s.config.Algorithm, s.config.RotationPeriod = time.Minute, ES256, 24*time.Hour
		a := begin(t, store, s)
		s.seen, s.at, s.unloaded = filepath.Join(t.TempDir(), "state.seen"), testStart.Add(offset), false
		b := newReplica(t, store, s)
		for range 100 {
			for _, r := range []*replica{a, b} {
				r.pass(6 * time.Second)
				r.turn()
				if err := r.Usable(); err != nil {
					t.Fatalf("%s, after %v: %v", name, r.mono, err)
				}
				if _, err := r.denies(t, "x"); err != nil {
					t.Fatalf("%s, after %v: %v", name, r.mono, err)
				}
			}
		}
	}
	t.Run("a confirmation far in the future", func(t *testing.T) {
		store, s := newStore(), server(t)
		a := begin(t, store, s)
		a.wall = a.wall.Add(48 * time.Hour) // it steps
		a.turn()                            // and confirms
		future := get(t, store, keysKind)
		a.wall = a.wall.Add(-48 * time.Hour)
		s.seen, s.unloaded, s.at = filepath.Join(t.TempDir(), "state.seen"), true, a.wall
		b := newReplica(t, store, s)
		if err := b.Load(t.Context()); !errors.Is(err, errUnconfirmed) {
			t.Errorf("a new server takes it: %v", err)
		}
		for range 3 {
			a.pass(10 * time.Second)
			a.turn()
		}
		if err := a.Usable(); err != nil {
			t.Errorf("it is not confirmed again: %v", err)
		}
		b.turn()
		if err := b.Usable(); err != nil {
			t.Errorf("the new host, when it is: %v", err)
		}
		set(t, store, keysKind, future)
		for range int(testConfig.MaxAge/(10*time.Second)) + 2 {
			b.pass(10 * time.Second)
			set(t, store, keysKind, future)
			b.turn()
		}
		if b.Usable() == nil {
			t.Error("the value of the future is fresh")
		}
	})
}

// After `keys init` the server signs at once, and the others within their refresh.
func TestAfterInitAServerSignsAtOnce(t *testing.T) {
	store, s := newStore(), server(t)
	a := newReplica(t, store, s)
	s.seen = filepath.Join(t.TempDir(), "state.seen")
	b := newReplica(t, store, s)
	for _, r := range []*replica{a, b} {
		if err := r.Load(t.Context()); !errors.Is(err, errNoKeySet) || !errors.Is(err, errNoDenials) {
			t.Fatal(err)
		}
		r.turn()
	}
	if _, err := a.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.sign(), a.Err(), a.Denials().Err()); err != nil {
		t.Errorf("the server that was asked: %v", err)
	}
	b.turn()
	if err := errors.Join(b.sign(), b.Err(), b.Denials().Err()); err != nil {
		t.Errorf("the other one, a turn later: %v", err)
	}
	if _, err := b.denies(t, "a"); err != nil {
		t.Error(err)
	}
}

// A new encryption key seals both values.
func TestBothValuesAreSealedWithANewKey(t *testing.T) {
	store, s := newStore(), server(t)
	old, fresh := s.config.EncryptionKeyFile[0], encryptionKey(t)
	r := begin(t, store, s)
	r.deny(t, "a")
	for _, files := range [][]string{{old, fresh}, {fresh, old}, {fresh}} {
		s.config.EncryptionKeyFile = files
		again, err := restarted(t, store, s, r.wall)
		if err != nil {
			t.Fatalf("%v: %v", files, err)
		}
		if denied, err := again.denies(t, "a"); err != nil || !denied || !slices.Equal(again.kids(), r.kids()) {
			t.Errorf("denied %v, %v; published %v", denied, err, again.kids())
		}
	}
	s.config.EncryptionKeyFile = []string{old}
	if _, err := restarted(t, store, s, r.wall); !errors.Is(err, errForeign) {
		t.Errorf("with only the old key: %v", err)
	}
}

// A shared state needs an encryption key, with key files, too.
func TestUnsealedKeysInASharedStateAreRefused(t *testing.T) {
	file := keyringtest.File(t, keyringtest.PKCS8(t, keyringtest.EC(t, elliptic.P256())))
	for _, files := range [][]string{nil, {file}} {
		_, err := New(plan(t, testConfig, 0), newStore(), Options{Issuer: testIssuer, SigningKeys: signingKeys(t, files)})
		wantError(t, err, "needs keys.encryptionKeyFile")
	}
	// An attacker's unsealed key set, with an imported key.
	attackers := newReplica(t, newStore(), setup{unloaded: true})
	if _, err := attackers.Import(t.Context(), keyringtest.PKCS8(t, keyringtest.EC(t, elliptic.P256()))); err != nil {
		t.Fatal(err)
	}
	store, s := newStore(), server(t)
	s.files = []string{file}
	r := begin(t, store, s)
	set(t, store, keysKind, attackers.value())
	for range 3 {
		r.turn()
		r.pass(10 * time.Second)
	}
	if n := len(r.KeySet().Keys()); n != 1 || r.Usable() != nil {
		t.Errorf("%d keys are published, %v", n, r.Usable())
	}
	wantError(t, r.Err(), "not sealed")
	if _, err := r.List(t.Context()); !errors.Is(err, errNotSealed) {
		t.Errorf("List = %v", err)
	}
}

// A generation counts after it was noted as seen.
func TestAGenerationThatCannotBeNotedDoesNotCount(t *testing.T) {
	store, s := newStore(), server(t)
	a := begin(t, store, s)
	dir := t.TempDir()
	s.seen, s.unloaded = filepath.Join(dir, "seen", "state.seen"), false
	if err := os.Mkdir(filepath.Dir(s.seen), 0o700); err != nil {
		t.Fatal(err)
	}
	b := newReplica(t, store, s)
	away := filepath.Join(dir, "away")
	if err := os.Rename(filepath.Dir(s.seen), away); err != nil {
		t.Fatal(err)
	}
	stolen := a.signs()
	if err := a.Revoke(t.Context(), stolen); err != nil {
		t.Fatal(err)
	}
	a.deny(t, "x")
	for b.mono <= testConfig.MaxAge {
		b.pass(10 * time.Second)
		a.pass(10 * time.Second)
		a.turn()
		b.turn()
		b.mustDeny(t, "the file cannot be written", "x")
	}
	if !errors.Is(b.Usable(), ErrKeysStale) || slices.Contains(b.kids(), stolen) {
		t.Errorf("Usable = %v, published %v", b.Usable(), b.kids())
	}
	wantError(t, b.Err(), "generation 2 of the key set does not count as confirmed", "state.seen")
	if _, err := b.denies(t, "x"); err == nil {
		t.Error("the list of denials is fresh")
	}
	if err := os.Rename(away, filepath.Dir(s.seen)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b.pass(10 * time.Second)
		b.turn()
	}
	if err := errors.Join(b.Usable(), b.Err(), b.Denials().Err()); err != nil {
		t.Error(err)
	}
	again, err := restarted(t, store, s, b.wall)
	if err != nil || slices.Contains(again.kids(), stolen) {
		t.Errorf("%v, %v", again.kids(), err)
	}
}
