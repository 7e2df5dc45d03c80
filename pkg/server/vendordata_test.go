package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

const (
	novaUser  = "d0fd9128b4574898af1ba8f4e7836ede"
	novaToken = "gAAAAA-nova"
	compute   = "192.0.2.40"
)

// keystone knows two tokens.
type keystone struct {
	mu    sync.Mutex
	asked int
	err   error
}

func (k *keystone) Caller(ctx context.Context, token string, from netip.Addr) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	if !from.IsValid() {
		return "", errors.New("there is no address")
	}
	if k.err != nil {
		return "", k.err
	}
	if _, ok := ctx.Deadline(); !ok {
		return "", errors.New("there is no deadline")
	}
	id, ok := map[string]string{novaToken: novaUser, "gAAAAA-member": "0123456789abcdef0123456789abcdef"}[token]
	if !ok {
		return "", &attest.Denied{Reason: attest.CallerUnknown, Detail: "keystone rejected the token"}
	}
	return id, nil
}

// novaScene is a scene in which Nova gets documents, and a document proves an instance.
func novaScene(t testing.TB) (*scene, *keystone) {
	t.Helper()
	s, k := newScene(t), &keystone{}
	s.nova = server.VendordataConfig{Users: []string{novaUser}, From: prefixes(compute + "/32"), DocumentExpiry: 5 * time.Minute, Static: map[string]string{"auth_url": "https://keystone.example.com/v3"}}
	s.callers = k
	s.grant.Proof = []attest.Proof{attest.ProofDocument}
	return s, k
}

const novaBody = `{"project-id":"` + project + `","instance-id":"` + webID + `","image-id":"44742495-68d3-4c10-8642-423ed054a9f2",` +
	`"user-data":"c2VjcmV0LXBhc3N3b3Jk","hostname":"web-1","metadata":{"role":"web"},"boot-roles":"reader,member"}`

// novaRequest is Nova's request.
func novaRequest(body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/vendordata", strings.NewReader(body))
	r.RemoteAddr = compute + ":4711"
	r.Header = http.Header{"Content-Type": {"application/json"}, "X-Auth-Token": {novaToken}, "User-Agent": {"openstack-nova-vendordata"}}
	return r
}

func (d *testServer) document(t testing.TB) string {
	t.Helper()
	got := d.do(t, novaRequest(novaBody))
	var body map[string]string
	if err := json.Unmarshal([]byte(got.body), &body); err != nil || got.status != http.StatusOK || body["document"] == "" {
		t.Fatalf("no document but %d %s", got.status, got.body)
	}
	return body["document"]
}

// listenVendordata returns the handler of the separate listener for Nova.
func (d *testServer) listenVendordata(t testing.TB) http.Handler {
	t.Helper()
	all, err := d.Listen(listenAt(t, "127.0.0.1:0"), d.scene.tls)
	if err != nil || len(all) != 2 {
		t.Fatalf("%d listeners, %v", len(all), err)
	}
	for _, e := range all {
		_ = e.Listener.Close()
	}
	return all[1].Handler
}

func TestVendordata(t *testing.T) {
	s, _ := novaScene(t)
	s.nova.Audience = []string{"https://keystone.example.com"}
	d := s.open(t)
	before := time.Now().Truncate(time.Second)
	got := d.do(t, novaRequest(novaBody))
	var body map[string]string
	if err := json.Unmarshal([]byte(got.body), &body); err != nil || got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if at, err := time.Parse(time.RFC3339, body["expires_at"]); err != nil || at.Before(before.Add(5*time.Minute)) || at.After(time.Now().Add(5*time.Minute)) {
		t.Errorf("expires_at is %q", body["expires_at"])
	}
	if claim(t, body["token"], "aud") != "https://keystone.example.com" || claim(t, body["token"], "sub") != webID || claim(t, body["token"], "role") != nil {
		t.Errorf("the token is %s", body["token"])
	}
	if strings.Count(body["document"], ".") != 2 || body["auth_url"] != "https://keystone.example.com/v3" || len(body) != 4 {
		t.Errorf("the body is %v", body)
	}
	if got.header.Get("Cache-Control") != "no-store" {
		t.Error("it may be kept")
	}
	line := d.audit.only(t, got)
	for name, want := range map[string]any{
		"door": "vendordata", "outcome": "granted", "instance_id": webID, "client": compute, "project_id": project,
		"jti": claim(t, body["token"], "jti"), "document": claim(t, body["document"], "jti"),
	} {
		if line[name] != want {
			t.Errorf("the audit line has %s %v, want %v", name, line[name], want)
		}
	}
	if all := d.audit.String() + d.log.String(); strings.Contains(all, "c2VjcmV0") || strings.Contains(all, novaToken) {
		t.Error("user data or the token is in a log")
	}
	if n := d.attempts.Writes(); n != 0 {
		t.Errorf("%d attempts were counted", n)
	}
}

