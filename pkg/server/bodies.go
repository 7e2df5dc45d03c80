package server

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// The most bytes of bodies in memory.
const (
	// maxRequest is for a body of POST /auth. It holds a document, the longest field,
	// several times.
	maxRequest = 8 << 10
	// maxVendordata is for a body from Nova. It holds user data of 64 KiB and metadata of
	// 128 pairs of 255 characters, of which JSON writes some with twelve bytes.
	maxVendordata = 1 << 20
	// largeBodies is for all bodies together that are longer than maxRequest.
	largeBodies = 32 << 20
	// BodyBudget is for all bodies together. Every connection can have a short one, so
	// that clients that delay many bodies do not keep others out.
	BodyBudget = (Connections+VendordataConnections)*maxRequest + largeBodies
	// largeCopies is how many times its length a long body takes: encoding/json copies
	// its values into slices that are up to twice as long.
	largeCopies = 3
)

// bodies counts the memory that bodies take. In the zero value all of it is free.
type bodies struct {
	mu         sync.Mutex
	all, large int64
}

// errNoMemory makes the client retry when other requests are done.
var errNoMemory = &throttled{throttledBodies, time.Second}

// take reserves memory for a body of n bytes; the caller must call give.
func (b *bodies) take(n int64) (give func(), ok bool) {
	var large int64
	if n > maxRequest {
		n *= largeCopies
		large = n
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all+n > BodyBudget || b.large+large > largeBodies {
		return nil, false
	}
	b.all, b.large = b.all+n, b.large+large
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.all, b.large = b.all-n, b.large-large
	}, true
}

// read reads a body of at most limit bytes and calls parse with it, which must not keep
// it.
func (b *bodies) read(w http.ResponseWriter, r *http.Request, limit int64, parse func([]byte) error) error {
	n := r.ContentLength
	switch {
	case n > limit:
		return tooLong(limit)
	case n < 0:
		n = limit
	}
	give, ok := b.take(n)
	if !ok {
		return errNoMemory
	}
	defer give()
	defer func() { r.Trailer = nil }() // headers after the body, whose size is not bounded
	body, read := make([]byte, n+1), 0 // one more, to see the end
	from := http.MaxBytesReader(w, r.Body, limit)
	for read < len(body) {
		more, err := from.Read(body[read:])
		read += more
		switch {
		case errors.Is(err, io.EOF):
			return parse(body[:read])
		case errors.As(err, new(*http.MaxBytesError)):
			return tooLong(limit)
		case err != nil:
			return badField("the body could not be read to its end")
		}
	}
	return tooLong(limit)
}
