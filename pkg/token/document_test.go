package token_test

import (
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring/keyringtest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

const documentLife = 5 * time.Minute

func document(t *testing.T, i *token.Issuer, in attest.Instance) token.Token {
	t.Helper()
	d, err := i.IssueDocument(attesttest.Vouched(t, in), documentLife)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDocumentRoundTrip(t *testing.T) {
	i := newIssuer(t, issuerURL, load(t, keyringtest.EC(t, elliptic.P256())))
	running := fullInstance(t)
	running.Launched = time.Date(2026, 11, 23, 11, 0, 0, 123456000, time.UTC)
	built, volume := running, running
	built.Phase, built.Launched, volume.ImageID = attest.PhaseBuilding, time.Time{}, ""
	for name, in := range map[string]attest.Instance{"running": running, "built": built, "booted from a volume": volume} {
		made := document(t, i, in)
		got, err := i.VerifyDocument(made.Compact)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got.Issued, got.Expires, got.Launched = got.Issued.UTC(), got.Expires.UTC(), got.Launched.UTC()
		want := attest.Document{
			ID: made.ID, Instance: in.ID, ProjectID: in.ProjectID, ImageID: in.ImageID, Launched: in.Launched,
			Issued: signedAt, Expires: signedAt.Add(documentLife),
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b attest.InstanceID) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// A document is no role token and a role token no document, nor is what an
// attacker makes of either.
func TestDocumentsAndTokensAreNotMistakenForEachOther(t *testing.T) {
	key, other := keyringtest.EC(t, elliptic.P256()), keyringtest.EC(t, elliptic.P256())
	i := newIssuer(t, issuerURL, load(t, key))
	in := fullInstance(t)
	good := document(t, i, in).Compact
	header, claims := parts(t, good)
	if header["typ"] != "openstack-instance-document+jwt" || header["alg"] != "HS256" || header["kid"] != nil {
		t.Errorf("the header is %v", header)
	}
	sign := func(header, claims map[string]any, method jwt.SigningMethod, key any) string {
		t.Helper()
		tok := jwt.NewWithClaims(method, jwt.MapClaims(claims))
		for name, value := range header {
			tok.Header[name] = value
		}
		s, err := tok.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	var jwks struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(i.JWKS().Body, &jwks); err != nil {
		t.Fatal(err)
	}
	typ := map[string]any{"typ": "openstack-instance-document+jwt"}
	segments := strings.Split(good, ".")
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"openstack-instance-document+jwt"}`)) + "." + segments[1] + "."
	role := issue(t, i, attesttest.Identity(t, in, "web")).Compact
	vouched, err := i.IssueVouched(attesttest.Vouched(t, in), []string{"keystone"})
	if err != nil {
		t.Fatal(err)
	}
	for name, compact := range map[string]string{
		"a role token":                             role,
		"the token in the answer to Nova":          vouched.Compact,
		"of another issuer's keys":                 document(t, newIssuer(t, issuerURL, load(t, other)), in).Compact,
		"of another issuer with our keys":          document(t, newIssuer(t, issuerURL+"/b", load(t, key)), in).Compact,
		"without a signature":                      unsigned,
		"signed with the public key as the secret": sign(typ, claims, jwt.SigningMethodHS256, []byte(jwks.Keys[0])),
		"signed with an empty secret":              sign(typ, claims, jwt.SigningMethodHS256, []byte{}),
		"signed with our signing key":              sign(typ, claims, jwt.SigningMethodES256, key),
		"with another's claims":                    segments[0] + "." + strings.Split(document(t, i, attesttest.Instance(t)).Compact, ".")[1] + "." + segments[2],
		"cut off":                                  good[:len(good)-4],
		"with a blank":                             good + " ",
		"nothing":                                  "",
		"far too long":                             good + strings.Repeat("A", 1<<20),
		"a token in the header's place":            role + "." + good,
	} {
		if d, err := i.VerifyDocument(compact); !errors.As(err, new(*attest.Denied)) || !d.IsZero() {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
}

func TestDocumentExpires(t *testing.T) {
	i := newIssuer(t, issuerURL, load(t, keyringtest.EC(t, elliptic.P256())))
	d := document(t, i, fullInstance(t))
	for at, ok := range map[time.Duration]bool{documentLife - time.Second: true, documentLife: false, time.Hour: false} {
		i.Now = func() time.Time { return signedAt.Add(at) }
		if _, err := i.VerifyDocument(d.Compact); (err == nil) != ok {
			t.Errorf("after %v: %v", at, err)
		}
	}
}

// The secret comes and goes with the signing key, and replicas share it.
func TestDocumentsFollowTheKeys(t *testing.T) {
	old, next := keyringtest.EC(t, elliptic.P256()), keyringtest.RSA()
	made := document(t, newIssuer(t, issuerURL, load(t, old)), fullInstance(t)).Compact
	for name, tt := range map[string]struct {
		keys *keyring.KeySet
		ok   bool
	}{
		"another process with the key":    {load(t, old), true},
		"the key is published, not first": {load(t, next, old), true},
		"the key is gone":                 {load(t, next), false},
	} {
		if _, err := newIssuer(t, issuerURL, tt.keys).VerifyDocument(made); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestZeroValueVouchedIsNotSigned(t *testing.T) {
	i := newIssuer(t, issuerURL, load(t, keyringtest.EC(t, elliptic.P256())))
	if d, err := i.IssueDocument(attest.Vouched{}, documentLife); err == nil || d.Compact != "" {
		t.Error("a document without an instance was made")
	}
	if d, err := i.IssueVouched(attest.Vouched{}, []string{"a"}); err == nil || d.Compact != "" {
		t.Error("a token without an instance was made")
	}
	if d, err := i.IssueVouched(attesttest.Vouched(t, fullInstance(t)), nil); err == nil || d.Compact != "" {
		t.Error("a token without an audience was made")
	}
}

func TestVouchedToken(t *testing.T) {
	i, in := newIssuer(t, issuerURL, load(t, keyringtest.EC(t, elliptic.P256()))), fullInstance(t)
	for _, tt := range []struct {
		audiences []string
		want      any
	}{{[]string{"keystone"}, "keystone"}, {[]string{"keystone", "vault"}, []any{"keystone", "vault"}}} {
		tok, err := i.IssueVouched(attesttest.Vouched(t, in), tt.audiences)
		if err != nil {
			t.Fatal(err)
		}
		header, claims := parts(t, tok.Compact)
		if diff := cmp.Diff(tt.want, claims["aud"]); diff != "" || header["typ"] != "JWT" {
			t.Errorf("header %v, aud (-want +got):\n%s", header, diff)
		}
		if claims["role"] != nil || claims["sub"] != in.ID.String() || claims["instance_id"] != in.ID.String() {
			t.Errorf("claims %v", claims)
		}
	}
}

func FuzzVerifyDocument(f *testing.F) {
	i := newIssuer(f, issuerURL, load(f, keyringtest.EC(f, elliptic.P256())))
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIiwidHlwIjoib3BlbnN0YWNrLWluc3RhbmNlLWRvY3VtZW50K2p3dCJ9.e30.")
	f.Fuzz(func(t *testing.T, compact string) {
		if d, err := i.VerifyDocument(compact); err == nil || !d.IsZero() {
			t.Errorf("%q is a document: %+v", compact, d)
		}
	})
}

// What a metadata agent hands out is no token, unless the operator says that the agents
// are limited.
func TestVouchedWithoutLimitedAgents(t *testing.T) {
	in := fullInstance(t)
	a := attest.Attestor{Instances: attesttest.Cloud{in.ID: in}, State: &attesttest.State{}, Denials: &attesttest.Denials{}}
	v, _, err := a.Vouch(t.Context(), in.ID, in.ProjectID)
	if err != nil {
		t.Fatal(err)
	}
	i := newIssuer(t, issuerURL, load(t, keyringtest.EC(t, elliptic.P256())))
	var denied *attest.Denied
	if tok, err := i.IssueVouched(v, []string{"keystone"}); !errors.As(err, &denied) || denied.Reason != attest.AgentsUnlimited || tok.Compact != "" {
		t.Errorf("IssueVouched = %q, %v", tok.Compact, err)
	}
	if d, err := i.IssueDocument(v, documentLife); err != nil || d.Compact == "" {
		t.Errorf("IssueDocument = %q, %v", d.Compact, err)
	}
}
