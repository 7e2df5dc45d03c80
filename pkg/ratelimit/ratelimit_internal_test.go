package ratelimit

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestLimiterLetsABurstThroughAndThenTheRate(t *testing.T) {
	l := New[string](Limit{2, 3}, 10)
	for i := range 3 {
		if _, ok := l.Allow("a", start); !ok {
			t.Errorf("request %d of the burst was not allowed", i+1)
		}
	}
	wait, ok := l.Allow("a", start)
	if ok || wait != 500*time.Millisecond {
		t.Errorf("Allow after the burst = %v, %v, want a wait of 500ms", wait, ok)
	}
	if _, ok := l.Allow("b", start); !ok {
		t.Error("another key was not allowed")
	}
	if _, ok := l.Allow("a", start.Add(499*time.Millisecond)); ok {
		t.Error("allowed before the wait was over")
	}
	if _, ok := l.Allow("a", start.Add(wait)); !ok {
		t.Error("not allowed after the wait")
	}
}

func TestLimiterIsBounded(t *testing.T) {
	l := New[string](Limit{1, 1}, 100)
	l.Allow("victim", start)
	for i := range 1000 {
		l.Allow(fmt.Sprint(i), start)
		if _, ok := l.Allow("victim", start); ok {
			t.Fatalf("after %d other keys a key in use had a full bucket again", i+1)
		}
	}
	if n := len(l.byKey); n != 100 {
		t.Errorf("%d buckets are kept, want 100", n)
	}
}

func TestAddressesLimitASubnetToo(t *testing.T) {
	a := NewAddresses(Limit{1, 1}, 1000)
	subnet := netip.MustParseAddr("2001:db8::").As16()
	addr := func(i int) netip.Addr {
		b := subnet
		b[14], b[15] = byte(i>>8), byte(i)
		return netip.AddrFrom16(b)
	}
	allowed := 0
	for i := range 200 {
		if _, ok := a.Allow(addr(i), start); ok {
			allowed++
		}
	}
	if allowed != 64 {
		t.Errorf("%d addresses of one /64 were allowed at once, want 64", allowed)
	}
	if _, ok := a.Allow(netip.MustParseAddr("2001:db8:0:1::1"), start); !ok {
		t.Error("an address of another /64 was not allowed")
	}
	for i := range 200 {
		if _, ok := a.Allow(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), start); !ok {
			t.Fatalf("IPv4 address %d was limited with its neighbors", i)
		}
	}
}

func TestParseRate(t *testing.T) {
	for _, r := range []Rate{{0, 1}, {-1, 1}, {1, 0}, {1, -5}, {1, 1 << 21}} {
		if l, err := r.Parse(); err == nil || l != (Limit{}) {
			t.Errorf("%+v is accepted", r)
		}
	}
	if l, err := (Rate{Rate: 0.1, Burst: 1}).Parse(); err != nil || l != (Limit{0.1, 1}) {
		t.Errorf("one request in ten seconds: %v, %v", l, err)
	}
	if l := Within(120, time.Minute); l != (Limit{2, 120}) {
		t.Errorf("120 requests in a minute: %v", l)
	}
}

func BenchmarkLimiter(b *testing.B) {
	for _, kept := range []int{100, 65536} {
		b.Run(fmt.Sprintf("%d kept", kept), func(b *testing.B) {
			l := New[int](Limit{1, 1}, kept)
			for i := 0; b.Loop(); i++ {
				l.Allow(i%(2*kept), start)
			}
		})
	}
}
