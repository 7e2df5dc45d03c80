package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
)

const (
	freshFor   = 2 * time.Second // the greatest age of a record that is used, from the start of its call
	retryFor   = 3 * time.Second // how long the record of a late call is kept, from its answer
	unknownFor = time.Second
	seenFor    = time.Hour
	cacheSize  = 8192
	seenSize   = 131072
	// perCaller is the most lookups of one unproven address in flight or waiting. An IPv6 /64 has 512, because some
	// hundred instances of a subnet boot at the same time.
	perCaller = 8
	// lookupQueue is the most unproven callers that may wait, and again the most proven ones.
	lookupQueue = 1024
	// One call in reservedPart is reserved for proven callers, so that unproven ones cannot keep them out.
	reservedPart = 4
	lateness     = 100 * time.Millisecond // for a flight to report why it failed at its deadline
)

// lookups makes one call for concurrent questions about one instance, and lets callers take turns when Nova is slow
// ([ratelimit.Gate]).
//
// Only the answers to proven callers are cached, and unproven callers share no call with them. So an unproven caller
// cannot learn from the time an answer takes whether the instance asked for a token.
//
// A proven caller with a deadline comes back if it gets no answer: its lookup keeps its place in the queue, goes on to
// the timeout, and its record is kept for retryFor. The record may be older than freshFor, so other callers do not get
// it.
type lookups struct {
	ask     func(context.Context, attest.InstanceID) (attest.Instance, error)
	timeout time.Duration
	all     int // calls that may be in flight
	open    int // of these, calls for unproven callers
	gate    *ratelimit.Gate
	now     func() time.Time
	life    context.Context // of all flights, also of those that left the map flights
	end     context.CancelFunc

	mu      sync.Mutex
	closed  bool
	flights map[question]*flight
	found   *ttlCache[attest.InstanceID, attest.Instance]
	late    *ttlCache[attest.InstanceID, attest.Instance] // for callers that come back
	unknown *ttlCache[attest.InstanceID, struct{}]
	running sync.WaitGroup
	flying  int
}

// question is what a flight asks. Flights for proven and unproven callers are separate.
type question struct {
	id     attest.InstanceID
	proven bool
}

// flight is one call and the callers that wait for it. An unproven caller also waits for its own turn, and the first turn
// starts the call; the flight ends with the answer, or when its last caller leaves. A flight for proven callers waits for
// its turn itself, and ends with the answer alone.
type flight struct {
	waiters int
	left    bool          // by a caller that comes back
	started chan struct{} // closed when the call starts
	began   time.Time
	cancel  context.CancelFunc // nil before the start
	done    chan struct{}
	in      attest.Instance
	err     error
}

func newLookups(ask func(context.Context, attest.InstanceID) (attest.Instance, error), plan Plan, now func() time.Time) *lookups {
	l := &lookups{
		ask: ask, timeout: plan.timeout, now: now,
		all:     plan.maxConcurrent,
		open:    max(1, plan.maxConcurrent-plan.maxConcurrent/reservedPart),
		flights: map[question]*flight{},
		found:   newTTLCache[attest.InstanceID, attest.Instance](freshFor, cacheSize),
		late:    newTTLCache[attest.InstanceID, attest.Instance](retryFor, cacheSize),
		unknown: newTTLCache[attest.InstanceID, struct{}](unknownFor, cacheSize),
	}
	l.gate = ratelimit.NewGate(ratelimit.GateConfig{All: plan.maxConcurrent, Open: l.open, Each: perCaller, Waiting: lookupQueue})
	l.life, l.end = context.WithCancel(context.Background())
	return l
}

// get asks for a caller at an address, or for a proven caller if that is the zero Addr.
func (l *lookups) get(ctx context.Context, id attest.InstanceID, caller netip.Addr) (attest.Instance, error) {
	q := question{id, !caller.IsValid()}
	_, returns := ctx.Deadline()
	l.mu.Lock()
	f, ticket, in, err := l.join(q, caller, returns)
	l.mu.Unlock()
	if f == nil {
		return in, err
	}
	// A login that a flight started continues after the flight, because others need it. This caller still has a deadline.
	late := time.NewTimer(l.timeout + lateness)
	defer late.Stop()
	if ticket != nil {
		if err := l.turn(ctx, q, f, ticket, late.C); err != nil {
			l.leave(q, f, returns)
			return attest.Instance{}, err
		}
	}
	select {
	case <-f.done:
		return f.in, f.err
	case <-ctx.Done():
		err = ctx.Err()
		if q.proven && returns {
			err = fmt.Errorf("nova server %s: no answer yet; the lookup goes on, and a retry finds its record: %w", id, err)
		}
	case <-late.C:
		err = fmt.Errorf("nova server %s: no answer within %v", id, l.timeout)
	}
	l.leave(q, f, returns)
	return attest.Instance{}, err
}

