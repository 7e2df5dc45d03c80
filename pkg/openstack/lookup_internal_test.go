package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
)

// nova answers each call after a time, and counts the calls.
type nova struct {
	takes  time.Duration
	deaf   bool // ignores the end of the context
	answer func(attest.InstanceID) (attest.Instance, error)

	mu                       sync.Mutex
	calls, now, most, gaveUp int
}

func (n *nova) ask(ctx context.Context, id attest.InstanceID) (attest.Instance, error) {
	n.mu.Lock()
	n.calls++
	n.now++
	n.most = max(n.most, n.now)
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.now--
	}()
	if n.deaf {
		ctx = context.WithoutCancel(ctx)
	}
	select {
	case <-time.After(n.takes):
	case <-ctx.Done():
		n.mu.Lock()
		defer n.mu.Unlock()
		n.gaveUp++
		return attest.Instance{}, ctx.Err()
	}
	if n.answer != nil {
		return n.answer(id)
	}
	return attest.Instance{ID: id, Created: time.Now()}, nil
}

func (n *nova) counts() (calls, most, gaveUp int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.calls, n.most, n.gaveUp
}

func (n *nova) expect(t *testing.T, calls, gaveUp int) {
	t.Helper()
	if c, _, g := n.counts(); c != calls || g != gaveUp {
		t.Errorf("there were %d calls, of which %d were canceled, want %d and %d", c, g, calls, gaveUp)
	}
}

func server(t *testing.T, n int) attest.InstanceID {
	t.Helper()
	id := attesttest.ID(t, fmt.Sprintf("00000000-0000-4000-8000-%012d", n))
	return id
}

func caller(n int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}) }

// inBubble runs a test in fake time, and closes the lookups at its end.
func inBubble(t *testing.T, n *nova, concurrent int, test func(t *testing.T, l *lookups)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLookups(n.ask, Plan{timeout: 3 * time.Second, maxConcurrent: concurrent}, time.Now)
		defer func() {
			l.close()
			if l.inFlight() != 0 || len(l.flights) != 0 {
				t.Errorf("at the end %d lookups of %d instances are in flight", l.inFlight(), len(l.flights))
			}
		}()
		test(t, l)
	})
}

// pass lets time go by in a bubble.
func pass(d time.Duration) { <-time.After(d) }

// proven asks as a proven caller, and returns the error.
func proven(t *testing.T, l *lookups, id attest.InstanceID) error {
	t.Helper()
	in, err := l.get(t.Context(), id, netip.Addr{})
	if err == nil && in.ID != id {
		t.Errorf("asked for %s, got %s", id, in.ID)
	}
	return err
}

// patient asks and returns the error. impatient leaves after a time.
func patient(t *testing.T, l *lookups, id attest.InstanceID, who int) error {
	t.Helper()
	in, err := l.get(t.Context(), id, caller(who))
	if err == nil && in.ID != id {
		t.Errorf("asked for %s, got %s", id, in.ID)
	}
	return err
}

func impatient(t *testing.T, l *lookups, id attest.InstanceID, who int, leaves time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), leaves)
	defer cancel()
	if _, err := l.get(ctx, id, caller(who)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the caller that left got %v", err)
	}
}

func TestConcurrentLookupsOfOneInstanceShareACall(t *testing.T) {
	n := &nova{takes: time.Second}
	inBubble(t, n, 64, func(t *testing.T, l *lookups) {
		var asking sync.WaitGroup
		for i := range 100 {
			asking.Go(func() {
				if err := patient(t, l, server(t, 1), i); err != nil {
					t.Errorf("caller %d: %v", i, err)
				}
			})
		}
		synctest.Wait()
		if got := l.inFlight(); got != 1 {
			t.Errorf("%d lookups are in flight, want 1", got)
		}
		asking.Wait()
		n.expect(t, 1, 0)
	})
}

