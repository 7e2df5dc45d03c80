package state

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	// fileVersion is what this binary writes and reads. A newer one is refused:
	// what it means is unknown.
	fileVersion = 1
	// fileSize is how many counts a file holds; some 600 bytes each.
	fileSize = 1 << 20

	fileLockWait = time.Second      // for another process to let go of the file
	fileWait     = 2 * time.Second  // for the disk, unless the caller has less time
	filePending  = 256              // operations that may wait for the disk
	fileBatch    = time.Millisecond // how long an Increment waits for others to share its fsync
)

// The buckets of a file. A count is its number and its expiry, a value its
// expiry, 0 for none, and its bytes. expiry has an entry for all that expires,
// made of its time, the first letter of its bucket, and its key, so that the
// first to expire comes first. The sequences of counts and values are how many
// there are.
var (
	bucketMeta   = []byte("meta")
	bucketCounts = []byte("counts")
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
		return fail(fmt.Errorf("another process holds it%s", lockHolder(path)))
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

// lockHolder names the process that has a file open, as far as /proc (proc(5))
// shows it to this user; "" if it does not.
func lockHolder(path string) string {
	file, err := os.Stat(path)
	if err != nil {
		return ""
	}
	open, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is good
	for _, link := range open {
		pid := strings.Split(link, "/")[2]
		if info, err := os.Stat(link); err == nil && os.SameFile(info, file) && pid != strconv.Itoa(os.Getpid()) {
			return ": pid " + pid
		}
	}
	return ""
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

func expiryKey(expires time.Time, bucket, key []byte) []byte {
	b := append(binary.BigEndian.AppendUint64(nil, encodeTime(expires)), bucket[0])
	return append(b, key...)
}

type fileValue struct {
	data    []byte
	expires time.Time // zero for never
}

func (v fileValue) encode() []byte {
	var expires uint64
	if !v.expires.IsZero() {
		expires = encodeTime(v.expires)
	}
	return append(binary.BigEndian.AppendUint64(nil, expires), v.data...)
}

// decodeValue gives the value with bytes of its own, nil if there is none.
func decodeValue(b []byte) fileValue {
	if len(b) < 8 {
		return fileValue{}
	}
	v := fileValue{data: append([]byte{}, b[8:]...)}
	if binary.BigEndian.Uint64(b) != 0 {
		v.expires = decodeTime(b)
	}
	return v
}

// valueAt is the value that there is at now.
func valueAt(b []byte, now time.Time) fileValue {
	v := decodeValue(b)
	if !v.expires.IsZero() && !now.Before(v.expires) {
		return fileValue{}
	}
	return v
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
	if err := sweepFile(tx, now); err != nil {
		return 0, err
	}
	counts, expiry := tx.Bucket(bucketCounts), tx.Bucket(bucketExpiry)
	c, known := decodeCount(counts.Get(key))
	switch {
	case !known && counts.Sequence() >= f.size:
		return 0, ErrFull
	case !known:
		if err := counts.SetSequence(counts.Sequence() + 1); err != nil {
			return 0, err
		}
	default:
		if err := expiry.Delete(expiryKey(c.expires, bucketCounts, key)); err != nil {
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
	if err := expiry.Put(expiryKey(c.expires, bucketCounts, key), nil); err != nil {
		return 0, err
	}
	return c.n, counts.Put(key, c.encode())
}

// sweepFile takes away two entries that have expired; see [Memory.sweep].
func sweepFile(tx *bolt.Tx, now time.Time) error {
	expiry := tx.Bucket(bucketExpiry)
	for range 2 {
		first, _ := expiry.Cursor().First()
		if len(first) < 9 || now.Before(decodeTime(first)) {
			return nil
		}
		bucket, key := bucketCounts, bytes.Clone(first[9:])
		if first[8] == bucketValues[0] {
			bucket = bucketValues
		}
		if err := removeEntry(tx, bucket, key); err != nil {
			return err
		}
	}
	return nil
}

// removeEntry takes a count or a value away, with all that there is of it.
func removeEntry(tx *bolt.Tx, bucket, key []byte) error {
	b := tx.Bucket(bucket)
	data := b.Get(key)
	if data == nil {
		return nil
	}
	var expires time.Time
	if c, ok := decodeCount(data); ok && bucket[0] == bucketCounts[0] {
		expires = c.expires
	} else {
		expires = decodeValue(data).expires
	}
	if !expires.IsZero() {
		if err := tx.Bucket(bucketExpiry).Delete(expiryKey(expires, bucket, key)); err != nil {
			return err
		}
	}
	if err := b.Delete(key); err != nil {
		return err
	}
	return b.SetSequence(b.Sequence() - 1)
}

// Get implements [Store].
func (f *File) Get(ctx context.Context, key string) ([]byte, error) {
	result := make(chan []byte, 1)
	err := f.wait(ctx, func() error {
		return f.db.View(func(tx *bolt.Tx) error {
			result <- valueAt(tx.Bucket(bucketValues).Get([]byte(key)), f.now()).data
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
			value, err := change(valueAt(tx.Bucket(bucketValues).Get([]byte(key)), f.now()).data)
			if err != nil {
				return err
			}
			return f.put(tx, []byte(key), fileValue{data: value})
		})
	})
}

// Put implements [Store].
func (f *File) Put(ctx context.Context, key string, value []byte, expires time.Time) error {
	if !expires.IsZero() && !f.now().Before(expires) {
		return errExpired
	}
	return f.wait(ctx, func() error {
		return f.db.Update(func(tx *bolt.Tx) error { return f.put(tx, []byte(key), fileValue{value, expires}) })
	})
}

func (f *File) put(tx *bolt.Tx, key []byte, v fileValue) error {
	if err := sweepFile(tx, f.now()); err != nil {
		return err
	}
	if err := removeEntry(tx, bucketValues, key); err != nil || v.data == nil {
		return err
	}
	values := tx.Bucket(bucketValues)
	if values.Sequence() >= maxValues {
		return ErrFull
	}
	if err := values.SetSequence(values.Sequence() + 1); err != nil {
		return err
	}
	if !v.expires.IsZero() {
		if err := tx.Bucket(bucketExpiry).Put(expiryKey(v.expires, bucketValues, key), nil); err != nil {
			return err
		}
	}
	return values.Put(key, v.encode())
}

// Forget implements [Store].
func (f *File) Forget(ctx context.Context, key string) error {
	return f.wait(ctx, func() error {
		return f.db.Update(func(tx *bolt.Tx) error {
			return errors.Join(removeEntry(tx, bucketCounts, []byte(key)), removeEntry(tx, bucketValues, []byte(key)))
		})
	})
}

// Scan implements [Store]. It sees the file as it was when the call began.
func (f *File) Scan(ctx context.Context, prefix string, visit func(key string, count int64, value []byte, expires time.Time) bool) error {
	now := f.now()
	return f.view(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{bucketCounts, bucketValues} {
			c := tx.Bucket(name).Cursor()
			for k, data := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, data = c.Next() {
				if err := ctx.Err(); err != nil {
					return err
				}
				on := true
				if name[0] == bucketValues[0] {
					if v := valueAt(data, now); v.data != nil {
						on = visit(string(k), 0, v.data, v.expires)
					}
				} else if n, ok := decodeCount(data); ok && now.Before(n.expires) {
					on = visit(string(k), n.n, nil, n.expires)
				}
				if !on {
					return nil
				}
			}
		}
		return nil
	})
}

// Save writes a copy of the file, as it is when the call begins, that
// [OpenFile] opens. The store works on meanwhile.
func (f *File) Save(w io.Writer) error {
	return f.view(func(tx *bolt.Tx) error {
		_, err := tx.WriteTo(w)
		return err
	})
}

func (f *File) view(read func(*bolt.Tx) error) error {
	err := f.db.View(read)
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return errClosed
	}
	return err
}

// Close implements [Store]. It waits for what is being written.
func (f *File) Close() error { return f.db.Close() }
