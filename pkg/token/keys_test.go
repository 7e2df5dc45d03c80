package token_test

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
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

// ecParameters is what `openssl ecparam -name prime256v1 -genkey` puts in front
// of the key: the curve by its name.
func ecParameters(t *testing.T) []byte {
	t.Helper()
	der, err := asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7})
	if err != nil {
		t.Fatal(err)
	}
	return block("EC PARAMETERS", der)
}

func TestLoadKeysRefuses(t *testing.T) {
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
	p256 := newEC(t, elliptic.P256())
	good := pkcs8(t, p256)
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
		want string // what the operator reads
	}{
		{"RSA of 2047 bits", pkcs8(t, almost), "RSA key of 2047 bits"},
		{"RSA of 1024 bits", pkcs1(short), "RSA key of 1024 bits"},
		{"P-224", sec1(t, newEC(t, elliptic.P224())), "curve P-224"},
		{"P-521", pkcs8(t, newEC(t, elliptic.P521())), "curve P-521"},
		{"Ed25519", pkcs8(t, ed), "ed25519"},
		{"X25519", pkcs8(t, x25519), "ecdh"},
		{"an empty file", nil, "no private key in PEM"},
		{"words", []byte("this is no key\n"), "no private key in PEM"},
		{"DER", x509.MarshalPKCS1PrivateKey(sharedRSA()), "no private key in PEM"},
		{"a second key behind the first", append(bytes.Clone(good), pkcs8(t, newEC(t, elliptic.P256()))...), "more than one private key"},
		{"PEM without its last line", bytes.Split(good, []byte("-----END"))[0], "no private key in PEM"},
		{"parameters and no key", ecParameters(t), "no private key in PEM"},
		{"a certificate", block("CERTIFICATE", certificate), "holds a CERTIFICATE"},
		{"a certificate in front of its key", append(block("CERTIFICATE", certificate), good...), "holds a CERTIFICATE"},
		{"a public key", publicPEM(t, p256), "holds a PUBLIC KEY"},
		{"a key of OpenSSH", block("OPENSSH PRIVATE KEY", []byte("openssh-key-v1\x00")), "holds a OPENSSH PRIVATE KEY"},
		{"PKCS#8 with a passphrase", block("ENCRYPTED PRIVATE KEY", make([]byte, 128)), "passphrase"},
		{"SEC1 with a passphrase", legacy, "passphrase"},
		{"SEC1 with a passphrase, after its parameters", append(ecParameters(t), legacy...), "passphrase"},
		{"nothing within PKCS#1", block("RSA PRIVATE KEY", nil), ""},
		{"nothing within SEC1", block("EC PRIVATE KEY", nil), ""},
		{"nothing within PKCS#8", block("PRIVATE KEY", nil), ""},
		{"zeros within PKCS#8", block("PRIVATE KEY", make([]byte, 128)), ""},
		{"PKCS#8 named PKCS#1", bytes.ReplaceAll(good, []byte(" PRIVATE"), []byte(" RSA PRIVATE")), ""},
		{"a key whose end is missing", block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(sharedRSA())[:600]), ""},
		{"a key after 64 KiB of words", append(bytes.Repeat([]byte("word\n"), 64<<10/5+1), good...), "longer than 65536 bytes"},
		{"a key of one byte more than 64 KiB", append(bytes.Clone(good), bytes.Repeat([]byte("\n"), 64<<10+1-len(good))...), "longer than 65536 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := write(t, tt.data)
			_, err := token.LoadKeys([]string{file})
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

func TestLoadKeysRefusesFiles(t *testing.T) {
	dir := t.TempDir()
	key := write(t, pkcs8(t, newEC(t, elliptic.P256())))
	same, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	again := write(t, same)
	eleven := make([]string, 11)
	for i := range eleven {
		eleven[i] = write(t, pkcs8(t, newEC(t, elliptic.P256())))
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
			_, err := token.LoadKeys(tt.files)
			if diff := cmp.Diff(strings.Join(tt.want, "\n"), fmt.Sprint(err)); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := token.LoadKeys(eleven[:10]); err != nil {
		t.Errorf("ten keys: %v", err)
	}
}

// A key's ID and algorithm follow from the key, not from how it is written down.
func TestLoadKeysAccepts(t *testing.T) {
	p256, p384 := newEC(t, elliptic.P256()), newEC(t, elliptic.P384())
	long := pkcs8(t, p256)
	long = append(long, bytes.Repeat([]byte("\n"), 64<<10-len(long))...)
	tests := []struct {
		name string
		data []byte
		key  crypto.Signer
		alg  string
	}{
		{"RSA of 2048 bits in PKCS#1", pkcs1(sharedRSA()), sharedRSA(), "RS256"},
		{"RSA of 2048 bits in PKCS#8", pkcs8(t, sharedRSA()), sharedRSA(), "RS256"},
		{"P-256 in SEC1", sec1(t, p256), p256, "ES256"},
		{"P-256 in SEC1 after its parameters", append(ecParameters(t), sec1(t, p256)...), p256, "ES256"},
		{"P-256 in PKCS#8", pkcs8(t, p256), p256, "ES256"},
		{"P-384 in SEC1", sec1(t, p384), p384, "ES384"},
		{"P-384 in PKCS#8", pkcs8(t, p384), p384, "ES384"},
		{"a comment in front", append([]byte("the key of id.example.com\n"), pkcs8(t, p256)...), p256, "ES256"},
		{"lines that end as on Windows", bytes.ReplaceAll(pkcs8(t, p256), []byte("\n"), []byte("\r\n")), p256, "ES256"},
		{"a file of 64 KiB", long, p256, "ES256"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			keys, err := token.LoadKeys([]string{write(t, tt.data)})
			if err != nil {
				t.Fatal(err)
			}
			published := keySet(t, newIssuer(t, "https://id.example.com", keys))
			if len(published) != 1 {
				t.Fatalf("%d keys are published", len(published))
			}
			got := map[string]any{}
			for _, member := range []string{"kid", "alg", "use"} {
				got[member] = published[0][member]
			}
			if diff := cmp.Diff(map[string]any{"kid": thumbprint(t, tt.key), "alg": tt.alg, "use": "sig"}, got); diff != "" {
				t.Errorf("published key (-want +got):\n%s", diff)
			}
		})
	}
}

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
	p256, p384 := newEC(t, elliptic.P256()), newEC(t, elliptic.P384())
	keys := load(t, sharedRSA(), p256, p384)
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
		if body := newIssuer(t, "https://id.example.com", keys).JWKS().Body; bytes.Contains(body, []byte(b64(private))) {
			t.Error("a private number is published")
		}
	}
	for i, key := range []crypto.Signer{sharedRSA(), p256, p384} {
		if want := thumbprint(t, key); published[i]["kid"] != want {
			t.Errorf("key %d has the ID %v, want %s: the order is the configuration's", i, published[i]["kid"], want)
		}
	}
}

// Volatile members are replaced by what they are.
func TestKeySetGolden(t *testing.T) {
	published := keySet(t, newIssuer(t, "https://id.example.com", load(t, sharedRSA(), newEC(t, elliptic.P256()), newEC(t, elliptic.P384()))))
	for _, key := range published {
		for _, member := range []string{"kid", "n", "x", "y"} {
			if s, ok := key[member].(string); ok {
				key[member] = fmt.Sprintf("base64url of %d characters", len(s))
			}
		}
	}
	golden(t, "jwks.golden.json", map[string]any{"keys": published})
}