func TestCallerThatLeavesFailsNoOther(t *testing.T) {
	n := &nova{takes: time.Second}
	inBubble(t, n, 64, func(t *testing.T, l *lookups) {
		var asking sync.WaitGroup
		asking.Go(func() { impatient(t, l, server(t, 1), 0, 500*time.Millisecond) }) // starts the call
		synctest.Wait()
		for i := range 99 {
			asking.Go(func() {
				if i%3 == 0 {
					impatient(t, l, server(t, 1), i, time.Duration(i)*time.Millisecond)
				} else if err := patient(t, l, server(t, 1), i); err != nil {
					t.Errorf("caller %d: %v", i, err)
				}
			})
		}
		asking.Wait()
		n.expect(t, 1, 0)
	})
}

func TestCallIsCanceledWhenAllCallersHaveLeft(t *testing.T) {
	n := &nova{takes: time.Second}
	inBubble(t, n, 64, func(t *testing.T, l *lookups) {
		var asking sync.WaitGroup
		for i := range 10 {
			asking.Go(func() { impatient(t, l, server(t, 1), i, 500*time.Millisecond) })
		}
		asking.Wait()
		// At the same moment, before the call has ended.
		if err := patient(t, l, server(t, 1), 0); err != nil {
			t.Errorf("a new caller got %v", err)
		}
		n.expect(t, 2, 1)
	})
}

// A new caller starts its own call, even while the canceled one continues.
func TestNewCallerDoesNotJoinACanceledCall(t *testing.T) {
	n := &nova{takes: time.Second, deaf: true}
	inBubble(t, n, 64, func(t *testing.T, l *lookups) {
		impatient(t, l, server(t, 1), 0, 900*time.Millisecond)
		began := time.Now()
		in, err := l.get(t.Context(), server(t, 1), caller(0))
		if err != nil || in.Created.Before(began.Add(time.Second)) {
			t.Errorf("the new caller got the record of %v, %v; it came at %v", in.Created, err, began)
		}
		n.expect(t, 2, 0)
	})
}

// A record may be two seconds old, so a new caller joins no older flight.
func TestNewCallerDoesNotJoinAnOldCall(t *testing.T) {
	n := &nova{takes: 2500 * time.Millisecond}
	inBubble(t, n, 64, func(t *testing.T, l *lookups) {
		var asking sync.WaitGroup
		for i, after := range []time.Duration{0, 1999 * time.Millisecond, 2 * time.Second} {
			asking.Go(func() {
				pass(after)
				if err := patient(t, l, server(t, 1), i); err != nil {
					t.Errorf("caller %d: %v", i, err)
				}
			})
		}
		asking.Wait()
		n.expect(t, 2, 0)
		// The record of the second flight is two seconds old, too.
		if err := proven(t, l, server(t, 1)); err != nil {
			t.Error(err)
		}
		n.expect(t, 3, 0)
	})
}

func TestOneAddressHasEightLookupsInFlight(t *testing.T) {
	n := &nova{takes: time.Second}
	inBubble(t, n, 64, func(t *testing.T, l *lookups) {
		var asking sync.WaitGroup
		find := func(id, who int) {
			asking.Go(func() {
				if err := patient(t, l, server(t, id), who); err != nil {
					t.Errorf("instance %d, caller %d: %v", id, who, err)
				}
			})
		}
		for id := range perCaller {
			find(id, 1)
		}
		synctest.Wait()
		for id := range 100 {
			if err := patient(t, l, server(t, 10+id), 1); !errors.Is(err, attest.ErrTooManyLookups) {
				t.Errorf("lookup %d of one address = %v, want ErrTooManyLookups", perCaller+1+id, err)
			}
		}
		n.expect(t, perCaller, 0)
		find(9, 2) // another address
		synctest.Wait()
		find(9, 1) // joins the other's
		find(0, 1) // joins its own
		asking.Wait()
		n.expect(t, perCaller+1, 0)
		for id := range perCaller {
			find(20+id, 1) // once they are done
		}
		asking.Wait()
		n.expect(t, 2*perCaller+1, 0)
	})
}

// An address that leaves at once gets no more calls than one that waits.
func TestLeavingDoesNotFreeALookup(t *testing.T) {
	n := &nova{takes: time.Second, deaf: true}
	inBubble(t, n, 64, func(t *testing.T, l *lookups) {
		refused := 0
		for id := range 100 {
			ctx, hangUp := context.WithCancel(t.Context())
			answered := make(chan error, 1)
			go func() {
				_, err := l.get(ctx, server(t, id), caller(1))
				answered <- err
			}()
			synctest.Wait()
			hangUp()
			if errors.Is(<-answered, attest.ErrTooManyLookups) {
				refused++
			}
		}
		if calls, _, _ := n.counts(); calls != perCaller || refused != 100-perCaller {
			t.Errorf("there were %d calls and %d refusals, want %d and %d", calls, refused, perCaller, 100-perCaller)
		}
	})
}

