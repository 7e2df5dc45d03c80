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

// The deadlines of clients. A request is small, and its answer takes no longer than the
// cloud's timeout.
const (
	ReadHeaderTimeout = 5 * time.Second
	ReadTimeout       = 10 * time.Second
	IdleTimeout       = 60 * time.Second

	writeTimeout = 35 * time.Second // a CPU profile takes 30
	drainTimeout = 15 * time.Second
)

// Endpoint is a listener and its handler.
type Endpoint struct {
	Name     string // for the log
	Listener net.Listener
	Handler  http.Handler
	// Refuse returns the whole HTTP answer to a request that no handler gets: net/http
	// refuses it with status, or its headers have more than [MaxHeaderLines] lines or are
	// much longer than [MaxHeaders] (431). The connection is closed then. Optional: without
	// it the answer is a short text.
	Refuse func(status int) []byte
}

// Serve serves until ctx ends, and then lets the requests in flight finish. If an endpoint
// fails, Serve ends all of them and returns the error of the first one.
func Serve(ctx context.Context, log *slog.Logger, endpoints ...Endpoint) error {
	failed := make(chan error, len(endpoints))
	var running sync.WaitGroup
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	servers := make([]*http.Server, len(endpoints))
	for i, e := range endpoints {
		s := &http.Server{
			Handler:           e.handler(),
			ReadHeaderTimeout: ReadHeaderTimeout, ReadTimeout: ReadTimeout, WriteTimeout: writeTimeout, IdleTimeout: IdleTimeout,
			MaxHeaderBytes: MaxHeaders + headerSlack,
			Protocols:      protocols,
			ConnContext: func(ctx context.Context, c net.Conn) context.Context {
				if f := frontOf(c); f != nil {
					f.refuse = e.Refuse
					ctx = context.WithValue(ctx, frontKey{}, f)
				}
				return withPeerUser(ctx, c)
			},
			ConnState: func(c net.Conn, state http.ConnState) {
				if f := frontOf(c); f != nil && state == http.StateIdle {
					f.next()
				}
			},
			// Handlers answer everything, also "OPTIONS *".
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

// frontKey is the key of a request's [front] in its context.
type frontKey struct{}

// handler tells the connection that what net/http writes from here on is the handler's
// answer.
func (e Endpoint) handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f, ok := r.Context().Value(frontKey{}).(*front); ok {
			f.handled = true
		}
		e.Handler.ServeHTTP(w, r)
	})
}

// frontOf returns nil for a connection of another package's listener.
func frontOf(c net.Conn) *front {
	if s, ok := c.(*secureFront); ok {
		return &s.front
	}
	f, _ := c.(*front)
	return f
}
