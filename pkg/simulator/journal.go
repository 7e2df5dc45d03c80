package simulator

import (
	"net/http"
	"strings"
	"sync"
)

const (
	journalSize  = 10_000 // requests remembered, and distinct paths counted
	longestURI   = 1024   // bytes kept of a request's URI
	longestAgent = 256    // bytes kept of a User-Agent or microversion
)

// Request is one received request.
type Request struct {
	Service      string // "keystone" or "nova"
	Method       string
	URI          string // as sent, with the prefix of the service on this listener ("/compute/v2.1/...") and the query; cut after 1 KiB
	Status       int    // of the answer; 0 before it, and if the connection was cut instead
	UserAgent    string
	Microversion string // the requested compute version, "" if there is none
}

// journal keeps the newest requests and counts all.
type journal struct {
	mu     sync.Mutex
	ring   []*Request // at most journalSize; when it is full, next is the oldest
	next   int
	counts map[counter]int
}

type counter struct{ service, method, path string }

func newJournal() *journal {
	return &journal{counts: make(map[counter]int)}
}

// Requests returns the newest 10,000 requests since Start, oldest first, including those without an answer.
func (c *Cloud) Requests() []Request {
	j := c.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	list := make([]Request, 0, len(j.ring))
	for i := range j.ring {
		list = append(list, *j.ring[(j.next+i)%len(j.ring)])
	}
	return list
}

// Count returns the number of requests to the service since Start with this method and a path that begins with
// pathPrefix, including those without an answer. The path is without the prefix of the service on this listener:
// Count("keystone", "POST", "/v3/auth/tokens") are the logins, Count("nova", "GET", "/v2.1/servers/") the lookups.
//
// After 10,000 distinct paths, new ones below /v2.1/servers/ are counted as "/v2.1/servers/" and others as "/".
func (c *Cloud) Count(service, method, pathPrefix string) int {
	j := c.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	total := 0
	for key, n := range j.counts {
		if key.service == service && key.method == method && strings.HasPrefix(key.path, pathPrefix) {
			total += n
		}
	}
	return total
}

// begin notes a request, and returns a writer that notes the status of its answer.
func (j *journal) begin(w http.ResponseWriter, r *http.Request, service, path string) http.ResponseWriter {
	entry := &Request{
		Service:      service,
		Method:       cut(r.Method, longestAgent),
		URI:          cut(r.RequestURI, longestURI),
		UserAgent:    cut(r.UserAgent(), longestAgent),
		Microversion: cut(requestedMicroversion(r.Header), longestAgent),
	}
	key := counter{service, entry.Method, cut(path, longestURI)}

	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.ring) < journalSize {
		j.ring = append(j.ring, entry)
	} else {
		j.ring[j.next] = entry
		j.next = (j.next + 1) % journalSize
	}
	if _, known := j.counts[key]; !known && len(j.counts) >= journalSize {
		key = crowded(key)
	}
	j.counts[key]++
	return &statusWriter{ResponseWriter: w, journal: j, entry: entry}
}

// crowded returns the shared counter for a path beyond journalSize. It keeps the journal bounded.
func crowded(key counter) counter {
	if key.method != http.MethodGet && key.method != http.MethodPost && key.method != http.MethodHead {
		key.method = ""
	}
	const servers = "/v2.1/servers/"
	if strings.HasPrefix(key.path, servers) {
		key.path = servers
	} else {
		key.path = "/"
	}
	return key
}

// cut copies the text, so that a short part does not keep a long request in memory.
func cut(s string, length int) string {
	return strings.Clone(s[:min(len(s), length)])
}

// statusWriter notes the status before the client can see the answer.
type statusWriter struct {
	http.ResponseWriter
	journal *journal
	entry   *Request
}

func (w *statusWriter) WriteHeader(status int) {
	w.journal.mu.Lock()
	w.entry.Status = status
	w.journal.mu.Unlock()
	w.ResponseWriter.WriteHeader(status)
}