func TestCallsInFlightAreBounded(t *testing.T) {
	t.Run("waiting callers get an answer", func(t *testing.T) {
		n := &nova{takes: 900 * time.Millisecond}
		inBubble(t, n, 6, func(t *testing.T, l *lookups) { // one of them is reserved
			var asking sync.WaitGroup
			for i := range 15 {
				asking.Go(func() {
					if err := patient(t, l, server(t, i), i); err != nil {
						t.Errorf("caller %d: %v", i, err)
					}
				})
			}
			asking.Wait()
			if calls, most, _ := n.counts(); most != 5 || calls != 15 {
				t.Errorf("there were %d calls, at most %d at a time, want all, 5 at a time", calls, most)
			}
		})
	})
	t.Run("callers that wait too long get an error", func(t *testing.T) {
		n := &nova{takes: time.Hour, deaf: true}
		inBubble(t, n, 6, func(t *testing.T, l *lookups) { // one of them is reserved
			began := time.Now()
			var asking sync.WaitGroup
			var told atomic.Int64
			for i := range 50 {
				asking.Go(func() {
					err := patient(t, l, server(t, i), i)
					if err == nil || errors.Is(err, attest.ErrNoInstance) || errors.Is(err, attest.ErrTooManyLookups) {
						t.Errorf("caller %d got %v, want a failure", i, err)
					} else if strings.Contains(err.Error(), "the limit of 5 calls to nova in flight was reached") {
						told.Add(1)
					}
				})
			}
			asking.Wait()
			if took := time.Since(began); took > 3*time.Second+lateness {
				t.Errorf("it took %v, want 3s", took)
			}
			if calls, _, _ := n.counts(); calls != 5 || told.Load() != 45 {
				t.Errorf("there were %d calls, and %d callers reached the limit, want 5 and 45", calls, told.Load())
			}
		})
	})
}

func TestLookupEndsAtItsTimeout(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		n := &nova{takes: 10 * time.Second, deaf: deaf}
		inBubble(t, n, 64, func(t *testing.T, l *lookups) {
			began := time.Now()
			err := patient(t, l, server(t, 1), 1)
			if err == nil || errors.Is(err, attest.ErrNoInstance) {
				t.Errorf("a call that does not end returned %v", err)
			}
			if took := time.Since(began); took > 3*time.Second+lateness {
				t.Errorf("it took %v, want 3s; the call ends with its context: %t", took, !deaf)
			}
		})
	}
}

func TestAnswersToProvenCallersAreCached(t *testing.T) {
	var answer error
	n := &nova{takes: 500 * time.Millisecond}
	n.answer = func(id attest.InstanceID) (attest.Instance, error) { return attest.Instance{ID: id}, answer }
	inBubble(t, n, 64, func(t *testing.T, l *lookups) {
		calls := 0
		// step asks after a time, and expects an error and as many more calls.
		step := func(after time.Duration, want error, more int) {
			t.Helper()
			pass(after)
			if err := proven(t, l, server(t, 1)); !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
			calls += more
			n.expect(t, calls, 0)
		}
		broken := errors.New("broken")
		step(0, nil, 1)
		step(1499*time.Millisecond, nil, 0) // 1.999 s from the call's start
		answer = attest.ErrNoInstance
		step(time.Millisecond, attest.ErrNoInstance, 1)
		step(499*time.Millisecond, attest.ErrNoInstance, 0)
		answer = broken
		step(time.Millisecond, broken, 1)
		step(0, broken, 1)
		answer = nil
		step(0, nil, 1)
		answer = broken
		step(0, nil, 0)
		step(1500*time.Millisecond, broken, 1)
	})
}

