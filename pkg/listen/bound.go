package listen

import (
	"net"
	"net/netip"
	"sync"
)

// A connection costs some 40 KiB with TLS, and its body 64 more, before anyone
// has shown who they are. One address has fewer, so that one machine cannot have
// all; enough for the verifiers behind a NAT, which keep theirs open for a while.
const (
	maxConns      = 4096
	maxConnsOfOne = 512
	maxStreams    = 8 // requests at a time of one connection of HTTP/2
)

// boundListener closes what comes beyond its bounds.
type boundListener struct {
	net.Listener
	all, ofOne int
	trusts     func(netip.Addr) bool // may have all

	mu   sync.Mutex
	open int
	of   map[netip.Addr]int
}

func bound(l net.Listener, all, ofOne int, trusts func(netip.Addr) bool) net.Listener {
	return &boundListener{Listener: l, all: all, ofOne: ofOne, trusts: trusts, of: map[netip.Addr]int{}}
}

func (b *boundListener) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			return c, nil
		}
		from := AddrOf(c.RemoteAddr())
		if !b.take(from) {
			_ = c.Close()
			continue
		}
		return &boundConn{TCPConn: tcp, leave: sync.OnceFunc(func() { b.give(from) })}, nil
	}
}

func (b *boundListener) take(from netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open >= b.all || (b.of[from] >= b.ofOne && !b.trusts(from)) {
		return false
	}
	b.open++
	b.of[from]++
	return true
}

func (b *boundListener) give(from netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open--
	if b.of[from]--; b.of[from] == 0 {
		delete(b.of, from)
	}
}

type boundConn struct {
	*net.TCPConn
	leave func()
}

func (c *boundConn) Close() error {
	c.leave()
	return c.TCPConn.Close()
}