func TestVendordataRefuses(t *testing.T) {
	header := func(name string, values ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header[http.CanonicalHeaderKey(name)] = values }
	}
	body := func(text string) func(*http.Request) {
		return func(r *http.Request) { *r = *novaRequest(text) }
	}
	fields := func(id, project string) func(*http.Request) {
		return body(`{"instance-id":` + id + `,"project-id":` + project + `}`)
	}
	const own, ours = `"` + webID + `"`, `"` + project + `"`
	tests := []struct {
		name   string
		edit   func(*http.Request)
		status int
		asks   bool // Keystone
	}{
		{"no token", header("X-Auth-Token"), 401, false},
		{"an empty token", header("X-Auth-Token", ""), 401, false},
		{"two tokens", header("X-Auth-Token", novaToken, novaToken), 401, false},
		{"a token that is far too long", header("X-Auth-Token", strings.Repeat("a", 9<<10)), 401, false},
		{"a token with a blank", header("X-Auth-Token", novaToken+" "), 401, false},
		{"a token that is not ASCII", header("X-Auth-Token", "gAAAAA\xff\xfe"), 401, false},
		{"an invalid token", header("X-Auth-Token", "gAAAAA-garbage"), 401, true},
		{"a member's token", header("X-Auth-Token", "gAAAAA-member"), 403, true},
		{"no token, but the headers that Keystone's middleware adds", func(r *http.Request) {
			r.Header = http.Header{"Content-Type": {"application/json"}, "X-Identity-Status": {"Confirmed"}, "X-User-Id": {novaUser}}
		}, 401, false},

		{"another project's instance", fields(own, `"c0ffee00c0ffee00c0ffee00c0ffee00"`), 403, true},
		{"an instance that does not exist", fields(`"11111111-2222-4333-8444-555555555555"`, ours), 403, true},
		{"an ID that is not a UUID", fields(`"web-1"`, ours), 400, true},
		{"an ID with a path", fields(`"../servers/detail"`, ours), 400, true},
		{"a number for an ID", fields("1", ours), 400, true},
		{"a list for an ID", fields("["+own+"]", ours), 400, true},
		{"null for an ID", fields("null", ours), 400, true},
		{"no ID", body(`{"project-id":` + ours + `}`), 400, true},
		{"an ID by another name", body(`{"Instance-Id":` + own + `,"project-id":` + ours + `}`), 400, true},
		{"no project", body(`{"instance-id":` + own + `}`), 400, true},
		{"an empty project", fields(own, `""`), 400, true},
		{"a project of the wrong kind", fields(own, "{}"), 400, true},
		{"a project that is far too long", fields(own, `"`+strings.Repeat("a", 65)+`"`), 400, true},
		{"NaN", fields(own, "NaN"), 400, true},
		{"a list", body("[" + novaBody + "]"), 400, true},
		{"null", body("null"), 400, true},
		{"nothing", body(""), 400, true},
		{"two objects", body(novaBody + novaBody), 400, true},
		{"nested very deep", body(strings.Repeat(`{"a":`, 20_000)), 400, true},
		{"nested deep in a field", body(`{"metadata":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`), 400, true},
		{"a form", header("Content-Type", "application/x-www-form-urlencoded"), 415, false},
		{"no type", header("Content-Type"), 415, false},
		{"64 MiB, announced", func(r *http.Request) { r.ContentLength = 64 << 20 }, 413, false},
		{"64 MiB", func(r *http.Request) {
			*r = *novaRequest(`{"user-data":"` + strings.Repeat("a", 64<<20) + `"}`)
			r.ContentLength = -1
		}, 413, true},
		{"GET", func(r *http.Request) { r.Method = http.MethodGet }, 405, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, k := novaScene(t)
			d := s.open(t)
			r := novaRequest(novaBody)
			tt.edit(r)
			got := d.do(t, r)
			if got.status != tt.status || strings.Contains(got.body, "document\":") {
				t.Errorf("%d %s, want %d", got.status, got.body, tt.status)
			}
			if (k.asked > 0) != tt.asks {
				t.Errorf("Keystone was asked %d times", k.asked)
			}
			if (!tt.asks || tt.status != http.StatusForbidden) && d.asked.Load() != 0 {
				t.Error("Nova was asked")
			}
		})
	}
}

