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
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

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
	// ClientNames are DNS names of which the certificate of a client has to have one.
	// Optional: without it any certificate of the CAs is good.
	ClientNames []string
	// Admit returns nil for a peer that may connect; all others are closed before a
	// byte is read. Optional: without it all may.
	Admit func(netip.Addr) error
	// Connections is how many may be open. Optional, 0 means MaxConnections.
	Connections int
	// Trusted reports whether a peer is a load balancer, or another peer that has
	// many clients behind it: its connections are not bounded as those of one
	// client. It is preferred, too. Optional.
	Trusted func(netip.Addr) bool
	// Preferred reports whether a peer is one of those for which the larger part of
	// the connections is kept, so that others cannot take them. Optional.
	Preferred func(netip.Addr) bool
	// Proxies reports whether a peer has to begin each connection with a header of
	// the PROXY protocol; all other peers must not. Optional.
	Proxies func(netip.Addr) bool
	// ProxyVersion2 rejects version 1 of the PROXY protocol.
	ProxyVersion2 bool
	// Refused is told of a peer that was closed, and why: by Admit, or for its
	// certificate. It is called by one goroutine; while it blocks, nothing else waits
	// for it and refusals are not reported. Optional.
	Refused func(peer string, why error)
	// Closed is told why a connection was closed before its end: one of the Closed
	// constants. It must not block. Optional.
	Closed func(why string)
	// Log gets what happens to certificate files.
	Log *slog.Logger
}

// Open opens a listener at an IP address and port. A port in use, or a
// certificate that cannot be read, is an error here, before anything serves.
func Open(address string, o Options) (net.Listener, error) {
	l := newListener(o)
	if o.TLS.CertFile != "" {
		var err error
		if l.tls, err = tlsConfig(o.TLS, o.Log); err != nil {
			return nil, err
		}
		if o.ClientCAFile != "" {
			if l.tls, err = l.askForCertificates(l.tls); err != nil {
				return nil, err
			}
		}
	}
	var err error
	l.Listener, err = (&net.ListenConfig{Control: smallBuffers}).Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, err
	}
	l.reporting.Go(l.report)
	return l, nil
}

// listener accepts connections within bounds.
type listener struct {
	net.Listener
	options Options
	crowd   *crowd
	tls     *tls.Config // nil for none

	refusals  chan refusal
	closed    chan struct{}
	close     func()
	reporting sync.WaitGroup
}

type refusal struct {
	peer string
	why  error
}

// refusalQueue is how many refusals may wait to be reported. What comes beyond is
// counted and not reported: Accept waits for nothing.
const refusalQueue = 64

func newListener(o Options) *listener {
	nobody := func(netip.Addr) bool { return false }
	if o.Trusted == nil {
		o.Trusted = nobody
	}
	if o.Preferred == nil {
		o.Preferred = nobody
	}
	if o.Closed == nil {
		o.Closed = func(string) {}
	}
	if o.Connections == 0 {
		o.Connections = MaxConnections
	}
	o.Connections = affordable(o.Connections, descriptors())
	closed := make(chan struct{})
	return &listener{
		options: o,
		crowd: newCrowd(o.Connections, max(1, o.Connections/partOfOne), o.Trusted,
			func(a netip.Addr) bool { return o.Trusted(a) || o.Preferred(a) }, o.Closed),
		refusals: make(chan refusal, refusalQueue),
		closed:   closed, close: sync.OnceFunc(func() { close(closed) }),
	}
}

// Accept implements [net.Listener]. A failure that is not the listener's own, such
// as a lack of file descriptors, is waited for: it must not end the service.
func (l *listener) Accept() (net.Conn, error) {
	var pause time.Duration
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EBADF) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSOCK) {
				return nil, err
			}
			if l.options.Log != nil && pause == 0 {
				l.options.Log.Warn("cannot accept a connection", "address", l.Addr().String(), "error", err)
			}
			l.crowd.makeRoom()
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(pause):
			case <-l.closed:
			}
			continue
		}
		pause = 0
		if f := l.take(c); f != nil {
			return f, nil
		}
	}
}

// take returns nil if the connection was closed.
func (l *listener) take(accepted net.Conn) net.Conn {
	peer := AddrOf(accepted.RemoteAddr())
	if l.options.Admit != nil {
		if why := l.options.Admit(peer); why != nil {
			_ = accepted.Close()
			l.options.Closed(ClosedUnknown)
			l.refused(accepted.RemoteAddr().String(), why)
			return nil
		}
	}
	member := l.crowd.join(peer, func() {
		if tcp, ok := accepted.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // what the client did not read is not kept
		}
		_ = accepted.Close()
	})
	if member == nil {
		_ = accepted.Close()
		return nil
	}
	raw := &conn{Conn: accepted, member: member}
	f := front{Conn: raw, raw: raw, tooLong: tooLong}
	if l.options.Proxies != nil && l.options.Proxies(peer) {
		f.Conn = &named{Conn: proxyproto.NewConn(raw, l.proxyOptions()...), raw: raw}
	}
	if l.tls == nil {
		return &f
	}
	secure := tls.Server(f.Conn, l.tls)
	f.Conn = secure
	raw.bounded = true
	return &secureFront{f, secure}
}

func (l *listener) proxyOptions() []func(*proxyproto.Conn) {
	options := []func(*proxyproto.Conn){proxyproto.WithPolicy(proxyproto.REQUIRE), proxyproto.SetReadHeaderTimeout(ReadHeaderTimeout)}
	if l.options.ProxyVersion2 {
		options = append(options, proxyproto.ValidateHeader(func(h *proxyproto.Header) error {
			if h.Version != 2 {
				return errors.New("the PROXY protocol is wanted in version 2")
			}
			return nil
		}))
	}
	return options
}

// refused has a refusal reported, if there is room.
func (l *listener) refused(peer string, why error) {
	select {
	case l.refusals <- refusal{peer, why}:
	default:
	}
}

func (l *listener) report() {
	for {
		select {
		case r := <-l.refusals:
			if l.options.Refused != nil {
				l.options.Refused(r.peer, r.why)
			}
		case <-l.closed:
			return
		}
	}
}

// Close implements [net.Listener].
func (l *listener) Close() error {
	l.close()
	return l.Listener.Close()
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
