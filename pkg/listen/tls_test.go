package listen_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
)

// newCertificate writes a certificate and its key.
func newCertificate(t testing.TB, name string) (files listen.TLSConfig, cert *x509.Certificate) {
	t.Helper()
	dir := t.TempDir()
	files = listen.TLSConfig{CertFile: filepath.Join(dir, "server.pem"), KeyFile: filepath.Join(dir, "server-key.pem")}
	return files, writeCertificate(t, files, name)
}

func writeCertificate(t testing.TB, files listen.TLSConfig, name string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{files.CertFile: {Type: "CERTIFICATE", Bytes: der}, files.KeyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert
}

func TestCertificateIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files, _ := newCertificate(t, "first.example.com")
		logger, log := newLog()
		get, err := listen.WatchCertificate(files, logger)
		if err != nil {
			t.Fatal(err)
		}
		clock := time.Now().Add(time.Hour) // of the files: their times move with each step
		change := func(edit func()) {
			edit()
			clock = clock.Add(time.Second)
			for _, file := range []string{files.CertFile, files.KeyFile} {
				if err := os.Chtimes(file, clock, clock); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Fatal(err)
				}
			}
		}
		expect := func(name string) {
			t.Helper()
			cert, err := get(nil)
			if err != nil || cert.Leaf.Subject.CommonName != name {
				t.Errorf("the certificate is %s's (%v), want %s's", cert.Leaf.Subject.CommonName, err, name)
			}
		}
		<-time.After(listen.CertificateAge)
		expect("first.example.com") // looked at, and as it was
		change(func() { writeCertificate(t, files, "second.example.com") })
		<-time.After(listen.CertificateAge - time.Nanosecond)
		expect("first.example.com") // not looked at yet
		<-time.After(time.Nanosecond)
		expect("second.example.com")

		for name, damage := range map[string]func(){
			"is no certificate":   func() { must(t, os.WriteFile(files.CertFile, []byte("x"), 0o600)) },
			"belongs to no key":   func() { writeCertificate(t, files, "third.example.com"); otherKey(t, files) },
			"is gone":             func() { must(t, os.Remove(files.CertFile)) },
			"is there for a half": func() { must(t, os.Truncate(files.KeyFile, 20)) },
		} {
			writeCertificate(t, files, "second.example.com")
			change(damage)
			<-time.After(listen.CertificateAge)
			expect("second.example.com")
			if !strings.Contains(log.String(), "the old one stays") {
				t.Errorf("a certificate that %s is not reported", name)
			}
		}
		change(func() { writeCertificate(t, files, "third.example.com") })
		<-time.After(listen.CertificateAge)
		expect("third.example.com")
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// otherKey puts the key of another certificate beside this one.
func otherKey(t *testing.T, files listen.TLSConfig) {
	t.Helper()
	others, _ := newCertificate(t, "x")
	must(t, os.Rename(others.KeyFile, files.KeyFile))
}
