package keyring

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
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

// Options is what a ring is made with.
type Options struct {
	// Issuer is the `iss` claim, which the key set belongs to. Required.
	Issuer string
	// SigningKeyFile names the keys of auth.signingKeyFile. Optional.
	SigningKeyFile []string
	// Log is told what changes, and what is wrong. Optional.
	Log *slog.Logger
	// Now is the clock. Optional, nil means time.Now.
	Now func() time.Time
	// Initialize makes a key set where there is none, and lets Init seal one
	// that is not. It is for a state that no other machine writes to.
	Initialize bool
	// LongestLife is the longest life of the tokens of any role, of which
	// [Ring.WillIssue] may tell later.
	LongestLife time.Duration
}

// Ring holds the keys that are in the state: it reads them, changes them
// when that is due, and agrees with all others on the same state. With a
// signingKeyFile it publishes what it finds there, and lets the files sign.
//
// All methods may be called concurrently. Init, Import, List, Rotate and Revoke
// need no Load.
type Ring struct {
	config     Config
	name       string // of the issuer
	files      []Key
	store      Store
	sealer     sealer
	log        *slog.Logger
	now        func() time.Time
	initialize bool
	life       atomic.Int64 // the longest, in nanoseconds

	elapsed  func() time.Duration // monotonic
	generate func(algorithm string) (Key, error)

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
	published *Published
	managed   *keySet // nil if there are none
}

// moment is a time by both clocks. That of the wall steps, the monotonic one
// stands still while the machine sleeps.
type moment struct {
	elapsed time.Duration
	wall    time.Time
}

// New makes a ring; nothing is read from the store yet. The files that the
// configuration names are read.
func New(m Config, store Store, o Options) (*Ring, error) {
	if o.Issuer == "" {
		return nil, errors.New("key set: no issuer is named")
	}
	if err := errors.Join(m.Validate(), m.ValidateLife(o.LongestLife)); err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	sealer, err := loadSealer(m.EncryptionKeyFile)
	if err != nil {
		return nil, fmt.Errorf("key set: encryptionKeyFile: %w", err)
	}
	started := time.Now()
	k := &Ring{
		config: m, name: o.Issuer, store: store, sealer: sealer,
		log: o.Log, now: o.Now, initialize: o.Initialize,
		elapsed: func() time.Duration { return time.Since(started) }, generate: generateKey,
		observed: map[observation]time.Duration{},
	}
	k.life.Store(int64(o.LongestLife))
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	if k.now == nil {
		k.now = time.Now
	}
	k.held.Store(&held{published: &Published{}}) // until there is a key set, nothing is published and nothing signed
	if len(o.SigningKeyFile) > 0 {
		files, err := LoadKeys(o.SigningKeyFile)
		if err != nil {
			return nil, fmt.Errorf("key set: signingKeyFile: %w", err)
		}
		k.files = files.published.keys
	}
	return k, nil
}

func generateKey(algorithm string) (Key, error) {
	for {
		var key crypto.Signer
		var err error
		if algorithm == ES256 {
			key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		} else {
			key, err = rsa.GenerateKey(rand.Reader, minRSABits)
		}
		if err != nil {
			return Key{}, err
		}
		// One in 64 has a kid that a command line takes for an option.
		if made, err := newKey(key); err != nil || !strings.HasPrefix(made.public.KeyID, "-") {
			return made, err
		}
	}
}

// make makes new keys of the configured algorithm, as next ones.
func (m *Ring) make(n int) ([]managedKey, error) {
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

func (m *Ring) nextKey(key Key) managedKey {
	maxAge, life := m.allowed()
	now := m.wall()
	return managedKey{Key: key, state: StateNext, created: now, published: now, maxAge: maxAge, life: life}
}

// first is the first key set.
func (m *Ring) first(current, next managedKey) *keySet {
	current.state, current.since = StateCurrent, current.published
	return &keySet{issuer: m.name, generation: 1, keys: []managedKey{current, next}}
}

// Err is what was wrong when the key set was last read, nil if nothing was. It
// is an ErrKeysStale if no token is signed for that.
func (m *Ring) Err() error {
	m.reporting.Lock()
	problem := m.problem
	m.reporting.Unlock()
	if err := m.Usable(); err != nil {
		if problem == nil {
			return err
		}
		return fmt.Errorf("%w: %w", err, problem)
	}
	return failed("refresh", problem)
}

// report logs a problem once, not with every turn.
func (m *Ring) report(err error) {
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

func (m *Ring) keys() *keySet {
	return m.held.Load().managed
}

// wall is without the monotonic clock, which would take part in differences.
func (m *Ring) wall() time.Time { return m.now().UTC().Round(0) }

func (m *Ring) moment() moment { return moment{m.elapsed(), m.wall()} }

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("key set: %s: %w", what, err)
}

// Check fails unless the ring is that of an issuer.
func (m *Ring) Check(issuer string) error {
	if issuer != m.name {
		return fmt.Errorf("the key set is that of %s", m.name)
	}
	return nil
}

// Published gives the keys that this process publishes now.
func (m *Ring) Published() *Published { return m.held.Load().published }

// MaxAge is how long a verifier may keep the key set.
func (m *Ring) MaxAge() time.Duration { return m.config.MaxAge }

// WillIssue has keys kept for as long as tokens live.
func (m *Ring) WillIssue(life time.Duration) {
	for {
		was := m.life.Load()
		if int64(life) <= was || m.life.CompareAndSwap(was, int64(life)) {
			return
		}
	}
}

// Usable is nil if what is published may sign, else an ErrKeysStale.
func (m *Ring) Usable() error {
	if len(m.files) > 0 {
		return nil
	}
	read, now := m.fresh.Load(), m.moment()
	if read == nil || now.elapsed-read.elapsed > m.config.MaxAge || now.wall.Sub(read.wall) > m.config.MaxAge {
		return fmt.Errorf("key set: %w", ErrKeysStale)
	}
	return nil
}
