package attest

import "net/netip"

// Evidence is what a caller shows to prove that it is an instance. The zero
// value proves nothing.
type Evidence struct {
	addr    netip.Addr
	trusted bool
}

// FromAddress is the evidence of a caller that was seen to speak from addr. It
// must be the peer of a connection, or what a trusted load balancer named as
// such.
func FromAddress(addr netip.Addr) Evidence {
	return Evidence{addr: Canonical(addr)}
}

// FromIntermediary is the evidence of a caller of which only the load balancer
// in front of it was seen. It proves nothing, also when an instance has that
// very address: everyone behind the balancer would be that instance.
func FromIntermediary(addr netip.Addr) Evidence {
	return Evidence{addr: Canonical(addr), trusted: true}
}

// Addr is the address that the caller was seen to speak from.
func (e Evidence) Addr() netip.Addr { return e.addr }

// String is for the operator's log.
func (e Evidence) String() string {
	if e.trusted {
		return e.addr.String() + ", a trusted proxy that named no client"
	}
	return e.addr.String()
}

// Canonical is addr in the one form in which addresses are compared: IPv4 in
// IPv6 is unwrapped and a zone is dropped.
func Canonical(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// mayProve reports whether addr is of a kind that only one machine can speak
// from.
func mayProve(addr netip.Addr) bool {
	return addr.IsValid() && !addr.IsUnspecified() && !addr.IsMulticast() && !addr.IsLinkLocalUnicast() &&
		addr != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// proves reports whether e was seen at an address of the instance.
func (e Evidence) proves(in Instance) bool {
	if e.trusted || !mayProve(e.addr) {
		return false
	}
	for _, a := range in.Addresses {
		if Canonical(a.Addr) == e.addr {
			return true
		}
	}
	return false
}
