package openstack

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
)

const (
	policyAllTenants = "os_compute_api:servers:detail:get_all_tenants"
	policyAllFilters = "os_compute_api:servers:allow_all_filters"
)

// probe chooses the way of the lookup and makes sure that the account has the
// right to it.
func (c *Client) probe(ctx context.Context, s *session) error {
	project, roles := describeToken(s.compute.ProviderClient)
	if c.wantsCallers && !validates(roles) {
		s.info.Missing = fmt.Sprintf("the account has the roles %s, and neither service nor admin, without which Keystone's own policy lets it validate no token of Nova's (see example/vendordata)", strings.Join(roles, ", "))
	}
	own := "of project " + project + " alone"
	admin := slices.Contains(roles, "admin")
	if c.cfg.Lookup == LookupShow || (c.cfg.Lookup == LookupAuto && admin) {
		s.use(LookupShow, own, true)
		if admin {
			s.use(LookupShow, "of all projects (admin)", false)
		}
		return nil
	}

	found, err := s.listServers(ctx, probeID())
	switch {
	case gophercloud.ResponseCodeIs(err, http.StatusForbidden):
		if c.cfg.Lookup == LookupList {
			return setup("the account may not list the instances of all projects: its role needs nova's policies %s and %s (see example/openstack)", policyAllTenants, policyAllFilters)
		}
		s.use(LookupShow, own+fmt.Sprintf("; all others will be unknown (the right to list all projects, policy %s, is missing)", policyAllTenants), true)
		return nil
	case err != nil:
		return c.refusal("nova", err)
	case len(found) > 0:
		return setup("nova ignores the uuid filter for this account, which would make every lookup a list of the whole cloud: its role needs nova's policy %s (see example/openstack)", policyAllFilters)
	}
	s.use(LookupList, "of all projects (list)", false)
	return nil
}

func (s *session) use(lookup, scope string, narrow bool) {
	s.info.Lookup, s.info.Scope, s.info.Narrow = lookup, scope, narrow
}

// probeID is an ID that no server has.
func probeID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// describeToken reads the project and roles that Keystone wrote into our token.
func describeToken(provider *gophercloud.ProviderClient) (project string, roles []string) {
	project = "(none)"
	result, ok := provider.GetAuthResult().(tokens.CreateResult)
	if !ok {
		return project, nil
	}
	if p, err := result.ExtractProject(); err == nil && p != nil {
		project = p.Name
	}
	if list, err := result.ExtractRoles(); err == nil {
		for _, r := range list {
			roles = append(roles, r.Name)
		}
	}
	return project, roles
}
