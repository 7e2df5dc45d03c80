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

	es384 = "ES384" // only for keys that an operator provides
)

// MaxLife is the longest life of a token.
const MaxLife = 24 * time.Hour

const (
	defaultMaxAge = 5 * time.Minute

	minMaxAge   = time.Minute
	maxMaxAge   = 24 * time.Hour
	minRotation = time.Hour
	maxRotation = 100 * 365 * 24 * time.Hour // longer ones overflow the times of a key set
)

// Store is the state through which replicas agree.
type Store interface {
	// Get returns the value of key, nil if there is none.
	Get(ctx context.Context, key string) ([]byte, error)
	// Update atomically replaces the value of key with the result of change. A nil
	// value means that there is none. It may call change more than once. If change
	// returns an error, Update returns that error and replaces nothing.
	Update(ctx context.Context, key string, change func(old []byte) ([]byte, error)) error
}

// Config has the settings of managed keys, which are in the state and not in files.
// With a signingKeyFile only maxAge and encryptionKeyFile count.
type Config struct {
	// Algorithm of new keys: RS256, which every verifier knows, or ES256. After
	// a change, the server replaces the next key at start, and that key signs as soon
	// as verifiers can know it. Default: RS256.
	Algorithm string `yaml:"algorithm"`
	// RotationPeriod is how long a key signs. 1h to 876000h, and longer than
	// maxAge. Default: 720h.
	RotationPeriod time.Duration `yaml:"rotationPeriod"`
	// MaxAge is how long a verifier may cache the key set and the discovery
	// document (Cache-Control). A key is published at least that long before it
	// signs. A replica stops signing if the key set was not confirmed for that
	// long. 1m to 24h. Default: 5m.
	MaxAge time.Duration `yaml:"maxAge"`
	// EncryptionKeyFile names files with 32 random bytes in base64, made with
	// `openssl rand -base64 32`. The first key seals the key set and the denial list
	// in the state; all of them can open. To change the key: add the new one as second
	// on every replica, put it first on every replica, remove the old one. Required for
	// state.type redis, with a signingKeyFile too; optional otherwise.
	EncryptionKeyFile []string `yaml:"encryptionKeyFile"`
}

// Plan is a checked Config with the encryption keys read. [Config.Plan] makes one.
type Plan struct {
	algorithm      string
	rotationPeriod time.Duration
	maxAge         time.Duration
	longestLife    time.Duration
	sealer         sealer
}

// Plan checks the settings and reads the encryption keys. longestLife is the longest
// life of a token of any role. The error joins all problems, each with its path.
func (c Config) Plan(longestLife time.Duration) (Plan, error) {
	p := Plan{algorithm: c.Algorithm, rotationPeriod: c.RotationPeriod, maxAge: c.MaxAge, longestLife: longestLife}
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
	switch lead := p.lead(c.MaxAge); {
	case c.RotationPeriod < minRotation:
		add("rotationPeriod", "%v is shorter than %v", c.RotationPeriod, minRotation)
	case c.RotationPeriod > maxRotation:
		add("rotationPeriod", "%v is longer than %v (100 years)", c.RotationPeriod, maxRotation)
	case ageOK && c.RotationPeriod <= lead:
		add("rotationPeriod", "%v is not longer than the %v for which a key is published before it signs (maxAge and a little more)", c.RotationPeriod, lead)
	}
	if c.RotationPeriod > 0 {
		// Next, current, one that is removed late, and those that retire meanwhile.
		if n := 3 + keep(c.MaxAge, longestLife)/c.RotationPeriod; n > maxKeys {
			add("rotationPeriod", "%v is too short for tokens that live %v: %d keys would be published at a time, and verifiers take %d",
				c.RotationPeriod, longestLife, n, maxKeys)
		}
	}
	var err error
	if p.sealer, err = loadSealer(c.EncryptionKeyFile); err != nil {
		problems = append(problems, problem.At("encryptionKeyFile", err))
	}
	if len(problems) > 0 {
		return Plan{}, errors.Join(problems...)
	}
	return p, nil
}

// refresh is how often a replica reads the state.
func (p Plan) refresh() time.Duration { return min(p.maxAge/10, 10*time.Second) }
