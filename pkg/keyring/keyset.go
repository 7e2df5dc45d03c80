package keyring

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// keyState says what a key is for.
type keyState string

const (
	stateNext    keyState = "next"    // published, will sign
	stateCurrent keyState = "current" // signs
	stateRetired keyState = "retired" // published until its last token has expired
	// With a signingKeyFile, keys of the state do not sign. They are published if one of
	// the files' keys was imported into the key set.
	statePublished   keyState = "published"
	stateUnpublished keyState = "unpublished"
)

// managedKey is a key of the state.
type managedKey struct {
	Key
	state     keyState
	created   time.Time
	published time.Time
	since     time.Time // when it became current
	retired   time.Time
	// imported says that an operator imported the key. It is not replaced for its
	// algorithm.
	imported bool
	// maxAge and life are the longest of all replicas while the key was in the set.
	// A change of the configuration must not shorten a wait.
	maxAge, life time.Duration
}

// managedSet is the key set of the state, with one current and one next key. It never
// changes; each change makes another one.
type managedSet struct {
	keys []managedKey // current, next, and the retired ones, youngest first
	// revoked are the IDs of revoked keys, newest last. They must not return with a set
	// of a replica that does not know of the revocation.
	revoked []string
}

const maxRevoked = 64 // IDs

func (s *managedSet) current() managedKey { return s.keys[0] }
func (s *managedSet) next() managedKey    { return s.keys[1] }

func (s *managedSet) find(kid string) (managedKey, bool) {
	i := slices.IndexFunc(s.keys, func(k managedKey) bool { return k.public.KeyID == kid })
	if i < 0 {
		return managedKey{}, false
	}
	return s.keys[i], true
}

// successor is the set with other keys.
func (s *managedSet) successor(keys ...managedKey) *managedSet {
	return &managedSet{keys, s.revoked}
}

// promote makes next the current key.
func (s *managedSet) promote(next managedKey, now time.Time) *managedSet {
	current, retired := s.next(), s.current()
	current.state, current.since = stateCurrent, now
	retired.state, retired.retired = stateRetired, now
	return s.successor(append([]managedKey{current, next, retired}, s.keys[2:]...)...)
}

// replaceNext makes key the next key. It removes the old next key, which never signed, and
// a retired key with the same ID.
func (s *managedSet) replaceNext(key managedKey) *managedSet {
	rest := slices.DeleteFunc(slices.Clone(s.keys[2:]), func(k managedKey) bool { return k.public.KeyID == key.public.KeyID })
	return s.successor(append([]managedKey{s.current(), key}, rest...)...)
}

// revoke removes a key at once and for good. next replaces a next key that is revoked or
// becomes current.
func (s *managedSet) revoke(kid string, next managedKey, now time.Time) *managedSet {
	revoked := &managedSet{revoked: withRevoked(s.revoked, kid)}
	switch kid {
	case s.current().public.KeyID:
		current := s.next()
		current.state, current.since = stateCurrent, now
		revoked.keys = append([]managedKey{current, next}, s.keys[2:]...)
	case s.next().public.KeyID:
		revoked.keys = s.replaceNext(next).keys
	default:
		revoked.keys = slices.DeleteFunc(slices.Clone(s.keys), func(k managedKey) bool { return k.public.KeyID == kid })
	}
	return revoked
}

func withRevoked(revoked []string, kid string) []string {
	if slices.Contains(revoked, kid) {
		return revoked
	}
	all := append(slices.Clone(revoked), kid)
	return all[max(0, len(all)-maxRevoked):]
}

// outstanding returns the ID of a key in the set that another replica or this server
// revoked, "" if there is none.
func (s *managedSet) outstanding() string {
	for _, k := range s.keys {
		if slices.Contains(s.revoked, k.public.KeyID) {
			return k.public.KeyID
		}
	}
	return ""
}

