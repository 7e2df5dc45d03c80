package listen

import (
	"errors"
	"net"
	"sync"

	"github.com/pires/go-proxyproto"
)

// proxied is a connection of a load balancer, which names the client in a header of the
// PROXY protocol. The goroutine that serves the connection reads the header.
type proxied struct {
	net.Conn // with the PROXY protocol
	raw      *conn
	once     sync.Once
	addr     net.Addr
}

func (l *listener) proxied(raw *conn) *proxied {
	options := []func(*proxyproto.Conn){proxyproto.WithPolicy(proxyproto.REQUIRE), proxyproto.SetReadHeaderTimeout(ReadHeaderTimeout)}
	if l.options.ProxyVersion2 {
		options = append(options, proxyproto.ValidateHeader(func(h *proxyproto.Header) error {
			if h.Version != 2 {
				return errors.New("the PROXY protocol must have version 2")
			}
			return nil
		}))
	}
	return &proxied{Conn: proxyproto.NewConn(raw, options...), raw: raw}
}

func (p *proxied) RemoteAddr() net.Addr {
	p.once.Do(func() {
		p.addr = p.Conn.RemoteAddr()
		if !p.raw.member.rename(addrOf(p.addr)) {
			_ = p.raw.Close()
		}
	})
	return p.addr
}

func (p *proxied) Read(data []byte) (int, error) {
	p.RemoteAddr()
	return p.Conn.Read(data)
}
