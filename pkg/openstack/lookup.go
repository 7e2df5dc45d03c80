package openstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
)

const (
	freshFor   = 2 * time.Second // how old a record may be when it is used, from the start of its call
	unknownFor = time.Second
	seenFor    = time.Hour
	cacheSize  = 8192
	seenSize   = 131072
	// perCaller lookups may be in flight for one unproven address, and wait. An IPv6
	// /64 has 512: some hundred instances boot at a time.
	perCaller = 8
	// lookupQueue unproven callers may wait, and as many proven ones.
	lookupQueue = 1024
	// One reservedPart-th of the calls that may be in flight is for proven callers:
	// others who ask for many instances must not keep them out.
	reservedPart = 4
	lateness     = 100 * time.Millisecond // for a flight to say why it failed at its deadline
	listAtMost   = 2                      // one is the answer, two say that the filter was ignored
	serversPath  = "servers"
)

// fetch asks Nova for one server, in one call.
func (c *Client) fetch(ctx context.Context, id attest.InstanceID) (attest.Instance, error) {
	s, err := c.connect(ctx)
	if err == nil && s.refused != nil {
		s, err = c.probeAgain(ctx, s)
	}
	if err == nil {
		err = s.refused
	}
	if err != nil {
		return attest.Instance{}, err
	}
	find := s.show
	if s.list() {
		find = s.find
	}
	in, err := find(ctx, id)
	switch {
	case gophercloud.ResponseCodeIs(err, http.StatusForbidden):
		err = s.refusedLookup()
		c.lacks(rightLookup, err)
	case errors.As(err, new(*lack)):
		c.lacks(rightLookup, err)
	case err == nil || s.list() && errors.Is(err, attest.ErrNoInstance):
		// That a server is unknown to a show proves nothing: Nova asks its policy later.
		c.has(rightLookup)
	}
	switch {
	case errors.Is(err, attest.ErrNoInstance):
		if s.list() && c.wasSeen(id) {
			// Nova leaves the servers of a cell that is down out of a list.
			return attest.Instance{}, fmt.Errorf("nova server %s: it was there within the last hour and is in no list now: deleted, or its cell is down", id)
		}
		return attest.Instance{}, err
	case err != nil:
		return attest.Instance{}, fmt.Errorf("nova server %s: %w", id, c.explain(err))
	case in.ID != id:
		return attest.Instance{}, fmt.Errorf("nova server %s: the answer is about %s", id, in.ID)
	}
	if s.list() {
		c.markSeen(id)
	}
	in.Region = s.region
	return in, nil
}

func (c *Client) wasSeen(id attest.InstanceID) bool {
	c.seenMu.Lock()
	defer c.seenMu.Unlock()
	_, ok := c.seen.get(id, c.now())
	return ok
}

func (c *Client) markSeen(id attest.InstanceID) {
	c.seenMu.Lock()
	defer c.seenMu.Unlock()
	c.seen.put(id, struct{}{}, c.now())
}

func (s *session) show(ctx context.Context, id attest.InstanceID) (attest.Instance, error) {
	var answer struct {
		Server *record `json:"server"`
	}
	_, err := s.compute.Get(ctx, s.compute.ServiceURL(serversPath, id.String()), &answer, nil)
	switch {
	case unknownServer(err):
		return attest.Instance{}, attest.ErrNoInstance
	case err != nil:
		return attest.Instance{}, err
	case answer.Server == nil:
		return attest.Instance{}, errors.New("the answer has no server")
	}
	return answer.Server.instance()
}

// unknownServer reports whether err is Nova's own word that there is no such
// server, and not a balancer's that there is no such path.
func unknownServer(err error) bool {
	var fault struct {
		ItemNotFound json.RawMessage `json:"itemNotFound"`
	}
	return notFound(err, &fault) && fault.ItemNotFound != nil
}

func (s *session) find(ctx context.Context, id attest.InstanceID) (attest.Instance, error) {
	found, err := s.listServers(ctx, id.String())
	switch {
	case err != nil:
		return attest.Instance{}, err
	case len(found) == 0:
		return attest.Instance{}, attest.ErrNoInstance
	case len(found) > 1 || found[0].ID == nil || !strings.EqualFold(*found[0].ID, id.String()):
		return attest.Instance{}, s.refusedFilter()
	}
	return found[0].instance()
}

