// Package cloud_test holds what the program serves against what the public clouds
// publish that they take: they cannot be run here.
package cloud_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/example/consumers/consumertest"
)

const issuer = "https://id.example.com"

// cloud is what one of them publishes. 0 is no bound.
type cloud struct {
	role, audience string
	algorithms     []string
	maxAudience    int
	maxSubject     int
	maxLifetime    time.Duration
}

// AWS: IAM User Guide, "Create an OpenID Connect (OIDC) identity provider", and the API reference of
// CreateOpenIDConnectProvider. Google: "Configure Workload Identity Federation with other identity providers", and the STS
// reference (its subjectToken). Microsoft: "Important considerations and restrictions for federated identity credentials".
var clouds = []cloud{
	{"aws", "sts.amazonaws.com", []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512"}, 255, 255, 0},
	{
		"gcp", "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/openstack/providers/nova-authenticator",
		[]string{"RS256", "ES256"}, 0, 127, 24 * time.Hour,
	},
	{"entra", "api://AzureADTokenExchange", []string{"RS256"}, 600, 600, 0},
}

func TestPublishedConstraints(t *testing.T) {
	roles, err := os.ReadFile("roles.yml")
	if err != nil {
		t.Fatal(err)
	}
	i := consumertest.StartNamed(t, issuer, string(roles))

	var discovery struct {
		Issuer     string   `json:"issuer"`
		JWKSURI    string   `json:"jwks_uri"`
		Types      []string `json:"response_types_supported"`
		Subjects   []string `json:"subject_types_supported"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
		Claims     []string `json:"claims_supported"`
	}
	get(t, i, "/.well-known/openid-configuration", &discovery)
	if discovery.Issuer != issuer || discovery.JWKSURI != issuer+"/.well-known/jwks.json" {
		t.Errorf("discovery: %+v", discovery)
	}
	if u, err := url.Parse(discovery.Issuer); err != nil || u.Scheme != "https" || u.Port() != "" || u.RawQuery != "" || strings.HasSuffix(u.Path, "/") {
		t.Errorf("issuer %q: %v", discovery.Issuer, err)
	}
	if !slices.Contains(discovery.Types, "id_token") || !slices.Contains(discovery.Subjects, "public") {
		t.Errorf("discovery: %+v", discovery)
	}
	for _, claim := range []string{"iss", "sub", "aud", "exp", "iat"} {
		if !slices.Contains(discovery.Claims, claim) {
			t.Errorf("claims_supported has no %s: %v", claim, discovery.Claims)
		}
	}
	var keys struct {
		Keys []map[string]string `json:"keys"`
	}
	get(t, i, "/.well-known/jwks.json", &keys)
	if n := len(keys.Keys); n == 0 || n > 100 {
		t.Errorf("%d keys", n)
	}
	for _, key := range keys.Keys {
		if key["kid"] == "" || key["use"] != "sig" || key["kty"] != "RSA" || key["alg"] != "RS256" {
			t.Errorf("key %v", key)
		}
	}

	for _, c := range clouds {
		t.Run(c.role, func(t *testing.T) {
			raw := i.Token(t, c.role, "")
			token, _, err := jwt.NewParser().ParseUnverified(raw, jwt.MapClaims{})
			if err != nil {
				t.Fatal(err)
			}
			if alg := token.Method.Alg(); !slices.Contains(c.algorithms, alg) || !slices.Contains(discovery.Algorithms, alg) {
				t.Errorf("alg %s", alg)
			}
			if token.Header["kid"] != keys.Keys[0]["kid"] {
				t.Errorf("kid %v", token.Header["kid"])
			}
			claims := consumertest.Claims(t, raw)
			audience, isString := claims["aud"].(string)
			if !isString || audience != c.audience || c.maxAudience > 0 && len(audience) > c.maxAudience {
				t.Errorf("aud %v", claims["aud"])
			}
			if subject, _ := claims.GetSubject(); subject == "" || len(subject) > c.maxSubject {
				t.Errorf("sub %q", subject)
			}
			issued, _ := claims.GetIssuedAt()
			expires, _ := claims.GetExpirationTime()
			if c.maxLifetime > 0 && expires.Sub(issued.Time) >= c.maxLifetime {
				t.Errorf("from %v to %v", issued, expires)
			}
			if len(raw) > 4096 {
				t.Errorf("a token of %d bytes", len(raw))
			}
		})
	}
}

// TestFilesSayWhatTokensSay finds in each file the values that a token has.
func TestFilesSayWhatTokensSay(t *testing.T) {
	roles, err := os.ReadFile("roles.yml")
	if err != nil {
		t.Fatal(err)
	}
	i := consumertest.StartNamed(t, issuer, string(roles))
	for role, file := range map[string]string{"aws": "aws-trust-policy.json", "gcp": "gcp-credentials.json", "entra": "entra-credential.json"} {
		text, err := os.ReadFile(file)
		if err != nil || !json.Valid(text) {
			t.Fatalf("%s: %v", file, err)
		}
		claims := consumertest.Claims(t, i.Token(t, role, ""))
		want := []string{claims["aud"].(string)}
		if role != "gcp" { // Google's conditions are those of the provider
			want = append(want, claims["sub"].(string), strings.TrimPrefix(issuer, "https://"))
		}
		for _, value := range want {
			if !strings.Contains(string(text), value) {
				t.Errorf("%s has no %q", file, value)
			}
		}
	}
}

func get(t *testing.T, i *consumertest.Issuer, path string, v any) {
	t.Helper()
	resp, err := i.Do(t, http.MethodGet, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", path, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