// mergeKeys returns found with the revoked IDs of held, found itself if it has them.
func mergeKeys(held, found *managedSet) *managedSet {
	revoked := found.revoked
	for _, kid := range held.revoked {
		revoked = withRevoked(revoked, kid)
	}
	if len(revoked) == len(found.revoked) && slices.Equal(revoked, found.revoked) {
		return found
	}
	// A full list drops its oldest IDs, so they may be missing in found, as long as the
	// keys are.
	merged := &managedSet{found.keys, revoked}
	if len(found.revoked) == maxRevoked && merged.outstanding() == "" {
		return found
	}
	return merged
}

func keyIDs(s *managedSet) []string {
	ids := make([]string, len(s.keys))
	for i, k := range s.keys {
		ids[i] = k.public.KeyID
	}
	return ids
}

// storedSet is the form in the state. A change of it needs a new format version.
type storedSet struct {
	Keys    []storedKey `json:"keys"`
	Revoked []string    `json:"revoked,omitempty"`
}

// formerSet is the form of release 65ed6e0.
type formerSet struct {
	Issuer     string      `json:"issuer"`
	Generation uint64      `json:"generation"`
	Keys       []storedKey `json:"keys"`
}

type storedKey struct {
	KeyID     string    `json:"kid"`
	Algorithm string    `json:"alg"`
	Private   []byte    `json:"private"` // PKCS#8
	State     keyState  `json:"state"`
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

func encodeKeys(s *managedSet) ([]byte, error) {
	stored := storedSet{Revoked: s.revoked}
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

func (s *managedSet) equal(other *managedSet) bool {
	a, errA := encodeKeys(s)
	b, errB := encodeKeys(other)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// decodeKeys rejects everything that encodeKeys does not write.
func decodeKeys(data []byte) (*managedSet, error) {
	var stored storedSet
	if err := decodeStrictly(data, &stored); err != nil {
		return nil, fmt.Errorf("%w: %w", errInvalid, err)
	}
	if len(stored.Revoked) > maxRevoked {
		return nil, fmt.Errorf("%w: it has %d revoked keys", errInvalid, len(stored.Revoked))
	}
	return stored.decode()
}

// decodeFormerKeys reads the key set of release 65ed6e0.
func decodeFormerKeys(data []byte, issuer string) (*managedSet, uint64, error) {
	var stored formerSet
	if err := decodeStrictly(data, &stored); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errInvalid, err)
	}
	switch {
	case stored.Issuer != issuer:
		return nil, 0, fmt.Errorf("is the key set of the issuer %q, not of %q", stored.Issuer, issuer)
	case stored.Generation == 0:
		return nil, 0, fmt.Errorf("%w: it has no generation", errInvalid)
	}
	keys, err := storedSet{Keys: stored.Keys}.decode()
	return keys, stored.Generation, err
}

func (stored storedSet) decode() (*managedSet, error) {
	if len(stored.Keys) < 2 || len(stored.Keys) > maxKeys {
		return nil, fmt.Errorf("%w: it has %d keys", errInvalid, len(stored.Keys))
	}
	s := &managedSet{revoked: stored.Revoked}
	for i, k := range stored.Keys {
		key, err := k.decode([]keyState{stateCurrent, stateNext, stateRetired}[min(i, 2)])
		if err != nil {
			return nil, fmt.Errorf("%w: key %d: %w", errInvalid, i, err)
		}
		if _, twice := s.find(key.public.KeyID); twice {
			return nil, fmt.Errorf("%w: key %d is there twice", errInvalid, i)
		}
		s.keys = append(s.keys, key)
	}
	return s, nil
}

const maxSeconds = int64(MaxLife / time.Second)

func (k storedKey) decode(state keyState) (managedKey, error) {
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
	case k.Created.IsZero() || k.Published.IsZero() || (k.Since.IsZero() != (state == stateNext)) || (k.Retired.IsZero() != (state != stateRetired)):
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
