package keyring

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Load reads the key set and the denial list for the first time. With signing keys from
// files, a problem of the state is not an error, except for a state of this server alone
// that is older than this server has seen.
func (r *Ring) Load(ctx context.Context) error {
	// No token may be signed without the denial list, so it must not wait for a key set.
	denials := r.denials.load(ctx)
	r.set.changing.Lock()
	defer r.set.changing.Unlock()
	if len(r.files) > 0 {
		r.reports.report(r.log, r.observe(ctx))
		if errors.Is(denials, errOlder) && r.private {
			return denials // a copy that was restored
		}
		return nil
	}
	err := r.load(ctx)
	r.reports.report(r.log, err)
	return errors.Join(failed("load", err), denials)
}

func (r *Ring) load(ctx context.Context) error {
	raw, err := r.store.Get(ctx, keysKind)
	if err != nil {
		return err
	}
	// Keys take long to make, so they are made before the state is locked.
	var made []managedKey
	if raw == nil {
		if !r.private {
			return errNoKeySet
		}
		if err := r.set.lost(); err != nil {
			return err
		}
		if made, err = r.make(2); err != nil {
			return err
		}
	} else {
		found, _, err := r.set.open(raw)
		if err != nil {
			return r.set.unopened(err)
		}
		if next := found.content.next(); r.schedule().wrongAlgorithm(next) {
			r.log.Info("next key is replaced: keys.algorithm was changed", "kid", next.public.KeyID)
			if made, err = r.make(1); err != nil {
				return err
			}
		}
	}
	err = r.set.update(ctx, r.set.newest, func(keys *managedSet) (*managedSet, error) {
		switch {
		case keys == nil && len(made) == 2:
			return first(made[0], made[1]), nil
		case keys == nil:
			return nil, errNoKeySet
		}
		s := r.schedule()
		if len(made) > 0 && s.wrongAlgorithm(keys.next()) {
			keys = keys.replaceNext(made[0])
		}
		return s.lengthen(keys), nil
	})
	if err != nil {
		return err
	}
	r.set.count(r.set.current.Load())
	return r.settle(ctx)
}

// settle revokes the keys of the set that another replica or this server revoked.
func (r *Ring) settle(ctx context.Context) error {
	for kid := r.keys().outstanding(); kid != ""; kid = r.keys().outstanding() {
		if err := r.revoke(ctx, kid); err != nil {
			return err
		}
	}
	return nil
}

// Run reads the key set and the denial list at each refresh, and changes the key set when
// that is due. It returns when ctx ends.
func (r *Ring) Run(ctx context.Context) error {
	ticker := time.NewTicker(r.refresh())
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			r.tick(ctx)
		}
	}
}

// tick is one turn of Run.
func (r *Ring) tick(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, r.refresh())
	defer cancel()
	r.denials.refresh(ctx)
	r.set.changing.Lock()
	defer r.set.changing.Unlock()
	r.reports.report(r.log, r.turn(ctx))
}

func (r *Ring) turn(ctx context.Context) error {
	if len(r.files) > 0 {
		return r.observe(ctx)
	}
	if r.keys() == nil {
		return r.load(ctx)
	}
	if err := r.set.read(ctx); err != nil {
		return err
	}
	if err := r.settle(ctx); err != nil {
		return err
	}
	return r.advance(ctx)
}

// observe reads the key set for a server whose key files sign. It changes nothing in the
// state, and does not publish what it cannot use.
func (r *Ring) observe(ctx context.Context) error {
	began := r.moment()
	raw, err := r.store.Get(ctx, keysKind)
	if err != nil || raw == nil {
		return err
	}
	found, _, err := r.set.open(raw)
	if err != nil {
		return r.set.unopened(err)
	}
	held := r.set.current.Load()
	if held == nil {
		if err := r.set.admit(found); err != nil {
			return err
		}
	} else if found.legacy || found.before(held.stamp) {
		return fmt.Errorf("the key set in the state (generation %d, last confirmed %s) %w", found.Generation, found.confirmedAt(), errOlder)
	}
	return r.set.hold(found, raw, began.elapsed)
}

// advance makes the changes that are due. A promotion needs a new key, which takes long to
// make, so it is made before the state is locked. Then the schedule decides again: another
// replica may have promoted the next key meanwhile.
func (r *Ring) advance(ctx context.Context) error {
	keys, s := r.keys(), r.schedule()
	var made []managedKey
	reason := s.due(keys)
	if reason != "" && len(s.withoutExpired(keys).keys) >= maxKeys {
		return fmt.Errorf("rotation is due (%s), and %w", reason, full(keys))
	}
	if reason != "" {
		var err error
		if made, err = r.make(1); err != nil {
			return err
		}
		r.log.Info("rotation of the signing key is due", "reason", reason)
	} else if s.withoutExpired(keys) == keys && s.lengthen(keys) == keys {
		return nil
	}
	return r.set.update(ctx, r.set.newest, func(keys *managedSet) (*managedSet, error) {
		if keys == nil {
			return nil, errNoKeySet
		}
		s := r.schedule()
		keys = s.lengthen(s.withoutExpired(keys))
		if s.due(keys) != "" && len(made) > 0 && len(keys.keys) < maxKeys {
			keys = keys.promote(made[0], s.now)
		}
		return keys, nil
	})
}
