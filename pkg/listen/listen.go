// Package listen opens listeners and serves HTTP on them.
//
// It promises that what clients can make a listener hold is bounded before they
// have shown who they are: the number of connections, of one client and of all,
// the size of headers, and the time for each step. It terminates TLS, verifies
// client certificates, reads the PROXY protocol from load balancers that are
// configured, and knows which user is at the other end of a Unix socket.
//
// It does not judge requests: that is the handlers' work.
package listen

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"

	"github.com/pires/go-proxyproto"
)

// Options say how a listener is opened. The zero value is plain HTTP for all
// peers.
type Options struct {
	// TLS is the certificate. Optional: without it plain HTTP is spoken.
	TLS TLSConfig
	// ClientCAFile has the CAs, in PEM, of client certificates. Optional: without it
	// no client certificate is asked for. It needs TLS.
	ClientCAFile string
	// Admit returns nil for a peer that may connect; all others are closed before a
	// byte is read. Optional: without it all may.
	Admit func(netip.Addr) error
	// Trusted reports whether a peer is a load balancer, or another peer that has
	// many clients behind it: it may have all connections. Optional.
	Trusted func(netip.Addr) bool
	// Proxies reports whether a peer has to begin each connection with a header of
	// the PROXY protocol; all other peers must not. Optional.
	Proxies func(netip.Addr) bool
	// ProxyVersion2 rejects version 1 of the PROXY protocol.
	ProxyVersion2 bool
	// Refused is told of a peer that was closed, and why: by Admit, or for its
	// certificate. It must not block. Optional.
	Refused func(peer string, why error)
	// Log gets what happens to certificate files.
	Log *slog.Logger
}

func (o Options) refused(peer string, why error) {
	if o.Refused != nil {
		o.Refused(peer, why)
	}
}

// Open opens a listener at an IP address and port. A port in use, or a
// certificate that cannot be read, is an error here, before anything serves.
func Open(address string, o Options) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	if o.Admit != nil {
		l = &admitting{l, o}
	}
	trusted := o.Trusted
	if trusted == nil {
		trusted = func(netip.Addr) bool { return false }
	}
	l = bound(l, maxConns, maxConnsOfOne, trusted)
	if o.Proxies != nil {
		l = proxied(l, o)
	}
	if o.TLS.CertFile == "" {
		return l, nil
	}
	tls, err := newTLSListener(l, o)
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return tls, nil
}

// proxied has the peers that are load balancers, and no others, speak the PROXY
// protocol.
func proxied(l net.Listener, o Options) net.Listener {
	p := &proxyproto.Listener{
		Listener:          l,
		ReadHeaderTimeout: ReadHeaderTimeout,
		ConnPolicy: func(c proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			if o.Proxies(AddrOf(c.Upstream)) {
				return proxyproto.REQUIRE, nil
			}
			return proxyproto.SKIP, nil
		},
	}
	if o.ProxyVersion2 {
		p.ValidateHeader = func(h *proxyproto.Header) error {
			if h.Version != 2 {
				return errors.New("the PROXY protocol is wanted in version 2")
			}
			return nil
		}
	}
	return p
}

// admitting closes what comes from a peer that may not connect.
type admitting struct {
	net.Listener
	options Options
}

func (a *admitting) Accept() (net.Conn, error) {
	for {
		c, err := a.Listener.Accept()
		if err != nil {
			return nil, err
		}
		why := a.options.Admit(AddrOf(c.RemoteAddr()))
		if why == nil {
			return c, nil
		}
		_ = c.Close()
		a.options.refused(c.RemoteAddr().String(), why)
	}
}

// AddrOf returns the IP address of the other end of a connection, unmapped and
// without a zone; the zero Addr if a is not an IP address and port.
func AddrOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	peer, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return peer.Addr().Unmap().WithZone("")
}

// ValidateAddress checks an address such as 0.0.0.0:18775 or [::]:18775.
func ValidateAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is not an address such as 0.0.0.0:18775", address)
	}
	if host != "" {
		if _, err := netip.ParseAddr(host); err != nil && host != "localhost" {
			return fmt.Errorf("%q: %q is not an IP address", address, host)
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q: %q is not a port", address, port)
	} else if n == 0 {
		return nil // any free port: for tests
	}
	return nil
}

// ValidateSocket checks the path of a Unix socket (unix(7): 107 bytes).
func ValidateSocket(path string) error {
	if path != "" && (!filepath.IsAbs(path) || len(path) > 107) {
		return fmt.Errorf("%q is not an absolute path of at most 107 bytes", path)
	}
	return nil
}
