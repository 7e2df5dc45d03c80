// Package keyringtest gives tests private keys and what belongs to them: PEM files,
// thumbprints, and encryption keys.
package keyringtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// RSA is a key of 2048 bits, the same one for all tests of a process: RSA keys take
// long to make.
var RSA = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// EC makes a key.
func EC(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// PEM is one block.
func PEM(typ string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
}

// PKCS8 is a private key in PEM.
func PKCS8(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return PEM("PRIVATE KEY", der)
}

// PublicPEM is the public half of a key in PEM.
func PublicPEM(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return PEM("PUBLIC KEY", der)
}

// File writes a file of mode 0600 in a new directory.
func File(t testing.TB, data []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// EncryptionKeyFile writes the 32 bytes of an encryption key to a file, in base64.
func EncryptionKeyFile(t testing.TB, key string) string {
	t.Helper()
	return File(t, []byte(base64.StdEncoding.EncodeToString([]byte(key))+"\n"))
}

// Thumbprint is RFC 7638, section 3, written out: the required members in
// lexicographic order, no white space, SHA-256.
func Thumbprint(t testing.TB, key crypto.Signer) string {
	t.Helper()
	var canonical string
	switch k := key.Public().(type) {
	case *rsa.PublicKey:
		canonical = fmt.Sprintf(`{"e":%q,"kty":"RSA","n":%q}`, Base64(big.NewInt(int64(k.E)).Bytes()), Base64(k.N.Bytes()))
	case *ecdsa.PublicKey:
		point, err := k.Bytes() // 4, X, Y at the curve's full length
		if err != nil {
			t.Fatal(err)
		}
		size := (len(point) - 1) / 2
		canonical = fmt.Sprintf(`{"crv":%q,"kty":"EC","x":%q,"y":%q}`, k.Curve.Params().Name, Base64(point[1:1+size]), Base64(point[1+size:]))
	default:
		t.Fatalf("no thumbprint for a %T", k)
	}
	sum := sha256.Sum256([]byte(canonical))
	return Base64(sum[:])
}

// Base64 is the encoding of JOSE (RFC 7515, section 2).
func Base64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
