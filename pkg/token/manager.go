package token

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrNoKeySet says that the state holds no key set, and that this process
	// must not make one by itself.
	ErrNoKeySet = errors.New("the state holds none; if it is new, `keys init` makes one, and if it lost one, a running server writes it back within seconds")
	// ErrKeysStale says that the key set was read too long ago to sign with it:
	// the key may have been retired or revoked.
	ErrKeysStale = errors.New("the key set could not be read from the state for longer than keys.maxAge")
)

// errUnchanged ends an Update that has nothing to write.
var errUnchanged = errors.New("the key set stays as it is")

// ManagerOptions is what a manager may be told.
type ManagerOptions struct {
	// Log is told what changes, and what is wrong. Optional.
	Log *slog.Logger
	// Now is the clock. Optional, nil means time.Now.
	Now func() time.Time
	// Initialize makes a key set where there is none, and lets Init seal one
	// that is not. It is for a state that no other machine writes to.
	Initialize bool
	// LongestLife is the longest life of the tokens of any role. Optional:
	// Config.TokenExpiry and what [NewIssuer] is told count anyway.
	LongestLife time.Duration
}

// Manager holds the keys that are in the state: it reads them, changes them
// when that is due, and agrees with all others on the same state. With a
// signingKeyFile it publishes what it finds there, and lets the files sign.
//
// All methods may be called concurrently. Init, Import, List, Rotate and Revoke
// need no Load.
type Manager struct {
	config     ManagedConfig
	name       string // of the issuer
	files      []signingKey
	store      KeyStore
	sealer     sealer
	log        *slog.Logger
	now        func() time.Time
	initialize bool
	life       atomic.Int64 // the longest, in nanoseconds

	elapsed  func() time.Duration // monotonic
	generate func(algorithm string) (signingKey, error)

	changing sync.Mutex // held while the state is asked or changed
	value    []byte     // that in the state, of the key set that is held
	observed map[observation]time.Duration

	held  atomic.Pointer[held]
	fresh atomic.Pointer[moment] // when the last good reading began

	reporting sync.Mutex
	problem   error // of the last reading
}

// held is what the process signs with and publishes.
type held struct {
	snapshot
	managed *managedKeys // nil if there are none
}

// observation is a key in a state.
type observation struct {
	kid   string
	state KeyState
}

// moment is a time by both clocks. That of the wall steps, the monotonic one
// stands still while the machine sleeps.
type moment struct {
	elapsed time.Duration
	wall    time.Time
}

// NewManager makes a manager; nothing is read from the store yet. The files that
// the configurations name are read.
func NewManager(c Config, m ManagedConfig, store KeyStore, o ManagerOptions) (*Manager, error) {
	if _, err := parseIssuer(c.TokenIssuer); err != nil {
		return nil, fmt.Errorf("token issuer: %w", err)
	}
	life := max(c.TokenExpiry, o.LongestLife)
	if err := errors.Join(m.Validate(), m.ValidateLife(life)); err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	sealer, err := loadSealer(m.EncryptionKeyFile)
	if err != nil {
		return nil, fmt.Errorf("key set: encryptionKeyFile: %w", err)
	}
	started := time.Now()
	k := &Manager{
		config: m, name: c.TokenIssuer, store: store, sealer: sealer,
		log: o.Log, now: o.Now, initialize: o.Initialize,
		elapsed: func() time.Duration { return time.Since(started) }, generate: generateKey,
		observed: map[observation]time.Duration{},
	}
	k.life.Store(int64(life))
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	if k.now == nil {
		k.now = time.Now
	}
	if len(c.SigningKeyFile) > 0 {
		files, err := LoadKeys(c.SigningKeyFile)
		if err != nil {
			return nil, fmt.Errorf("key set: signingKeyFile: %w", err)
		}
		k.files = files.keys
	}
	return k, nil
}

func generateKey(algorithm string) (signingKey, error) {
	for {
		var key crypto.Signer
		var err error
		if algorithm == ES256 {
			key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		} else {
			key, err = rsa.GenerateKey(rand.Reader, minRSABits)
		}
		if err != nil {
			return signingKey{}, err
		}
		// One in 64 has a kid that a command line takes for an option.
		if made, err := newSigningKey(key); err != nil || !strings.HasPrefix(made.public.KeyID, "-") {
			return made, err
		}
	}
}

