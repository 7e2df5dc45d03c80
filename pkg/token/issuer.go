package token

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
)

// The paths below the issuer's own (OpenID Connect Discovery 1.0, section 4;
// RFC 8615).
const (
	DiscoveryPath = "/.well-known/openid-configuration"
	JWKSPath      = "/.well-known/jwks.json"
)

const (
	minExpiry = 10 * time.Second
	maxExpiry = keyring.MaxLife
)

// Config says what tokens look like and what signs them.
type Config struct {
	// SigningKeyFile names the private keys, in PEM: the first signs, all are
	// published. RSA of at least 2048 bits, or EC on P-256 or P-384, as PKCS#1,
	// SEC1 or PKCS#8. Optional: without it the keys are managed, see `keys`.
	SigningKeyFile []string `yaml:"signingKeyFile"`
	// TokenIssuer is the `iss` claim and the URL under which verifiers find the
	// discovery document. Required.
	TokenIssuer string `yaml:"tokenIssuer"`
	// TokenExpiry is how long a token lives. No token is revoked, so this is
	// also how long a lost one is good. Default: 10m.
	TokenExpiry time.Duration `yaml:"tokenExpiry"`
}

// Validate reports every problem, each beginning with its key. It reads no file.
func (c Config) Validate() error {
	var problems []error
	if c.TokenIssuer == "" {
		problems = append(problems, problem.Errorf("tokenIssuer", "is required"))
	} else if _, err := parseIssuer(c.TokenIssuer); err != nil {
		problems = append(problems, problem.At("tokenIssuer", err))
	}
	if err := ValidateExpiry(c.TokenExpiry); err != nil {
		problems = append(problems, problem.At("tokenExpiry", err))
	}
	return errors.Join(problems...)
}

// ValidateExpiry checks how long a token is to live.
func ValidateExpiry(d time.Duration) error {
	if d < minExpiry || d > maxExpiry {
		return fmt.Errorf("%v is not in %v to %v", d, minExpiry, maxExpiry)
	}
	return nil
}

// Token is a signed token.
type Token struct {
	Compact string // JWS compact serialization (RFC 7515, section 7.1)
	ID      string // the jti claim
	Expires time.Time
}

// Document is a rendered answer, good until the keys change.
type Document struct {
	Body []byte
	ETag string // in quotes, as RFC 9110, section 8.8.3, has it
}

// Issuer signs identities. It is made by [NewIssuer].
type Issuer struct {
	url      *url.URL
	name     string
	keys     KeySource
	rendered atomic.Pointer[rendered]
	usual    profile
	byRole   map[attest.RoleName]profile
	projects Projects

	// Now is the clock. Optional, nil means time.Now.
	Now func() time.Time
}

// NewIssuer makes an issuer that signs with keys, which are [keyring.Keys] or a
// [keyring.Ring]. byRole has what differs for roles from the configuration. projects
// may be nil if no role needs it.
func NewIssuer(c Config, keys KeySource, byRole map[attest.RoleName]RoleConfig, projects Projects) (*Issuer, error) {
	u, err := parseIssuer(c.TokenIssuer)
	if err != nil {
		return nil, fmt.Errorf("token issuer: %w", err)
	}
	i := &Issuer{url: u, name: c.TokenIssuer, byRole: map[attest.RoleName]profile{}, projects: projects}
	if err := ValidateExpiry(c.TokenExpiry); err != nil {
		return nil, fmt.Errorf("token issuer: token expiry: %w", err)
	}
	if i.usual, err = (RoleConfig{}).compile(c); err != nil {
		return nil, fmt.Errorf("token issuer: %w", err)
	}
	longest := i.usual.expiry
	for role, config := range byRole {
		p, err := config.compile(c)
		if err != nil {
			return nil, fmt.Errorf("token issuer: role %s: %w", role, err)
		}
		if p.projects && projects == nil {
			return nil, fmt.Errorf("token issuer: role %s wants claims that nobody tells", role)
		}
		i.byRole[role], longest = p, max(longest, p.expiry)
	}
	if err := keys.Check(c.TokenIssuer); err != nil {
		return nil, fmt.Errorf("token issuer: %w", err)
	}
	i.keys = keys
	i.keys.WillIssue(longest)
	return i, nil
}

var issuerPath = regexp.MustCompile(`\A(?:/[A-Za-z0-9._~-]+)*/?\z`)

