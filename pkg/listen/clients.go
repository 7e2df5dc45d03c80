package listen

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// CAs are the certificates of CAs from a file. A listener reads the file again when it
// changes.
type CAs struct{ *watched[*x509.CertPool] }

// LoadCAs reads the certificates, in PEM, of a file of at most 1 MiB.
func LoadCAs(file string) (*CAs, error) {
	w, err := watch(func() (*x509.CertPool, error) {
		data, err := readPEM(file, "the certificates of the CAs")
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(data) {
			return nil, secret.FileError(file, errors.New("holds no certificate (PEM)"))
		}
		return pool, nil
	}, file)
	if err != nil {
		return nil, err
	}
	return &CAs{w}, nil
}

// ErrNoCertificate says that a client has no certificate.
var ErrNoCertificate = errors.New("it has no certificate")

var errClientName = errors.New("its certificate has none of the required names")

// askForCertificates makes all clients show a certificate of one of the CAs.
func (l *listener) askForCertificates(base *tls.Config) *tls.Config {
	// A resumed session could outlive the CA under which it was made.
	base.SessionTicketsDisabled = true
	base.ClientAuth = tls.RequestClientCert
	asking := base.Clone()
	asking.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		one := base.Clone()
		one.ClientCAs = l.options.ClientCAs.get(l.options.Log)
		one.VerifyConnection = func(cs tls.ConnectionState) error {
			err := verifyClient(cs.PeerCertificates, one.ClientCAs)
			if err == nil && len(l.options.ClientNames) > 0 && !hasName(cs.PeerCertificates[0], l.options.ClientNames) {
				err = errClientName
			}
			if err != nil {
				l.refused(hello.Conn.RemoteAddr().String(), err)
			}
			return err
		}
		return one, nil
	}
	return asking
}

// hasName reports whether a certificate has one of the names among the DNS names of its
// subjectAltName, without regard to case (RFC 9525, section 6.3). The common name does not
// count, and neither does a wildcard, which names no host.
func hasName(cert *x509.Certificate, names []string) bool {
	return slices.ContainsFunc(cert.DNSNames, func(has string) bool {
		return !strings.Contains(has, "*") && slices.ContainsFunc(names, func(want string) bool { return strings.EqualFold(has, want) })
	})
}

// verifyClient does what tls.RequireAndVerifyClientCert does, but its errors can be
// recorded: an agent with an expired certificate means a network without metadata.
func verifyClient(chain []*x509.Certificate, roots *x509.CertPool) error {
	if len(chain) == 0 {
		return ErrNoCertificate
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return fmt.Errorf("its certificate was rejected: %w", err)
	}
	return nil
}
