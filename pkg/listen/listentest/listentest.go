// Package listentest gives tests certificates, listeners in memory, and connections
// from chosen addresses.
package listentest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
)

// Certificate is a certificate and its private key.
type Certificate struct {
	*x509.Certificate
	CertPEM, KeyPEM []byte

	key *ecdsa.PrivateKey
}

// NewCertificate makes a certificate that signs itself. It is for a DNS name and
// 127.0.0.1, and for clients and servers. edits change the template.
func NewCertificate(t testing.TB, name string, edits ...func(*x509.Certificate)) *Certificate {
	t.Helper()
	return issue(t, nil, name, edits)
}

// Issue makes a certificate as NewCertificate does, signed by c.
func (c *Certificate) Issue(t testing.TB, name string, edits ...func(*x509.Certificate)) *Certificate {
	t.Helper()
	return issue(t, c, name, edits)
}

func issue(t testing.TB, issuer *Certificate, name string, edits []func(*x509.Certificate)) *Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, edit := range edits {
		edit(template)
	}
	parent, by := template, key
	if issuer != nil {
		parent, by = issuer.Certificate, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
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
	return &Certificate{
		cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), key,
	}
}

// NewCA makes the certificate of a CA.
func NewCA(t testing.TB) *Certificate {
	t.Helper()
	return NewCertificate(t, "CA", func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.ExtKeyUsage, c.DNSNames, c.IPAddresses = true, x509.KeyUsageCertSign, nil, nil, nil
	})
}

// TLS returns the certificate for a tls.Config.
func (c *Certificate) TLS() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: c.key}
}

// Pool trusts the certificate.
func (c *Certificate) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.Certificate)
	return pool
}

// File writes the certificate, without its key, to a new directory.
func (c *Certificate) File(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "cert.pem")
	write(t, file, c.CertPEM)
	return file
}

// Files writes the certificate and its key to a new directory.
func (c *Certificate) Files(t testing.TB) (certFile, keyFile string) {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	c.Write(t, certFile, keyFile)
	return certFile, keyFile
}

// Load returns the certificate as a listener takes it.
func (c *Certificate) Load(t testing.TB) *listen.Certificate {
	t.Helper()
	certFile, keyFile := c.Files(t)
	loaded, err := listen.TLSConfig{CertFile: certFile, KeyFile: keyFile}.Load()
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

// Write writes the certificate and its key to files of mode 0600. The same name for
// both gives one file with both.
func (c *Certificate) Write(t testing.TB, certFile, keyFile string) {
	t.Helper()
	if certFile == keyFile {
		write(t, certFile, append(c.CertPEM[:len(c.CertPEM):len(c.CertPEM)], c.KeyPEM...))
		return
	}
	write(t, certFile, c.CertPEM)
	write(t, keyFile, c.KeyPEM)
}

func write(t testing.TB, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Pipes is a listener in memory, for tests in which time is made to pass.
type Pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

// NewPipes opens a listener.
func NewPipes() *Pipes {
	closed := make(chan struct{})
	return &Pipes{make(chan net.Conn), closed, sync.OnceFunc(func() { close(closed) })}
}

// Accept returns the next connection of Dial.
func (p *Pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (p *Pipes) Close() error { p.close(); return nil }

// Closed reports whether Close was called.
func (p *Pipes) Closed() bool {
	select {
	case <-p.closed:
		return true
	default:
		return false
	}
}

// Addr is an address on loopback, without a port.
func (p *Pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// Dial connects to the listener.
func (p *Pipes) Dial(t testing.TB) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close() })
	p.conns <- theirs
	return ours
}

// DialFrom connects from an address to a host and port, for at most ten seconds.
func DialFrom(t testing.TB, from, to string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	conn, err := dialer.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// Send writes data to a connection.
func Send(t testing.TB, w io.Writer, data string) {
	t.Helper()
	if _, err := io.WriteString(w, data); err != nil {
		t.Fatal(err)
	}
}
