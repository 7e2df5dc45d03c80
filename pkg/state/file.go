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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	// fileVersion is the version that this binary writes. It also reads version 1, which
	// has no checksums of entries and no numbers that were given back. It refuses a
	// newer version.
	fileVersion = 2
	// fileSize is the maximum number of counts in a file; a count has some 600 bytes.
	fileSize = 1 << 20

	fileLockWait  = time.Second     // for another process to release the file
	fileWait      = 2 * time.Second // for the disk, unless the caller has less time
	fileReads     = 64              // reads that may wait for the disk, each in a thread
	filePending   = 256             // writes that may wait for the disk; one thread writes
	fileCloseWait = 5 * time.Second // for writes and reads in progress
	fileBatch     = 200 * time.Microsecond
)

// The buckets of a file. The entry of a count is its highest number, its expiry, the
// numbers that were given back, and a checksum; the entry of a value is its expiry (0
// for none), a checksum, and its bytes. The bucket expiry is an index: for each entry
// that expires it has a key made of the time, the first letter of the bucket, and the
// key, so the entry that expires first comes first. The sequence numbers of the buckets
// counts and values are how many entries they have.
var (
	bucketMeta   = []byte("meta")
	bucketCounts = []byte("counts")
	bucketExpiry = []byte("expiry")
	bucketValues = []byte("values")
	keyVersion   = []byte("version")
	keyEpoch     = []byte("epoch")
)

var (
	errDiskSlow = errors.New("the state file's disk does not answer")
	errForeign  = errors.New("is another program's database; if it was a state file then it is damaged: restore a copy (state save)")
	errNothing  = errors.New("nothing to write")
)

// File is a Store in one file, which one process uses at a time. When a call returns
// without an error, its change is on the disk and survives a crash of the process and
// of the machine. After a page was found damaged, every call fails.
type File struct {
	db   *bolt.DB
	file *os.File // the file of db
	path string
	now  func() time.Time
	size uint64

	reads  chan struct{}
	writes chan *fileWrite
	broken atomic.Pointer[error]

	closing chan struct{}
	close   sync.Once
	ended   chan struct{} // closed when the file is closed
	closed  error         // the result of Close, once ended is closed

	pages *snapshot // the fields that all snapshots share
	txid  atomic.Uint64
	meta  meta // of transaction txid; only the writer uses it
}

// OpenFile opens a state file and creates it with mode 0600 if there is none. It
// returns an error, and does not write to the file, if the file is damaged, belongs to
// another program, has a newer version, or is accessible to other users.
func OpenFile(c FileConfig) (*File, error) {
	f := &File{
		path: c.Path, now: orTimeNow(c.Now), size: fileSize,
		reads: make(chan struct{}, fileReads), writes: make(chan *fileWrite, filePending),
		closing: make(chan struct{}), ended: make(chan struct{}),
	}
	if err := f.open(); err != nil {
		_ = f.release()
		if p := new(os.PathError); errors.As(err, &p) {
			err = p.Err // the path is named already
		}
		return nil, fmt.Errorf("state file %s: %w", c.Path, err)
	}
	go f.write()
	return f, nil
}

