package server_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen/listentest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

const (
	agentAddr = "192.0.2.30"
	secret    = "shared-secret"
)

func sign(id, secret string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(id))
	return hex.EncodeToString(mac.Sum(nil))
}

func secretFile(t testing.TB, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// metadataDoor is the door for metadata agents, with a Nova behind it.
type metadataDoor struct {
	*testServer
	config  server.MetadataServiceConfig
	handler *server.Agents
}

// newMetadataDoor serves the role web to instances behind an agent at agentAddr.
func newMetadataDoor(t testing.TB, s *scene, edit func(*server.MetadataServiceConfig)) *metadataDoor {
	t.Helper()
	s.grant.Proof = []attest.Proof{attest.ProofMetadataService}
	h := &metadataDoor{testServer: s.open(t)}
	h.config = server.MetadataServiceConfig{
		Listen: "127.0.0.1:0", Agents: []netip.Prefix{netip.MustParsePrefix(agentAddr + "/32")}, SharedSecretFile: []string{secretFile(t, secret+"\n")},
	}
	if edit != nil {
		edit(&h.config)
	}
	h.handler = server.NewAgents(parse(t, h.config), h.logger)
	h.handler.Attach(h.Server)
	return h
}

// request is the agent's request if the instance calls curl -X PUT.
func (h *metadataDoor) request(method, target string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	r.RemoteAddr = agentAddr + ":4711"
	r.Header = http.Header{
		"X-Forwarded-For": {home}, "X-Instance-Id": {webID}, "X-Tenant-Id": {project}, "X-Instance-Id-Signature": {sign(webID, secret)},
	}
	return r
}

func (h *metadataDoor) do(t testing.TB, r *http.Request) answer {
	t.Helper()
	w := httptest.NewRecorder()
	h.handler.ServeHTTP(w, r)
	return newAnswer(t, w.Result())
}

const webToken = "/identity/token?role=web"

func TestMetadataServiceGrants(t *testing.T) {
	s := newScene(t)
	s.grant.Audience = []string{"https://vault.example.com", "https://k8s.example.com"}
	s.window.Limit, s.instance.Created = 1, s.instance.Created.Add(-1000*time.Hour) // neither counts here
	h := newMetadataDoor(t, s, nil)
	got := h.do(t, h.request(http.MethodPut, webToken+"&audience=https://k8s.example.com"))
	compact := got.granted(t)
	for name, want := range map[string]any{"sub": webID, "aud": "https://k8s.example.com", "role": "web"} {
		if got := claim(t, compact, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	line := h.audit.only(t, got)
	for name, want := range map[string]any{
		"door": "metadata", "outcome": "granted", "instance_id": webID, "role": "web", "client": home, "peer": agentAddr + ":4711",
		"audience": "https://k8s.example.com", "jti": claim(t, compact, "jti"),
	} {
		if line[name] != want {
			t.Errorf("the audit line has %s %v, want %v", name, line[name], want)
		}
	}
	if got.header.Get("Cache-Control") != "no-store" {
		t.Errorf("Cache-Control is %q", got.header.Get("Cache-Control"))
	}
	bare := h.do(t, h.request(http.MethodPut, webToken+"&format=token"))
	if bare.status != http.StatusOK || strings.Count(bare.body, ".") != 2 || !strings.HasPrefix(bare.header.Get("Content-Type"), "text/plain") {
		t.Errorf("format=token: %d %s", bare.status, bare.body)
	}
	if n := h.attempts.Writes(); n != 0 {
		t.Errorf("%d attempts were counted", n)
	}
	if n := h.metric(t, `nova_authenticator_decisions_total{door="metadata",outcome="granted",reason="granted",role="web"}`); n != "2" {
		t.Errorf("%s decisions are counted", n)
	}
}

// Each row changes one thing of the claim or of the request.
func TestMetadataServiceRefuses(t *testing.T) {
	const other = "5ad2d1b0-6c1c-4a43-9f0e-3f1d5a7f0b11"
	header := func(name string, values ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header[http.CanonicalHeaderKey(name)] = values }
	}
	target := func(s string) func(*http.Request) {
		return func(r *http.Request) { *r = *r.WithContext(r.Context()); r.RequestURI = s; r.URL, _ = r.URL.Parse(s) }
	}
	method := func(m string) func(*http.Request) { return func(r *http.Request) { r.Method = m } }
	tests := []struct {
		name   string
		edit   func(*http.Request)
		status int
		reason attest.Reason
	}{
		{"no signature", header("X-Instance-ID-Signature"), 403, "agent_claim_invalid"},
		{"an empty signature", header("X-Instance-ID-Signature", ""), 403, "agent_claim_invalid"},
		{"a signature with another secret", header("X-Instance-ID-Signature", sign(webID, "other")), 403, "agent_claim_invalid"},
		{"another instance's signature", header("X-Instance-ID-Signature", sign(other, secret)), 403, "agent_claim_invalid"},
		{"half a signature", header("X-Instance-ID-Signature", sign(webID, secret)[:32]), 403, "agent_claim_invalid"},
		{"a signature and more", header("X-Instance-ID-Signature", sign(webID, secret)+"00"), 403, "agent_claim_invalid"},
		{"a signature that is not hexadecimal", header("X-Instance-ID-Signature", strings.Repeat("z", 64)), 403, "agent_claim_invalid"},
		{"two signatures", header("X-Instance-ID-Signature", sign(webID, secret), sign(webID, secret)), 403, "agent_claim_invalid"},
		{"another instance", header("X-Instance-ID", other), 403, "agent_claim_invalid"},
		{"two instances", header("X-Instance-ID", webID, other), 403, "agent_claim_invalid"},
		{"no instance", header("X-Instance-ID"), 403, "agent_claim_invalid"},
		{"an ID that is not a UUID, signed", func(r *http.Request) {
			r.Header.Set("X-Instance-ID", "web-1")
			r.Header.Set("X-Instance-ID-Signature", sign("web-1", secret))
		}, 403, "agent_claim_invalid"},
		{"another project", header("X-Tenant-ID", "other"), 403, attest.ProjectMismatch},
		{"no project", header("X-Tenant-ID"), 403, "agent_claim_invalid"},
		{"two projects", header("X-Tenant-ID", project, "other"), 403, "agent_claim_invalid"},
		{"no address", header("X-Forwarded-For"), 403, "agent_claim_invalid"},
		{"another address", header("X-Forwarded-For", "127.0.0.2"), 403, attest.AddressMismatch},
		{"two addresses", header("X-Forwarded-For", home, home), 403, "agent_claim_invalid"},
		{"two addresses in one", header("X-Forwarded-For", home+", "+home), 403, "agent_claim_invalid"},
		{"a word for an address", header("X-Forwarded-For", "unknown"), 403, "agent_claim_invalid"},
		{"a link-local address of another MAC", header("X-Forwarded-For", "fe80::1"), 403, attest.AddressMismatch},
		{"a provider's header", header("X-Metadata-Provider", "nsx"), 403, "agent_claim_invalid"},
		{"a provider's header, empty", header("X-Metadata-Provider", ""), 403, "agent_claim_invalid"},

		{"GET", method("GET"), 400, "request_invalid"},
		{"POST", method("POST"), 400, "request_invalid"},
		{"OPTIONS", method("OPTIONS"), 400, "request_invalid"},
		{"HEAD", method("HEAD"), 400, "request_invalid"},
		{"put", method("put"), 400, "request_invalid"},
		{"a body", func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("role=web")), 8 }, 400, "request_invalid"},
		{"a body of unknown length", func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("role=web")), -1 }, 400, "request_invalid"},
		{"no role", target("/identity/token"), 400, "request_invalid"},
		{"two roles", target(webToken + "&role=web"), 400, "request_invalid"},
		{"another instance in the query", target(webToken + "&instance_id=" + other), 400, "request_invalid"},
		{"a broken query", target("/identity/token?role=%zz"), 400, "request_invalid"},
		{"a malformed audience", target(webToken + "&audience=a+b"), 400, "request_invalid"},
		{"another audience", target(webToken + "&audience=vault"), 403, attest.AudienceDenied},
		{"an unknown role", target("/identity/token?role=db"), 403, attest.RoleUnknown},
		{"a format and no role", target("/identity/token?format=token"), 400, "request_invalid"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newMetadataDoor(t, newScene(t), nil)
			r := h.request(http.MethodPut, webToken)
			tt.edit(r)
			got := h.do(t, r)
			if got.status != tt.status || strings.Contains(got.body, "token\":") {
				t.Errorf("%d %s, want %d", got.status, got.body, tt.status)
			}
			series := fmt.Sprintf(`nova_authenticator_decisions_total{door="metadata",outcome="denied",reason=%q,`, tt.reason)
			if tt.status == 400 {
				series = `nova_authenticator_decisions_total{door="metadata",outcome="invalid",reason="request_invalid",`
			} else if !strings.Contains(got.body, `{"error":"access_denied","request_id":`) {
				t.Errorf("the body is %s", got.body)
			}
			if !strings.Contains(h.metrics(t), series) {
				t.Errorf("it is not counted as %s", series)
			}
			if tt.reason == "agent_claim_invalid" && h.asked.Load() != 0 {
				t.Error("the cloud was asked")
			}
		})
	}
}

