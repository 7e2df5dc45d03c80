// Package simulator is a small Keystone and Nova that speak HTTP on one loopback listener: enough of an OpenStack cloud
// to log in, to validate tokens and to read servers. It is for the demo and for tests of a client, and can be told to
// fail ([Cloud.Fail]).
//
// It promises, for the requests it knows, the statuses, headers and JSON shapes recorded from OpenStack Zed (Keystone 22,
// Nova 26, microversions 2.1 to 2.93) and 2026.1 (Keystone 29, Nova 33, to 2.103) with the default policy and that of a
// least-rights account: a role instance_reader that may list the servers of all projects (see [Policy]).
//
// It does not protect secrets, stores nothing, gives every user one scope, and shows no server that is being deleted.
// Real Nova caches validated tokens for minutes; this one forgets a revoked token at once. An unknown query parameter is
// refused, so that no test relies on a filter that does nothing.
package simulator

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The names of the services in [Cloud.Fail], [Cloud.Count] and [Request].
const (
	keystone = "keystone"
	nova     = "nova"
)

const (
	identityPrefix = "/identity" // Keystone's root on the listener
	computePrefix  = "/compute"  // Nova's root on the listener
	maxBody        = 64 << 10    // bytes read of a request's body
	longestRequest = 5 * time.Minute
)

// Cloud is a running cloud. Its methods are safe for concurrent use.
type Cloud struct {
	server   *http.Server
	address  string // host:port of the listener
	closing  chan struct{}
	closed   sync.Once
	closeErr error
	served   chan struct{}  // closed when the listener's goroutine has ended
	conns    sync.WaitGroup // one for every open connection
	journal  *journal

	mu         sync.RWMutex
	now        func() time.Time
	tokenLife  time.Duration
	accounts   map[string]Account // by user ID
	tokens     map[string]token   // by the token itself
	tokenOrder []string           // oldest first, at most maxTokens
	servers    map[string]Server  // by ID in lower case
	policy     Policy
	max        microversion
	faults     map[string]*activeFault // by service
}

// Start listens on a free port of 127.0.0.1 and serves until [Cloud.Close]. The cloud has no account and no server yet.
func Start() (*Cloud, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("simulated cloud: %w", err)
	}
	c := &Cloud{
		address:   listener.Addr().String(),
		closing:   make(chan struct{}),
		served:    make(chan struct{}),
		journal:   newJournal(),
		now:       time.Now,
		tokenLife: time.Hour,
		accounts:  make(map[string]Account),
		tokens:    make(map[string]token),
		servers:   make(map[string]Server),
		policy:    Policy{GetAllTenants: true, AllowAllFilters: true},
		max:       newestMicroversion(),
		faults:    make(map[string]*activeFault),
	}
	c.server = &http.Server{
		Handler:           c.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		// The read timeout continues while the handler works, and cancels the request's context at its end. A fault that
		// delays a request needs a long one.
		ReadTimeout:    longestRequest,
		WriteTimeout:   longestRequest,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 32 << 10,
		// Tests make clients leave early; that is no error.
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		ConnState: c.countConnection,
	}
	go func() {
		defer close(c.served)
		// The error is that of Close, or of a broken listener, which every client notices.
		_ = c.server.Serve(listener)
	}()
	return c, nil
}

func (c *Cloud) countConnection(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		c.conns.Add(1)
	case http.StateClosed, http.StateHijacked:
		c.conns.Done()
	}
}

// Close stops the server, cuts every connection, also of delayed requests, and waits for all goroutines. Later calls
// return the error of the first.
func (c *Cloud) Close() error {
	c.closed.Do(func() {
		close(c.closing)
		if err := c.server.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			c.closeErr = fmt.Errorf("close simulated cloud: %w", err)
		}
		<-c.served
		c.conns.Wait()
	})
	return c.closeErr
}

// AuthURL is the auth_url for a client, "http://127.0.0.1:PORT/identity/v3". Without "/v3" the answer is the list of
// versions.
func (c *Cloud) AuthURL() string {
	return "http://" + c.address + identityPrefix + "/v3"
}

// Handler returns what Start serves, for a test with a server of its own, such as one with TLS. All URLs in the answers
// have the scheme and host of the request. [Cloud.Close] ends requests that a [Fault] delays there, too.
func (c *Cloud) Handler() http.Handler {
	return http.HandlerFunc(c.serve)
}

func (c *Cloud) serve(w http.ResponseWriter, r *http.Request) {
	service, path := route(r.URL.Path)
	if service == "" {
		http.NotFound(w, r)
		return
	}
	// The fault is chosen before the request is counted: a test that has seen the count may replace the fault.
	fault := c.fault(service, path)
	w = c.journal.begin(w, r, service, path)
	// The body is read before a delay: only then net/http notices that a client has left.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "request body cannot be read", http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if fault != nil && c.interfere(w, r, fault, service, path) {
		return
	}
	if service == keystone {
		c.serveKeystone(w, r, path)
		return
	}
	c.serveNova(w, r, path)
}

// route returns the service of a path on the listener, and the path as that service sees it.
func route(path string) (service, rest string) {
	service = keystone
	rest, ok := strings.CutPrefix(path, identityPrefix)
	if !ok {
		service = nova
		rest, ok = strings.CutPrefix(path, computePrefix)
	}
	if !ok || rest != "" && rest[0] != '/' {
		return "", path
	}
	return service, rest
}

// SetNow sets the clock for the issue and expiry of tokens. Nil means time.Now.
func (c *Cloud) SetNow(now func() time.Time) {
	if now == nil {
		now = time.Now
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
}

// time calls the clock without the lock, because the clock is the caller's code.
func (c *Cloud) time() time.Time {
	c.mu.RLock()
	now := c.now
	c.mu.RUnlock()
	return now()
}

// rootURL returns the scheme and host of the request, such as "http://127.0.0.1:8000".
func rootURL(r *http.Request) string {
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// object is a JSON object of an answer.
type object = map[string]any

// reply answers with JSON. It does not change a content type that is set.
func reply(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	replyBytes(w, status, "application/json", data)
}

func replyBytes(w http.ResponseWriter, status int, contentType string, data []byte) {
	header := w.Header()
	if header.Get("Content-Type") == "" {
		header.Set("Content-Type", contentType)
	}
	if status != http.StatusNoContent && status != http.StatusNotModified {
		header.Set("Content-Length", strconv.Itoa(len(data)))
	}
	w.WriteHeader(status)
	// The client may have left, or the status may have no body.
	_, _ = w.Write(data)
}

// randomHex returns an ID as Keystone makes them: 32 hexadecimal digits.
func randomHex() string {
	var b [16]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}

// derivedHex returns such an ID, always the same for the same words.
func derivedHex(words ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	return hex.EncodeToString(sum[:16])
}

// dashed returns 32 hexadecimal digits as a UUID.
func dashed(id string) string {
	return id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:]
}

func newRequestID() string {
	return "req-" + dashed(randomHex())
}
