package ratelimit

import (
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

// Subnet is the IPv6 /64 of an address; ok is false for IPv4.
func Subnet(addr netip.Addr) (subnet netip.Prefix, ok bool) {
	if !addr.Is6() {
		return netip.Prefix{}, false
	}
	subnet, err := addr.Prefix(subnetBits)
	return subnet, err == nil
}

// Counts bounds how much each client holds at a time: an address, and all of an IPv6
// /64 together [SubnetShare] times as much. Its size is what is held.
type Counts struct {
	each int

	mu      sync.Mutex
	address map[netip.Addr]int
	subnet  map[netip.Prefix]int
}

// NewCounts lets each address hold so many.
func NewCounts(each int) *Counts {
	return &Counts{each: each, address: map[netip.Addr]int{}, subnet: map[netip.Prefix]int{}}
}

// Take notes that a client holds one more, unless it has as many as it may. The
// address must be unmapped and without a zone.
func (c *Counts) Take(client netip.Addr) bool {
	subnet, wide := Subnet(client)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.address[client] >= c.each || wide && c.subnet[subnet] >= SubnetShare*c.each {
		return false
	}
	c.address[client]++
	if wide {
		c.subnet[subnet]++
	}
	return true
}

// Give notes that a client holds one less. Each Take that was true is followed by one
// Give.
func (c *Counts) Give(client netip.Addr) {
	subnet, wide := Subnet(client)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.address[client]--; c.address[client] <= 0 {
		delete(c.address, client)
	}
	if !wide {
		return
	}
	if c.subnet[subnet]--; c.subnet[subnet] <= 0 {
		delete(c.subnet, subnet)
	}
}
