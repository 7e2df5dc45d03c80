package token_test

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring/keyringtest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

// site serves the documents of an issuer, which is made with a URL of the site.
type site struct {
	*httptest.Server
	issuer  atomic.Pointer[token.Issuer]
	fetches atomic.Int64 // of the key set
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i := s.issuer.Load()
		var d token.Document
		switch r.URL.Path {
		case i.URL().Path() + token.DiscoveryPath:
			d = i.Discovery()
		case i.URL().Path() + token.JWKSPath:
			s.fetches.Add(1)
			d = i.JWKS()
		default:
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("ETag", d.ETag)
		w.Write(d.Body) //nolint:errcheck // the client notices
	}))
	t.Cleanup(s.Close)
	return s
}

// serve makes an issuer at a path of the site and serves its documents.
func (s *site) serve(t *testing.T, path string, keys *keyring.KeySet) *token.Issuer {
	t.Helper()
	i := newIssuer(t, s.URL+path, keys)
	s.issuer.Store(i)
	return i
}

// verifier is a relying party that knows the issuer's URL and its own name.
func (s *site) verifier(t *testing.T, issuer, audience string, now time.Time) func(string) (*oidc.IDToken, error) {
	t.Helper()
	ctx := oidc.ClientContext(t.Context(), s.Client())
	p, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		t.Fatal(err)
	}
	v := p.VerifierContext(ctx, &oidc.Config{ClientID: audience, Now: func() time.Time { return now }})
	return func(compact string) (*oidc.IDToken, error) { return v.Verify(ctx, compact) }
}

func TestTokensVerify(t *testing.T) {
	keys := []struct {
		alg string
		key crypto.Signer
	}{
		{"RS256", keyringtest.RSA()},
		{"ES256", keyringtest.EC(t, elliptic.P256())},
		{"ES384", keyringtest.EC(t, elliptic.P384())},
	}
	paths := []struct{ path, audience string }{
		{"", "/roles/web"},
		{"/region-1", "/roles/web"},
		{"/region-1/", "/region-1/roles/web"},
	}
	for _, k := range keys {
		for _, p := range paths {
			t.Run(k.alg+" at "+p.path, func(t *testing.T) {
				s := newSite(t)
				i := s.serve(t, p.path, load(t, k.key))
				in := attesttest.Instance(t)
				tok := issue(t, i, attesttest.IdentityFor(t, in, "web", attest.Grant{}, "", s.URL+p.path))
				verified, err := s.verifier(t, s.URL+p.path, s.URL+p.audience, signedAt)(tok.Compact)
				if err != nil {
					t.Fatal(err)
				}
				var claims struct {
					Instance string `json:"instance_id"`
					Project  string `json:"project_id"`
					Role     string `json:"role"`
				}
				if err := verified.Claims(&claims); err != nil {
					t.Fatal(err)
				}
				if verified.Subject != in.ID.String() || claims.Instance != in.ID.String() || claims.Project != in.ProjectID || claims.Role != "web" {
					t.Errorf("subject %s, claims %+v", verified.Subject, claims)
				}
				if !verified.Expiry.Equal(tok.Expires) || !verified.IssuedAt.Equal(signedAt) {
					t.Errorf("issued at %s, expires at %s", verified.IssuedAt, verified.Expiry)
				}
			})
		}
	}
}

// forge signs, or does not, a token that is otherwise the given one.
func forge(t *testing.T, compact string, header map[string]string, sign func(signed string) []byte) string {
	t.Helper()
	h, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	signed := keyringtest.Base64(h) + "." + strings.Split(compact, ".")[1]
	return signed + "." + keyringtest.Base64(sign(signed))
}

