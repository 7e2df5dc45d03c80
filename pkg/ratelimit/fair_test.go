package ratelimit_test

import (
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// order takes all out.
func order(f *ratelimit.Fair[string]) []string {
	var all []string
	for e := f.Next(); e != nil; e = f.Next() {
		all = append(all, e.Value)
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
			f := ratelimit.NewFair[string]()
			for i, a := range tt.add {
				f.Add(ip(a), fmt.Sprint(i))
			}
			if f.Len() != len(tt.add) {
				t.Errorf("Len = %d", f.Len())
			}
			if got := order(f); !slices.Equal(got, tt.want) {
				t.Errorf("order %v, want %v", got, tt.want)
			}
			if f.Len() != 0 {
				t.Errorf("Len = %d after all were taken", f.Len())
			}
		})
	}
}

// A newcomer is served next, however many networks have things in the queue, and a
// network that goes and comes back is no newcomer.
func TestFairServesANewcomerNext(t *testing.T) {
	f := ratelimit.NewFair[string]()
	for n := range 50 {
		for range 10 {
			f.Add(netip.AddrFrom4([4]byte{198, 18, byte(n), 1}), "attacker")
		}
	}
	for range 73 {
		f.Next()
	}
	f.Add(ip("203.0.113.7"), "victim")
	if next := f.Next().Value; next != "victim" {
		t.Errorf("served next: %s", next)
	}

	// One that always has one thing in the queue must not be served before others.
	f = ratelimit.NewFair[string]()
	for range 20 {
		f.Add(ip("198.51.100.1"), "patient")
		f.Add(ip("192.0.2.1"), "patient")
	}
	f.Add(ip("203.0.113.7"), "eager")
	served := map[string]int{}
	for range 20 {
		e := f.Next()
		served[e.Value]++
		if e.Value == "eager" {
			f.Add(ip("203.0.113.7"), "eager")
		}
	}
	if served["eager"] > 7 {
		t.Errorf("served of 20: %v", served)
	}
}

// Networks that are always new do not starve those that wait.
func TestFairNewcomersDoNotStarveOthers(t *testing.T) {
	f := ratelimit.NewFair[string]()
	for range 10 {
		f.Add(ip("203.0.113.7"), "waiting")
	}
	f.Next()
	waiting := 0
	for n := range 100 {
		f.Add(netip.AddrFrom4([4]byte{198, 18, byte(n), 1}), "new")
		f.Add(netip.AddrFrom4([4]byte{198, 19, byte(n), 1}), "new")
		if f.Next().Value == "waiting" {
			waiting++
		}
	}
	if waiting < 3 {
		t.Errorf("of 100 turns, %d were of the one that waits", waiting)
	}
}

func TestFairCrowded(t *testing.T) {
	f := ratelimit.NewFair[string]()
	if f.Crowded() != nil {
		t.Error("an empty one is crowded")
	}
	f.Add(ip("203.0.113.7"), "alone")
	for i := range 3 {
		f.Add(ip("2001:db8:0:1::1"), fmt.Sprint("one ", i))
	}
	for i := range 5 {
		f.Add(ip(fmt.Sprintf("2001:db8:0:2::%d", 1+i%2)), fmt.Sprint("two ", i))
	}
	for _, want := range []string{"two", "two", "two", "one", "two", "one", "two"} {
		e := f.Crowded()
		if !strings.HasPrefix(e.Value, want) {
			t.Fatalf("crowded: %s, want %s", e.Value, want)
		}
		f.Remove(e)
		f.Remove(e)
	}
	if f.Len() != 2 { // one of each
		t.Errorf("%d are left", f.Len())
	}
}

