package listen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Time-outs towards clients. A request is small and is answered within the
// cloud's time-out; nobody needs longer.
const (
	ReadHeaderTimeout = 5 * time.Second
	ReadTimeout       = 10 * time.Second
	WriteTimeout      = 35 * time.Second // a CPU profile takes 30
	IdleTimeout       = 60 * time.Second
	DrainTimeout      = 15 * time.Second
)

// MaxHeaders is how long the headers of a request may be; handlers refuse what is
// longer. What is much longer does not get as far; see [Endpoint].
const MaxHeaders = 16 << 10

// Endpoint is a listener with what it serves.
type Endpoint struct {
	Name     string // for the log
	Listener net.Listener
	Handler  http.Handler
	// TooLong returns the answer, as it goes over the wire, to a request whose
	// headers have more than [MaxHeaderLines] lines, or are much longer than
	// [MaxHeaders]. Optional: without it a short text.
	TooLong func() []byte
}

// Serve serves until ctx ends, then lets requests in flight finish. The error is
// that of the first endpoint to fail, which ends the others; nil after ctx.
func Serve(ctx context.Context, log *slog.Logger, endpoints ...Endpoint) error {
	failed := make(chan error, len(endpoints))
	var running sync.WaitGroup
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	servers := make([]*http.Server, len(endpoints))
	for i, e := range endpoints {
		s := &http.Server{
			Handler:           e.Handler,
			ReadHeaderTimeout: ReadHeaderTimeout, ReadTimeout: ReadTimeout, WriteTimeout: WriteTimeout, IdleTimeout: IdleTimeout,
			MaxHeaderBytes: MaxHeaders + headerSlack,
			Protocols:      protocols,
			ConnContext: func(ctx context.Context, c net.Conn) context.Context {
				if f := frontOf(c); f != nil && e.TooLong != nil {
					f.tooLong = e.TooLong
				}
				return withPeerUser(ctx, c)
			},
			ConnState: func(c net.Conn, state http.ConnState) {
				if f := frontOf(c); f != nil && state == http.StateIdle {
					f.next()
				}
			},
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

	drain, stop := context.WithTimeout(context.WithoutCancel(ctx), DrainTimeout)
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

// frontOf returns nil for a connection that is not one of this package's.
func frontOf(c net.Conn) *front {
	switch c := c.(type) {
	case *front:
		return c
	case *secureFront:
		return &c.front
	}
	return nil
}
