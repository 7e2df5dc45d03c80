package keyring

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Accepted is a value of the state that an operator accepted.
type Accepted struct {
	// Value is the key set or the list of denied instances.
	Value string `json:"value"`
	// Generation and Confirmed are what the value had, zero if it was made now.
	Generation uint64    `json:"generation"`
	Confirmed  time.Time `json:"confirmed,omitzero"`
	// Seen is the highest generation that this server had seen, 0 for none.
	Seen uint64 `json:"seen"`
	// Missing are keys or denied instances that this server saw last time and that
	// the value lacks.
	Missing []string `json:"missing,omitempty"`
	// Returned are keys or denied instances that the value has and that were missing
	// when this server saw it last: a key that was revoked or retired, an instance
	// that was allowed.
	Returned []string `json:"returned,omitempty"`
}

// Init makes what the state lacks: a denial list, and a key set unless key files sign. If
// this process holds them, it writes them back, also over what cannot be opened. It
// returns what it found and what is missing there.
func (r *Ring) Init(ctx context.Context) ([]Accepted, error) {
	return r.init(ctx, r.set.repaired, r.denials.list.repaired)
}

// Accept does what Init does, and also takes what is in the state although it may be old:
// it was not confirmed, or this server has seen a newer one. It does not replace what this
// process holds.
func (r *Ring) Accept(ctx context.Context) ([]Accepted, error) {
	return r.init(ctx, r.set.accepted, r.denials.list.accepted)
}

func (r *Ring) init(ctx context.Context, set base[managedSet], list base[entries]) ([]Accepted, error) {
	denials, err := r.denials.init(ctx, list)
	if err != nil {
		return nil, denialsFailed(err)
	}
	r.set.changing.Lock()
	defer r.set.changing.Unlock()
	var made []managedKey
	if len(r.files) == 0 {
		if made, err = r.make(2); err != nil {
			return nil, failed("init", err)
		}
	}
	keys, err := r.set.accept(ctx, set, func(keys *managedSet) (*managedSet, error) {
		if keys == nil && len(made) > 0 {
			keys = first(made[0], made[1])
		}
		return keys, nil
	})
	if errors.Is(err, errNoKeySet) && len(r.files) > 0 {
		return []Accepted{denials}, nil // the files sign
	}
	if err != nil {
		return nil, failed("init", err)
	}
	r.reports.report(r.log, nil)
	return []Accepted{keys, denials}, nil
}

// repaired is newest for an operator who allows this server to replace what cannot be
// opened.
func (v *value[T]) repaired(raw []byte) (*version[T], rewrite, error) {
	found, how, err := v.newest(raw)
	mine := v.held()
	switch {
	case err == nil || errors.Is(err, errNewer) || errors.Is(err, errOlder) || errors.Is(err, errUnconfirmed):
		return found, how, err
	case mine != nil:
		return mine, again, nil
	case errors.Is(err, errNotSealed) && v.private:
		found, _, err := v.openWith(sealer{}, raw)
		if err == nil {
			err = v.admit(found)
		}
		return found, again, err
	}
	return nil, asNeeded, err
}

// accepted is repaired for an operator who accepts that what is there may be old.
func (v *value[T]) accepted(raw []byte) (*version[T], rewrite, error) {
	if raw == nil || v.held() != nil {
		return v.repaired(raw)
	}
	found, _, err := v.open(raw)
	if err != nil {
		return v.repaired(raw)
	}
	// Its new generation is higher than that of any server that saw no more than this one.
	last, _ := v.seen.last(v.kind)
	from := &version[T]{stamp: found.stamp, content: v.recalled(found.content)}
	from.Generation = max(from.Generation, last.Generation)
	return from, renumbered, nil
}

