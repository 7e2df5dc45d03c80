package ratelimit

import (
	"container/heap"
	"container/list"
	"net/netip"
)

// fair is a queue that takes turns between networks (IPv4 /24, IPv6 /48), within a network
// between subnets (IPv6 /64), and within a subnet between addresses. So a client with many
// neighboring addresses gets the share of one.
//
// It is not safe for concurrent use. It keeps the entries, and the networks, subnets and
// addresses that had a turn in the current round.
type fair[T any] struct {
	root  *group[T]
	added uint64
}

// entry is one value of one client.
type entry[T any] struct {
	value T

	order   uint64
	group   *group[T] // of its address; nil after remove
	element *list.Element
}

// group is a network, a subnet or an address, with its children.
type group[T any] struct {
	parent *group[T]
	key    netip.Prefix

	count  int    // entries in the group and its children
	newest uint64 // the order of the youngest entry

	entries *list.List // of *entry, the oldest in front; only for an address

	children map[netip.Prefix]*group[T]
	crowd    crowd[T] // the children that have entries, the largest first
	at       int      // in the parent's crowd
	// A child that has had no turn yet is in fresh, all others are in served. Fresh
	// children go first, but at most freshMost in a row. A child without entries stays
	// in served until its next turn, so that it does not become fresh again before.
	fresh, served *list.List
	turn          *list.Element
	isFresh       bool
	row           int // how many fresh children went last, in a row
}

// freshMost is how many children in a row may have their first turn while others wait for
// the next one.
const freshMost = 16

func newFair[T any]() *fair[T] { return &fair[T]{root: newGroup[T](nil, netip.Prefix{}, false)} }

func newGroup[T any](parent *group[T], key netip.Prefix, address bool) *group[T] {
	g := &group[T]{parent: parent, key: key, at: -1}
	if address {
		g.entries = list.New()
	} else {
		g.children, g.fresh, g.served = map[netip.Prefix]*group[T]{}, list.New(), list.New()
	}
	return g
}

// Networks returns the prefixes that share a limit with a client, from the widest to its
// address: IPv4 /24 or IPv6 /48; IPv4 /32 or IPv6 /64; the address. For the zero Addr they
// are zero.
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

func (f *fair[T]) len() int { return f.root.count }

func (f *fair[T]) add(client netip.Addr, value T) *entry[T] {
	f.added++
	e := &entry[T]{value: value, order: f.added}
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

// remove removes an entry; a second call does nothing.
func (f *fair[T]) remove(e *entry[T]) {
	g := e.group
	if g == nil {
		return
	}
	e.group = nil
	g.entries.Remove(e.element)
	if last := g.entries.Back(); last != nil {
		g.newest = last.Value.(*entry[T]).order
	}
	for ; g.parent != nil; g = g.parent {
		g.count--
		if len(g.crowd) > 0 {
			g.newest = g.crowd[0].newest // exact enough to break a tie
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

// next removes and returns the entry whose turn it is, the oldest one of its address; nil
// if there is none.
func (f *fair[T]) next() *entry[T] {
	if f.root.count == 0 {
		return nil
	}
	g := f.root
	for g.entries == nil {
		g = g.next()
	}
	e := g.entries.Front().Value.(*entry[T])
	f.remove(e)
	return e
}

// next returns the child whose turn it is. At least one child must have entries.
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

// serve moves a fresh child to served and returns it.
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

// crowded returns the youngest entry of the address with the most entries, in the subnet
// with the most entries, in the network with the most entries; nil if there is none. Of
// equals it takes the one with the youngest entry. It removes nothing.
func (f *fair[T]) crowded() *entry[T] {
	if f.root.count == 0 {
		return nil
	}
	g := f.root
	for g.entries == nil {
		g = g.crowd[0]
	}
	return g.entries.Back().Value.(*entry[T])
}

// crowd is a heap of the groups that have entries, the largest on top (container/heap).
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

// update moves a group to its place after a change of its count.
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
