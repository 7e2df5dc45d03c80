package state

import (
	"context"
	"errors"
	"time"
)

// ErrFull says that the store holds as much as it may and none of it has
// expired. Nothing is ever given up to make room: a forgotten count would give
// attempts back.
var ErrFull = errors.New("the store is full")

// Store is what a backend offers. All methods may be called concurrently, and
// statetest.Run says what they promise.
type Store interface {
	// Count is how many numbers of key were given and not given back; 0 if there is
	// none or it has expired.
	Count(ctx context.Context, key string) (int64, error)
	// Increment adds one to the count of key and gives the number of this call, which
	// no other call is given, unless it is given back. The count is forgotten at
	// expires; the latest expires of all calls for key counts. An expires that has
	// passed, or is more than [MaxLife] ahead, is an error.
	Increment(ctx context.Context, key string, expires time.Time) (int64, error)
	// GiveBack takes back a number that Increment gave and that was not made use of:
	// the next call is given the lowest number that was given back, and Count
	// does not count it. It does nothing if the count was forgotten, or if more
	// numbers were given back than are kept. After an error the number may or may
	// not be given again. The caller must be the one that was given the number, and
	// calls once.
	GiveBack(ctx context.Context, key string, n int64) error
	// Get is the value of key, nil if there is none.
	Get(ctx context.Context, key string) ([]byte, error)
	// Update replaces the value of key by what change makes of it, nil meaning
	// that there is none, with nothing coming between. It may call change more
	// than once; an error of change is given back and nothing is replaced.
	Update(ctx context.Context, key string, change func(old []byte) ([]byte, error)) error
	// Put sets the value of key, of up to 2 MiB, which is forgotten at expires; the zero time is
	// for ever, and more than [MaxLife] ahead an error. A value that Update then replaces no longer expires.
	Put(ctx context.Context, key string, value []byte, expires time.Time) error
	// Forget takes away the count and the value of key, if there are any.
	Forget(ctx context.Context, key string) error
	// Scan calls visit with every count and every value whose key begins with
	// prefix, in no order, until visit says false. value is nil for a count;
	// expires is the zero time for a value that is kept for ever. What changes
	// meanwhile may be left out or be there. It may look at all that is kept: it
	// is for operators. visit must not call the store.
	Scan(ctx context.Context, prefix string, visit func(key string, count int64, value []byte, expires time.Time) bool) error
	// Close gives up what the store holds open. Calls after it fail.
	Close() error
}

var (
	errClosed  = errors.New("the store is closed")
	errExpired = errors.New("a count cannot begin after it has expired")
	errTooLong = errors.New("nothing is kept for longer than 101 years, unless it is for ever")
)
