package keyring

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Accepted is what an operator accepted as it is in the state.
type Accepted struct {
	// Value says which it is: the key set or the list of denied instances.
	Value string `json:"value"`
	// Generation and Confirmed are those that it had, zero if it was made now.
	Generation uint64    `json:"generation"`
	Confirmed  time.Time `json:"confirmed,omitzero"`
	// Seen is the highest generation that this server had seen, 0 for none.
	Seen uint64 `json:"seen"`
	// Missing are keys or denied instances that this server has seen last and that
	// are not there.
	Missing []string `json:"missing,omitempty"`
	// Returned are keys or denied instances that are there and were not there
	// when this server saw the value last: a key that was revoked or retired, an
	// instance that was allowed.
	Returned []string `json:"returned,omitempty"`
}

// Init makes what the state lacks: a list of denials, and a key set unless key files
// sign. If this process holds them they are written back, also over what cannot be
// opened.
// It says what it found: what this server has seen and is not there any more.
func (m *Ring) Init(ctx context.Context) ([]Accepted, error) {
	return m.init(ctx, (*value[keySet]).repaired, (*value[entries]).repaired)
}

// Accept is Init for an operator who says that what is in the state is to be taken
// though it may be old: it was not confirmed, or this server has seen a newer one.
// What this process holds already is not replaced.
func (m *Ring) Accept(ctx context.Context) ([]Accepted, error) {
	return m.init(ctx, (*value[keySet]).accepted, (*value[entries]).accepted)
}

func (m *Ring) init(ctx context.Context, set func(*value[keySet], []byte) (*version[keySet], rewrite, error), list func(*value[entries], []byte) (*version[entries], rewrite, error)) ([]Accepted, error) {
	denials, err := m.ledger.init(ctx, list)
	if err != nil {
		return nil, m.ledger.failed(err)
	}
	m.set.changing.Lock()
	defer m.set.changing.Unlock()
	var made []managedKey
	if len(m.files) == 0 {
		if made, err = m.make(2); err != nil {
			return nil, failed("init", err)
		}
	}
	keys, err := m.set.accept(ctx, set, func(keys *keySet) (*keySet, error) {
		if keys == nil && len(made) > 0 {
			keys = m.first(made[0], made[1])
		}
		return keys, nil
	})
	if errors.Is(err, ErrNoKeySet) && len(m.files) > 0 {
		return []Accepted{denials}, nil // the files sign
	}
	if err != nil {
		return nil, failed("init", err)
	}
	m.reports.report(m.log, nil)
	return []Accepted{keys, denials}, nil
}

// init makes the list if there is none.
func (l *Ledger) init(ctx context.Context, start func(*value[entries], []byte) (*version[entries], rewrite, error)) (Accepted, error) {
	l.list.changing.Lock()
	defer l.list.changing.Unlock()
	values := map[string][]byte{}
	raw, err := l.list.store.Get(ctx, denialsKind)
	if err != nil {
		return Accepted{}, err
	}
	if raw == nil && l.list.current.Load() == nil {
		if values, err = l.former(ctx); err != nil {
			return Accepted{}, err
		}
	}
	a, err := l.list.accept(ctx, start, l.begin(values))
	if err == nil {
		l.reports.report(l.list.log, nil)
	}
	return a, err
}

// accept takes what an operator allows, from where start says.
func (v *value[T]) accept(ctx context.Context, start func(*value[T], []byte) (*version[T], rewrite, error), change func(*T) (*T, error)) (Accepted, error) {
	var a Accepted
	before, names := v.held(), v.seen.names(v.kind)
	a.Value = v.what
	a.Seen, _ = v.seen.generation(v.kind)
	if before != nil {
		names = v.names(before.content)
	}
	err := v.update(ctx, func(raw []byte) (*version[T], rewrite, error) {
		from, how, err := start(v, raw)
		if found, _, openErr := v.open(raw); raw != nil && openErr == nil {
			a.Generation, a.Confirmed = found.Generation, found.Confirmed
		}
		return from, how, err
	}, change)
	if err != nil {
		return Accepted{}, err
	}
	now := v.current.Load()
	v.count(now)
	a.Missing = lacking(v.names(now.content), names)
	if a.Seen > 0 {
		a.Returned = lacking(names, v.names(now.content))
	}
	return a, nil
}

// Rotate makes the next key current if verifiers can know it, going by the
// wall clock alone: a process that has just started has no other. If another
// replica did so first, that is fine.
func (m *Ring) Rotate(ctx context.Context) (KeyInfo, error) {
	m.set.changing.Lock()
	defer m.set.changing.Unlock()
	info, err := m.rotate(ctx)
	return info, failed("rotate", err)
}

func (m *Ring) rotate(ctx context.Context) (KeyInfo, error) {
	if len(m.files) > 0 {
		return KeyInfo{}, errors.New("auth.signingKeyFile says what signs: change that")
	}
	before, err := m.read(ctx)
	if err != nil {
		return KeyInfo{}, err
	}
	made, err := m.make(1)
	if err != nil {
		return KeyInfo{}, err
	}
	err = m.set.update(ctx, m.set.newest, func(keys *keySet) (*keySet, error) {
		if keys == nil {
			return nil, ErrNoKeySet
		}
		if keys.current().public.KeyID != before.current().public.KeyID {
			return keys, nil
		}
		next, now := keys.next(), m.wall()
		if ready := next.published.Add(m.leadOf(next)); now.Before(ready) {
			return nil, fmt.Errorf("verifiers may not know the next key %s before %s (in %v): rotate then; if the current key is lost to somebody, revoke it",
				next.public.KeyID, formatTime(ready), ready.Sub(now).Round(time.Second))
		}
		keys = m.withoutExpired(keys)
		if len(keys.keys) >= maxKeys {
			return nil, full(keys)
		}
		return keys.promote(made[0], now), nil
	})
	if err != nil {
		return KeyInfo{}, err
	}
	return keyInfo(m.keys().current()), nil
}