func TestLaterAnswerReplacesTheEarlier(t *testing.T) {
	answer := attest.ErrNoInstance
	n := &nova{}
	n.answer = func(id attest.InstanceID) (attest.Instance, error) { return attest.Instance{ID: id}, answer }
	inBubble(t, n, 64, func(t *testing.T, l *lookups) {
		id := server(t, 1)
		if err := proven(t, l, id); !errors.Is(err, attest.ErrNoInstance) {
			t.Fatal(err)
		}
		pass(unknownFor)
		answer = nil
		if err := proven(t, l, id); err != nil {
			t.Fatal(err)
		}
		if _, kept := l.unknown.get(id, time.Now().Add(-unknownFor)); kept {
			t.Error("an instance that was found is still cached as unknown")
		}
		pass(freshFor)
		answer = attest.ErrNoInstance
		if err := proven(t, l, id); !errors.Is(err, attest.ErrNoInstance) {
			t.Fatal(err)
		}
		if _, kept := l.found.get(id, time.Now().Add(-freshFor)); kept {
			t.Error("a deleted instance is still cached as found")
		}
	})
}

// Flights that were replaced by newer ones are canceled, too.
func TestCloseCancelsAllCalls(t *testing.T) {
	n := &nova{takes: time.Hour}
	synctest.Test(t, func(t *testing.T) {
		l := newLookups(n.ask, Plan{timeout: time.Minute, maxConcurrent: 64}, time.Now)
		var asking sync.WaitGroup
		for i := range 10 {
			asking.Go(func() {
				if err := patient(t, l, server(t, i/2), i); err == nil {
					t.Error("a canceled call returned a record")
				}
			})
			if i%2 == 0 {
				pass(freshFor) // the next caller starts a flight
			}
		}
		synctest.Wait()
		began := time.Now()
		l.close()
		if took := time.Since(began); took != 0 {
			t.Errorf("close took %v", took)
		}
		asking.Wait()
		if _, err := l.get(t.Context(), server(t, 99), caller(1)); !errors.Is(err, errClosed) {
			t.Errorf("after close, get = %v", err)
		}
		n.expect(t, 10, 10)
	})
}

// Unproven callers that ask for many instances cannot keep proven ones out, also of an instance that an unproven caller
// asked for first.
func TestPartOfTheCallsIsReservedForProvenCallers(t *testing.T) {
	n := &nova{takes: time.Second}
	inBubble(t, n, 8, func(t *testing.T, l *lookups) {
		var asking sync.WaitGroup
		for i := range 20 {
			asking.Go(func() { impatient(t, l, server(t, i), i, 500*time.Millisecond) })
		}
		synctest.Wait()
		if calls, most, _ := n.counts(); calls != 6 || most != 6 {
			t.Errorf("unproven callers make %d calls, %d at a time, want 6 of 8", calls, most)
		}
		accepted := func(id attest.InstanceID) {
			if in, err := l.get(t.Context(), id, netip.Addr{}); err != nil || in.ID != id {
				t.Errorf("a proven caller got %v, %v", in.ID, err)
			}
		}
		began := time.Now()
		asking.Go(func() { accepted(server(t, 100)) })
		asking.Go(func() { accepted(server(t, 19)) }) // for which an unproven caller waits
		asking.Wait()
		if took := time.Since(began); took != time.Second {
			t.Errorf("proven callers waited %v, want 1s", took)
		}
	})
}

