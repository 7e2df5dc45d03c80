package server

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	checkWait = 5 * time.Second
	checkKept = 2 * time.Second
)

// Health is what the operator's pages say of the process.
type Health struct {
	// Cloud reports whether the cloud answers. Its result is kept for two
	// seconds.
	Cloud func(context.Context) error

	mu       sync.Mutex
	stopping bool
	cloud    error
	at       time.Time
	checked  bool

	checking sync.Mutex
}

// Stop makes the process unready, for good.
func (h *Health) Stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
}

type readiness struct {
	Ready  bool              `json:"ready"`
	Checks map[string]string `json:"checks"`
}

// ready tells whether the process can serve its key set, and what is known of
// the cloud. With ask it asks the cloud, and an answer counts.
func (h *Health) ready(ctx context.Context, ask bool) readiness {
	if ask {
		h.check(ctx)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	r := readiness{Ready: !h.stopping, Checks: map[string]string{"process": "ok", "cloud": "ok"}}
	if h.stopping {
		r.Checks["process"] = "stopping"
	}
	switch {
	case !h.checked:
		r.Checks["cloud"] = "not asked yet"
	case h.cloud != nil:
		r.Checks["cloud"] = h.cloud.Error()
		r.Ready = r.Ready && !ask
	}
	return r
}

// check asks the cloud unless that was just done; whoever comes meanwhile waits
// for the result.
func (h *Health) check(ctx context.Context) {
	h.checking.Lock()
	defer h.checking.Unlock()
	h.mu.Lock()
	fresh := h.checked && time.Since(h.at) < checkKept
	h.mu.Unlock()
	if fresh {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkWait)
	defer cancel()
	err := h.Cloud(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cloud, h.at, h.checked = err, time.Now(), true
}

// OperatorHandler serves monitoring and load balancers:
//
//	GET /metrics       Prometheus
//	GET /healthz       200 as long as the process answers
//	GET /readyz        200 when it can serve; the cloud's state in the body alone,
//	                   so that an outage of Keystone takes no key set away
//	GET /readyz/auth   200 when it could issue a token, too
func OperatorHandler(m *Metrics, h *Health) http.Handler {
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

// Status is what GET /status on the admin socket says.
type Status struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Config  string `json:"config"` // the hash of the file
	Started string `json:"started"`
}

// AdminHandler serves the operator on this machine: GET /status and
// /debug/pprof/.
func AdminHandler(status Status) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, status)
	})
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}
