package server_test

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring/keyringtest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

const (
	webID   = "1b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5a21"
	noID    = "00000000-0000-4000-8000-000000000000"
	project = "7e562c1a85814230b973a83db9534b02"
	user    = "821a2eaac0724c069aa6a44bd7b91935"

	webForm  = "instance_id=" + webID + "&role=web"
	formType = "application/x-www-form-urlencoded"
	jsonType = "application/json"

	// home is the address of the instance, from which tests can connect.
	home = "127.0.0.1"
)

// scene is an instance that requests a role and gets it. A test changes one thing.
type scene struct {
	instance  attest.Instance
	grant     attest.Grant
	window    attest.Window
	rules     attest.Rules
	cloud     attest.Instances // nil: knows the instance
	attempts  attest.State     // nil: counts
	denials   attest.Denials   // nil: denies none
	unusable  *atomic.Bool     // while it is true no key may sign; nil: never
	issuer    string
	proxy     server.ProxyConfig
	tls       *listen.Certificate
	throttle  ratelimit.Rate
	instances ratelimit.Rate // of an authenticated instance
	nova      server.VendordataConfig
	callers   server.Callers
	audit     io.Writer // nil: remembers the lines
	lossy     bool      // a token does not wait for its line
	now       func() time.Time
	unlimited bool     // without metadataService.agentsLimitHeaders
	more      []string // names of roles with the rules of web
}

func newScene(t testing.TB) *scene {
	t.Helper()
	now := time.Now().Truncate(time.Second)
	return &scene{
		instance: attest.Instance{
			ID: attesttest.ID(t, webID), Name: "web-1", ProjectID: project, UserID: user,
			Metadata: map[string]string{"role": "web"}, Phase: attest.PhaseRunning, State: "ACTIVE", Created: now, Launched: now,
			Addresses: addresses(home),
		},
		window:   attest.Window{Limit: 3, Period: 5 * time.Minute, Since: attest.SinceCreated},
		rules:    attest.Rules{ProjectID: []string{project}},
		issuer:   "https://id.example.com",
		proxy:    noProxy,
		nova:     server.VendordataConfig{DocumentExpiry: 5 * time.Minute},
		throttle: ratelimit.Rate{Rate: 1e6, Burst: 1 << 20}, instances: ratelimit.Rate{Rate: 1e6, Burst: 1 << 20},
	}
}

