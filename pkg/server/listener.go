package server

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
)

// The most connections that each listener has. The listeners of Nova and of its metadata
// agents are for hosts of the cloud, of which there are fewer than instances.
const (
	Connections           = listen.MaxConnections // of instances and verifiers
	VendordataConnections = 512
	AgentConnections      = 1024
	OperatorConnections   = 64 // of the metrics' listener
)

// The most bytes that a [Server] and its doors hold.
const (
	// ThrottleMemory is of the limiters: by address, by /64, and by instance.
	ThrottleMemory = 3 * throttleSize * ratelimit.BucketMemory
	// NovaMemory is of a request that is passed on to Nova's metadata API:
	// buffers for both bodies, the headers of both sides, a connection, its goroutines.
	NovaMemory = 2*copyBuffer + maxHeaders + 2*novaHeaders + 8<<10 + 24<<10
	// NovaKernelMemory is of the kernel, for the connection to Nova.
	NovaKernelMemory = 32 << 10

	copyBuffer  = 32 << 10 // of net/http/httputil and of net/http
	novaHeaders = 16 << 10 // of Nova's answer
)

// Listen opens the listener for instances and verifiers and, if vendordata has its own
// address, the listener for Nova. Load balancers, and the hosts of Nova if they use the
// first listener, have connections that other clients cannot take.
func (s *Server) Listen(address listen.Address, t *listen.Certificate) ([]listen.Endpoint, error) {
	o := listen.Options{
		TLS: t, Connections: Connections, Trusted: s.opts.Proxy.trusted.contain,
		Closed: s.opts.Metrics.closed("instances"), Log: s.opts.Log,
	}
	if s.opts.Proxy.protocol && len(s.opts.Proxy.trusted) > 0 {
		o.Proxies = s.opts.Proxy.trusted.contain
	}
	separate := s.opts.Vendordata.separate()
	if s.opts.Vendordata.open() && !separate {
		o.Preferred = s.opts.Vendordata.from.contain
	}
	l, err := listen.Open(address, o)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	all := []listen.Endpoint{{Name: "instances", Listener: l, Handler: s, Refuse: refuseUnread}}
	if separate {
		o := listen.Options{
			TLS: t, Connections: VendordataConnections, Preferred: s.opts.Vendordata.from.contain,
			Closed: s.opts.Metrics.closed("vendordata"), Log: s.opts.Log,
		}
		nova, err := listen.Open(s.opts.Vendordata.listen, o)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("vendordata.listen: %w", err), l.Close())
		}
		e := s.newEcho()
		s.routeVendordata(e)
		all = append(all, listen.Endpoint{Name: "nova", Listener: nova, Handler: e, Refuse: refuseUnread})
	}
	return all, nil
}

// Listen opens the listener for metadata agents. It closes the connection of a peer that
// cannot be an agent before it reads a byte.
func (a *Agents) Listen() (listen.Endpoint, error) {
	c := a.config
	o := listen.Options{
		TLS: c.tls, ClientCAs: c.clientCAs, ClientNames: c.clientNames,
		Trusted:     append(slices.Clone(c.agents), c.proxies...).contain,
		Connections: AgentConnections,
		Refused:     func(peer string, why error) { a.recordRefusal(newRequestID(), peer, why) },
		Closed: func(why string) {
			if s := a.server.Load(); s != nil {
				s.opts.Metrics.closed("agents")(why)
			}
		},
		Log: a.log,
	}
	if len(c.agents) > 0 {
		o.Admit = func(addr netip.Addr) error {
			if o.Trusted(addr) {
				return nil
			}
			return errNotListed
		}
	}
	if len(c.proxies) > 0 {
		o.Proxies, o.ProxyVersion2 = c.proxies.contain, true
	}
	l, err := listen.Open(c.listen, o)
	return listen.Endpoint{Name: "metadata agents", Listener: l, Handler: a, Refuse: refuseUnreadOfGuest}, err
}

// ListenOperator opens the listener for monitoring and load balancers.
func ListenOperator(address listen.Address, m *Metrics, h *Health) (listen.Endpoint, error) {
	l, err := listen.Open(address, listen.Options{Connections: OperatorConnections, Closed: m.closed("metrics")})
	return listen.Endpoint{Name: "metrics", Listener: l, Handler: operatorHandler(m, h)}, err
}
