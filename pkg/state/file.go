package state

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	// fileVersion is what this binary writes. It reads 1, too, whose entries have
	// no checksums and whose counts no numbers that were given back. A newer one is
	// refused: what it means is unknown.
	fileVersion = 2
	// fileSize is how many counts a file holds; some 600 bytes each.
	fileSize = 1 << 20

	fileLockWait  = time.Second     // for another process to let go of the file
	fileWait      = 2 * time.Second // for the disk, unless the caller has less time
	fileReads     = 64              // that may wait for the disk, each with a thread of its own
	filePending   = 256             // writes that may wait for the disk, which one thread writes to
	fileCloseWait = 5 * time.Second // for what is being written, and read
	fileBatch     = 200 * time.Microsecond
)

// The buckets of a file. A count is its number, its expiry, the numbers that were
// given back, and a checksum; a value its expiry, 0 for none, a checksum, and its
// bytes. expiry has an entry for all that expires, made of its time, the first
// letter of its bucket, and its key, so that the first to expire comes first. The
// sequences of counts and values are how many there are.
var (
	bucketMeta   = []byte("meta")
	bucketCounts = []byte("counts")
	bucketExpiry = []byte("expiry")
	bucketValues = []byte("values")
	keyVersion   = []byte("version")
)

var (
	errDiskSlow = errors.New("the state file's disk does not answer")
	errForeign  = errors.New("is another program's database; if it was a state file then it is damaged: restore a copy (state save)")
	errNothing  = errors.New("nothing is to be written")
)

// File is a Store in one file, of one process at a time. What a call answered
// is on the disk: neither a crash of the process nor of the machine takes it
// back. A file that turns out to be damaged is not used any more, whatever is
// asked for.
type File struct {
	db   *bolt.DB
	file *os.File // that of db
	path string
	now  func() time.Time
	size uint64

	reads  chan struct{}
	writes chan *fileWrite
	broken atomic.Pointer[error]

	closing chan struct{}
	close   sync.Once
	ended   chan struct{} // after closing: nothing is open any more
	closed  error         // then

	pages *snapshot // what all snapshots have in common
	txid  atomic.Uint64
	meta  meta // as of txid; the writer's
}

// fileWrite is a change that waits for its turn.
type fileWrite struct {
	ctx context.Context
	// change may be called more than once. It has changed nothing if its error is
	// a [*refusal].
	change func(*fileTx) error
	done   chan error
	err    error
}

// refusal is an error that says no.
type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

func refused(err error) error {
	if err == nil {
		return nil
	}
	return &refusal{err}
}

// OpenFile opens the file at path, making it with mode 0600 if there is none. It
// never writes to a file that is damaged, not one of its own, newer than it knows,
// or open to other users.
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
	// bbolt's lock is this one, and it is had already: what is verified is not
	// written to.
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
		if err := f.file.Chmod(0o600); err != nil { // it may have been made empty by another program
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

// notOurs says so of a file that does not even begin as one of bbolt's.
func notOurs(file io.ReaderAt, err error) error {
	if !IsFile(file) && errors.As(err, new(*damage)) {
		return fmt.Errorf("is not a state file, or %w", err)
	}
	return err
}

// IsFile reports whether a file begins as a state file does, damaged or not.
func IsFile(file io.ReaderAt) bool {
	var page [2 * minPageSize]byte
	_, err := file.ReadAt(page[:], 0)
	_, ok := parseMeta(page[:])
	return err == nil && ok
}

// privateMode fails for a file that has keys in it and that other users can read,
// or its group write.
func privateMode(mode os.FileMode) error {
	if mode.Perm()&0o027 == 0 {
		return nil
	}
	return fmt.Errorf("has mode %#o, and has signing keys in it that other users could read or replace: chmod 0600 it; if another user may have read it, then revoke the keys (keys list, keys revoke)", mode.Perm())
}

// CheckFile fails if the state file at path may not be used as it is: if other
// users can read it, or its group write to it. It is no error if there is none. It
// does not open the file, which the server that runs has.
func CheckFile(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || (err == nil && info.Size() == 0) {
		return nil // it is made, or closed, when it is opened
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

// VerifyFile fails if a copy of a state file is not one, or is damaged in any page.
func VerifyFile(copied *os.File) error {
	info, err := copied.Stat()
	if err == nil {
		_, _, err = verify(copied, info.Size())
	}
	if err != nil {
		return fmt.Errorf("state file %s: %w", copied.Name(), notOurs(copied, err))
	}
	return nil
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

// guard gives what goes wrong in bbolt as an error: its panics, and the faults of
// the memory that the file is mapped to (a bad sector, a file that was cut off).
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = damaged("%v", r)
		}
	}()
	return f()
}

// note keeps what shows that the file cannot be used any more.
func (f *File) note(err error) error {
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) || errors.Is(err, os.ErrClosed) {
		return errClosed
	}
	switch {
	case errors.As(err, new(*damage)):
	case errors.Is(err, bolterrors.ErrInvalidMapping), errors.Is(err, bolterrors.ErrInvalid),
		errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		err = damaged("%v", err)
	default:
		return err
	}
	err = fmt.Errorf("state file %s: %w", f.path, err)
	f.broken.CompareAndSwap(nil, &err)
	return *f.broken.Load()
}

