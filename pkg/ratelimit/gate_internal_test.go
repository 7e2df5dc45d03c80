package ratelimit

import (
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// order removes all entries in their order.
func order(f *fair[string]) []string {
	var all []string
	for e := f.next(); e != nil; e = f.next() {
		all = append(all, e.value)
	}
	return all
}

func TestFairTakesTurns(t *testing.T) {
	for _, tt := range []struct {
		name string
		add  []string // address
		want []string
	}{
		{"one address keeps its order", []string{"192.0.2.1", "192.0.2.1", "192.0.2.1"}, []string{"0", "1", "2"}},
		{"two addresses of a network", []string{"192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"}, []string{"0", "3", "1", "2"}},
		{"a network of many addresses has one turn", []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.1"}, []string{"0", "3", "1", "2"}},
		{"a /64 of many addresses has one turn in its /48", []string{"2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"}, []string{"0", "3", "1", "2"}},
		{"a /48 of many /64 has one turn", []string{"2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:0:3::1", "2001:db8:1::1"}, []string{"0", "3", "1", "2"}},
		{"IPv4 and IPv6", []string{"192.0.2.1", "192.0.2.1", "2001:db8::1"}, []string{"0", "2", "1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFair[string]()
			for i, a := range tt.add {
				f.add(ip(a), fmt.Sprint(i))
			}
			if f.len() != len(tt.add) {
				t.Errorf("len = %d", f.len())
			}
			if got := order(f); !slices.Equal(got, tt.want) {
				t.Errorf("order %v, want %v", got, tt.want)
			}
			if f.len() != 0 {
				t.Errorf("len = %d after all were taken", f.len())
			}
		})
	}
}

// A network without entries before is next, however many networks have entries. A network
// that always has one entry is not treated so again.
func TestFairServesANewNetworkNext(t *testing.T) {
	f := newFair[string]()
	for n := range 50 {
		for range 10 {
			f.add(netip.AddrFrom4([4]byte{198, 18, byte(n), 1}), "attacker")
		}
	}
	for range 73 {
		f.next()
	}
	f.add(ip("203.0.113.7"), "victim")
	if next := f.next().value; next != "victim" {
		t.Errorf("served next: %s", next)
	}

	// A client that always has one entry in the queue must not go before others.
	f = newFair[string]()
	for range 20 {
		f.add(ip("198.51.100.1"), "patient")
		f.add(ip("192.0.2.1"), "patient")
	}
	f.add(ip("203.0.113.7"), "eager")
	served := map[string]int{}
	for range 20 {
		e := f.next()
		served[e.value]++
		if e.value == "eager" {
			f.add(ip("203.0.113.7"), "eager")
		}
	}
	if served["eager"] > 7 {
		t.Errorf("served of 20: %v", served)
	}
}

func TestFairNewNetworksDoNotStarveOthers(t *testing.T) {
	f := newFair[string]()
	for range 10 {
		f.add(ip("203.0.113.7"), "waiting")
	}
	f.next()
	waiting := 0
	for n := range 100 {
		f.add(netip.AddrFrom4([4]byte{198, 18, byte(n), 1}), "new")
		f.add(netip.AddrFrom4([4]byte{198, 19, byte(n), 1}), "new")
		if f.next().value == "waiting" {
			waiting++
		}
	}
	if waiting < 3 {
		t.Errorf("of 100 turns, %d were of the client that waits", waiting)
	}
}

func TestFairCrowded(t *testing.T) {
	f := newFair[string]()
	if f.crowded() != nil {
		t.Error("crowded of an empty queue is not nil")
	}
	f.add(ip("203.0.113.7"), "alone")
	for i := range 3 {
		f.add(ip("2001:db8:0:1::1"), fmt.Sprint("one ", i))
	}
	for i := range 5 {
		f.add(ip(fmt.Sprintf("2001:db8:0:2::%d", 1+i%2)), fmt.Sprint("two ", i))
	}
	for _, want := range []string{"two", "two", "two", "one", "two", "one", "two"} {
		e := f.crowded()
		if !strings.HasPrefix(e.value, want) {
			t.Fatalf("crowded: %s, want %s", e.value, want)
		}
		f.remove(e)
		f.remove(e)
	}
	if f.len() != 2 { // one of each
		t.Errorf("%d are left", f.len())
	}
}

// After any additions and removals the number is right, each entry is returned once, and
// the crowded one is of a network with the most entries.
func FuzzFair(f *testing.F) {
	f.Add([]byte{1, 2, 3, 200, 4, 250, 250, 250})
	f.Fuzz(func(t *testing.T, ops []byte) {
		q := newFair[int]()
		in := map[int]*entry[int]{}
		network := map[int]byte{}
		for i, op := range ops {
			switch {
			case op < 160:
				in[i] = q.add(netip.AddrFrom16([16]byte{0x20, 1, 0, 0, 0, op & 3, 0, op >> 2 & 3, 15: op >> 4 & 7}), i)
				network[i] = op & 3
			case op < 200:
				for k, e := range in {
					q.remove(e)
					delete(in, k)
					break
				}
			default:
				if e := q.next(); e != nil {
					if in[e.value] != e {
						t.Fatalf("next returned %d, which is not in the queue", e.value)
					}
					delete(in, e.value)
				} else if len(in) > 0 {
					t.Fatal("next returned nothing")
				}
			}
			if q.len() != len(in) {
				t.Fatalf("len = %d, want %d", q.len(), len(in))
			}
			of := map[byte]int{}
			for k := range in {
				of[network[k]]++
			}
			if e := q.crowded(); e != nil {
				for _, n := range of {
					if n > of[network[e.value]] {
						t.Fatalf("crowded is one of a network of %d, and another has %d", of[network[e.value]], n)
					}
				}
			}
		}
	})
}

func TestCounts(t *testing.T) {
	c := newCounts(2)
	take := func(a string, want bool) {
		t.Helper()
		if got := c.take(ip(a)); got != want {
			t.Errorf("Take(%s) = %v", a, got)
		}
	}
	take("192.0.2.1", true)
	take("192.0.2.1", true)
	take("192.0.2.1", false)
	take("192.0.2.2", true)
	c.give(ip("192.0.2.1"))
	take("192.0.2.1", true)

	address := func(i int64) netip.Addr {
		n := ip("2001:db8::").As16()
		sum := new(big.Int).Add(new(big.Int).SetBytes(n[:]), big.NewInt(i)).FillBytes(make([]byte, 16))
		return netip.AddrFrom16([16]byte(sum))
	}
	for i := range int64(2 * SubnetShare) {
		if !c.take(address(i)) {
			t.Fatalf("address %d of the /64 may not take one", i)
		}
	}
	if c.take(address(1000)) {
		t.Error("a /64 has more than its share")
	}
	take("2001:db8:0:1::1", true)
	c.give(address(0))
	if !c.take(address(1000)) {
		t.Error("take after give = false")
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestGate(t *testing.T) {
	g := NewGate(GateConfig{All: 4, Open: 3, Each: 5, Waiting: 4})
	enter := func(a string) *Ticket {
		t.Helper()
		var client netip.Addr
		if a != "" {
			client = ip(a)
		}
		ticket, err := g.Enter(client)
		if err != nil {
			t.Fatalf("%s: %v", a, err)
		}
		return ticket
	}
	var inside []*Ticket
	for range 3 {
		inside = append(inside, enter("192.0.2.1"))
	}
	waits := enter("192.0.2.1")
	if isClosed(waits.Admitted()) {
		t.Error("a client has a place of proven callers")
	}
	if proven := enter(""); !isClosed(proven.Admitted()) {
		t.Error("a proven caller waits")
	} else {
		proven.Leave()
	}
	enter("192.0.2.1")
	if _, err := g.Enter(ip("192.0.2.1")); !errors.Is(err, ErrCrowded) {
		t.Errorf("more tickets than one client may have: %v", err)
	}
	other := enter("198.51.100.7")
	if isClosed(other.Admitted()) {
		t.Error("there was no room")
	}
	inside[0].Leave()
	inside[0].Leave()
	if !isClosed(other.Admitted()) && !isClosed(waits.Admitted()) {
		t.Error("Leave admitted no ticket")
	}
	inside[1].Leave()
	if !isClosed(other.Admitted()) {
		t.Error("the second Leave did not admit the other client")
	}
}

// When too many wait, a client of the network with the most loses its place, and not the
// last one to arrive.
func TestGateDisplacesAClientOfTheLargestNetwork(t *testing.T) {
	g := NewGate(GateConfig{All: 1, Open: 1, Each: 10, Waiting: 3})
	var crowd []*Ticket
	for i := range 4 {
		ticket, err := g.Enter(ip(fmt.Sprintf("192.0.2.%d", i+1)))
		if err != nil {
			t.Fatal(err)
		}
		crowd = append(crowd, ticket)
	}
	if _, err := g.Enter(ip("192.0.2.9")); !errors.Is(err, ErrCrowded) {
		t.Errorf("one more client of the largest network: %v", err)
	}
	victim, err := g.Enter(ip("203.0.113.7"))
	if err != nil {
		t.Fatal(err)
	}
	displaced := 0
	for _, ticket := range crowd {
		if isClosed(ticket.Displaced()) {
			displaced++
		}
	}
	if displaced != 1 || isClosed(victim.Displaced()) {
		t.Errorf("%d of the largest network were displaced", displaced)
	}
	crowd[0].Leave()
	if !isClosed(victim.Admitted()) && !isClosed(crowd[1].Admitted()) {
		t.Error("Leave admitted no ticket")
	}
}
