// Package ratelimit bounds clients: how often they come ([Limiter], [Addresses]), how
// much they hold at a time ([Counts]), and how what there is, is divided between them
// ([Fair], [Gate]).
//
// A client is an address. An IPv6 client is its /64 as well, which may have
// [SubnetShare] times as much: it can speak from any address of it. Where clients
// compete, networks do first: IPv4 /24, IPv6 /48.
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

// Rate is how much one key may ask for.
type Rate struct {
	// Rate is how many requests a second are let through in the long run.
	Rate float64 `yaml:"rate"`
	// Burst is how many may come at once.
	Burst int `yaml:"burst"`
}

// Validate reports every problem, each beginning with its key.
func (r Rate) Validate() error {
	var problems []error
	if !(r.Rate > 0) || math.IsInf(r.Rate, 0) {
		problems = append(problems, problem.Errorf("rate", "%v is not a positive number of requests a second", r.Rate))
	}
	if r.Burst < 1 || r.Burst > 1<<20 {
		problems = append(problems, problem.Errorf("burst", "%d is not in 1 to %d", r.Burst, 1<<20))
	}
	return errors.Join(problems...)
}

// Limiter has a bucket for each key. When it holds as many as it may, the one
// that was not asked for the longest time is given up: a caller who uses that
// to get a full bucket back must own more keys than the limiter has room for.
type Limiter[K comparable] struct {
	rate Rate
	size int

	mu     sync.Mutex
	byKey  map[K]*list.Element
	recent *list.List // of bucket, the one asked last in front
}

type bucket[K comparable] struct {
	key   K
	limit *rate.Limiter
}

// BucketMemory is how many bytes a key takes, with its bucket.
const BucketMemory = 288

// New makes a limiter of at most size keys.
func New[K comparable](r Rate, size int) *Limiter[K] {
	return &Limiter[K]{rate: r, size: size, byKey: map[K]*list.Element{}, recent: list.New()}
}

// Allow takes one request from the bucket of key, unless it is empty: then it
// gives the time until it is worth to ask again.
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
		e = l.recent.PushFront(bucket[K]{key, rate.NewLimiter(rate.Limit(l.rate.Rate), l.rate.Burst)})
		l.byKey[key] = e
	}
	limit := e.Value.(bucket[K]).limit
	if limit.AllowN(now, 1) {
		return 0, true
	}
	missing := 1 - limit.TokensAt(now)
	return time.Duration(missing / l.rate.Rate * float64(time.Second)), false
}

// Len is how many keys have a bucket.
func (l *Limiter[K]) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recent.Len()
}

// Addresses limits by client address: IPv4 and IPv6 by the address, and IPv6
// also by /64, out of which a single guest can speak from any address.
type Addresses struct {
	single, subnet *Limiter[netip.Prefix]
}

// NewAddresses makes a limiter of at most size addresses and as many subnets.
func NewAddresses(r Rate, size int) *Addresses {
	wide := Rate{Rate: SubnetShare * r.Rate, Burst: SubnetShare * r.Burst}
	return &Addresses{New[netip.Prefix](r, size), New[netip.Prefix](wide, size)}
}

// Allow is [Limiter.Allow] for an address, which must be unmapped and without a
// zone.
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
