// Package statetest specifies state.Store by tests ([Run]), and runs servers for tests
// ([StartRedis]).
package statetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

// Clock is a clock that a test advances; see [NewClock].
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that starts at the current second.
func NewClock() *Clock { return &Clock{now: time.Now().Truncate(time.Second)} }

// Now returns the time of the clock.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance advances the clock.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Run tests a store. open returns an empty store that uses clock.
func Run(t *testing.T, open func(t *testing.T, clock *Clock) state.Store) {
	const callers, calls = 64, 50

	start := func(t *testing.T) (state.Store, *Clock) {
		t.Helper()
		clock := NewClock()
		s := open(t, clock)
		t.Cleanup(func() { _ = s.Close() })
		return s, clock
	}

	t.Run("a key that was never incremented counts zero", func(t *testing.T) {
		s, _ := start(t)
		wantCount(t, s, "k", 0)
	})

	t.Run("each key has its count", func(t *testing.T) {
		s, clock := start(t)
		later := clock.Now().Add(time.Minute)
		increment(t, s, "a", later, 1)
		increment(t, s, "a", later, 2)
		increment(t, s, "b", later, 1)
		wantCount(t, s, "a", 2)
		wantCount(t, s, "b", 1)
	})

	t.Run("a count ends when it expires, not before", func(t *testing.T) {
		s, clock := start(t)
		increment(t, s, "k", clock.Now().Add(10*time.Second), 1)
		clock.Advance(9 * time.Second)
		wantCount(t, s, "k", 1)
		increment(t, s, "k", clock.Now().Add(time.Second), 2)
		clock.Advance(time.Second)
		wantCount(t, s, "k", 0)
		increment(t, s, "k", clock.Now().Add(time.Second), 1)
	})

	t.Run("the latest expiry applies", func(t *testing.T) {
		s, clock := start(t)
		increment(t, s, "k", clock.Now().Add(10*time.Second), 1)
		increment(t, s, "k", clock.Now().Add(5*time.Second), 2)
		clock.Advance(9 * time.Second)
		wantCount(t, s, "k", 2)
		increment(t, s, "k", clock.Now().Add(10*time.Second), 3)
		clock.Advance(9 * time.Second)
		wantCount(t, s, "k", 3)
	})

	t.Run("a count cannot begin in the past", func(t *testing.T) {
		s, clock := start(t)
		if n, err := s.Increment(t.Context(), "k", clock.Now()); err == nil {
			t.Errorf("Increment that expires now = %d, want an error", n)
		}
		wantCount(t, s, "k", 0)
	})

	t.Run("no two calls get the same number", func(t *testing.T) {
		s, clock := start(t)
		later := clock.Now().Add(time.Hour)
		got := make([][]int64, callers)
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				for range calls {
					n, err := s.Increment(t.Context(), "k", later)
					if err != nil {
						t.Error(err)
						return
					}
					got[i] = append(got[i], n)
				}
			})
		}
		wg.Wait()
		all := slices.Concat(got...)
		slices.Sort(all)
		want := make([]int64, callers*calls)
		for i := range want {
			want[i] = int64(i + 1)
		}
		if diff := cmp.Diff(want, all); diff != "" {
			t.Errorf("the numbers given (-want +got):\n%s", diff)
		}
	})

	t.Run("the next call gets the lowest number that was given back", func(t *testing.T) {
		s, clock := start(t)
		later := clock.Now().Add(time.Minute)
		for n := range int64(4) {
			increment(t, s, "k", later, n+1)
		}
		for _, step := range []struct{ back, count, next int64 }{
			{4, 3, 4}, // the highest
			{2, 3, 2}, // one of the others
			{5, 4, 5}, // one that is not in use
			{0, 5, 6}, {-1, 6, 7},
		} {
			giveBack(t, s, "k", step.back)
			wantCount(t, s, "k", step.count)
			increment(t, s, "k", later, step.next)
		}
		for _, n := range []int64{3, 1, 3, 1} { // the second time has no effect
			giveBack(t, s, "k", n)
		}
		wantCount(t, s, "k", 5)
		wantScan(t, s, "", map[string]string{"k": "5"})
		increment(t, s, "k", later, 1)
		increment(t, s, "k", later, 3)
		increment(t, s, "k", later, 8)
		for _, n := range []int64{8, 2, 7, 5, 1, 4, 6, 3} {
			giveBack(t, s, "k", n)
		}
		wantCount(t, s, "k", 0)
		wantScan(t, s, "", map[string]string{}) // the count is gone
		increment(t, s, "k", later, 1)
		giveBack(t, s, "none", 1)
		wantCount(t, s, "none", 0)
	})

	t.Run("GiveBack does not change the expiry", func(t *testing.T) {
		s, clock := start(t)
		increment(t, s, "k", clock.Now().Add(10*time.Second), 1)
		increment(t, s, "k", clock.Now().Add(10*time.Second), 2)
		clock.Advance(9 * time.Second)
		giveBack(t, s, "k", 1)
		wantCount(t, s, "k", 1)
		clock.Advance(time.Second)
		wantCount(t, s, "k", 0)
		giveBack(t, s, "k", 2) // of a count that has expired
		increment(t, s, "k", clock.Now().Add(time.Minute), 1)
		wantCount(t, s, "k", 1)
	})

	t.Run("concurrent callers keep different numbers, and no number is lost", func(t *testing.T) {
		s, clock := start(t)
		later := clock.Now().Add(time.Hour)
		const limit = 20
		var mu sync.Mutex
		kept := map[int64]bool{}
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				for j := range 20 {
					n, err := s.Increment(t.Context(), "k", later)
					if err != nil {
						t.Error(err)
						return
					}
					if n <= limit && (i+j)%3 == 0 {
						mu.Lock()
						if kept[n] {
							t.Errorf("%d was kept twice", n)
						}
						kept[n] = true
						mu.Unlock()
					} else if err := s.GiveBack(t.Context(), "k", n); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		wantCount(t, s, "k", int64(len(kept)))
		for n := range int64(limit) {
			if !kept[n+1] {
				increment(t, s, "k", later, n+1)
			}
		}
		increment(t, s, "k", later, limit+1)
	})

	t.Run("an expiry after MaxLife is refused", func(t *testing.T) {
		s, clock := start(t)
		for _, end := range []time.Time{clock.Now().Add(state.MaxLife + time.Hour), time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(292277026596, 1, 1, 0, 0, 0, 0, time.UTC)} {
			if n, err := s.Increment(t.Context(), "k", end); err == nil {
				t.Errorf("Increment until %v = %d", end, n)
			}
			if err := s.Put(t.Context(), "k", []byte("v"), end); err == nil {
				t.Errorf("Put until %v gave no error", end)
			}
		}
		wantCount(t, s, "k", 0)
		wantValue(t, s, nil)
		increment(t, s, "k", clock.Now().Add(state.MaxLife), 1)
		put(t, s, "k", "v", clock.Now().Add(state.MaxLife))
		clock.Advance(state.MaxLife - time.Hour)
		wantCount(t, s, "k", 1)
		wantValue(t, s, []byte("v"))
		clock.Advance(time.Hour)
		wantCount(t, s, "k", 0)
		wantValue(t, s, nil)
	})

	t.Run("expired counts make room", func(t *testing.T) {
		s, clock := start(t)
		for i := range 1000 {
			increment(t, s, fmt.Sprint("old", i), clock.Now().Add(time.Second), 1)
		}
		clock.Advance(time.Minute)
		for i := range 1000 {
			increment(t, s, fmt.Sprint("new", i), clock.Now().Add(time.Second), 1)
		}
		wantCount(t, s, "old1", 0)
		wantCount(t, s, "new1", 1)
	})

	t.Run("Get returns what Update has set", func(t *testing.T) {
		s, _ := start(t)
		wantValue(t, s, nil)
		update(t, s, func(old []byte) []byte {
			if old != nil {
				t.Errorf("the first old value = %q, want nil", old)
			}
			return []byte("one")
		})
		wantValue(t, s, []byte("one"))
		update(t, s, func(old []byte) []byte { return append(old, " two"...) })
		wantValue(t, s, []byte("one two"))
		update(t, s, func([]byte) []byte { return nil })
		wantValue(t, s, nil)
	})

	t.Run("an error of change changes nothing", func(t *testing.T) {
		s, _ := start(t)
		update(t, s, func([]byte) []byte { return []byte("kept") })
		refuse := errors.New("refused")
		err := s.Update(t.Context(), "k", func([]byte) ([]byte, error) { return []byte("lost"), refuse })
		if !errors.Is(err, refuse) {
			t.Errorf("Update = %v, want the error of change", err)
		}
		wantValue(t, s, []byte("kept"))
	})

	t.Run("a caller can change its copy of a value", func(t *testing.T) {
		s, _ := start(t)
		given := []byte("value")
		update(t, s, func([]byte) []byte { return given })
		given[0] = 'X'
		got, err := s.Get(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		got[1] = 'X'
		wantValue(t, s, []byte("value"))
	})

	t.Run("concurrent updates are not lost", func(t *testing.T) {
		s, _ := start(t)
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				err := s.Update(t.Context(), "k", func(old []byte) ([]byte, error) {
					n, _ := strconv.Atoi(string(old))
					return []byte(strconv.Itoa(n + 1)), nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		wantValue(t, s, []byte(strconv.Itoa(callers)))
	})

	t.Run("a count and a value can have the same key", func(t *testing.T) {
		s, clock := start(t)
		increment(t, s, "k", clock.Now().Add(time.Minute), 1)
		wantValue(t, s, nil)
		update(t, s, func([]byte) []byte { return []byte("7") })
		increment(t, s, "k", clock.Now().Add(time.Minute), 2)
	})

	t.Run("a value ends when it expires, not before", func(t *testing.T) {
		s, clock := start(t)
		put(t, s, "k", "kept", clock.Now().Add(10*time.Second))
		clock.Advance(9 * time.Second)
		wantValue(t, s, []byte("kept"))
		clock.Advance(time.Second)
		wantValue(t, s, nil)
		update(t, s, func(old []byte) []byte {
			if old != nil {
				t.Errorf("the old value after its expiry = %q, want nil", old)
			}
			return []byte("new")
		})
		wantValue(t, s, []byte("new"))
	})

	t.Run("a new value has its own expiry", func(t *testing.T) {
		s, clock := start(t)
		put(t, s, "k", "a", clock.Now().Add(10*time.Second))
		put(t, s, "k", "b", clock.Now().Add(time.Hour))
		clock.Advance(time.Minute)
		wantValue(t, s, []byte("b"))
		put(t, s, "k", "c", clock.Now().Add(time.Second))
		clock.Advance(time.Second)
		wantValue(t, s, nil)
		put(t, s, "k", "d", clock.Now().Add(time.Second))
		put(t, s, "k", "e", time.Time{})
		clock.Advance(time.Hour)
		wantValue(t, s, []byte("e"))
		put(t, s, "k", "f", clock.Now().Add(time.Second))
		update(t, s, func(old []byte) []byte { return append(old, " for ever"...) })
		clock.Advance(time.Hour)
		wantValue(t, s, []byte("f for ever"))
		if err := s.Put(t.Context(), "k", []byte("g"), clock.Now()); err == nil {
			t.Error("Put of a value that expires now gave no error")
		}
	})

	t.Run("a value that is too long is refused", func(t *testing.T) {
		s, _ := start(t)
		long := make([]byte, 2<<20+1)
		put(t, s, "k", string(long[1:]), time.Time{})
		if err := s.Put(t.Context(), "k", long, time.Time{}); err == nil {
			t.Error("Put of a long value gave no error")
		}
		if err := s.Update(t.Context(), "k", func([]byte) ([]byte, error) { return long, nil }); err == nil {
			t.Error("Update to a long value gave no error")
		}
		if v, err := s.Get(t.Context(), "k"); !bytes.Equal(v, long[1:]) || err != nil {
			t.Errorf("Get of the longest value gave %d bytes, %v", len(v), err)
		}
	})

	t.Run("an empty value is a value", func(t *testing.T) {
		s, _ := start(t)
		put(t, s, "k", "", time.Time{})
		wantValue(t, s, []byte{})
		update(t, s, func(old []byte) []byte {
			if old == nil {
				t.Error("the old value = nil, want an empty one")
			}
			return nil
		})
		wantValue(t, s, nil)
	})

	t.Run("Forget removes the count and the value of one key", func(t *testing.T) {
		s, clock := start(t)
		for _, key := range []string{"k", "kk"} {
			increment(t, s, key, clock.Now().Add(time.Minute), 1)
			put(t, s, key, key, clock.Now().Add(time.Minute))
		}
		for range 2 {
			if err := s.Forget(t.Context(), "k"); err != nil {
				t.Error(err)
			}
		}
		wantCount(t, s, "k", 0)
		wantValue(t, s, nil)
		wantScan(t, s, "", map[string]string{"kk": "1", "value kk": "kk"})
		increment(t, s, "k", clock.Now().Add(time.Second), 1)
	})

	t.Run("Scan shows the entries with the prefix that have not expired", func(t *testing.T) {
		s, clock := start(t)
		for i := range 300 {
			increment(t, s, fmt.Sprint("b/", i), clock.Now().Add(time.Second), 1)
		}
		increment(t, s, "a/1", clock.Now().Add(time.Minute), 1)
		increment(t, s, "a/1", clock.Now().Add(time.Minute), 2)
		increment(t, s, "a/2", clock.Now().Add(time.Second), 1)
		increment(t, s, "a", clock.Now().Add(time.Minute), 1)
		increment(t, s, "a*", clock.Now().Add(time.Minute), 1)
		put(t, s, "a/3", "v", clock.Now().Add(time.Minute))
		put(t, s, "a/4", "w", clock.Now().Add(time.Second))
		put(t, s, "a/5", "x", time.Time{})
		clock.Advance(time.Second)
		wantScan(t, s, "a/", map[string]string{"a/1": "2", "value a/3": "v", "value a/5": "x"})
		wantScan(t, s, "a*", map[string]string{"a*": "1"})
		wantScan(t, s, "none", map[string]string{})
		calls := 0
		if err := s.Scan(t.Context(), "a", func(e state.Entry) bool {
			calls++
			if want := clock.Now().Add(59 * time.Second); e.Key != "a/5" && !e.Expires.Equal(want) {
				t.Errorf("%s expires at %v, want %v", e.Key, e.Expires, want)
			} else if e.Key == "a/5" && !e.Expires.IsZero() {
				t.Errorf("%s expires at %v, want never", e.Key, e.Expires)
			}
			return false
		}); err != nil || calls != 1 {
			t.Errorf("Scan called a visit that returned false %d times, %v", calls, err)
		}
	})

	t.Run("calls of a closed store fail", func(t *testing.T) {
		s, clock := start(t)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Count(t.Context(), "k"); err == nil {
			t.Error("Count of a closed store gave no error")
		}
		if _, err := s.Increment(t.Context(), "k", clock.Now().Add(time.Minute)); err == nil {
			t.Error("Increment of a closed store gave no error")
		}
		if err := s.GiveBack(t.Context(), "k", 1); err == nil {
			t.Error("GiveBack to a closed store gave no error")
		}
		if _, err := s.Get(t.Context(), "k"); err == nil {
			t.Error("Get of a closed store gave no error")
		}
		if err := s.Update(t.Context(), "k", func(b []byte) ([]byte, error) { return b, nil }); err == nil {
			t.Error("Update of a closed store gave no error")
		}
		if err := s.Put(t.Context(), "k", []byte("v"), time.Time{}); err == nil {
			t.Error("Put of a closed store gave no error")
		}
		if err := s.Forget(t.Context(), "k"); err == nil {
			t.Error("Forget of a closed store gave no error")
		}
		if err := s.Scan(t.Context(), "", func(state.Entry) bool { return true }); err == nil {
			t.Error("Scan of a closed store gave no error")
		}
	})
}

func wantCount(t *testing.T, s state.Store, key string, want int64) {
	t.Helper()
	if n, err := s.Count(t.Context(), key); err != nil || n != want {
		t.Errorf("Count(%s) = %d, %v, want %d", key, n, err, want)
	}
}

func increment(t *testing.T, s state.Store, key string, expires time.Time, want int64) {
	t.Helper()
	if n, err := s.Increment(t.Context(), key, expires); err != nil || n != want {
		t.Errorf("Increment(%s) = %d, %v, want %d", key, n, err, want)
	}
}

func giveBack(t *testing.T, s state.Store, key string, n int64) {
	t.Helper()
	if err := s.GiveBack(t.Context(), key, n); err != nil {
		t.Errorf("GiveBack(%s, %d) = %v", key, n, err)
	}
}

func update(t *testing.T, s state.Store, change func([]byte) []byte) {
	t.Helper()
	if err := s.Update(t.Context(), "k", func(old []byte) ([]byte, error) { return change(old), nil }); err != nil {
		t.Errorf("Update = %v", err)
	}
}

func wantValue(t *testing.T, s state.Store, want []byte) {
	t.Helper()
	got, err := s.Get(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the value (-want +got):\n%s", diff)
	}
}

func put(t *testing.T, s state.Store, key, value string, expires time.Time) {
	t.Helper()
	if err := s.Put(t.Context(), key, []byte(value), expires); err != nil {
		t.Errorf("Put(%s) = %v", key, err)
	}
}

// wantScan compares counts by their key, values by "value " and their key.
func wantScan(t *testing.T, s state.Store, prefix string, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	err := s.Scan(t.Context(), prefix, func(e state.Entry) bool {
		if e.Value != nil {
			got["value "+e.Key] = string(e.Value)
		} else {
			got[e.Key] = strconv.FormatInt(e.Count, 10)
		}
		return true
	})
	if err != nil {
		t.Errorf("Scan(%s) = %v", prefix, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Scan(%s) (-want +got):\n%s", prefix, diff)
	}
}