// An attacker with many addresses delays an instance of another network by one call at most, and makes none fail. Nova
// answers in 0.2 s.
func TestAttackerDelaysOthersByOneCall(t *testing.T) {
	v6 := func(subnet, host int) netip.Addr {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 0, byte(subnet >> 8), byte(subnet), 14: byte(host >> 8), 15: byte(host)})
	}
	for _, tt := range []struct {
		name      string
		addresses int
		address   func(int) netip.Addr
	}{
		{"a /64", 200, func(i int) netip.Addr { return v6(1, i) }},
		{"a /48", 200, func(i int) netip.Addr { return v6(i, 1) }},
		{"fifty IPv4 addresses next to each other", 50, func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, 0, byte(i)}) }},
		{"fifty IPv4 addresses all over", 50, func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, byte(i), 7}) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if testing.Short() && tt.addresses > 50 {
				t.Skip("takes seconds")
			}
			n := &nova{takes: 200 * time.Millisecond}
			inBubble(t, n, 64, func(t *testing.T, l *lookups) {
				ctx, end := context.WithCancel(t.Context())
				var attack sync.WaitGroup
				for i := range tt.addresses {
					for k := range perCaller {
						attack.Go(func() {
							for id := 1_000_000*(k+1) + 1000*i; ctx.Err() == nil; id++ {
								if _, err := l.get(ctx, server(t, id), tt.address(i)); errors.Is(err, attest.ErrTooManyLookups) {
									pass(50 * time.Millisecond)
								}
							}
						})
					}
				}
				pass(2 * time.Second)
				for who := range 20 {
					began := time.Now()
					if err := patient(t, l, server(t, who), 0x100*(100+who)); err != nil {
						t.Errorf("an instance of another network: %v", err)
					}
					if took := time.Since(began); took > 2*n.takes {
						t.Errorf("an instance of another network waited %v, its own call took %v", took, n.takes)
					}
					pass(30 * time.Millisecond)
				}
				end()
				attack.Wait()
			})
		})
	}
}

// Instances of a subnet share a /64, and boot at the same time.
func TestInstancesOfOneSubnetBootTogether(t *testing.T) {
	n := &nova{takes: 200 * time.Millisecond}
	inBubble(t, n, 64, func(t *testing.T, l *lookups) {
		var asking sync.WaitGroup
		for i := range 300 {
			asking.Go(func() {
				at := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(i >> 8), 15: byte(i)})
				if _, err := l.get(t.Context(), server(t, i), at); err != nil {
					t.Errorf("instance %d: %v", i, err)
				}
			})
		}
		asking.Wait()
	})
}

