package state

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	// fileVersion is what this binary writes and reads. A newer one is refused:
	// what it means is unknown.
	fileVersion = 1
	// fileSize is how many counts a file holds; some 250 bytes each.
	fileSize = 1 << 20

	fileLockWait = time.Second      // for another process to let go of the file
	fileWait     = 2 * time.Second  // for the disk, unless the caller has less time
	filePending  = 256              // operations that may wait for the disk
	fileBatch    = time.Millisecond // how long an Increment waits for others to share its fsync
)

// The buckets of a file. A count's value is its number and its expiry; expiry
// has the expiry and the key of each count, so that the first to expire comes
// first.
var (
	bucketMeta   = []byte("meta")
	bucketCounts = []byte("counts") // its sequence is how many counts there are
	bucketExpiry = []byte("expiry")
	bucketValues = []byte("values")
	keyVersion   = []byte("version")
)

var errDiskSlow = errors.New("the state file's disk does not answer")

// File is a Store in one file, of one process at a time. What a call answered
// is on the disk: neither a crash of the process nor of the machine takes it
// back.
type File struct {
	db    *bolt.DB
	now   func() time.Time
	size  uint64
	slots chan struct{}
}

// OpenFile opens the file at path, making it if there is none. It never writes
// to a file that is not one of its own, or is newer than it knows. now may be
// nil for time.Now.
func OpenFile(path string, now func() time.Time) (*File, error) {
	if now == nil {
		now = time.Now
	}
	fail := func(err error) (*File, error) {
		if p := new(os.PathError); errors.As(err, &p) {
			err = p.Err // path is named already
		}
		return nil, fmt.Errorf("state file %s: %w", path, err)
	}
	// A file that is shorter than it says is a fault of the memory it is mapped to.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var db *bolt.DB
	err := withoutPanic(func() (err error) {
		db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: fileLockWait, FreelistType: bolt.FreelistMapType})
		return err
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fail(errors.New("another process holds it"))
	case errors.As(err, new(*os.PathError)):
		return fail(err)
	case err != nil:
		return fail(fmt.Errorf("is not a state file, or is damaged (%w); restore a copy, or move it away to begin anew, which gives attempts back", err))
	}
	db.MaxBatchDelay = fileBatch
	f := &File{db: db, now: now, size: fileSize, slots: make(chan struct{}, filePending)}
	if err := withoutPanic(func() error { return f.prepare(path) }); err != nil {
		_ = db.Close()
		return fail(err)
	}
	return f, nil
}

// withoutPanic gives what bbolt says by panic of a damaged file as an error.
func withoutPanic(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", bolterrors.ErrInvalid, r)
		}
	}()
	return f()
}

// prepare checks what the file says of itself, and writes that into a new one.
func (f *File) prepare(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return f.db.Update(func(tx *bolt.Tx) error {
		if info.Size() < tx.Size() {
			return fmt.Errorf("is damaged: it is cut off at %d of its %d bytes; restore a copy", info.Size(), tx.Size())
		}
		meta := tx.Bucket(bucketMeta)
		if meta == nil {
			if name, _ := tx.Cursor().First(); name != nil {
				return errors.New("is another program's database")
			}
			var err error
			if meta, err = tx.CreateBucket(bucketMeta); err != nil {
				return err
			}
			if err := meta.Put(keyVersion, binary.BigEndian.AppendUint64(nil, fileVersion)); err != nil {
				return err
			}
		}
		version := meta.Get(keyVersion)
		if len(version) != 8 {
			return errors.New("is another program's database")
		}
		if v := binary.BigEndian.Uint64(version); v > fileVersion {
			return fmt.Errorf("has version %d, and %d is the newest that this binary knows", v, fileVersion)
		}
		for _, name := range [][]byte{bucketCounts, bucketExpiry, bucketValues} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
}

// wait runs an operation and waits for it no longer than the caller has time.
// One that the disk holds up keeps its slot, so that they cannot pile up.
func (f *File) wait(ctx context.Context, operation func() error) error {
	ctx, cancel := context.WithTimeout(ctx, fileWait)
	defer cancel()
	select {
	case f.slots <- struct{}{}:
	case <-ctx.Done():
		return errDiskSlow
	}
	done := make(chan error, 1)
	go func() {
		defer func() { <-f.slots }()
		done <- operation()
	}()
	select {
	case err := <-done:
		if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
			return errClosed
		}
		return err
	case <-ctx.Done():
		return errDiskSlow
	}
}

type fileCount struct {
	n       int64
	expires time.Time
}

func (c fileCount) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(c.n))           //nolint:gosec // read back as it was written
	return binary.BigEndian.AppendUint64(b, encodeTime(c.expires)) // the same form as in expiry
}

