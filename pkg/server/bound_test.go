package server_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

// Whoever opens connections and says nothing has so many and no more, and leaves
// room for others.
func TestConnectionsAreBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	balancer := netip.MustParseAddr("127.0.0.9")
	l = server.Bound(l, 7, 3, func(a netip.Addr) bool { return a == balancer })
	accepted := make(chan net.Conn, 100)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			// So that a client can tell that it was taken.
			_, _ = io.WriteString(c, "!")
			accepted <- c
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	open := func(from string, want bool) {
		t.Helper()
		conn := dialFrom(t, from, l.Addr().String())
		_, err := io.ReadFull(conn, make([]byte, 1))
		if cut := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET); (err == nil) != want || cut == want {
			t.Errorf("a connection from %s: %v, want it taken: %t", from, err, want)
		}
	}
	for range 3 {
		open("127.0.0.2", true)
	}
	for range 5 {
		open("127.0.0.2", false)
	}
	open("127.0.0.3", true)
	ours := <-accepted
	for range 2 {
		_ = ours.Close() // the second time gives nothing back
	}
	open("127.0.0.2", true)
	open("127.0.0.2", false)
	for range 3 {
		open(balancer.String(), true)
	}
	open(balancer.String(), false) // all are open
	open("127.0.0.4", false)
	_ = (<-accepted).Close()
	open(balancer.String(), true) // more than others may have
	open("127.0.0.4", false)
}

// A connection of HTTP/2 carries a few requests at a time, each of which may hold
// a body: more need more connections, and those are bounded.
func TestRequestsOfAConnectionAreBounded(t *testing.T) {
	s := newScene(t)
	s.tls, _ = newCertificate(t, "id.example.com")
	s.window.Limit = 100
	release := make(chan struct{})
	s.cloud = cloudFunc(func(context.Context) (attest.Instance, error) { <-release; return s.instance, nil })
	d := s.open(t)
	base := "https://" + d.serve(t)
	var dials atomic.Int64
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}
	t.Cleanup(client.CloseIdleConnections)
	send(t, client, http.MethodGet, base+jwks, "", nil)
	var asking sync.WaitGroup
	for n, want := range []int64{1, 1, 1, 1, 1, 1, 1, 1, 2} {
		asking.Go(func() {
			resp, err := client.Post(base+"/auth", formType, strings.NewReader(webForm))
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close()
		})
		for deadline := time.Now().Add(10 * time.Second); d.asked.Load() <= int64(n) && time.Now().Before(deadline); {
			runtime.Gosched()
		}
		if got := dials.Load(); got != want {
			t.Errorf("with %d requests there are %d connections, want %d", n+1, got, want)
		}
	}
	close(release)
	asking.Wait()
}
