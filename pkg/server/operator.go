package server

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const (
	checkWait = 5 * time.Second
	checkKept = 2 * time.Second
)

// Health is the source of the pages about the health of the process.
type Health struct {
	// Published reports whether there is a key set to serve. Optional.
	Published func() bool
	// Dependencies check, by name, what a token needs beyond this process. Their
	// results are cached for two seconds.
	Dependencies map[string]func(context.Context) error

	stopping atomic.Bool
	checking sync.Mutex
	last     atomic.Pointer[results]
}

// results are the errors of the dependencies at a time, by name.
type results struct {
	at     time.Time
	errors map[string]error
}

// Stop makes the process unready until it ends.
func (h *Health) Stop() { h.stopping.Store(true) }

type readiness struct {
	Ready  bool              `json:"ready"`
	Checks map[string]string `json:"checks"`
}

// ready returns whether the process can serve its key set, and the last results of its
// dependencies. With ask it checks them, and a failure makes the process unready.
func (h *Health) ready(ctx context.Context, ask bool) readiness {
	if ask {
		h.check(ctx)
	}
	r := readiness{Ready: true, Checks: map[string]string{"process": "ok"}}
	switch {
	case h.stopping.Load():
		r.Ready, r.Checks["process"] = false, "stopping"
	case h.Published != nil && !h.Published():
		r.Ready, r.Checks["process"] = false, "there is no key set yet"
	}
	last := h.last.Load()
	for name := range h.Dependencies {
		switch {
		case last == nil:
			r.Checks[name] = "not asked yet"
		case last.errors[name] != nil:
			r.Checks[name] = secret.Text(last.errors[name].Error())
			r.Ready = r.Ready && !ask
		default:
			r.Checks[name] = "ok"
		}
	}
	return r
}

// check checks the dependencies unless the last results are fresh; concurrent calls wait
// for one result.
func (h *Health) check(ctx context.Context) {
	h.checking.Lock()
	defer h.checking.Unlock()
	if last := h.last.Load(); last != nil && time.Since(last.at) < checkKept {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkWait)
	defer cancel()
	found := make(map[string]error, len(h.Dependencies))
	var mu sync.Mutex
	var asked sync.WaitGroup
	for name, ask := range h.Dependencies {
		asked.Go(func() {
			err := ask(ctx)
			mu.Lock()
			defer mu.Unlock()
			found[name] = err
		})
	}
	asked.Wait()
	h.last.Store(&results{time.Now(), found})
}

// operatorHandler serves monitoring and load balancers:
//
//	GET /metrics       Prometheus
//	GET /healthz       200 while the process answers
//	GET /readyz        200 if it can serve its key set; cloud, state and keys are in
//	                   the body only, so that their outage takes no key set away
//	GET /readyz/auth   200 if it could also issue a token
func operatorHandler(m *Metrics, h *Health) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: checkWait}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]bool{"alive": true})
	})
	for path, ask := range map[string]bool{"GET /readyz": false, "GET /readyz/auth": true} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			ready := h.ready(r.Context(), ask)
			status := http.StatusOK
			if !ready.Ready {
				status = http.StatusServiceUnavailable
			}
			writeJSON(w, status, ready)
		})
	}
	return mux
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}