// accept takes the version that start returns, changed by change.
func (v *value[T]) accept(ctx context.Context, start base[T], change func(*T) (*T, error)) (Accepted, error) {
	last, _ := v.seen.last(v.kind)
	a, names := Accepted{Value: v.what, Seen: last.Generation}, last.Names
	if before := v.content(); before != nil {
		names = v.names(before)
	}
	err := v.update(ctx, func(raw []byte) (*version[T], rewrite, error) {
		from, how, err := start(raw)
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
	a.Missing = missing(v.names(now.content), names)
	if a.Seen > 0 {
		a.Returned = missing(names, v.names(now.content))
	}
	return a, nil
}

// missing returns the names that the list lacks, nil for none.
func missing(list, names []string) (all []string) {
	for _, name := range names {
		if !slices.Contains(list, name) {
			all = append(all, name)
		}
	}
	return all
}

// read returns the key set of the state, or the one that this process holds if that is
// newer.
func (r *Ring) read(ctx context.Context) (*managedSet, error) {
	raw, err := r.store.Get(ctx, keysKind)
	if err != nil {
		return nil, err
	}
	found, _, err := r.set.newest(raw)
	if err != nil {
		return nil, err
	}
	if found == nil {
		return nil, errNoKeySet
	}
	return found.content, nil
}

// Rotate makes the next key current if verifiers can know it. It uses the wall clock alone,
// because a process that has just started has no other time. If another replica rotates
// at the same time, that is one rotation.
func (r *Ring) Rotate(ctx context.Context) (KeyInfo, error) {
	r.set.changing.Lock()
	defer r.set.changing.Unlock()
	info, err := r.rotate(ctx)
	return info, failed("rotate", err)
}

func (r *Ring) rotate(ctx context.Context) (KeyInfo, error) {
	if len(r.files) > 0 {
		return KeyInfo{}, errors.New("the keys of auth.signingKeyFile sign: change that instead")
	}
	before, err := r.read(ctx)
	if err != nil {
		return KeyInfo{}, err
	}
	made, err := r.make(1)
	if err != nil {
		return KeyInfo{}, err
	}
	err = r.set.update(ctx, r.set.newest, func(keys *managedSet) (*managedSet, error) {
		if keys == nil {
			return nil, errNoKeySet
		}
		if keys.current().public.KeyID != before.current().public.KeyID {
			return keys, nil
		}
		next, s := keys.next(), r.schedule()
		if ready := s.ready(next); s.now.Before(ready) {
			return nil, fmt.Errorf("verifiers may not know the next key %s before %s (in %v): rotate then; if the current key was stolen, revoke it",
				next.public.KeyID, formatTime(ready), ready.Sub(s.now).Round(time.Second))
		}
		keys = s.withoutExpired(keys)
		if len(keys.keys) >= maxKeys {
			return nil, full(keys)
		}
		return keys.promote(made[0], s.now), nil
	})
	if err != nil {
		return KeyInfo{}, err
	}
	return keyInfo(r.keys().current()), nil
}

// Revoke removes a key from the key set at once. The next key replaces a current one, even
// if verifiers may not know it yet.
func (r *Ring) Revoke(ctx context.Context, kid string) error {
	r.set.changing.Lock()
	defer r.set.changing.Unlock()
	return failed("revoke", r.revoke(ctx, kid))
}

func (r *Ring) revoke(ctx context.Context, kid string) error {
	if published(r.files, kid) {
		return fmt.Errorf("%s is a key of auth.signingKeyFile: remove it from the configuration of every replica", kid)
	}
	if _, err := r.read(ctx); err != nil {
		return err
	}
	made, err := r.make(1)
	if err != nil {
		return err
	}
	var revoked managedKey
	var wait time.Duration
	err = r.set.update(ctx, r.set.newest, func(keys *managedSet) (*managedSet, error) {
		if keys == nil {
			return nil, errNoKeySet
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
		s := r.schedule()
		wait = s.ready(keys.next()).Sub(s.now)
		return keys.revoke(kid, made[0], s.now), nil
	})
	if err != nil {
		return err
	}
	r.log.Warn("key is revoked", "kid", kid, "state", revoked.state)
	if revoked.state == stateCurrent && wait > 0 {
		r.log.Warn("verifiers that cache the key set may reject tokens of the new signing key, which they do not know yet", "for", wait)
	}
	return nil
}

// Import takes a private key in PEM into the key set: as the current key if there is no
// key set yet, since verifiers know it then, else as the next key.
func (r *Ring) Import(ctx context.Context, pem []byte) (KeyInfo, error) {
	key, err := parseKey(pem)
	if err != nil {
		return KeyInfo{}, fmt.Errorf("key set: import: the file %w", err)
	}
	r.set.changing.Lock()
	defer r.set.changing.Unlock()
	imported := r.nextKey(key)
	imported.imported = true
	made, err := r.make(1)
	if err != nil {
		return KeyInfo{}, failed("import", err)
	}
	err = r.set.update(ctx, r.set.newest, func(keys *managedSet) (*managedSet, error) {
		if keys == nil {
			return first(imported, made[0]), nil
		}
		if slices.Contains(keys.revoked, key.public.KeyID) {
			return nil, fmt.Errorf("the key %s was revoked", key.public.KeyID)
		}
		old, ok := keys.find(key.public.KeyID)
		switch {
		case ok && old.state == stateCurrent, ok && old.imported && old.state == stateNext:
			return keys, nil
		case ok && old.state == stateNext:
			old.imported = true
			return keys.replaceNext(old), nil
		}
		return keys.replaceNext(imported), nil
	})
	if err != nil {
		return KeyInfo{}, failed("import", err)
	}
	k, _ := r.keys().find(key.public.KeyID)
	return keyInfo(k), nil
}

// KeyInfo is what may be known of a key. Times that do not apply are zero.
type KeyInfo struct {
	KeyID        string    `json:"kid"`
	Algorithm    string    `json:"alg"`
	State        keyState  `json:"state"`
	Created      time.Time `json:"created,omitzero"`
	Published    time.Time `json:"published,omitzero"`
	Since        time.Time `json:"since,omitzero"` // when it became current
	Retired      time.Time `json:"retired,omitzero"`
	RemovedAfter time.Time `json:"removed_after,omitzero"`
}

// List reads the key set from the state and describes each key, those of signingKeyFile
// first.
func (r *Ring) List(ctx context.Context) ([]KeyInfo, error) {
	keys, err := r.read(ctx)
	if errors.Is(err, errNoKeySet) && len(r.files) > 0 {
		return r.infos(nil), nil
	}
	if err != nil {
		return nil, failed("list", err)
	}
	return r.infos(keys), nil
}

func (r *Ring) infos(keys *managedSet) []KeyInfo {
	var all []KeyInfo
	for i, k := range r.files {
		state := statePublished
		if i == 0 {
			state = stateCurrent
		}
		all = append(all, KeyInfo{KeyID: k.public.KeyID, Algorithm: k.alg, State: state})
	}
	if keys == nil {
		return all
	}
	imported := r.imported(keys)
	for _, k := range keys.keys {
		if published(r.files, k.public.KeyID) {
			continue
		}
		info := keyInfo(k)
		switch {
		case !imported:
			info.State = stateUnpublished
		case len(r.files) > 0:
			info.State = statePublished
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
	if k.state == stateRetired {
		i.RemovedAfter = second(removedAfter(k))
	}
	return i
}
