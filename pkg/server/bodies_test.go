package server_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen/listentest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

// Only hosts in vendordata.from may send a body as long as user data can be.
func TestLongVendordataNeedsFrom(t *testing.T) {
	long := strings.Replace(novaBody, "{", `{"more":"`+strings.Repeat("a", 9<<10)+`",`, 1)
	s, _ := novaScene(t)
	if got := s.open(t).do(t, novaRequest(long)); got.status != http.StatusOK {
		t.Errorf("a host in vendordata.from: %d %s", got.status, got.body)
	}
	s.nova.From = nil
	d := s.open(t)
	d.do(t, novaRequest(long)).wants(t, http.StatusRequestEntityTooLarge, "invalid_request", "the body is longer than 8192 bytes")
	if got := d.do(t, novaRequest(novaBody)); got.status != http.StatusOK {
		t.Errorf("a short one without vendordata.from: %d %s", got.status, got.body)
	}
}

// held returns a body that stops after its first byte until release. begun is closed when
// the server has read that byte.
func held(all string) (body io.Reader, begun <-chan struct{}, release func()) {
	r, w := io.Pipe()
	read := make(chan struct{})
	go func() {
		_, _ = io.WriteString(w, all[:1])
		close(read)
	}()
	return r, read, func() {
		go func() {
			_, _ = io.WriteString(w, all[1:])
			_ = w.Close()
		}()
	}
}

// All long bodies share a budget. Beyond it a caller must retry later; short bodies, such
// as those of instances, do not count.
func TestBodiesHaveABudget(t *testing.T) {
	s, _ := novaScene(t)
	d := s.open(t)
	answers := make(chan answer, 100)
	const most = server.LargeBodies / (server.LargeCopies * server.MaxVendordata)
	var releases []func()
	for range most {
		body, begun, release := held(novaBody)
		r := novaRequest("")
		r.Body, r.ContentLength = io.NopCloser(body), server.MaxVendordata
		releases = append(releases, release)
		go func() { answers <- d.do(t, r) }()
		<-begun
	}
	long := strings.Replace(novaBody, "{", `{"more":"`+strings.Repeat("a", server.MaxVendordata-500)+`",`, 1)
	d.do(t, novaRequest(long)).wants(t, http.StatusTooManyRequests, "slow_down", "")
	if got := d.ask(t, home, webForm); got.status == http.StatusTooManyRequests {
		t.Errorf("an instance gets %d %s", got.status, got.body)
	}
	if got := d.do(t, novaRequest(novaBody)); got.status != http.StatusOK {
		t.Errorf("a short body of Nova's: %d %s", got.status, got.body)
	}
	for _, release := range releases {
		release()
	}
	for range most {
		<-answers
	}
	if got := d.do(t, novaRequest(long)); got.status != http.StatusOK {
		t.Errorf("when they are done: %d %s", got.status, got.body)
	}
}

// Headers after a body are not kept.
func TestTrailersAreNotKept(t *testing.T) {
	s := newScene(t)
	d := s.open(t)
	kept := make(chan http.Header, 1)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.ServeHTTP(w, r)
		kept <- r.Trailer
	})
	all, err := d.Listen(listenAt(t, "127.0.0.1:0"), s.tls)
	if err != nil {
		t.Fatal(err)
	}
	all[0].Handler = h
	run(t, d.logger, all...)
	conn := listentest.DialFrom(t, home, all[0].Listener.Addr().String())
	listentest.Send(t, conn, fmt.Sprintf("POST /auth HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\nTrailer: a\r\n\r\n%x\r\n%s\r\n0\r\na: b\r\n\r\n", formType, len(webForm), webForm))
	if status := readStatus(t, conn); status != http.StatusOK {
		t.Errorf("the answer is %d", status)
	}
	if got := <-kept; len(got) > 0 {
		t.Errorf("%v is kept", got)
	}
}

// Hosts of Nova get their vendordata while other clients hold all the connections that
// they can get.
func TestNovaGetsConnectionsInAFlood(t *testing.T) {
	s, _ := novaScene(t)
	s.nova.From = prefixes("127.5.0.0/16")
	address := s.open(t).serve(t)
	ours := listentest.DialFrom(t, "127.5.0.1", address)
	for i := range server.Connections + 100 {
		conn := listentest.DialFrom(t, fmt.Sprintf("127.9.%d.%d", i%200, 1+i/200), address)
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
	}
	for name, conn := range map[string]net.Conn{"that was open": ours, "that is new": listentest.DialFrom(t, "127.5.0.2", address)} {
		listentest.Send(t, conn, fmt.Sprintf("POST /vendordata HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-Auth-Token: %s\r\nContent-Length: %d\r\n\r\n%s", novaToken, len(novaBody), novaBody))
		if status := readStatus(t, conn); status != http.StatusOK {
			t.Errorf("a connection %s: the answer is %d", name, status)
		}
	}
}
