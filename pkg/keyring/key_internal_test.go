package keyring

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring/keyringtest"
)

// RFC 7638, section 3.1.
func TestThumbprintOfRFC7638(t *testing.T) {
	n, err := base64.RawURLEncoding.DecodeString("0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMs" +
		"tn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lF" +
		"d2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw")
	if err != nil {
		t.Fatal(err)
	}
	key, err := newKey(&rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := key.public.KeyID, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"; got != want {
		t.Errorf("thumbprint %s, want %s", got, want)
	}
}

// The keys here have only a length: long ones take too long to make.
func TestRSAKeysAreBounded(t *testing.T) {
	for bits, ok := range map[uint]bool{2047: false, 2048: true, 8192: true, 8193: false, 65536: false} {
		n := new(big.Int).Lsh(big.NewInt(1), bits-1)
		_, err := newKey(&rsa.PrivateKey{PublicKey: rsa.PublicKey{N: n, E: 65537}})
		if (err == nil) != ok {
			t.Errorf("%d bits: error %v, want accepted %v", bits, err, ok)
		}
	}
}

// A broken key file must be an error, not a panic, and an accepted key must be able to
// sign.
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
		if _, err := key.Signer().Sign(rand.Reader, make([]byte, crypto.SHA256.Size()), crypto.SHA256); err != nil {
			t.Errorf("an accepted key cannot sign: %v", err)
		}
		if !key.public.IsPublic() || key.public.KeyID == "" || key.public.Algorithm != key.alg || key.Algorithm() == "" {
			t.Errorf("what is published of an accepted key: %+v", key.public)
		}
	})
}

func pkcs1(key *rsa.PrivateKey) []byte {
	return keyringtest.PEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
}

func sec1(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return keyringtest.PEM("EC PRIVATE KEY", der)
}

// ecParameters is the name of the curve, which `openssl ecparam -name prime256v1 -genkey`
// writes in front of the key.
func ecParameters(t *testing.T) []byte {
	t.Helper()
	der, err := asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7})
	if err != nil {
		t.Fatal(err)
	}
	return keyringtest.PEM("EC PARAMETERS", der)
}

func TestLoadKeysRejectsBadKeys(t *testing.T) {
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	almost, err := rsa.GenerateKey(rand.Reader, 2047)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256 := keyringtest.EC(t, elliptic.P256())
	good := keyringtest.PKCS8(t, p256)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "id.example.com"}}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, p256.Public(), p256)
	if err != nil {
		t.Fatal(err)
	}
	legacy := pem.EncodeToMemory(&pem.Block{
		Type: "EC PRIVATE KEY", Bytes: make([]byte, 128),
		Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00000000000000000000000000000000"},
	})
	tests := []struct {
		name string
		data []byte
		want string // a part of the error
	}{
		{"RSA of 2047 bits", keyringtest.PKCS8(t, almost), "RSA key of 2047 bits"},
		{"RSA of 1024 bits", pkcs1(short), "RSA key of 1024 bits"},
		{"P-224", sec1(t, keyringtest.EC(t, elliptic.P224())), "curve P-224"},
		{"P-521", keyringtest.PKCS8(t, keyringtest.EC(t, elliptic.P521())), "curve P-521"},
		{"Ed25519", keyringtest.PKCS8(t, ed), "ed25519"},
		{"X25519", keyringtest.PKCS8(t, x25519), "ecdh"},
		{"an empty file", nil, "no private key in PEM"},
		{"words", []byte("this is no key\n"), "no private key in PEM"},
		{"DER", x509.MarshalPKCS1PrivateKey(keyringtest.RSA()), "no private key in PEM"},
		{"a second key behind the first", append(bytes.Clone(good), keyringtest.PKCS8(t, keyringtest.EC(t, elliptic.P256()))...), "more than one private key"},
		{"PEM without its last line", bytes.Split(good, []byte("-----END"))[0], "no private key in PEM"},
		{"parameters and no key", ecParameters(t), "no private key in PEM"},
		{"a certificate", keyringtest.PEM("CERTIFICATE", certificate), "holds a CERTIFICATE"},
		{"a certificate in front of its key", append(keyringtest.PEM("CERTIFICATE", certificate), good...), "holds a CERTIFICATE"},
		{"a public key", keyringtest.PublicPEM(t, p256), "holds a PUBLIC KEY"},
		{"a key of OpenSSH", keyringtest.PEM("OPENSSH PRIVATE KEY", []byte("openssh-key-v1\x00")), "holds a OPENSSH PRIVATE KEY"},
		{"PKCS#8 with a passphrase", keyringtest.PEM("ENCRYPTED PRIVATE KEY", make([]byte, 128)), "passphrase"},
		{"SEC1 with a passphrase", legacy, "passphrase"},
		{"SEC1 with a passphrase, after its parameters", append(ecParameters(t), legacy...), "passphrase"},
		{"nothing within PKCS#1", keyringtest.PEM("RSA PRIVATE KEY", nil), ""},
		{"nothing within SEC1", keyringtest.PEM("EC PRIVATE KEY", nil), ""},
		{"nothing within PKCS#8", keyringtest.PEM("PRIVATE KEY", nil), ""},
		{"zeros within PKCS#8", keyringtest.PEM("PRIVATE KEY", make([]byte, 128)), ""},
		{"PKCS#8 named PKCS#1", bytes.ReplaceAll(good, []byte(" PRIVATE"), []byte(" RSA PRIVATE")), ""},
		{"a key whose end is missing", keyringtest.PEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(keyringtest.RSA())[:600]), ""},
		{"a key after 64 KiB of words", append(bytes.Repeat([]byte("word\n"), 64<<10/5+1), good...), "longer than 65536 bytes"},
		{"a key of one byte more than 64 KiB", append(bytes.Clone(good), bytes.Repeat([]byte("\n"), 64<<10+1-len(good))...), "longer than 65536 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := keyringtest.File(t, tt.data)
			_, err := LoadKeys([]string{file})
			if err == nil {
				t.Fatal("was accepted")
			}
			said, ok := strings.CutPrefix(err.Error(), file+": ")
			if !ok || !strings.Contains(said, tt.want) || strings.Contains(said, file) {
				t.Errorf("error %q, want one that names the file once and says %q", err, tt.want)
			}
		})
	}
}

