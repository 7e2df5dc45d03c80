package server_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen/listentest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

// nova is a metadata API that records its requests.
type nova struct {
	*httptest.Server
	calls atomic.Int64
	mu    sync.Mutex
	seen  []string
}

func newNova(t testing.TB) *nova {
	t.Helper()
	n := &nova{}
	n.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.calls.Add(1)
		body, _ := io.ReadAll(r.Body)
		var header bytes.Buffer
		_ = r.Header.Write(&header)
		n.mu.Lock()
		n.seen = append(n.seen, fmt.Sprintf("%s %s host=%s\n%s\n%s", r.Method, r.RequestURI, r.Host, header.String(), body))
		n.mu.Unlock()
		w.Header()["Date"], w.Header()["Content-Type"] = nil, nil
		w.Header().Set("X-Nova", "yes")
		switch r.URL.Path {
		case "/none":
			w.WriteHeader(http.StatusNotFound)
		case "/gone":
			panic(http.ErrAbortHandler)
		case "/typed":
			w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
			w.Header().Set("Date", "Tue, 24 Nov 2026 08:00:00 GMT")
		}
		_, _ = io.WriteString(w, "<html>"+r.RequestURI)
	}))
	n.Config.DisableGeneralOptionsHandler = true
	n.Start()
	t.Cleanup(n.Close)
	return n
}

func (n *nova) last() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.seen) == 0 {
		return ""
	}
	return n.seen[len(n.seen)-1]
}

// raw sends a request and returns the answer, byte for byte.
func raw(t testing.TB, address, request string) string {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(all)
}

// Nova gets the same bytes as without us, and so does the agent.
func TestNovaGetsTheSameBytes(t *testing.T) {
	n := newNova(t)
	h := newMetadataDoor(t, newScene(t), loopbackAgents(n.URL))
	at := h.serveAgents(t)
	direct := strings.TrimPrefix(n.URL, "http://")
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: 169.254.169.254\r\n",
		"GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\n",
		"GET /openstack/latest/meta_data.json?a=1&a=2;b=3&c=%zz&d=%2F&e HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nForwarded: for=1.2.3.4\r\n",
		"GET /latest/%6deta-data%2Fx//y/./../z;v=1?? HTTP/1.1\r\nHost: x\r\n",
		"GET //latest HTTP/1.1\r\nHost: x\r\n",
		"GET /a\"b<c>|d^`{}\\e HTTP/1.1\r\nHost: x\r\n",
		"GET /? HTTP/1.1\r\nHost: x\r\n",
		"GET /identitytoken HTTP/1.1\r\nHost: x\r\n",
		"GET /latest/identity/token HTTP/1.1\r\nHost: x\r\n",
		"HEAD /latest HTTP/1.1\r\nHost: x\r\n",
		"OPTIONS /latest HTTP/1.1\r\nHost: x\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n",
		"GET /none HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip, deflate\r\n",
		"GET /typed HTTP/1.1\r\nHost: x\r\nUser-Agent: curl/7\r\n",
		"POST /openstack/latest/password HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n",
		"POST /openstack/latest/password HTTP/1.1\r\nHost: x\r\nX-Metadata-Provider: nsx\r\nContent-Length: 5\r\nX-Instance-ID: a\r\nX-Instance-ID: b\r\n",
	} {
		body := ""
		if strings.HasPrefix(request, "POST") {
			body = "hello"
		}
		request += "Connection: close\r\n\r\n" + body
		want := sortedHeader(raw(t, direct, request))
		sent := n.last()
		got := sortedHeader(raw(t, at, request))
		line, _, _ := strings.Cut(request, " HTTP")
		if got != want {
			t.Errorf("%s: the agent gets\n%q, without us\n%q", line, got, want)
		}
		if got := n.last(); got != sent {
			t.Errorf("%s: nova gets\n%q, without us\n%q", line, got, sent)
		}
	}
}

