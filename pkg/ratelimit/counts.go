package ratelimit

import (
	"iter"
	"net/netip"
	"sync"
)

const (
	// subnetBits is the length of the prefix that an IPv6 subnet has (RFC 4291,
	// section 2.5.1).
	subnetBits = 64
	// SubnetShare is how many times what one address may have all addresses of an
	// IPv6 /64 may have together. A guest can speak from any address of its /64,
	// and in OpenStack hundreds of instances can share one.
	SubnetShare = 64
)

// Levels gives what a client is bounded as, and how many times what one address may
// have: its address once, and the IPv6 /64 of it [SubnetShare] times. The address must
// be unmapped and without a zone.
func Levels(client netip.Addr) iter.Seq2[netip.Prefix, int] {
	return func(yield func(netip.Prefix, int) bool) {
		if !yield(netip.PrefixFrom(client, client.BitLen()), 1) || !client.Is6() {
			return
		}
		if subnet, err := client.Prefix(subnetBits); err == nil {
			yield(subnet, SubnetShare)
		}
	}
}

// Counts bounds how much each client holds at a time; see [Levels]. Its size is what is
// held.
type Counts struct {
	each int

	mu   sync.Mutex
	held map[netip.Prefix]int
}

// NewCounts lets each address hold so many.
func NewCounts(each int) *Counts { return &Counts{each: each, held: map[netip.Prefix]int{}} }

// Take notes that a client holds one more, unless it has as many as it may.
func (c *Counts) Take(client netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for level, share := range Levels(client) {
		if c.held[level] >= share*c.each {
			return false
		}
	}
	for level := range Levels(client) {
		c.held[level]++
	}
	return true
}

// Give notes that a client holds one less. Each Take that was true is followed by one
// Give.
func (c *Counts) Give(client netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for level := range Levels(client) {
		if c.held[level]--; c.held[level] <= 0 {
			delete(c.held, level)
		}
	}
}