// Load reads the key set for the first time. With a signingKeyFile it fails
// for nothing that is in the state: the files sign.
func (m *Manager) Load(ctx context.Context) error {
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

func (m *Manager) load(ctx context.Context) error {
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
	err = m.update(ctx, m.newest, func(keys *managedKeys) (*managedKeys, error) {
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

func (m *Manager) wrongAlgorithm(next managedKey) bool {
	return next.method.Alg() != m.config.Algorithm && !next.imported
}

// Run reads the key set again and again, and changes it when that is due, until
// ctx ends.
func (m *Manager) Run(ctx context.Context) error {
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
func (m *Manager) tick(ctx context.Context) {
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
func (m *Manager) refresh(ctx context.Context) error {
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

func unchanged(keys *managedKeys) (*managedKeys, error) { return keys, nil }

func (m *Manager) unopened(err error) error {
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
func (m *Manager) advance(ctx context.Context) error {
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
	return m.update(ctx, m.newest, func(keys *managedKeys) (*managedKeys, error) {
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

// due is why the next key should now become current, "" if it should not.
//
// Both clocks must agree: one that stepped forward must not let a key sign that
// verifiers cannot know.
func (m *Manager) due(keys *managedKeys) string {
	current, next := keys.current(), keys.next()
	now, lead := m.wall(), m.leadOf(next)
	switch {
	case now.Sub(next.published) < lead || m.observedFor(next) < lead:
		return ""
	case now.Sub(current.since) >= m.config.RotationPeriod:
		return "age"
	case current.method.Alg() != m.config.Algorithm && next.method.Alg() == m.config.Algorithm:
		return "algorithm"
	}
	return ""
}

func (m *Manager) leadOf(next managedKey) time.Duration {
	return m.config.lead(max(next.maxAge, m.config.MaxAge))
}

// removedAfter is when nobody can hold a good token of a retired key.
func removedAfter(k managedKey) time.Time { return k.retired.Add(keep(k.maxAge, k.life)) }

// full says when there is room for another key.
func full(keys *managedKeys) error {
	return fmt.Errorf("the %d keys that verifiers take are published: the oldest is removed after %s",
		maxKeys, formatTime(removedAfter(keys.keys[len(keys.keys)-1])))
}

// withoutExpired leaves out the retired keys whose time is over, by both clocks.
func (m *Manager) withoutExpired(keys *managedKeys) *managedKeys {
	now := m.wall()
	rest := slices.DeleteFunc(slices.Clone(keys.keys), func(k managedKey) bool {
		return k.state == StateRetired && !now.Before(removedAfter(k)) && m.observedFor(k) >= keep(k.maxAge, k.life)
	})
	if len(rest) == len(keys.keys) {
		return keys
	}
	return keys.successor(rest...)
}

// lengthen raises what the keys know of caches and tokens to what this replica
// allows.
func (m *Manager) lengthen(keys *managedKeys) *managedKeys {
	maxAge, life := m.allowed()
	rest := slices.Clone(keys.keys)
	for i := range rest {
		rest[i].maxAge, rest[i].life = max(rest[i].maxAge, maxAge), max(rest[i].life, life)
	}
	if slices.EqualFunc(rest, keys.keys, func(a, b managedKey) bool { return a.maxAge == b.maxAge && a.life == b.life }) {
		return keys
	}
	return keys.successor(rest...)
}

// allowed is in whole seconds, as it is stored.
func (m *Manager) allowed() (maxAge, life time.Duration) {
	return time.Duration(seconds(m.config.MaxAge)) * time.Second, time.Duration(seconds(time.Duration(m.life.Load()))) * time.Second
}

// update changes the newest key set and holds the outcome. base gives it, nil
// for none, and whether it has to be written even if nothing changes.
func (m *Manager) update(ctx context.Context, base func(value []byte) (keys *managedKeys, rewrite bool, err error), change func(*managedKeys) (*managedKeys, error)) error {
	var keys *managedKeys
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
func (m *Manager) newest(value []byte) (keys *managedKeys, rewrite bool, err error) {
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
func (m *Manager) repaired(value []byte) (keys *managedKeys, rewrite bool, err error) {
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
func (m *Manager) hold(keys *managedKeys, value []byte) error {
	was := m.keys()
	h := &held{managed: keys}
	all := slices.Clone(m.files)
	if keys != nil {
		for _, k := range keys.keys {
			if !published(all, k.public.KeyID) {
				all = append(all, k.signingKey)
			}
		}
	}
	var err error
	if h.snapshot, err = newSnapshot(m.name, all); err != nil {
		return err
	}
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

// observe notes which keys are now in which state, for observedFor.
func (m *Manager) observe(keys *managedKeys) {
	observed := map[observation]time.Duration{}
	if keys != nil {
		now := m.elapsed()
		for _, k := range keys.keys {
			o := observation{k.public.KeyID, k.state}
			since, ok := m.observed[o]
			if !ok {
				since = now
			}
			observed[o] = since
		}
	}
	m.observed = observed
}

// observedFor is for how long this process knows that the key is in its state.
func (m *Manager) observedFor(k managedKey) time.Duration {
	since, ok := m.observed[observation{k.public.KeyID, k.state}]
	if !ok {
		return 0
	}
	return m.elapsed() - since
}

// make makes new keys of the configured algorithm, as next ones.
func (m *Manager) make(n int) ([]managedKey, error) {
	var made []managedKey
	for range n {
		key, err := m.generate(m.config.Algorithm)
		if err != nil {
			return nil, fmt.Errorf("generate a key: %w", err)
		}
		made = append(made, m.nextKey(key))
	}
	return made, nil
}

func (m *Manager) nextKey(key signingKey) managedKey {
	maxAge, life := m.allowed()
	now := m.wall()
	return managedKey{signingKey: key, state: StateNext, created: now, published: now, maxAge: maxAge, life: life}
}

// first is the first key set.
func (m *Manager) first(current, next managedKey) *managedKeys {
	current.state, current.since = StateCurrent, current.published
	return &managedKeys{issuer: m.name, generation: 1, keys: []managedKey{current, next}}
}

// Init makes a key set if the state has none. If this process holds one it is
// written back, also over what cannot be opened.
func (m *Manager) Init(ctx context.Context) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	made, err := m.make(2)
	if err != nil {
		return failed("init", err)
	}
	return failed("init", m.update(ctx, m.repaired, func(keys *managedKeys) (*managedKeys, error) {
		if keys == nil {
			keys = m.first(made[0], made[1])
		}
		return keys, nil
	}))
}

// Rotate makes the next key current if verifiers can know it, going by the
// wall clock alone: a process that has just started has no other. If another
// replica did so first, that is fine.
func (m *Manager) Rotate(ctx context.Context) (KeyInfo, error) {
	m.changing.Lock()
	defer m.changing.Unlock()
	info, err := m.rotate(ctx)
	return info, failed("rotate", err)
}

func (m *Manager) rotate(ctx context.Context) (KeyInfo, error) {
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
	err = m.update(ctx, m.newest, func(keys *managedKeys) (*managedKeys, error) {
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
func (m *Manager) Revoke(ctx context.Context, kid string) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	return failed("revoke", m.revoke(ctx, kid))
}

func (m *Manager) revoke(ctx context.Context, kid string) error {
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
	err = m.update(ctx, m.newest, func(keys *managedKeys) (*managedKeys, error) {
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
func (m *Manager) Import(ctx context.Context, pem []byte) (KeyInfo, error) {
	key, err := parseKey(pem)
	if err != nil {
		return KeyInfo{}, fmt.Errorf("key set: import: the file %w", err)
	}
	m.changing.Lock()
	defer m.changing.Unlock()
	imported := m.nextKey(key)
	imported.imported = true
	made, err := m.make(1)
	if err != nil {
		return KeyInfo{}, failed("import", err)
	}
	err = m.update(ctx, m.newest, func(keys *managedKeys) (*managedKeys, error) {
		if keys == nil {
			return m.first(imported, made[0]), nil
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

// List reads the key set from the state and tells of each published key, those
// of signingKeyFile first.
func (m *Manager) List(ctx context.Context) ([]KeyInfo, error) {
	value, err := m.store.Get(ctx, storeKey)
	if err != nil {
		return nil, failed("list", err)
	}
	if value == nil {
		if len(m.files) == 0 {
			return nil, failed("list", ErrNoKeySet)
		}
		return m.infos(nil), nil
	}
	keys, _, err := m.newest(value)
	if err != nil {
		return nil, failed("list", err)
	}
	return m.infos(keys), nil
}

// Published is List of the keys that this process publishes, without asking the
// state.
func (m *Manager) Published() []KeyInfo { return m.infos(m.keys()) }

func (m *Manager) infos(keys *managedKeys) []KeyInfo {
	var all []KeyInfo
	for i, k := range m.files {
		state := StatePublished
		if i == 0 {
			state = StateCurrent
		}
		all = append(all, KeyInfo{KeyID: k.public.KeyID, Algorithm: k.method.Alg(), State: state})
	}
	if keys == nil {
		return all
	}
	for _, k := range keys.keys {
		if published(m.files, k.public.KeyID) {
			continue
		}
		info := keyInfo(k)
		if len(m.files) > 0 {
			info.State = StatePublished
		}
		all = append(all, info)
	}
	return all
}

func keyInfo(k managedKey) KeyInfo {
	second := func(t time.Time) time.Time { return t.Truncate(time.Second) }
	i := KeyInfo{
		KeyID: k.public.KeyID, Algorithm: k.method.Alg(), State: k.state,
		Created: second(k.created), Published: second(k.published), Since: second(k.since), Retired: second(k.retired),
	}
	if k.state == StateRetired {
		i.RemovedAfter = second(removedAfter(k))
	}
	return i
}

// Err is what was wrong when the key set was last read, nil if nothing was. It
// is an ErrKeysStale if no token is signed for that.
func (m *Manager) Err() error {
	m.reporting.Lock()
	problem := m.problem
	m.reporting.Unlock()
	if err := m.usable(); err != nil {
		if problem == nil {
			return err
		}
		return fmt.Errorf("%w: %w", err, problem)
	}
	return failed("refresh", problem)
}

// report logs a problem once, not with every turn.
func (m *Manager) report(err error) {
	m.reporting.Lock()
	was := m.problem
	m.problem = err
	m.reporting.Unlock()
	switch {
	case err != nil && (was == nil || was.Error() != err.Error()):
		m.log.Error("key set could not be brought up to date", "error", err)
	case err == nil && was != nil:
		m.log.Info("key set is up to date again")
	}
}

// read is the key set of the state, or the one held if that is newer.
func (m *Manager) read(ctx context.Context) (*managedKeys, error) {
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

func (m *Manager) keys() *managedKeys {
	if h := m.held.Load(); h != nil {
		return h.managed
	}
	return nil
}

// wall is without the monotonic clock, which would take part in differences.
func (m *Manager) wall() time.Time { return m.now().UTC().Round(0) }

func (m *Manager) moment() moment { return moment{m.elapsed(), m.wall()} }

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("key set: %s: %w", what, err)
}

// source implements [KeySource].
func (m *Manager) source(issuer string) (source, error) {
	if issuer != m.name {
		return nil, fmt.Errorf("the key set is that of %s", cmp.Or(m.name, "no issuer"))
	}
	m.held.CompareAndSwap(nil, &held{}) // until there is a key set, nothing is published and nothing signed
	return m, nil
}

func (m *Manager) snapshot() *snapshot { return &m.held.Load().snapshot }

func (m *Manager) maxAge() time.Duration { return m.config.MaxAge }

// willIssue has keys kept for as long as tokens live.
func (m *Manager) willIssue(life time.Duration) {
	for {
		was := m.life.Load()
		if int64(life) <= was || m.life.CompareAndSwap(was, int64(life)) {
			return
		}
	}
}

// usable is nil if what is held may sign.
func (m *Manager) usable() error {
	if len(m.files) > 0 {
		return nil
	}
	read, now := m.fresh.Load(), m.moment()
	if read == nil || now.elapsed-read.elapsed > m.config.MaxAge || now.wall.Sub(read.wall) > m.config.MaxAge {
		return fmt.Errorf("key set: %w", ErrKeysStale)
	}
	return nil
}
