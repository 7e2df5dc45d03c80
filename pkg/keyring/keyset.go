package keyring

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// KeyState says what a key is for.
type KeyState string

// The states of a key.
const (
	StateNext    KeyState = "next"    // published, will sign
	StateCurrent KeyState = "current" // signs
	StateRetired KeyState = "retired" // published until its last token has expired
	// StatePublished is that of a key which does not sign as long as the
	// configuration has a signingKeyFile.
	StatePublished KeyState = "published"
)

// managedKey is a key of the state.
type managedKey struct {
	Key
	state     KeyState
	created   time.Time
	published time.Time
	since     time.Time // when it became current
	retired   time.Time
	// imported is true of a key that an operator brought: another algorithm is
	// no reason to replace it.
	imported bool
	// maxAge and life are the longest of all replicas while the key was in the
	// set, so that a change of the configuration shortens no wait.
	maxAge, life time.Duration
}

// keySet is the key set of the state. It is never changed once made. There
// is always one current and one next key.
type keySet struct {
	issuer     string
	generation uint64
	keys       []managedKey // current, next, and the retired ones, youngest first
}

func (s *keySet) current() managedKey { return s.keys[0] }
func (s *keySet) next() managedKey    { return s.keys[1] }

func (s *keySet) find(kid string) (managedKey, bool) {
	i := slices.IndexFunc(s.keys, func(k managedKey) bool { return k.public.KeyID == kid })
	if i < 0 {
		return managedKey{}, false
	}
	return s.keys[i], true
}

// successor is the set with other keys.
func (s *keySet) successor(keys ...managedKey) *keySet {
	return &keySet{s.issuer, s.generation + 1, keys}
}

// promote makes next the current key.
func (s *keySet) promote(next managedKey, now time.Time) *keySet {
	current, retired := s.next(), s.current()
	current.state, current.since = StateCurrent, now
	retired.state, retired.retired = StateRetired, now
	return s.successor(append([]managedKey{current, next, retired}, s.keys[2:]...)...)
}

// replaceNext takes the next key away, which has never signed, and key from
// wherever else it is.
func (s *keySet) replaceNext(key managedKey) *keySet {
	rest := slices.DeleteFunc(slices.Clone(s.keys[2:]), func(k managedKey) bool { return k.public.KeyID == key.public.KeyID })
	return s.successor(append([]managedKey{s.current(), key}, rest...)...)
}

// revoke takes a key away at once. next is needed unless it was retired.
func (s *keySet) revoke(kid string, next managedKey, now time.Time) *keySet {
	switch kid {
	case s.current().public.KeyID:
		current := s.next()
		current.state, current.since = StateCurrent, now
		return s.successor(append([]managedKey{current, next}, s.keys[2:]...)...)
	case s.next().public.KeyID:
		return s.replaceNext(next)
	}
	return s.successor(slices.DeleteFunc(slices.Clone(s.keys), func(k managedKey) bool { return k.public.KeyID == kid })...)
}

// The form in the state. A change of it needs another version.
type storedSet struct {
	Issuer     string      `json:"issuer"`
	Generation uint64      `json:"generation"`
	Keys       []storedKey `json:"keys"`
}

type storedKey struct {
	KeyID     string    `json:"kid"`
	Algorithm string    `json:"alg"`
	Private   []byte    `json:"private"` // PKCS#8
	State     KeyState  `json:"state"`
	Created   time.Time `json:"created"`
	Published time.Time `json:"published"`
	Since     time.Time `json:"since,omitzero"`
	Retired   time.Time `json:"retired,omitzero"`
	Imported  bool      `json:"imported,omitempty"`
	MaxAge    int64     `json:"max_age"` // in seconds, as the next
	Life      int64     `json:"token_life"`
}

// seconds rounds up.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

func (s *keySet) encode() ([]byte, error) {
	stored := storedSet{Issuer: s.issuer, Generation: s.generation}
	for _, k := range s.keys {
		der, err := x509.MarshalPKCS8PrivateKey(k.private)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", k.public.KeyID, err)
		}
		stored.Keys = append(stored.Keys, storedKey{
			KeyID: k.public.KeyID, Algorithm: k.alg, Private: der, State: k.state,
			Created: k.created, Published: k.published, Since: k.since, Retired: k.retired,
			Imported: k.imported, MaxAge: seconds(k.maxAge), Life: seconds(k.life),
		})
	}
	return json.Marshal(stored)
}

func (s *keySet) equal(other *keySet) bool {
	a, errA := s.encode()
	b, errB := other.encode()
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// decodeKeys takes nothing that encode would not have written.
func decodeKeys(data []byte, issuer string) (*keySet, error) {
	var stored storedSet
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&stored); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoKeys, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows it", errNoKeys)
	}
	switch {
	case stored.Issuer != issuer:
		return nil, fmt.Errorf("is the key set of the issuer %q, not of %q", stored.Issuer, issuer)
	case stored.Generation == 0:
		return nil, fmt.Errorf("%w: it has no generation", errNoKeys)
	case len(stored.Keys) < 2 || len(stored.Keys) > maxKeys:
		return nil, fmt.Errorf("%w: it has %d keys", errNoKeys, len(stored.Keys))
	}
	s := &keySet{issuer: stored.Issuer, generation: stored.Generation}
	for i, k := range stored.Keys {
		key, err := k.decode([]KeyState{StateCurrent, StateNext, StateRetired}[min(i, 2)])
		if err != nil {
			return nil, fmt.Errorf("%w: key %d: %w", errNoKeys, i, err)
		}
		if _, twice := s.find(key.public.KeyID); twice {
			return nil, fmt.Errorf("%w: key %d is there twice", errNoKeys, i)
		}
		s.keys = append(s.keys, key)
	}
	return s, nil
}

const maxSeconds = int64(MaxLife / time.Second)

func (k storedKey) decode(state KeyState) (managedKey, error) {
	private, err := x509.ParsePKCS8PrivateKey(k.Private)
	if err != nil {
		return managedKey{}, err
	}
	signing, err := newKey(private)
	if err != nil {
		return managedKey{}, err
	}
	switch {
	case k.KeyID != signing.public.KeyID:
		return managedKey{}, errors.New("its kid is not its thumbprint")
	case k.Algorithm != signing.alg:
		return managedKey{}, errors.New("its alg is another key's")
	case k.State != state:
		return managedKey{}, fmt.Errorf("it is %q where %q is due", k.State, state)
	case k.Created.IsZero() || k.Published.IsZero() || (k.Since.IsZero() != (state == StateNext)) || (k.Retired.IsZero() != (state != StateRetired)):
		return managedKey{}, errors.New("its times are not those of its state")
	case k.MaxAge < 0 || k.MaxAge > maxSeconds || k.Life < 0 || k.Life > maxSeconds:
		return managedKey{}, errors.New("its durations are out of range")
	}
	return managedKey{
		Key: signing, state: k.State,
		created: k.Created.UTC(), published: k.Published.UTC(), since: k.Since.UTC(), retired: k.Retired.UTC(), imported: k.Imported,
		maxAge: time.Duration(k.MaxAge) * time.Second, life: time.Duration(k.Life) * time.Second,
	}, nil
}
