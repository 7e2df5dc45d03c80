package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
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
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "decisions_total",
			Help: "Requests for a token by door, role, outcome and reason. A role that is not configured is counted as unknown.",
		}, []string{"door", "role", "outcome", "reason"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "decision_seconds",
			Help:    "Time from a request's arrival to its decision.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"door", "outcome"}),
		upstream: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "upstream_seconds",
			Help:    "Time of a call to Keystone or Nova, by outcome.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"service", "outcome"}),
		throttled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "throttled_total",
			Help: "Requests that were refused because there were too many, by limit.",
		}, []string{"by"}),
		auditLost: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Name: "audit_lost_total",
			Help: "Audit lines that could not be written.",
		}),
	}
	m.unknown = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: namespace, Name: "unknown_agents_total",
		Help: "Requests to the metadata service's listener from clients that are not a metadata agent.",
	})
	m.cut = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Name: "connections_closed_total",
		Help: "Connections that were closed before their end, by listener and why: address (its address has the most that it may have), full (its network has more than all others), unknown (the peer may not connect), no_files (no file descriptor was left).",
	}, []string{"listener", "why"})
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "1, with the version and commit as labels.",
		ConstLabels: prometheus.Labels{"version": version, "commit": commit},
	})
	build.Set(1)
	m.registry.MustRegister(m.decisions, m.seconds, m.upstream, m.throttled, m.auditLost, m.unknown, m.cut, build,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: namespace, Name: "lookups_in_flight", Help: "Lookups that query the cloud or wait to do so.",
		}, func() float64 { return float64(inFlight()) }),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// WatchLog counts the lines of the process log that were lost.
func (m *Metrics) WatchLog(lost func() uint64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: namespace, Name: "log_lost_total", Help: "Lines of the process log that could not be written.",
	}, func() float64 { return float64(lost()) }))
}

// WatchRights exports how many rights that the configuration needs the cloud refuses to the account.
func (m *Metrics) WatchRights(refused func() int) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "cloud_rights_refused", Help: "Rights that lookups, roles or doors need and the cloud refused the account when it was last asked.",
	}, func() float64 { return float64(refused()) }))
}

// ObserveUpstream counts a call to the cloud.
func (m *Metrics) ObserveUpstream(service, outcome string, took time.Duration) {
	m.upstream.WithLabelValues(service, outcome).Observe(took.Seconds())
}

// closed counts the connections that a listener closes.
func (m *Metrics) closed(listener string) func(why string) {
	return func(why string) { m.cut.WithLabelValues(listener, why).Inc() }
}

// observe counts a decision. known tells whether its role is configured: clients must
// not be able to make labels.
func (m *Metrics) observe(d *decision, known bool, took time.Duration) {
	role := "unknown"
	if known {
		role = d.request.role.String()
	}
	m.decisions.WithLabelValues(d.door, role, d.outcome, string(d.reason)).Inc()
	m.seconds.WithLabelValues(d.door, d.outcome).Observe(took.Seconds())
	switch d.reason {
	case throttledAddress:
		m.throttled.WithLabelValues("address").Inc()
	case throttledInstance:
		m.throttled.WithLabelValues("instance").Inc()
	case attest.ThrottledLookups:
		m.throttled.WithLabelValues("lookups").Inc()
	case attest.ThrottledCallers:
		m.throttled.WithLabelValues("callers").Inc()
	case throttledBodies:
		m.throttled.WithLabelValues("bodies").Inc()
	}
}
