package server

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const headerForwardedFor = "X-Forwarded-For"

type networks []netip.Prefix

func (n networks) contain(addr netip.Addr) bool {
	return slices.ContainsFunc(n, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func parsePeer(s string) (netip.Addr, error) {
	peer, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.Addr{}, err
	}
	return attest.Canonical(peer.Addr()), nil
}

// evidence returns the address that a request came from.
//
// It is the peer of the connection unless that is a trusted proxy. Then it is
// the rightmost address of X-Forwarded-For that is not a trusted proxy itself:
// each proxy adds its peer on the right, so the client may have written all that is
// further left. If there is no such address, only the proxy is known, which proves
// nothing.
func (p Proxy) evidence(r *http.Request) attest.Evidence {
	at, err := parsePeer(r.RemoteAddr)
	if err != nil {
		return attest.Evidence{}
	}
	if !p.trusted.contain(at) {
		return attest.FromAddress(at)
	}
	if p.protocol {
		// The proxy sent the request itself (a health check), or named a trusted proxy.
		return attest.FromIntermediary(at, "its PROXY header has none, or an address of proxy.trusted")
	}
	lines := r.Header.Values(headerForwardedFor)
	if len(lines) == 0 {
		return attest.FromIntermediary(at, "it sent no X-Forwarded-For")
	}
	for _, hop := range slices.Backward(strings.Split(strings.Join(lines, ","), ",")) {
		addr, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			return attest.FromIntermediary(at, quoteHop(hop)+" in X-Forwarded-For is not an IP address: a proxy must write the address alone, without a port or brackets")
		}
		at = attest.Canonical(addr)
		if !p.trusted.contain(at) {
			return attest.FromAddress(at)
		}
	}
	return attest.FromIntermediary(at, proxiesAlone)
}

// proxiesAlone says why no client is known if each hop is a trusted proxy.
const proxiesAlone = "X-Forwarded-For has addresses of proxy.trusted alone"

// quoteHop returns a part of X-Forwarded-For for the operator. A client may have written
// it, at any length.
func quoteHop(hop string) string {
	const most = 64
	if hop = strings.TrimSpace(hop); len(hop) > most {
		return secret.Hidden
	}
	return secret.Quote(hop)
}

// quoteHops does the same for the first parts in a header's lines.
func quoteHops(lines []string) string {
	hops := strings.Split(strings.Join(lines, ","), ",")
	var all []string
	for _, hop := range hops[:min(len(hops), 4)] {
		all = append(all, quoteHop(hop))
	}
	if more := len(hops) - len(all); more > 0 {
		all = append(all, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(all, ", ")
}
