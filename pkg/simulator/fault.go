package simulator

import (
	"bytes"
	"net/http"
	"strings"
)

// endlessCap is where an endless answer is cut after all, in bytes: a client without a bound shall fail its test and not
// the machine.
const endlessCap = 64 << 20

// Fault is a way in which a service misbehaves. Its zero value is none. Of several kinds in one fault, Delay comes first
// and then the first of Drop, Hang, Endless, Unauthorized and the fixed answer.
type Fault struct {
	// Status answers every request with this status, 200 to 599 (others count as 500), and Body. Without Body an answer
	// of 400 and above has a JSON error object in it.
	Status int
	// Body is answered instead of the real one, with Status, or with 200 when that is zero.
	Body []byte
	// ContentType of Body; empty means application/json.
	ContentType string
	// Hang holds every request back until its client goes, the cloud is closed, or the fault is replaced. In the last
	// case the request is then answered normally.
	Hang bool
	// Drop closes the connection without an answer.
	Drop bool
	// Delay holds every request back until this channel is closed, and then answers it normally; it ends early as Hang
	// does.
	Delay <-chan struct{}
	// Endless answers 200 and JSON white space without end; after 64 MiB the connection is cut.
	Endless bool
	// Unauthorized answers 401 wherever a token or a password is looked at, whatever it is worth.
	Unauthorized bool
	// Only limits the fault to paths with this prefix, "/v3/..." or "/v2.1/..." as in [Cloud.Count]. Empty means all.
	Only string
}

func (f Fault) none() bool {
	return f.Status == 0 && f.Body == nil && !f.Hang && !f.Drop && f.Delay == nil && !f.Endless && !f.Unauthorized
}

type activeFault struct {
	Fault
	replaced chan struct{} // closed when another fault, or none, takes its place
}

// Fail installs a fault for "keystone" or "nova". It takes the place of the one before; the zero Fault heals the service.
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

// fault is the one that a request meets, or nil.
func (c *Cloud) fault(service, path string) *activeFault {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if f := c.faults[service]; f != nil && strings.HasPrefix(path, f.Only) {
		return f
	}
	return nil
}

// interfere does what the fault says. It reports whether the request is done with; a connection that is to be
// cut it leaves by panicking with http.ErrAbortHandler, the way net/http provides for that.
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

// hold waits for until to be closed, and reports false if the fault was replaced before. If nobody waits for the answer
// any more it cuts the connection.
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
	// A proper end would make it a short and complete answer.
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
	contentType := f.ContentType
	if contentType == "" {
		contentType = "application/json"
	}
	replyBytes(w, status, contentType, f.Body)
}

// errorObject is the error of Keystone, and of its middleware in front of Nova.
func errorObject(status int, message string) object {
	return object{"error": object{"code": status, "message": message, "title": http.StatusText(status)}}
}
