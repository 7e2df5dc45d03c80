package server

import (
	"net"
	"net/netip"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
)

// How many connections the listeners have at most. Those of Nova and of its metadata
// agents are for hosts of the cloud, which are fewer than instances.
const (
	Connections           = listen.MaxConnections // of instances and verifiers
	VendordataConnections = 512
	AgentConnections      = 1024
	OperatorConnections   = 64 // of the metrics' listener
)

// What a [Server] and its doors hold at most, in bytes.
const (
	// ThrottleMemory is of the limiters: by address, by /64, and by instance.
	ThrottleMemory = 3 * throttleSize * ratelimit.BucketMemory
	// NovaMemory is what a request takes that is passed on to Nova's metadata API:
	// buffers for both bodies, the headers of both sides, a connection, its goroutines.
	NovaMemory = 2*copyBuffer + maxHeaders + 2*novaHeaders + 8<<10 + 24<<10
	// NovaKernelMemory is of the kernel, for the connection to Nova.
	NovaKernelMemory = 32 << 10

	copyBuffer  = 32 << 10 // of net/http/httputil and of net/http
	novaHeaders = 16 << 10 // of Nova's answer
)

// The listeners, as labels of metrics.
const (
	listenerInstances  = "instances"
	listenerVendordata = "vendordata"
	listenerAgents     = "agents"
	listenerOperator   = "metrics"
)

// Listen opens the listener for instances and verifiers. Load balancers, and the
// hosts of Nova if they come here, do not share their connections with others.
func (s *Server) Listen(address string, t listen.TLSConfig) (net.Listener, error) {
	o := listen.Options{
		TLS: t, Connections: Connections, Trusted: s.proxy.trusts,
		Closed: s.metrics.closed(listenerInstances), Log: s.log,
	}
	if s.proxy.Via == ViaProtocol && len(s.proxy.Trusted) > 0 {
		o.Proxies = s.proxy.trusts
	}
	if len(s.nova.Users) > 0 && s.nova.Listen == "" {
		o.Preferred = s.fromNova
	}
	return listen.Open(address, o)
}

// ListenVendordata opens the listener for Nova alone.
func (s *Server) ListenVendordata(t listen.TLSConfig) (net.Listener, error) {
	return listen.Open(s.nova.Listen, listen.Options{
		TLS: t, Connections: VendordataConnections, Preferred: s.fromNova,
		Closed: s.metrics.closed(listenerVendordata), Log: s.log,
	})
}

func (s *Server) fromNova(addr netip.Addr) bool { return within(s.nova.From, addr) }

// ListenOperator opens the listener for [OperatorHandler].
func (m *Metrics) ListenOperator(address string) (net.Listener, error) {
	return listen.Open(address, listen.Options{Connections: OperatorConnections, Closed: m.closed(listenerOperator)})
}

// Listen opens the listener for metadata agents. A peer that is known not to be an
// agent is closed before a byte is read.
func (a *Agents) Listen() (net.Listener, error) {
	c := a.config
	o := listen.Options{
		TLS: c.TLS.TLSConfig, ClientCAFile: c.TLS.ClientCAFile, ClientNames: c.TLS.ClientNames,
		Trusted:     func(addr netip.Addr) bool { return within(c.Agents, addr) || within(c.Proxies, addr) },
		Connections: AgentConnections,
		Refused:     a.turnAway,
		Closed: func(why string) {
			if s := a.server.Load(); s != nil {
				s.metrics.closed(listenerAgents)(why)
			}
		},
		Log: a.log,
	}
	if len(c.Agents) > 0 {
		o.Admit = func(addr netip.Addr) error {
			if o.Trusted(addr) {
				return nil
			}
			return errNotListed
		}
	}
	if len(c.Proxies) > 0 {
		o.Proxies, o.ProxyVersion2 = func(addr netip.Addr) bool { return within(c.Proxies, addr) }, true
	}
	return listen.Open(c.Listen, o)
}