// usable fails if the file is closed or was seen to be damaged.
func (f *File) usable() error {
	if err := f.broken.Load(); err != nil {
		return *err
	}
	select {
	case <-f.closing:
		return errClosed
	default:
		return nil
	}
}

// look fails if the file on the disk is not the one that the last transaction left:
// bbolt would go back to the one before it, or fault.
func (f *File) look() error {
	info, err := f.file.Stat()
	if err != nil {
		return err
	}
	if pages := uint64(info.Size()) / uint64(f.meta.pageSize); pages < f.meta.pages { //nolint:gosec // neither is negative
		return damaged("it is cut off at %d of its %d pages", pages, f.meta.pages)
	}
	m, err := readMeta(f.pages.file)
	if err == nil && m != f.meta {
		err = damaged("it was changed by another program")
	}
	return err
}

// write makes the changes that wait, one transaction after the other, each with
// all that came during the one before it. It is the only writer.
func (f *File) write() {
	defer close(f.ended)
	for last := 0; ; {
		var batch []*fileWrite
		select {
		case w := <-f.writes:
			batch = append(batch, w)
		case <-f.closing:
			f.closed = f.shut()
			return
		}
		for more := true; more; {
			select {
			case w := <-f.writes:
				batch = append(batch, w)
			default:
				more = false
			}
		}
		// Those that were answered just now come again at once: with one of them alone
		// there would be twice as many transactions.
		if len(batch) < last {
			late := time.NewTimer(fileBatch)
			for more := true; more && len(batch) < last; {
				select {
				case w := <-f.writes:
					batch = append(batch, w)
				case <-late.C:
					more = false
				}
			}
			late.Stop()
		}
		last = len(batch)
		// Who waits no longer has been told that nothing is known.
		batch = slices.DeleteFunc(batch, func(w *fileWrite) bool { return w.ctx.Err() != nil })
		f.commit(batch)
		for _, w := range batch {
			w.done <- w.err
		}
	}
}

// shut closes everything. bbolt may not be able to close what it panicked in.
func (f *File) shut() error {
	if f.broken.Load() == nil {
		return f.note(guard(f.db.Close))
	}
	return f.release()
}

// release closes the file under bbolt, and gives its lock up first, which would
// last for as long as memory is mapped to the file.
func (f *File) release() error {
	if f.file == nil {
		return nil
	}
	_ = syscall.Flock(int(f.file.Fd()), syscall.LOCK_UN)
	return f.file.Close()
}

