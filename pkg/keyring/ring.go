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
	errNoKeySet = errors.New("the state holds no key set; if the state is new, `keys init` makes one; if it lost one, a running server writes it back within seconds")
	// ErrKeysStale says that the last confirmation of the key set is too old to sign:
	// the signing key may have been retired or revoked since.
	ErrKeysStale = errors.New("the key set could not be read from the state, or was not confirmed there, for longer than keys.maxAge")
)

// The values of the state.
const (
	keysKind    = "keys"
	denialsKind = "denials"
)

// Options is what a ring needs beside its plan and its store.
type Options struct {
	// Issuer is the `iss` claim, to which the key set belongs. Required.
	Issuer string
	// SigningKeys are the keys of auth.signingKeyFile. Optional.
	SigningKeys *KeySet
	// Log receives changes and problems. Optional, nil means no log.
	Log *slog.Logger
	// Now is the clock. Optional, nil means time.Now.
	Now func() time.Time
	// Initialize allows the ring to make a key set and a denial list where there are
	// none, and allows Init to seal unsealed ones. It is for a state that no other
	// machine writes to. Any other state needs keys.encryptionKeyFile.
	Initialize bool
	// Seen is what this server has seen of the state. Nil for a state that ends
	// with the process.
	Seen *Seen
	// Entries returns the first entries of a new denial list. Optional.
	Entries func(ctx context.Context) (map[string][]byte, error)
}

// Ring is the key ring: it holds the key set of the state in memory, changes it when that
// is due, and agrees on it with all replicas. With signing keys from files, those sign;
// the keys of the state are published if one of the files' keys was imported there.
//
// All methods may be called concurrently. Init, Accept, Import, List, Rotate and
// Revoke work without Load.
type Ring struct {
	*shared
	files   []Key
	set     *value[managedSet]
	denials *DenialList
	life    atomic.Int64 // the longest life of a token, in nanoseconds

	generate func(algorithm string) (Key, error)

	seenSince map[keyInState]time.Duration // guarded by set.changing
	published atomic.Pointer[KeySet]

	reports reports
}

// keyInState is a key in one of its states.
type keyInState struct {
	kid   string
	state keyState
}

// reports keeps the problem of the last read of a value.
type reports struct {
	what string

	mu      sync.Mutex
	problem error
}

// report logs a problem when it begins and when it ends.
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

// New makes a ring. It does not read the store.
func New(p Plan, store Store, o Options) (*Ring, error) {
	switch {
	case o.Issuer == "":
		return nil, errors.New("key set: no issuer is set")
	case p.algorithm == "":
		return nil, errors.New("key set: the plan was not made by Config.Plan")
	case !o.Initialize && len(p.sealer.aeads) == 0:
		return nil, errors.New("key set: a state that other machines write to needs keys.encryptionKeyFile: this server trusts nothing unsealed in it")
	}
	started := time.Now()
	r := &Ring{
		shared: &shared{
			Plan: p, issuer: o.Issuer, store: store, private: o.Initialize, seen: o.Seen, log: o.Log, now: o.Now,
			elapsed: func() time.Duration { return time.Since(started) },
		},
		generate: generateKey, seenSince: map[keyInState]time.Duration{}, reports: reports{what: "key set"},
	}
	r.life.Store(int64(p.longestLife))
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.now == nil {
		r.now = time.Now
	}
	r.set = &value[managedSet]{shared: r.shared, codec: codec[managedSet]{
		kind: keysKind, what: "key set", absent: errNoKeySet,
		encode: encodeKeys, decode: decodeKeys, legacy: decodeFormerKeys, names: keyIDs, merge: mergeKeys, changed: r.changed,
		recall: func(revoked []string, found *managedSet) *managedSet {
			return mergeKeys(&managedSet{revoked: revoked}, found)
		},
		revoked: func(s *managedSet) []string { return s.revoked },
	}}
	r.denials = newDenialList(r.shared, o.Entries)
	if o.SigningKeys != nil {
		r.files = o.SigningKeys.keys
	}
	r.published.Store(&KeySet{r.files}) // until there is a key set
	return r, nil
}

// Denials returns the denial list, which is sealed and confirmed as the key set is. Load,
// Run, Init and Accept work on both.
func (r *Ring) Denials() *DenialList { return r.denials }

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
		// One kid in 64 looks like an option of a command line.
		if made, err := newKey(key); err != nil || !strings.HasPrefix(made.public.KeyID, "-") {
			return made, err
		}
	}
}