// Revoke takes a key out of the key set at once. A current key is succeeded by
// the next one, even if verifiers may not know that yet.
func (m *Ring) Revoke(ctx context.Context, kid string) error {
	m.set.changing.Lock()
	defer m.set.changing.Unlock()
	return failed("revoke", m.revoke(ctx, kid))
}

func (m *Ring) revoke(ctx context.Context, kid string) error {
	if published(m.files, kid) {
		return fmt.Errorf("%s is a key of auth.signingKeyFile: take it out of the configuration of every replica", kid)
	}
	if _, err := m.read(ctx); err != nil {
		return err
	}
	made, err := m.make(1)
	if err != nil {
		return err
	}
	var revoked managedKey
	var wait time.Duration
	err = m.set.update(ctx, m.set.newest, func(keys *keySet) (*keySet, error) {
		if keys == nil {
			return nil, ErrNoKeySet
		}
		var ok bool
		revoked, ok = keys.find(kid)
		if !ok {
			var known []string
			for _, k := range keys.keys {
				known = append(known, fmt.Sprintf("%s (%s)", k.public.KeyID, k.state))
			}
			return nil, fmt.Errorf("there is no key %q; there are %s", kid, strings.Join(known, ", "))
		}
		next, now := keys.next(), m.wall()
		wait = m.leadOf(next) - now.Sub(next.published)
		return keys.revoke(kid, made[0], now), nil
	})
	if err != nil {
		return err
	}
	m.log.Warn("key is revoked", "kid", kid, "state", revoked.state)
	if revoked.state == StateCurrent && wait > 0 {
		m.log.Warn("verifiers that keep the key set may refuse tokens of the new signing key, which they do not know yet", "for", wait)
	}
	return nil
}

// Import takes a private key in PEM into the key set: as the current one if
// there is no set yet, since verifiers know it then, else as the next one.
func (m *Ring) Import(ctx context.Context, pem []byte) (KeyInfo, error) {
	key, err := parseKey(pem)
	if err != nil {
		return KeyInfo{}, fmt.Errorf("key set: import: the file %w", err)
	}
	m.set.changing.Lock()
	defer m.set.changing.Unlock()
	imported := m.nextKey(key)
	imported.imported = true
	made, err := m.make(1)
	if err != nil {
		return KeyInfo{}, failed("import", err)
	}
	err = m.set.update(ctx, m.set.newest, func(keys *keySet) (*keySet, error) {
		if keys == nil {
			return m.first(imported, made[0]), nil
		}
		if slices.Contains(keys.revoked, key.public.KeyID) {
			return nil, fmt.Errorf("the key %s was revoked", key.public.KeyID)
		}
		old, ok := keys.find(key.public.KeyID)
		switch {
		case ok && old.state == StateCurrent, ok && old.imported && old.state == StateNext:
			return keys, nil
		case ok && old.state == StateNext:
			old.imported = true
			return keys.replaceNext(old), nil
		}
		return keys.replaceNext(imported), nil
	})
	if err != nil {
		return KeyInfo{}, failed("import", err)
	}
	k, _ := m.keys().find(key.public.KeyID)
	return keyInfo(k), nil
}

// KeyInfo is what may be known of a key. Times that do not apply are zero.
type KeyInfo struct {
	KeyID        string    `json:"kid"`
	Algorithm    string    `json:"alg"`
	State        KeyState  `json:"state"`
	Created      time.Time `json:"created,omitzero"`
	Published    time.Time `json:"published,omitzero"`
	Since        time.Time `json:"since,omitzero"` // when it became current
	Retired      time.Time `json:"retired,omitzero"`
	RemovedAfter time.Time `json:"removed_after,omitzero"`
}

// List reads the key set from the state and tells of each key, those of
// signingKeyFile first.
func (m *Ring) List(ctx context.Context) ([]KeyInfo, error) {
	keys, err := m.read(ctx)
	if errors.Is(err, ErrNoKeySet) && len(m.files) > 0 {
		return m.infos(nil), nil
	}
	if err != nil {
		return nil, failed("list", err)
	}
	return m.infos(keys), nil
}

// Infos is List of the keys that this process publishes, without asking the
// state.
func (m *Ring) Infos() []KeyInfo { return m.infos(m.keys()) }

func (m *Ring) infos(keys *keySet) []KeyInfo {
	var all []KeyInfo
	for i, k := range m.files {
		state := StatePublished
		if i == 0 {
			state = StateCurrent
		}
		all = append(all, KeyInfo{KeyID: k.public.KeyID, Algorithm: k.alg, State: state})
	}
	if keys == nil {
		return all
	}
	imported := m.imported(keys)
	for _, k := range keys.keys {
		if published(m.files, k.public.KeyID) {
			continue
		}
		info := keyInfo(k)
		switch {
		case !imported:
			info.State = StateUnpublished
		case len(m.files) > 0:
			info.State = StatePublished
		}
		all = append(all, info)
	}
	return all
}

func keyInfo(k managedKey) KeyInfo {
	second := func(t time.Time) time.Time { return t.Truncate(time.Second) }
	i := KeyInfo{
		KeyID: k.public.KeyID, Algorithm: k.alg, State: k.state,
		Created: second(k.created), Published: second(k.published), Since: second(k.since), Retired: second(k.retired),
	}
	if k.state == StateRetired {
		i.RemovedAfter = second(removedAfter(k))
	}
	return i
}
