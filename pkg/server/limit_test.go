package server_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
)

func TestTooManyLookupsOfOneAddress(t *testing.T) {
	s := newScene(t)
	s.cloud = cloudFunc(func(context.Context) (attest.Instance, error) { return attest.Instance{}, attest.ErrTooManyLookups })
	d := s.open(t)
	d.ask(t, home, webForm).wants(t, http.StatusTooManyRequests, "slow_down", "")
	if n := d.metric(t, `nova_authenticator_throttled_total{by="lookups"}`); n != "1" {
		t.Errorf("throttled_total is %s", n)
	}
	if s := d.audit.String(); s != "" {
		t.Errorf("there is an audit line without a decision: %s", s)
	}
}

// clock stands still unless a test sets it.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func throttledScene(t testing.TB, rate ratelimit.Rate) (*scene, *clock) {
	s, c := newScene(t), &clock{time.Now()}
	s.throttle, s.now, s.window.Limit = rate, c.now, 1000
	return s, c
}

func TestThrottle(t *testing.T) {
	s, c := throttledScene(t, ratelimit.Rate{Rate: 0.1, Burst: 3})
	d := s.open(t)
	for range 3 {
		d.ask(t, home, webForm).granted(t)
	}
	for range 5 {
		got := d.ask(t, home, webForm)
		got.wants(t, http.StatusTooManyRequests, "slow_down", "")
		if after, _ := strconv.Atoi(got.header.Get("Retry-After")); after < 10 || after > 14 {
			t.Errorf("Retry-After is %d, and the next request is due in 10 s", after)
		}
	}
	if n := d.asked.Load(); n != 3 {
		t.Errorf("the cloud was asked %d times for 3 requests that were let through", n)
	}
	if n := strings.Count(d.audit.String(), "\n"); n != 3 {
		t.Errorf("there are %d audit lines: a flood must not fill the disk", n)
	}
	if n := d.metric(t, `nova_authenticator_throttled_total{by="address"}`); n != "5" {
		t.Errorf("throttled_total is %s", n)
	}
	if n := d.decisions(t, "web", "throttled", "throttled_address"); n != "5" {
		t.Errorf("%s decisions are counted as throttled", n)
	}
	d.ask(t, other, webForm).wants(t, http.StatusForbidden, "access_denied", "")
	c.at = c.at.Add(10 * time.Second)
	d.ask(t, home, webForm).granted(t)
	d.ask(t, home, webForm).wants(t, http.StatusTooManyRequests, "slow_down", "")
}

// Behind a load balancer each client has one bucket, which the client's header does not
// change.
func TestThrottleBehindALoadBalancer(t *testing.T) {
	s, _ := throttledScene(t, ratelimit.Rate{Rate: 1, Burst: 1})
	s.proxy = byHeader
	d := s.open(t)
	ask := func(forwarded string) int {
		r := d.request(proxy1, webForm)
		r.Header.Set("X-Forwarded-For", forwarded)
		return d.do(t, r).status
	}
	for _, step := range []struct {
		forwarded string
		want      int
	}{
		{other, http.StatusForbidden},
		{other, http.StatusTooManyRequests},
		{"192.0.2.77, " + other, http.StatusTooManyRequests},
		{"192.0.2.78, " + other, http.StatusTooManyRequests},
		{vm, http.StatusForbidden},
	} {
		if got := ask(step.forwarded); got != step.want {
			t.Errorf("X-Forwarded-For: %s is answered %d, want %d", step.forwarded, got, step.want)
		}
	}
}

// One guest can use any address of its subnet.
func TestThrottleOfAnIPv6Subnet(t *testing.T) {
	s, _ := throttledScene(t, ratelimit.Rate{Rate: 1, Burst: 2})
	d := s.open(t)
	var through int
	for i := range 1000 {
		if d.ask(t, fmt.Sprintf("2001:db8::%x", i+1), webForm).status != http.StatusTooManyRequests {
			through++
		}
	}
	if through != 2*64 {
		t.Errorf("%d requests of one subnet were let through, want 128", through)
	}
	if got := d.ask(t, "2001:db8:0:1::1", webForm); got.status != http.StatusForbidden {
		t.Errorf("the next subnet is answered %d", got.status)
	}
}

