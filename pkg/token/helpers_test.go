package token_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares JSON with a file in testdata.
func golden(t *testing.T, file string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got); if that is meant, run the test with -update:\n%s", path, diff)
	}
}

// sharedRSA is one key for all tests that do not care which: RSA keys take long
// to make.
var sharedRSA = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func newEC(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func block(typ string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
}

func pkcs8(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return block("PRIVATE KEY", der)
}

func publicPEM(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return block("PUBLIC KEY", der)
}

func write(t testing.TB, data []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// load makes signing keys of private ones, in their order.
func load(t testing.TB, private ...crypto.Signer) keyring.Keys {
	t.Helper()
	var files []string
	for _, key := range private {
		files = append(files, write(t, pkcs8(t, key)))
	}
	keys, err := keyring.LoadKeys(files)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// thumbprint is RFC 7638, section 3, written out: the required members in
// lexicographic order, no white space, SHA-256.
func thumbprint(t *testing.T, key crypto.Signer) string {
	t.Helper()
	var canonical string
	switch k := key.Public().(type) {
	case *rsa.PublicKey:
		canonical = fmt.Sprintf(`{"e":%q,"kty":"RSA","n":%q}`, b64(big.NewInt(int64(k.E)).Bytes()), b64(k.N.Bytes()))
	case *ecdsa.PublicKey:
		point, err := k.Bytes() // 4, X, Y at the curve's full length
		if err != nil {
			t.Fatal(err)
		}
		size := (len(point) - 1) / 2
		canonical = fmt.Sprintf(`{"crv":%q,"kty":"EC","x":%q,"y":%q}`, k.Curve.Params().Name, b64(point[1:1+size]), b64(point[1+size:]))
	default:
		t.Fatalf("no thumbprint for a %T", k)
	}
	sum := sha256.Sum256([]byte(canonical))
	return b64(sum[:])
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// signedAt is when the tests' issuers sign.
var signedAt = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func newIssuer(t testing.TB, url string, keys keyring.Keys) *token.Issuer {
	t.Helper()
	return newIssuerByRole(t, url, keys, nil)
}

func newIssuerByRole(t testing.TB, url string, keys keyring.Keys, byRole map[attest.RoleName]token.RoleConfig) *token.Issuer {
	t.Helper()
	i, err := token.NewIssuer(token.Config{TokenIssuer: url, TokenExpiry: 10 * time.Minute}, keys, byRole, nil)
	if err != nil {
		t.Fatal(err)
	}
	i.Now = func() time.Time { return signedAt }
	return i
}

func issue(t *testing.T, i *token.Issuer, id attest.Identity) token.Token {
	t.Helper()
	tok, err := i.Issue(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// parts decodes a token without verifying it.
func parts(t *testing.T, compact string) (header, claims map[string]any) {
	t.Helper()
	p := strings.Split(compact, ".")
	if len(p) != 3 {
		t.Fatalf("%q has %d parts", compact, len(p))
	}
	for i, m := range []*map[string]any{&header, &claims} {
		raw, err := base64.RawURLEncoding.DecodeString(p[i])
		if err != nil {
			t.Fatal(err)
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if err := d.Decode(m); err != nil {
			t.Fatal(err)
		}
	}
	return header, claims
}
