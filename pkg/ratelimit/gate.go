package ratelimit

import (
	"container/list"
	"errors"
	"net/netip"
	"sync"
)

// ErrCrowded means that a client has its maximum of tickets of a [Gate], or that too many
// callers wait and its network has the most of them.
var ErrCrowded = errors.New("too many of one client or network wait already")

var errGateFull = errors.New("too many proven callers wait already")

// GateConfig is the size of a [Gate].
type GateConfig struct {
	// All is how many may be inside at a time, and Open how many of these may be unproven
	// clients: the other places are for proven callers. Both are at least 1.
	All, Open int
	// Each is how many tickets one address may have, inside and waiting; see [Levels].
	Each int
	// Waiting is how many clients may wait, and also how many proven callers.
	Waiting int
}

// Gate limits how many callers do something at a time, such as asking the cloud. Waiting
// clients take turns by network, subnet and address, so a client with one request does not
// wait for all requests of another client. When too many clients wait, one of the network
// with the most loses its place.
//
// Proven callers enter in the order of arrival. They have places that clients cannot have,
// and take turns with clients for the others.
type Gate struct {
	config GateConfig
	each   *counts

	mu     sync.Mutex
	inside int  // clients and proven callers
	open   int  // clients
	last   bool // the last one that entered was proven
	proven *list.List
	queue  *fair[*Ticket]
}

// Ticket is a place in the queue of a gate, and later inside.
type Ticket struct {
	gate      *Gate
	client    netip.Addr // the zero Addr for a proven caller
	admitted  chan struct{}
	displaced chan struct{}

	// With gate.mu held:
	inside, left bool
	entry        *entry[*Ticket]
	element      *list.Element
}

// NewGate returns a gate without callers.
func NewGate(c GateConfig) *Gate {
	return &Gate{config: c, each: newCounts(c.Each), proven: list.New(), queue: newFair[*Ticket]()}
}

// Enter takes a place for a client, or for a proven caller if client is the zero Addr. The
// caller must call [Ticket.Leave] at the end. For a client, the error is [ErrCrowded].
func (g *Gate) Enter(client netip.Addr) (*Ticket, error) {
	t := &Ticket{gate: g, client: client, admitted: make(chan struct{}), displaced: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !client.IsValid() {
		if g.inside >= g.config.All && g.proven.Len() >= g.config.Waiting {
			return nil, errGateFull
		}
		t.element = g.proven.PushBack(t)
		g.admit()
		return t, nil
	}
	if !g.each.take(client) {
		return nil, ErrCrowded
	}
	t.entry = g.queue.add(client, t)
	g.admit()
	if g.queue.len() > g.config.Waiting {
		out := g.queue.crowded().value
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

// leave is Leave without admitting others. g.mu is held.
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
		g.queue.remove(t.entry)
	default:
		g.proven.Remove(t.element)
	}
	if t.client.IsValid() {
		g.each.give(t.client)
	}
}

// admit admits waiting callers while there are places. g.mu is held.
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

// next removes the next ticket from its queue, nil if none may enter.
func (g *Gate) next() *Ticket {
	first := g.proven.Front()
	client := g.open < g.config.Open && g.queue.len() > 0
	switch {
	case first != nil && !(client && g.last):
		g.last = true
		return g.proven.Remove(first).(*Ticket)
	case client:
		g.last = false
		g.open++
		return g.queue.next().value
	}
	return nil
}
