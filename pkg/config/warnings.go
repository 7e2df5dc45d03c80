package config

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

// longLife is how long a token may live before the operator is asked whether
// that is meant: no token is revoked.
const longLife = time.Hour

// Warnings is what can be meant as it stands, and often is not.
func (c *Plan) Warnings() []Problem {
	var all []Problem
	warn := func(path, format string, args ...any) {
		all = append(all, c.problem(problem.Problem{Path: path, Err: fmt.Errorf(format, args...)}))
	}
	for _, f := range c.guarded() {
		for _, exposed := range f.exposed() {
			if !exposed.refused {
				warn(f.key, "%s", exposed.message)
			}
		}
	}
	if c.TLS.CertFile == "" && len(c.Proxy.Trusted) == 0 && !loopback(c.Listen) {
		warn("listen", "%s speaks plain HTTP to the network, so tokens can be read on the way; set tls, or proxy.trusted if a load balancer ends TLS", c.Listen)
	}
	if w := c.Tokens.Issuer().Unsuitable(); w != "" {
		warn("auth.tokenIssuer", "%s", w)
	}
	if c.State.Type == state.TypeMemory && len(c.Auth.SigningKeyFile) == 0 {
		warn("state.type", "memory loses the signing keys with a restart, and with them every token that is out")
	}
	if m := c.MetadataService; m.Listen != "" {
		for key, list := range map[string][]netip.Prefix{"agents": m.Agents, "proxies": m.Proxies} {
			for i, p := range list {
				if p.Bits() < p.Addr().BitLen()-16 {
					warn(fmt.Sprintf("metadataService.%s[%d]", key, i), "%v is a wide network: whoever is in it and caught a signature can be that instance", p)
				}
			}
		}
		if m.TLS.ClientCAFile == "" {
			warn("metadataService.tls", "has no clientCAFile, so that whoever takes an agent's address is an agent, and reads its signatures on the way: they are good for ever")
		}
	} else if c.needsProof(attest.ProofMetadataService) {
		warn("metadataService.listen", "is empty, and a role takes no other proof than metadataService: nobody can have it")
	}
	switch v := c.Vendordata; {
	case len(v.Users) == 0 && c.needsProof(attest.ProofDocument, attest.ProofAddressAndDocument):
		warn("vendordata.users", "is empty, so there are no documents, and a role takes no other proof: nobody can have it")
	case len(v.Users) > 0 && len(v.From) == 0:
		text := "is empty, so that a request with more than 8 KiB is refused: instances with longer user data get no vendordata"
		if v.Listen == "" {
			text += ", and instances, too, can have Keystone asked about tokens"
		}
		warn("vendordata.from", "%s; name the hosts with nova-api and nova-compute", text)
	}
	switch v := c.Vendordata; {
	case len(v.Users) == 0 && len(v.Listen)+len(v.From)+len(v.Audience)+len(v.Static) > 0:
		warn("vendordata", "has no users: the door is closed, whatever else is set")
	case len(v.Users) > 0 && v.Listen != "" && c.TLS.CertFile == "" && !loopback(v.Listen):
		warn("vendordata.listen", "%s speaks plain HTTP: whoever reads along has Nova's token and every document; set tls", v.Listen)
	}
	c.unlimitedAgents(warn)
	if c.Auth.TokenExpiry > longLife {
		warn("auth.tokenExpiry", "%v is long: a token cannot be revoked", c.Auth.TokenExpiry)
	}
	for i, p := range c.Proxy.Trusted {
		if p.Bits() < p.Addr().BitLen()-16 {
			warn(fmt.Sprintf("proxy.trusted[%d]", i), "%v is a wide network: every machine in it can name any instance's address", p)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Roles)) {
		r := c.Roles[name]
		if !bound(r.ProjectID) && !bound(r.UserID) {
			warn("roles."+c.decoder.shown("roles", name), "names no project and no user: whoever can create an instance anywhere in the cloud can meet its other rules")
		}
		c.unlikelyIDs("roles."+c.decoder.shown("roles", name), r.Rules, warn)
		if r.AnyAudience && len(c.Vendordata.Users) > 0 && len(c.Vendordata.Audience) > 0 {
			warn("roles."+c.decoder.shown("roles", name)+".anyAudience", "its tokens may be for vendordata.audience, too, as every instance's are: verifiers there must look at the role claim")
		}
		for _, a := range r.Audience {
			if strings.ContainsAny(a, ";,") {
				warn("roles."+c.decoder.shown("roles", name)+".audience", "%s has a ; or a comma: verifiers that split there, as Keystone's mapping does, see more than one audience", secret.Text(a))
			}
		}
		if r.TokenExpiry != nil && *r.TokenExpiry > longLife {
			warn("roles."+c.decoder.shown("roles", name)+".tokenExpiry", "%v is long: a token cannot be revoked", *r.TokenExpiry)
		}
	}
	slices.SortStableFunc(all, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return all
}

// unlimitedAgents warns of what rests on metadata agents, and so is denied without the
// operator's word on them.
func (c *Plan) unlimitedAgents(warn func(path, format string, args ...any)) {
	if c.MetadataService.AgentsLimitHeaders {
		return
	}
	const unless = "unless metadataService.agentsLimitHeaders is true: set it when each metadata agent is of Neutron 2024.2 or older, or has the limit of example/metadata-service/agent-limits"
	proofs := func(path string, list []attest.Proof) {
		for _, p := range list {
			if p == attest.ProofMetadataService || p == attest.ProofDocument {
				warn(path, "the proof %s is denied (agents_unlimited), %s", p, unless)
			}
		}
	}
	inherited := false
	for _, name := range slices.Sorted(maps.Keys(c.Roles)) {
		r := c.Roles[name]
		inherited = inherited || r.Proof == nil
		proofs("roles."+c.decoder.shown("roles", name)+".proof", r.Proof)
	}
	if inherited {
		proofs("auth.proof", c.Auth.Proof)
	}
	if len(c.Vendordata.Audience) > 0 {
		warn("vendordata.audience", "Nova's requests are denied (agents_unlimited), and no instance gets vendordata of ours, %s", unless)
	}
}

// needsProof reports whether a role takes these proofs alone.
func (c *Plan) needsProof(these ...attest.Proof) bool {
	for _, r := range c.Roles {
		proofs := r.Proof
		if proofs == nil {
			proofs = c.Auth.Proof
		}
		if !slices.ContainsFunc(proofs, func(p attest.Proof) bool { return !slices.Contains(these, p) }) {
			return true
		}
	}
	return false
}

// bound reports whether every pattern has a character that is no wildcard.
func bound(patterns []string) bool {
	return len(patterns) > 0 && !slices.ContainsFunc(patterns, func(p string) bool { return strings.Trim(p, "*?") == "" })
}

func loopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && addr.IsLoopback())
}
