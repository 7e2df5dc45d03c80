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
	viaProtocol = "protocol"
)

// ProxyConfig names the load balancers that may name the client.
type ProxyConfig struct {
	// Trusted are the addresses of load balancers, as CIDRs. Optional: without
	// it the peer of a connection is the client, whatever a header says.
	Trusted []netip.Prefix `yaml:"trusted"`
	// Via is how they name the client: header (X-Forwarded-For) or protocol (PROXY v1
	// or v2, required from them; the header is then ignored). Default: header.
	Via string `yaml:"via"`
}

// Proxy is a parsed [ProxyConfig]. The zero value trusts no load balancer.
type Proxy struct {
	trusted  []netip.Prefix
	protocol bool
}

// Parse checks the configuration. The error joins all problems ([problem.List]).
func (c ProxyConfig) Parse() (Proxy, error) {
	problems := checkPrefixes("trusted", c.Trusted, "any client could name the address of an instance")
	if c.Via != ViaHeader && c.Via != viaProtocol {
		problems = append(problems, problem.Errorf("via", "%q is neither header nor protocol", c.Via))
	}
	if len(problems) > 0 {
		return Proxy{}, errors.Join(problems...)
	}
	return Proxy{c.Trusted, c.Via == viaProtocol}, nil
}

// checkPrefixes reports the networks that contain every address, and what that means.
func checkPrefixes(key string, list []netip.Prefix, meaning string) (problems []error) {
	for i, p := range list {
		if p.Bits() == 0 {
			problems = append(problems, problem.Errorf(fmt.Sprintf("%s[%d]", key, i), "%v contains every address: %s", p, meaning))
		}
	}
	return problems
}

// ThrottleConfig bounds requests before the cloud is asked.
type ThrottleConfig struct {
	// PerAddress bounds a client address; an IPv6 /64 may have 64 times that.
	// Default: rate 5, burst 20.
	PerAddress ratelimit.Rate `yaml:"perAddress"`
	// PerInstance bounds an instance that a document or the metadata agent
	// authenticates, in place of its address. Default: rate 1, burst 10.
	// It may use no more than 64 documents at once, and again within
	// vendordata.documentExpiry, as each is counted until it expires.
	PerInstance ratelimit.Rate `yaml:"perInstance"`
}

// MetricsConfig is the listener for monitoring.
type MetricsConfig struct {
	// Listen is the address of GET /metrics, /healthz and /readyz; "" for none.
	// Default: 127.0.0.1:18776.
	Listen string `yaml:"listen"`
}