// commit makes changes in one transaction, and leaves in each its error.
func (f *File) commit(batch []*fileWrite) {
	for len(batch) > 0 {
		err := f.usable()
		if err == nil || errors.Is(err, errClosed) { // what came before the end is still written
			err = f.note(guard(func() error { return f.update(batch) }))
		}
		failed := slices.IndexFunc(batch, func(w *fileWrite) bool { return w.err != nil && !errors.As(w.err, new(*refusal)) })
		if failed < 0 {
			for _, w := range batch {
				if r := new(refusal); errors.As(w.err, &r) {
					w.err = r.error
				} else {
					w.err = err
				}
			}
			return
		}
		// One that failed halfway: the others are made without it.
		if f.broken.Load() == nil {
			batch = slices.Delete(slices.Clone(batch), failed, failed+1)
			continue
		}
		for _, w := range batch {
			w.err = err
		}
		return
	}
}

// update makes changes, all or, with an error, none of them; or it is not known,
// if the disk failed at the end.
func (f *File) update(batch []*fileWrite) error {
	if err := f.look(); err != nil {
		return err
	}
	old := f.snapshot(f.meta.root, f.meta.pages)
	defer old.release()
	if _, _, err := old.raw(f.meta.freelist); err != nil {
		return err
	}
	err := f.db.Update(func(tx *bolt.Tx) error {
		if uint64(tx.ID()) != f.meta.txid+1 { //nolint:gosec // as bbolt has it
			return damaged("its last transaction is gone")
		}
		t, changed := &fileTx{f: f, tx: tx, old: old}, false
		for _, w := range batch {
			w.err = w.change(t)
			if w.err == nil {
				changed = true
			} else if !errors.As(w.err, new(*refusal)) {
				w.err = f.note(w.err)
				return w.err
			}
		}
		if !changed {
			return errNothing
		}
		return nil
	})
	if errors.Is(err, errNothing) {
		return nil
	}
	// A transaction whose last fsync failed may be there all the same.
	m, learnErr := readMeta(f.pages.file)
	switch {
	case learnErr != nil:
		return learnErr
	case m == f.meta:
		if err == nil {
			err = damaged("what was written to it is not there")
		}
		return err
	case m.txid != f.meta.txid+1:
		return damaged("it was changed by another program")
	}
	s := f.snapshot(m.root, m.pages)
	defer s.release()
	if learnErr := s.learnFrom(old, m.freelist); learnErr != nil {
		return learnErr
	}
	f.meta = m
	f.txid.Store(m.txid)
	return err
}

func (f *File) snapshot(root, pages uint64) *snapshot {
	s := *f.pages
	s.root, s.pages = root, pages
	return &s
}

// fileTx is a transaction that writes. It has the pages looked at before bbolt uses
// them.
type fileTx struct {
	f   *File
	tx  *bolt.Tx
	old *snapshot // before it

	counted []byte // the last key of a count that was looked at
}

