package ratelimit

import (
	"container/heap"
	"container/list"
	"net/netip"
)

// Fair keeps things that clients hold or wait for, and divides by client and not by
// thing: between networks (IPv4 /24, IPv6 /48), within a network between subnets
// (IPv6 /64), within a subnet between addresses. So a client with many addresses
// next to each other has the share of one.
//
// It is not safe for concurrent use. Its size is that of the things in it, and of the
// networks, subnets and addresses that had their turn since the last round.
type Fair[T any] struct {
	root  *group[T]
	added uint64
}

// Entry is one thing of one client.
type Entry[T any] struct {
	Value T

	order   uint64
	group   *group[T] // of its address; nil after Remove
	element *list.Element
}

// group is a network, a subnet or an address, and its children.
type group[T any] struct {
	parent *group[T]
	key    netip.Prefix

	count  int    // entries here and below
	newest uint64 // the order of the youngest one

	entries *list.List // of *Entry, the oldest in front; of an address alone

	children map[netip.Prefix]*group[T]
	crowd    crowd[T] // the children that have entries, the largest first
	at       int      // in the parent's crowd
	// Each child has its turn. One that has had none since it came is in fresh, and
	// is served before those in served, but no more than freshMost in a row. A child
	// without entries stays in served until its turn has come, so that it cannot be a
	// fresh one again before.
	fresh, served *list.List
	turn          *list.Element
	isFresh       bool
	row           int // of fresh ones, just now
}

// freshMost is how many clients in a row may be served for the first time while others
// wait for their second.
const freshMost = 16

// NewFair makes an empty one.
func NewFair[T any]() *Fair[T] { return &Fair[T]{root: newGroup[T](nil, netip.Prefix{}, false)} }

func newGroup[T any](parent *group[T], key netip.Prefix, address bool) *group[T] {
	g := &group[T]{parent: parent, key: key, at: -1}
	if address {
		g.entries = list.New()
	} else {
		g.children, g.fresh, g.served = map[netip.Prefix]*group[T]{}, list.New(), list.New()
	}
	return g
}

// Networks are what a client competes in, from the widest to its address: IPv4 /24 or
// IPv6 /48, IPv6 /64, the address. The zero Addr is in the zero Prefix.
func Networks(addr netip.Addr) [3]netip.Prefix {
	network, subnet := 24, 32
	if addr.Is6() {
		network, subnet = 48, subnetBits
	}
	var all [3]netip.Prefix
	for i, bits := range []int{network, subnet, addr.BitLen()} {
		all[i], _ = addr.Prefix(bits)
	}
	return all
}

// Len is how many things there are.
func (f *Fair[T]) Len() int { return f.root.count }

// Add notes a thing of a client.
func (f *Fair[T]) Add(client netip.Addr, value T) *Entry[T] {
	f.added++
	e := &Entry[T]{Value: value, order: f.added}
	g := f.root
	for i, key := range Networks(client) {
		child := g.children[key]
		if child == nil {
			child = newGroup(g, key, i == 2)
			g.children[key] = child
			child.turn, child.isFresh = g.fresh.PushBack(child), true
		}
		g = child
	}
	e.group, e.element = g, g.entries.PushBack(e)
	for ; g.parent != nil; g = g.parent {
		g.count++
		g.newest = e.order
		g.parent.crowd.update(g)
	}
	g.count++
	return e
}

// Remove takes a thing out; a second call does nothing.
func (f *Fair[T]) Remove(e *Entry[T]) {
	g := e.group
	if g == nil {
		return
	}
	e.group = nil
	g.entries.Remove(e.element)
	if last := g.entries.Back(); last != nil {
		g.newest = last.Value.(*Entry[T]).order
	}
	for ; g.parent != nil; g = g.parent {
		g.count--
		if len(g.crowd) > 0 {
			g.newest = g.crowd[0].newest // near enough to break a tie
		}
		g.parent.crowd.update(g)
		if g.count == 0 && g.isFresh {
			g.parent.forget(g)
		}
	}
	if g.count--; g.count == 0 {
		f.root = newGroup[T](nil, netip.Prefix{}, false)
	}
}

// Next gives the thing whose turn it is, the oldest one of its address, and takes it
// out; nil if there is none.
func (f *Fair[T]) Next() *Entry[T] {
	if f.root.count == 0 {
		return nil
	}
	g := f.root
	for g.entries == nil {
		g = g.next()
	}
	e := g.entries.Front().Value.(*Entry[T])
	f.Remove(e)
	return e
}

// next gives the child whose turn it is; there is one that has entries.
func (g *group[T]) next() *group[T] {
	if first := g.fresh.Front(); first != nil && g.row < freshMost {
		return g.serve(first)
	}
	for {
		first := g.served.Front()
		if first == nil {
			return g.serve(g.fresh.Front())
		}
		child := first.Value.(*group[T])
		if child.count == 0 {
			g.forget(child)
			continue
		}
		g.served.MoveToBack(first)
		g.row = 0
		return child
	}
}

// serve gives a fresh child its first turn.
func (g *group[T]) serve(fresh *list.Element) *group[T] {
	child := fresh.Value.(*group[T])
	g.fresh.Remove(fresh)
	child.turn, child.isFresh = g.served.PushBack(child), false
	g.row++
	return child
}

func (g *group[T]) forget(child *group[T]) {
	if child.isFresh {
		g.fresh.Remove(child.turn)
	} else {
		g.served.Remove(child.turn)
	}
	delete(g.children, child.key)
}

// Crowded gives the youngest thing of the address that has most of the subnet that has
// most of the network that has most; nil if there is none. Of equals it is the one
// that was added to last. It stays in.
func (f *Fair[T]) Crowded() *Entry[T] {
	if f.root.count == 0 {
		return nil
	}
	g := f.root
	for g.entries == nil {
		g = g.crowd[0]
	}
	return g.entries.Back().Value.(*Entry[T])
}

// crowd is a heap of the groups that have entries.
type crowd[T any] []*group[T]

func (c crowd[T]) Len() int { return len(c) }
func (c crowd[T]) Less(i, j int) bool {
	if c[i].count != c[j].count {
		return c[i].count > c[j].count
	}
	return c[i].newest > c[j].newest
}
func (c crowd[T]) Swap(i, j int) {
	c[i], c[j] = c[j], c[i]
	c[i].at, c[j].at = i, j
}
func (c *crowd[T]) Push(x any) {
	g := x.(*group[T])
	g.at = len(*c)
	*c = append(*c, g)
}
func (c *crowd[T]) Pop() any {
	old := *c
	g := old[len(old)-1]
	old[len(old)-1] = nil
	*c = old[:len(old)-1]
	g.at = -1
	return g
}

// update moves a group to where its count belongs.
func (c *crowd[T]) update(g *group[T]) {
	switch {
	case g.count == 0 && g.at >= 0:
		heap.Remove(c, g.at)
	case g.count > 0 && g.at < 0:
		heap.Push(c, g)
	case g.count > 0:
		heap.Fix(c, g.at)
	}
}
