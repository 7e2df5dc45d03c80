package token_test

import (
	"crypto/elliptic"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring/keyringtest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

const issuerURL = "https://id.example.com"

func TestIssuerURL(t *testing.T) {
	keys := load(t, keyringtest.EC(t, elliptic.P256()))
	tests := []struct {
		name, url string
		ok        bool
	}{
		{"no scheme", "id.example.com", false},
		{"a host alone, relative", "//id.example.com", false},
		{"a path alone", "/a", false},
		{"another scheme", "ftp://id.example.com", false},
		{"a scheme that begins as https does", "httpss://id.example.com", false},
		{"no host", "https://", false},
		{"no host before a path", "https:///a", false},
		{"no host before a port", "https://:443", false},
		{"opaque", "https:id.example.com", false},
		{"a query", "https://id.example.com?a=b", false},
		{"a query after a path", "https://id.example.com/a?b", false},
		{"an empty query", "https://id.example.com?", false},
		{"a fragment", "https://id.example.com#a", false},
		{"an empty fragment", "https://id.example.com#", false},
		{"an empty fragment after a path", "https://id.example.com/a#", false},
		{"a user", "https://user@id.example.com", false},
		{"a user and a password", "https://user:secret@id.example.com", false},
		{"an empty user", "https://@id.example.com", false},
		{"upwards", "https://id.example.com/a/../b", false},
		{"upwards at the end", "https://id.example.com/a/..", false},
		{"upwards, escaped", "https://id.example.com/a/%2e%2e/b", false},
		{"the directory itself", "https://id.example.com/./a", false},
		{"the directory itself at the end", "https://id.example.com/a/.", false},
		{"two slashes", "https://id.example.com//a", false},
		{"two slashes at the end", "https://id.example.com/a//", false},
		{"an escaped slash", "https://id.example.com/a%2fb", false},
		{"an escaped letter", "https://id.example.com/%61", false},
		{"a letter that needs an escape", "https://id.example.com/é", false},
		{"what a router takes for a parameter", "https://id.example.com/:tenant", false},
		{"what a router takes for anything", "https://id.example.com/*", false},
		{"a parameter of a segment", "https://id.example.com/a;b=c", false},
		{"a space in front", " https://id.example.com", false},
		{"a space behind", "https://id.example.com ", false},
		{"a newline behind", "https://id.example.com\n", false},
		{"a port that is no number", "https://id.example.com:a", false},
		{"empty", "", false},

		{"https", "https://id.example.com", true},
		{"http", "http://id.example.com", true},
		{"a port", "https://id.example.com:8443", true},
		{"a path", "https://id.example.com/region-1", true},
		{"a longer path", "https://id.example.com/a/b.c/d", true},
		{"dots that lead nowhere", "https://id.example.com/..a/b../...", true},
		{"a slash at the end", "https://id.example.com/", true},
		{"a path with a slash at the end", "https://id.example.com/a/", true},
		{"an IPv4 address", "http://192.0.2.1:18775", true},
		{"an IPv6 address", "https://[2001:db8::1]:8443/a", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := token.Config{SigningKeyFile: []string{"key.pem"}, TokenIssuer: tt.url, TokenExpiry: 10 * time.Minute}
			p, err := c.Plan()
			if (err == nil) != tt.ok {
				t.Fatalf("Plan with %q = %v, want accepted %v", tt.url, err, tt.ok)
			}
			if i, err := token.NewIssuer(p, keys, nil); tt.ok && (err != nil || i.URL().String() != tt.url) {
				t.Errorf("the issuer %q is %q, %v", tt.url, i.URL(), err)
			}
		})
	}
}

