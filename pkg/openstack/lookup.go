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
)

const (
	freshFor   = 2 * time.Second // how old a record may be when it is used, from the start of its call
	unknownFor = time.Second
	seenFor    = time.Hour
	cacheSize  = 8192
	seenSize   = 131072
	perCaller  = 4 // lookups in flight for one address
	// One reservedPart-th of the calls that may be in flight is for callers that
	// were recognised: strangers who ask for many instances must not keep them out.
	reservedPart = 4
	lateness     = 100 * time.Millisecond // for a flight to say why it failed at its deadline
	listAtMost   = 2                      // one is the answer, two say that the filter was ignored
	serversPath  = "servers"
)

// fetch asks Nova for one server, in one call.
func (c *Client) fetch(ctx context.Context, id attest.InstanceID) (attest.Instance, error) {
	s, err := c.connect(ctx)
	if err != nil {
		return attest.Instance{}, err
	}
	find := s.show
	if s.list() {
		find = s.find
	}
	in, err := find(ctx, id)
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
	case gophercloud.ResponseCodeIs(err, http.StatusForbidden):
		return attest.Instance{}, fmt.Errorf("the account lost nova's policy %s", policyAllTenants)
	case err != nil:
		return attest.Instance{}, err
	case len(found) == 0:
		return attest.Instance{}, attest.ErrNoInstance
	case len(found) > 1 || found[0].ID == nil || !strings.EqualFold(*found[0].ID, id.String()):
		return attest.Instance{}, fmt.Errorf("nova ignored the uuid filter: the account lacks its policy %s", policyAllFilters)
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

// lookups makes one call of any number of questions about one instance.
type lookups struct {
	ask     func(context.Context, attest.InstanceID) (attest.Instance, error)
	timeout time.Duration
	slots   chan struct{} // for all calls
	general chan struct{} // fewer, for callers that were not recognised
	now     func() time.Time
	life    context.Context // of all flights, also of those that flights no longer has
	end     context.CancelFunc

	mu      sync.Mutex
	closed  bool
	flights map[attest.InstanceID]*flight
	callers map[netip.Addr]int
	found   *ttlCache[attest.InstanceID, attest.Instance]
	unknown *ttlCache[attest.InstanceID, struct{}]
	running sync.WaitGroup
	flying  int
}

// flight is a call under way. It lives until it is answered or its last waiter
// has left, whoever of them began it, unless one of them was recognised.
type flight struct {
	began   time.Time
	waiters int
	cancel  context.CancelFunc
	hurry   chan struct{} // closed when a recognised caller waits
	hurried bool
	done    chan struct{}
	in      attest.Instance
	err     error
}

var errClosed = errors.New("the server is stopping")

func newLookups(ask func(context.Context, attest.InstanceID) (attest.Instance, error), cfg Config, now func() time.Time) *lookups {
	l := &lookups{
		ask: ask, timeout: cfg.Timeout, now: now,
		slots:   make(chan struct{}, cfg.MaxConcurrent),
		general: make(chan struct{}, max(1, cfg.MaxConcurrent-cfg.MaxConcurrent/reservedPart)),
		flights: map[attest.InstanceID]*flight{},
		callers: map[netip.Addr]int{},
		found:   newTTLCache[attest.InstanceID, attest.Instance](freshFor, cacheSize),
		unknown: newTTLCache[attest.InstanceID, struct{}](unknownFor, cacheSize),
	}
	l.life, l.end = context.WithCancel(context.Background())
	return l
}

func (l *lookups) get(ctx context.Context, id attest.InstanceID, caller netip.Addr) (attest.Instance, error) {
	l.mu.Lock()
	f, in, err := l.join(id, caller)
	l.mu.Unlock()
	if f == nil {
		return in, err
	}
	// A login that begins within a flight serves others, too, and is not ended
	// with it. Whoever waits for this instance has a deadline all the same.
	late := time.NewTimer(l.timeout + lateness)
	defer late.Stop()
	select {
	case <-f.done:
		return f.in, f.err
	case <-ctx.Done():
		err = ctx.Err()
	case <-late.C:
		err = fmt.Errorf("nova server %s: no answer within %v", id, l.timeout)
	}
	l.leave(id, f)
	return attest.Instance{}, err
}

// join gives what is known, or the flight that will tell. l.mu is held.
func (l *lookups) join(id attest.InstanceID, caller netip.Addr) (*flight, attest.Instance, error) {
	now := l.now()
	if in, ok := l.found.get(id, now); ok {
		return nil, in, nil
	}
	if _, ok := l.unknown.get(id, now); ok {
		return nil, attest.Instance{}, attest.ErrNoInstance
	}
	// An older flight would bring an older record than may be used.
	if f := l.flights[id]; f != nil && now.Sub(f.began) < freshFor {
		f.waiters++
		f.join(caller)
		return f, attest.Instance{}, nil
	}
	switch {
	case l.closed:
		return nil, attest.Instance{}, errClosed
	case caller.IsValid() && l.callers[caller] >= perCaller:
		return nil, attest.Instance{}, attest.ErrTooManyLookups
	}
	ctx, cancel := context.WithTimeout(l.life, l.timeout)
	f := &flight{began: now, waiters: 1, cancel: cancel, hurry: make(chan struct{}), done: make(chan struct{})}
	f.join(caller)
	l.flights[id] = f
	l.callers[caller]++
	l.flying++
	l.running.Go(func() { l.fly(ctx, id, caller, f) })
	return f, attest.Instance{}, nil
}

// join lets a flight use what is reserved for recognised callers if one of them
// waits for it. The lookups' mu is held.
func (f *flight) join(caller netip.Addr) {
	if !caller.IsValid() && !f.hurried {
		f.hurried = true
		close(f.hurry)
	}
}

func (l *lookups) leave(id attest.InstanceID, f *flight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f.waiters--
	// Who is recognised comes back.
	if f.waiters == 0 && !f.hurried {
		f.cancel()
		// Whoever comes now must not wait for a call that was given up.
		if l.flights[id] == f {
			delete(l.flights, id)
		}
	}
}

func (l *lookups) fly(ctx context.Context, id attest.InstanceID, caller netip.Addr, f *flight) {
	defer f.cancel()
	in, err := l.askInTurn(ctx, id, f)

	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.found.put(id, in, f.began)
		l.unknown.drop(id)
	case errors.Is(err, attest.ErrNoInstance):
		l.found.drop(id)
		l.unknown.put(id, struct{}{}, f.began)
	}
	f.in, f.err = in, err
	if l.flights[id] == f {
		delete(l.flights, id)
	}
	if l.callers[caller]--; l.callers[caller] <= 0 {
		delete(l.callers, caller)
	}
	l.flying--
	close(f.done)
}

func (l *lookups) askInTurn(ctx context.Context, id attest.InstanceID, f *flight) (attest.Instance, error) {
	select {
	case <-f.hurry:
	case l.general <- struct{}{}:
		defer func() { <-l.general }()
	case <-ctx.Done():
		return attest.Instance{}, l.busy(l.general)
	}
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	case <-ctx.Done():
		return attest.Instance{}, l.busy(l.slots)
	}
	return l.ask(ctx, id)
}

func (l *lookups) busy(slots chan struct{}) error {
	return fmt.Errorf("all %d calls to nova that may be in flight are, for %v", cap(slots), l.timeout)
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