// prepare writes what each file has.
func (t *fileTx) prepare() error {
	if _, _, err := t.old.find(bucketMeta); err != nil { // loads the page
		return err
	}
	for _, name := range [][]byte{bucketMeta, bucketCounts, bucketExpiry, bucketValues} {
		if _, err := t.tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return t.put(bucketMeta, keyVersion, binary.BigEndian.AppendUint64(nil, fileVersion))
}

// look loads the pages that bbolt uses for a key, and if that may be deleted those
// beside them.
func (t *fileTx) look(bucket, key []byte, deletes bool) (*bolt.Bucket, error) {
	count := bucket[0] == bucketCounts[0]
	if again := count && !deletes && key != nil && bytes.Equal(t.counted, key); !again {
		tree, ok, err := t.old.find(bucket)
		if err == nil && ok {
			_, err = t.old.descend(tree, key, deletes)
		}
		if err != nil {
			return nil, err
		}
	}
	if count {
		t.counted = key
	}
	if b := t.tx.Bucket(bucket); b != nil {
		return b, nil
	}
	return nil, damaged("it has no bucket %s", bucket)
}

func (t *fileTx) get(bucket, key []byte) ([]byte, error) {
	b, err := t.look(bucket, key, false)
	if err != nil {
		return nil, err
	}
	return b.Get(key), nil
}

func (t *fileTx) put(bucket, key, value []byte) error {
	b, err := t.look(bucket, key, false)
	if err != nil {
		return err
	}
	return b.Put(key, value)
}

func (t *fileTx) delete(bucket, key []byte) error {
	b, err := t.look(bucket, key, true)
	if err != nil {
		return err
	}
	return b.Delete(key)
}

// first is the first key of a bucket, nil if there is none.
func (t *fileTx) first(bucket []byte) ([]byte, error) {
	b, err := t.look(bucket, nil, false)
	if err != nil {
		return nil, err
	}
	key, _ := b.Cursor().First()
	return key, nil
}

// entries is how many there are; it adds to them.
func (t *fileTx) entries(bucket []byte, add int) (uint64, error) {
	tree, ok, err := t.old.find(bucket)
	if err == nil && ok && tree.root != 0 {
		_, err = t.old.load(tree.root)
	}
	if err != nil {
		return 0, err
	}
	b := t.tx.Bucket(bucket)
	if b == nil {
		return 0, damaged("it has no bucket %s", bucket)
	}
	if add == 0 {
		return b.Sequence(), nil
	}
	n := int64(b.Sequence()) + int64(add) //nolint:gosec // far from its bounds
	if n < 0 {
		return 0, damaged("it has more %s than it should", bucket)
	}
	return uint64(n), b.SetSequence(uint64(n))
}

// wait waits for an operation no longer than the caller has time.
func (f *File) wait(ctx context.Context, begin func(context.Context) (<-chan error, error)) error {
	if err := f.usable(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, fileWait)
	defer cancel()
	done, err := begin(ctx)
	if err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-f.ended:
	case <-ctx.Done():
	}
	select {
	case err := <-done: // it was the last
		return err
	case <-ctx.Done():
		return errDiskSlow
	default:
		return errClosed
	}
}

// change has a change made, with others in one transaction.
func (f *File) change(ctx context.Context, change func(*fileTx) error) error {
	return f.wait(ctx, func(ctx context.Context) (<-chan error, error) {
		w := &fileWrite{ctx: ctx, change: change, done: make(chan error, 1)}
		select {
		case f.writes <- w:
			return w.done, nil
		case <-ctx.Done():
			return nil, errDiskSlow
		}
	})
}

// read returns the result of a function that reads. While the disk blocks it, it keeps
// its slot, so that the number of blocked readers is bounded.
func read[T any](ctx context.Context, f *File, from func(*snapshot) (T, error)) (result T, err error) {
	results := make(chan T, 1)
	err = f.wait(ctx, func(ctx context.Context) (<-chan error, error) {
		select {
		case f.reads <- struct{}{}:
		case <-ctx.Done():
			return nil, errDiskSlow
		}
		done := make(chan error, 1)
		go func() {
			defer func() { <-f.reads }()
			done <- f.view(func(s *snapshot) error {
				found, err := from(s)
				results <- found
				return err
			})
		}()
		return done, nil
	})
	if err == nil {
		result = <-results
	}
	return result, err
}

// view reads the state after one transaction, of which bbolt overwrites no page
// meanwhile.
func (f *File) view(read func(*snapshot) error) error {
	if err := f.usable(); err != nil {
		return err
	}
	return f.note(guard(func() error {
		last := f.txid.Load()
		return f.db.View(func(tx *bolt.Tx) error {
			id := uint64(tx.ID()) //nolint:gosec // as bbolt has it
			if id < last {
				return damaged("its last transaction is gone")
			}
			s := f.snapshot(uint64(tx.Cursor().Bucket().Root()), uint64(tx.Size())/uint64(f.pages.size)) //nolint:gosec // a count of pages
			defer s.release()
			// One that is being finished has pages whose sums are not taken yet.
			s.trust = id <= f.txid.Load()
			return read(s)
		})
	}))
}

