package server

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

const headerForwardedFor = "X-Forwarded-For"

func (c ProxyConfig) trusts(addr netip.Addr) bool { return within(c.Trusted, addr) }

func within(list []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// parsePeer reads the address:port of the other end of a connection.
func parsePeer(s string) (netip.Addr, error) {
	peer, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.Addr{}, err
	}
	return attest.Canonical(peer.Addr()), nil
}

// evidence is the address that the client was seen to speak from.
//
// It is the peer of the connection unless that is a trusted proxy. Then it is
// the rightmost address of X-Forwarded-For that is not a trusted proxy itself:
// each proxy adds its peer on the right, so that all further left may be
// written by the client. Where nothing can be read, only the intermediary is
// known, which proves nothing.
func (c ProxyConfig) evidence(r *http.Request) attest.Evidence {
	at, err := parsePeer(r.RemoteAddr)
	if err != nil {
		return attest.Evidence{}
	}
	if !c.trusts(at) {
		return attest.FromAddress(at)
	}
	if c.Via == ViaProtocol {
		// The proxy speaks for itself (its health checks), or names one of us.
		return attest.FromIntermediary(at)
	}
	hops := strings.Split(strings.Join(r.Header.Values(headerForwardedFor), ","), ",")
	for _, hop := range slices.Backward(hops) {
		addr, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		at = attest.Canonical(addr)
		if !c.trusts(at) {
			return attest.FromAddress(at)
		}
	}
	return attest.FromIntermediary(at)
}
