package keyring

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Load reads the key set and the list of denials for the first time. With a
// signingKeyFile it fails for nothing that is in the state, unless that is a state
// of this server alone which is older than it has seen: the files sign.
func (m *Ring) Load(ctx context.Context) error {
	// The list first: no token is to be signed without it, so it must not wait for
	// a key set.
	denials := m.ledger.load(ctx)
	m.set.changing.Lock()
	defer m.set.changing.Unlock()
	if len(m.files) > 0 {
		m.reports.report(m.log, m.observeSet(ctx))
		if errors.Is(denials, ErrOlder) && m.private {
			return denials // a copy that was restored
		}
		return nil
	}
	err := m.load(ctx)
	m.reports.report(m.log, err)
	return errors.Join(failed("load", err), denials)
}

func (m *Ring) load(ctx context.Context) error {
	raw, err := m.store.Get(ctx, keysKind)
	if err != nil {
		return err
	}
	var made []managedKey
	if raw == nil {
		if err := m.mayMake(m.set.kind); err != nil {
			return err
		}
		if made, err = m.make(2); err != nil {
			return err
		}
	} else {
		found, _, err := m.set.open(raw)
		if err != nil {
			return m.set.unopened(err)
		}
		if m.wrongAlgorithm(found.content.next()) {
			m.log.Info("next key is replaced: keys.algorithm was changed", "kid", found.content.next().public.KeyID)
			if made, err = m.make(1); err != nil {
				return err
			}
		}
	}
	err = m.set.update(ctx, m.set.newest, func(keys *keySet) (*keySet, error) {
		switch {
		case keys == nil && len(made) == 2:
			return m.first(made[0], made[1]), nil
		case keys == nil:
			return nil, ErrNoKeySet
		}
		if len(made) > 0 && m.wrongAlgorithm(keys.next()) {
			keys = keys.replaceNext(made[0])
		}
		return m.lengthen(keys), nil
	})
	if err != nil {
		return err
	}
	m.set.count(m.set.current.Load())
	return m.settle(ctx)
}

// settle revokes the keys of the set that were revoked, as another replica or this
// server knew.
func (m *Ring) settle(ctx context.Context) error {
	for kid := m.keys().outstanding(); kid != ""; kid = m.keys().outstanding() {
		if err := m.revoke(ctx, kid); err != nil {
			return err
		}
	}
	return nil
}

// mayMake fails if there should be a value already: this process may make none, or
// the server has seen one.
func (m *Ring) mayMake(kind string) error {
	generation, seen := m.seen.generation(kind)
	switch {
	case m.private && seen:
		return fmt.Errorf("the state holds none, and this server has seen one (generation %d): it %w; %s", generation, ErrOlder, m.set.remedy())
	case m.private:
		return nil
	}
	return ErrNoKeySet
}

// Run reads the key set and the list of denials again and again, and changes them
// when that is due, until ctx ends.
func (m *Ring) Run(ctx context.Context) error {
	ticker := time.NewTicker(m.config.refresh())
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			m.tick(ctx)
		}
	}
}

// tick is one turn of Run.
func (m *Ring) tick(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, m.config.refresh())
	defer cancel()
	m.ledger.refresh(ctx)
	m.set.changing.Lock()
	defer m.set.changing.Unlock()
	m.reports.report(m.log, m.turn(ctx))
}

func (m *Ring) turn(ctx context.Context) error {
	if len(m.files) > 0 {
		return m.observeSet(ctx)
	}
	if m.keys() == nil {
		return m.load(ctx)
	}
	if err := m.set.read(ctx); err != nil {
		return err
	}
	if err := m.settle(ctx); err != nil {
		return err
	}
	return m.advance(ctx)
}

// observeSet takes note of the key set for a server whose key files sign: it changes
// nothing, and what it cannot use is not published.
func (m *Ring) observeSet(ctx context.Context) error {
	began := m.moment()
	raw, err := m.store.Get(ctx, keysKind)
	if err != nil || raw == nil {
		return err
	}
	found, _, err := m.set.open(raw)
	if err != nil {
		return m.set.unopened(err)
	}
	held := m.set.current.Load()
	if held == nil {
		if err := m.set.admit(found); err != nil {
			return m.set.refused(err)
		}
	} else if found.legacy || found.before(held.stamp) {
		return fmt.Errorf("the key set in the state (generation %d, last confirmed %s) %w", found.Generation, confirmedAt(found.stamp), ErrOlder)
	}
	return m.set.hold(found, raw, began.elapsed)
}

// advance does what is due. The key that a promotion needs takes long to make,
// so it is made before the state is locked, and what is due is then judged
// again: another replica may have done it.
func (m *Ring) advance(ctx context.Context) error {
	keys := m.keys()
	var made []managedKey
	reason := m.due(keys)
	if reason != "" && len(m.withoutExpired(keys).keys) >= maxKeys {
		return fmt.Errorf("rotation is due (%s), and %w", reason, full(keys))
	}
	if reason != "" {
		var err error
		if made, err = m.make(1); err != nil {
			return err
		}
		m.log.Info("rotation of the signing key is due", "reason", reason)
	} else if m.withoutExpired(keys) == keys && m.lengthen(keys) == keys {
		return nil
	}
	return m.set.update(ctx, m.set.newest, func(keys *keySet) (*keySet, error) {
		if keys == nil {
			return nil, ErrNoKeySet
		}
		keys = m.lengthen(m.withoutExpired(keys))
		if reason := m.due(keys); reason != "" && len(made) > 0 && len(keys.keys) < maxKeys {
			keys = keys.promote(made[0], m.wall())
		}
		return keys, nil
	})
}

// read is the key set of the state, or the one held if that is newer.
func (m *Ring) read(ctx context.Context) (*keySet, error) {
	raw, err := m.store.Get(ctx, keysKind)
	if err != nil {
		return nil, err
	}
	found, _, err := m.set.newest(raw)
	if err != nil {
		return nil, err
	}
	if found == nil {
		return nil, ErrNoKeySet
	}
	return found.content, nil
}

// lacking is what a list lacks of another.
func lacking(list, than []string) (all []string) {
	for _, name := range than {
		if !slices.Contains(list, name) {
			all = append(all, name)
		}
	}
	return all
}
