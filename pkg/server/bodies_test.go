package server_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

// So much memory as for user data is used only for hosts that are named as Nova's.
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

// held is a body that is held back after its first byte, which was read when begun
// is closed.
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

// Long bodies have a budget. Beyond it a caller is asked to come again; short ones,
// such as those of instances, do not wait for it.
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

// What an instance posts to Nova is passed on as it comes, and held nowhere.
func TestBodiesToNovaAreStreamed(t *testing.T) {
	first := make(chan byte, 1)
	n := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b := make([]byte, 1)
		_, _ = io.ReadFull(r.Body, b)
		first <- b[0]
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	t.Cleanup(n.Close)
	h := newHouse(t, newScene(t), loopbackAgents(n.URL))
	c, err := net.Dial("tcp", h.serveAgents(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	write(t, c, "POST /openstack/latest/password HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\na")
	select {
	case b := <-first:
		if b != 'a' {
			t.Errorf("%q", b)
		}
	case <-time.After(20 * time.Second):
		t.Error("nothing of what was sent so far reaches Nova")
	}
}