// A proxy that adds its peer to the agent's header is the common mistake, and the audit
// line says so.
func TestTheAuditLineSaysWhatIsWrongWithTheAgentsAddress(t *testing.T) {
	const added = ", not one IP address: a proxy between the agent and us added its peer; in HAProxy write `option forwardfor if-none` in the frontend and in the backend"
	for name, tt := range map[string]struct {
		values []string
		want   string
	}{
		"two lines":                    {[]string{home, "192.0.2.9"}, `X-Forwarded-For is "` + home + `", "192.0.2.9"` + added},
		"two in a line":                {[]string{home + ", 192.0.2.9"}, `X-Forwarded-For is "` + home + `", "192.0.2.9"` + added},
		"many":                         {[]string{strings.Repeat(home+",", 9) + home}, `and 6 more` + added},
		"a word":                       {[]string{"unknown"}, `X-Forwarded-For is "unknown", not one IP address`},
		"a value that may be a secret": {[]string{"gAAAAABk" + strings.Repeat("0", 40)}, `X-Forwarded-For is (not shown), not one IP address`},
		"a long text":                  {[]string{strings.Repeat("1.", 4000)}, `X-Forwarded-For is (not shown), not one IP address`},
		"an empty line":                {[]string{""}, `X-Forwarded-For is empty`},
		"no line":                      {nil, `X-Forwarded-For is there 0 times`},
		"an empty line and more":       {[]string{"", home}, `X-Forwarded-For is "", "` + home + `"` + added},
	} {
		t.Run(name, func(t *testing.T) {
			h := newMetadataDoor(t, newScene(t), nil)
			r := h.request(http.MethodPut, webToken)
			r.Header["X-Forwarded-For"] = tt.values
			if got := h.do(t, r); got.status != http.StatusForbidden {
				t.Fatalf("%d %s", got.status, got.body)
			}
			line := h.audit.parsed(t)[0]
			if detail := fmt.Sprint(line["detail"]); line["reason"] != "agent_claim_invalid" || !strings.Contains(detail, tt.want) || len(detail) > 400 {
				t.Errorf("%v: %q, want %q", line["reason"], detail, tt.want)
			}
		})
	}
}

