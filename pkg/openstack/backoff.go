package openstack

import (
	"crypto/rand"
	"errors"
	"sync"
	"time"
)

const (
	// After a login that failed since the cloud could not be reached, or failed itself.
	pauseUnreachable = time.Second
	// After one that was refused, or could not be used: doubled with each in a row, up to
	// the longest. Keystone can lock an account for some wrong passwords (keystone.conf,
	// [security_compliance] lockout_failure_attempts): it must not be kept locked by us.
	pauseRefused        = 10 * time.Second
	pauseRefusedLongest = 10 * time.Minute
)

// backoff is the time before the next login of a client. All that need a login share it.
type backoff struct {
	now func() time.Time

	mu       sync.Mutex
	refusals int // in a row
	until    time.Time
	cause    error
}

// err is why no login is tried now, nil if one may be.
func (b *backoff) err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cause != nil && b.now().Before(b.until) {
		return b.cause
	}
	return nil
}

// failed notes a login that failed.
func (b *backoff) failed(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	wait := pauseUnreachable
	if errors.As(err, new(*SetupError)) {
		wait = pauseRefusedLongest
		if shift := min(b.refusals, 10); pauseRefused<<shift < wait {
			wait = pauseRefused << shift
		}
		b.refusals++
		// Replicas that were refused together do not come back together.
		var die [1]byte
		_, _ = rand.Read(die[:]) // never fails (crypto/rand)
		wait += wait * time.Duration(die[0]) / (4 * 256)
	}
	b.until, b.cause = b.now().Add(wait), err
}

// succeeded notes a login that worked.
func (b *backoff) succeeded() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refusals, b.cause = 0, nil
}
