package server

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
)

// The ways in which a load balancer names the client.
const (
	ViaHeader   = "header"
	ViaProtocol = "protocol"
)

// ProxyConfig says who may name the client in place of being it.
type ProxyConfig struct {
	// Trusted are the addresses of load balancers, as CIDRs. Optional: without
	// it the peer of a connection is the client, and no header changes that.
	Trusted []netip.Prefix `yaml:"trusted"`
	// Via is how they name it: header (X-Forwarded-For) or protocol (PROXY v1 or
	// v2, required from them; the header is then ignored). Default: header.
	Via string `yaml:"via"`
}

// Validate reports every problem, each beginning with its key.
func (c ProxyConfig) Validate() error {
	var problems []error
	for i, p := range c.Trusted {
		if p.Bits() == 0 {
			problems = append(problems, problem.Errorf(fmt.Sprintf("trusted[%d]", i), "%v trusts everyone to name an address, an instance's among them", p))
		}
	}
	if c.Via != ViaHeader && c.Via != ViaProtocol {
		problems = append(problems, problem.Errorf("via", "%q is neither header nor protocol", c.Via))
	}
	return errors.Join(problems...)
}

// ThrottleConfig bounds requests before anything is asked of the cloud.
type ThrottleConfig struct {
	// PerAddress bounds a client address; an IPv6 /64 may have 64 times that.
	// Default: rate 5, burst 20.
	PerAddress ratelimit.Rate `yaml:"perAddress"`
	// PerInstance bounds an instance whose caller was recognised, by a document
	// or by the metadata agent, in place of its address. Default: rate 1, burst 10.
	// It shows no more than 64 documents at once, and again within
	// vendordata.documentExpiry, as each is counted until it expires.
	PerInstance ratelimit.Rate `yaml:"perInstance"`
}

// MetricsConfig says where the operator's read-only pages are.
type MetricsConfig struct {
	// Listen is the address of GET /metrics, /healthz and /readyz; "" for none.
	// Default: 127.0.0.1:18776.
	Listen string `yaml:"listen"`
}
