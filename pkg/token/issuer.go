package token

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

// The paths below the issuer's own (OpenID Connect Discovery 1.0, section 4;
// RFC 8615).
const (
	DiscoveryPath = "/.well-known/openid-configuration"
	JWKSPath      = "/.well-known/jwks.json"
)

// Token is a signed token or document.
type Token struct {
	Compact string // JWS compact serialization (RFC 7515, section 7.1)
	ID      string // the jti claim
	Expires time.Time
}

// Document is a rendered answer, valid until the keys change.
type Document struct {
	Body []byte
	ETag string // in quotes (RFC 9110, section 8.8.3)
}

// Issuer signs identities. [NewIssuer] makes one.
type Issuer struct {
	plan     *Plan
	keys     KeySource
	rendered atomic.Pointer[rendered]
	projects projectNames

	// Now is the clock. Optional, nil means time.Now.
	Now func() time.Time
}

// NewIssuer returns an issuer that signs with keys, which are [keyring.KeySet] or a
// [keyring.Ring]. projects may be nil if no role of the plan needs it.
func NewIssuer(p *Plan, keys KeySource, projects projectNames) (*Issuer, error) {
	if p.NeedsProjects() && projects == nil {
		return nil, errNoProjects
	}
	if err := keys.Check(p.issuer.String()); err != nil {
		return nil, fmt.Errorf("token issuer: %w", err)
	}
	keys.WillIssue(p.LongestLife())
	return &Issuer{plan: p, keys: keys, projects: projects}, nil
}

// URL returns the `iss` claim.
func (i *Issuer) URL() attest.Issuer { return i.plan.issuer }

// Discovery returns the provider metadata (OpenID Connect Discovery 1.0, section 3).
func (i *Issuer) Discovery() Document { return i.current().discovery }

// JWKS returns the key set (RFC 7517, section 5).
func (i *Issuer) JWKS() Document { return i.current().jwks }

// MaxAge returns how long a verifier may cache either.
func (i *Issuer) MaxAge() time.Duration { return i.keys.MaxAge() }

var errNothingProven = errors.New("an identity without proof is not signed")

var errNoKey = errors.New("there is no signing key")

// userValue matches the values chosen by users that may be in a token: verifiers split
// claims at separators, and put them into paths and templates.
var userValue = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\z`)

// Issue signs an identity. An error is a failure of this server or of the cloud, never a
// verdict; keyring.ErrKeysStale ends when the state can be read again.
func (i *Issuer) Issue(ctx context.Context, id attest.Identity) (Token, error) {
	if id.IsZero() {
		return Token{}, errNothingProven
	}
	if err := i.keys.Usable(); err != nil {
		return Token{}, err
	}
	role, ok := i.plan.roles[id.Role()]
	if !ok {
		return Token{}, fmt.Errorf("there is no role %q", id.Role())
	}
	p := role.profile
	sub, err := p.sub(id)
	if err != nil {
		return Token{}, err
	}
	claims := jwt.MapClaims{}
	if err := p.add(ctx, id, i.projects, claims); err != nil {
		return Token{}, err
	}
	claims["sub"] = sub
	claims["aud"] = audience(id)
	claims["role"] = id.Role().String()
	claims["amr"] = id.Proofs()
	return i.sign(claims, id.Instance(), p)
}

// sign adds the claims of every token, and signs.
func (i *Issuer) sign(claims jwt.MapClaims, in attest.Instance, p profile) (Token, error) {
	now := i.now().Truncate(time.Second)
	t := Token{ID: rand.Text(), Expires: now.Add(p.expiry).Truncate(time.Second).UTC()}
	claims["iss"] = i.plan.issuer.String()
	claims["jti"] = t.ID
	claims["iat"] = now.Unix()
	claims["nbf"] = now.Unix()
	claims["exp"] = t.Expires.Unix()
	claims["instance_id"] = in.ID.String()
	claims["project_id"] = in.ProjectID
	p.set(claims, claim{name: "instance_name", byUser: true}, in.Name)

	keys := i.keys.KeySet().Keys()
	if len(keys) == 0 {
		return Token{}, errNoKey
	}
	key := keys[0]
	unsigned := jwt.NewWithClaims(jwt.GetSigningMethod(key.Algorithm()), claims)
	unsigned.Header["kid"] = key.ID()
	var err error
	if t.Compact, err = unsigned.SignedString(key.Signer()); err != nil {
		return Token{}, fmt.Errorf("sign with key %s: %w", key.ID(), err)
	}
	return t, nil
}

// claimNames returns the claims that a token may have, without those of metadata.
func claimNames() []string {
	return append([]string{"iss", "sub", "aud", "jti", "iat", "nbf", "exp", "instance_id", "instance_name", "project_id", "role", "amr"}, optionalClaims()...)
}

// audience is the aud claim: a plain string where the role lists its audiences, which
// some verifiers need, and the list of the original program where it does not.
func audience(id attest.Identity) any {
	if id.DefaultAudience() {
		return []string{id.Audience().String()}
	}
	return id.Audience().String()
}

func (i *Issuer) now() time.Time {
	if i.Now != nil {
		return i.Now()
	}
	return time.Now()
}