// Whatever is added and removed, in whatever order: the number is right, each thing
// comes out once, and the crowded one is of a network that no other exceeds.
func FuzzFair(f *testing.F) {
	f.Add([]byte{1, 2, 3, 200, 4, 250, 250, 250})
	f.Fuzz(func(t *testing.T, ops []byte) {
		fair := ratelimit.NewFair[int]()
		in := map[int]*ratelimit.Entry[int]{}
		network := map[int]byte{}
		for i, op := range ops {
			switch {
			case op < 160:
				in[i] = fair.Add(netip.AddrFrom16([16]byte{0x20, 1, 0, 0, 0, op & 3, 0, op >> 2 & 3, 15: op >> 4 & 7}), i)
				network[i] = op & 3
			case op < 200:
				for k, e := range in {
					fair.Remove(e)
					delete(in, k)
					break
				}
			default:
				if e := fair.Next(); e != nil {
					if in[e.Value] != e {
						t.Fatalf("%d came out, which is not in", e.Value)
					}
					delete(in, e.Value)
				} else if len(in) > 0 {
					t.Fatal("nothing came out")
				}
			}
			if fair.Len() != len(in) {
				t.Fatalf("Len = %d, want %d", fair.Len(), len(in))
			}
			of := map[byte]int{}
			for k := range in {
				of[network[k]]++
			}
			if e := fair.Crowded(); e != nil {
				for _, n := range of {
					if n > of[network[e.Value]] {
						t.Fatalf("crowded is one of a network of %d, and another has %d", of[network[e.Value]], n)
					}
				}
			}
		}
	})
}

func TestCounts(t *testing.T) {
	c := ratelimit.NewCounts(2)
	take := func(a string, want bool) {
		t.Helper()
		if got := c.Take(ip(a)); got != want {
			t.Errorf("Take(%s) = %v", a, got)
		}
	}
	take("192.0.2.1", true)
	take("192.0.2.1", true)
	take("192.0.2.1", false)
	take("192.0.2.2", true)
	c.Give(ip("192.0.2.1"))
	take("192.0.2.1", true)

	address := func(i int64) netip.Addr {
		n := ip("2001:db8::").As16()
		sum := new(big.Int).Add(new(big.Int).SetBytes(n[:]), big.NewInt(i)).FillBytes(make([]byte, 16))
		return netip.AddrFrom16([16]byte(sum))
	}
	for i := range int64(2 * ratelimit.SubnetShare) {
		if !c.Take(address(i)) {
			t.Fatalf("address %d of the /64 may hold none", i)
		}
	}
	if c.Take(address(1000)) {
		t.Error("a /64 holds more than its share")
	}
	take("2001:db8:0:1::1", true)
	c.Give(address(0))
	if !c.Take(address(1000)) {
		t.Error("what was given back cannot be taken")
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
	g := ratelimit.NewGate(ratelimit.GateConfig{All: 4, Open: 3, Each: 5, Waiting: 4})
	enter := func(a string) *ratelimit.Ticket {
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
	var inside []*ratelimit.Ticket
	for range 3 {
		inside = append(inside, enter("192.0.2.1"))
	}
	waits := enter("192.0.2.1")
	if isClosed(waits.Admitted()) {
		t.Error("clients have the share of proven callers")
	}
	if proven := enter(""); !isClosed(proven.Admitted()) {
		t.Error("a proven caller waits")
	} else {
		proven.Leave()
	}
	enter("192.0.2.1")
	if _, err := g.Enter(ip("192.0.2.1")); !errors.Is(err, ratelimit.ErrCrowded) {
		t.Errorf("more than one client may have: %v", err)
	}
	other := enter("198.51.100.7")
	if isClosed(other.Admitted()) {
		t.Error("there was no room")
	}
	inside[0].Leave()
	inside[0].Leave()
	if !isClosed(other.Admitted()) && !isClosed(waits.Admitted()) {
		t.Error("nobody was let in")
	}
	inside[1].Leave()
	if !isClosed(other.Admitted()) {
		t.Error("the other client was not let in by the second who left")
	}
}

// When too many wait, the most crowded network loses one, not who comes last.
func TestGateDisplacesTheCrowd(t *testing.T) {
	g := ratelimit.NewGate(ratelimit.GateConfig{All: 1, Open: 1, Each: 10, Waiting: 3})
	var crowd []*ratelimit.Ticket
	for i := range 4 {
		ticket, err := g.Enter(ip(fmt.Sprintf("192.0.2.%d", i+1)))
		if err != nil {
			t.Fatal(err)
		}
		crowd = append(crowd, ticket)
	}
	if _, err := g.Enter(ip("192.0.2.9")); !errors.Is(err, ratelimit.ErrCrowded) {
		t.Errorf("one more of the crowd: %v", err)
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
		t.Errorf("%d of the crowd were displaced", displaced)
	}
	crowd[0].Leave()
	if !isClosed(victim.Admitted()) && !isClosed(crowd[1].Admitted()) {
		t.Error("nobody was let in")
	}
}