// A client that is not an agent gets only "forbidden", and its requests do not reach Nova.
func TestOnlyAgentsReachTheMetadataService(t *testing.T) {
	nova := newNova(t)
	h := newMetadataDoor(t, newScene(t), func(c *server.MetadataServiceConfig) { c.Nova = nova.URL })
	for _, from := range []string{home, "192.0.2.31", "::1", "not an address"} {
		for _, r := range []*http.Request{
			h.request(http.MethodPut, webToken), h.request(http.MethodGet, "/identity/roles"), h.request(http.MethodGet, "/latest/meta-data/"), h.request(http.MethodGet, "/identity"),
		} {
			r.RemoteAddr = from + ":4711"
			if got := h.do(t, r); got.status != http.StatusForbidden || got.body != "forbidden\n" {
				t.Errorf("%s from %s: %d %s", r.URL, from, got.status, got.body)
			}
		}
	}
	if n := nova.calls.Load(); n != 0 {
		t.Errorf("nova was asked %d times", n)
	}
	if n := h.asked.Load(); n != 0 {
		t.Errorf("the cloud was asked %d times", n)
	}
	if n := h.metric(t, "nova_authenticator_unknown_agents_total"); n != "16" {
		t.Errorf("%s clients are counted", n)
	}
}

func TestIdentityRoles(t *testing.T) {
	s := newScene(t)
	h := newMetadataDoor(t, s, nil)
	got := h.do(t, h.request(http.MethodGet, "/identity/roles"))
	if got.status != http.StatusOK || got.body != "{\"roles\":[\"web\"]}\n" {
		t.Errorf("%d %s", got.status, got.body)
	}
	for name, edit := range map[string]func(*http.Request){
		"PUT":         func(r *http.Request) { r.Method = http.MethodPut },
		"a parameter": func(r *http.Request) { r.URL.RawQuery = "role=web" },
	} {
		r := h.request(http.MethodGet, "/identity/roles")
		edit(r)
		if got := h.do(t, r); got.status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	r := h.request(http.MethodGet, "/identity/roles")
	r.Header.Set("X-Tenant-ID", "other")
	if got := h.do(t, r); got.status != http.StatusForbidden {
		t.Errorf("of another project: %d %s", got.status, got.body)
	}
	none := newScene(t)
	none.rules = attest.Rules{ProjectID: []string{"other"}}
	h = newMetadataDoor(t, none, nil)
	if got := h.do(t, h.request(http.MethodGet, "/identity/roles")); got.body != "{\"roles\":[]}\n" {
		t.Errorf("no role: %d %s", got.status, got.body)
	}
}

// All releases of the agent pass these statuses on.
func TestStatusesOfTheMetadataService(t *testing.T) {
	for _, tt := range []struct {
		name   string
		edit   func(*scene)
		status int
	}{
		{"too often", func(s *scene) { s.instances = ratelimit.Rate{Rate: 0.001, Burst: 1} }, http.StatusConflict},
		{"not yet", func(s *scene) {
			s.instance.Phase, s.instance.Launching, s.instance.Addresses = attest.PhaseSpawning, true, nil
		}, http.StatusInternalServerError},
		{"the cloud is away", func(s *scene) {
			s.cloud = cloudFunc(func(context.Context) (attest.Instance, error) { return attest.Instance{}, errors.New("away") })
		}, http.StatusInternalServerError},
		{"the state is away", func(s *scene) { s.attempts = brokenState{} }, http.StatusInternalServerError},
		{"stopped", func(s *scene) { s.instance.Phase = attest.PhaseInactive }, http.StatusForbidden},
	} {
		s := newScene(t)
		tt.edit(s)
		h := newMetadataDoor(t, s, nil)
		got := h.do(t, h.request(http.MethodPut, webToken))
		if tt.status == http.StatusConflict {
			got.granted(t)
			got = h.do(t, h.request(http.MethodPut, webToken))
		}
		if got.status != tt.status {
			t.Errorf("%s: %d %s, want %d", tt.name, got.status, got.body, tt.status)
		}
	}
}

type brokenState struct{}

func (brokenState) Count(context.Context, string) (int64, error) { return 0, errors.New("away") }
func (brokenState) Get(context.Context, string) ([]byte, error)  { return nil, errors.New("away") }
func (brokenState) Increment(context.Context, string, time.Time) (int64, error) {
	return 0, errors.New("away")
}
func (brokenState) GiveBack(context.Context, string, int64) error { return errors.New("away") }

// Both secrets are valid while the operator changes it.
func TestSharedSecretIsChanged(t *testing.T) {
	h := newMetadataDoor(t, newScene(t), func(c *server.MetadataServiceConfig) {
		c.SharedSecretFile = append(c.SharedSecretFile, secretFile(t, "next"))
	})
	for _, s := range []string{secret, "next"} {
		r := h.request(http.MethodPut, webToken)
		r.Header.Set("X-Instance-ID-Signature", sign(webID, s))
		h.do(t, r).granted(t)
	}
}

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
		c.Agents, c.Nova = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, nova
	}
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
	s.attempts = brokenState{}
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