// sortedHeader sorts the lines of the header: the order of different fields has no meaning
// (RFC 9110, section 5.3).
func sortedHeader(answer string) string {
	head, body, _ := strings.Cut(answer, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	slices.Sort(lines[1:])
	return strings.Join(lines, "\r\n") + "\r\n\r\n" + body
}

func TestNovaThatFails(t *testing.T) {
	n := newNova(t)
	h := newMetadataDoor(t, newScene(t), loopbackAgents(n.URL))
	at := h.serveAgents(t)
	get := "GET /gone HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	if got := raw(t, at, get); !strings.HasPrefix(got, "HTTP/1.1 500 ") {
		t.Errorf("nova breaks off: %q", got)
	}
	n.Close()
	if got := raw(t, at, get); !strings.HasPrefix(got, "HTTP/1.1 500 ") {
		t.Errorf("nova is away: %q", got)
	}
	// A token does not need Nova's metadata API.
	r := h.request(http.MethodPut, webToken)
	r.RemoteAddr = "127.0.0.1:1"
	h.do(t, r).granted(t)
}

// Requests to Nova's metadata API need neither our cloud client nor state nor keys.
func TestNovaIsReachedWithoutCloudStateAndKeys(t *testing.T) {
	n := newNova(t)
	s := newScene(t)
	s.cloud = cloudFunc(func(context.Context) (attest.Instance, error) { return attest.Instance{}, errors.New("away") })
	s.attempts = &attesttest.State{Err: errSecret}
	h := newMetadataDoor(t, s, loopbackAgents(n.URL))
	at := h.serveAgents(t)
	if got := raw(t, at, "GET /latest HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Error(got)
	}
	if h.asked.Load() != 0 {
		t.Error("the cloud was asked")
	}
}

// similarPaths are paths that a proxy could take for ours, or for Nova's although they
// are ours.
var similarPaths = []string{
	"/identity", "/identity/", "//identity/token", "/identity//token", "/identity/token/", "/identity/./token", "/identity/../identity/token",
	"/latest/../identity/token", "/./identity/token", "/%69dentity/token", "/identity/%74oken", "/identity%2ftoken", "/identity%2Ftoken", "/%2fidentity/token",
	"/latest/%2e%2e/identity/token", "/latest/%2E./identity/token", "/identity;v=1/token", "/identity/token;v=1", "/Identity/token", "/IDENTITY/TOKEN",
	`/identity\token`, `\identity/token`, "/%5cidentity/token", "/%2569dentity/token", "/%252fidentity/token", "/identity/tokens", "/identity/token%00", "/x;/../identity/token",
	"/identity/roles/", "/..//identity/roles", "/%25252569dentity/x", `/a\b/../x/../identity`, `/x/../identity\token;/`,
}

func TestPathsSimilarToOursAreNotFound(t *testing.T) {
	n := newNova(t)
	h := newMetadataDoor(t, newScene(t), loopbackAgents(n.URL))
	at := h.serveAgents(t)
	head := "X-Forwarded-For: " + home + "\r\nX-Instance-ID: " + webID + "\r\nX-Tenant-ID: " + project + "\r\nX-Instance-ID-Signature: " + sign(webID, secret) + "\r\n"
	for _, path := range similarPaths {
		for _, target := range []string{path, "http://169.254.169.254" + path} {
			got := raw(t, at, "PUT "+target+"?role=web HTTP/1.1\r\nHost: 169.254.169.254\r\n"+head+"Connection: close\r\nContent-Length: 0\r\n\r\n")
			if !strings.HasPrefix(got, "HTTP/1.1 404 ") && !strings.HasPrefix(got, "HTTP/1.1 400 ") {
				t.Errorf("%s: %.200q", target, got)
			}
		}
	}
	if c := n.calls.Load(); c != 0 {
		t.Errorf("nova got %d of them: %s", c, n.last())
	}
}

