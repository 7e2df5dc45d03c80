package listen

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
)

// Why connections are closed before their end, as a metric's label.
const (
	ClosedAddress = "address"  // the address, or its /64, has as many as it may
	ClosedFull    = "full"     // the listener is full, and its network has the most
	ClosedUnknown = "unknown"  // Options.Admit refused the peer
	ClosedFiles   = "no_files" // the process has no file descriptor left
)

// reservedPart: one reservedPart-th of the connections is for peers that are not
// preferred, and the rest for those that are, as long as they ask for it.
const reservedPart = 4

// busyPart: connections whose request is being handled are cut only where they are
// more than this part of all. Below it, those that wait for their clients give way.
const busyPart = 0.75

// crowd bounds the connections of a listener.
//
// When it is full, a newcomer takes the place of another: from the network (IPv4
// /24, IPv6 /48) with the most connections that wait for their clients, in it from
// the /64, in that from the address, and of these the connection that is idle, or
// waits the longest. Connections whose request is being handled are cut in the same
// order, but only where there is hardly anything else. So no network can hold all.
type crowd struct {
	max, ofOne int
	exempt     func(netip.Addr) bool // no bound for one address
	preferred  func(netip.Addr) bool // have a share of their own
	closed     func(why string)

	mu       sync.Mutex
	conns    map[*member]struct{}
	ordinary int                  // members that are not preferred
	of       map[netip.Prefix]int // by ratelimit.Levels
}

func newCrowd(most, ofOne int, exempt, preferred func(netip.Addr) bool, closed func(why string)) *crowd {
	return &crowd{
		max: most, ofOne: ofOne, exempt: exempt, preferred: preferred, closed: closed,
		conns: map[*member]struct{}{}, of: map[netip.Prefix]int{},
	}
}

// member is a connection in the crowd.
type member struct {
	crowd *crowd
	close func()

	// Guarded by crowd.mu.
	from      netip.Addr
	preferred bool
	gone      bool

	state atomic.Int32 // of the states below
	since atomic.Int64 // nanoseconds; when that began
}

// The states of a connection, in the order in which they are cut.
const (
	idle    int32 = iota // between two requests
	waiting              // for the client to send or to read
	handled
	states
)

func (m *member) set(state int32) {
	if m.state.Swap(state) != state {
		m.since.Store(time.Now().UnixNano())
	}
}

// join adds a connection from a peer. It returns nil if there is no room.
func (c *crowd) join(from netip.Addr, closing func()) *member {
	m := &member{crowd: c, close: closing, from: from, preferred: c.preferred(from)}
	m.set(waiting)
	c.mu.Lock()
	cut, ok := c.roomOfOne(from)
	why := ClosedAddress
	if ok && len(c.conns) >= c.max {
		cut = c.crowded(from)
		ok, why = len(cut) > 0, ClosedFull
	}
	if ok {
		c.count(m, 1)
	}
	c.mu.Unlock()
	c.end(cut, why)
	if !ok {
		c.closed(why)
		return nil
	}
	return m
}

// end closes connections that were taken out.
func (c *crowd) end(cut []*member, why string) {
	for _, m := range cut {
		m.close()
		c.closed(why)
	}
}

// rename says who is at the other end in truth: the client that a load balancer
// named. It returns false if that client has no room.
func (m *member) rename(from netip.Addr) bool {
	c := m.crowd
	c.mu.Lock()
	if m.gone || m.from == from {
		defer c.mu.Unlock()
		return !m.gone
	}
	c.count(m, -1)
	cut, ok := c.roomOfOne(from)
	if ok {
		m.from, m.preferred = from, c.preferred(from)
		c.count(m, 1)
	} else {
		m.gone = true
	}
	c.mu.Unlock()
	c.end(cut, ClosedAddress)
	if !ok {
		c.closed(ClosedAddress)
	}
	return ok
}

// prefer is for a peer that has proven who it is.
func (m *member) prefer() {
	c := m.crowd
	c.mu.Lock()
	defer c.mu.Unlock()
	if !m.gone && !m.preferred {
		c.count(m, -1)
		m.preferred = true
		c.count(m, 1)
	}
}

func (m *member) leave() {
	c := m.crowd
	c.mu.Lock()
	defer c.mu.Unlock()
	if !m.gone {
		m.gone = true
		c.count(m, -1)
	}
}

