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

// MaxHeaders is how long the headers of a request may be. Beyond four times that
// net/http cuts the connection with an answer in its own words.
const MaxHeaders = 16 << 10

// Endpoint is a listener with what it serves.
type Endpoint struct {
	Name     string // for the log
	Listener net.Listener
	Handler  http.Handler
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
			ReadHeaderTimeout: ReadHeaderTimeout, ReadTimeout: ReadTimeout, WriteTimeout: WriteTimeout, IdleTimeout: IdleTimeout,
			MaxHeaderBytes: 4 * MaxHeaders,
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
