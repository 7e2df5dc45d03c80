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

// longLife is the longest life of a token without a warning. A token cannot be revoked.
const longLife = time.Hour

// Warnings returns settings that are valid but often a mistake.
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
		warn("listen", "%s serves plain HTTP, so others on the network can read tokens; set tls, or proxy.trusted if a load balancer terminates TLS", c.Listen)
	}
	if w := c.Tokens.Issuer().Unsuitable(); w != "" {
		warn("auth.tokenIssuer", "%s", w)
	}
	if c.State.Type == state.TypeMemory && len(c.Auth.SigningKeyFile) == 0 {
		warn("state.type", "with memory a restart loses the signing keys, and verifiers then reject all issued tokens; use file or redis")
	}
	if m := c.MetadataService; m.Listen != "" {
		for key, list := range map[string][]netip.Prefix{"agents": m.Agents, "proxies": m.Proxies} {
			for i, p := range list {
				if p.Bits() < p.Addr().BitLen()-16 {
					warn(fmt.Sprintf("metadataService.%s[%d]", key, i), "%v is a wide network: every host in it can replay a captured signature, and so get the tokens of that instance; list the hosts", p)
				}
			}
		}
		if m.TLS.ClientCAFile == "" {
			warn("metadataService.tls", "has no clientCAFile, so a host that takes an agent's address is accepted as that agent, and can capture signatures, which never expire; set clientCAFile")
		}
	} else if c.needsProof(attest.ProofMetadataService) {
		warn("metadataService.listen", "is empty, and a role accepts only the proof metadataService: no instance can get that role; set it")
	}
	switch v := c.Vendordata; {
	case len(v.Users) == 0 && c.needsProof(attest.ProofDocument, attest.ProofAddressAndDocument):
		warn("vendordata.users", "is empty, so Nova gets no documents, and a role accepts no other proof: no instance can get that role; set it")
	case len(v.Users) > 0 && len(v.From) == 0:
		text := "is empty, so requests above 8 KiB are refused: instances with longer user data get no vendordata"
		if v.Listen == "" {
			text += ", and instances can make the server send requests to Keystone"
		}
		warn("vendordata.from", "%s; list the hosts with nova-api and nova-compute", text)
	}
	switch v := c.Vendordata; {
	case len(v.Users) == 0 && len(v.Listen)+len(v.From)+len(v.Audience)+len(v.Static) > 0:
		warn("vendordata", "has no users, so the door is closed and its other settings have no effect; set users")
	case len(v.Users) > 0 && v.Listen != "" && c.TLS.CertFile == "" && !loopback(v.Listen):
		warn("vendordata.listen", "%s serves plain HTTP, so others on the network can read Nova's token and all documents; set tls", v.Listen)
	}
	c.unlimitedAgents(warn)
	if c.Auth.TokenExpiry > longLife {
		warn("auth.tokenExpiry", "%v is long: a token cannot be revoked, and is valid until it expires", c.Auth.TokenExpiry)
	}
	for i, p := range c.Proxy.Trusted {
		if p.Bits() < p.Addr().BitLen()-16 {
			warn(fmt.Sprintf("proxy.trusted[%d]", i), "%v is a wide network: every host in it can claim the address of any instance; list the load balancers", p)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Roles)) {
		r := c.Roles[name]
		if !bound(r.ProjectID) && !bound(r.UserID) {
			warn("roles."+c.decoder.shown("roles", name), "requires no project and no user: everyone who can create an instance in any project can meet its other rules; set projectID or userID")
		}
		c.unlikelyIDs("roles."+c.decoder.shown("roles", name), r.Rules, warn)
		if r.AnyAudience && len(c.Vendordata.Users) > 0 && len(c.Vendordata.Audience) > 0 {
			warn("roles."+c.decoder.shown("roles", name)+".anyAudience", "allows vendordata.audience, for which every instance gets a token without a role: verifiers of that audience must check the claim role")
		}
		for _, a := range r.Audience {
			if strings.ContainsAny(a, ";,") {
				warn("roles."+c.decoder.shown("roles", name)+".audience", "%s has a ; or a comma: verifiers that split it there, as Keystone's mapping does, see several audiences; choose another name", secret.Text(a))
			}
		}
		if r.TokenExpiry != nil && *r.TokenExpiry > longLife {
			warn("roles."+c.decoder.shown("roles", name)+".tokenExpiry", "%v is long: a token cannot be revoked, and is valid until it expires", *r.TokenExpiry)
		}
	}
	slices.SortStableFunc(all, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return all
}

// unlimitedAgents warns of proofs and tokens that depend on metadata agents, and are denied
// unless the operator states that the agents limit headers.
func (c *Plan) unlimitedAgents(warn func(path, format string, args ...any)) {
	if c.MetadataService.AgentsLimitHeaders {
		return
	}
	const unless = "unless metadataService.agentsLimitHeaders is true: set it if each metadata agent is of Neutron 2024.2 or older, or has the limit of example/metadata-service/agent-limits"
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
		warn("vendordata.audience", "Nova's requests are denied (agents_unlimited), and no instance gets vendordata of this server, %s", unless)
	}
}

// needsProof reports whether a role accepts only these proofs.
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

// bound reports whether every pattern has a character other than a wildcard.
func bound(patterns []string) bool {
	return len(patterns) > 0 && !slices.ContainsFunc(patterns, func(p string) bool { return strings.Trim(p, "*?") == "" })
}

func loopback(listen string) bool {
	host, _, _ := net.SplitHostPort(listen) // it was parsed before
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && addr.IsLoopback())
}