func TestLoadKeysRejectsBadFiles(t *testing.T) {
	dir := t.TempDir()
	key := keyringtest.File(t, keyringtest.PKCS8(t, keyringtest.EC(t, elliptic.P256())))
	same, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	again := keyringtest.File(t, same)
	eleven := make([]string, 11)
	for i := range eleven {
		eleven[i] = keyringtest.File(t, keyringtest.PKCS8(t, keyringtest.EC(t, elliptic.P256())))
	}
	missing := filepath.Join(dir, "missing.pem")
	tests := []struct {
		name  string
		files []string
		want  []string // one line each
	}{
		{"no file", nil, []string{"at least one signing key is needed"}},
		{"a missing file", []string{missing}, []string{missing + ": no such file or directory"}},
		{"a directory", []string{dir}, []string{dir + ": is a directory"}},
		{"no name", []string{""}, []string{": no such file or directory"}},
		{"one file twice", []string{key, key}, []string{key + ": is the same key as " + key}},
		{"one key in two files", []string{key, again}, []string{again + ": is the same key as " + key}},
		{"eleven keys", eleven, []string{"11 keys are more than the 10 that verifiers take"}},
		{
			"all of it at once",
			[]string{missing, key, dir, again},
			[]string{missing + ": no such file or directory", dir + ": is a directory", again + ": is the same key as " + key},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := LoadKeys(tt.files)
			if diff := cmp.Diff(strings.Join(tt.want, "\n"), fmt.Sprint(err)); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := LoadKeys(eleven[:10]); err != nil {
		t.Errorf("ten keys: %v", err)
	}
}

// The ID and the algorithm depend on the key, not on its encoding.
func TestLoadKeysAcceptsGoodKeys(t *testing.T) {
	p256, p384 := keyringtest.EC(t, elliptic.P256()), keyringtest.EC(t, elliptic.P384())
	long := keyringtest.PKCS8(t, p256)
	long = append(long, bytes.Repeat([]byte("\n"), 64<<10-len(long))...)
	tests := []struct {
		name string
		data []byte
		key  crypto.Signer
		alg  string
	}{
		{"RSA of 2048 bits in PKCS#1", pkcs1(keyringtest.RSA()), keyringtest.RSA(), "RS256"},
		{"RSA of 2048 bits in PKCS#8", keyringtest.PKCS8(t, keyringtest.RSA()), keyringtest.RSA(), "RS256"},
		{"P-256 in SEC1", sec1(t, p256), p256, "ES256"},
		{"P-256 in SEC1 after its parameters", append(ecParameters(t), sec1(t, p256)...), p256, "ES256"},
		{"P-256 in PKCS#8", keyringtest.PKCS8(t, p256), p256, "ES256"},
		{"P-384 in SEC1", sec1(t, p384), p384, "ES384"},
		{"P-384 in PKCS#8", keyringtest.PKCS8(t, p384), p384, "ES384"},
		{"a comment in front", append([]byte("the key of id.example.com\n"), keyringtest.PKCS8(t, p256)...), p256, "ES256"},
		{"lines that end as on Windows", bytes.ReplaceAll(keyringtest.PKCS8(t, p256), []byte("\n"), []byte("\r\n")), p256, "ES256"},
		{"a file of 64 KiB", long, p256, "ES256"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			keys, err := LoadKeys([]string{keyringtest.File(t, tt.data)})
			if err != nil {
				t.Fatal(err)
			}
			if n := len(keys.KeySet().Keys()); n != 1 {
				t.Fatalf("%d keys are published", n)
			}
			var published map[string]any
			if err := json.Unmarshal(keys.KeySet().Keys()[0].JWK(), &published); err != nil {
				t.Fatal(err)
			}
			got := map[string]any{}
			for _, member := range []string{"kid", "alg", "use"} {
				got[member] = published[member]
			}
			if diff := cmp.Diff(map[string]any{"kid": keyringtest.Thumbprint(t, tt.key), "alg": tt.alg, "use": "sig"}, got); diff != "" {
				t.Errorf("published key (-want +got):\n%s", diff)
			}
		})
	}
}