// make makes n new keys of the configured algorithm, in state next.
func (r *Ring) make(n int) ([]managedKey, error) {
	var made []managedKey
	for range n {
		key, err := r.generate(r.algorithm)
		if err != nil {
			return nil, fmt.Errorf("generate a key: %w", err)
		}
		made = append(made, r.nextKey(key))
	}
	return made, nil
}

func (r *Ring) nextKey(key Key) managedKey {
	maxAge, life := r.schedule().allowed()
	now := r.wall()
	return managedKey{Key: key, state: stateNext, created: now, published: now, maxAge: maxAge, life: life}
}

// first is the first key set.
func first(current, next managedKey) *managedSet {
	current.state, current.since = stateCurrent, current.published
	return &managedSet{keys: []managedKey{current, next}}
}

// schedule is for now.
func (r *Ring) schedule() schedule {
	s := schedule{Plan: r.Plan, now: r.wall(), seenFor: r.seenFor}
	s.longestLife = time.Duration(r.life.Load())
	return s
}

// seenFor returns for how long this process has known the key in its state.
func (r *Ring) seenFor(k managedKey) time.Duration {
	since, ok := r.seenSince[keyInState{k.public.KeyID, k.state}]
	if !ok {
		return 0
	}
	return r.elapsed() - since
}

// changed publishes a key set that the ring holds from now on.
func (r *Ring) changed(was, is *version[managedSet]) {
	all := slices.Clone(r.files)
	imported := r.imported(is.content)
	seenSince := map[keyInState]time.Duration{}
	for _, k := range is.content.keys {
		if imported && !published(all, k.public.KeyID) && !slices.Contains(is.content.revoked, k.public.KeyID) {
			all = append(all, k.Key)
		}
		key := keyInState{k.public.KeyID, k.state}
		since, ok := r.seenSince[key]
		if !ok {
			since = r.elapsed()
		}
		seenSince[key] = since
	}
	r.seenSince = seenSince
	if now := r.published.Load(); !slices.EqualFunc(now.keys, all, func(a, b Key) bool { return a.ID() == b.ID() }) {
		r.published.Store(&KeySet{all})
	}
	switch {
	case was == nil || is.Generation > was.Generation:
		r.log.Info("key set", "generation", is.Generation, "current", is.content.current().public.KeyID, "next", is.content.next().public.KeyID, "keys", len(is.content.keys))
		if !imported {
			r.log.Warn("key set of the state is not published: auth.signingKeyFile signs, and none of its keys was imported (`keys import`)", "generation", is.Generation)
		}
		if len(all) > maxKeys {
			r.log.Warn("more keys are published than some verifiers take", "keys", len(all), "limit", maxKeys)
		}
	case is.content != was.content && !is.content.equal(was.content):
		r.log.Error("key set in the state differs from the one that this server holds and has the same generation: the state went back in time. This server takes the one of the state", "generation", is.Generation)
	}
}

// imported reports whether the key set of the state is published: there are no key files,
// or an operator imported one of their keys to go from one to the other.
func (r *Ring) imported(keys *managedSet) bool {
	return len(r.files) == 0 || slices.ContainsFunc(keys.keys, func(k managedKey) bool { return k.imported && published(r.files, k.public.KeyID) })
}

func (r *Ring) keys() *managedSet { return r.set.content() }

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("key set: %s: %w", what, err)
}

// Err returns the problem of the last read of the key set, nil if there was none. It wraps
// ErrKeysStale if the ring does not sign for that reason.
func (r *Ring) Err() error {
	problem := r.reports.last()
	if err := r.Usable(); err != nil {
		if problem == nil {
			return err
		}
		return fmt.Errorf("%w: %w", err, problem)
	}
	return failed("refresh", problem)
}

// Check returns an error if the key set belongs to another issuer.
func (r *Ring) Check(issuer string) error {
	if issuer != r.issuer {
		return fmt.Errorf("the key set belongs to %s", r.issuer)
	}
	return nil
}

// KeySet returns the key set that this process publishes now.
func (r *Ring) KeySet() *KeySet { return r.published.Load() }

// MaxAge is how long a verifier may cache the key set.
func (r *Ring) MaxAge() time.Duration { return r.maxAge }

// WillIssue keeps retired keys for tokens that live this long.
func (r *Ring) WillIssue(life time.Duration) {
	for {
		was := r.life.Load()
		if int64(life) <= was || r.life.CompareAndSwap(was, int64(life)) {
			return
		}
	}
}

// Usable returns nil if the first published key may sign, else an ErrKeysStale.
func (r *Ring) Usable() error {
	if len(r.files) > 0 || r.set.usable() {
		return nil
	}
	return fmt.Errorf("key set: %w", ErrKeysStale)
}
