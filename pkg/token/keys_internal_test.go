package token

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"testing"
)

// RFC 7638, section 3.1.
func TestThumbprintOfTheRFC(t *testing.T) {
	n, err := base64.RawURLEncoding.DecodeString("0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMs" +
		"tn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lF" +
		"d2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw")
	if err != nil {
		t.Fatal(err)
	}
	key, err := newSigningKey(&rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := key.public.KeyID, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"; got != want {
		t.Errorf("thumbprint %s, want %s", got, want)
	}
}

// A key too long to be made in a test, by its length alone.
func TestRSAKeysAreBounded(t *testing.T) {
	for bits, ok := range map[uint]bool{2047: false, 2048: true, 8192: true, 8193: false, 65536: false} {
		n := new(big.Int).Lsh(big.NewInt(1), bits-1)
		_, err := newSigningKey(&rsa.PrivateKey{PublicKey: rsa.PublicKey{N: n, E: 65537}})
		if (err == nil) != ok {
			t.Errorf("%d bits: error %v, want accepted %v", bits, err, ok)
		}
	}
}

// The files are the operator's; a broken one must be an error, never a panic,
// and what is accepted must be able to sign.
func FuzzParseKey(f *testing.F) {
	add := func(typ string, der []byte) {
		data := pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
		f.Add(data)
		f.Add(data[:len(data)/2])
		f.Add(append(pem.EncodeToMemory(&pem.Block{Type: pemECParams, Bytes: []byte{6, 0}}), data...))
		f.Add(bytes.ReplaceAll(data, []byte(typ), []byte("CERTIFICATE")))
	}
	for _, curve := range []elliptic.Curve{elliptic.P224(), elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			f.Fatal(err)
		}
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			f.Fatal(err)
		}
		add(pemSEC1, der)
		if der, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
			f.Fatal(err)
		}
		add(pemPKCS8, der)
	}
	for _, bits := range []int{1024, 2048} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			f.Fatal(err)
		}
		add(pemPKCS1, x509.MarshalPKCS1PrivateKey(key))
	}
	f.Add([]byte(nil))
	f.Add([]byte("this is no key\n"))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END EC PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := parseKey(data)
		if err != nil {
			return
		}
		if _, err := key.method.Sign("header.claims", key.private); err != nil {
			t.Errorf("an accepted key cannot sign: %v", err)
		}
		if !key.public.IsPublic() || key.public.KeyID == "" || key.public.Algorithm != key.method.Alg() {
			t.Errorf("what is published of an accepted key: %+v", key.public)
		}
	})
}
