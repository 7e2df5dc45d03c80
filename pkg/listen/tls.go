package listen

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// TLSConfig names the certificate of a listener.
type TLSConfig struct {
	// CertFile is the certificate with its chain, in PEM. It and the key are
	// read again when they change. Optional: without it plain HTTP is spoken.
	CertFile string `yaml:"certFile"`
	// KeyFile is the certificate's private key, in PEM. It goes with certFile.
	KeyFile string `yaml:"keyFile"`
}

// Validate reports every problem, each beginning with its key.
func (c TLSConfig) Validate() error {
	if (c.CertFile == "") != (c.KeyFile == "") {
		return problem.Errorf("certFile", "goes with keyFile; one of them is missing")
	}
	return nil
}

// maxPEM bounds a file of certificates or of a key, in bytes.
const maxPEM = 1 << 20

// LoadCertificate reads the certificate and key, from files of at most 1 MiB each.
// The error joins one error for each file that cannot be read, each beginning with
// its key.
func LoadCertificate(c TLSConfig) (*tls.Certificate, error) {
	chain, chainErr := readPEM(c.CertFile, "the certificate and its chain")
	key, keyErr := readPEM(c.KeyFile, "the private key of the certificate")
	if chainErr != nil || keyErr != nil {
		return nil, errors.Join(problem.At("certFile", chainErr), problem.At("keyFile", keyErr))
	}
	cert, err := tls.X509KeyPair(chain, key)
	if err != nil {
		what := strings.TrimPrefix(err.Error(), "tls: ")
		return nil, problem.At("certFile", secret.FileError(c.CertFile, fmt.Errorf("with keyFile %s: %s", c.KeyFile, what)))
	}
	return &cert, nil
}

// readPEM reads a file, and says what belongs there if it cannot be read.
func readPEM(file, what string) ([]byte, error) {
	data, err := secret.ReadFile(file, maxPEM)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: put %s there (PEM), or correct the path", err, what)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: let the user of this server read the file, and enter the folders on the way", err)
	}
	return data, err
}

// LoadCA reads the certificates, in PEM, of a file of at most 1 MiB.
func LoadCA(file string) (*x509.CertPool, error) {
	data, err := readPEM(file, "the certificates of the CAs")
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, secret.FileError(file, errors.New("holds no certificate (PEM)"))
	}
	return pool, nil
}

func tlsConfig(files TLSConfig, log *slog.Logger) (*tls.Config, error) {
	c, err := watch(log, func() (*tls.Certificate, error) { return LoadCertificate(files) }, files.CertFile, files.KeyFile)
	if err != nil {
		return nil, err
	}
	// Not HTTP/2: each of its streams can hold headers and a body, so that a client
	// could hold many times what a connection of HTTP/1.1 can.
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get(), nil },
	}, nil
}

// askForCertificates has all clients show a certificate of one of the CAs.
func (l *listener) askForCertificates(base *tls.Config) (*tls.Config, error) {
	file := l.options.ClientCAFile
	roots, err := watch(l.options.Log, func() (*x509.CertPool, error) { return LoadCA(file) }, file)
	if err != nil {
		return nil, err
	}
	// A session that is taken up again could outlive the CA it was made under.
	base.SessionTicketsDisabled = true
	base.ClientAuth = tls.RequestClientCert
	asking := base.Clone()
	asking.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		one := base.Clone()
		one.ClientCAs = roots.get()
		one.VerifyConnection = func(cs tls.ConnectionState) error {
			err := verifyClient(cs.PeerCertificates, one.ClientCAs)
			if err == nil && len(l.options.ClientNames) > 0 && !HasName(cs.PeerCertificates[0], l.options.ClientNames) {
				err = ErrClientName
			}
			if err != nil {
				l.refused(hello.Conn.RemoteAddr().String(), err)
			}
			return err
		}
		return one, nil
	}
	return asking, nil
}

// ErrNoCertificate is why a client without a certificate is refused.
var ErrNoCertificate = errors.New("it shows no certificate")

// ErrClientName is why a client is refused whose certificate has none of the names
// that are wanted.
var ErrClientName = errors.New("its certificate has none of the names that are wanted")

// HasName reports whether a certificate has one of the names among the DNS names of
// its subjectAltName, letter case aside (RFC 9525, section 6.3). Its common name does
// not count, and neither does a wildcard, which names no host.
func HasName(cert *x509.Certificate, names []string) bool {
	return slices.ContainsFunc(cert.DNSNames, func(has string) bool {
		return !strings.Contains(has, "*") && slices.ContainsFunc(names, func(want string) bool { return strings.EqualFold(has, want) })
	})
}

// verifyClient does what tls.RequireAndVerifyClientCert does, where a failure can
// be recorded: an agent whose certificate has expired is a network without
// metadata.
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
		return fmt.Errorf("its certificate is not good: %w", err)
	}
	return nil
}

// CertificateAge is how often the files of certificates are looked at.
const CertificateAge = time.Second

// watched is read again when its files change. As long as that fails the old one
// is kept.
type watched[T any] struct {
	files []string
	read  func() (T, error)
	log   *slog.Logger

	mu      sync.Mutex
	value   T
	looked  time.Time
	changed []time.Time
	failed  string // the error that was logged last, "" after a success
}

func watch[T any](log *slog.Logger, read func() (T, error), files ...string) (*watched[T], error) {
	w := &watched[T]{files: files, read: read, log: log}
	w.changed = w.modified()
	var err error
	w.value, err = read()
	w.looked = time.Now()
	return w, err
}

func (w *watched[T]) get() T {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); now.Sub(w.looked) >= CertificateAge {
		w.looked = now
		w.reload()
	}
	return w.value
}

func (w *watched[T]) reload() {
	changed := w.modified()
	if slices.Equal(changed, w.changed) && w.failed == "" {
		return
	}
	value, err := w.read()
	if err != nil {
		if w.failed == err.Error() {
			return
		}
		w.failed = err.Error()
		w.log.Error("a certificate's file changed and cannot be read: the old one stays in use, and the next start fails; put the file right, it is read again without a restart",
			"file", w.files[0], "error", err)
		return
	}
	w.value, w.changed, w.failed = value, changed, ""
	w.log.Info("certificate read again", "file", w.files[0])
}

func (w *watched[T]) modified() []time.Time {
	m := make([]time.Time, len(w.files))
	for i, file := range w.files {
		if info, err := os.Stat(file); err == nil {
			m[i] = info.ModTime()
		}
	}
	return m
}
