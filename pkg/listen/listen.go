// Package listen opens listeners and serves HTTP on them: TLS, client certificates, the
// PROXY protocol of configured load balancers, and Unix sockets whose user is known.
//
// It promises that what a client can make a listener hold is bounded before the client is
// authenticated: the number of connections, of one client and of all, the size of headers,
// and the time for each step. It does not judge requests. Handlers do.
package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Options say how to open a listener. The zero value is plain HTTP for all peers.
type Options struct {
	// TLS is the certificate. Optional, nil means plain HTTP.
	TLS *Certificate
	// ClientCAs are the CAs of client certificates, which a client must then have. It
	// needs TLS. Optional.
	ClientCAs *CAs
	// ClientNames are DNS names. A client certificate must have one of them. Optional:
	// without it any certificate of the CAs is accepted.
	ClientNames []string
	// Admit returns nil for a peer that may connect. Other peers are closed before a
	// byte is read. Optional: without it all may connect.
	Admit func(netip.Addr) error
	// Connections is how many may be open. Optional, 0 means MaxConnections.
	Connections int
	// Trusted reports whether a peer is a load balancer, or another peer that has
	// many clients behind it. It is preferred, and the bound for one client does not
	// apply to it. Optional.
	Trusted func(netip.Addr) bool
	// Preferred reports whether the larger part of the connections is reserved for a
	// peer, so that other peers cannot take them. Optional.
	Preferred func(netip.Addr) bool
	// Proxies reports whether a peer must begin each connection with a header of
	// the PROXY protocol. All other peers must not. Optional.
	Proxies func(netip.Addr) bool
	// ProxyVersion2 rejects version 1 of the PROXY protocol.
	ProxyVersion2 bool
	// Refused is called with a peer that Admit refused, or whose certificate was
	// rejected, and the reason. One goroutine calls it; while it blocks, other refusals
	// are not reported, and nothing waits for it. Optional.
	Refused func(peer string, why error)
	// Closed is called with the reason for which a connection was closed early:
	// address, full, unknown or no_files. It must not block. Optional.
	Closed func(why string)
	// Log receives problems of Accept and changes of certificate files. Optional, nil
	// means no log.
	Log *slog.Logger
}

// Open opens a listener. A port in use is an error here, before anything serves.
func Open(address Address, o Options) (net.Listener, error) {
	l := newListener(o)
	if o.TLS != nil {
		l.tls = l.tlsConfig()
	}
	var err error
	l.Listener, err = (&net.ListenConfig{Control: smallBuffers}).Listen(context.Background(), "tcp", address.text)
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
	limiter *limiter
	tls     *tls.Config // nil for plain HTTP

	refusals  chan refusal
	closed    chan struct{}
	close     func()
	reporting sync.WaitGroup
}

type refusal struct {
	peer string
	why  error
}

// refusalQueue is how many refusals may wait for a report. Further ones are only counted,
// because Accept must not wait.
const refusalQueue = 64

func newListener(o Options) *listener {
	none := func(netip.Addr) bool { return false }
	if o.Trusted == nil {
		o.Trusted = none
	}
	if o.Preferred == nil {
		o.Preferred = none
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
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
		limiter: newLimiter(o.Connections, max(1, o.Connections/partOfOne), o.Trusted,
			func(a netip.Addr) bool { return o.Trusted(a) || o.Preferred(a) }, o.Closed),
		refusals: make(chan refusal, refusalQueue),
		closed:   closed, close: sync.OnceFunc(func() { close(closed) }),
	}
}

// Accept implements [net.Listener]. It waits and tries again after a failure that is not
// the listener's, such as a lack of file descriptors: that must not end the service.
func (l *listener) Accept() (net.Conn, error) {
	var pause time.Duration
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EBADF) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSOCK) {
				return nil, err
			}
			if pause == 0 {
				l.options.Log.Warn("cannot accept a connection", "address", l.Addr().String(), "error", err)
			}
			l.limiter.makeRoom()
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

// take returns a connection within the bounds, nil if it was closed.
func (l *listener) take(accepted net.Conn) net.Conn {
	peer := addrOf(accepted.RemoteAddr())
	if l.options.Admit != nil {
		if why := l.options.Admit(peer); why != nil {
			_ = accepted.Close()
			l.options.Closed(closedUnknown)
			l.refused(accepted.RemoteAddr().String(), why)
			return nil
		}
	}
	member := l.limiter.join(peer, func() {
		if tcp, ok := accepted.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // drop what the client has not read
		}
		_ = accepted.Close()
	})
	if member == nil {
		_ = accepted.Close()
		return nil
	}
	raw := &conn{Conn: accepted, member: member}
	f := front{Conn: raw, raw: raw}
	if l.options.Proxies != nil && l.options.Proxies(peer) {
		f.Conn = l.proxied(raw)
	}
	if l.tls == nil {
		return &f
	}
	secure := tls.Server(f.Conn, l.tls)
	f.Conn = secure
	raw.bounded = true
	return &secureFront{f, secure}
}

// refused queues a refusal for its report, if the queue has room.
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

// addrOf returns the IP address of a peer, unmapped and without a zone. It returns the zero
// Addr if a is not an IP address and port.
func addrOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	peer, _ := netip.ParseAddrPort(a.String())
	return peer.Addr().Unmap().WithZone("")
}

// Address is an IP address and port. The zero value is no address.
type Address struct{ text string }

// ParseAddress parses an address such as 0.0.0.0:18775 or [::]:18775.
func ParseAddress(text string) (Address, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return Address{}, fmt.Errorf("%q is not an address such as 0.0.0.0:18775", text)
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" && host != "localhost" {
		return Address{}, fmt.Errorf("%q: %q is not an IP address", text, host)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil { // 0 is any free port, for tests
		return Address{}, fmt.Errorf("%q: %q is not a port", text, port)
	}
	return Address{text}, nil
}