func TestPlanReportsAllProblemsAtOnce(t *testing.T) {
	good := token.Config{SigningKeyFile: []string{"key.pem"}, TokenIssuer: issuerURL, TokenExpiry: 10 * time.Minute}
	tests := []struct {
		name string
		edit func(*token.Config)
		want []string // one line each begins so
	}{
		{"no issuer", func(c *token.Config) { c.TokenIssuer = "" }, []string{"tokenIssuer: is required"}},
		{"a bad issuer", func(c *token.Config) { c.TokenIssuer = "id.example.com" }, []string{"tokenIssuer: "}},
		{"no expiry", func(c *token.Config) { c.TokenExpiry = 0 }, []string{"tokenExpiry: "}},
		{"expired when made", func(c *token.Config) { c.TokenExpiry = -time.Minute }, []string{"tokenExpiry: "}},
		{"shorter than ten seconds", func(c *token.Config) { c.TokenExpiry = 10*time.Second - 1 }, []string{"tokenExpiry: "}},
		{"longer than a day", func(c *token.Config) { c.TokenExpiry = 24*time.Hour + 1 }, []string{"tokenExpiry: "}},
		{"nothing at all", func(c *token.Config) { *c = token.Config{} }, []string{"tokenIssuer: ", "tokenExpiry: "}},

		{"all that is needed", func(*token.Config) {}, nil},
		{"no key: they are managed", func(c *token.Config) { c.SigningKeyFile = nil }, nil},
		{"ten seconds", func(c *token.Config) { c.TokenExpiry = 10 * time.Second }, nil},
		{"a day", func(c *token.Config) { c.TokenExpiry = 24 * time.Hour }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := good
			tt.edit(&c)
			_, err := c.Plan()
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if !slices.EqualFunc(tt.want, got, func(want, got string) bool { return strings.HasPrefix(got, want) }) {
				t.Errorf("problems %q, want %q", got, tt.want)
			}
		})
	}
}

func TestZeroValueKeysSignNothing(t *testing.T) {
	if _, err := token.NewIssuer(plan(t, issuerURL, nil), &keyring.KeySet{}, nil); err == nil {
		t.Error("there is an issuer without a key")
	}
}

func TestZeroValueIdentityIsNotSigned(t *testing.T) {
	i := newIssuer(t, issuerURL, load(t, keyringtest.EC(t, elliptic.P256())))
	if tok, err := i.Issue(t.Context(), attest.Identity{}); err == nil || tok != (token.Token{}) {
		t.Errorf("Issue of the zero Identity = %+v, %v", tok, err)
	}
}

// A role that the issuer does not have gets no token, rather than the defaults of one.
func TestUnknownRoleIsNotSigned(t *testing.T) {
	i := newIssuer(t, issuerURL, load(t, keyringtest.EC(t, elliptic.P256())))
	if tok, err := i.Issue(t.Context(), attesttest.Identity(t, attesttest.Instance(t), "db")); err == nil || tok != (token.Token{}) {
		t.Errorf("Issue = %+v, %v", tok, err)
	}
}

func TestClaimsGolden(t *testing.T) {
	key := keyringtest.EC(t, elliptic.P256())
	i := newIssuer(t, issuerURL, load(t, key))
	tok := issue(t, i, attesttest.Identity(t, attesttest.Instance(t), "web"))
	header, claims := parts(t, tok.Compact)
	if header["kid"] != keyringtest.Thumbprint(t, key) {
		t.Errorf("kid %v, want the key's thumbprint %s", header["kid"], keyringtest.Thumbprint(t, key))
	}
	if claims["jti"] != tok.ID || len(tok.ID) < 22 { // 22 letters of 64 are 128 bits, and more of 32
		t.Errorf("jti %v, and the token's ID is %q", claims["jti"], tok.ID)
	}
	header["kid"], claims["jti"] = "the thumbprint", "a random one"
	golden(t, "claims.golden.json", map[string]any{"header": header, "claims": claims})
}