// Targets that are neither a path nor * are refused before any path is compared:
// a proxy, and Nova, could read another path in them than we do.
func TestRequestTargets(t *testing.T) {
	n := newNova(t)
	h := newMetadataDoor(t, newScene(t), loopbackAgents(n.URL))
	at := h.serveAgents(t)
	head := "X-Forwarded-For: " + home + "\r\nX-Instance-ID: " + webID + "\r\nX-Tenant-ID: " + project + "\r\nX-Instance-ID-Signature: " + sign(webID, secret) + "\r\nConnection: close\r\n\r\n"
	for _, tt := range []struct{ line, host string }{
		{"PUT http://169.254.169.254/identity/token?role=web", "169.254.169.254"},
		{"PUT http://other/identity/token?role=web", "169.254.169.254"},
		{"PUT HTTP://169.254.169.254/identity/token?role=web", "169.254.169.254"},
		{"PUT https://169.254.169.254/identity/token?role=web", "169.254.169.254"},
		{"PUT http:///identity/token?role=web", "x"},
		{"PUT http:/identity/token?role=web", "x"},
		{"PUT x:/identity/token?role=web", "x"},
		{"PUT x://a/identity/token?role=web", "x"},
		{"PUT ftp://a/identity/token?role=web", "x"},
		{"PUT http://a?/identity/token", "x"},
		{"GET http://169.254.169.254", "169.254.169.254"},
		{"GET http://169.254.169.254/latest/meta-data/", "169.254.169.254"},
		{"OPTIONS http://169.254.169.254", "169.254.169.254"},
		{"CONNECT 169.254.169.254:80", "169.254.169.254:80"},
		{"CONNECT identity/token", "x"},
		{"CONNECT http://a/identity/token", "x"},
		{"PUT identity/token?role=web", "x"},
		{"PUT ?role=web", "x"},
		{"PUT **", "x"},
		{"PUT *?role=web", "x"},
		{"PUT */identity/token?role=web", "x"},
		{"PUT \\identity/token?role=web", "x"},
		{"PUT /identity/token?role=web#", "x"},
		{"PUT /identity/token#?role=web", "x"},
		{"PUT #/identity/token?role=web", "x"},
		{"GET /latest#/identity/", "x"},
		{"PUT  /identity/token?role=web", "x"},
		{"PUT\t/identity/token?role=web", "x"},
	} {
		if got := raw(t, at, tt.line+" HTTP/1.1\r\nHost: "+tt.host+"\r\n"+head); !strings.HasPrefix(got, "HTTP/1.1 400 ") || strings.HasSuffix(got, "\r\n\r\n") {
			t.Errorf("%s: %.200q", tt.line, got)
		}
	}
	if c := n.calls.Load(); c != 0 {
		t.Errorf("nova got %d of them: %s", c, n.last())
	}
	if h.asked.Load() != 0 {
		t.Error("the cloud was asked")
	}
	if got := raw(t, at, "PUT /identity/token?role=web HTTP/1.1\r\nHost: x\r\n"+head); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("the origin form: %q", got)
	}
	for _, target := range []string{"*", "//x/latest", "/http://a/b"} {
		if got := raw(t, at, "OPTIONS "+target+" HTTP/1.1\r\nHost: x\r\n"+head); !strings.HasPrefix(got, "HTTP/1.1 200 ") || !strings.Contains(n.last(), " "+target+" ") {
			t.Errorf("%s: %q, nova got %s", target, got, n.last())
		}
	}
}

