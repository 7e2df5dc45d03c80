package state

import (
	"context"
	"errors"
	"time"
)

// ErrFull says that the store is at its maximum size and that none of its entries has
// expired. A store never removes another entry to make room: without its count, an
// instance could make its attempts again.
var ErrFull = errors.New("the store is full")

// Store keeps counts and values. All methods may be called concurrently. The tests in
// statetest.Run specify them.
type Store interface {
	// Count returns how many numbers of key were given and not given back. It returns 0
	// if there is no count or if it has expired.
	Count(ctx context.Context, key string) (int64, error)
	// Increment adds one to the count of key and returns a number, which no other call
	// gets unless it is given back. The count is removed at expires; if calls for key
	// name several times, the latest one applies. An expires that has passed, or that
	// is more than [MaxLife] ahead, is an error.
	Increment(ctx context.Context, key string, expires time.Time) (int64, error)
	// GiveBack takes back a number that Increment returned and that was not used. Count
	// no longer includes it, and the next call of Increment gets the lowest number that
	// was given back. It does nothing if the count is gone, or if 64 numbers are
	// given back already. After an error the number may or may not be given again. Only the caller that got the number may call it, and only once.
	GiveBack(ctx context.Context, key string, n int64) error
	// Get returns the value of key, nil if there is none.
	Get(ctx context.Context, key string) ([]byte, error)
	// Update atomically replaces the value of key by the result of change, where nil
	// means no value. It may call change more than once. If change fails, Update returns
	// its error and replaces nothing.
	Update(ctx context.Context, key string, change func(old []byte) ([]byte, error)) error
	// Put sets the value of key, of up to 2 MiB, until expires. The zero time means
	// forever; more than [MaxLife] ahead is an error. If Update replaces the value, it no
	// longer expires.
	Put(ctx context.Context, key string, value []byte, expires time.Time) error
	// Forget removes the count and the value of key, if there are any.
	Forget(ctx context.Context, key string) error
	// Scan calls visit with every count and every value whose key begins with prefix, in
	// no order, until visit returns false. It may or may not include concurrent changes.
	// It may read the whole store, so it is for operators. visit must not call the store.
	Scan(ctx context.Context, prefix string, visit func(Entry) bool) error
	// Close releases files and connections. Later calls fail.
	Close() error
}

// Entry is a count or a value, as Scan shows it. It is an alias for a type without a
// name, so that other packages can declare the interface of Scan without this package.
type Entry = struct {
	Key     string
	Count   int64     // of a count, at least 1; 0 for a value
	Value   []byte    // of a value, may be empty; nil for a count
	Expires time.Time // zero for a value that never expires
}

var (
	errClosed  = errors.New("the store is closed")
	errExpired = errors.New("a count or a value cannot begin after it has expired")
	errTooLong = errors.New("a count or a value that expires is kept for at most 101 years")
)
