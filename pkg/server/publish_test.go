package server_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
)

const (
	discovery = "/.well-known/openid-configuration"
	jwks      = "/.well-known/jwks.json"
)

func TestPublishedDocuments(t *testing.T) {
	for issuer, path := range map[string]string{
		"https://id.example.com":             "",
		"https://id.example.com/":            "",
		"https://id.example.com/region-1":    "/region-1",
		"https://id.example.com/a/region-1/": "/a/region-1",
	} {
		s := newScene(t)
		s.issuer = issuer
		d := s.open(t)
		base, client := "http://"+d.serve(t), clientFrom(t, home)
		for _, document := range []string{discovery, jwks} {
			t.Run(issuer+" "+document, func(t *testing.T) {
				target := base + path + document
				got := send(t, client, http.MethodGet, target, "", nil)
				tag := got.header.Get("ETag")
				if got.status != http.StatusOK || !json.Valid([]byte(got.body)) || len(tag) < 10 || tag[0] != '"' {
					t.Fatalf("%d %s, ETag %s", got.status, got.body, tag)
				}
				for name, want := range map[string]string{"Content-Type": jsonType, "Cache-Control": "public, max-age=300", "X-Content-Type-Options": "nosniff"} {
					if got := got.header.Get(name); got != want {
						t.Errorf("%s is %q, want %q", name, got, want)
					}
				}
				head := send(t, client, http.MethodHead, target, "", nil)
				if head.status != http.StatusOK || head.body != "" || head.header.Get("ETag") != tag || head.header.Get("Content-Length") != got.header.Get("Content-Length") {
					t.Errorf("HEAD: %+v", head)
				}
				if got := conditional(t, client, target, tag); got.status != http.StatusNotModified || got.body != "" || got.header.Get("Cache-Control") != "public, max-age=300" || got.header.Get("ETag") != tag {
					t.Errorf("If-None-Match with the tag: %+v", got)
				}
				if got := conditional(t, client, target, `"other", W/`+tag); got.status != http.StatusNotModified {
					t.Errorf("If-None-Match with the tag among others: %d", got.status)
				}
				if again := conditional(t, client, target, `"other"`); again.status != http.StatusOK || again.body != got.body {
					t.Errorf("If-None-Match with another tag: %d", again.status)
				}
				post := send(t, client, http.MethodPost, target, formType, strings.NewReader(webForm))
				post.wants(t, http.StatusMethodNotAllowed, "invalid_request", "this path takes OPTIONS, GET, HEAD")
			})
		}
		if path != "" {
			for _, document := range []string{discovery, jwks} {
				send(t, client, http.MethodGet, base+document, "", nil).wants(t, http.StatusNotFound, "invalid_request", "there is nothing at this path")
			}
		}
	}
}

func conditional(t *testing.T, c *http.Client, target, tag string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("If-None-Match", tag)
	return sendRequest(t, c, r)
}

// Verifiers compare with the configured issuer. The host that a client sends must not get
// into a document that others may cache.
func TestPublishedDocumentsDoNotDependOnTheRequest(t *testing.T) {
	d := newScene(t).open(t)
	for _, document := range []string{discovery, jwks} {
		want := d.do(t, httptest.NewRequest(http.MethodGet, document, nil))
		r := httptest.NewRequest(http.MethodGet, document+"?issuer=https://evil.example", nil)
		r.Host = "evil.example"
		r.Header = http.Header{"X-Forwarded-Host": {"evil.example"}, "X-Forwarded-Proto": {"gopher"}, "Forwarded": {"host=evil.example"}}
		got := d.do(t, r)
		want.header.Del("X-Request-Id")
		got.header.Del("X-Request-Id")
		if diff := cmp.Diff(want.header, got.header); got.status != http.StatusOK || got.body != want.body || diff != "" {
			t.Errorf("%s: %d %s\n%s", document, got.status, got.body, diff)
		}
	}
}

// A throttled client still gets the key set.
func TestPublishedDocumentsAreNotThrottled(t *testing.T) {
	s, _ := throttledScene(t, ratelimit.Rate{Rate: 0.1, Burst: 1})
	d := s.open(t)
	d.ask(t, other, webForm)
	d.ask(t, other, webForm).wants(t, http.StatusTooManyRequests, "slow_down", "")
	for range 100 {
		for _, document := range []string{discovery, jwks} {
			r := httptest.NewRequest(http.MethodGet, document, nil)
			r.RemoteAddr = other + ":4711"
			if got := d.do(t, r); got.status != http.StatusOK {
				t.Fatalf("%s: %d", document, got.status)
			}
		}
	}
	if n := d.asked.Load(); n != 1 {
		t.Errorf("the cloud was asked %d times", n)
	}
}

// Several regions can share a host name, each below its own path.
func TestAuthBelowTheIssuersPath(t *testing.T) {
	s := newScene(t)
	s.issuer = "https://id.example.com/region-1"
	d := s.open(t)
	base, client := "http://"+d.serve(t), clientFrom(t, home)
	for _, path := range []string{"/auth", "/region-1/auth"} {
		send(t, client, http.MethodPost, base+path, formType, strings.NewReader(webForm)).granted(t)
	}
	send(t, client, http.MethodPost, base+"/region-2/auth", formType, strings.NewReader(webForm)).wants(t, http.StatusNotFound, "invalid_request", "there is nothing at this path")
	send(t, client, http.MethodGet, base+"/region-1/auth", "", nil).wants(t, http.StatusMethodNotAllowed, "invalid_request", "this path takes OPTIONS, POST")
	if n := d.attempts.Writes(); n != 2 {
		t.Errorf("%d attempts are counted: both paths are the same door", n)
	}
}

func TestExpiresInCountsFromNow(t *testing.T) {
	s, c := throttledScene(t, ratelimit.Rate{Rate: 1, Burst: 1})
	c.at = c.at.Truncate(time.Second).Add(999 * time.Millisecond)
	var body struct {
		ExpiresIn int64     `json:"expires_in"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	if err := json.Unmarshal([]byte(s.open(t).ask(t, home, webForm).body), &body); err != nil {
		t.Fatal(err)
	}
	if want := body.ExpiresAt.Unix() - c.at.Unix(); body.ExpiresIn != want {
		t.Errorf("expires_in is %d, want %d, the seconds until expires_at", body.ExpiresIn, want)
	}
}
