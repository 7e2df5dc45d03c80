package server_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen/listentest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

// Headers that are too long get an error: the client would take an empty 200 for a
// token.
func TestLongHeadersAtTheMetadataService(t *testing.T) {
	h := newMetadataDoor(t, newScene(t), nil)
	for _, target := range []string{webToken, "/identity/roles"} {
		r := h.request(http.MethodPut, target)
		r.Header.Set("X", strings.Repeat("a", 17<<10))
		if got := h.do(t, r); got.status != http.StatusBadRequest || !strings.Contains(got.body, `"error":"invalid_request"`) {
			t.Errorf("%s: %d %q", target, got.status, got.body)
		}
	}
	h.untouched(t)
}

// A client that is not an agent gets an audit line, but cannot fill the disk.
func TestClientsThatAreNotAgentsAreRecorded(t *testing.T) {
	s := newScene(t)
	s.throttle = ratelimit.Rate{Rate: 0.001, Burst: 2}
	h := newMetadataDoor(t, s, nil)
	for range 5 {
		r := h.request(http.MethodPut, webToken)
		r.RemoteAddr = "192.0.2.31:4711"
		h.do(t, r)
	}
	all := h.audit.parsed(t)
	if len(all) != 2 {
		t.Fatalf("%d lines:\n%s", len(all), h.audit)
	}
	for name, want := range map[string]any{"door": "metadata", "outcome": "denied", "reason": "agent_unknown", "client": "192.0.2.31", "peer": "192.0.2.31:4711", "instance_id": "", "role": ""} {
		if all[0][name] != want {
			t.Errorf("%s is %v, want %v", name, all[0][name], want)
		}
	}
	if n := h.metric(t, "nova_authenticator_unknown_agents_total"); n != "5" {
		t.Errorf("%s are counted", n)
	}
}

// The connection of a peer that cannot be an agent is closed at once: many of them must
// not keep the agents out.
func TestConnectionsOfOtherPeersAreClosed(t *testing.T) {
	h := newMetadataDoor(t, newScene(t), func(c *server.MetadataServiceConfig) {
		c.Agents = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	})
	at := h.serveAgents(t)
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(listen.ReadHeaderTimeout / 2))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
		t.Errorf("a peer that is not an agent keeps its connection: %d, %v", n, err)
	}
	h.audit.await(t, 1)
	if line := h.audit.parsed(t)[0]; line["reason"] != "agent_unknown" || line["client"] != "127.0.0.2" {
		t.Errorf("the line is %v", line)
	}
}

// A bad certificate is in the audit log: if an agent's certificate has expired, its
// network has no metadata.
func TestBadCertificatesAreRecorded(t *testing.T) {
	ours, foreign := listentest.NewCA(t), listentest.NewCA(t)
	h := newMetadataDoor(t, newScene(t), func(c *server.MetadataServiceConfig) {
		c.Agents, c.TLS.ClientCAFile, c.TLS.ClientNames = nil, ours.File(t), []string{agentName}
		c.TLS.CertFile, c.TLS.KeyFile = ours.Issue(t, "door.example.com").Files(t)
	})
	at := h.serveAgents(t)
	for n, by := range []*listentest.Certificate{nil, foreign} {
		if status, err := agentGet(t, at, ours, by, "/latest"); err == nil {
			t.Errorf("it is answered %d", status)
		}
		h.audit.await(t, n+1)
		if line := h.audit.parsed(t)[n]; line["reason"] != "agent_unknown" || !strings.Contains(fmt.Sprint(line["detail"]), "certificate") {
			t.Errorf("the line is %v", line)
		}
	}
}

// agentGet sends a request with a certificate of by, if that is not nil, over a new
// connection.
func agentGet(t *testing.T, at string, door, by *listentest.Certificate, target string) (int, error) {
	t.Helper()
	config := &tls.Config{RootCAs: door.Pool()}
	if by != nil {
		config.Certificates = []tls.Certificate{by.Issue(t, agentName).TLS()}
	}
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	resp, err := c.Get("https://" + at + target)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return resp.StatusCode, nil
}

// The agents' CA is read again, and a TLS session from the time of the old CA is not
// resumed.
func TestCAOfAgentsIsReadAgain(t *testing.T) {
	door, old, next := listentest.NewCA(t), listentest.NewCA(t), listentest.NewCA(t)
	file := old.File(t)
	h := newMetadataDoor(t, newScene(t), func(c *server.MetadataServiceConfig) {
		c.Agents, c.TLS.ClientCAFile, c.TLS.ClientNames = nil, file, []string{agentName}
		c.TLS.CertFile, c.TLS.KeyFile = door.Issue(t, "door.example.com").Files(t)
	})
	at := h.serveAgents(t)
	resuming := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: door.Pool(), Certificates: []tls.Certificate{old.Issue(t, agentName).TLS()}, ClientSessionCache: tls.NewLRUClientSessionCache(4)},
		DisableKeepAlives: true,
	}}
	if got := send(t, resuming, http.MethodGet, "https://"+at+"/latest", "", nil); got.status != http.StatusNotFound {
		t.Fatalf("%d", got.status)
	}
	if err := os.WriteFile(file, next.CertPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Minute)
	if err := os.Chtimes(file, later, later); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(20 * time.Second)
	for status := 0; status != http.StatusNotFound; {
		select {
		case <-deadline:
			t.Fatal("the new CA's agents are still refused")
		case <-time.After(listen.CertificateAge / 10):
		}
		status, _ = agentGet(t, at, door, next, "/latest")
	}
	if status, err := agentGet(t, at, door, old, "/latest"); err == nil {
		t.Errorf("the old CA's agents are answered %d", status)
	}
	if resp, err := resuming.Get("https://" + at + "/latest"); err == nil {
		_ = resp.Body.Close()
		t.Errorf("a session of the old CA's agent is resumed: %d", resp.StatusCode)
	}
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
	defer close(next)
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
