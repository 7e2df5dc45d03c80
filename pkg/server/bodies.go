package server

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// The bodies of requests in memory.
const (
	// maxRequest holds a document, which is the longest field, several times.
	maxRequest = 8 << 10
	// maxVendordata holds user data of 64 KiB, and metadata: 128 pairs of 255
	// characters, of which JSON writes some with twelve bytes.
	maxVendordata = 1 << 20
	// largeBodies is how many bytes those bodies take together that are longer than
	// maxRequest.
	largeBodies = 32 << 20
	// BodyBudget is how many bytes all bodies take together. Every connection can
	// have a short one, so that those who hold many back keep out nobody.
	BodyBudget = (Connections+VendordataConnections)*maxRequest + largeBodies
	// largeCopies: the values of a long body are copied when it is parsed, by
	// encoding/json into slices that are up to twice as long.
	largeCopies = 3
)

// bodies counts the memory that bodies take. The zero value has all free.
type bodies struct {
	mu         sync.Mutex
	all, large int64
}

// errNoMemory asks the client to come again when others are done.
var errNoMemory = &throttled{throttledBodies, time.Second}

// take reserves memory for a body of n bytes, which give must give back.
func (b *bodies) take(n int64) (give func(), ok bool) {
	large := int64(0)
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

// read reads no more of a body than limit, whatever it says, and has parse parse
// it, which must not keep it. The body takes its memory until then.
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
	defer func() { r.Trailer = nil }() // headers behind the body, which nothing counted
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