func TestProvenCallersHaveNoLimitByAddress(t *testing.T) {
	n := &nova{takes: time.Second}
	inBubble(t, n, 64, func(t *testing.T, l *lookups) {
		var asking sync.WaitGroup
		for i := range 3 * perCaller {
			asking.Go(func() {
				if _, err := l.get(t.Context(), server(t, i), netip.Addr{}); err != nil {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		asking.Wait()
	})
}

// For a config drive Nova asks five times, one after the other, and waits a second for each answer. A proven caller that
// left finds the answer when it retries.
func TestRetriesForAConfigDriveFindTheAnswer(t *testing.T) {
	n := &nova{takes: 1500 * time.Millisecond}
	inBubble(t, n, 64, func(t *testing.T, l *lookups) {
		var answered int
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := l.get(ctx, server(t, 1), netip.Addr{}); err == nil {
				answered++
			}
			cancel()
		}
		if answered != 4 {
			t.Errorf("%d of five requests were answered, want all but the first", answered)
		}
		n.expect(t, 1, 0)
	})
}

// hurried asks as a proven caller that has 1.5 s, and retries later.
func hurried(t *testing.T, l *lookups, id attest.InstanceID) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	in, err := l.get(ctx, id, netip.Addr{})
	if err == nil && in.ID != id {
		t.Errorf("asked for %s, got %s", id, in.ID)
	}
	return err
}

// A caller that left at its deadline finds the record of its call when it retries, however long the call took.
func TestRetryFindsTheRecordOfALateCall(t *testing.T) {
	n := &nova{takes: 2900 * time.Millisecond}
	inBubble(t, n, 64, func(t *testing.T, l *lookups) {
		if err := hurried(t, l, server(t, 1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("at the deadline: %v", err)
		}
		pass(time.Second)
		if err := hurried(t, l, server(t, 1)); err != nil { // 2.5 s after the call began
			t.Errorf("while the call goes on: %v", err)
		}
		pass(retryFor - time.Millisecond)
		if err := hurried(t, l, server(t, 1)); err != nil {
			t.Errorf("after the call: %v", err)
		}
		n.expect(t, 1, 0)
		pass(time.Millisecond)
		if err := hurried(t, l, server(t, 1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("when the record is too old: %v", err)
		}
		n.expect(t, 2, 0)
	})
}

// The record of a late call is only for a caller that comes back: other callers get one that is two seconds old at most.
func TestLateRecordsAreForRetries(t *testing.T) {
	n := &nova{takes: 2900 * time.Millisecond}
	inBubble(t, n, 64, func(t *testing.T, l *lookups) {
		_ = hurried(t, l, server(t, 1))
		pass(time.Second)
		began := time.Now()
		in, err := l.get(t.Context(), server(t, 1), netip.Addr{})
		if err != nil || in.Created.Before(began.Add(n.takes)) {
			t.Errorf("a caller that waits got the record of %v, %v; it came at %v", in.Created, err, began)
		}
		n.expect(t, 2, 0)
		if err := proven(t, l, server(t, 1)); err != nil {
			t.Error(err)
		}
		n.expect(t, 3, 0)
	})
	// A new caller joins a call of this age only if a caller with a deadline has left it.
	n = &nova{takes: 2900 * time.Millisecond}
	inBubble(t, n, 64, func(t *testing.T, l *lookups) {
		var asking sync.WaitGroup
		asking.Go(func() { _ = proven(t, l, server(t, 1)) })
		pass(freshFor)
		_ = hurried(t, l, server(t, 1))
		asking.Wait()
		n.expect(t, 2, 0)
	})
}

// A newer answer replaces the record of a late call.
func TestNewerAnswerReplacesALateRecord(t *testing.T) {
	for name, answer := range map[string]error{"found": nil, "not found": attest.ErrNoInstance} {
		t.Run(name, func(t *testing.T) {
			var said error
			n := &nova{takes: 2900 * time.Millisecond}
			n.answer = func(id attest.InstanceID) (attest.Instance, error) {
				return attest.Instance{ID: id, Created: time.Now()}, said
			}
			inBubble(t, n, 64, func(t *testing.T, l *lookups) {
				_ = hurried(t, l, server(t, 1))
				pass(1500 * time.Millisecond) // the record is there
				synctest.Wait()
				n.takes, said = time.Millisecond, answer
				want := time.Now().Add(time.Millisecond)
				if err := proven(t, l, server(t, 1)); !errors.Is(err, answer) {
					t.Fatal(err)
				}
				n.expect(t, 2, 0)
				in, err := l.get(t.Context(), server(t, 1), netip.Addr{})
				if !errors.Is(err, answer) || err == nil && !in.Created.Equal(want) {
					t.Errorf("%v, %v", in.Created, err)
				}
				pass(freshFor)
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if in, err := l.get(ctx, server(t, 1), netip.Addr{}); err == nil && in.Created.Before(began) {
					t.Errorf("an older record is found again: %v", in.Created)
				}
			})
		})
	}
}

// A proven caller that leaves keeps its place in the queue: its retry must not wait as long again.
func TestProvenCallersThatLeaveKeepTheirPlace(t *testing.T) {
	n := &nova{takes: 1900 * time.Millisecond}
	inBubble(t, n, 1, func(t *testing.T, l *lookups) {
		var asking sync.WaitGroup
		asking.Go(func() { _ = proven(t, l, server(t, 1)) })
		synctest.Wait()
		began := time.Now()
		if err := hurried(t, l, server(t, 2)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		pass(time.Second) // its call began at 1.9 s
		if err := hurried(t, l, server(t, 2)); err != nil || time.Since(began) != 2*n.takes {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		asking.Wait()
		n.expect(t, 2, 0)
	})
}

// Lookups that go on without a caller are bounded in number and in time.
func TestLookupsWithoutCallersAreBounded(t *testing.T) {
	n := &nova{takes: time.Hour}
	inBubble(t, n, 2, func(t *testing.T, l *lookups) {
		var asking sync.WaitGroup
		var turnedAway atomic.Int64
		for i := range 3 * lookupQueue {
			asking.Go(func() {
				if err := hurried(t, l, server(t, i)); !errors.Is(err, context.DeadlineExceeded) {
					turnedAway.Add(1)
				}
			})
		}
		asking.Wait()
		if got := l.inFlight(); got != lookupQueue+2 || turnedAway.Load() != 2*lookupQueue-2 {
			t.Errorf("%d lookups go on, and %d callers were turned away", got, turnedAway.Load())
		}
		pass(6 * time.Second)
		if got := l.inFlight(); got != 0 {
			t.Errorf("%d lookups go on", got)
		}
	})
}
