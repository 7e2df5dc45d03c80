package token

import (
	"errors"
	"fmt"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
)

const (
	minExpiry = 10 * time.Second
	maxExpiry = keyring.MaxLife
)

// Config says what tokens look like and what signs them.
type Config struct {
	// SigningKeyFile names the private keys, in PEM: the first signs, all are
	// published. RSA of at least 2048 bits, or EC on P-256 or P-384, as PKCS#1,
	// SEC1 or PKCS#8. Optional: without it the server creates and rotates its own keys,
	// see `keys`.
	SigningKeyFile []string `yaml:"signingKeyFile"`
	// TokenIssuer is the `iss` claim and the URL under which verifiers find the
	// discovery document. Required.
	TokenIssuer string `yaml:"tokenIssuer"`
	// TokenExpiry is how long a token lives. A token cannot be revoked, so this is also
	// how long a stolen token can be used. Default: 10m.
	TokenExpiry time.Duration `yaml:"tokenExpiry"`
}

// Plan is a Config that was checked, with the roles: of each the rules that decide and
// the profile of its tokens. The zero value has no role.
type Plan struct {
	issuer attest.Issuer
	expiry time.Duration // of tokens that do not say
	roles  map[attest.RoleName]role
}

type role struct {
	rules   attest.Role
	profile profile
}

// Plan checks the configuration; it reads no file. The error has a [problem.Problem]
// for each key. The plan can be used for more checks even if there is an error.
func (c Config) Plan() (*Plan, error) {
	issuer, err := attest.ParseIssuer(c.TokenIssuer)
	return &Plan{issuer, c.TokenExpiry, map[attest.RoleName]role{}}, errors.Join(
		problem.At("tokenIssuer", err), problem.At("tokenExpiry", checkRange(c.TokenExpiry, minExpiry, maxExpiry)))
}

// Add compiles the profile of a role's tokens, and adds the role unless it is the zero
// value. The error has a [problem.Problem] for each key.
func (p *Plan) Add(rules attest.Role, c RoleConfig) error {
	profile, err := c.compile(p.expiry)
	if err == nil && rules.Name() != (attest.RoleName{}) {
		p.roles[rules.Name()] = role{rules, profile}
	}
	return err
}

// Issuer returns the issuer's URL.
func (p *Plan) Issuer() attest.Issuer { return p.issuer }

// Policy returns the rules of all roles.
func (p *Plan) Policy() attest.Policy {
	var all []attest.Role
	for _, r := range p.roles {
		all = append(all, r.rules)
	}
	return attest.NewPolicy(p.issuer, all...)
}

// NeedsProjects reports whether tokens of a role say what only Keystone knows.
func (p *Plan) NeedsProjects() bool {
	for _, r := range p.roles {
		if r.profile.projects {
			return true
		}
	}
	return false
}

// LongestLife returns the longest life of a token.
func (p *Plan) LongestLife() time.Duration {
	longest := p.expiry
	for _, r := range p.roles {
		longest = max(longest, r.profile.expiry)
	}
	return longest
}

func checkRange(d, least, most time.Duration) error {
	if d < least || d > most {
		return fmt.Errorf("%v is not in %v to %v", d, least, most)
	}
	return nil
}