// entry is the value of a key in a bucket.
func (s *snapshot) entry(bucket, key []byte) ([]byte, error) {
	t, err := s.bucket(bucket)
	if err != nil {
		return nil, err
	}
	return s.get(t, key)
}

type fileCount struct {
	count

	expires time.Time
}

func (c fileCount) encode(key []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(c.n))        //nolint:gosec // read back as it was written
	b = binary.BigEndian.AppendUint64(b, encodeTime(c.expires)) // the same form as in expiry
	for _, n := range c.back {
		b = binary.BigEndian.AppendUint64(b, uint64(n)) //nolint:gosec // as above
	}
	return binary.BigEndian.AppendUint32(b, entrySum(key, b))
}

// decodeCount reads a count, and one of version 1, which has no checksum. The zero
// value is what nil gives.
func decodeCount(key, b []byte) (c fileCount, err error) {
	if b == nil {
		return c, nil
	}
	at := len(b)
	switch {
	case at == 16:
	case at >= 20 && at%8 == 4 && binary.BigEndian.Uint32(b[at-4:]) == entrySum(key, b[:at-4]):
		at -= 4
	default:
		return c, damaged("the count of %.100q cannot be read", key)
	}
	c.n, c.expires = int64(binary.BigEndian.Uint64(b)), decodeTime(b[8:]) //nolint:gosec // as it was written
	for i := 16; i < at; i += 8 {
		c.back = append(c.back, int64(binary.BigEndian.Uint64(b[i:]))) //nolint:gosec // as it was written
	}
	if c.n < 1 {
		return c, damaged("the count of %.100q is %d", key, c.n)
	}
	return c, nil
}

// entrySum is the checksum of an entry and its key.
func entrySum(key, entry []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, entry)
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
	data    []byte    // nil for none
	expires time.Time // zero for never
}

// valueHasSum is set in the expiry of a value with a checksum; version 1 had none.
const valueHasSum = 1 << 63

func (v fileValue) encode(key []byte) []byte {
	var expires uint64
	if !v.expires.IsZero() {
		expires = encodeTime(v.expires)
	}
	b := binary.BigEndian.AppendUint64(nil, expires|valueHasSum)
	sum := crc32.Update(entrySum(key, b), castagnoli, v.data)
	return append(binary.BigEndian.AppendUint32(b, sum), v.data...)
}

// decodeValue reads a value, with bytes of its own. The zero value is what nil
// gives.
func decodeValue(key, b []byte) (v fileValue, err error) {
	if b == nil {
		return v, nil
	}
	if len(b) < 8 {
		return v, damaged("the value of %.100q cannot be read", key)
	}
	expires, data := binary.BigEndian.Uint64(b), b[8:]
	if expires&valueHasSum != 0 {
		if len(data) < 4 || binary.BigEndian.Uint32(data) != crc32.Update(entrySum(key, b[:8]), castagnoli, data[4:]) {
			return v, damaged("the value of %.100q cannot be read", key)
		}
		expires, data = expires&^valueHasSum, data[4:]
	}
	v.data = append([]byte{}, data...)
	if expires != 0 {
		v.expires = time.Unix(0, int64(expires)) //nolint:gosec // as it was written
	}
	return v, nil
}

// decodeEntry reads a count or a value.
func decodeEntry(bucket, key, b []byte) (Entry, error) {
	if bucket[0] == bucketCounts[0] {
		c, err := decodeCount(key, b)
		return Entry{string(key), c.used(), nil, c.expires}, err
	}
	v, err := decodeValue(key, b)
	return Entry{string(key), 0, v.data, v.expires}, err
}

