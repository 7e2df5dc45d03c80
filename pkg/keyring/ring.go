package keyring

import (
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
	// ErrKeysStale says that the key set was confirmed too long ago to sign with it:
	// the key may have been retired or revoked.
	ErrKeysStale = errors.New("the key set could not be read from the state, or was not confirmed there, for longer than keys.maxAge")
)

// The values of the state.
const (
	keysKind    = "keys"
	denialsKind = "denials"
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
	// Initialize makes a key set and a list of denials where there are none, and
	// lets Init seal what is not. It is for a state that no other machine writes to;
	// any other needs keys.encryptionKeyFile.
	Initialize bool
	// Seen is what this server has seen of the state. Nil for a state that ends
	// with the process.
	Seen *Seen
	// Entries gives the first entries of the list of denials, where there is none.
	// Optional.
	Entries func(ctx context.Context) (map[string][]byte, error)
	// LongestLife is the longest life of the tokens of any role, of which
	// [Ring.WillIssue] may tell later.
	LongestLife time.Duration
}

// Ring holds the keys that are in the state: it reads them, changes them when
// that is due, and agrees with all others on the same state. With a
// signingKeyFile the files sign, and the keys of the state are published if one of
// the files' keys was imported among them.
//
// All methods may be called concurrently. Init, Accept, Import, List, Rotate and
// Revoke need no Load.
type Ring struct {
	*shared
	config Config
	files  []Key
	set    *value[keySet]
	ledger *Ledger
	life   atomic.Int64 // the longest, in nanoseconds

	generate func(algorithm string) (Key, error)

	observed  map[observation]time.Duration // by set.changing
	published atomic.Pointer[Published]

	reports reports
}

// reports keeps what was wrong at the last reading of a value.
type reports struct {
	what string

	mu      sync.Mutex
	problem error
}

// report logs a problem once, not with every turn.
func (r *reports) report(log *slog.Logger, err error) {
	r.mu.Lock()
	was := r.problem
	r.problem = err
	r.mu.Unlock()
	switch {
	case err != nil && (was == nil || was.Error() != err.Error()):
		log.Error(r.what+" could not be brought up to date", "error", err) //nolint:sloglint // one of two
	case err == nil && was != nil:
		log.Info(r.what + " is up to date again") //nolint:sloglint // as above
	}
}

func (r *reports) last() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.problem
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
	if !o.Initialize && len(sealer.aeads) == 0 {
		return nil, errors.New("key set: a state that other machines write to needs keys.encryptionKeyFile: what is in it unsealed is not trusted")
	}
	started := time.Now()
	k := &Ring{
		shared: &shared{
			issuer: o.Issuer, store: store, sealer: sealer, private: o.Initialize, seen: o.Seen, maxAge: m.MaxAge, log: o.Log, now: o.Now,
			elapsed: func() time.Duration { return time.Since(started) },
		},
		config: m, generate: generateKey, observed: map[observation]time.Duration{}, reports: reports{what: "key set"},
	}
	k.life.Store(int64(o.LongestLife))
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	if k.now == nil {
		k.now = time.Now
	}
	k.set = &value[keySet]{shared: k.shared, codec: codec[keySet]{
		kind: keysKind, what: "key set", absent: ErrNoKeySet,
		encode: encodeKeys, decode: decodeKeys, legacy: decodeFormerKeys, names: keyIDs, merge: mergeKeys, changed: k.changed,
		recall:  func(revoked []string, found *keySet) *keySet { return mergeKeys(&keySet{revoked: revoked}, found) },
		revoked: func(s *keySet) []string { return s.revoked },
	}}
	k.ledger = newLedger(k.shared, o.Entries)
	if len(o.SigningKeyFile) > 0 {
		files, err := LoadKeys(o.SigningKeyFile)
		if err != nil {
			return nil, fmt.Errorf("key set: signingKeyFile: %w", err)
		}
		k.files = files.published.keys
	}
	k.published.Store(&Published{k.files}) // until there is a key set
	return k, nil
}

// Denials is the list of denied instances, which is sealed and confirmed as the key
// set is. Load, Run, Init and Accept are for it, too.
func (m *Ring) Denials() *Ledger { return m.ledger }

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
	return &keySet{keys: []managedKey{current, next}}
}

// changed publishes a key set that is held from now on.
func (m *Ring) changed(was, is *version[keySet]) {
	all := slices.Clone(m.files)
	imported := m.imported(is.content)
	if imported {
		for _, k := range is.content.keys {
			if !published(all, k.public.KeyID) && !slices.Contains(is.content.revoked, k.public.KeyID) {
				all = append(all, k.Key)
			}
		}
	}
	m.observe(is.content)
	if now := m.published.Load(); !slices.EqualFunc(now.keys, all, func(a, b Key) bool { return a.ID() == b.ID() }) {
		m.published.Store(&Published{all})
	}
	switch {
	case was == nil || is.Generation > was.Generation:
		m.log.Info("key set", "generation", is.Generation, "current", is.content.current().public.KeyID, "next", is.content.next().public.KeyID, "keys", len(is.content.keys))
		if !imported {
			m.log.Warn("key set of the state is not published: auth.signingKeyFile signs, and none of its keys was imported (`keys import`)", "generation", is.Generation)
		}
		if len(all) > maxKeys {
			m.log.Warn("more keys are published than some verifiers take", "keys", len(all), "limit", maxKeys)
		}
	case is.content != was.content && !is.content.equal(was.content):
		m.log.Error("key set in the state differs from the one held and has the same generation: the state went back in time; that of the state is taken", "generation", is.Generation)
	}
}

// imported reports whether a key set of the state is published: there are no key
// files, or one of their keys was imported into it, which is how an operator goes
// from one to the other.
func (m *Ring) imported(keys *keySet) bool {
	return len(m.files) == 0 || slices.ContainsFunc(keys.keys, func(k managedKey) bool { return k.imported && published(m.files, k.public.KeyID) })
}

// Err is what was wrong when the key set was last read, nil if nothing was. It
// is an ErrKeysStale if no token is signed for that.
func (m *Ring) Err() error {
	problem := m.reports.last()
	if err := m.Usable(); err != nil {
		if problem == nil {
			return err
		}
		return fmt.Errorf("%w: %w", err, problem)
	}
	return failed("refresh", problem)
}

func (m *Ring) keys() *keySet { return m.set.content() }

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("key set: %s: %w", what, err)
}

// Check fails unless the ring is that of an issuer.
func (m *Ring) Check(issuer string) error {
	if issuer != m.issuer {
		return fmt.Errorf("the key set is that of %s", m.issuer)
	}
	return nil
}

// Published gives the keys that this process publishes now.
func (m *Ring) Published() *Published { return m.published.Load() }

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
	if len(m.files) > 0 || m.set.usable() {
		return nil
	}
	return fmt.Errorf("key set: %w", ErrKeysStale)
}
