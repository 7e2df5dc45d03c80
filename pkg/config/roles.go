package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
)

// compileRoles sets RoleSet, and adds the roles to Tokens.
func (c *Plan) compileRoles() error {
	base, proof := c.Auth.Window, c.Auth.Proof
	_, err := attest.NewRole("auth", attest.Grant{Proof: proof}, base, attest.Rules{AllowAnyInstance: true})
	all := []error{problem.At("auth", err)}
	if err != nil { // report it once, not for each role that inherits the value
		base, proof = Default().Auth.Window, Default().Auth.Proof
	}
	if len(c.Roles) == 0 {
		all = append(all, problem.Errorf("roles", "is required: without a role no instance gets a token"))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Roles)) {
		r := c.Roles[name]
		w := base
		override(&w.Limit, r.Limit)
		override(&w.Period, r.Period)
		override(&w.Since, r.Since)
		if r.Proof == nil {
			r.Proof = proof
		}
		role, err := attest.NewRole(name, r.Grant, w, r.Rules)
		all = append(all, problem.At("roles."+c.decoder.shown("roles", name), errors.Join(err, c.Tokens.Add(role, r.RoleConfig))))
	}
	c.RoleSet = c.Tokens.Policy()
	if c.MetadataService.AgentsLimitHeaders {
		c.RoleSet = c.RoleSet.WithLimitedAgents()
	}
	if !c.Tokens.Issuer().IsZero() { // otherwise auth has the problem
		all = append(all, c.reservedAudiences()...)
	}
	return errors.Join(all...)
}

// reservedAudiences reports the audiences of vendordata that are reserved for a role or for
// the server: Nova's token has no role, and a verifier must not accept it as a role's.
func (c *Plan) reservedAudiences() []error {
	var all []error
	for i, name := range c.Vendordata.Audience {
		if a, err := attest.ParseAudience(name); err == nil && c.RoleSet.Reserved(a) {
			all = append(all, problem.Errorf(fmt.Sprintf("vendordata.audience[%d]", i), "%q is reserved for a role or for this server, and the token in the answer to Nova has no role; choose another audience", name))
		}
	}
	return all
}

// longestLife returns the longest life of a token or a document.
func (c *Plan) longestLife() time.Duration {
	longest := c.Tokens.LongestLife()
	if len(c.Vendordata.Users) > 0 {
		longest = max(longest, c.Vendordata.DocumentExpiry)
	}
	return longest
}

func override[T any](value *T, by *T) {
	if by != nil {
		*value = *by
	}
}
