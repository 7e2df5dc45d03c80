package listen_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen/listentest"
)

// A client that does not read its answer delays the handler at most until the deadline.
func TestClientsThatDoNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, done := listentest.NewPipes(), make(chan time.Duration, 1)
		h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			began := time.Now()
			_, _ = w.Write(make([]byte, 1<<20))
			done <- time.Since(began)
		})
		run(t, listen.Endpoint{Name: "instances", Listener: l, Handler: h})
		listentest.Send(t, l.Dial(t), "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if took := <-done; took != listen.WriteTimeout {
			t.Errorf("the handler was held up for %v, want %v", took, listen.WriteTimeout)
		}
	})
}

// The read deadline does not bound the handler: a CPU profile takes 30 seconds.
func TestALongHandlerIsNotCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := listentest.NewPipes()
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			select {
			case <-r.Context().Done():
				fmt.Fprint(w, "cut short")
			case <-time.After(30 * time.Second):
				fmt.Fprint(w, "complete")
			}
		})
		run(t, listen.Endpoint{Name: "admin", Listener: l, Handler: h})
		for _, request := range []string{
			"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
			"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
		} {
			conn := l.Dial(t)
			listentest.Send(t, conn, request)
			if got := body(t, conn); got != "complete" {
				t.Errorf("%.4s is %s", request, got)
			}
		}
	})
}

func TestServeFinishesRequestsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, release := listentest.NewPipes(), make(chan struct{})
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-release
			fmt.Fprint(w, r.Context().Err())
		})
		// The cause of the context's end is not an error.
		ctx, stop := context.WithCancelCause(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- listen.Serve(ctx, slog.New(slog.DiscardHandler), listen.Endpoint{Name: "instances", Listener: l, Handler: h})
		}()
		conn := l.Dial(t)
		listentest.Send(t, conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		synctest.Wait()
		stop(errors.New("enough"))
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("Serve did not wait for the request: %v", err)
		default:
		}
		if !l.Closed() {
			t.Error("new connections are still accepted")
		}
		close(release)
		if got := body(t, conn); got != "<nil>" {
			t.Errorf("the request in flight is answered %q", got)
		}
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

func TestServeStopsWaitingForRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := listentest.NewPipes()
		logger, log := newLog()
		h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- listen.Serve(ctx, logger, listen.Endpoint{Name: "instances", Listener: l, Handler: h})
		}()
		listentest.Send(t, l.Dial(t), "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		synctest.Wait()
		stop()
		began := time.Now()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if took := time.Since(began); took != listen.DrainTimeout {
			t.Errorf("Serve ended after %v, want %v", took, listen.DrainTimeout)
		}
		if !strings.Contains(log.String(), "requests were cut off") {
			t.Errorf("the log does not say that requests were cut off:\n%s", log)
		}
	})
}

func TestServeEndsWithTheFirstFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, bad := listentest.NewPipes(), listentest.NewPipes()
		ended := make(chan error, 1)
		go func() {
			ended <- listen.Serve(t.Context(), slog.New(slog.DiscardHandler),
				listen.Endpoint{Name: "instances", Listener: good, Handler: hello}, listen.Endpoint{Name: "metrics", Listener: bad, Handler: hello})
		}()
		synctest.Wait()
		_ = bad.Close() // as if the socket broke
		if err := <-ended; !errors.Is(err, net.ErrClosed) || !strings.HasPrefix(err.Error(), "metrics: ") {
			t.Errorf("Serve: %v", err)
		}
		if !good.Closed() {
			t.Error("the other endpoint still listens")
		}
	})
}

func TestServeWithAnEndedContext(t *testing.T) {
	l := listentest.NewPipes()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := listen.Serve(ctx, slog.New(slog.DiscardHandler), listen.Endpoint{Name: "instances", Listener: l, Handler: hello}); err != nil {
		t.Errorf("Serve: %v", err)
	}
	if !l.Closed() {
		t.Error("the listener is open")
	}
}
