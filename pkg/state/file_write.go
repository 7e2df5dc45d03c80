package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// fileWrite is a change that waits for the writer.
type fileWrite struct {
	ctx context.Context
	// change may be called more than once. If it returns a [*refusal], it has changed
	// nothing.
	change func(*fileTx) error
	done   chan error
	err    error
}

// refusal is an error of a change that was not made, such as [ErrFull].
type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

func refused(err error) error {
	if err == nil {
		return nil
	}
	return &refusal{err}
}

// guard returns a panic of bbolt as an error, and also a fault of the memory to which
// the file is mapped (a bad sector, a truncated file).
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = damaged("%v", r)
		}
	}()
	return f()
}

// note records an error that means damage, after which every call fails.
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

// usable fails if the file is closed or damaged.
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

// look fails if the file on the disk is not the result of the last transaction. bbolt
// would use the transaction before it, or fault.
func (f *File) look() error {
	info, err := f.file.Stat()
	if err != nil {
		return err
	}
	if pages := uint64(info.Size()) / uint64(f.meta.pageSize); pages < f.meta.pages { //nolint:gosec // neither is negative
		return damaged("it is truncated at %d of its %d pages", pages, f.meta.pages)
	}
	m, err := readMeta(f.pages.file)
	if err == nil && m != f.meta {
		err = damaged("it was changed by another program")
	}
	return err
}

// write makes the waiting changes, in one transaction after the other. Each
// transaction includes the changes that arrived during the one before it. It is the
// only writer.
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
		// The callers of the last transaction often call again at once. Waiting for them
		// halves the number of transactions.
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
		// A caller whose time is over has its error already.
		batch = slices.DeleteFunc(batch, func(w *fileWrite) bool { return w.ctx.Err() != nil })
		f.commit(batch)
		for _, w := range batch {
			w.done <- w.err
		}
	}
}

// commit makes changes in one transaction and sets the error of each.
func (f *File) commit(batch []*fileWrite) {
	for len(batch) > 0 {
		err := f.usable()
		if err == nil || errors.Is(err, errClosed) { // changes that arrived before Close are still written
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
		// One change failed halfway: make the others without it.
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

// update makes all changes, or none of them if it fails. If the disk fails at the end,
// it is unknown whether they were made.
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
			return damaged("its last transaction is missing")
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
	// A transaction whose last fsync failed may still be on the disk.
	m, learnErr := readMeta(f.pages.file)
	switch {
	case learnErr != nil:
		return learnErr
	case m == f.meta:
		if err == nil {
			err = damaged("its last write is missing")
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

// wait waits for an operation as long as the caller has time, and at most fileWait.
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
	case err := <-done: // the last one before Close
		return err
	case <-ctx.Done():
		return errDiskSlow
	default:
		return errClosed
	}
}

// change passes a change to the writer, which makes it with others in one transaction.
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

// view reads the file as it is after one transaction. bbolt overwrites none of its
// pages meanwhile.
func (f *File) view(read func(*snapshot) error) error {
	if err := f.usable(); err != nil {
		return err
	}
	return f.note(guard(func() error {
		last := f.txid.Load()
		return f.db.View(func(tx *bolt.Tx) error {
			id := uint64(tx.ID()) //nolint:gosec // as bbolt has it
			if id < last {
				return damaged("its last transaction is missing")
			}
			s := f.snapshot(uint64(tx.Cursor().Bucket().Root()), uint64(tx.Size())/uint64(f.pages.size)) //nolint:gosec // a count of pages
			defer s.release()
			// The checksums of a transaction that is being finished are not known yet.
			s.trust = id <= f.txid.Load()
			return read(s)
		})
	}))
}
