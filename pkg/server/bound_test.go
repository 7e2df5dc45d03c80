package server_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

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
