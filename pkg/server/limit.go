package server

import (
	"fmt"
	"net/http"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

const (
	// throttleSize is how many client addresses, and how many instances, the limiters
	// remember.
	throttleSize = 1 << 16
	// documentsSize is how many instances with documents are remembered; each takes
	// some 250 bytes.
	documentsSize = 1 << 14
	// documentsKept is how many documents of one instance are accepted at once, and
	// again within the life of a document. The state counts each document until it
	// expires, and has room for a million counts. Without this bound 600 instances that
	// read a new document twice in three seconds, each valid for an hour, would take all
	// of that room, and no other instance would get a token.
	documentsKept = 64
)

// throttled is the error of a request that a limit refuses.
type throttled struct {
	reason attest.Reason
	wait   time.Duration
}

func (t *throttled) Error() string { return fmt.Sprintf("too many requests; retry in %v", t.wait) }

// limit counts a request by the client's address, or by instance if the instance is
// authenticated: instances behind one NAT address must not use up each other's requests.
//
// It reads the clock anew. With d.began a client that delays its body could turn the
// clock of its bucket back, which would fill the bucket again.
func (s *Server) limit(d *decision) error {
	if d.evidence.Recognized() {
		return s.limitInstance(d)
	}
	d.limited = true
	client := d.evidence.Addr()
	if !client.IsValid() { // a metadata agent whose headers cannot be used
		client, _ = parsePeer(d.peer)
	}
	if wait, ok := s.throttle.Allow(client, s.opts.Now()); !ok {
		return &throttled{throttledAddress, wait}
	}
	return nil
}

func (s *Server) limitInstance(d *decision) error {
	d.limited, d.proven = true, true
	wait, ok := s.instances.Allow(d.request.instance, s.opts.Now())
	if ok && d.request.document != "" {
		wait, ok = s.documents.Allow(d.request.instance, s.opts.Now())
	}
	if !ok {
		return &throttled{throttledInstance, wait}
	}
	return nil
}

// mayLog counts a line that a client makes us log outside of a decision.
func (s *Server) mayLog(r *http.Request) bool {
	_, ok := s.throttle.Allow(s.opts.Proxy.evidence(r).Addr(), s.opts.Now())
	return ok
}
