package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
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
	// CertFile is the certificate with its chain, in PEM. The server reads the
	// certificate and the key again when they change. Optional: without it the server
	// speaks plain HTTP.
	CertFile string `yaml:"certFile"`
	// KeyFile is the private key of the certificate, in PEM. Required with certFile.
	KeyFile string `yaml:"keyFile"`
}

// Certificate is a certificate and its key from files. A listener reads the files again
// when they change.
type Certificate struct{ *watched[*tls.Certificate] }

// Load reads the certificate and its key, from files of at most 1 MiB each. It returns nil
// if none is configured. The error joins all problems, each with its path.
func (c TLSConfig) Load() (*Certificate, error) {
	switch {
	case c.CertFile == "" && c.KeyFile == "":
		return nil, nil
	case c.CertFile == "" || c.KeyFile == "":
		return nil, problem.Errorf("certFile", "goes with keyFile; one of them is missing")
	}
	w, err := watch(c.read, c.CertFile, c.KeyFile)
	if err != nil {
		return nil, err
	}
	return &Certificate{w}, nil
}

func (c TLSConfig) read() (*tls.Certificate, error) {
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

// maxPEM bounds a file of certificates or of a key, in bytes.
const maxPEM = 1 << 20

// readPEM reads a file. The error says what belongs there.
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

func (l *listener) tlsConfig() *tls.Config {
	// Not HTTP/2: each of its streams can hold headers and a body, so a client could
	// make the server hold many times the memory of a connection of HTTP/1.1.
	c := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return l.options.TLS.get(l.options.Log), nil },
	}
	if l.options.ClientCAs == nil {
		return c
	}
	return l.askForCertificates(c)
}

// secureFront is a front with TLS.
type secureFront struct {
	front
	tls *tls.Conn
}

// ConnectionState does the handshake. net/http asks for it before it reads.
func (f *secureFront) ConnectionState() tls.ConnectionState {
	f.raw.member.waitFor(true)
	defer f.raw.member.waitFor(false)
	ctx, cancel := context.WithTimeout(context.Background(), ReadHeaderTimeout)
	defer cancel()
	_ = f.tls.SetDeadline(time.Now().Add(ReadHeaderTimeout))
	err := f.tls.HandshakeContext(ctx)
	var not tls.RecordHeaderError
	if errors.As(err, &not) && not.Conn != nil {
		switch string(not.RecordHeader[:]) {
		case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
			_, _ = io.WriteString(not.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
		}
	}
	if err != nil {
		_ = f.raw.Close()
	}
	_ = f.tls.SetDeadline(time.Time{})
	f.raw.gap = 0
	state := f.tls.ConnectionState()
	if state.HandshakeComplete && len(state.PeerCertificates) > 0 {
		// Not earlier: until then the client may have copied the certificate and lack the key.
		f.raw.member.prefer()
	}
	return state
}

// CertificateAge is how often a listener looks for changes of certificate files.
const CertificateAge = time.Second

// watched is a value from files. It is read again when the files change. If that fails, the
// old value stays.
type watched[T any] struct {
	files []string
	read  func() (T, error)

	mu      sync.Mutex
	value   T
	looked  time.Time
	changed []time.Time
	failed  string // the error that was logged last, "" after a success
}

func watch[T any](read func() (T, error), files ...string) (*watched[T], error) {
	w := &watched[T]{files: files, read: read}
	w.changed = w.modified()
	var err error
	w.value, err = read()
	w.looked = time.Now()
	return w, err
}

func (w *watched[T]) get(log *slog.Logger) T {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); now.Sub(w.looked) >= CertificateAge {
		w.looked = now
		w.reload(log)
	}
	return w.value
}

func (w *watched[T]) reload(log *slog.Logger) {
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
		log.Error("a certificate file changed and cannot be read: the old certificate stays in use, and the next start will fail; correct the file, and the server reads it without a restart",
			"file", w.files[0], "error", err)
		return
	}
	w.value, w.changed, w.failed = value, changed, ""
	log.Info("certificate read again", "file", w.files[0])
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
