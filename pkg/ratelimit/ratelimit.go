// Package ratelimit limits clients: how often they send requests ([Limiter], [Addresses]),
// and how many requests of each are in progress and wait ([Gate]).
//
// A client is limited by its address. An IPv6 client can use any address of its /64, so
// the /64 has a limit as well, [SubnetShare] times that of an address. When clients wait,
// networks (IPv4 /24, IPv6 /48) take turns, so a client with many addresses in one network
// gets no more than others. All limits are in memory: they do not survive a restart, and
// several servers do not share them.
package ratelimit

import (
	"container/list"
	"errors"
	"math"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
)

// Rate limits the requests of one key.
type Rate struct {
	// Rate is how many requests a second are allowed in the long run.
	Rate float64 `yaml:"rate"`
	// Burst is how many requests are allowed at once.
	Burst int `yaml:"burst"`
}

// Limit is a parsed [Rate]. The zero value allows no request.
type Limit struct {
	rate  float64
	burst int
}

// Parse checks the rate. The error joins all problems ([problem.List]).
func (r Rate) Parse() (Limit, error) {
	var problems []error
	if !(r.Rate > 0) || math.IsInf(r.Rate, 0) {
		problems = append(problems, problem.Errorf("rate", "%v is not a positive number of requests a second", r.Rate))
	}
	if r.Burst < 1 || r.Burst > 1<<20 {
		problems = append(problems, problem.Errorf("burst", "%d is not in 1 to %d", r.Burst, 1<<20))
	}
	if err := errors.Join(problems...); err != nil {
		return Limit{}, err
	}
	return Limit{r.Rate, r.Burst}, nil
}

// Within allows n requests at once, and n more in each period, which is at least a second.
func Within(n int, period time.Duration) Limit {
	return Limit{float64(n) / max(period, time.Second).Seconds(), n}
}

// Limiter has a token bucket for each key. When it is full, it drops the bucket that was
// not used for the longest time. A client that uses this to get a full bucket again must
// have more keys than fit into the limiter.
type Limiter[K comparable] struct {
	limit Limit
	size  int

	mu     sync.Mutex
	byKey  map[K]*list.Element
	recent *list.List // of bucket, the last one used in front
}

type bucket[K comparable] struct {
	key   K
	limit *rate.Limiter
}

// BucketMemory is how many bytes a key and its bucket use.
const BucketMemory = 288

// New returns a limiter of at most size keys.
func New[K comparable](l Limit, size int) *Limiter[K] {
	return &Limiter[K]{limit: l, size: size, byKey: map[K]*list.Element{}, recent: list.New()}
}

// Allow takes one request from the bucket of key. If the bucket is empty, it returns how
// long to wait.
func (l *Limiter[K]) Allow(key K, now time.Time) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, known := l.byKey[key]
	if known {
		l.recent.MoveToFront(e)
	} else {
		for l.recent.Len() >= l.size {
			back := l.recent.Back()
			delete(l.byKey, back.Value.(bucket[K]).key)
			l.recent.Remove(back)
		}
		e = l.recent.PushFront(bucket[K]{key, rate.NewLimiter(rate.Limit(l.limit.rate), l.limit.burst)})
		l.byKey[key] = e
	}
	limit := e.Value.(bucket[K]).limit
	if limit.AllowN(now, 1) {
		return 0, true
	}
	missing := 1 - limit.TokensAt(now)
	return time.Duration(missing / l.limit.rate * float64(time.Second)), false
}

// Addresses limits by client address, and IPv6 clients also by /64; see [Levels].
type Addresses struct {
	single, subnet *Limiter[netip.Prefix]
}

// NewAddresses returns a limiter of at most size addresses and as many subnets.
func NewAddresses(l Limit, size int) *Addresses {
	wide := Limit{SubnetShare * l.rate, SubnetShare * l.burst}
	return &Addresses{New[netip.Prefix](l, size), New[netip.Prefix](wide, size)}
}

// Allow is [Limiter.Allow] for an address, which must be unmapped and without a zone.
func (a *Addresses) Allow(addr netip.Addr, now time.Time) (time.Duration, bool) {
	for level, share := range Levels(addr) {
		limiter := a.single
		if share > 1 {
			limiter = a.subnet
		}
		if wait, ok := limiter.Allow(level, now); !ok {
			return wait, false
		}
	}
	return 0, true
}
