package state_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

// After any calls, a File has the same entries as a Memory, and each of its pages is found
// valid, both by later calls and by the next start.
func TestFileEqualsMemory(t *testing.T) {
	const rounds, steps = 12, 250
	clock := statetest.NewClock()
	path := filepath.Join(statetest.Dir(t), "state.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: damagePage})
	if err != nil {
		t.Fatal(err)
	}
	_ = db.Close()
	memory := &state.Memory{Now: clock.Now}
	d := &dice{n: 1}
	ctx := t.Context()
	for round := range rounds {
		f, err := state.OpenFile(state.FileConfig{Path: path, Now: clock.Now})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		crowd := 20 + 400*(round%3) // grows, and shrinks again
		for step := range steps {
			key := fmt.Sprintf("attempts/%04d", d.roll(crowd))
			ends := clock.Now().Add(time.Duration(1+d.roll(300)) * time.Second)
			value := []byte(strings.Repeat("v", d.roll(1+d.roll(5000))))
			n := int64(d.roll(4))
			both := func(call func(state.Store) string) {
				t.Helper()
				if diff := cmp.Diff(call(memory), call(f)); diff != "" {
					t.Fatalf("round %d, step %d (-memory +file):\n%s", round, step, diff)
				}
			}
			switch d.roll(8) {
			default:
				both(func(s state.Store) string { n, err := s.Increment(ctx, key, ends); return fmt.Sprint(n, err) })
			case 3:
				both(func(s state.Store) string { return fmt.Sprint(s.GiveBack(ctx, key, n)) })
			case 4:
				both(func(s state.Store) string { return fmt.Sprint(s.Put(ctx, key, value, ends)) })
			case 5:
				both(func(s state.Store) string {
					return fmt.Sprint(s.Update(ctx, key, func(old []byte) ([]byte, error) {
						if len(old) > 2000 {
							return nil, nil
						}
						return append(old, value...), nil
					}))
				})
			case 6:
				both(func(s state.Store) string { return fmt.Sprint(s.Forget(ctx, key)) })
			case 7:
				both(func(s state.Store) string {
					n, err := s.Count(ctx, key)
					v, getErr := s.Get(ctx, key)
					return fmt.Sprint(n, err, len(v), getErr)
				})
			}
			clock.Advance(time.Duration(d.roll(1500)) * time.Millisecond)
		}
		if diff := cmp.Diff(all(t, memory), all(t, f)); diff != "" {
			t.Fatalf("round %d (-memory +file):\n%s", round, diff)
		}
		saved, err := os.Create(filepath.Join(t.TempDir(), "saved"))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Save(saved); err != nil {
			t.Fatal(err)
		}
		if err := state.VerifyFile(saved); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		_ = saved.Close()
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if round%4 == 3 { // all has expired
			clock.Advance(time.Hour)
		}
	}
}

// all returns the entries that Scan shows.
func all(t *testing.T, s state.Store) map[string]string {
	t.Helper()
	got := map[string]string{}
	if err := s.Scan(t.Context(), "", func(e state.Entry) bool {
		kind := "count "
		if e.Value != nil {
			kind = "value "
		}
		got[kind+e.Key] = fmt.Sprintf("%d %s %s", e.Count, e.Value, e.Expires.UTC().Format(time.RFC3339Nano))
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return got
}
