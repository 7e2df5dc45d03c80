package keyring

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

func TestSeenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.seen")
	open := func(issuer string) *Seen {
		t.Helper()
		s, err := OpenSeen(path, issuer)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	want := func(s *Seen, kind string, generation uint64, names ...string) {
		t.Helper()
		if got, ok := s.last(kind); got.Generation != generation || ok != (generation > 0) || !slices.Equal(got.Names, names) {
			t.Errorf("%s: generation %d (%v) of %q, want %d of %q", kind, got.Generation, ok, got.Names, generation, names)
		}
	}
	note := func(s *Seen, kind string, generation uint64, names ...string) {
		t.Helper()
		if err := s.note(kind, generation, names, nil); err != nil {
			t.Fatal(err)
		}
	}
	s := open(testIssuer)
	want(s, keysKind, 0)
	note(s, keysKind, 3, "a", "b")
	note(s, denialsKind, 1, "x")
	note(s, keysKind, 2, "c") // an older one
	other := open("https://other.example.com")
	want(other, keysKind, 0)
	note(other, keysKind, 7)

	// Another process of the same server, as a command is.
	again := open(testIssuer)
	want(again, keysKind, 3, "a", "b")
	note(again, keysKind, 9, "d")
	note(s, denialsKind, 2, "x", "y")
	last := open(testIssuer)
	want(last, keysKind, 9, "d")
	want(last, denialsKind, 2, "x", "y")
	want(open("https://other.example.com"), keysKind, 7)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".seen-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// A damaged file does not count as a missing one.
func TestADamagedSeenFileIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.seen")
	s, err := OpenSeen(path, testIssuer)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.note(keysKind, 3, []string{"a"}, nil); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"empty":             {},
		"cut off":           good[:len(good)/2],
		"null":              []byte("null"),
		"of another kind":   []byte("[]"),
		"no version":        []byte(strings.Replace(string(good), `"version":1`, `"version":0`, 1)),
		"an unknown member": []byte(strings.Replace(string(good), `"version":1`, `"version":1,"x":1`, 1)),
		"something behind":  append(slices.Clone(good), "{}"...),
		"a newer version":   []byte(strings.Replace(string(good), `"version":1`, `"version":2`, 1)),
		"zeros":             make([]byte, len(good)),
		"too long":          append(slices.Clone(good), strings.Repeat(" ", maxSeenFile)+"{}"...),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenSeen(path, testIssuer)
		if name == "a newer version" {
			wantError(t, err, path, "newer release")
			continue
		}
		if err == nil {
			t.Errorf("%s: it counts as missing", name)
			continue
		}
		wantError(t, err, path, "damaged", "remove the file", "keys init --accept")
		if err := s.note(keysKind, 4, nil, nil); err == nil {
			t.Errorf("%s: it is written over", name)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.note(keysKind, 4, nil, nil); err != nil {
		t.Error(err)
	}
}

// A crash here is a kill -9 after the state file advanced and before the file of what the
// server has seen was written.
func TestARestoredCopyIsRefused(t *testing.T) {
	dir := t.TempDir()
	path, seenPath := filepath.Join(dir, "state.db"), filepath.Join(dir, "state.db.seen")
	start := func(accept bool) (*state.File, *Seen, error) {
		t.Helper()
		f, err := state.OpenFile(state.FileConfig{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		seen, err := OpenSeen(seenPath, testIssuer)
		if err != nil {
			t.Fatal(err)
		}
		return f, seen, seen.Admit(t.Context(), f, accept)
	}
	stop := func(f *state.File) {
		t.Helper()
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	good := func() *state.File {
		t.Helper()
		f, _, err := start(false)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	stop(good())
	stop(good())
	offline, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, seen, err := start(false)
	if err != nil {
		t.Fatal(err)
	}
	saved := filepath.Join(dir, "copy.db")
	w, err := os.Create(saved)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Save(w), w.Close(), seen.Advance(t.Context(), f)); err != nil {
		t.Fatal(err)
	}
	stop(f)
	online, err := os.ReadFile(saved)
	if err != nil {
		t.Fatal(err)
	}
	current, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"copied while no server ran": offline, "saved while it ran": online, "a new file": nil} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if data != nil {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 { // a refused start changes nothing
			f, _, err := start(false)
			if !errors.Is(err, errOlder) {
				t.Errorf("%s: %v", name, err)
			} else {
				wantError(t, err, "state accept")
			}
			stop(f)
		}
	}
	if err := os.WriteFile(path, current, 0o600); err != nil {
		t.Fatal(err)
	}
	stop(good())

	// After such a crash at a start, the server does not refuse its own state.
	for range 5 {
		f, err := state.OpenFile(state.FileConfig{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Advance(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		stop(f)
	}
	stop(good())

	if err := os.WriteFile(path, offline, 0o600); err != nil {
		t.Fatal(err)
	}
	f, _, err = start(true)
	if err != nil {
		t.Fatal(err)
	}
	stop(f)
	stop(good())
}

// Accept lists what was revoked and denied since the copy was made.
func TestAcceptListsWhatACopyLacks(t *testing.T) {
	store := newStore()
	s := setup{unloaded: true, seen: filepath.Join(t.TempDir(), "state.db.seen")}
	r := begin(t, store, s)
	r.deny(t, "before")
	keys, denials := r.value(), get(t, store, denialsKind)
	stolen := r.signs()
	if err := r.Revoke(t.Context(), stolen); err != nil {
		t.Fatal(err)
	}
	r.deny(t, "since")
	set(t, store, keysKind, keys)
	set(t, store, denialsKind, denials)

	again, err := restarted(t, store, s, r.wall.Add(time.Hour))
	if !errors.Is(err, errOlder) {
		t.Fatalf("a restored copy: %v", err)
	}
	wantError(t, err, "state accept")
	if _, err := again.denies(t, "since"); !errors.Is(err, errOlder) {
		t.Errorf("the list of denials: %v", err)
	}
	accepted, err := again.Accept(t.Context())
	if err != nil || len(accepted) != 2 {
		t.Fatalf("Accept = %+v, %v", accepted, err)
	}
	if a := accepted[0]; a.Value != "key set" || a.Generation != 1 || a.Seen != 2 || !slices.Contains(a.Returned, stolen) || slices.Contains(a.Missing, stolen) {
		t.Errorf("the key set: %+v", a)
	}
	if a := accepted[1]; a.Generation != 2 || a.Seen != 3 || !slices.Equal(a.Missing, []string{"since"}) || len(a.Returned) != 0 {
		t.Errorf("the list of denials: %+v", a)
	}
	if slices.Contains(kidsOf(again.KeySet()), stolen) {
		t.Error("the key that this server knew to be revoked is published")
	}
	// The accepted copy is the newest now, also for servers that saw the other one. What this
	// server knew as revoked is revoked.
	if last, err := restarted(t, store, s, r.wall.Add(2*time.Hour)); err != nil || slices.Contains(last.kids(), stolen) {
		t.Errorf("%v, %v", last.kids(), err)
	}
	// The replica that revoked the key removes it from the state again.
	r.turn()
	again.turn()
	if slices.Contains(r.kids(), stolen) || !slices.Equal(r.kids(), again.kids()) {
		t.Errorf("%v and %v are published", r.kids(), again.kids())
	}
}

func kidsOf(p *KeySet) (all []string) {
	for _, k := range p.Keys() {
		all = append(all, k.ID())
	}
	return all
}

// A server that revoked a key starts with a key set of a higher generation, from a replica
// that did not know of the revocation.
func TestAServerRemembersWhatItRevoked(t *testing.T) {
	store, s := newStore(), server(t)
	a := begin(t, store, s)
	b := otherServer(t, store, s)
	for range 2 { // the current one, and its successor
		stolen, old := a.signs(), get(t, store, keysKind)
		if err := a.Revoke(t.Context(), stolen); err != nil {
			t.Fatal(err)
		}
		set(t, store, keysKind, old)
		for range 3 {
			b.WillIssue(time.Duration(b.life.Load()) + time.Minute)
			b.turn()
		}
		again, err := restarted(t, store, s, a.wall)
		if err != nil || again.Usable() != nil || slices.Contains(again.kids(), stolen) || slices.Contains(kidsOf(again.KeySet()), stolen) {
			t.Errorf("%v; %v are published", err, again.kids())
		}
		b.turn()
		if slices.Contains(b.kids(), stolen) || !slices.Equal(b.kids(), again.kids()) {
			t.Errorf("%v and %v are published", again.kids(), b.kids())
		}
		a = again
	}
}

// If a state lost a value that this server has seen, the server does not make another one.
func TestALostValueIsNotMadeAnew(t *testing.T) {
	for _, kind := range []string{keysKind, denialsKind} {
		store := newStore()
		s := setup{seen: filepath.Join(t.TempDir(), "state.db.seen")}
		r := newReplica(t, store, s)
		set(t, store, kind, nil)
		if _, err := restarted(t, store, s, r.wall); !errors.Is(err, errOlder) {
			t.Errorf("%s: %v", kind, err)
		}
		if get(t, store, kind) != nil {
			t.Errorf("%s: another one was made", kind)
		}
	}
}
