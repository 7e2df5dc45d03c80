package openstack

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// right is a right that the account needs: the lookup for all roles, the others for some roles or doors.
type right string

const (
	rightLookup   right = "lookup"   // to look instances up
	rightProjects right = "projects" // to read the names of projects
	rightTokens   right = "tokens"   // to validate tokens
)

// pauseRights is how long the cloud is not asked again for a right that it refused.
const pauseRights = 5 * time.Second

const (
	policyAllTenants = "os_compute_api:servers:detail:get_all_tenants"
	policyAllFilters = "os_compute_api:servers:allow_all_filters"
	policyDetail     = "os_compute_api:servers:detail"
	policyShow       = "os_compute_api:servers:show"
	policyProjects   = "identity:get_project"
	policyTokens     = "identity:validate_token"
)

// lack is a right that the cloud refuses the account.
type lack struct {
	what   string // the account may not do
	who    holder
	policy string
	remedy string // a command, a line of a policy, or a setting
}

func (l *lack) Error() string {
	return fmt.Sprintf("the account may not %s: policy %s refuses %s: %s", l.what, l.policy, l.who, l.remedy)
}

func (s *session) lack(what, policy, remedy string) error {
	return &SetupError{&lack{what, s.holder, policy, remedy}}
}

func (s *session) refusedList(policy string) error {
	const what = "list the instances of all projects"
	if remedy := s.holder.wrongScope(); remedy != "" {
		return s.lack(what, policy, remedy)
	}
	if policy == policyDetail {
		return s.lack("list instances", policy, s.holder.byDefault(policy))
	}
	return s.lack(what, policy, s.holder.byRole("nova", policyAllTenants, policyAllFilters))
}

func (s *session) refusedFilter() error {
	return s.lack("find one instance in the list, so that every lookup would be a list of the whole cloud", policyAllFilters, s.holder.byRole("nova", policyAllFilters))
}

func (s *session) refusedShow() error {
	remedy := s.holder.wrongScope()
	if remedy == "" {
		remedy = s.holder.byDefault(policyShow) + ", for the instances of only that project; for those of all projects see example/openstack"
	}
	return s.lack("show an instance", policyShow, remedy)
}

func (s *session) refusedProjects() error {
	return s.lack("read the names of projects, which the claims of a role need", policyProjects, s.holder.byRole("keystone", policyProjects))
}

func (s *session) refusedTokens() error {
	return s.lack("validate the tokens of callers", policyTokens, s.holder.grant("service")+" (see example/vendordata)")
}

// refusedLookup is the error for a 403 to a lookup.
func (s *session) refusedLookup() error {
	if s.lists() {
		return s.refusedList(policyAllTenants)
	}
	return s.refusedShow()
}

// rights are the rights that the cloud refused when they were last used. The zero value is ready for use.
type rights struct {
	mu      sync.Mutex
	refused map[right]error
}

// lacks notes a right that the cloud refused, and logs it the first time.
func (c *Client) lacks(which right, err error) {
	c.rights.mu.Lock()
	_, known := c.rights.refused[which]
	if c.rights.refused == nil {
		c.rights.refused = map[right]error{}
	}
	c.rights.refused[which] = err
	c.rights.mu.Unlock()
	if !known {
		c.log.Error("the account lacks a right; roles that need it get no token until the cloud grants it; the server asks again", "right", string(which), "error", err)
	}
}

// has notes a right that the cloud granted.
func (c *Client) has(which right) {
	c.rights.mu.Lock()
	_, lacked := c.rights.refused[which]
	delete(c.rights.refused, which)
	c.rights.mu.Unlock()
	if lacked {
		c.log.Info("the account has a right that it lacked", "right", string(which))
	}
}

// Refused returns an error for each right that roles or doors need and that the cloud refused when it was last asked. It
// says which right, and how to give it.
func (c *Client) Refused() []error {
	c.rights.mu.Lock()
	defer c.rights.mu.Unlock()
	var all []error
	for _, which := range slices.Sorted(maps.Keys(c.rights.refused)) {
		all = append(all, c.rights.refused[which])
	}
	return all
}
