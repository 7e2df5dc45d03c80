package openstack

import (
	"crypto/rand"
	"errors"
	"sync"
	"time"
)

const (
	// pauseUnreachable follows a login that failed because the cloud was unreachable or failed itself.
	pauseUnreachable = time.Second
	// pauseRefused follows a login that was refused, or whose token could not be used. It is doubled with each refusal in
	// a row, up to the longest pause. Keystone can lock an account after some wrong passwords (keystone.conf,
	// [security_compliance] lockout_failure_attempts): our logins must not keep it locked.
	pauseRefused        = 10 * time.Second
	pauseRefusedLongest = 10 * time.Minute
)

// backoff is the time until the next login of a client may start.
type backoff struct {
	mu       sync.Mutex
	refusals int // in a row
	until    time.Time
	cause    error
}

// err returns why no login may start now, or nil.
func (b *backoff) err(now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cause != nil && now.Before(b.until) {
		return b.cause
	}
	return nil
}

func (b *backoff) failed(err error, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	wait := pauseUnreachable
	if errors.As(err, new(*SetupError)) {
		wait = min(pauseRefused<<min(b.refusals, 10), pauseRefusedLongest)
		b.refusals++
		// Up to a quarter more, so that replicas that were refused together do not retry together.
		var random [1]byte
		_, _ = rand.Read(random[:]) // never fails (crypto/rand)
		wait += wait * time.Duration(random[0]) / (4 * 256)
	}
	b.until, b.cause = now.Add(wait), err
}

func (b *backoff) succeeded() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refusals, b.cause = 0, nil
}