func decodeCount(b []byte) (fileCount, bool) {
	if len(b) != 16 {
		return fileCount{}, false
	}
	return fileCount{int64(binary.BigEndian.Uint64(b)), decodeTime(b[8:])}, true //nolint:gosec // as above
}

func encodeTime(t time.Time) uint64 { return uint64(t.UnixNano()) }

func decodeTime(b []byte) time.Time {
	return time.Unix(0, int64(binary.BigEndian.Uint64(b))) //nolint:gosec // as it was written
}

func expiryKey(expires time.Time, key []byte) []byte {
	return append(binary.BigEndian.AppendUint64(nil, encodeTime(expires)), key...)
}

// Count implements [Store].
func (f *File) Count(ctx context.Context, key string) (int64, error) {
	result := make(chan int64, 1)
	err := f.wait(ctx, func() error {
		return f.db.View(func(tx *bolt.Tx) error {
			c, ok := decodeCount(tx.Bucket(bucketCounts).Get([]byte(key)))
			if !ok || !f.now().Before(c.expires) {
				c.n = 0
			}
			result <- c.n
			return nil
		})
	})
	if err != nil {
		return 0, err
	}
	return <-result, nil
}

// Increment implements [Store]. Concurrent calls share one write to the disk.
func (f *File) Increment(ctx context.Context, key string, expires time.Time) (int64, error) {
	result := make(chan int64, 1)
	err := f.wait(ctx, func() error {
		var n int64 // of the last try: Batch may run the function again
		err := f.db.Batch(func(tx *bolt.Tx) (err error) {
			n, err = f.increment(tx, []byte(key), expires)
			return err
		})
		result <- n
		return err
	})
	if err != nil {
		return 0, err
	}
	return <-result, nil
}

func (f *File) increment(tx *bolt.Tx, key []byte, expires time.Time) (int64, error) {
	now := f.now()
	if !now.Before(expires) {
		return 0, errExpired
	}
	counts, expiry := tx.Bucket(bucketCounts), tx.Bucket(bucketExpiry)
	if err := sweepFile(counts, expiry, now); err != nil {
		return 0, err
	}
	c, known := decodeCount(counts.Get(key))
	switch {
	case !known && counts.Sequence() >= f.size:
		return 0, ErrFull
	case !known:
		if err := counts.SetSequence(counts.Sequence() + 1); err != nil {
			return 0, err
		}
	default:
		if err := expiry.Delete(expiryKey(c.expires, key)); err != nil {
			return 0, err
		}
		if !now.Before(c.expires) {
			c.n, c.expires = 0, time.Time{}
		}
	}
	c.n++
	if expires.After(c.expires) {
		c.expires = expires
	}
	if err := expiry.Put(expiryKey(c.expires, key), nil); err != nil {
		return 0, err
	}
	return c.n, counts.Put(key, c.encode())
}

// sweepFile takes away two expired counts; see [Memory.sweep].
func sweepFile(counts, expiry *bolt.Bucket, now time.Time) error {
	for range 2 {
		first, _ := expiry.Cursor().First()
		if len(first) < 8 || now.Before(decodeTime(first)) {
			return nil
		}
		first = bytes.Clone(first)
		if err := expiry.Delete(first); err != nil {
			return err
		}
		if err := counts.Delete(first[8:]); err != nil {
			return err
		}
		if err := counts.SetSequence(counts.Sequence() - 1); err != nil {
			return err
		}
	}
	return nil
}

// Get implements [Store].
func (f *File) Get(ctx context.Context, key string) ([]byte, error) {
	result := make(chan []byte, 1)
	err := f.wait(ctx, func() error {
		return f.db.View(func(tx *bolt.Tx) error {
			result <- bytes.Clone(tx.Bucket(bucketValues).Get([]byte(key)))
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return <-result, nil
}

// Update implements [Store]. change must not call the store.
func (f *File) Update(ctx context.Context, key string, change func(old []byte) ([]byte, error)) error {
	return f.wait(ctx, func() error {
		return f.db.Update(func(tx *bolt.Tx) error {
			values := tx.Bucket(bucketValues)
			value, err := change(bytes.Clone(values.Get([]byte(key))))
			switch {
			case err != nil:
				return err
			case value == nil:
				return values.Delete([]byte(key))
			}
			return values.Put([]byte(key), value)
		})
	})
}

// Close implements [Store]. It waits for what is being written.
func (f *File) Close() error { return f.db.Close() }
