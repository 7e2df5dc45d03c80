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

func (c *Plan) compileRoles() error {
	base, proof := c.Auth.Window, c.Auth.Proof
	_, err := attest.NewRole("auth", attest.Grant{Proof: proof}, base, attest.Rules{AllowAnyInstance: true})
	all := []error{problem.At("auth", err)}
	if err != nil { // it is reported once, not at each role that inherits it
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
	if !c.Tokens.Issuer().IsZero() { // else reported at auth
		all = append(all, c.reservedAudiences()...)
	}
	return errors.Join(all...)
}

// reservedAudiences finds those of the tokens that Nova is given which belong to
// a role or to us: what asks for no role must not pass for one.
func (c *Plan) reservedAudiences() []error {
	var all []error
	for i, name := range c.Vendordata.Audience {
		if a, err := attest.ParseAudience(name); err == nil && c.RoleSet.Reserved(a) {
			all = append(all, problem.Errorf(fmt.Sprintf("vendordata.audience[%d]", i), "%q is a role's or ours, and the token in the answer to Nova has no role", name))
		}
	}
	return all
}

// LongestLife is the longest life of the tokens of any role, and of documents.
func (c *Plan) LongestLife() time.Duration {
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