func TestWithoutNovaTheRestIsNotFound(t *testing.T) {
	h := newMetadataDoor(t, newScene(t), nil)
	if got := h.do(t, h.request(http.MethodGet, "/latest/meta-data/")); got.status != http.StatusNotFound {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// Only two paths are ours, and paths that resemble them do not reach Nova.
func FuzzIdentityPath(f *testing.F) {
	for _, p := range append(slices.Clone(similarPaths), "http://169.254.169.254/identity/token", "http:/identity/token", "x:80", "*", "/a#/identity/token", "/latest/meta-data/", "/identity/token", "/openstack/2012-08-10/user_data") {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, path string) {
		request, err := http.ReadRequest(bufio.NewReader(strings.NewReader("PUT " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")))
		if err != nil {
			return
		}
		if !server.IsOriginForm(request.RequestURI) { // 400
			if strings.HasPrefix(path, "/") && !strings.Contains(path, "#") {
				t.Errorf("%q is a path, and refused", path)
			}
			return
		}
		raw := server.RawPath(request)
		if !strings.HasPrefix(path, raw) || !strings.HasPrefix(raw, "/") {
			t.Errorf("%q is read as %q", path, raw)
		}
		ours := raw == "/identity/token" || raw == "/identity/roles"
		if clean := request.URL.JoinPath().Path; (strings.HasPrefix(clean, "/identity/") || clean == "/identity") && !ours && !server.LeadsToUs(raw) {
			t.Errorf("%q is Nova's, and cleans to %q", path, clean)
		}
	})
}

// Nova may close a connection at any time. The body of a request is not lost.
func TestNovaThatClosesItsConnections(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() { // answers once on each connection, without Connection: close
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in := bufio.NewReader(c)
				if r, err := http.ReadRequest(in); err == nil {
					_, _ = io.Copy(io.Discard, r.Body)
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
					_, _ = in.ReadByte() // until there is more, which is not answered
				}
			}()
		}
	}()
	h := newMetadataDoor(t, newScene(t), loopbackAgents("http://"+l.Addr().String()))
	at := h.serveAgents(t)
	post := "POST /openstack/latest/password HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"
	for range 3 {
		if got := raw(t, at, post); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Fatalf("%q", got)
		}
	}
}

// An answer is streamed: an agent gives up after a minute without a byte.
func TestNovaIsStreamed(t *testing.T) {
	next := make(chan struct{})
	n := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "2")
		_, _ = io.WriteString(w, "a")
		w.(http.Flusher).Flush()
		<-next
		_, _ = io.WriteString(w, "b")
	}))
	t.Cleanup(n.Close)
	h := newMetadataDoor(t, newScene(t), loopbackAgents(n.URL))
	c, err := net.Dial("tcp", h.serveAgents(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	release := sync.OnceFunc(func() { close(next) })
	defer release()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	listentest.Send(t, c, "GET /latest HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("nothing of what Nova sent: %v", err)
	}
	defer resp.Body.Close()
	first := make([]byte, 1)
	if _, err := io.ReadFull(resp.Body, first); err != nil || first[0] != 'a' {
		t.Errorf("%q, %v", first, err)
	}
	release()
}

// An agent allows a minute between bytes: it gives up on a slow Nova before the server
// does.
func TestSlowNovaIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newMetadataDoor(t, newScene(t), func(c *server.MetadataServiceConfig) { c.Nova = "http://nova.example.com" })
		proxy := server.NovaProxy("http://nova.example.com", h.logger, func(r *http.Request) (*http.Response, error) {
			in, out := io.Pipe()
			go func() {
				for range 5 {
					select {
					case <-time.After(50 * time.Second):
					case <-r.Context().Done():
						_ = out.CloseWithError(r.Context().Err())
						return
					}
					_, _ = io.WriteString(out, "x")
				}
				_ = out.Close()
			}()
			return &http.Response{StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: in, ContentLength: -1, Request: r}, nil
		})
		l := listentest.NewPipes()
		run(t, h.logger, listen.Endpoint{Name: "agents", Listener: l, Handler: proxy})
		conn := l.Dial(t)
		listentest.Send(t, conn, "GET /latest HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if got := body(t, conn); got != "xxxxx" {
			t.Errorf("the agent gets %q", got)
		}
	})
}

// The body of a request to Nova is streamed, and not kept in memory.
func TestBodiesToNovaAreStreamed(t *testing.T) {
	first := make(chan byte, 1)
	n := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b := make([]byte, 1)
		_, _ = io.ReadFull(r.Body, b)
		first <- b[0]
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	t.Cleanup(n.Close)
	h := newMetadataDoor(t, newScene(t), loopbackAgents(n.URL))
	c, err := net.Dial("tcp", h.serveAgents(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	listentest.Send(t, c, "POST /openstack/latest/password HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\na")
	select {
	case b := <-first:
		if b != 'a' {
			t.Errorf("%q", b)
		}
	case <-time.After(20 * time.Second):
		t.Error("Nova has not received the first byte")
	}
}

// BenchmarkNovaThroughUs compares requests through us with requests to Nova's metadata API
// itself: x-bare is how many times as long an answer takes, added-us by how much.
func BenchmarkNovaThroughUs(b *testing.B) {
	n := newNova(b)
	h := newMetadataDoor(b, newScene(b), loopbackAgents(n.URL))
	at := h.serveAgents(b)
	client := clientFrom(b, "127.0.0.1")
	get := func(url string) time.Duration {
		began := time.Now()
		resp, err := client.Get(url)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return time.Since(began)
	}
	var ours, bare []time.Duration
	for b.Loop() {
		bare = append(bare, get(n.URL+"/latest/meta-data/"))
		ours = append(ours, get("http://"+at+"/latest/meta-data/"))
	}
	slices.Sort(ours)
	slices.Sort(bare)
	with, without := ours[len(ours)/2], bare[len(bare)/2]
	b.ReportMetric(float64(with)/float64(without), "x-bare")
	b.ReportMetric(float64((with - without).Microseconds()), "added-us")
}
