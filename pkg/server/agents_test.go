package server_test

import (
	"cmp"
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
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
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
		Listen: "127.0.0.1:0", Agents: prefixes(agentAddr + "/32"), SharedSecretFile: []string{secretFile(t, secret+"\n")},
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
		{"no address, as metadata_path sends it", header("X-Forwarded-For"), 403, "agent_unsupported"},
		{"no address and another secret", func(r *http.Request) {
			r.Header.Del("X-Forwarded-For")
			r.Header.Set("X-Instance-ID-Signature", sign(webID, "other"))
		}, 403, "agent_claim_invalid"},
		{"no address and no project", func(r *http.Request) {
			r.Header.Del("X-Forwarded-For")
			r.Header.Del("X-Tenant-ID")
		}, 403, "agent_claim_invalid"},
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
			if strings.HasPrefix(string(tt.reason), "agent_") && h.asked.Load() != 0 {
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

// The requests of a client that is not an agent do not reach Nova.
func TestOnlyAgentsReachTheMetadataService(t *testing.T) {
	nova := newNova(t)
	h := newMetadataDoor(t, newScene(t), func(c *server.MetadataServiceConfig) { c.Nova = nova.URL })
	for _, from := range []string{home, "192.0.2.31", "::1", "not an address"} {
		for _, r := range []*http.Request{
			h.request(http.MethodPut, webToken), h.request(http.MethodGet, "/identity/roles"), h.request(http.MethodGet, "/latest/meta-data/"), h.request(http.MethodGet, "/identity"),
		} {
			r.RemoteAddr = from + ":4711"
			h.do(t, r).wants(t, http.StatusForbidden, "access_denied", "")
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
		{"the state is away", func(s *scene) { s.attempts = &attesttest.State{Err: errSecret} }, http.StatusInternalServerError},
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
	var first string
	for range 5 {
		r := h.request(http.MethodPut, webToken)
		r.RemoteAddr = "192.0.2.31:4711"
		first = cmp.Or(first, h.do(t, r).header.Get("X-Request-Id"))
	}
	all := h.audit.parsed(t)
	if len(all) != 2 || all[0]["request_id"] != first {
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