func TestVendordataFailures(t *testing.T) {
	for name, tt := range map[string]struct {
		edit   func(*scene, *keystone)
		status int
	}{
		"Keystone is away": {func(_ *scene, k *keystone) { k.err = errors.New("away") }, 503},
		"Nova is away": {func(s *scene, _ *keystone) {
			s.cloud = cloudFunc(func(context.Context) (attest.Instance, error) { return attest.Instance{}, errors.New("away") })
		}, 503},
		"Nova does not answer": {func(s *scene, _ *keystone) {
			s.cloud = cloudFunc(func(ctx context.Context) (attest.Instance, error) {
				<-ctx.Done()
				return attest.Instance{}, ctx.Err()
			})
		}, 503},
		"the state is away":                    {func(s *scene, _ *keystone) { s.attempts = &attesttest.State{Err: errSecret} }, 503},
		"it is built":                          {func(s *scene, _ *keystone) { s.instance.Phase, s.instance.Addresses = attest.PhaseBuilding, nil }, 200},
		"it is in ERROR":                       {func(s *scene, _ *keystone) { s.instance.Phase = attest.PhaseInactive }, 403},
		"the caller is not in vendordata.from": {func(s *scene, _ *keystone) { s.nova.From = prefixes("192.0.2.41/32") }, 403},
		"the caller is in vendordata.from":     {func(s *scene, _ *keystone) { s.nova.From = prefixes(compute + "/32") }, 200},
		"the door is closed":                   {func(s *scene, _ *keystone) { s.nova.Users = nil }, 404},
		"it has a separate listener":           {func(s *scene, _ *keystone) { s.nova.Listen = "127.0.0.1:1" }, 404},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, k := novaScene(t)
				tt.edit(s, k)
				if got := s.open(t).do(t, novaRequest(novaBody)); got.status != tt.status {
					t.Errorf("%d %s, want %d", got.status, got.body, tt.status)
				}
			})
		})
	}
}

func TestVendordataListener(t *testing.T) {
	s, _ := novaScene(t)
	s.nova.Listen = "127.0.0.1:0"
	h := s.open(t).listenVendordata(t)
	for _, tt := range []struct {
		method, path string
		status       int
	}{
		{http.MethodPost, "/vendordata", 200}, {http.MethodGet, "/vendordata", 405}, {http.MethodPost, "/auth", 404}, {http.MethodPost, "/", 404}, {http.MethodGet, "/.well-known/jwks.json", 404},
	} {
		r, w := novaRequest(novaBody), httptest.NewRecorder()
		r.Method, r.URL.Path = tt.method, tt.path
		h.ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%s %s: %d %s, want %d", tt.method, tt.path, w.Code, w.Body, tt.status)
		}
	}
}

// A document proves its instance from any address, until it expires.
func TestDocumentAtAuth(t *testing.T) {
	s, _ := novaScene(t)
	s.window.Limit = 2
	d := s.open(t)
	document := d.document(t)
	const elsewhere = "198.51.100.7"
	got := d.ask(t, elsewhere, form("role", "web", "document", document))
	compact := got.granted(t)
	if diff := cmp.Diff([]any{"document"}, claim(t, compact, "amr")); diff != "" {
		t.Errorf("amr (-want +got):\n%s", diff)
	}
	line := d.audit.only(t, got)
	if line["document"] != claim(t, document, "jti") || line["client"] != elsewhere || line["attempt"] != 1.0 {
		t.Errorf("the audit line is %v", line)
	}
	d.ask(t, elsewhere, form("role", "web", "document", document, "instance_id", strings.ToUpper(webID))).granted(t)
	d.ask(t, elsewhere, form("role", "web", "document", document)).wants(t, http.StatusForbidden, "access_denied", "")
	d.ask(t, elsewhere, form("role", "web", "document", d.document(t))).granted(t)
	json := d.do(t, func() *http.Request {
		r := d.request(elsewhere, `{"role":"web","document":"`+d.document(t)+`"}`)
		r.Header.Set("Content-Type", jsonType)
		return r
	}())
	json.granted(t)
}

