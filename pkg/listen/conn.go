package listen

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// maxGap is how many bytes a client may send over TLS without a byte of a request: a
// handshake, or the longest record (RFC 8446, section 5.2). Otherwise the server would
// buffer a handshake message of 64 KiB, or 256 KiB with certificates, whose last byte the
// client never sends.
const maxGap = 20 << 10

// lingering is how long a client that is still sending has to read the refusal, as in
// net/http.
const lingering = 500 * time.Millisecond

var errGap = errors.New("too much was sent that is not part of a request")

// conn is a connection as the listener accepted it.
type conn struct {
	net.Conn
	member  *member
	bounded bool // by maxGap, with TLS
	gap     int  // bytes read since the last byte of a request
}

func (c *conn) Read(p []byte) (int, error) {
	if c.bounded && c.gap > maxGap {
		return 0, errGap
	}
	n, err := c.Conn.Read(p)
	c.gap += n
	return n, err
}

func (c *conn) Close() error {
	c.member.leave()
	return c.Conn.Close()
}

// CloseWrite lets net/http end an answer so that the client can read it before the
// connection is reset.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// front is a connection as net/http sees it. It bounds the headers, and notes when net/http
// waits for the client.
type front struct {
	net.Conn // with the PROXY protocol and TLS, if used
	raw      *conn

	refuse  func(status int) []byte // see Endpoint; nil for the answers of net/http
	handled bool                    // a handler has the request
	refused bool                    // the answer was sent
	headers headerScan
}

func (f *front) Read(p []byte) (int, error) {
	// While a handler works, net/http reads one byte to see whether the client leaves.
	if len(p) > 1 {
		f.raw.member.waitFor(true)
		defer f.raw.member.waitFor(false)
	}
	n, err := f.Conn.Read(p)
	if n > 0 {
		f.raw.gap = 0
	}
	if !f.headers.scan(p[:n]) {
		_ = f.SetWriteDeadline(time.Now().Add(lingering))
		f.refused = true
		_, _ = f.Conn.Write(f.tooLong())
		_ = f.CloseWrite()
		<-time.After(lingering)
		return 0, io.EOF
	}
	return n, err
}

// waitFor notes whether net/http waits for the client.
func (m *member) waitFor(client bool) {
	switch {
	case !client:
		m.set(handled)
	case m.state.Load() != idle:
		m.set(waiting)
	}
}

func (f *front) Write(p []byte) (int, error) {
	f.raw.member.waitFor(true)
	defer f.raw.member.waitFor(false)
	if f.handled || f.refuse == nil {
		return f.Conn.Write(p)
	}
	// net/http refuses the request.
	if !f.refused {
		f.refused = true
		if _, err := f.Conn.Write(f.refuse(statusOf(p))); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// statusOf returns the status of an answer that net/http begins to write.
func statusOf(answer []byte) (status int) {
	if _, err := fmt.Sscanf(string(answer[:min(len(answer), 16)]), "HTTP/1.1 %d", &status); err != nil {
		return http.StatusBadRequest
	}
	return status
}

func (f *front) CloseWrite() error {
	if half, ok := f.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return f.raw.CloseWrite()
}
