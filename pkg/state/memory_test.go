package state_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

func TestMemory(t *testing.T) {
	statetest.Run(t, func(_ *testing.T, clock *statetest.Clock) state.Store {
		return &state.Memory{Size: 1000, Now: clock.Now}
	})
}

func TestFullMemoryRefusesNewCounts(t *testing.T) {
	clock := statetest.NewClock()
	m := &state.Memory{Size: 10, Now: clock.Now}
	for i := range 10 {
		if _, err := m.Increment(t.Context(), fmt.Sprint(i), clock.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Increment(t.Context(), "one too many", clock.Now().Add(time.Minute)); !errors.Is(err, state.ErrFull) {
		t.Errorf("Increment of an eleventh key = %v, want ErrFull", err)
	}
	if n, err := m.Increment(t.Context(), "3", clock.Now().Add(time.Minute)); n != 2 || err != nil {
		t.Errorf("Increment of a key that is kept = %d, %v, want 2", n, err)
	}
	clock.Advance(time.Minute)
	if _, err := m.Increment(t.Context(), "after the others", clock.Now().Add(time.Minute)); err != nil {
		t.Errorf("Increment once the others have expired = %v", err)
	}
}

// The cost of an attempt must not grow with the number of counts.
func BenchmarkMemoryIncrement(b *testing.B) {
	for _, kept := range []int{100, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("%d kept", kept), func(b *testing.B) {
			clock := statetest.NewClock()
			m := &state.Memory{Size: 2 * kept, Now: clock.Now}
			expires := clock.Now().Add(time.Hour)
			for i := range kept {
				if _, err := m.Increment(b.Context(), fmt.Sprint(i), expires.Add(time.Duration(i))); err != nil {
					b.Fatal(err)
				}
			}
			for i := 0; b.Loop(); i++ {
				if _, err := m.Increment(b.Context(), fmt.Sprint(i%kept), expires); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
