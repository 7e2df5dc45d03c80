package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"
)

// Time-outs towards clients. A request is small and is answered within the
// cloud's time-out; nobody needs longer.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = 35 * time.Second // a CPU profile takes 30
	idleTimeout       = 60 * time.Second
	maxHeader         = 4 * maxHeaders // beyond it net/http answers in its own words
	drainTimeout      = 15 * time.Second
)

// Endpoint is a listener with what it serves.
type Endpoint struct {
	Name     string // for the log
	Listener net.Listener
	Handler  http.Handler
}

// Listen opens the listener for instances and verifiers, with TLS and the PROXY
// protocol as configured. A port in use is an error here, before anything
// serves.
func Listen(address string, t TLSConfig, p ProxyConfig, log *slog.Logger) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	l = bound(l, maxConns, maxConnsOfOne, p.trusts)
	if p.Via == ViaProtocol && len(p.Trusted) > 0 {
		l = proxied(l, p.trusts)
	}
	if t.CertFile != "" {
		config, err := tlsConfig(t, log)
		if err != nil {
			_ = l.Close()
			return nil, err
		}
		l = tls.NewListener(l, config)
	}
	return l, nil
}

// proxied has those who are trusted, and nobody else, speak the PROXY protocol.
func proxied(l net.Listener, trusts func(netip.Addr) bool) *proxyproto.Listener {
	return &proxyproto.Listener{
		Listener:          l,
		ReadHeaderTimeout: readHeaderTimeout,
		ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			if trusts(addrOf(o.Upstream)) {
				return proxyproto.REQUIRE, nil
			}
			return proxyproto.SKIP, nil
		},
	}
}

func tlsConfig(files TLSConfig, log *slog.Logger) (*tls.Config, error) {
	c, err := watch(log, func() (*tls.Certificate, error) { return LoadCertificate(files) }, files.CertFile, files.KeyFile)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get(), nil },
	}, nil
}

// ListenSocket opens a Unix socket that its owner alone can use. One that a
// process left behind when it died is replaced; one that somebody serves is an
// error.
func ListenSocket(path string) (net.Listener, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if c, err := new(net.Dialer).DialContext(ctx, "unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("listen unix %s: another process serves it", path)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		// Linux refuses so, too, what is no socket; that is not ours to remove.
		info, err := os.Lstat(path)
		switch {
		case err != nil:
			return nil, err
		case info.Mode().Type() != os.ModeSocket:
			return nil, fmt.Errorf("listen unix %s: there is something that is not a socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	// Between bind and chmod anyone could connect.
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	return net.Listen("unix", path)
}

// Serve serves until ctx ends, then lets requests in flight finish. The error is
// that of the first endpoint to fail, which ends the others; nil after ctx.
func Serve(ctx context.Context, log *slog.Logger, endpoints ...Endpoint) error {
	failed := make(chan error, len(endpoints))
	var running sync.WaitGroup
	servers := make([]*http.Server, len(endpoints))
	for i, e := range endpoints {
		s := &http.Server{
			Handler:           e.Handler,
			ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
			MaxHeaderBytes: maxHeader,
			HTTP2:          &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
			ConnContext:    withPeerUser,
			// Handlers alone answer, also "OPTIONS *".
			DisableGeneralOptionsHandler: true,

			ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		}
		servers[i] = s
		running.Go(func() {
			if err := s.Serve(e.Listener); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("%s: %w", e.Name, err)
			}
		})
		log.Info("listening", "endpoint", e.Name, "address", e.Listener.Addr().String())
	}
	var failure error
	select {
	case <-ctx.Done():
	case failure = <-failed:
	}

	drain, stop := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer stop()
	for _, s := range servers {
		running.Go(func() {
			if err := s.Shutdown(drain); err != nil {
				log.Warn("requests were cut off", "error", err)
				_ = s.Close()
			}
		})
	}
	running.Wait()
	return failure
}

// LoadCertificate reads the certificate and key.
func LoadCertificate(c TLSConfig) (*tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, err
	}
	return &cert, nil
}

// certificateAge is how often the files are looked at.
const certificateAge = time.Second

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
	if now := time.Now(); now.Sub(w.looked) >= certificateAge {
		w.looked = now
		w.reload()
	}
	return w.value
}

func (w *watched[T]) reload() {
	changed := w.modified()
	if slices.Equal(changed, w.changed) {
		return
	}
	value, err := w.read()
	if err != nil {
		w.log.Error("the certificate changed and cannot be read; the old one stays", "error", err)
		return
	}
	w.value, w.changed = value, changed
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