func (f *File) open() (err error) {
	if f.file, err = os.OpenFile(f.path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	info, err := f.file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("is not a file")
	}
	// bbolt takes the same lock. It is taken before the verification, so no other
	// process writes to the file after it.
	for deadline := time.Now().Add(fileLockWait); ; <-time.After(20 * time.Millisecond) {
		err := syscall.Flock(int(f.file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("another process holds it%s", lockHolder(f.path))
		}
	}
	if info, err = f.file.Stat(); err != nil {
		return err
	}
	made := info.Size() == 0
	if made {
		if err := f.file.Chmod(0o600); err != nil { // another program may have created an empty file
			return err
		}
	}
	verified := func() error {
		info, err := f.file.Stat()
		if err != nil {
			return err
		}
		m, sums, err := verify(f.file, info.Size())
		if err != nil {
			return err
		}
		f.meta, f.pages = m, &snapshot{file: f.file, size: m.pageSize, sums: sums, trust: true}
		f.txid.Store(m.txid)
		return nil
	}
	if !made {
		if err := verified(); err != nil {
			return notOurs(f.file, err)
		}
		if err := privateMode(info.Mode()); err != nil {
			return err
		}
	}
	if err := guard(func() (err error) {
		f.db, err = bolt.Open(f.path, 0o600, &bolt.Options{
			Timeout: fileLockWait, FreelistType: bolt.FreelistMapType, NoStatistics: true,
			OpenFile: func(string, int, os.FileMode) (*os.File, error) { return f.file, nil },
		})
		return err
	}); err != nil {
		return err
	}
	if made {
		if err := verified(); err != nil {
			return err
		}
	}
	prepare := &fileWrite{ctx: context.Background(), change: (*fileTx).prepare}
	f.commit([]*fileWrite{prepare})
	if prepare.err != nil {
		_ = guard(f.db.Close)
	}
	return prepare.err
}

// lockHolder names the process that has a file open, "" if /proc (proc(5)) does not
// show it to this user.
func lockHolder(path string) string {
	file, err := os.Stat(path)
	if err != nil {
		return ""
	}
	open, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is valid
	for _, link := range open {
		pid := strings.Split(link, "/")[2]
		if info, err := os.Stat(link); err == nil && os.SameFile(info, file) && pid != strconv.Itoa(os.Getpid()) {
			return ": pid " + pid
		}
	}
	return ""
}

// shut closes the file. After damage it does not call bbolt, which may be unable to
// close the database.
func (f *File) shut() error {
	if f.broken.Load() == nil {
		return f.note(guard(f.db.Close))
	}
	return f.release()
}

// release closes the file without bbolt. It unlocks the file first, because the lock
// otherwise lasts until its memory is unmapped.
func (f *File) release() error {
	if f.file == nil {
		return nil
	}
	_ = syscall.Flock(int(f.file.Fd()), syscall.LOCK_UN)
	return f.file.Close()
}

// privateMode fails if other users can read the file, which contains signing keys, or
// if its group can write to it.
func privateMode(mode os.FileMode) error {
	if mode.Perm()&0o027 == 0 {
		return nil
	}
	return fmt.Errorf("has mode %#o, so other users could read or replace the signing keys in it: chmod 0600 it; if another user may have read it, revoke the keys (keys list, keys revoke)", mode.Perm())
}

// CheckFile fails if other users can read the state file at path, or if its group can
// write to it. A missing file is not an error. It does not open the file, because a
// running server holds it.
func CheckFile(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || (err == nil && info.Size() == 0) {
		return nil // OpenFile creates it, or sets its mode
	}
	if err == nil {
		err = privateMode(info.Mode())
	}
	if p := new(os.PathError); errors.As(err, &p) {
		err = p.Err
	}
	if err != nil {
		return fmt.Errorf("state file %s: %w", path, err)
	}
	return nil
}

// Save writes a copy of the file, as it is when the call begins. Other calls work
// meanwhile. It does not verify pages: call [VerifyFile] on the copy.
func (f *File) Save(w io.Writer) error {
	if err := f.usable(); err != nil {
		return err
	}
	return f.note(guard(func() error {
		return f.db.View(func(tx *bolt.Tx) error {
			_, err := tx.WriteTo(w)
			if errors.Is(err, io.EOF) {
				return damaged("it is truncated")
			}
			return err
		})
	}))
}

// Close implements [Store]. It waits up to five seconds for writes in progress.
func (f *File) Close() error {
	f.close.Do(func() { close(f.closing) })
	late := time.NewTimer(fileCloseWait)
	defer late.Stop()
	select {
	case <-f.ended:
		return f.closed
	case <-late.C:
		return errDiskSlow
	}
}

// Count implements [Store].
func (f *File) Count(ctx context.Context, key string) (int64, error) {
	return read(ctx, f, func(s *snapshot) (int64, error) {
		data, err := s.entry(bucketCounts, []byte(key))
		if err != nil {
			return 0, err
		}
		c, err := decodeCount([]byte(key), data)
		if err != nil || expired(c.expires, f.now()) {
			return 0, err
		}
		return c.used(), nil
	})
}

// Increment implements [Store]. Concurrent calls share one write to the disk.
func (f *File) Increment(ctx context.Context, key string, expires time.Time) (int64, error) {
	if err := checkExpiry(expires, f.now()); err != nil {
		return 0, err
	}
	var n atomic.Int64 // of the last attempt
	err := f.change(ctx, func(t *fileTx) error {
		got, err := t.increment([]byte(key), expires)
		n.Store(got)
		return err
	})
	if err != nil {
		return 0, err
	}
	return n.Load(), nil
}

// GiveBack implements [Store].
func (f *File) GiveBack(ctx context.Context, key string, n int64) error {
	err := f.change(ctx, func(t *fileTx) error {
		data, err := t.get(bucketCounts, []byte(key))
		if err != nil {
			return err
		}
		c, err := decodeCount([]byte(key), data)
		switch {
		case err != nil:
			return err
		case data == nil || expired(c.expires, f.now()) || !c.giveBack(n):
			return refused(errNothing)
		case c.n == 0:
			return t.remove(bucketCounts, []byte(key))
		}
		return t.put(bucketCounts, []byte(key), c.encode([]byte(key)))
	})
	if errors.Is(err, errNothing) {
		return nil
	}
	return err
}

// Get implements [Store].
func (f *File) Get(ctx context.Context, key string) ([]byte, error) {
	return read(ctx, f, func(s *snapshot) ([]byte, error) {
		data, err := s.entry(bucketValues, []byte(key))
		if err != nil {
			return nil, err
		}
		v, err := decodeValue([]byte(key), data)
		return v.at(f.now()), err
	})
}

// Update implements [Store]. change must not call the store.
func (f *File) Update(ctx context.Context, key string, change func(old []byte) ([]byte, error)) error {
	return f.change(ctx, func(t *fileTx) error {
		old, err := t.value([]byte(key))
		if err != nil {
			return err
		}
		value, err := change(old)
		if err != nil {
			return refused(err)
		}
		return t.set([]byte(key), fileValue{data: bytes.Clone(value)})
	})
}

// Put implements [Store].
func (f *File) Put(ctx context.Context, key string, value []byte, expires time.Time) error {
	if err := checkLasting(expires, f.now()); err != nil {
		return err
	}
	value = bytes.Clone(value)
	return f.change(ctx, func(t *fileTx) error { return t.set([]byte(key), fileValue{value, expires}) })
}

// Forget implements [Store].
func (f *File) Forget(ctx context.Context, key string) error {
	return f.change(ctx, func(t *fileTx) error {
		if err := t.remove(bucketCounts, []byte(key)); err != nil {
			return err
		}
		return t.remove(bucketValues, []byte(key))
	})
}

// Scan implements [Store]. It shows the file as it was when the call began.
func (f *File) Scan(ctx context.Context, prefix string, visit func(Entry) bool) error {
	now, start := f.now(), []byte(prefix)
	return f.view(func(s *snapshot) error {
		on := true
		for _, name := range [][]byte{bucketCounts, bucketValues} {
			t, err := s.bucket(name)
			if err != nil {
				return err
			}
			var failed error
			if err := s.scan(t, start, func(k, data []byte) bool {
				if failed = ctx.Err(); failed != nil || !bytes.HasPrefix(k, start) {
					return false
				}
				var e Entry
				if e, failed = decodeEntry(name, k, data); failed == nil && !expired(e.Expires, now) {
					on = visit(e)
				}
				return on && failed == nil
			}); err != nil || failed != nil || !on {
				return errors.Join(err, failed)
			}
		}
		return nil
	})
}

// Epoch returns how often [File.Advance] was called since the file was created. A copy
// of the file therefore has a lower epoch than the file after its next Advance.
func (f *File) Epoch(ctx context.Context) (uint64, error) {
	return read(ctx, f, func(s *snapshot) (uint64, error) {
		data, err := s.entry(bucketMeta, keyEpoch)
		return epochOf(data), err
	})
}

// Advance raises the epoch to more than seen, writes it to the disk, and returns it.
func (f *File) Advance(ctx context.Context, seen uint64) (uint64, error) {
	var epoch atomic.Uint64 // of the last attempt
	err := f.change(ctx, func(t *fileTx) error {
		data, err := t.get(bucketMeta, keyEpoch)
		if err != nil {
			return err
		}
		epoch.Store(max(epochOf(data), seen) + 1)
		return t.put(bucketMeta, keyEpoch, binary.BigEndian.AppendUint64(nil, epoch.Load()))
	})
	if err != nil {
		return 0, err
	}
	return epoch.Load(), nil
}

func epochOf(data []byte) uint64 {
	if len(data) == 8 {
		return binary.BigEndian.Uint64(data)
	}
	return 0
}
