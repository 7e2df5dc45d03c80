package keyring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// errUnchanged ends an Update that has nothing to write.
var errUnchanged = errors.New("the key set stays as it is")

// Load reads the key set for the first time. With a signingKeyFile it fails
// for nothing that is in the state: the files sign.
func (m *Ring) Load(ctx context.Context) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	if len(m.files) > 0 {
		if err := m.hold(nil, nil); err != nil {
			return failed("load", err)
		}
		m.report(m.refresh(ctx))
		return nil
	}
	err := m.load(ctx)
	m.report(err)
	return failed("load", err)
}

func (m *Ring) load(ctx context.Context) error {
	began := m.moment()
	value, err := m.store.Get(ctx, storeKey)
	if err != nil {
		return err
	}
	var made []managedKey
	if value == nil {
		if !m.initialize {
			return ErrNoKeySet
		}
		if made, err = m.make(2); err != nil {
			return err
		}
	} else {
		keys, _, err := m.sealer.open(value, m.name)
		if err != nil {
			return m.unopened(err)
		}
		if m.wrongAlgorithm(keys.next()) {
			m.log.Info("next key is replaced: keys.algorithm was changed", "kid", keys.next().public.KeyID)
			if made, err = m.make(1); err != nil {
				return err
			}
		}
	}
	err = m.update(ctx, m.newest, func(keys *keySet) (*keySet, error) {
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
	if err == nil {
		m.fresh.Store(&began)
	}
	return err
}

// Run reads the key set again and again, and changes it when that is due, until
// ctx ends.
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
	m.changing.Lock()
	defer m.changing.Unlock()
	err := m.refresh(ctx)
	if err == nil && len(m.files) == 0 {
		err = m.advance(ctx)
	}
	m.report(err)
}

// refresh reads the key set. What is missing or old in the state is replaced by
// what is held here; what cannot be opened is left, since it may be another's.
func (m *Ring) refresh(ctx context.Context) error {
	began := m.moment()
	value, err := m.store.Get(ctx, storeKey)
	if err != nil {
		return err
	}
	mine := m.keys()
	if value == nil {
		switch {
		case len(m.files) > 0:
			return nil
		case mine == nil:
			return ErrNoKeySet
		}
		m.log.Error("key set is gone from the state: it is written back", "generation", mine.generation)
		// The reading counts with the next one: should this set be an old one,
		// others replace it until then.
		return m.update(ctx, m.newest, unchanged)
	}
	if mine != nil && bytes.Equal(value, m.value) {
		m.fresh.Store(&began)
		return nil
	}
	keys, _, err := m.sealer.open(value, m.name)
	if err != nil {
		return m.unopened(err)
	}
	if mine != nil && keys.generation < mine.generation {
		m.log.Error("key set in the state is older than the one held: it is refused", "generation", keys.generation, "held", mine.generation)
		if len(m.files) > 0 {
			return nil
		}
		return m.update(ctx, m.newest, unchanged)
	}
	if err := m.hold(keys, value); err != nil {
		return err
	}
	m.fresh.Store(&began)
	return nil
}

func unchanged(keys *keySet) (*keySet, error) { return keys, nil }

func (m *Ring) unopened(err error) error {
	err = fmt.Errorf("the value %q in the state %w", storeKey, err)
	switch {
	case errors.Is(err, errNewer):
		return err
	case m.keys() != nil:
		return fmt.Errorf("%w; `keys init` writes the key set of this server over it", err)
	case errors.Is(err, errNotSealed) && m.initialize:
		return fmt.Errorf("%w; if it was made without encryptionKeyFile, `keys init` seals it", err)
	}
	return fmt.Errorf("%w; `keys init` at a server that still runs writes its key set over it; if there is none and nobody needs the value, delete it", err)
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
	return m.update(ctx, m.newest, func(keys *keySet) (*keySet, error) {
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

// update changes the newest key set and holds the outcome. base gives it, nil
// for none, and whether it has to be written even if nothing changes.
func (m *Ring) update(ctx context.Context, base func(value []byte) (keys *keySet, rewrite bool, err error), change func(*keySet) (*keySet, error)) error {
	var keys *keySet
	var written []byte
	err := m.store.Update(ctx, storeKey, func(old []byte) ([]byte, error) {
		from, rewrite, err := base(old)
		if err != nil {
			return nil, err
		}
		if keys, err = change(from); err != nil {
			return nil, err
		}
		if keys == from && !rewrite {
			written = old
			return nil, errUnchanged
		}
		written, err = m.sealer.seal(keys)
		return written, err
	})
	if err != nil && !errors.Is(err, errUnchanged) {
		return err
	}
	return m.hold(keys, bytes.Clone(written))
}

// newest is the newer one of the key set in the state and the one held.
func (m *Ring) newest(value []byte) (keys *keySet, rewrite bool, err error) {
	mine := m.keys()
	if value == nil {
		return mine, true, nil
	}
	keys, reseal, err := m.sealer.open(value, m.name)
	if err != nil {
		return nil, false, m.unopened(err)
	}
	if mine != nil && keys.generation < mine.generation {
		return mine, true, nil
	}
	return keys, reseal, nil
}

// repaired is newest for an operator who says that what cannot be opened may go.
func (m *Ring) repaired(value []byte) (keys *keySet, rewrite bool, err error) {
	keys, rewrite, err = m.newest(value)
	mine := m.keys()
	switch {
	case err == nil || errors.Is(err, errNewer):
		return keys, rewrite, err
	case mine != nil:
		return mine, true, nil
	case errors.Is(err, errNotSealed) && m.initialize:
		keys, _, err := sealer{}.open(value, m.name)
		return keys, true, err
	}
	return nil, false, err
}

// hold makes a key set, or none, the one that signs and is published.
func (m *Ring) hold(keys *keySet, value []byte) error {
	was := m.keys()
	h := &held{managed: keys}
	all := slices.Clone(m.files)
	if keys != nil {
		for _, k := range keys.keys {
			if !published(all, k.public.KeyID) {
				all = append(all, k.Key)
			}
		}
	}
	h.published = &Published{all}
	m.observe(keys)
	m.held.Store(h)
	m.value = value
	switch {
	case keys == nil:
	case was == nil || keys.generation > was.generation:
		m.log.Info("key set", "generation", keys.generation, "current", keys.current().public.KeyID, "next", keys.next().public.KeyID, "keys", len(keys.keys))
		if len(all) > maxKeys {
			m.log.Warn("more keys are published than some verifiers take", "keys", len(all), "limit", maxKeys)
		}
	case keys != was && !keys.equal(was):
		m.log.Error("key set in the state differs from the one held and has the same generation: the state went back in time; that of the state is taken", "generation", keys.generation)
	}
	return nil
}

// read is the key set of the state, or the one held if that is newer.
func (m *Ring) read(ctx context.Context) (*keySet, error) {
	value, err := m.store.Get(ctx, storeKey)
	if err != nil {
		return nil, err
	}
	keys, _, err := m.newest(value)
	if err == nil && keys == nil {
		err = ErrNoKeySet
	}
	return keys, err
}