func TestTokensThatDoNotVerify(t *testing.T) {
	for alg, key := range map[string]crypto.Signer{"RS256": keyringtest.RSA(), "ES256": keyringtest.EC(t, elliptic.P256())} {
		t.Run(alg, func(t *testing.T) {
			s := newSite(t)
			keys := load(t, key)
			i := s.serve(t, "", keys)
			identity := attesttest.IdentityFor(t, attesttest.Instance(t), "web", attest.Grant{}, "", s.URL)
			tok := issue(t, i, identity)
			audience := s.URL + "/roles/web"
			kid := keyringtest.Thumbprint(t, key)

			p := strings.Split(tok.Compact, ".")
			signature, err := base64.RawURLEncoding.DecodeString(p[2])
			if err != nil {
				t.Fatal(err)
			}
			flipped := bytes.Clone(signature)
			flipped[len(flipped)/2] ^= 1
			claims, err := base64.RawURLEncoding.DecodeString(p[1])
			if err != nil {
				t.Fatal(err)
			}
			promoted := bytes.Replace(claims, []byte(`"role":"web"`), []byte(`"role":"adm"`), 1)
			if bytes.Equal(promoted, claims) {
				t.Fatalf("no role in %s", claims)
			}
			mac := func(secret []byte) func(string) []byte {
				return func(signed string) []byte {
					h := hmac.New(sha256.New, secret)
					h.Write([]byte(signed))
					return h.Sum(nil)
				}
			}
			tests := []struct {
				name     string
				compact  string
				audience string
				now      time.Time
				want     string // in go-oidc's words; empty where they depend on the keys
			}{
				{"a bit of the signature", p[0] + "." + p[1] + "." + keyringtest.Base64(flipped), audience, signedAt, "verify"},
				{"no signature", p[0] + "." + p[1] + ".", audience, signedAt, "verify"},
				{"another role under the same signature", p[0] + "." + keyringtest.Base64(promoted) + "." + p[2], audience, signedAt, "verify"},
				{"another audience", tok.Compact, s.URL + "/roles/we", signedAt, "expected audience"},
				{"a longer audience", tok.Compact, audience + "2", signedAt, "expected audience"},
				{"the issuer as audience", tok.Compact, s.URL, signedAt, "expected audience"},
				{"one second expired", tok.Compact, audience, tok.Expires.Add(time.Second), "expired"},
				{"ten minutes early", tok.Compact, audience, signedAt.Add(-10 * time.Minute), "not before"},
				{"another issuer with the same keys", issue(t, newIssuer(t, s.URL+"/b", keys), identity).Compact, audience, signedAt, "different provider"},
				{"this issuer with a slash more", issue(t, newIssuer(t, s.URL+"/", keys), identity).Compact, audience, signedAt, "different provider"},
				{"this issuer with other keys", issue(t, newIssuer(t, s.URL, load(t, keyringtest.EC(t, elliptic.P256()))), identity).Compact, audience, signedAt, ""},
				{"alg none", forge(t, tok.Compact, map[string]string{"alg": "none", "typ": "JWT", "kid": kid}, func(string) []byte { return nil }), audience, signedAt, "algorithm"},
				{
					"HS256 with the public key in PEM",
					forge(t, tok.Compact, map[string]string{"alg": "HS256", "typ": "JWT", "kid": kid}, mac(keyringtest.PublicPEM(t, key))), audience, signedAt, "algorithm",
				},
				{
					"HS256 with the key set",
					forge(t, tok.Compact, map[string]string{"alg": "HS256", "typ": "JWT", "kid": kid}, mac(i.JWKS().Body)), audience, signedAt, "algorithm",
				},
			}
			for _, tt := range tests {
				t.Run(tt.name, func(t *testing.T) {
					verified, err := s.verifier(t, s.URL, tt.audience, tt.now)(tt.compact)
					if err == nil {
						t.Fatalf("was accepted: %+v", verified)
					}
					if !strings.Contains(err.Error(), tt.want) {
						t.Errorf("was refused for another reason than %q: %v", tt.want, err)
					}
				})
			}
			for name, now := range map[string]time.Time{
				"as it was signed":           signedAt,
				"at its last moment":         tok.Expires,
				"with clocks a minute apart": signedAt.Add(-time.Minute),
			} {
				if _, err := s.verifier(t, s.URL, audience, now)(tok.Compact); err != nil {
					t.Errorf("the token %s: %v", name, err)
				}
			}
		})
	}
}

// The timeline of the package's documentation: every token verifies against
// every key set that is served in its life, whatever the kinds of the keys.
func TestKeysAreChangedWithoutAGap(t *testing.T) {
	kinds := map[string]struct{ before, after crypto.Signer }{
		"P-256 to P-256": {keyringtest.EC(t, elliptic.P256()), keyringtest.EC(t, elliptic.P256())},
		"RSA to P-256":   {keyringtest.RSA(), keyringtest.EC(t, elliptic.P256())},
	}
	for name, k := range kinds {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			identity := attesttest.IdentityFor(t, attesttest.Instance(t), "web", attest.Grant{}, "", s.URL)
			steps := []struct {
				name      string
				keys      *keyring.KeySet
				signs     crypto.Signer
				old, next bool // whose tokens verify
			}{
				{"before", load(t, k.before), k.before, true, false},
				{"the new one is published", load(t, k.before, k.after), k.before, true, true},
				{"the new one signs", load(t, k.after, k.before), k.after, true, true},
				{"the old one is gone", load(t, k.after), k.after, false, true},
			}
			old := issue(t, newIssuer(t, s.URL, load(t, k.before)), identity)
			next := issue(t, newIssuer(t, s.URL, load(t, k.after)), identity)
			for _, step := range steps {
				i := s.serve(t, "", step.keys)
				if header, _ := parts(t, issue(t, i, identity).Compact); header["kid"] != keyringtest.Thumbprint(t, step.signs) {
					t.Errorf("%s: the wrong key signs", step.name)
				}
				verify := s.verifier(t, s.URL, s.URL+"/roles/web", signedAt)
				if _, err := verify(old.Compact); (err == nil) != step.old {
					t.Errorf("%s: a token of the old key: %v, want it good: %v", step.name, err, step.old)
				}
				if _, err := verify(next.Compact); (err == nil) != step.next {
					t.Errorf("%s: a token of the new key: %v, want it good: %v", step.name, err, step.next)
				}
			}
		})
	}
}

// That is what publishing the new key first is for.
func TestAVerifierThatFetchedBeforeTheChangeNeedsNoSecondFetch(t *testing.T) {
	before, after := keyringtest.EC(t, elliptic.P256()), keyringtest.EC(t, elliptic.P256())
	s := newSite(t)
	identity := attesttest.IdentityFor(t, attesttest.Instance(t), "web", attest.Grant{}, "", s.URL)
	i := s.serve(t, "", load(t, before, after))
	verify := s.verifier(t, s.URL, s.URL+"/roles/web", signedAt)
	if _, err := verify(issue(t, i, identity).Compact); err != nil {
		t.Fatal(err)
	}
	i = s.serve(t, "", load(t, after, before))
	if _, err := verify(issue(t, i, identity).Compact); err != nil {
		t.Errorf("a token of the new key: %v", err)
	}
	if n := s.fetches.Load(); n != 1 {
		t.Errorf("the key set was fetched %d times, want once", n)
	}
}