// turn waits until the call of a flight starts, by this ticket or another.
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
		return l.errFull(q)
	}
}

// errFull is the error of a caller whose turn did not come.
func (l *lookups) errFull(q question) error {
	most := l.open
	if q.proven {
		most = l.all
	}
	return fmt.Errorf("the limit of %d calls to nova in flight was reached for %v", most, l.timeout)
}

// await waits until the call of a flight for proven callers starts, also when they have left.
func (l *lookups) await(q question, f *flight, ticket *ratelimit.Ticket) {
	late := time.NewTimer(l.timeout)
	defer late.Stop()
	err := errClosed
	select {
	case <-ticket.Admitted():
		l.mu.Lock()
		defer l.mu.Unlock()
		l.start(q, f, ticket)
		return
	case <-l.life.Done():
	case <-late.C:
		err = l.errFull(q)
	}
	ticket.Leave()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail(q, f, err)
}

// join returns a cached answer, or the flight that will have the answer. An unproven caller gets a place in the queue if
// the call has not started. The caller holds l.mu.
func (l *lookups) join(q question, caller netip.Addr, returns bool) (*flight, *ratelimit.Ticket, attest.Instance, error) {
	now := l.now()
	if q.proven {
		if in, ok := l.found.get(q.id, now); ok {
			return nil, nil, in, nil
		}
		if in, ok := l.late.get(q.id, now); ok && returns {
			return nil, nil, in, nil
		}
		if _, ok := l.unknown.get(q.id, now); ok {
			return nil, nil, attest.Instance{}, attest.ErrNoInstance
		}
	}
	f := l.flights[q]
	waits := f != nil && f.cancel == nil
	// The record of an older flight would be too old.
	joins := f != nil && f.cancel != nil && (now.Sub(f.began) < freshFor || returns && f.left)
	switch {
	case joins || waits && q.proven:
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
	if !waits {
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
		if q.proven {
			waiting := ticket
			l.running.Go(func() { l.await(q, f, waiting) })
			ticket = nil
		}
	}
	return f, ticket, attest.Instance{}, nil
}

// start starts the call of a flight unless it was started. The caller holds l.mu.
func (l *lookups) start(q question, f *flight, ticket *ratelimit.Ticket) {
	if f.cancel != nil {
		ticket.Leave()
		return
	}
	if l.closed {
		ticket.Leave()
		l.fail(q, f, errClosed)
		return
	}
	var ctx context.Context
	ctx, f.cancel = context.WithTimeout(l.life, l.timeout)
	f.began = l.now()
	close(f.started)
	l.running.Go(func() { l.fly(ctx, q, f, ticket) })
}

// fail ends a flight whose call does not start. The caller holds l.mu.
func (l *lookups) fail(q question, f *flight, err error) {
	f.cancel, f.err = func() {}, err
	close(f.started)
	close(f.done)
	l.flying--
	if l.flights[q] == f {
		delete(l.flights, q)
	}
}

func (l *lookups) leave(q question, f *flight, returns bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f.waiters--
	f.left = f.left || returns
	if f.waiters > 0 || q.proven {
		return
	}
	if f.cancel == nil {
		l.flying--
	} else {
		f.cancel()
	}
	// A new caller must not wait for a canceled call.
	if l.flights[q] == f {
		delete(l.flights, q)
	}
}

func (l *lookups) fly(ctx context.Context, q question, f *flight, ticket *ratelimit.Ticket) {
	in, err := l.ask(ctx, q.id)
	f.cancel()
	ticket.Leave() // before the callers get the answer, so that their next question has room

	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.found.put(q.id, in, f.began)
		l.late.drop(q.id)
		if f.left && q.proven && l.flights[q] == f { // no newer call was made
			l.late.put(q.id, in, l.now())
		}
		l.unknown.drop(q.id)
	case errors.Is(err, attest.ErrNoInstance):
		l.found.drop(q.id)
		l.late.drop(q.id)
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