// listServers asks for the servers of all projects with that UUID
// (api-ref/source/servers.inc, "List Servers Detailed").
func (s *session) listServers(ctx context.Context, id string) ([]record, error) {
	query := url.Values{"all_tenants": {"1"}, "uuid": {id}, "limit": {fmt.Sprint(listAtMost)}}
	var answer struct {
		Servers *[]record `json:"servers"`
	}
	if _, err := s.compute.Get(ctx, s.compute.ServiceURL(serversPath, "detail")+"?"+query.Encode(), &answer, nil); err != nil {
		return nil, err
	}
	if answer.Servers == nil {
		return nil, errors.New("the answer has no servers")
	}
	return *answer.Servers, nil
}

// lookups makes one call of many questions about one instance, and lets callers ask by
// turns when Nova is slow ([ratelimit.Gate]).
//
// What proven callers ask is kept for a while, what others ask is not, and they do not
// share a call with proven ones: how long an answer takes tells an unproven caller nothing
// of what the instance itself did.
type lookups struct {
	ask     func(context.Context, attest.InstanceID) (attest.Instance, error)
	timeout time.Duration
	all     int // calls that may be in flight, and of them those of unproven callers
	open    int
	gate    *ratelimit.Gate
	now     func() time.Time
	life    context.Context // of all flights, also of those that flights no longer has
	end     context.CancelFunc

	mu      sync.Mutex
	closed  bool
	flights map[question]*flight
	found   *ttlCache[attest.InstanceID, attest.Instance]
	unknown *ttlCache[attest.InstanceID, struct{}]
	running sync.WaitGroup
	flying  int
}

// question is what a flight is about.
type question struct {
	id     attest.InstanceID
	proven bool
}

// flight is one call, and those who wait for it, of whom each waits for its own turn as
// well: the first who is let in begins it. It lives until it is answered or its last
// waiter has left; that of a proven caller, who comes back, until it is answered.
type flight struct {
	waiters int
	started chan struct{} // closed when the call begins
	began   time.Time
	cancel  context.CancelFunc // nil until then
	done    chan struct{}
	in      attest.Instance
	err     error
}

var errClosed = errors.New("the server is stopping")

func newLookups(ask func(context.Context, attest.InstanceID) (attest.Instance, error), plan Plan, now func() time.Time) *lookups {
	l := &lookups{
		ask: ask, timeout: plan.timeout, now: now,
		all:     plan.maxConcurrent,
		open:    max(1, plan.maxConcurrent-plan.maxConcurrent/reservedPart),
		flights: map[question]*flight{},
		found:   newTTLCache[attest.InstanceID, attest.Instance](freshFor, cacheSize),
		unknown: newTTLCache[attest.InstanceID, struct{}](unknownFor, cacheSize),
	}
	l.gate = ratelimit.NewGate(ratelimit.GateConfig{All: plan.maxConcurrent, Open: l.open, Each: perCaller, Waiting: lookupQueue})
	l.life, l.end = context.WithCancel(context.Background())
	return l
}

// get asks on behalf of a caller at an address, or of a proven one if that is the zero
// Addr.
func (l *lookups) get(ctx context.Context, id attest.InstanceID, caller netip.Addr) (attest.Instance, error) {
	q := question{id, !caller.IsValid()}
	l.mu.Lock()
	f, ticket, in, err := l.join(q, caller)
	l.mu.Unlock()
	if f == nil {
		return in, err
	}
	// A login that begins within a flight serves others, too, and is not ended
	// with it. Whoever waits for this instance has a deadline all the same.
	late := time.NewTimer(l.timeout + lateness)
	defer late.Stop()
	if ticket != nil {
		if err := l.turn(ctx, q, f, ticket, late.C); err != nil {
			l.leave(q, f)
			return attest.Instance{}, err
		}
	}
	select {
	case <-f.done:
		return f.in, f.err
	case <-ctx.Done():
		err = ctx.Err()
	case <-late.C:
		err = fmt.Errorf("nova server %s: no answer within %v", id, l.timeout)
	}
	l.leave(q, f)
	return attest.Instance{}, err
}

