package keyring

import (
	"bytes"
	"context"
	"errors"
	"time"
)

// errUnchanged ends a Store.Update that has nothing to write.
var errUnchanged = errors.New("the value stays as it is")

// renewal is the longest time after which a running replica confirms a value again.
const renewal = time.Minute

// read takes the value of the state. What is missing or older there is replaced by what
// this process holds. What cannot be opened stays there: another program may own it.
func (v *value[T]) read(ctx context.Context) error {
	began := v.moment()
	raw, err := v.store.Get(ctx, v.kind)
	if err != nil {
		return err
	}
	held := v.current.Load()
	switch {
	case raw == nil && held == nil:
		return v.absent
	case raw == nil:
		v.warn(v.what+" is missing in the state: this server writes it back", "generation", held.Generation)
		return v.confirm(ctx)
	case held != nil && bytes.Equal(raw, held.raw):
		if err := v.remember(held.version); err != nil {
			return err
		}
		return v.counted(ctx, held)
	}
	found, _, err := v.open(raw)
	if err != nil {
		return v.unopened(err)
	}
	switch {
	case held == nil:
		if err := v.admit(found); err != nil {
			return err
		}
		if v.recalled(found.content) != found.content {
			return v.confirm(ctx)
		}
	case found.legacy || found.before(held.stamp):
		v.warn(v.what+" in the state is older than the one that this server holds: this server replaces it. If this repeats, another program writes to the state",
			"generation", found.Generation, "held", held.Generation, "confirmed", found.confirmedAt(), "held_confirmed", held.confirmedAt())
		return v.confirm(ctx)
	case held.content != found.content && v.merge(held.content, found.content) != found.content:
		v.warn(v.what+" in the state lacks a revocation or denial that this server holds: this server joins both", "generation", found.Generation, "held", held.Generation)
		return v.confirm(ctx)
	}
	if err := v.hold(found, raw, began.elapsed); err != nil {
		return err
	}
	return v.counted(ctx, v.current.Load())
}

// counted counts a confirmation that was found in the state, and renews it when that is
// due.
func (v *value[T]) counted(ctx context.Context, c *current[T]) error {
	v.count(c)
	if v.renewalDue(c.version) {
		return v.confirm(ctx)
	}
	return nil
}

// confirm writes the newest version back if that is needed.
func (v *value[T]) confirm(ctx context.Context) error { return v.update(ctx, v.newest, unchanged) }

// warn logs, at most once in a renewal, what another program can cause at any rate.
func (v *value[T]) warn(message string, attrs ...any) {
	if now := v.elapsed(); v.warned == 0 || now-v.warned >= renewal {
		v.warned = max(now, 1)
		v.log.Error(message, attrs...) //nolint:sloglint // one of three
	}
}

func unchanged[T any](content *T) (*T, error) { return content, nil }

// count notes a confirmation that was found in the state.
func (v *value[T]) count(c *current[T]) {
	if c.Confirmed.Sub(v.wall()) > skew {
		return // a clock was wrong; the value is confirmed again
	}
	v.fresh.Store(&moment{c.met, c.Confirmed})
}

// usable reports whether the newest confirmation is at most maxAge old by both clocks.
func (v *value[T]) usable() bool {
	f, now := v.fresh.Load(), v.moment()
	return f != nil && now.elapsed-f.elapsed <= v.maxAge && now.wall.Sub(f.wall) <= v.maxAge
}

// renewalDue reports whether a version should be confirmed again. That is early enough
// for a replica to miss some turns.
func (v *value[T]) renewalDue(is *version[T]) bool {
	after := min(v.maxAge/4, renewal)
	age := v.wall().Sub(is.Confirmed)
	if c := v.current.Load(); c != nil && c.stamp == is.stamp && v.elapsed()-c.met >= after {
		return true
	}
	return age >= after || age < -skew
}

// base returns the version that an update starts from, nil for none, and what has to be
// written even if the content stays.
type base[T any] func(raw []byte) (from *version[T], how rewrite, err error)

type rewrite int

const (
	asNeeded   rewrite = iota // nothing
	again                     // a new confirmation
	renumbered                // a new generation
)

// update changes the content of the version that start returns, and holds the result. It
// may call start and change more than once.
func (v *value[T]) update(ctx context.Context, start base[T], change func(*T) (*T, error)) error {
	var is *version[T]
	var raw []byte
	met := v.elapsed()
	err := v.store.Update(ctx, v.kind, func(old []byte) ([]byte, error) {
		from, how, err := start(old)
		if err != nil {
			return nil, err
		}
		is = &version[T]{stamp: stamp{Confirmed: v.wall()}}
		var was *T
		if from != nil {
			was = from.content
			is.Generation, is.Confirmation = from.Generation, from.Confirmation
		} else {
			last, _ := v.seen.last(v.kind)
			is.Generation = last.Generation
		}
		if is.content, err = change(was); err != nil {
			return nil, err
		}
		if is.content == nil {
			return nil, v.absent
		}
		if is.content == was && from != nil {
			is.encoded = from.encoded
		}
		if is.content == was && how == asNeeded {
			is, raw = from, bytes.Clone(old)
			return nil, errUnchanged
		}
		is.Confirmation++
		if is.content != was || how == renumbered {
			is.Generation++
		}
		raw, err = v.seal(is)
		return raw, err
	})
	if err != nil && !errors.Is(err, errUnchanged) {
		return err
	}
	if is == nil {
		return nil
	}
	return v.hold(is, bytes.Clone(raw), met)
}

// newest returns the newer one of the version in the state and the version that this
// process holds.
func (v *value[T]) newest(raw []byte) (*version[T], rewrite, error) {
	mine := v.held()
	if raw == nil {
		return mine, again, nil
	}
	found, reseal, err := v.open(raw)
	if err != nil {
		return nil, asNeeded, v.unopened(err)
	}
	how := asNeeded
	if reseal || found.legacy || v.renewalDue(found) {
		how = again
	}
	content := found.content
	switch {
	case mine == nil:
		if err := v.admit(found); err != nil {
			return nil, asNeeded, err
		}
		content = v.recalled(content)
	case found.legacy || found.before(mine.stamp):
		return mine, again, nil
	case mine.content != content:
		content = v.merge(mine.content, content)
	}
	if content != found.content {
		return &version[T]{stamp: found.stamp, content: content}, renumbered, nil
	}
	return found, how, nil
}
