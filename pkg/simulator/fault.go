package simulator

import (
	"bytes"
	"cmp"
	"net/http"
	"strings"
)

// endlessCap is the length at which an endless answer is cut: a client without a limit must fail only its test.
const endlessCap = 64 << 20

// Fault is a way in which a service fails. The zero value is no fault. If several fields are set, Delay comes first, and
// then the first of Drop, Hang, Endless, Unauthorized and the fixed answer.
type Fault struct {
	// Status is the status of every answer, 200 to 599 (others count as 500), with Body. Without Body an answer of 400 and
	// above has a JSON error object.
	Status int
	// Body is the body of every answer, with Status, or with 200 if Status is zero.
	Body []byte
	// ContentType is that of Body. Empty means application/json.
	ContentType string
	// Hang delays every request until its client leaves, the cloud is closed, or the fault is replaced. In the last case
	// the request is then answered normally.
	Hang bool
	// Drop closes the connection without an answer.
	Drop bool
	// Delay delays every request until this channel is closed, and then answers it normally. It ends early as Hang does.
	Delay <-chan struct{}
	// Endless answers 200 and JSON white space without end. After 64 MiB the connection is cut.
	Endless bool
	// Unauthorized answers 401 to every request with a token or a password.
	Unauthorized bool
	// Only limits the fault to paths with this prefix, "/v3/..." or "/v2.1/..." as in [Cloud.Count]. Empty means all.
	Only string
}

func (f Fault) none() bool {
	return f.Status == 0 && f.Body == nil && !f.Hang && !f.Drop && f.Delay == nil && !f.Endless && !f.Unauthorized
}

type activeFault struct {
	Fault
	replaced chan struct{} // closed when Fail is called again
}

// Fail sets the fault of "keystone" or "nova". It replaces the one before; the zero Fault ends it.
func (c *Cloud) Fail(service string, f Fault) {
	f.Body = bytes.Clone(f.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.faults[service]; old != nil {
		close(old.replaced)
		delete(c.faults, service)
	}
	if !f.none() {
		c.faults[service] = &activeFault{Fault: f, replaced: make(chan struct{})}
	}
}

// fault returns the fault for a request, or nil.
func (c *Cloud) fault(service, path string) *activeFault {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if f := c.faults[service]; f != nil && strings.HasPrefix(path, f.Only) {
		return f
	}
	return nil
}

// interfere applies the fault, and reports whether the request was answered. It panics with http.ErrAbortHandler to cut
// the connection, as net/http provides.
func (c *Cloud) interfere(w http.ResponseWriter, r *http.Request, f *activeFault, service, path string) bool {
	if f.Delay != nil && !c.hold(r, f, f.Delay) {
		return false
	}
	switch {
	case f.Drop:
		panic(http.ErrAbortHandler)
	case f.Hang:
		c.hold(r, f, nil)
		return false
	case f.Endless:
		c.replyEndless(w, r, f)
		return true
	case f.Unauthorized && service == keystone && path == tokensPath:
		keystoneUnauthorized(w, r)
		return true
	case f.Unauthorized && service == nova && needsToken(path):
		novaUnauthorized(w, r)
		return true
	case f.Status != 0 || f.Body != nil:
		f.replyFixed(w)
		return true
	}
	return false
}

// hold waits until the channel is closed, and reports false if the fault was replaced before. It cuts the connection if
// the client left or the cloud closes.
func (c *Cloud) hold(r *http.Request, f *activeFault, until <-chan struct{}) bool {
	select {
	case <-until:
		return true
	case <-f.replaced:
		return false
	case <-r.Context().Done():
	case <-c.closing:
	}
	panic(http.ErrAbortHandler)
}

func (c *Cloud) replyEndless(w http.ResponseWriter, r *http.Request, f *activeFault) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	space := bytes.Repeat([]byte(" "), 32<<10)
	for sent := 0; sent < endlessCap; sent += len(space) {
		select {
		case <-r.Context().Done():
		case <-f.replaced:
		case <-c.closing:
		default:
			if _, err := w.Write(space); err == nil {
				continue
			}
		}
		break
	}
	// After a proper end the client would accept the answer as complete.
	panic(http.ErrAbortHandler)
}

func (f *activeFault) replyFixed(w http.ResponseWriter) {
	status := f.Status
	switch {
	case status == 0:
		status = http.StatusOK
	case status < 200 || status > 599:
		status = http.StatusInternalServerError
	}
	if f.Body == nil && status >= 400 {
		reply(w, status, errorObject(status, http.StatusText(status)))
		return
	}
	replyBytes(w, status, cmp.Or(f.ContentType, "application/json"), f.Body)
}

// errorObject is an error of Keystone, or of its middleware in front of Nova.
func errorObject(status int, message string) object {
	return object{"error": object{"code": status, "message": message, "title": http.StatusText(status)}}
}
