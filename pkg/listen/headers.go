package listen

import (
	"bytes"
	"net/http"
)

// The bounds of the headers of a request.
const (
	// MaxHeaders is how many bytes headers may have. Handlers refuse longer ones, and
	// [Endpoint] much longer ones.
	MaxHeaders = 16 << 10
	// headerSlack is how much longer, with the request line, headers may be until
	// handlers cannot refuse them.
	headerSlack = 8 << 10
	// MaxHeaderLines is how many lines headers may have. Each line costs some 130 bytes
	// in net/http's map, even a short one.
	MaxHeaderLines = 128
	// maxRequestLine is how many bytes the request line may have. net/http makes several
	// copies of the target.
	maxRequestLine = 8 << 10
)

// headerScan counts the lines and bytes of a request's headers, in the pieces in which they
// are read.
type headerScan struct {
	done         bool // the headers have ended, and the body follows
	lines, bytes int
	line         int // bytes of the current line, without \r
	behind       int // lines behind the headers in the last piece
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
			if h.lines == 0 && h.line > maxRequestLine {
				return false
			}
			h.lines++
			h.line = 0
		case '\r':
		default:
			h.line++
		}
	}
	if h.lines == 0 && h.line > maxRequestLine {
		return false
	}
	return h.lines <= MaxHeaderLines+1 && h.bytes <= MaxHeaders+headerSlack
}

// next begins the next request of a connection. The bytes behind the last request may be
// headers that were not counted. If they may be too many, next closes the connection.
func (f *front) next() {
	if f.headers.behind > MaxHeaderLines/2 {
		_ = f.raw.Close()
		return
	}
	f.headers, f.handled = headerScan{lines: f.headers.behind}, false
	f.raw.member.set(idle)
}

// tooLong returns the answer to headers that are not read to their end, by default that of
// net/http.
func (f *front) tooLong() []byte {
	if f.refuse != nil {
		return f.refuse(http.StatusRequestHeaderFieldsTooLarge)
	}
	return []byte("HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n431 Request Header Fields Too Large")
}