func TestHeaderFollowsTheFirstKey(t *testing.T) {
	p256, p384 := keyringtest.EC(t, elliptic.P256()), keyringtest.EC(t, elliptic.P384())
	identity := attesttest.Identity(t, attesttest.Instance(t), "web")
	tests := []struct {
		name string
		keys *keyring.KeySet
		want map[string]any
	}{
		{"RSA", load(t, keyringtest.RSA(), p256), map[string]any{"alg": "RS256", "typ": "JWT", "kid": keyringtest.Thumbprint(t, keyringtest.RSA())}},
		{"P-256", load(t, p256, keyringtest.RSA()), map[string]any{"alg": "ES256", "typ": "JWT", "kid": keyringtest.Thumbprint(t, p256)}},
		{"P-384", load(t, p384, p256, keyringtest.RSA()), map[string]any{"alg": "ES384", "typ": "JWT", "kid": keyringtest.Thumbprint(t, p384)}},
	}
	for _, tt := range tests {
		header, _ := parts(t, issue(t, newIssuer(t, issuerURL, tt.keys), identity).Compact)
		if diff := cmp.Diff(tt.want, header); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// RFC 3986, section 5.2: what follows the last slash of the issuer is replaced.
func TestAudienceIsTheRoleResolvedAgainstTheIssuer(t *testing.T) {
	keys := load(t, keyringtest.EC(t, elliptic.P256()))
	tests := []struct{ url, role, want string }{
		{"https://h", "web", "https://h/roles/web"},
		{"https://h/", "web", "https://h/roles/web"},
		{"https://h/a", "web", "https://h/roles/web"},
		{"https://h/a/", "web", "https://h/a/roles/web"},
		{"https://h/a/b", "web", "https://h/a/roles/web"},
		{"https://h:8443/a/b/", "web", "https://h:8443/a/b/roles/web"},
		{"https://h/a/", "...", "https://h/a/roles/..."},
		{"https://h/a/", ".web-1_2", "https://h/a/roles/.web-1_2"},
	}
	for _, tt := range tests {
		tok := issue(t, newIssuerByRole(t, tt.url, keys, map[string]token.RoleConfig{tt.role: {}}),
			attesttest.IdentityFor(t, attesttest.Instance(t), tt.role, attest.Grant{}, "", tt.url))
		_, claims := parts(t, tok.Compact)
		if diff := cmp.Diff([]any{tt.want}, claims["aud"]); diff != "" {
			t.Errorf("role %s of %s: aud is to be an array of one (-want +got):\n%s", tt.role, tt.url, diff)
		}
		if claims["iss"] != tt.url {
			t.Errorf("iss %v, want %s as it is written", claims["iss"], tt.url)
		}
	}
}

// Users choose the name, and verifiers put claims into paths, lists and
// templates.
func TestAnUnsafeNameIsLeftOut(t *testing.T) {
	i := newIssuer(t, issuerURL, load(t, keyringtest.EC(t, elliptic.P256())))
	tests := []struct {
		name, in string
		ok       bool
	}{
		{"empty", "", false},
		{"64 letters", strings.Repeat("a", 64), false},
		{"a semicolon", "web;admin", false},
		{"a comma", "web,admin", false},
		{"a space", "web 1", false},
		{"a space behind", "web ", false},
		{"a slash", "web/1", false},
		{"a colon", "web:1", false},
		{"an asterisk", "*", false},
		{"a template", "${project_id}", false},
		{"a quotation mark", `web"`, false},
		{"a percent escape", "web%2f", false},
		{"a dot in front", ".web", false},
		{"a dash in front", "-web", false},
		{"an underscore in front", "_web", false},
		{"the directory above", "..", false},
		{"a newline behind", "web\n", false},
		{"a newline in front", "\nweb", false},
		{"a NUL", "web\x00", false},
		{"a letter with an accent", "wéb", false},
		{"what is no UTF-8", "web\xff", false},

		{"63 letters", strings.Repeat("a", 63), true},
		{"one letter", "a", true},
		{"a digit in front", "1-web", true},
		{"a host name", "web-1.example.com", true},
		{"all that is allowed", "AZaz09_.-", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := attesttest.Instance(t)
			in.Name = tt.in
			_, claims := parts(t, issue(t, i, attesttest.Identity(t, in, "web")).Compact)
			got, ok := claims["instance_name"]
			if ok != tt.ok {
				t.Fatalf("name %q: the claim is there: %v, want %v", tt.in, ok, tt.ok)
			}
			if tt.ok && got != tt.in {
				t.Errorf("name %q: the claim is %q", tt.in, got)
			}
			// All other claims are as ever.
			if claims["sub"] != in.ID.String() || claims["project_id"] != in.ProjectID {
				t.Errorf("name %q: claims %v", tt.in, claims)
			}
		})
	}
}

// A verifier with the same clock must not see a token from the future.
func TestTimes(t *testing.T) {
	keys := load(t, keyringtest.EC(t, elliptic.P256()))
	identity := attesttest.Identity(t, attesttest.Instance(t), "web")
	zone := time.FixedZone("UTC+5:30", 5*3600+1800)
	for _, now := range []time.Time{
		signedAt,
		signedAt.Add(1),
		signedAt.Add(500 * time.Millisecond),
		signedAt.Add(time.Second - 1),
		signedAt.Add(time.Second - 1).In(zone),
	} {
		i := newIssuer(t, issuerURL, keys)
		i.Now = func() time.Time { return now }
		tok := issue(t, i, identity)
		_, claims := parts(t, tok.Compact)
		got := map[string]any{"iat": claims["iat"], "nbf": claims["nbf"], "exp": claims["exp"], "Expires": tok.Expires}
		want := map[string]any{
			"iat":     json.Number(fmt.Sprint(signedAt.Unix())),
			"nbf":     json.Number(fmt.Sprint(signedAt.Unix())),
			"exp":     json.Number(fmt.Sprint(signedAt.Add(10 * time.Minute).Unix())),
			"Expires": signedAt.Add(10 * time.Minute),
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("signed at %s (-want +got):\n%s", now.Format(time.RFC3339Nano), diff)
		}
		if tok.Expires.Location() != time.UTC {
			t.Errorf("Expires is in %s, want UTC", tok.Expires.Location())
		}
	}
}

func TestWithoutAClockItIsNow(t *testing.T) {
	i := newIssuer(t, issuerURL, load(t, keyringtest.EC(t, elliptic.P256())))
	i.Now = nil
	before := time.Now().Truncate(time.Second)
	tok := issue(t, i, attesttest.Identity(t, attesttest.Instance(t), "web"))
	if life := 10 * time.Minute; tok.Expires.Before(before.Add(life)) || tok.Expires.After(time.Now().Add(life)) {
		t.Errorf("signed now, expires at %s", tok.Expires)
	}
}

func TestExpiryOfARole(t *testing.T) {
	i := newIssuerByRole(t, issuerURL, load(t, keyringtest.EC(t, elliptic.P256())), map[string]token.RoleConfig{
		"short": {TokenExpiry: new(30 * time.Second)}, "Short": {}, "odd": {TokenExpiry: new(90*time.Second + 500*time.Millisecond)},
	})
	i.Now = func() time.Time { return signedAt.Add(500 * time.Millisecond) }
	for role, want := range map[string]time.Duration{
		"short": 30 * time.Second, "Short": 10 * time.Minute, "web": 10 * time.Minute,
		"odd": 90 * time.Second, // what is told is what is signed: whole seconds
	} {
		tok := issue(t, i, attesttest.Identity(t, attesttest.Instance(t), role))
		_, claims := parts(t, tok.Compact)
		if got, want := claims["exp"], json.Number(fmt.Sprint(signedAt.Add(want).Unix())); got != want {
			t.Errorf("role %s: exp %v, want %v", role, got, want)
		}
		if got := tok.Expires.Sub(signedAt); got != want {
			t.Errorf("role %s: lives for %v, want %v", role, got, want)
		}
	}
}

func TestTokensHaveAnIDOfTheirOwn(t *testing.T) {
	i := newIssuer(t, issuerURL, load(t, keyringtest.EC(t, elliptic.P256())))
	identity := attesttest.Identity(t, attesttest.Instance(t), "web")
	seen := map[any]bool{}
	for range 1000 {
		_, claims := parts(t, issue(t, i, identity).Compact)
		if seen[claims["jti"]] {
			t.Fatalf("the ID %v came twice", claims["jti"])
		}
		seen[claims["jti"]] = true
	}
}

func TestDiscoveryGolden(t *testing.T) {
	i := newIssuer(t, issuerURL+"/region-1", load(t, keyringtest.RSA(), keyringtest.EC(t, elliptic.P256()), keyringtest.EC(t, elliptic.P256()), keyringtest.EC(t, elliptic.P384())))
	var document map[string]any
	if err := json.Unmarshal(i.Discovery().Body, &document); err != nil {
		t.Fatal(err)
	}
	golden(t, "discovery.golden.json", document)
}

// OpenID Connect Discovery 1.0, section 4.1: a slash at the issuer's end is cut
// off before the path is appended, and stays in the issuer's name.
func TestDiscoveryOfAnIssuerWithASlashAtTheEnd(t *testing.T) {
	for url, want := range map[string]string{
		"https://h":    "https://h/.well-known/jwks.json",
		"https://h/":   "https://h/.well-known/jwks.json",
		"https://h/a":  "https://h/a/.well-known/jwks.json",
		"https://h/a/": "https://h/a/.well-known/jwks.json",
	} {
		var document struct {
			Issuer  string `json:"issuer"`
			JWKSURI string `json:"jwks_uri"`
		}
		if err := json.Unmarshal(newIssuer(t, url, load(t, keyringtest.EC(t, elliptic.P256()))).Discovery().Body, &document); err != nil {
			t.Fatal(err)
		}
		if document.Issuer != url || document.JWKSURI != want {
			t.Errorf("%s: issuer %s, jwks_uri %s, want the latter %s", url, document.Issuer, document.JWKSURI, want)
		}
	}
}

func TestDiscoveryNamesEveryClaim(t *testing.T) {
	i := newIssuerOf(t, token.RoleConfig{Claims: allClaims}, names{})
	var document struct {
		Claims []string `json:"claims_supported"`
	}
	if err := json.Unmarshal(i.Discovery().Body, &document); err != nil {
		t.Fatal(err)
	}
	_, claims := parts(t, issue(t, i, attesttest.Identity(t, fullInstance(t), "web")).Compact)
	var written []string
	for name := range claims {
		written = append(written, name)
	}
	slices.Sort(written)
	slices.Sort(document.Claims)
	if diff := cmp.Diff(document.Claims, written); diff != "" {
		t.Errorf("claims (-supported +written):\n%s", diff)
	}
}

func TestETagChangesWithTheKeysOnly(t *testing.T) {
	a, b, rsa := keyringtest.EC(t, elliptic.P256()), keyringtest.EC(t, elliptic.P256()), keyringtest.RSA()
	base := newIssuer(t, issuerURL, load(t, a, rsa))
	tests := []struct {
		name            string
		other           *token.Issuer
		jwks, discovery bool // whether they change
	}{
		{"the same keys from other files", newIssuer(t, issuerURL, load(t, a, rsa)), false, false},
		{"another issuer", newIssuer(t, issuerURL+"/a", load(t, a, rsa)), false, true},
		{"another key of the same kind", newIssuer(t, issuerURL, load(t, b, rsa)), true, false},
		{"a key more of the same kind", newIssuer(t, issuerURL, load(t, a, rsa, b)), true, false},
		{"a key less, and its algorithm", newIssuer(t, issuerURL, load(t, a)), true, true},
		{"another order, and so another first algorithm", newIssuer(t, issuerURL, load(t, rsa, a)), true, true},
	}
	for _, tt := range tests {
		if got := base.JWKS().ETag != tt.other.JWKS().ETag; got != tt.jwks {
			t.Errorf("%s: the ETag of the key set changes: %v, want %v", tt.name, got, tt.jwks)
		}
		if got := base.Discovery().ETag != tt.other.Discovery().ETag; got != tt.discovery {
			t.Errorf("%s: the ETag of the discovery document changes: %v, want %v", tt.name, got, tt.discovery)
		}
	}
	// RFC 9110, section 8.8.3: strong, and in quotes.
	syntax := regexp.MustCompile(`\A"[\x21\x23-\x7e]+"\z`)
	for _, etag := range []string{base.JWKS().ETag, base.Discovery().ETag} {
		if !syntax.MatchString(etag) {
			t.Errorf("%s is no ETag", etag)
		}
	}
	before := base.JWKS().ETag
	issue(t, base, attesttest.Identity(t, attesttest.Instance(t), "web"))
	if base.JWKS().ETag != before {
		t.Error("a token changed the ETag of the key set")
	}
}