// turn waits until a flight begins, by this ticket or another.
func (l *lookups) turn(ctx context.Context, q question, f *flight, ticket *ratelimit.Ticket, late <-chan time.Time) error {
	select {
	case <-ticket.Admitted():
		l.mu.Lock()
		defer l.mu.Unlock()
		l.start(q, f, ticket)
		return nil
	case <-f.started:
		ticket.Leave()
		return nil
	case <-ticket.Displaced():
		return attest.ErrTooManyLookups
	case <-ctx.Done():
		ticket.Leave()
		return ctx.Err()
	case <-late:
		ticket.Leave()
		most := l.open
		if q.proven {
			most = l.all
		}
		return fmt.Errorf("all %d calls to nova that may be in flight are, for %v", most, l.timeout)
	}
}

// join gives what is known, or the flight that will tell, and a place in the queue if
// that has not begun. l.mu is held.
func (l *lookups) join(q question, caller netip.Addr) (*flight, *ratelimit.Ticket, attest.Instance, error) {
	now := l.now()
	if q.proven {
		if in, ok := l.found.get(q.id, now); ok {
			return nil, nil, in, nil
		}
		if _, ok := l.unknown.get(q.id, now); ok {
			return nil, nil, attest.Instance{}, attest.ErrNoInstance
		}
	}
	f := l.flights[q]
	switch {
	// An older flight would bring an older record than may be used.
	case f != nil && f.cancel != nil && now.Sub(f.began) < freshFor:
		f.waiters++
		return f, nil, attest.Instance{}, nil
	case l.closed:
		return nil, nil, attest.Instance{}, errClosed
	}
	ticket, err := l.gate.Enter(caller)
	switch {
	case errors.Is(err, ratelimit.ErrCrowded):
		return nil, nil, attest.Instance{}, attest.ErrTooManyLookups
	case err != nil:
		return nil, nil, attest.Instance{}, fmt.Errorf("lookups of nova: %w", err)
	}
	if f == nil || f.cancel != nil {
		f = &flight{started: make(chan struct{}), done: make(chan struct{})}
		l.flights[q] = f
		l.flying++
	}
	f.waiters++
	select {
	case <-ticket.Admitted():
		l.start(q, f, ticket)
		ticket = nil
	default:
	}
	return f, ticket, attest.Instance{}, nil
}

// start begins the call of a flight, unless another has. l.mu is held.
func (l *lookups) start(q question, f *flight, ticket *ratelimit.Ticket) {
	if f.cancel != nil {
		ticket.Leave()
		return
	}
	if l.closed {
		ticket.Leave()
		f.cancel, f.err = func() {}, errClosed
		close(f.started)
		close(f.done)
		l.flying--
		if l.flights[q] == f {
			delete(l.flights, q)
		}
		return
	}
	var ctx context.Context
	ctx, f.cancel = context.WithTimeout(l.life, l.timeout)
	f.began = l.now()
	close(f.started)
	l.running.Go(func() { l.fly(ctx, q, f, ticket) })
}

func (l *lookups) leave(q question, f *flight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f.waiters--
	if f.waiters > 0 {
		return
	}
	switch {
	case f.cancel == nil:
		l.flying--
	case q.proven: // it comes back
		return
	default:
		f.cancel()
	}
	// A caller that comes now must not wait for a call that was given up.
	if l.flights[q] == f {
		delete(l.flights, q)
	}
}

func (l *lookups) fly(ctx context.Context, q question, f *flight, ticket *ratelimit.Ticket) {
	in, err := l.ask(ctx, q.id)
	f.cancel()
	ticket.Leave() // before the waiters hear: what they ask next has room

	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.found.put(q.id, in, f.began)
		l.unknown.drop(q.id)
	case errors.Is(err, attest.ErrNoInstance):
		l.found.drop(q.id)
		l.unknown.put(q.id, struct{}{}, f.began)
	}
	f.in, f.err = in, err
	if l.flights[q] == f {
		delete(l.flights, q)
	}
	l.flying--
	close(f.done)
}

func (l *lookups) inFlight() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flying
}

func (l *lookups) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.end()
	l.running.Wait()
}
