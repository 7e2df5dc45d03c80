package listen

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
)

// An attacker takes all connections that it can get, and continues while other clients
// connect. The other clients get and keep their connections.
func TestLimiterKeepsTheConnectionsOfOtherClients(t *testing.T) {
	const most = 256
	for name, attacker := range map[string]func(i int) string{
		"one address":           func(int) string { return "2001:db8:6:6::66" },
		"eight of a /64":        func(i int) string { return fmt.Sprintf("2001:db8:6:6::%x", i%8) },
		"a /64":                 func(i int) string { return fmt.Sprintf("2001:db8:6:6::%x", i) },
		"a /48":                 func(i int) string { return fmt.Sprintf("2001:db8:6:%x::%x", i%5000, i) },
		"fifty IPv4 addresses":  func(i int) string { return fmt.Sprintf("203.0.%d.1", i%50) },
		"both families, a mix":  func(i int) string { return []string{"203.0.113.1", fmt.Sprintf("2001:db8:6:6::%x", i)}[i%2] },
		"a /24":                 func(i int) string { return fmt.Sprintf("203.0.113.%d", i%256) },
		"fifty /64s of one /48": func(i int) string { return fmt.Sprintf("2001:db8:6:%x::1", i%50) },
	} {
		for _, state := range []int32{waiting, idle, handled} {
			t.Run(fmt.Sprintf("%s, state %d", name, state), func(t *testing.T) {
				never := func(netip.Addr) bool { return false }
				c := newLimiter(most, most/partOfOne, never, never, func(string) {})
				cut := map[*member]bool{}
				join := func(from string, state int32) (m *member) {
					m = c.join(netip.MustParseAddr(from), func() { cut[m] = true })
					if m != nil {
						m.set(state)
					}
					return m
				}
				for i := range 3 * most {
					join(attacker(i), state)
				}
				var others []*member
				for i := range 40 {
					from := fmt.Sprintf("2001:db8:1%02x::1", i)
					if i%2 == 0 {
						from = fmt.Sprintf("198.51.%d.1", i)
					}
					m := join(from, waiting)
					if m == nil {
						t.Fatalf("client %d has no connection", i)
					}
					others = append(others, m)
					for j := range 20 {
						join(attacker(i*j), state)
					}
				}
				for i, m := range others {
					if cut[m] {
						t.Errorf("client %d was cut", i)
					}
				}
				if n := len(c.conns); n > most {
					t.Errorf("%d connections are open", n)
				}
				for m := range c.conns {
					m.leave()
					m.leave()
				}
				if len(c.of)+len(c.conns)+c.ordinary != 0 {
					t.Errorf("something is still counted when nothing is open: %v %d", c.of, c.ordinary)
				}
			})
		}
	}
}

// A /64 may be a tenant's subnet with many instances, so it may have as many connections as
// 64 addresses.
func TestSubnetsAreBounded(t *testing.T) {
	never := func(netip.Addr) bool { return false }
	c := newLimiter(10_000, 10, never, never, func(string) {})
	for i := range 1000 {
		m := c.join(netip.MustParseAddr(fmt.Sprintf("2001:db8:6:6::%x", i)), func() {})
		if got, want := m != nil, i < ratelimit.SubnetShare*10; got != want {
			t.Fatalf("connection %d is taken: %t", i, got)
		}
		if m != nil {
			m.set(handled)
		}
	}
	if c.join(netip.MustParseAddr("2001:db8:6:7::1"), func() {}) == nil {
		t.Error("the next subnet is refused")
	}
}

// With few file descriptors there are fewer connections.
func TestClientsDoNotGetAllDescriptors(t *testing.T) {
	for files, want := range map[uint64]int{1 << 40: MaxConnections, enoughDescriptors: MaxConnections, 1024: MaxConnections / 8, 10: 2, 0: 1} {
		if got := affordable(MaxConnections, files); got != want {
			t.Errorf("with %d descriptors there are %d connections, want %d", files, got, want)
		}
	}
}

// A flood of connections to a full listener must cost little.
func BenchmarkJoinWhenFull(b *testing.B) {
	never := func(netip.Addr) bool { return false }
	c := newLimiter(MaxConnections, MaxConnections/partOfOne, never, never, func(string) {})
	i := 0
	for b.Loop() {
		i++
		c.join(netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)}), func() {})
	}
}
