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
	// SubnetShare is the limit of an IPv6 /64, as a multiple of the limit of one address. A
	// guest can use any address of its /64, and in OpenStack hundreds of instances can
	// share a /64.
	SubnetShare = 64
)

// Levels returns the prefixes by which a client is limited, and their multiples of the
// limit of one address: the address with 1, and its IPv6 /64 with [SubnetShare]. The
// address must be unmapped and without a zone.
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

// counts bounds how many things each client holds at a time; see [Levels].
type counts struct {
	each int

	mu   sync.Mutex
	held map[netip.Prefix]int
}

func newCounts(each int) *counts { return &counts{each: each, held: map[netip.Prefix]int{}} }

// take adds one for a client, unless it has its maximum.
func (c *counts) take(client netip.Addr) bool {
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

// give subtracts one for a client. Each take that returned true needs one give.
func (c *counts) give(client netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for level := range Levels(client) {
		if c.held[level]--; c.held[level] <= 0 {
			delete(c.held, level)
		}
	}
}
