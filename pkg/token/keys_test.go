package token_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring/keyringtest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

// keySet is the published key set as raw JSON.
func keySet(t *testing.T, i *token.Issuer) []map[string]any {
	t.Helper()
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(i.JWKS().Body, &set); err != nil {
		t.Fatal(err)
	}
	return set.Keys
}

func TestKeySetHasThePublicMembersOnly(t *testing.T) {
	p256, p384 := keyringtest.EC(t, elliptic.P256()), keyringtest.EC(t, elliptic.P384())
	keys := load(t, keyringtest.RSA(), p256, p384)
	published := keySet(t, newIssuer(t, "https://id.example.com", keys))
	ec := []string{"alg", "crv", "kid", "kty", "use", "x", "y"}
	want := [][]string{{"alg", "e", "kid", "kty", "n", "use"}, ec, ec}
	var got [][]string
	for _, key := range published {
		var members []string
		for name := range key {
			members = append(members, name)
			if slices.Contains([]string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}, name) {
				t.Errorf("the private member %q is published", name)
			}
		}
		slices.Sort(members)
		got = append(got, members)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
	// The private numbers are not there under any other name either.
	for _, key := range []*ecdsa.PrivateKey{p256, p384} {
		private, err := key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if body := newIssuer(t, "https://id.example.com", keys).JWKS().Body; bytes.Contains(body, []byte(keyringtest.Base64(private))) {
			t.Error("a private number is published")
		}
	}
	for i, key := range []crypto.Signer{keyringtest.RSA(), p256, p384} {
		if want := keyringtest.Thumbprint(t, key); published[i]["kid"] != want {
			t.Errorf("key %d has the ID %v, want %s: the order is the configuration's", i, published[i]["kid"], want)
		}
	}
}

// Volatile members are replaced by what they are.
func TestKeySetGolden(t *testing.T) {
	published := keySet(t, newIssuer(t, "https://id.example.com", load(t, keyringtest.RSA(), keyringtest.EC(t, elliptic.P256()), keyringtest.EC(t, elliptic.P384()))))
	for _, key := range published {
		for _, member := range []string{"kid", "n", "x", "y"} {
			if s, ok := key[member].(string); ok {
				key[member] = fmt.Sprintf("base64url of %d characters", len(s))
			}
		}
	}
	golden(t, "jwks.golden.json", map[string]any{"keys": published})
}
