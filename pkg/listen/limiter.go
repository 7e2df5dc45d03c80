package listen

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
)

// Why a connection is closed early, as a metric's label.
const (
	closedAddress = "address"  // the address, or its /64, has the most that it may have
	closedFull    = "full"     // the listener is full, and its network has the most
	closedUnknown = "unknown"  // Options.Admit refused the peer
	closedFiles   = "no_files" // the process has no file descriptor left
)

// If preferred peers need them, 1/reservedPart of the connections is for other peers and
// the rest for preferred ones.
const reservedPart = 4

// A connection whose request is being handled is cut only if these are more than busyPart
// of all. Otherwise a connection that waits for its client is cut.
const busyPart = 0.75

// limiter bounds the connections of a listener.
//
// When it is full, a new connection replaces another: from the network (IPv4 /24, IPv6 /48)
// with the most connections that wait for their clients, there from the /64, there from the
// address, and of these the one that is idle or waits the longest. Connections whose request
// is being handled are cut in the same order, but only if there is hardly anything else. So
// one network cannot hold all connections.
type limiter struct {
	max, ofOne int
	exempt     func(netip.Addr) bool // from the bound for one address
	preferred  func(netip.Addr) bool // peers with a reserved share
	closed     func(why string)

	mu       sync.Mutex
	conns    map[*member]struct{}
	ordinary int                  // members that are not preferred
	of       map[netip.Prefix]int // by ratelimit.Levels
}

func newLimiter(most, ofOne int, exempt, preferred func(netip.Addr) bool, closed func(why string)) *limiter {
	return &limiter{
		max: most, ofOne: ofOne, exempt: exempt, preferred: preferred, closed: closed,
		conns: map[*member]struct{}{}, of: map[netip.Prefix]int{},
	}
}

// member is a connection in the limiter.
type member struct {
	limiter *limiter
	close   func()

	// Guarded by limiter.mu.
	from      netip.Addr
	preferred bool
	gone      bool

	state atomic.Int32 // one of the states below
	since atomic.Int64 // when the state began, in nanoseconds
}

// The states of a connection, in the order in which they are cut.
const (
	idle    int32 = iota // between two requests
	waiting              // for the client to send or read
	handled
	states
)

func (m *member) set(state int32) {
	if m.state.Swap(state) != state {
		m.since.Store(time.Now().UnixNano())
	}
}

// join adds a connection from a peer. It returns nil if the limiter is full.
func (l *limiter) join(from netip.Addr, closing func()) *member {
	m := &member{limiter: l, close: closing, from: from, preferred: l.preferred(from)}
	m.set(waiting)
	l.mu.Lock()
	cut, ok := l.roomOfOne(from)
	why := closedAddress
	if ok && len(l.conns) >= l.max {
		cut = l.crowded(from)
		ok, why = len(cut) > 0, closedFull
	}
	if ok {
		l.count(m, 1)
	}
	l.mu.Unlock()
	l.end(cut, why)
	if !ok {
		l.closed(why)
		return nil
	}
	return m
}

// end closes connections that the limiter removed.
func (l *limiter) end(cut []*member, why string) {
	for _, m := range cut {
		m.close()
		l.closed(why)
	}
}

// rename replaces a load balancer's address with the client's that it named. It returns false
// if the client may not have another connection.
func (m *member) rename(from netip.Addr) bool {
	c := m.limiter
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
	c.end(cut, closedAddress)
	if !ok {
		c.closed(closedAddress)
	}
	return ok
}

// prefer marks an authenticated peer as preferred.
func (m *member) prefer() {
	c := m.limiter
	c.mu.Lock()
	defer c.mu.Unlock()
	if !m.gone && !m.preferred {
		c.count(m, -1)
		m.preferred = true
		c.count(m, 1)
	}
}

func (m *member) leave() {
	c := m.limiter
	c.mu.Lock()
	defer c.mu.Unlock()
	if !m.gone {
		m.gone = true
		c.count(m, -1)
	}
}

func (l *limiter) count(m *member, n int) {
	if n > 0 {
		l.conns[m] = struct{}{}
	} else {
		delete(l.conns, m)
	}
	if !m.preferred {
		l.ordinary += n
	}
	for level := range ratelimit.Levels(m.from) {
		if l.of[level] += n; l.of[level] == 0 {
			delete(l.of, level)
		}
	}
}

// roomOfOne reports whether an address may have one more connection. If it may not, the
// oldest of its connections that wait for a client is cut: a client that sends nothing must
// not keep out others behind the same address.
func (l *limiter) roomOfOne(from netip.Addr) (cut []*member, ok bool) {
	if l.exempt(from) {
		return nil, true
	}
	for full, share := range ratelimit.Levels(from) {
		if l.of[full] < share*l.ofOne {
			continue
		}
		var oldest *member
		for m := range l.conns {
			if full.Contains(m.from) && m.state.Load() != handled && (oldest == nil || m.before(oldest)) {
				oldest = m
			}
		}
		if oldest == nil {
			return nil, false
		}
		l.remove(oldest)
		return []*member{oldest}, true
	}
	return nil, true
}

func (m *member) before(other *member) bool {
	if a, b := m.state.Load(), other.state.Load(); a != b {
		return a < b
	}
	return m.since.Load() < other.since.Load()
}

func (l *limiter) remove(m *member) {
	m.gone = true
	l.count(m, -1)
}

// place is an address or a network, and the connections in it.
type place struct {
	score  int // number of connections
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

// crowded removes connections to make room for a peer. It removes several at a time, because
// it has to look at all to find them. It removes at most one whose request is being handled,
// and none for another connection of the same address.
func (l *limiter) crowded(from netip.Addr) []*member {
	preferred := l.ordinary <= l.max/reservedPart && l.ordinary < len(l.conns)
	members, busy := 0, 0
	for m := range l.conns {
		if m.preferred == preferred {
			members++
			if m.state.Load() == handled {
				busy++
			}
		}
	}
	all, spare := new(place), float64(busy) <= busyPart*float64(members)
	for m := range l.conns {
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
	for range max(1, l.max/32) {
		m := all.take()
		if m == nil || m.state.Load() == handled && (len(cut) > 0 || m.from == from) {
			break
		}
		l.remove(m)
		cut = append(cut, m)
		if m.state.Load() == handled {
			break
		}
	}
	return cut
}

// take removes the connection to cut from the place with the most connections.
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

// makeRoom cuts some connections that wait for their clients, when no file descriptor is
// left.
func (l *limiter) makeRoom() {
	l.mu.Lock()
	cut := l.crowded(netip.Addr{})
	l.mu.Unlock()
	l.end(cut, closedFiles)
}
