package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

func get(t *testing.T, h http.Handler, path string) answer {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return newAnswer(t, w.Result())
}

func TestMetricsAreWellFormed(t *testing.T) {
	in := 3
	m := server.NewMetrics("1.2.3", "abc", func() int { return in })
	m.ObserveUpstream("nova", "ok", 30*time.Millisecond)
	m.ObserveUpstream("keystone", "unreachable", 3*time.Second)
	m.WatchLog(func() uint64 { return 2 })
	m.WatchRights(func() int { return 1 })
	e, err := server.ListenOperator(listenAt(t, "127.0.0.1:0"), m, &server.Health{})
	if err != nil {
		t.Fatal(err)
	}
	run(t, slog.New(slog.DiscardHandler), e)
	text := send(t, clientFrom(t, home), http.MethodGet, "http://"+e.Listener.Addr().String()+"/metrics", "", nil).body
	for _, want := range []string{
		`nova_authenticator_build_info{commit="abc",version="1.2.3"} 1`,
		`nova_authenticator_lookups_in_flight 3`,
		`nova_authenticator_log_lost_total 2`,
		`nova_authenticator_cloud_rights_refused 1`,
		`nova_authenticator_audit_lost_total 0`,
		`nova_authenticator_upstream_seconds_bucket{outcome="ok",service="nova",le="0.05"} 1`,
		`nova_authenticator_upstream_seconds_count{outcome="unreachable",service="keystone"} 1`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("there is no %s in\n%s", want, text)
		}
	}

	d := newScene(t).open(t)
	for _, f := range []string{webForm, "", "instance_id=" + noID + "&role=x\n"} {
		d.ask(t, home, f)
	}
	problems, err := promlint.New(strings.NewReader(d.metrics(t))).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("the exposition: %v, %v", problems, err)
	}
	if n := d.metric(t, `nova_authenticator_decision_seconds_count{door="address",outcome="granted"}`); n != "1" {
		t.Errorf("decision_seconds counts %s", n)
	}
}

// ready is the body of /readyz.
type ready struct {
	Ready  bool
	Checks map[string]string
}

func readyz(t *testing.T, h http.Handler, path string) (int, ready) {
	t.Helper()
	got := get(t, h, path)
	var r ready
	if err := json.Unmarshal([]byte(got.body), &r); err != nil {
		t.Fatalf("%q: %v", got.body, err)
	}
	if ct, cc := got.header.Get("Content-Type"), got.header.Get("Cache-Control"); ct != jsonType || cc != "no-store" {
		t.Errorf("Content-Type %q, Cache-Control %q", ct, cc)
	}
	return got.status, r
}

func TestReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cloud error
		var asked int
		health := &server.Health{Dependencies: map[string]func(context.Context) error{
			"cloud": func(context.Context) error { asked++; return cloud },
			"state": func(context.Context) error { return nil },
		}}
		h := server.OperatorHandler(server.NewMetrics("", "", func() int { return 0 }), health)
		expect := func(path string, status int, process, cloud string) {
			t.Helper()
			got, body := readyz(t, h, path)
			want := ready{status == http.StatusOK, map[string]string{"process": process, "cloud": cloud, "state": "ok"}}
			if cloud == "not asked yet" {
				want.Checks["state"] = cloud
			}
			if diff := cmp.Diff(want, body); got != status || diff != "" {
				t.Errorf("%s: %d, want %d; the body (-want +got):\n%s", path, got, status, diff)
			}
		}
		expect("/readyz", http.StatusOK, "ok", "not asked yet")
		expect("/readyz/auth", http.StatusOK, "ok", "ok")
		expect("/readyz", http.StatusOK, "ok", "ok")

		cloud = errors.New("keystone: no answer in time")
		<-time.After(server.CheckKept - time.Nanosecond)
		expect("/readyz/auth", http.StatusOK, "ok", "ok") // kept
		<-time.After(time.Nanosecond)
		expect("/readyz/auth", http.StatusServiceUnavailable, "ok", "keystone: no answer in time")
		// An outage of the cloud does not take the key set out of the load balancer.
		expect("/readyz", http.StatusOK, "ok", "keystone: no answer in time")
		cloud = nil
		expect("/readyz/auth", http.StatusServiceUnavailable, "ok", "keystone: no answer in time") // kept
		<-time.After(server.CheckKept)
		expect("/readyz/auth", http.StatusOK, "ok", "ok")

		health.Stop()
		expect("/readyz", http.StatusServiceUnavailable, "stopping", "ok")
		expect("/readyz/auth", http.StatusServiceUnavailable, "stopping", "ok")
		if got := get(t, h, "/healthz"); got.status != http.StatusOK || got.body != "{\"alive\":true}\n" {
			t.Errorf("/healthz: %d %s", got.status, got.body)
		}
		if asked != 3 {
			t.Errorf("the cloud was asked %d times, want 3", asked)
		}
	})
}

// Concurrent probes make one check, which does not depend on the first of them.
func TestReadinessIsAskedOnce(t *testing.T) {
	var asked atomic.Int64
	begun, release := make(chan struct{}), make(chan struct{})
	health := &server.Health{Dependencies: map[string]func(context.Context) error{"cloud": func(ctx context.Context) error {
		asked.Add(1)
		close(begun)
		<-release
		if until, ok := ctx.Deadline(); !ok || time.Until(until) > 10*time.Second {
			t.Error("the question has no deadline")
		}
		return ctx.Err()
	}}}
	h := server.OperatorHandler(server.NewMetrics("", "", func() int { return 0 }), health)
	var probes sync.WaitGroup
	probe := func(ctx context.Context) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz/auth", nil).WithContext(ctx))
		if w.Code != http.StatusOK {
			t.Errorf("a probe is answered %d %s", w.Code, w.Body)
		}
	}
	ctx, leave := context.WithCancel(t.Context())
	probes.Go(func() { probe(ctx) })
	<-begun
	for range 20 {
		probes.Go(func() { probe(t.Context()) })
	}
	leave()
	close(release)
	probes.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("the cloud was asked %d times", n)
	}
}

func TestOperatorPagesAreReadOnly(t *testing.T) {
	h := server.OperatorHandler(server.NewMetrics("", "", func() int { return 0 }), &server.Health{})
	for _, path := range []string{"/metrics", "/healthz", "/readyz", "/readyz/auth"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, nil))
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d", path, w.Code)
		}
	}
	for _, path := range []string{"/", "/auth", "/status", "/debug/pprof/"} {
		if got := get(t, h, path); got.status != http.StatusNotFound {
			t.Errorf("%s: %d: there is no such page", path, got.status)
		}
	}
}

// A role's name is a label only if it is configured.
func TestRolesOfMalformedRequests(t *testing.T) {
	d := newScene(t).open(t)
	d.ask(t, home, "role=web")
	d.ask(t, home, "role=invented")
	d.ask(t, home, "role=web%0A")
	if web, unknown := d.decisions(t, "web", "invalid", "request_invalid"), d.decisions(t, "unknown", "invalid", "request_invalid"); web != "1" || unknown != "2" {
		t.Errorf("%s malformed requests are counted for web, %s for unknown", web, unknown)
	}
}
