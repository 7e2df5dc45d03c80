package listen

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// maxGap is how many bytes a client may send over TLS before one byte of a request
// comes of it: a handshake, or the longest record (RFC 8446, section 5.2). Without
// it the handshake's messages alone, of 64 KiB, or 256 KiB with certificates, could
// be held back before their last byte.
const maxGap = 20 << 10

// lingering is how long a client that is still sending may take to read why it is
// refused, as net/http has it.
const lingering = 500 * time.Millisecond

var errGap = errors.New("too much was sent that is not part of a request")

// conn is a connection as it was accepted.
type conn struct {
	net.Conn
	member  *member
	bounded bool // gap is: with TLS
	gap     int  // bytes read since the last one of a request
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

// CloseWrite is what net/http looks for, so that the client can read an answer
// before the connection is reset.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// named is a connection whose client a load balancer names. The name is read when
// it is first asked for, by the goroutine that serves the connection.
type named struct {
	net.Conn // that of the PROXY protocol
	raw      *conn
	once     sync.Once
	addr     net.Addr
}

func (n *named) RemoteAddr() net.Addr {
	n.once.Do(func() {
		n.addr = n.Conn.RemoteAddr()
		if !n.raw.member.rename(AddrOf(n.addr)) {
			_ = n.raw.Close()
		}
	})
	return n.addr
}

func (n *named) Read(p []byte) (int, error) {
	n.RemoteAddr()
	return n.Conn.Read(p)
}

// front is a connection as net/http sees it: of what it reads, it bounds the
// headers, and it notes when it waits for the client.
type front struct {
	net.Conn // with the PROXY protocol and TLS, if they are spoken
	raw      *conn

	// tooLong is the answer to headers with too many lines.
	tooLong func() []byte
	headers headerScan
}

func (f *front) Read(p []byte) (int, error) {
	// While a handler works net/http reads one byte, to see whether the client goes.
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
		_, _ = f.Conn.Write(f.tooLong())
		_ = f.CloseWrite()
		<-time.After(lingering)
		return 0, io.EOF
	}
	return n, err
}

// waitFor notes that the client is waited for, or no longer.
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
	return f.Conn.Write(p)
}

func (f *front) CloseWrite() error {
	if half, ok := f.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return f.raw.CloseWrite()
}

// secureFront is a front with TLS.
type secureFront struct {
	front
	tls *tls.Conn
}

// ConnectionState does the handshake. net/http asks for it before it reads.
func (f *secureFront) ConnectionState() tls.ConnectionState {
	f.raw.member.waitFor(true)
	defer f.raw.member.waitFor(false)
	ctx, cancel := context.WithTimeout(context.Background(), ReadHeaderTimeout)
	defer cancel()
	_ = f.tls.SetDeadline(time.Now().Add(ReadHeaderTimeout))
	err := f.tls.HandshakeContext(ctx)
	var not tls.RecordHeaderError
	if errors.As(err, &not) && not.Conn != nil {
		switch string(not.RecordHeader[:]) {
		case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
			_, _ = io.WriteString(not.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
		}
	}
	if err != nil {
		_ = f.raw.Close()
	}
	_ = f.tls.SetDeadline(time.Time{})
	f.raw.gap = 0
	state := f.tls.ConnectionState()
	if state.HandshakeComplete && len(state.PeerCertificates) > 0 {
		// Not earlier: before the end, a certificate may be a copy without its key.
		f.raw.member.prefer()
	}
	return state
}

// MaxHeaderLines is how many lines the headers of a request may have. Each costs
// some 130 bytes in the map that net/http makes of them, however short it is.
const MaxHeaderLines = 128

// MaxRequestLine is how many bytes the first line of a request may have. net/http
// keeps several copies of the target.
const MaxRequestLine = 8 << 10

// headerScan counts the lines and bytes of a request's headers. It sees the bytes
// in the pieces in which they were read.
type headerScan struct {
	done         bool // they have ended; what follows is body
	lines, bytes int
	line         int // bytes of the line that is being read, without \r
	behind       int // lines in the last piece that are not of these headers
}

// scan returns false if the headers are too long.
func (h *headerScan) scan(p []byte) bool {
	if len(p) > 1 {
		h.behind = 0
	}
	if h.done {
		h.behind += bytes.Count(p, []byte{'\n'})
		return true
	}
	for i, b := range p {
		h.bytes++
		switch b {
		case '\n':
			if h.line == 0 && h.lines > 0 {
				h.done = true
				h.behind += bytes.Count(p[i+1:], []byte{'\n'})
				return h.lines <= MaxHeaderLines+1
			}
			if h.lines == 0 && h.line > MaxRequestLine {
				return false
			}
			h.lines++
			h.line = 0
		case '\r':
		default:
			h.line++
		}
	}
	if h.lines == 0 && h.line > MaxRequestLine {
		return false
	}
	return h.lines <= MaxHeaderLines+1 && h.bytes <= MaxHeaders+headerSlack
}

// headerSlack is how much longer than MaxHeaders headers may be, so that handlers
// can refuse them in their own words. With the request line.
const headerSlack = 8 << 10

// next is called between two requests. What was read behind the first one may be
// the headers of the next already, which were not counted: if they could be many,
// the connection ends here.
func (f *front) next() {
	if f.headers.behind > MaxHeaderLines/2 {
		_ = f.raw.Close()
		return
	}
	f.headers = headerScan{lines: f.headers.behind}
	f.raw.member.set(idle)
}

// tooLong is what net/http answers.
func tooLong() []byte {
	return []byte("HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n431 Request Header Fields Too Large")
}
