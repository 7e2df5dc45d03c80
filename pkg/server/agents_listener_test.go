package server_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen/listentest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

// serveAgents serves the door at a free port of the loopback network.
func (h *metadataDoor) serveAgents(t testing.TB) string {
	t.Helper()
	e, err := h.handler.Listen()
	if err != nil {
		t.Fatal(err)
	}
	run(t, h.logger, e)
	return e.Listener.Addr().String()
}

func loopbackAgents(nova string) func(*server.MetadataServiceConfig) {
	return func(c *server.MetadataServiceConfig) {
		c.Agents, c.Nova = prefixes("127.0.0.1/32"), nova
	}
}

// Behind a load balancer the PROXY header, version 2, names the agent.
func TestProxiesOfAgents(t *testing.T) {
	n := newNova(t)
	agent := netip.MustParsePrefix(agentAddr + "/32")
	behind := func(c *server.MetadataServiceConfig) {
		c.Agents, c.Proxies, c.Nova = []netip.Prefix{agent}, prefixes("127.0.0.1/32"), n.URL
	}
	h := newMetadataDoor(t, newScene(t), behind)
	at := h.serveAgents(t)
	header := func(version byte, from string, command proxyproto.ProtocolVersionAndCommand) string {
		var b bytes.Buffer
		p := &proxyproto.Header{Version: version, Command: command, TransportProtocol: proxyproto.TCPv4,
			SourceAddr:      &net.TCPAddr{IP: net.ParseIP(from), Port: 4711},
			DestinationAddr: &net.TCPAddr{IP: net.ParseIP("192.0.2.5"), Port: 8775}}
		if _, err := p.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	const get = "GET /latest HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	for _, tt := range []struct{ name, send, want string }{
		{"the agent, by version 2", header(2, agentAddr, proxyproto.PROXY), "HTTP/1.1 200 "},
		{"another, by version 2", header(2, "192.0.2.31", proxyproto.PROXY), "HTTP/1.1 403 "},
		{"another, for the server as a whole", header(2, "192.0.2.31", proxyproto.PROXY) + "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 403 "},
		{"the balancer for itself", header(2, agentAddr, proxyproto.LOCAL), "HTTP/1.1 403 "},
		{"the agent, by version 1", header(1, agentAddr, proxyproto.PROXY), ""},
		{"no header", "", ""},
	} {
		got := func() string {
			c, err := net.Dial("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.WriteString(c, tt.send+get)
			all, _ := io.ReadAll(c) // a reset is no answer, too
			return string(all)
		}()
		if !strings.HasPrefix(got, tt.want) || (tt.want == "" && strings.Contains(got, " 200 ")) {
			t.Errorf("%s: %.100q, want %q", tt.name, got, tt.want)
		}
	}
	// The header of a peer that is not a proxy does not count.
	h = newMetadataDoor(t, newScene(t), func(c *server.MetadataServiceConfig) {
		behind(c)
		c.Proxies = prefixes("192.0.2.9/32")
	})
	c, err := net.Dial("tcp", h.serveAgents(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(c, header(2, agentAddr, proxyproto.PROXY)+get)
	all, _ := io.ReadAll(c)
	if strings.Contains(string(all), " 200 ") {
		t.Errorf("a peer that is not a proxy and names an agent is answered %q", all)
	}
}

// agentName is in the certificates of agents.
const agentName = "agent.example.com"

// A CA may sign for others as well. Only certificates with a configured name are an
// agent's.
func TestNamesOfAgents(t *testing.T) {
	ours := listentest.NewCA(t)
	n := newNova(t)
	serve := func(names ...string) string {
		return newMetadataDoor(t, newScene(t), func(c *server.MetadataServiceConfig) {
			c.Agents, c.Nova, c.TLS.ClientCAFile, c.TLS.ClientNames = nil, n.URL, ours.File(t), names
			c.TLS.CertFile, c.TLS.KeyFile = ours.Issue(t, "door.example.com").Files(t)
		}).serveAgents(t)
	}
	get := func(at string, edit func(*x509.Certificate)) int {
		t.Helper()
		c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: ours.Pool(), Certificates: []tls.Certificate{ours.Issue(t, "other.example.com", edit).TLS()}}, DisableKeepAlives: true,
		}}
		resp, err := c.Get("https://" + at + "/latest")
		if err != nil {
			return 0 // in the handshake
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	names := func(all ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.DNSNames = all }
	}
	at := serve(agentName, "second.example.com")
	for _, tt := range []struct {
		name string
		edit func(*x509.Certificate)
		want int
	}{
		{"another name", names("other.example.com"), 0},
		{"no name", names(), 0},
		{"only in its common name", func(c *x509.Certificate) { c.Subject.CommonName, c.DNSNames = agentName, nil }, 0},
		{"its common name beside another name", func(c *x509.Certificate) { c.Subject.CommonName = agentName }, 0},
		{"a wildcard", names("*.example.com"), 0},
		{"a wildcard of all", names("*"), 0},
		{"a part of a label as a wildcard", names("a*.example.com"), 0},
		{"below it", names("x." + agentName), 0},
		{"above it", names("example.com"), 0},
		{"it as a prefix", names(agentName + ".attacker.example"), 0},
		{"it as a suffix", names("not" + agentName), 0},
		{"it with a final dot", names(agentName + "."), 0},
		{"a URI", func(c *x509.Certificate) {
			c.DNSNames, c.URIs = nil, []*url.URL{{Scheme: "https", Host: agentName}}
		}, 0},
		{"an address of mail", func(c *x509.Certificate) {
			c.DNSNames, c.EmailAddresses = nil, []string{"agent@example.com", agentName}
		}, 0},
		{"it", names(agentName), http.StatusOK},
		{"the second", names("second.example.com"), http.StatusOK},
		{"it among others", names("other.example.com", agentName), http.StatusOK},
		{"it in capitals", names("AGENT.Example.com"), http.StatusOK},
		{"it, but only for servers", func(c *x509.Certificate) {
			c.DNSNames, c.ExtKeyUsage = []string{agentName}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}, 0},
	} {
		if got := get(at, tt.edit); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestCertificatesOfAgents(t *testing.T) {
	ours, foreign := listentest.NewCA(t), listentest.NewCA(t)
	n := newNova(t)
	with := func(agents ...netip.Prefix) string {
		h := newMetadataDoor(t, newScene(t), func(c *server.MetadataServiceConfig) {
			c.Agents, c.Nova, c.TLS.ClientCAFile, c.TLS.ClientNames = agents, n.URL, ours.File(t), []string{agentName}
			c.TLS.CertFile, c.TLS.KeyFile = ours.Issue(t, "door.example.com").Files(t)
		})
		return h.serveAgents(t)
	}
	get := func(at string, by *listentest.Certificate) (int, error) { return agentGet(t, at, ours, by, "/latest") }
	at := with()
	if status, err := get(at, ours); status != http.StatusOK {
		t.Errorf("an agent: %d, %v", status, err)
	}
	for name, by := range map[string]*listentest.Certificate{"no certificate": nil, "another CA's": foreign} {
		if status, err := get(at, by); err == nil {
			t.Errorf("%s: %d", name, status)
		}
	}
	// If both are set, both must match.
	if status, _ := get(with(netip.MustParsePrefix("192.0.2.30/32")), ours); status != 0 {
		t.Errorf("a certificate at another address: %d", status)
	}
	if status, err := get(with(netip.MustParsePrefix("127.0.0.1/32")), ours); status != http.StatusOK {
		t.Errorf("a certificate at its address: %d, %v", status, err)
	}
}

// The connection of a peer that cannot be an agent is closed at once: many of them must
// not keep the agents out.
func TestConnectionsOfOtherPeersAreClosed(t *testing.T) {
	h := newMetadataDoor(t, newScene(t), func(c *server.MetadataServiceConfig) {
		c.Agents = prefixes("127.0.0.1/32")
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
