package ratelimit

import (
	"container/list"
	"errors"
	"net/netip"
	"sync"
)

// ErrCrowded says that a client has as many in a [Gate] as one client may have, or
// that its network has most of all that wait, of which there are too many.
var ErrCrowded = errors.New("too many of one client or network wait already")

// ErrGateFull says that too many proven callers wait.
var ErrGateFull = errors.New("too many wait already")

// GateConfig is the size of a [Gate].
type GateConfig struct {
	// All may be inside at a time, and of them Open clients that have proven nothing:
	// the rest is kept for proven callers. Both are at least 1.
	All, Open int
	// Each is how many one client may have inside and waiting; see [Counts].
	Each int
	// Waiting is how many clients may wait, and how many proven callers.
	Waiting int
}

// Gate lets callers do something, such as asking the cloud, so many at a time. Those
// who have to wait are let in by turns ([Fair]), so that a client with few wishes
// waits no longer for one with many than for the next that is done. When too many
// wait, one of the most crowded network has to go.
//
// Proven callers come in the order in which they came, and take turns with clients: they
// have the part of the places that clients cannot have, and half of the rest.
type Gate struct {
	config GateConfig
	each   *Counts

	mu     sync.Mutex
	inside int  // all
	open   int  // clients
	last   bool // the last who was let in was proven
	proven *list.List
	queue  *Fair[*Ticket]
}

// Ticket is a place in the queue of a gate, and then inside.
type Ticket struct {
	gate      *Gate
	client    netip.Addr // the zero Addr for a proven caller
	admitted  chan struct{}
	displaced chan struct{}

	// With gate.mu held:
	inside, left bool
	entry        *Entry[*Ticket]
	element      *list.Element
}

// NewGate makes a gate that nobody waits at.
func NewGate(c GateConfig) *Gate {
	return &Gate{config: c, each: NewCounts(c.Each), proven: list.New(), queue: NewFair[*Ticket]()}
}

// Enter takes a place for a client, or for a proven caller if that is the zero Addr.
// Each ticket must be given back with [Ticket.Leave]. The error is [ErrCrowded] for a
// client, [ErrGateFull] for a proven caller.
func (g *Gate) Enter(client netip.Addr) (*Ticket, error) {
	t := &Ticket{gate: g, client: client, admitted: make(chan struct{}), displaced: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !client.IsValid() {
		if g.inside >= g.config.All && g.proven.Len() >= g.config.Waiting {
			return nil, ErrGateFull
		}
		t.element = g.proven.PushBack(t)
		g.admit()
		return t, nil
	}
	if !g.each.Take(client) {
		return nil, ErrCrowded
	}
	t.entry = g.queue.Add(client, t)
	g.admit()
	if g.queue.Len() > g.config.Waiting {
		out := g.queue.Crowded().Value
		g.leave(out)
		if out == t {
			return nil, ErrCrowded
		}
		close(out.displaced)
	}
	return t, nil
}

// Admitted is closed when the caller may begin.
func (t *Ticket) Admitted() <-chan struct{} { return t.admitted }

// Displaced is closed when the caller has lost its place in the queue.
func (t *Ticket) Displaced() <-chan struct{} { return t.displaced }

// Leave gives the place back, in the queue or inside. A second call does nothing.
func (t *Ticket) Leave() {
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	t.gate.leave(t)
	t.gate.admit()
}

// leave is Leave with g.mu held; nobody is let in.
func (g *Gate) leave(t *Ticket) {
	if t.left {
		return
	}
	t.left = true
	switch {
	case t.inside:
		g.inside--
		if t.client.IsValid() {
			g.open--
		}
	case t.entry != nil:
		g.queue.Remove(t.entry)
	default:
		g.proven.Remove(t.element)
	}
	if t.client.IsValid() {
		g.each.Give(t.client)
	}
}

// admit lets in who may come in. g.mu is held.
func (g *Gate) admit() {
	for g.inside < g.config.All {
		t := g.next()
		if t == nil {
			return
		}
		g.inside++
		t.inside = true
		close(t.admitted)
	}
}

// next takes who is next out of its queue, nil if there is none who may come in.
func (g *Gate) next() *Ticket {
	first := g.proven.Front()
	client := g.open < g.config.Open && g.queue.Len() > 0
	switch {
	case first != nil && !(client && g.last):
		g.last = true
		return g.proven.Remove(first).(*Ticket)
	case client:
		g.last = false
		g.open++
		return g.queue.Next().Value
	}
	return nil
}