// A bucket stores the time of its last request. A request that began long ago and whose
// body comes only now must not set that time back, which would fill the bucket again.
func TestASlowBodyDoesNotFillTheBucket(t *testing.T) {
	s, c := throttledScene(t, ratelimit.Rate{Rate: 1, Burst: 3})
	d := s.open(t)
	began := c.at
	finish := began.Add(9 * time.Second)
	c.at = finish
	for range 2 {
		d.ask(t, home, webForm).granted(t)
	}
	c.at = began
	slow := d.request(home, "")
	slow.ContentLength = -1
	slow.Body = io.NopCloser(io.MultiReader(readFunc(func() { c.at = finish }), strings.NewReader(webForm)))
	d.do(t, slow).granted(t)
	for range 3 {
		d.ask(t, home, webForm).wants(t, http.StatusTooManyRequests, "slow_down", "")
	}
}

// readFunc is called when it is read, and empty.
type readFunc func()

func (f readFunc) Read([]byte) (int, error) { f(); return 0, io.EOF }

// The limit comes before each answer, audit line and log line, at every door and for every kind of refusal.
func TestEveryRefusalIsLimited(t *testing.T) {
	auth := func(form string) func(*testing.T, *metadataDoor) answer {
		return func(t *testing.T, h *metadataDoor) answer { t.Helper(); return h.ask(t, home, form) }
	}
	nova := func(edit func(*http.Request)) func(*testing.T, *metadataDoor) answer {
		return func(t *testing.T, h *metadataDoor) answer {
			t.Helper()
			q := novaRequest(novaBody)
			edit(q)
			return h.testServer.do(t, q)
		}
	}
	agent := func(edit func(*http.Request)) func(*testing.T, *metadataDoor) answer {
		return func(t *testing.T, h *metadataDoor) answer {
			t.Helper()
			q := h.request(http.MethodPut, webToken)
			edit(q)
			return h.do(t, q)
		}
	}
	for _, tt := range []struct {
		name   string
		ask    func(*testing.T, *metadataDoor) answer
		status int
		often  int // what too many get; 0 for 429
		stale  bool
	}{
		{name: "malformed", ask: auth("role=web"), status: http.StatusBadRequest},
		{name: "another media type", ask: func(t *testing.T, h *metadataDoor) answer {
			t.Helper()
			q := h.testServer.request(home, webForm)
			q.Header.Set("Content-Type", "text/plain")
			return h.testServer.do(t, q)
		}, status: http.StatusUnsupportedMediaType},
		{name: "a role that is not configured", ask: auth("instance_id=" + webID + "&role=db"), status: http.StatusForbidden},
		{name: "an audience that the role does not have", ask: auth(webForm + "&audience=x"), status: http.StatusForbidden},
		{name: "a document that is not valid", ask: auth(form("role", "web", "document", "x")), status: http.StatusForbidden},
		{name: "a document while the keys are stale", ask: auth(form("role", "web", "document", "x")), status: http.StatusServiceUnavailable, stale: true},
		{name: "a token while the keys are stale", ask: agent(func(*http.Request) {}), status: http.StatusInternalServerError, often: http.StatusConflict, stale: true},
		{name: "vendordata from elsewhere", ask: nova(func(r *http.Request) { r.RemoteAddr = "203.0.113.66:4711" }), status: http.StatusForbidden},
		{name: "vendordata without a token", ask: nova(func(r *http.Request) { r.Header.Del("X-Auth-Token") }), status: http.StatusUnauthorized},
		{name: "vendordata with a made-up token", ask: nova(func(r *http.Request) { r.Header.Set("X-Auth-Token", "gAAAAA-made-up") }), status: http.StatusUnauthorized},
		{name: "vendordata with another user's token", ask: nova(func(r *http.Request) { r.Header.Set("X-Auth-Token", "gAAAAA-member") }), status: http.StatusForbidden},
		{name: "vendordata of another media type", ask: nova(func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }), status: http.StatusUnsupportedMediaType},
		{name: "a metadata agent without headers", ask: agent(func(r *http.Request) { r.Header = http.Header{} }), status: http.StatusForbidden, often: http.StatusConflict},
		{name: "a metadata agent with a wrong signature", ask: agent(func(r *http.Request) { r.Header.Set("X-Instance-Id-Signature", "00") }), status: http.StatusForbidden, often: http.StatusConflict},
		{name: "a metadata agent with the wrong method", ask: agent(func(r *http.Request) { r.Method = http.MethodPost }), status: http.StatusBadRequest, often: http.StatusConflict},
		{name: "a metadata agent with a malformed query", ask: agent(func(r *http.Request) { r.URL.RawQuery = "x=1" }), status: http.StatusBadRequest, often: http.StatusConflict},
		{name: "a client that is not a metadata agent", ask: agent(func(r *http.Request) { r.RemoteAddr = "203.0.113.66:4711" }), status: http.StatusForbidden, often: http.StatusForbidden},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, c := throttledScene(t, ratelimit.Rate{Rate: 0.001, Burst: 2})
			s.instances = ratelimit.Rate{Rate: 0.001, Burst: 2}
			other, _ := novaScene(t)
			s.nova, s.callers, s.now = other.nova, other.callers, c.now
			s.unusable = new(atomic.Bool)
			s.unusable.Store(tt.stale)
			h := newMetadataDoor(t, s, nil)
			often := tt.often
			if often == 0 {
				often = http.StatusTooManyRequests
			}
			for i := range 6 {
				want := tt.status
				if i >= 2 {
					want = often
				}
				if got := tt.ask(t, h); got.status != want {
					t.Errorf("request %d: status %d, want %d: %s", i+1, got.status, want, got.body)
				}
			}
			if err := h.stream.Close(); err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(h.audit.String(), "\n"); n > 2 {
				t.Errorf("6 requests wrote %d audit lines:\n%s", n, h.audit)
			}
		})
	}
}