func TestInvalidDocumentsAtAuth(t *testing.T) {
	const other = "5ad2d1b0-6c1c-4a43-9f0e-3f1d5a7f0b11"
	s, _ := novaScene(t)
	d := s.open(t)
	document := d.document(t)
	s.audit = nil
	for name, tt := range map[string]struct {
		form        string
		status      int
		word, about string
	}{
		"garbage":                         {form("role", "web", "document", "garbage"), 403, "access_denied", ""},
		"changed":                         {form("role", "web", "document", document[:len(document)-4]+"AAAA"), 403, "access_denied", ""},
		"a role token":                    {form("role", "web", "document", d.ask(t, "198.51.100.7", form("role", "web", "document", document)).granted(t)), 403, "access_denied", ""},
		"with another instance's ID":      {form("role", "web", "document", document, "instance_id", other), 403, "access_denied", ""},
		"empty":                           {form("role", "web", "document", ""), 400, "invalid_request", "document: is empty"},
		"twice":                           {form("role", "web", "document", document) + "&document=" + document, 400, "invalid_request", `field "document" is there 2 times`},
		"with an ID that is not a UUID":   {form("role", "web", "document", document, "instance_id", "web-1"), 400, "invalid_request", badID},
		"none, for a role that needs one": {form("role", "web", "instance_id", webID), 403, "access_denied", ""},
	} {
		t.Run(name, func(t *testing.T) {
			d.ask(t, "198.51.100.7", tt.form).wants(t, tt.status, tt.word, tt.about)
		})
	}
}

func FuzzVendordata(f *testing.F) {
	s, _ := novaScene(f)
	d := s.open(f)
	f.Add(novaBody)
	f.Add(`{"instance-id":1}`)
	f.Add(strings.Repeat(`{"a":`, 100))
	f.Fuzz(func(t *testing.T, body string) {
		got := d.do(t, novaRequest(body))
		if got.status >= 500 && got.status != 503 {
			t.Errorf("%d for %q", got.status, body)
		}
		if got.status == http.StatusOK {
			var v map[string]json.RawMessage
			if json.Unmarshal([]byte(body), &v) != nil || !strings.EqualFold(string(v["instance-id"]), fmt.Sprintf("%q", webID)) {
				t.Errorf("a document for %q", body)
			}
		}
	})
}

// unread is a body that must not be read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body is read")
	return 0, io.EOF
}

// The server reads no body of a caller that is not Nova, and bounds the audit lines about
// it.
func TestOtherCallersAtVendordata(t *testing.T) {
	for name, tt := range map[string]struct {
		edit   func(*scene, *keystone, *http.Request)
		status int
	}{
		"without a token":       {func(_ *scene, _ *keystone, r *http.Request) { r.Header.Del("X-Auth-Token") }, 401},
		"with garbage":          {func(_ *scene, _ *keystone, r *http.Request) { r.Header.Set("X-Auth-Token", "gAAAAA-garbage") }, 401},
		"with a member's token": {func(_ *scene, _ *keystone, r *http.Request) { r.Header.Set("X-Auth-Token", "gAAAAA-member") }, 403},
		"from elsewhere": {func(s *scene, _ *keystone, _ *http.Request) {
			s.nova.From = prefixes("192.0.2.41/32")
		}, 403},
		"when Keystone is away": {func(_ *scene, k *keystone, _ *http.Request) { k.err = errors.New("away") }, 503},
	} {
		t.Run(name, func(t *testing.T) {
			s, k := novaScene(t)
			r := novaRequest(novaBody)
			tt.edit(s, k, r)
			s.throttle = ratelimit.Rate{Rate: 0.001, Burst: 2}
			d := s.open(t)
			for i, want := range []int{tt.status, tt.status, 429, 429, 429} {
				again := r.Clone(t.Context())
				again.Body = io.NopCloser(unread{t})
				got := d.do(t, again)
				if got.status != want {
					t.Errorf("call %d: %d %s, want %d", i, got.status, got.body, want)
				}
				if challenge := got.header.Get("WWW-Authenticate"); (challenge != "") != (want == 401) {
					t.Errorf("with status %d the challenge is %q", want, challenge)
				}
			}
			if n := len(d.audit.parsed(t)); n != 2 {
				t.Errorf("there are %d audit lines", n)
			}
		})
	}
}

func TestTooManyTokensAtVendordata(t *testing.T) {
	s, k := novaScene(t)
	k.err = &attest.Failure{Reason: attest.ThrottledCallers, Err: errors.New("too many")}
	d := s.open(t)
	d.do(t, novaRequest(novaBody)).wants(t, http.StatusTooManyRequests, "slow_down", "")
	if text := d.audit.String(); text != "" {
		t.Errorf("the audit log has %s", text)
	}
	if n := d.metric(t, `nova_authenticator_throttled_total{by="callers"}`); n != "1" {
		t.Errorf("%s were counted", n)
	}
}

