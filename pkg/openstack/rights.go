package openstack

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// right is one that the account needs: the lookup for all roles, the others for some
// roles or doors.
type right string

const (
	rightLookup   right = "lookup"   // to look instances up
	rightProjects right = "projects" // to read the names of projects
	rightTokens   right = "tokens"   // to validate tokens
)

const (
	// pauseRights is how long the cloud is not asked again for a right that it refused.
	pauseRights = 5 * time.Second

	policyProjects = "identity:get_project"
	policyTokens   = "identity:validate_token"

	// reader is the role of example/openstack.
	reader = "instance_reader"
)

// lack is a right that the cloud refuses the account.
type lack struct {
	what   string // that the account may not do
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
		remedy = s.holder.byDefault(policyShow) + ", for the instances of that project alone; for those of all projects see example/openstack"
	}
	return s.lack("be shown an instance", policyShow, remedy)
}

func (s *session) refusedProjects() error {
	return s.lack("read the names of projects, which the claims of a role want", policyProjects, s.holder.byRole("keystone", policyProjects))
}

func (s *session) refusedTokens() error {
	return s.lack("validate tokens of Nova's", policyTokens, s.holder.grant("service")+" (see example/vendordata)")
}

// refusedLookup is the right that an answer to a lookup says is missing, nil for none.
func (s *session) refusedLookup() error {
	if s.list() {
		return s.refusedList(policyAllTenants)
	}
	return s.refusedShow()
}

// byRole is what gives rights to the role of example/openstack, and that to the account.
func (h holder) byRole(service string, policies ...string) string {
	line := fmt.Sprintf(`in %s's policy.yaml, allow "%s" to role:%s (see example/openstack)`, service, strings.Join(policies, `" and "`), reader)
	if h.has(reader) {
		return line
	}
	return h.grant(reader) + "; and " + line
}

// byDefault is what gives a right that Nova's own policy gives to the role reader.
func (h holder) byDefault(policy string) string {
	if h.has("reader") {
		return fmt.Sprintf(`in nova's policy.yaml, allow "%s" to role:reader`, policy)
	}
	return h.grant("reader")
}

// wrongScope is what to set if the token is of no project, "" if it is of one. All
// policies of Nova's servers are of scope project (nova/policies/servers.py).
func (h holder) wrongScope() string {
	const project = "set OS_PROJECT_NAME and OS_PROJECT_DOMAIN_NAME (project_name and project_domain_name in clouds.yaml): nova's API of servers wants the token of a project"
	switch {
	case h.projectID != "":
		return ""
	case h.system:
		return "instead of OS_SYSTEM_SCOPE (system_scope) " + project
	case h.domainID != "":
		return "instead of OS_DOMAIN_ID or OS_DOMAIN_NAME (domain_id, domain_name) " + project
	}
	return project
}

// rights are those that the cloud refused when they were last used. The zero value is
// ready.
type rights struct {
	mu      sync.Mutex
	refused map[right]error
}

// lacks notes a right that the cloud refused, and logs it unless that is known.
func (c *Client) lacks(which right, err error) {
	c.rights.mu.Lock()
	_, known := c.rights.refused[which]
	if c.rights.refused == nil {
		c.rights.refused = map[right]error{}
	}
	c.rights.refused[which] = err
	c.rights.mu.Unlock()
	if !known {
		c.log.Error("the account lacks a right; roles that need it get no token until it is given, which is asked again", "right", string(which), "error", err)
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

// Rights is nil unless the cloud refused the account a right that some roles or doors
// need, when it was last asked. The error says which, and what gives it.
func (c *Client) Rights() error {
	c.rights.mu.Lock()
	defer c.rights.mu.Unlock()
	var all []error
	for _, which := range slices.Sorted(maps.Keys(c.rights.refused)) {
		all = append(all, c.rights.refused[which])
	}
	return errors.Join(all...)
}

// RightsRefused is how many rights [Client.Rights] tells of.
func (c *Client) RightsRefused() int {
	c.rights.mu.Lock()
	defer c.rights.mu.Unlock()
	return len(c.rights.refused)
}