// The state counts each document until it expires. One instance has so few of them that
// the instances of a whole project leave room for all others.
func TestDocumentsOfOneInstanceAreBounded(t *testing.T) {
	s, _ := novaScene(t)
	c := &clock{time.Now()}
	s.now, s.instances = c.now, ratelimit.Rate{Rate: 1e6, Burst: 1e6}
	s.nova.DocumentExpiry = time.Hour
	d := s.open(t)
	ask := func() answer { return d.ask(t, "198.51.100.7", form("role", "web", "document", d.document(t))) }
	for range 64 {
		ask().granted(t)
	}
	for range 5 {
		ask().wants(t, http.StatusTooManyRequests, "slow_down", "")
	}
	shown := 64
	for range 60 {
		c.at = c.at.Add(time.Minute)
		for ask().status == http.StatusOK {
			shown++
		}
	}
	if shown < 120 || shown > 129 {
		t.Errorf("%d documents were counted within an hour", shown)
	}
	// The limit does not concern the instance's address.
	d.ask(t, home, form("instance_id", webID, "role", "web")).wants(t, http.StatusForbidden, "access_denied", "")
}

// Instances behind NAT share an address. A request with a valid document counts for its
// instance, and one with an invalid document for its address.
func TestDocumentAndThrottle(t *testing.T) {
	s, _ := novaScene(t)
	s.throttle, s.instances, s.window.Limit = ratelimit.Rate{Rate: 0.001, Burst: 2}, ratelimit.Rate{Rate: 0.001, Burst: 4}, 100
	d := s.open(t)
	document := d.document(t) // one of four
	const nat = "198.51.100.7"
	for i, want := range []int{403, 403, 429} {
		if got := d.ask(t, nat, form("role", "web", "document", "garbage")); got.status != want {
			t.Errorf("garbage %d: %d %s, want %d", i, got.status, got.body, want)
		}
	}
	for i, want := range []int{200, 200, 200, 429} {
		if got := d.ask(t, nat, form("role", "web", "document", document)); got.status != want {
			t.Errorf("document %d: %d %s, want %d", i, got.status, got.body, want)
		}
	}
}

// The requests of one instance do not throttle those of another.
func TestVendordataThrottle(t *testing.T) {
	s, _ := novaScene(t)
	s.instances, s.throttle = ratelimit.Rate{Rate: 0.001, Burst: 2}, ratelimit.Rate{Rate: 0.001, Burst: 1}
	const other = "5ad2d1b0-6c1c-4a43-9f0e-3f1d5a7f0b11"
	second := s.instance
	second.ID = attesttest.ID(t, other)
	first := s.instance
	s.cloud = attesttest.Cloud{first.ID: first, second.ID: second}
	d := s.open(t)
	for i, want := range []int{200, 200, 429, 429} {
		if got := d.do(t, novaRequest(novaBody)); got.status != want {
			t.Errorf("call %d: %d %s, want %d", i, got.status, got.body, want)
		}
	}
	if got := d.do(t, novaRequest(strings.Replace(novaBody, webID, other, 1))); got.status != http.StatusOK {
		t.Errorf("another instance: %d %s", got.status, got.body)
	}
}