// Nova's quota allows 128 pairs of 255 characters, and JSON writes twelve bytes
// for some.
func TestVendordataOfMuchMetadata(t *testing.T) {
	s, _ := novaScene(t)
	d := s.open(t)
	long := strings.Repeat(`\ud83d\ude00`, 250)
	pairs := make([]string, 128)
	for i := range pairs {
		pairs[i] = fmt.Sprintf(`"%s%d":"%s"`, long, i, long)
	}
	body := `{"project-id":"` + project + `","instance-id":"` + webID + `","metadata":{` + strings.Join(pairs, ",") + `},"user-data":"` + strings.Repeat("A", 65535) + `"}`
	if got := d.do(t, novaRequest(body)); got.status != http.StatusOK {
		t.Errorf("%d bytes: %d %s", len(body), got.status, got.body)
	}
}

// Users of the original tool expect that expires_at is that of the token.
func TestVendordataExpiry(t *testing.T) {
	s, _ := novaScene(t)
	s.nova.Audience, s.nova.DocumentExpiry = []string{"https://keystone.example.com"}, time.Hour // the token's is 10m
	got := s.open(t).do(t, novaRequest(novaBody))
	var body map[string]string
	if err := json.Unmarshal([]byte(got.body), &body); err != nil {
		t.Fatal(err)
	}
	at, err := time.Parse(time.RFC3339, body["expires_at"])
	if err != nil || float64(at.Unix()) != claim(t, body["token"], "exp") {
		t.Errorf("expires_at is %s, the token expires at %v", body["expires_at"], claim(t, body["token"], "exp"))
	}
}

type broken struct{}

func (broken) Caller(context.Context, string, netip.Addr) (string, error) { panic("broken") }

func TestVendordataPanic(t *testing.T) {
	s, _ := novaScene(t)
	s.callers = broken{}
	together := s.open(t)
	s.nova.Listen = "127.0.0.1:0"
	for name, h := range map[string]http.Handler{"for Nova": s.open(t).listenVendordata(t), "for all": together} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, novaRequest(novaBody))
		if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "server_error") {
			t.Errorf("a listener %s: %d %s", name, w.Code, w.Body)
		}
	}
}

// Nova makes a config drive before the launch is complete, also a later launch. The system
// before a rebuild must not be able to use the document of the next one.
func TestDocumentFromBeforeALaunch(t *testing.T) {
	for _, tt := range []struct {
		name      string
		phase     attest.Phase
		launching bool
		launched  time.Duration // before the document
		ends      time.Duration // after it
		want      int
	}{
		{"built", attest.PhaseSpawning, true, 0, 10 * time.Second, 200},
		{"built for very long", attest.PhaseSpawning, true, 0, 3 * time.Minute, 403},
		{"rebuilt, when the old system is gone", attest.PhaseChanging, true, time.Hour, 10 * time.Second, 200},
		{"rebuilt, when the old system may still run", attest.PhaseChanging, false, time.Hour, 10 * time.Second, 403},
		{"rebuilt, and asked for before", attest.PhaseRunning, false, time.Hour, 10 * time.Second, 403},
		{"unshelved", attest.PhaseChanging, true, time.Hour, 10 * time.Second, 200},
		{"resized", attest.PhaseChanging, true, time.Hour, 10 * time.Second, 200},
		{"resized, while the old host has it", attest.PhaseChanging, false, time.Hour, 10 * time.Second, 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, _ := novaScene(t)
			now := time.Now().Truncate(time.Second)
			s.instance.Phase, s.instance.Launching, s.instance.Launched = tt.phase, tt.launching, time.Time{}
			if tt.launched > 0 {
				s.instance.Launched = now.Add(-tt.launched)
			}
			cloud := attesttest.Cloud{s.instance.ID: s.instance}
			s.cloud = cloud
			d := s.open(t)
			document := d.document(t)
			if got := d.ask(t, "198.51.100.7", form("role", "web", "document", document)); got.status == http.StatusOK && tt.phase != attest.PhaseRunning {
				t.Errorf("before the launch: %d %s", got.status, got.body)
			}
			s.instance.Phase, s.instance.Launching, s.instance.Launched = attest.PhaseRunning, false, now.Add(tt.ends)
			cloud[s.instance.ID] = s.instance
			if got := d.ask(t, "198.51.100.7", form("role", "web", "document", document)); got.status != tt.want {
				t.Errorf("after the launch: %d %s, want %d", got.status, got.body, tt.want)
			}
		})
	}
}