// parse returns a configuration as the server takes it.
func parse[P any](t testing.TB, c interface{ Parse() (P, error) }) P {
	t.Helper()
	parsed, err := c.Parse()
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func addresses(all ...string) []attest.Address {
	var list []attest.Address
	for _, a := range all {
		list = append(list, attest.Address{Network: "private", Addr: netip.MustParseAddr(a)})
	}
	return list
}

// testServer is a server with the outputs that a test reads.
type testServer struct {
	*server.Server
	scene    *scene
	audit    *lines
	log      *lines
	logger   *slog.Logger
	operator http.Handler
	auditLog *audit.Log
	stream   *audit.Stream
	asked    *atomic.Int64     // lookups in the cloud
	attempts *attesttest.State // unless the scene has its own
}

// open makes the server of a scene.
func (s *scene) open(t testing.TB) *testServer {
	t.Helper()
	d := &testServer{scene: s, audit: newLines(), log: newLines(), asked: new(atomic.Int64), attempts: &attesttest.State{}}
	d.logger = slog.New(slog.NewJSONHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var roles []attest.Role
	for _, name := range append([]string{"web"}, s.more...) {
		role, err := attest.NewRole(name, s.grant, s.window, s.rules)
		if err != nil {
			t.Fatal(err)
		}
		roles = append(roles, role)
	}
	policy := attest.NewPolicy(attesttest.Issuer(t, s.issuer), roles...)
	if !s.unlimited {
		policy = policy.WithLimitedAgents()
	}
	cloud, attempts, out := s.cloud, s.attempts, s.audit
	if cloud == nil {
		cloud = attesttest.Cloud{s.instance.ID: s.instance}
	}
	if attempts == nil {
		attempts = d.attempts
	}
	if out == nil {
		out = d.audit
	}
	denials := s.denials
	if denials == nil {
		none := &attesttest.Denials{}
		if state, ok := attempts.(*attesttest.State); ok {
			none.Err = state.Err
		}
		denials = none
	}
	d.stream = audit.NewStream(out, "json")
	var err error
	if d.auditLog, err = audit.Open(audit.Config{Output: "stdout", Required: !s.lossy}, d.stream, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.stream.Close() })
	if s.audit == nil {
		// A line may be written after the answer.
		d.audit.flush = func() {
			_ = d.auditLog.RecordAndWait(context.Background(), audit.Event{Name: flushed, Proven: true}, audit.Event{Name: flushed, Proven: true})
		}
	}
	metrics := server.NewMetrics("1.2.3", "abc", func() int { return 0 })
	d.operator = server.OperatorHandler(metrics, &server.Health{})
	d.Server = server.New(server.Options{
		Attestor:   &attest.Attestor{Policy: policy, Instances: counted{cloud, d.asked}, State: attempts, Denials: denials},
		Issuer:     newIssuerWith(t, s.issuer, s.unusable),
		Proxy:      parse(t, s.proxy),
		Throttle:   parse(t, server.ThrottleConfig{PerAddress: s.throttle, PerInstance: s.instances}),
		Audit:      d.auditLog,
		Metrics:    metrics,
		Log:        d.logger,
		ConfigHash: "c0ffee",
		Vendordata: parse(t, s.nova),
		Callers:    s.callers,
		Now:        s.now,
	})
	return d
}

func newIssuer(t testing.TB, name string) *token.Issuer {
	t.Helper()
	return newIssuerWith(t, name, nil)
}

// someKeys cannot sign while unusable is true.
type someKeys struct {
	token.KeySource

	unusable *atomic.Bool
}

func (k someKeys) Usable() error {
	if k.unusable != nil && k.unusable.Load() {
		return errors.New("the keys are stale")
	}
	return k.KeySource.Usable()
}

func newIssuerWith(t testing.TB, name string, unusable *atomic.Bool) *token.Issuer {
	t.Helper()
	keys, err := keyring.LoadKeys([]string{keyringtest.File(t, keyringtest.PKCS8(t, keyringtest.EC(t, elliptic.P256())))})
	if err != nil {
		t.Fatal(err)
	}
	plan, err := token.Config{TokenIssuer: name, TokenExpiry: 10 * time.Minute}.Plan()
	if err != nil {
		t.Fatal(err)
	}
	if err := plan.Add(attesttest.Role(t, "web"), token.RoleConfig{}); err != nil {
		t.Fatal(err)
	}
	issuer, err := token.NewIssuer(plan, someKeys{keys, unusable}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return issuer
}

// serve serves on a free port of the loopback until the test ends.
func (d *testServer) serve(t testing.TB) (address string) {
	t.Helper()
	all, err := d.Listen(listenAt(t, "127.0.0.1:0"), d.scene.tls)
	if err != nil {
		t.Fatal(err)
	}
	run(t, d.logger, all...)
	return all[0].Listener.Addr().String()
}

func run(t testing.TB, log *slog.Logger, endpoints ...listen.Endpoint) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- listen.Serve(ctx, log, endpoints...) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

// counted counts the lookups in a cloud.
type counted struct {
	attest.Instances
	asked *atomic.Int64
}

func (c counted) Instance(ctx context.Context, id attest.InstanceID, caller netip.Addr) (attest.Instance, error) {
	c.asked.Add(1)
	return c.Instances.Instance(ctx, id, caller)
}

// cloudFunc implements a cloud.
type cloudFunc func(ctx context.Context) (attest.Instance, error)

func (f cloudFunc) Instance(ctx context.Context, _ attest.InstanceID, _ netip.Addr) (attest.Instance, error) {
	return f(ctx)
}

// lines keeps the lines that are written to it; tests can wait for them.
type lines struct {
	mu    sync.Mutex
	text  bytes.Buffer
	more  chan struct{} // closed by the next write
	flush func()        // waits until all lines are written; nil if writes are synchronous
}

const flushed = "flushed"

func newLines() *lines { return &lines{more: make(chan struct{})} }

func (l *lines) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(`"msg":"`+flushed+`"`)) {
		return len(p), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.more)
	l.more = make(chan struct{})
	return l.text.Write(p)
}

func (l *lines) String() string {
	if l.flush != nil {
		l.flush()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// parsed returns the lines as objects.
func (l *lines) parsed(t testing.TB) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(l.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%q is not a JSON object: %v", line, err)
		}
		all = append(all, m)
	}
	return all
}

// of returns the lines about a request.
func (l *lines) of(t testing.TB, a answer) []map[string]any {
	t.Helper()
	return slices.DeleteFunc(l.parsed(t), func(m map[string]any) bool { return m["request_id"] != a.header.Get("X-Request-Id") })
}

// only returns the one line about a request.
func (l *lines) only(t testing.TB, a answer) map[string]any {
	t.Helper()
	all := l.of(t, a)
	if len(all) != 1 {
		t.Fatalf("there are %d lines about request %s, not one; all lines:\n%s", len(all), a.header.Get("X-Request-Id"), l)
	}
	return all[0]
}