// parseIssuer takes a URL that a verifier can append a path to, and compare
// byte for byte.
func parseIssuer(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, err
	case (u.Scheme != "https" && u.Scheme != "http") || u.Hostname() == "" || u.Opaque != "":
		return nil, fmt.Errorf("%q is not a URL such as https://id.example.com", s)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#"):
		return nil, fmt.Errorf("%q has a user, a query or a fragment, which OpenID Connect forbids", s)
	case !issuerPath.MatchString(u.EscapedPath()) || strings.Contains(u.Path+"/", "/../") || strings.Contains(u.Path+"/", "/./"):
		return nil, fmt.Errorf("%q has a path that may be spelt in several ways; it is made of A-Z a-z 0-9 . _ ~ - and single slashes", s)
	}
	return u, nil
}

// IssuerWarning says which verifiers an issuer's URL would not suit, "" for none.
func IssuerWarning(s string) string {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return ""
	case u.Scheme != "https":
		return fmt.Sprintf("%s is not https: whoever sits between can give verifiers keys of their own, and most refuse it", s)
	case strings.HasSuffix(s, "/"):
		return fmt.Sprintf("%s ends in a slash: verifiers compare byte for byte, and some cut it off", s)
	}
	return ""
}

// Path is the path of the issuer's URL, without a slash at its end: "" for none.
func (i *Issuer) Path() string { return strings.TrimSuffix(i.url.Path, "/") }

// Name is the iss claim.
func (i *Issuer) Name() string { return i.name }

// Discovery is the provider's metadata (OpenID Connect Discovery 1.0, section 3).
func (i *Issuer) Discovery() Document { return i.current().discovery }

// JWKS is the key set (RFC 7517, section 5).
func (i *Issuer) JWKS() Document { return i.current().jwks }

// MaxAge is how long a verifier may keep either.
func (i *Issuer) MaxAge() time.Duration { return i.keys.MaxAge() }

// errNothingProven says that a zero identity was handed in.
var errNothingProven = errors.New("an identity that nothing has proven is not signed")

var errNoKey = errors.New("there is no signing key")

// userValue is what a value that users choose must look like to be in a token:
// verifiers split claims at separators and put them into paths and templates.
var userValue = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\z`)

// Issue signs an identity. An error is a failure of ours or of the cloud, never
// a verdict; [keyring.ErrKeysStale] passes when the state can be read again.
func (i *Issuer) Issue(ctx context.Context, id attest.Identity) (Token, error) {
	if id.IsZero() {
		return Token{}, errNothingProven
	}
	if err := i.keys.Usable(); err != nil {
		return Token{}, err
	}
	p, ok := i.byRole[id.Role()]
	if !ok {
		p = i.usual
	}
	sub, err := p.sub(id)
	if err != nil {
		return Token{}, err
	}
	claims := jwt.MapClaims{}
	if err := p.add(ctx, id, i.projects, claims); err != nil {
		return Token{}, err
	}
	claims["sub"] = sub
	claims["aud"] = i.audience(id)
	claims["role"] = id.Role().String()
	claims["amr"] = id.Proofs()
	return i.sign(claims, id.Instance(), p)
}

// sign adds the claims that every token has, and signs.
func (i *Issuer) sign(claims jwt.MapClaims, in attest.Instance, p profile) (Token, error) {
	now := i.now().Truncate(time.Second)
	t := Token{ID: rand.Text(), Expires: now.Add(p.expiry).Truncate(time.Second).UTC()}
	claims["iss"] = i.name
	claims["jti"] = t.ID
	claims["iat"] = now.Unix()
	claims["nbf"] = now.Unix()
	claims["exp"] = t.Expires.Unix()
	claims["instance_id"] = in.ID.String()
	claims["project_id"] = in.ProjectID
	p.set(claims, claim{name: "instance_name", byUser: true}, in.Name)

	keys := i.keys.Published().Keys()
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

// claimNames are the claims that Issue may write, but those of metadata.
func claimNames() []string {
	return append([]string{"iss", "sub", "aud", "jti", "iat", "nbf", "exp", "instance_id", "instance_name", "project_id", "role", "amr"}, optionalClaims()...)
}

// audience is the aud claim: a plain string where the role names its audiences,
// which some verifiers need, and the list of the original where it does not.
func (i *Issuer) audience(id attest.Identity) any {
	if a := id.Audience(); a != (attest.Audience{}) {
		return a.String()
	}
	return []string{i.roleAudience(id.Role())}
}

// roleAudience is "roles/<role>" resolved against the issuer (RFC 3986, section
// 5.2): below https://host/a it is https://host/roles/web, as the original has it.
func (i *Issuer) roleAudience(role attest.RoleName) string {
	return i.url.ResolveReference(&url.URL{Path: "roles/" + role.String()}).String()
}

func (i *Issuer) now() time.Time {
	if i.Now != nil {
		return i.Now()
	}
	return time.Now()
}
