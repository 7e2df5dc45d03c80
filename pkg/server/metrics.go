package server

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const namespace = "nova_authenticator"

// Metrics are the metrics of the process.
type Metrics struct {
	registry  *prometheus.Registry
	decisions *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	upstream  *prometheus.HistogramVec
	throttled *prometheus.CounterVec
	auditLost prometheus.Counter
	unknown   prometheus.Counter
	cut       *prometheus.CounterVec
}

// NewMetrics makes the metrics. inFlight returns how many lookups are in flight.
func NewMetrics(version, commit string, inFlight func() int) *Metrics {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	auto := promauto.With(registry)
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return auto.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return auto.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, labels)
	}
	auto.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "1, with the version and commit as labels.",
		ConstLabels: prometheus.Labels{"version": version, "commit": commit},
	}).Set(1)
	m := &Metrics{
		registry: registry,
		decisions: counter("decisions_total", "Requests for a token by door, role, outcome and reason. A role that is not configured is counted as unknown.",
			"door", "role", "outcome", "reason"),
		seconds: histogram("decision_seconds", "Time from a request's arrival to its decision.",
			[]float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}, "door", "outcome"),
		upstream: histogram("upstream_seconds", "Time of a call to Keystone or Nova, by outcome.",
			[]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}, "service", "outcome"),
		throttled: counter("throttled_total", "Requests that were refused because there were too many, by limit.", "by"),
		auditLost: counter("audit_lost_total", "Audit lines that could not be written.").WithLabelValues(),
		unknown:   counter("unknown_agents_total", "Requests to the metadata service's listener from clients that are not a metadata agent.").WithLabelValues(),
		cut: counter("connections_closed_total", "Connections that were closed before their end, by listener and why: address (its address had too many), full (the listener was full, and its network had the most), unknown (the peer may not connect), no_files (there was no file descriptor).",
			"listener", "why"),
	}
	m.gauge("lookups_in_flight", "Lookups that query the cloud or wait to do so.", inFlight)
	return m
}

// gauge exports a value that is read when it is scraped.
func (m *Metrics) gauge(name, help string, value func() int) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, func() float64 { return float64(value()) }))
}

// WatchLog counts the lines of the process log that were lost.
func (m *Metrics) WatchLog(lost func() uint64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: namespace, Name: "log_lost_total", Help: "Lines of the process log that could not be written.",
	}, func() float64 { return float64(lost()) }))
}

// WatchRights exports how many rights that the configuration needs the cloud refuses to
// the account.
func (m *Metrics) WatchRights(refused func() int) {
	m.gauge("cloud_rights_refused", "Rights that lookups, roles or doors need and that the cloud refused to the account at the last check.", refused)
}

// ObserveUpstream counts a call to the cloud.
func (m *Metrics) ObserveUpstream(service, outcome string, took time.Duration) {
	m.upstream.WithLabelValues(service, outcome).Observe(took.Seconds())
}

// closed counts the connections that a listener closes.
func (m *Metrics) closed(listener string) func(why string) {
	return func(why string) { m.cut.WithLabelValues(listener, why).Inc() }
}

// observe counts a decision. known reports whether its role is configured: clients must
// not be able to make labels.
func (m *Metrics) observe(d *decision, known bool, took time.Duration) {
	role := "unknown"
	if known {
		role = d.request.role.String()
	}
	m.decisions.WithLabelValues(d.door, role, d.outcome, string(d.reason)).Inc()
	m.seconds.WithLabelValues(d.door, d.outcome).Observe(took.Seconds())
	if limit, ok := strings.CutPrefix(string(d.reason), "throttled_"); ok {
		m.throttled.WithLabelValues(limit).Inc()
	}
}