// await waits until there are n lines.
func (l *lines) await(t testing.TB, n int) {
	t.Helper()
	for {
		l.mu.Lock()
		got, more := strings.Count(l.text.String(), "\n"), l.more
		l.mu.Unlock()
		if got >= n {
			return
		}
		select {
		case <-more:
		case <-time.After(10 * time.Second):
			t.Fatalf("there are still only %d lines, not %d", got, n)
		}
	}
}

// answer is an HTTP response.
type answer struct {
	status int
	header http.Header
	body   string
}

func newAnswer(t testing.TB, r *http.Response) answer {
	t.Helper()
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{r.StatusCode, r.Header, string(body)}
}

// do hands a request to the handler.
func (d *testServer) do(t testing.TB, r *http.Request) answer {
	t.Helper()
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return newAnswer(t, w.Result())
}

// ask sends a form from an address, without a network.
func (d *testServer) ask(t testing.TB, from, form string) answer {
	t.Helper()
	return d.do(t, d.request(from, form))
}

func (d *testServer) request(from, form string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/auth", strings.NewReader(form))
	r.Header.Set("Content-Type", formType)
	r.RemoteAddr = net.JoinHostPort(from, "4711")
	return r
}

// clientFrom connects from an address of the loopback network, over new connections.
func clientFrom(t testing.TB, from string) *http.Client {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	transport := &http.Transport{DialContext: dialer.DialContext, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

func send(t testing.TB, c *http.Client, method, target, contentType string, body io.Reader) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, target, body)
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	return sendRequest(t, c, r)
}

func sendRequest(t testing.TB, c *http.Client, r *http.Request) answer {
	t.Helper()
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return newAnswer(t, resp)
}

// granted returns the token, or fails the test without one.
func (a answer) granted(t testing.TB) string {
	t.Helper()
	var body struct {
		Token     string    `json:"token"`
		ExpiresIn int64     `json:"expires_in"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || a.status != http.StatusOK || strings.Count(body.Token, ".") != 2 {
		t.Fatalf("no token but %d %s", a.status, a.body)
	}
	return body.Token
}

var ourID = regexp.MustCompile(`\A[0-9a-f]{32}\z`)

// refusal is the error body with its keys in order.
type refusal struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
	RetryAfter  int    `json:"retry_after,omitempty"`
	RequestID   string `json:"request_id"`
}

// wants compares an error byte for byte.
func (a answer) wants(t testing.TB, status int, word, description string) {
	t.Helper()
	id := a.header.Get("X-Request-Id")
	if !ourID.MatchString(id) {
		t.Errorf("the request ID is %q", id)
	}
	again := a.header.Get("Retry-After")
	seconds, _ := strconv.Atoi(again)
	body, err := json.Marshal(refusal{word, description, seconds, id})
	if err != nil {
		t.Fatal(err)
	}
	if want := string(body) + "\n"; a.status != status || a.body != want {
		t.Errorf("the answer is\n%d %swant\n%d %s", a.status, a.body, status, want)
	}
	for name, want := range map[string]string{"Content-Type": jsonType, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if asks := status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable; asks != regexp.MustCompile(`\A[1-9][0-9]?\z`).MatchString(again) || !asks && again != "" {
		t.Errorf("Retry-After is %q with status %d", again, status)
	}
}

// metric returns the value of a series, 0 without one.
func (d *testServer) metric(t testing.TB, series string) string {
	t.Helper()
	for line := range strings.Lines(d.metrics(t)) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return "0"
}

func (d *testServer) metrics(t testing.TB) string {
	t.Helper()
	w := httptest.NewRecorder()
	d.operator.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("/metrics answers %d", w.Code)
	}
	return w.Body.String()
}

func (d *testServer) decisions(t testing.TB, role, outcome string, reason attest.Reason) string {
	t.Helper()
	return d.metric(t, `nova_authenticator_decisions_total{door="address",outcome="`+outcome+`",reason="`+string(reason)+`",role="`+role+`"}`)
}

// untouched checks that there were no lookups, attempts and decisions.
func (d *testServer) untouched(t testing.TB) {
	t.Helper()
	if n := d.asked.Load(); n != 0 {
		t.Errorf("the cloud was asked %d times", n)
	}
	if n := d.attempts.Writes(); n != 0 {
		t.Errorf("%d attempts were counted", n)
	}
	if s := d.audit.String(); s != "" {
		t.Errorf("there are audit lines:\n%s", s)
	}
}

func form(pairs ...string) string {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Add(pairs[i], pairs[i+1])
	}
	return v.Encode()
}

// claim returns a claim of a token.
func claim(t testing.TB, compact, name string) any {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(strings.Split(compact, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(data, &claims); err != nil {
		t.Fatal(err)
	}
	return claims[name]
}

func listenAt(t testing.TB, text string) listen.Address {
	t.Helper()
	a, err := listen.ParseAddress(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