// at is the value that there is at now.
func (v fileValue) at(now time.Time) []byte {
	if expired(v.expires, now) {
		return nil
	}
	return v.data
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
	var n atomic.Int64 // of the last try
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

func (t *fileTx) increment(key []byte, expires time.Time) (int64, error) {
	now := t.f.now()
	if !now.Before(expires) {
		return 0, refused(errExpired)
	}
	if err := t.sweep(now); err != nil {
		return 0, err
	}
	data, err := t.get(bucketCounts, key)
	if err != nil {
		return 0, err
	}
	c, err := decodeCount(key, data)
	if err != nil {
		return 0, err
	}
	if data == nil {
		n, err := t.entries(bucketCounts, 0)
		if err != nil {
			return 0, err
		}
		if n >= t.f.size {
			return 0, refused(ErrFull)
		}
		if _, err := t.entries(bucketCounts, 1); err != nil {
			return 0, err
		}
	} else {
		if err := t.delete(bucketExpiry, expiryKey(c.expires, bucketCounts, key)); err != nil {
			return 0, err
		}
		if expired(c.expires, now) {
			c = fileCount{}
		}
	}
	n := c.take()
	if expires.After(c.expires) {
		c.expires = expires
	}
	if err := t.put(bucketExpiry, expiryKey(c.expires, bucketCounts, key), nil); err != nil {
		return 0, err
	}
	return n, t.put(bucketCounts, key, c.encode(key))
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

// sweep takes away two entries that have expired; see [Memory.sweep].
func (t *fileTx) sweep(now time.Time) error {
	for range 2 {
		first, err := t.first(bucketExpiry)
		if err != nil {
			return err
		}
		if len(first) < 9 || now.Before(decodeTime(first)) {
			return nil
		}
		bucket, key := bucketCounts, bytes.Clone(first[9:])
		if first[8] == bucketValues[0] {
			bucket = bucketValues
		}
		if err := t.remove(bucket, key); err != nil {
			return err
		}
	}
	return nil
}

// remove takes a count or a value away, with all that there is of it.
func (t *fileTx) remove(bucket, key []byte) error {
	data, err := t.get(bucket, key)
	if err != nil || data == nil {
		return err
	}
	e, err := decodeEntry(bucket, key, data)
	if err != nil {
		return err
	}
	if !e.Expires.IsZero() {
		if err := t.delete(bucketExpiry, expiryKey(e.Expires, bucket, key)); err != nil {
			return err
		}
	}
	if err := t.delete(bucket, key); err != nil {
		return err
	}
	_, err = t.entries(bucket, -1)
	return err
}

// value is the value that there is now.
func (t *fileTx) value(key []byte) ([]byte, error) {
	data, err := t.get(bucketValues, key)
	if err != nil {
		return nil, err
	}
	v, err := decodeValue(key, data)
	return v.at(t.f.now()), err
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

func (t *fileTx) set(key []byte, v fileValue) error {
	if err := checkValue(v.data); err != nil {
		return refused(err)
	}
	if err := t.sweep(t.f.now()); err != nil {
		return err
	}
	old, err := t.get(bucketValues, key)
	if err != nil {
		return err
	}
	n, err := t.entries(bucketValues, 0)
	if err != nil {
		return err
	}
	if old == nil && v.data != nil && n >= maxValues {
		return refused(ErrFull)
	}
	if err := t.remove(bucketValues, key); err != nil || v.data == nil {
		return err
	}
	if _, err := t.entries(bucketValues, 1); err != nil {
		return err
	}
	if !v.expires.IsZero() {
		if err := t.put(bucketExpiry, expiryKey(v.expires, bucketValues, key), nil); err != nil {
			return err
		}
	}
	return t.put(bucketValues, key, v.encode(key))
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

// Scan implements [Store]. It sees the file as it was when the call began.
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

// Save writes a copy of the file, as it is when the call begins, that
// [OpenFile] opens. The store works on meanwhile. What was damaged since is copied
// as it is; [VerifyFile] finds that.
func (f *File) Save(w io.Writer) error {
	if err := f.usable(); err != nil {
		return err
	}
	return f.note(guard(func() error {
		return f.db.View(func(tx *bolt.Tx) error {
			_, err := tx.WriteTo(w)
			if errors.Is(err, io.EOF) {
				return damaged("it is cut off")
			}
			return err
		})
	}))
}

// Close implements [Store]. It waits for what is being written, though not for ever.
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
