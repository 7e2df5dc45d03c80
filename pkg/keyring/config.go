package keyring

import (
	"context"
	"errors"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
)

// The algorithms of managed keys (RFC 7518, section 3.1).
const (
	RS256 = "RS256"
	ES256 = "ES256"

	es384 = "ES384" // of a key that an operator brought
)

// DefaultMaxAge is how long a verifier may keep the key set unless the
// configuration says otherwise.
const DefaultMaxAge = 5 * time.Minute

// MaxLife is the longest life of a token.
const MaxLife = 24 * time.Hour

const (
	minMaxAge   = time.Minute
	maxMaxAge   = 24 * time.Hour
	minRotation = time.Hour
	maxRotation = 100 * 365 * 24 * time.Hour // the times of a key set can be kept for so long
	maxRefresh  = 10 * time.Second

	// skew is how far two clocks of replicas, or of a replica and a verifier,
	// may be apart.
	skew = time.Minute
)

// Store is what replicas agree through.
type Store interface {
	// Get is the value of key, nil if there is none.
	Get(ctx context.Context, key string) ([]byte, error)
	// Update replaces the value of key by what change makes of it, nil meaning
	// that there is none, with nothing coming between. It may call change more
	// than once; an error of change is given back and nothing is replaced.
	Update(ctx context.Context, key string, change func(old []byte) ([]byte, error)) error
}

// Config says how keys are made and changed that are in the state and
// in no file. It is for a server without signingKeyFile; maxAge counts for
// both.
type Config struct {
	// Algorithm of new keys: RS256, which every verifier knows, or ES256. After
	// a change the next key is made anew at start and signs as soon as verifiers
	// can know it. Default: RS256.
	Algorithm string `yaml:"algorithm"`
	// RotationPeriod is how long a key signs. 1h to 876000h, and longer than
	// maxAge. Default: 720h.
	RotationPeriod time.Duration `yaml:"rotationPeriod"`
	// MaxAge is how long a verifier may keep the key set and the discovery
	// document (Cache-Control). A key is published at least that long before it
	// signs, and a replica that found the key set unconfirmed for so long signs no
	// more. 1m to 24h. Default: 5m.
	MaxAge time.Duration `yaml:"maxAge"`
	// EncryptionKeyFile names files with 32 random bytes in base64, made with
	// `openssl rand -base64 32`: the first seals the keys and the denied instances in
	// the state, all open them. To change it, add the new one as second on every
	// replica, put it first on every replica, take the old one away. Required for a
	// state of type redis, with a signingKeyFile too; optional otherwise.
	EncryptionKeyFile []string `yaml:"encryptionKeyFile"`
}

// Validate reports every problem, each beginning with its key. It reads no file.
func (c Config) Validate() error {
	var problems []error
	add := func(path, format string, args ...any) {
		problems = append(problems, problem.Errorf(path, format, args...))
	}
	if c.Algorithm != RS256 && c.Algorithm != ES256 {
		add("algorithm", "%q is neither %s nor %s", c.Algorithm, RS256, ES256)
	}
	ageOK := c.MaxAge >= minMaxAge && c.MaxAge <= maxMaxAge
	if !ageOK {
		add("maxAge", "%v is not in %v to %v", c.MaxAge, minMaxAge, maxMaxAge)
	}
	switch lead := c.lead(c.MaxAge); {
	case c.RotationPeriod < minRotation:
		add("rotationPeriod", "%v is shorter than %v", c.RotationPeriod, minRotation)
	case c.RotationPeriod > maxRotation:
		add("rotationPeriod", "%v is longer than %v (100 years)", c.RotationPeriod, maxRotation)
	case ageOK && c.RotationPeriod <= lead:
		add("rotationPeriod", "%v is not longer than the %v for which a key is published before it signs (maxAge and a little more)", c.RotationPeriod, lead)
	}
	for _, file := range c.EncryptionKeyFile {
		if file == "" {
			add("encryptionKeyFile", "an empty value names no file")
			break
		}
	}
	return errors.Join(problems...)
}

// ValidateLife checks that the keys that are published at a time, because
// tokens of the given life may be out, are no more than verifiers take.
func (c Config) ValidateLife(longest time.Duration) error {
	if c.RotationPeriod <= 0 {
		return nil // Validate says more
	}
	// Next, current, one that is removed late, and those retired meanwhile.
	if n := 3 + keep(c.MaxAge, longest)/c.RotationPeriod; n > maxKeys {
		return problem.Errorf("rotationPeriod", "%v is too short for tokens that live %v: %d keys would be published at a time, and verifiers take %d",
			c.RotationPeriod, longest, n, maxKeys)
	}
	return nil
}

// refresh is how often the state is asked.
func (c Config) refresh() time.Duration { return min(c.MaxAge/10, maxRefresh) }

// lead is how long a key is published before it signs: until the last replica
// publishes it, and then until the last verifier has forgotten the key set
// without it.
func (c Config) lead(maxAge time.Duration) time.Duration { return maxAge + c.refresh() + skew }

// keep is how long a retired key is published: a replica that is cut off signs
// with it for maxAge, and then its last token lives. The clocks that stamp and
// remove it may be apart, and so may those of signer and verifier.
func keep(maxAge, life time.Duration) time.Duration { return maxAge + life + 2*skew }
