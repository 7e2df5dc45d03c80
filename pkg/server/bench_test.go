package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

// BenchmarkAuth compares a granted request with a bare handler that reads the same form
// and answers the same bytes: x-bare is how many times as long ours takes (the signature,
// for the most part). It must not grow with the number of counters and buckets.
func BenchmarkAuth(b *testing.B) {
	for _, remembered := range []int{100, 100_000} {
		b.Run(fmt.Sprintf("remembered=%d", remembered), func(b *testing.B) {
			h := benchServer(b, remembered)
			request := func() *http.Request {
				r := httptest.NewRequest(http.MethodPost, "/auth", strings.NewReader(webForm))
				r.Header.Set("Content-Type", formType)
				r.RemoteAddr = home + ":4711"
				return r
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, request())
			if w.Code != http.StatusOK {
				b.Fatalf("%d %s", w.Code, w.Body)
			}
			bare := bareServer(w.Body.Bytes())

			var ours, theirs time.Duration
			for b.Loop() {
				first, second := request(), request()
				began := time.Now()
				h.ServeHTTP(httptest.NewRecorder(), first)
				between := time.Now()
				bare.ServeHTTP(httptest.NewRecorder(), second)
				ours, theirs = ours+between.Sub(began), theirs+time.Since(between)
			}
			b.ReportMetric(float64(ours)/float64(theirs), "x-bare")
			b.ReportMetric(float64(ours.Nanoseconds())/float64(b.N), "ns/auth")
		})
	}
}

// bareServer has an echo handler that does nothing else.
func bareServer(body []byte) http.Handler {
	e := echo.New()
	e.POST("/auth", func(c echo.Context) error {
		if c.FormValue("instance_id") == "" || c.FormValue("role") == "" {
			return echo.ErrBadRequest
		}
		return c.JSONBlob(http.StatusOK, body)
	})
	return e
}

func benchServer(b testing.TB, remembered int) http.Handler {
	b.Helper()
	s := newScene(b)
	s.window.Limit, s.window.Period = 1<<30, 24*time.Hour
	store := &state.Memory{}
	b.Cleanup(func() { _ = store.Close() })
	stream := audit.NewStream(io.Discard, "json")
	b.Cleanup(func() { _ = stream.Close() })
	log, err := audit.Open(audit.Config{Output: "stdout"}, stream, nil)
	if err != nil {
		b.Fatal(err)
	}
	role, err := attest.NewRole("web", attest.Grant{}, s.window, s.rules)
	if err != nil {
		b.Fatal(err)
	}
	plan, err := keyring.Config{Algorithm: keyring.ES256, RotationPeriod: 720 * time.Hour, MaxAge: time.Hour}.Plan(10 * time.Minute)
	if err != nil {
		b.Fatal(err)
	}
	ring, err := keyring.New(plan, store, keyring.Options{Issuer: s.issuer, Initialize: true})
	if err != nil {
		b.Fatal(err)
	}
	if err := ring.Load(b.Context()); err != nil {
		b.Fatal(err)
	}
	h := server.New(server.Options{
		Attestor: &attest.Attestor{
			Policy: attest.NewPolicy(attesttest.Issuer(b, s.issuer), role), Instances: attesttest.Cloud{s.instance.ID: s.instance}, State: store, Denials: ring.Denials(),
		},
		Issuer:   newIssuer(b, s.issuer),
		Proxy:    parse(b, noProxy),
		Throttle: parse(b, server.ThrottleConfig{PerAddress: s.throttle, PerInstance: s.instances}),
		Audit:    log,
		Metrics:  server.NewMetrics("", "", func() int { return 0 }),
		Log:      slog.New(slog.DiscardHandler),
	})
	// Each of them has come before: its counter and its bucket are there.
	for i := range remembered {
		if _, err := store.Increment(context.Background(), fmt.Sprintf("attempts/%d/web/1", i), time.Now().Add(time.Hour)); err != nil {
			b.Fatal(err)
		}
		body, err := json.Marshal(map[string]string{"instance_id": webID, "role": "none"})
		if err != nil {
			b.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodPost, "/auth", strings.NewReader(string(body)))
		r.Header.Set("Content-Type", jsonType)
		r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", i>>16&0xff, i>>8&0xff, i&0xff)
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	return h
}