func (c *crowd) count(m *member, n int) {
	if n > 0 {
		c.conns[m] = struct{}{}
	} else {
		delete(c.conns, m)
	}
	if !m.preferred {
		c.ordinary += n
	}
	for level := range ratelimit.Levels(m.from) {
		if c.of[level] += n; c.of[level] == 0 {
			delete(c.of, level)
		}
	}
}

// roomOfOne reports whether an address may have one more. If connections that wait
// for a client stand in the way, the oldest of them is cut: clients behind one
// address must not shut each other out by saying nothing.
func (c *crowd) roomOfOne(from netip.Addr) (cut []*member, ok bool) {
	if c.exempt(from) {
		return nil, true
	}
	var full netip.Prefix
	for level, share := range ratelimit.Levels(from) {
		if c.of[level] >= share*c.ofOne {
			full = level
			break
		}
	}
	if !full.IsValid() {
		return nil, true
	}
	var oldest *member
	for m := range c.conns {
		if full.Contains(m.from) && m.state.Load() != handled && (oldest == nil || m.before(oldest)) {
			oldest = m
		}
	}
	if oldest == nil {
		return nil, false
	}
	c.remove(oldest)
	return []*member{oldest}, true
}

func (m *member) before(other *member) bool {
	if a, b := m.state.Load(), other.state.Load(); a != b {
		return a < b
	}
	return m.since.Load() < other.since.Load()
}

func (c *crowd) remove(m *member) {
	m.gone = true
	c.count(m, -1)
}

// place is an address or a network, with what is in it.
type place struct {
	score  int // connections in it
	places map[netip.Prefix]*place
	conns  [states][]*member // of an address
}

func (p *place) within(network netip.Prefix) *place {
	inner := p.places[network]
	if inner == nil {
		if p.places == nil {
			p.places = map[netip.Prefix]*place{}
		}
		inner = new(place)
		p.places[network] = inner
	}
	return inner
}

// crowded takes out those that have to make room for a peer. They are several, as
// finding them takes a look at all. A connection whose request is being handled is
// taken out alone, and not for another one of the same address.
func (c *crowd) crowded(from netip.Addr) []*member {
	preferred := c.ordinary <= c.max/reservedPart && c.ordinary < len(c.conns)
	members, busy := 0, 0
	for m := range c.conns {
		if m.preferred == preferred {
			members++
			if m.state.Load() == handled {
				busy++
			}
		}
	}
	all, spare := new(place), float64(busy) <= busyPart*float64(members)
	for m := range c.conns {
		state := m.state.Load()
		if m.preferred != preferred || state == handled && spare {
			continue
		}
		at := all
		at.score++
		for _, network := range ratelimit.Networks(m.from) {
			at = at.within(network)
			at.score++
		}
		at.conns[state] = append(at.conns[state], m)
	}
	var cut []*member
	for range max(1, c.max/32) {
		m := all.take()
		if m == nil {
			break
		}
		if m.state.Load() == handled {
			if len(cut) == 0 && m.from != from {
				c.remove(m)
				cut = append(cut, m)
			}
			break
		}
		c.remove(m)
		cut = append(cut, m)
	}
	return cut
}

// take takes the connection to cut out of the most crowded place.
func (p *place) take() *member {
	path := []*place{p}
	for len(p.places) > 0 {
		var most *place
		for _, inner := range p.places {
			if most == nil || inner.score > most.score {
				most = inner
			}
		}
		p = most
		path = append(path, p)
	}
	for state, conns := range p.conns {
		if len(conns) == 0 {
			continue
		}
		oldest := 0
		for i, m := range conns {
			if m.since.Load() < conns[oldest].since.Load() {
				oldest = i
			}
		}
		m := conns[oldest]
		conns[oldest] = conns[len(conns)-1]
		p.conns[state] = conns[:len(conns)-1]
		for _, at := range path {
			at.score--
		}
		return m
	}
	return nil
}

// makeRoom cuts a few connections that wait for their clients, as there is no file
// descriptor left.
func (c *crowd) makeRoom() {
	c.mu.Lock()
	var cut []*member
	if len(c.conns) > 0 {
		cut = c.crowded(netip.Addr{})
	}
	c.mu.Unlock()
	c.end(cut, ClosedFiles)
}