// Behind a load balancer the PROXY header, version 2, names the agent.
func TestProxiesOfAgents(t *testing.T) {
	n := newNova(t)
	agent := netip.MustParsePrefix(agentAddr + "/32")
	behind := func(c *server.MetadataServiceConfig) {
		c.Agents, c.Proxies, c.Nova = []netip.Prefix{agent}, []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, n.URL
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
		c.Proxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.9/32")}
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

// The zero value of what Parse returns knows no agent, whatever its certificate.
func TestTheZeroMetadataServiceRefusesAll(t *testing.T) {
	zero := server.NewAgents(server.MetadataService{}, slog.New(slog.DiscardHandler))
	for _, certificates := range [][]*x509.Certificate{nil, {listentest.NewCertificate(t, "CA").Certificate}} {
		r := httptest.NewRequest(http.MethodGet, "/latest", http.NoBody)
		r.TLS = &tls.ConnectionState{PeerCertificates: certificates}
		w := httptest.NewRecorder()
		zero.ServeHTTP(w, r)
		if w.Code != http.StatusForbidden {
			t.Errorf("with %d certificates: %d", len(certificates), w.Code)
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

func TestMetadataServiceConfigProblems(t *testing.T) {
	good := func() server.MetadataServiceConfig {
		return server.MetadataServiceConfig{
			Listen: "127.0.0.1:8775", Agents: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, SharedSecretFile: []string{secretFile(t, secret)}, Nova: "http://127.0.0.1:8774/",
		}
	}
	parse(t, good())
	parse(t, server.MetadataServiceConfig{Nova: "nonsense"}) // the door is closed
	ca := listentest.NewCA(t)
	names := func(name string) func(*server.MetadataServiceConfig) {
		return func(c *server.MetadataServiceConfig) {
			c.TLS.ClientCAFile, c.TLS.ClientNames = ca.File(t), []string{name}
			c.TLS.CertFile, c.TLS.KeyFile = ca.Issue(t, "door.example.com").Files(t)
		}
	}
	for want, edit := range map[string]func(*server.MetadataServiceConfig){
		"listen: ":                               func(c *server.MetadataServiceConfig) { c.Listen = "8775" },
		"agents: is empty":                       func(c *server.MetadataServiceConfig) { c.Agents = nil },
		"agents[0]: 0.0.0.0/0 contains every":    func(c *server.MetadataServiceConfig) { c.Agents[0] = netip.MustParsePrefix("0.0.0.0/0") },
		"proxies[0]: ::/0 contains every":        func(c *server.MetadataServiceConfig) { c.Proxies = []netip.Prefix{netip.MustParsePrefix("::/0")} },
		"sharedSecretFile: is required":          func(c *server.MetadataServiceConfig) { c.SharedSecretFile = nil },
		"sharedSecretFile: none.secret: no such": func(c *server.MetadataServiceConfig) { c.SharedSecretFile = []string{"none.secret"} },
		"tls.certFile: goes with keyFile":        func(c *server.MetadataServiceConfig) { c.TLS.CertFile = "cert.pem" },
		"tls.clientNames: is empty": func(c *server.MetadataServiceConfig) {
			c.Agents, c.TLS.ClientCAFile = nil, ca.File(t)
			c.TLS.CertFile, c.TLS.KeyFile = ca.Issue(t, "door.example.com").Files(t)
		},
		"tls.clientNames: needs clientCAFile":    func(c *server.MetadataServiceConfig) { c.TLS.ClientNames = []string{agentName} },
		`tls.clientNames[0]: "*.example.com" is`: names("*.example.com"),
		`tls.clientNames[0]: "a b" is not`:       names("a b"),
		`tls.clientNames[0]: "" is not`:          names(""),
		`tls.clientNames[0]: "a.example.com."`:   names("a.example.com."),
		`tls.clientNames[0]: "spiffe://a/b" is`:  names("spiffe://a/b"),
		"tls.clientCAFile: needs certFile":       func(c *server.MetadataServiceConfig) { c.TLS.ClientCAFile = ca.File(t) },
		`nova: "127.0.0.1:8775" is not a URL`:    func(c *server.MetadataServiceConfig) { c.Nova = "127.0.0.1:8775" },
		`nova: "http://127.0.0.1:8775" is this`:  func(c *server.MetadataServiceConfig) { c.Nova = "http://" + c.Listen },
		`nova: "http://127.0.0.1/x" is not`:      func(c *server.MetadataServiceConfig) { c.Nova = "http://127.0.0.1/x" },
		"sharedSecretFile: " + os.TempDir():      func(c *server.MetadataServiceConfig) { c.SharedSecretFile = []string{secretFile(t, "\n")} },
	} {
		c := good()
		edit(&c)
		if _, err := c.Parse(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("Parse: %v, want %s", err, want)
		}
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

// Only a valid claim gets a token.
func FuzzAgentClaim(f *testing.F) {
	h := newMetadataDoor(f, newScene(f), nil)
	f.Add(webID, project, home, sign(webID, secret), "role=web")
	f.Add(strings.ToUpper(webID), project, home, sign(strings.ToUpper(webID), secret), "role=web&format=token")
	f.Add(webID, "other", "::ffff:127.0.0.1", sign(webID, "x"), "role=web&role=db")
	f.Fuzz(func(t *testing.T, id, tenant, from, signature, query string) {
		r := h.request(http.MethodPut, "/identity/token")
		r.URL.RawQuery = query
		r.Header = http.Header{"X-Forwarded-For": {from}, "X-Instance-Id": {id}, "X-Tenant-Id": {tenant}, "X-Instance-Id-Signature": {signature}}
		got := h.do(t, r)
		if got.status == http.StatusOK && (!strings.EqualFold(id, webID) || tenant != project || !strings.EqualFold(signature, sign(id, secret))) {
			t.Errorf("%q %q %q %q got a token", id, tenant, from, signature)
		}
		if got.status == http.StatusInternalServerError {
			t.Errorf("%q: 500 for what was sent", query)
		}
	})
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
