package openstack

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
)

// probe asks the cloud for the rights that the configuration needs, with the requests that will need them, and chooses
// the lookup. A right that the cloud refuses is no error: it is in s.info.Lacks, and the calls that need it fail.
func (c *Client) probe(ctx context.Context, s *session) error {
	s.holder, s.probed = holderOf(s.compute.ProviderClient), c.now()
	s.info.Lacks, s.info.Missing, s.refused = nil, "", nil
	for _, p := range []struct {
		right  right
		wanted bool
		ask    func(context.Context, *session) error
	}{
		{rightLookup, true, c.probeLookup},
		{rightProjects, c.projects != nil, c.probeProjects},
		{rightTokens, len(c.callers.users) > 0, c.probeTokens},
	} {
		if !p.wanted {
			continue
		}
		err := p.ask(ctx, s)
		switch {
		case err == nil:
			c.has(p.right)
		case errors.As(err, new(*lack)):
			if p.right == rightLookup {
				s.refused = err
				s.use(cmp.Or(s.info.Lookup, LookupList), "of no project, because a right is missing", false)
			}
			s.info.Lacks = append(s.info.Lacks, err.Error())
			c.lacks(p.right, err)
		case !errors.Is(err, errUntold):
			return err
		}
	}
	return nil
}

// probeAgain repeats probe for an account that lacked a right, at most once in pauseRights, because an operator may give
// the right while the server runs. It returns the current session.
func (c *Client) probeAgain(ctx context.Context, s *session) (*session, error) {
	if c.now().Sub(s.probed) < pauseRights {
		return s, nil
	}
	return share(ctx, c, &c.probes, "", c.connectTimeout(), func(ctx context.Context) (*session, error) {
		c.mu.Lock()
		last := c.session
		c.mu.Unlock()
		if last != s {
			return last, nil
		}
		again := *s
		if err := c.probe(ctx, &again); err != nil {
			// The cloud does not answer: keep its last answer.
			again = *s
			again.probed = c.now()
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.session = &again
		return &again, nil
	})
}

// probeLookup prefers the lookup whose right Nova proves. That is the list: for it Nova checks the policy first. A 404
// to a request for a random server proves little, because Nova looks for the server before it checks the policy.
func (c *Client) probeLookup(ctx context.Context, s *session) error {
	if c.plan.lookup == LookupShow {
		return c.probeShow(ctx, s)
	}
	found, err := s.listServers(ctx, randomID())
	switch all, err := c.granted(s, err); {
	case err != nil:
		return err
	case !all && c.plan.lookup == LookupList:
		return s.refusedList(policyAllTenants)
	case !all:
		return c.probeShow(ctx, s)
	case len(found) > 0:
		return s.refusedFilter()
	}
	s.use(LookupList, "of all projects (list)", false)
	if c.plan.lookup == LookupList {
		return nil
	}
	// For an admin, show is better: it finds the servers of a cell that is down, which a list omits.
	admin, err := c.isAdmin(ctx, s)
	if errors.Is(err, errUntold) {
		return nil
	}
	if err != nil || !admin {
		return err
	}
	shows, err := c.mayShow(ctx, s)
	if err != nil || !shows {
		return err
	}
	s.use(LookupShow, "of all projects (admin)", false)
	return nil
}

func (c *Client) probeShow(ctx context.Context, s *session) error {
	own := "of project " + s.holder.project.Name
	only := own + " alone"
	if c.plan.lookup == LookupAuto {
		only += fmt.Sprintf("; all others will be unknown (the right to list all projects, policy %s, is missing)", policyAllTenants)
	}
	s.use(LookupShow, only, true)
	shows, err := c.mayShow(ctx, s)
	if err != nil {
		return err
	}
	if !shows {
		return s.refusedShow()
	}
	admin, err := c.isAdmin(ctx, s)
	switch {
	case errors.Is(err, errUntold):
		s.use(LookupShow, own+", and of all others if it is an admin for Nova", false)
		s.info.Missing = "nova refuses the token for a list, so it does not tell whether the account is an admin: unless it is, only the instances " + own + " are found"
		return nil
	case err != nil:
		return err
	case admin:
		s.use(LookupShow, "of all projects (admin)", false)
		return nil
	case s.holder.project.ID == "": // no server is in the scope of the token
		return s.refusedShow()
	}
	lists, err := c.granted(s, s.mayList(ctx, nil))
	switch {
	case err != nil || lists:
		return err
	case c.plan.lookup == LookupAuto:
		return s.refusedList(policyDetail)
	}
	// By default Nova has the same rule for listing and for showing, but an operator can change one of them.
	s.info.Missing = fmt.Sprintf("nova refuses %s the list of its own project (policy %s), and may refuse to show an instance (policy %s): %s", s.holder, policyDetail, policyShow, s.holder.byDefault(policyDetail))
	return nil
}

// granted reports whether an answer of Nova grants a right. A 403 does not. A 404, other than for an unknown server, does
// not come from Nova's API of servers.
func (c *Client) granted(s *session, err error) (bool, error) {
	var code gophercloud.ErrUnexpectedResponseCode
	switch {
	case err == nil:
		return true, nil
	case hasStatus(err, http.StatusForbidden):
		return false, nil
	case errors.As(err, &code) && code.Actual == http.StatusNotFound:
		return false, setup("nova's endpoint %s: the answer to GET servers is a 404 that is not Nova's: %q: another service is there; correct the endpoint of type compute in keystone's catalog (openstack endpoint list --service compute)",
			s.compute.Endpoint, clip(c.creds.hide(errors.New(string(code.Body))).Error()))
	}
	return false, c.refusal("nova", err)
}

// mayShow reports whether Nova looks for a server by its ID.
func (c *Client) mayShow(ctx context.Context, s *session) (bool, error) {
	_, err := s.compute.Get(ctx, s.compute.ServiceURL(serversPath, randomID()), nil, nil)
	if unknownServer(err) {
		return true, nil
	}
	return c.granted(s, err)
}

// isAdmin reports whether the account is an admin for Nova, who sees all projects, by the list of deleted servers: Nova
// gives it only to admins, whatever the policy is (nova/api/openstack/compute/servers.py). The name of a role proves
// little, because the rule context_is_admin can require more. The error is errUntold if Nova accepts no list with this
// token, such as that of an application credential with access rules.
func (c *Client) isAdmin(ctx context.Context, s *session) (bool, error) {
	err := s.mayList(ctx, url.Values{"status": {"deleted"}})
	if unauthorized(err) || hasStatus(err, http.StatusBadRequest) {
		return false, errUntold
	}
	return c.granted(s, err)
}

// mayList returns the error of a list of servers with a random ID.
func (s *session) mayList(ctx context.Context, query url.Values) error {
	all := url.Values{"uuid": {randomID()}, "limit": {"1"}}
	for name, values := range query {
		all[name] = values
	}
	var answer struct {
		Servers json.RawMessage `json:"servers"`
	}
	_, err := s.compute.Get(ctx, s.compute.ServiceURL(serversPath, "detail")+"?"+all.Encode(), &answer, nil)
	if err == nil && answer.Servers == nil {
		err = errors.New("the answer has no servers")
	}
	return err
}

// probeProjects asks for a project that does not exist: Keystone answers 404 only to an account that may read the
// projects of others.
func (c *Client) probeProjects(ctx context.Context, s *session) error {
	_, err := s.project(ctx, strings.ReplaceAll(randomID(), "-", ""))
	switch {
	case err == nil || hasStatus(err, http.StatusNotFound):
		return nil
	case hasStatus(err, http.StatusForbidden):
		return s.refusedProjects()
	}
	return c.refusal("keystone", err)
}

// probeTokens asks Keystone to validate no token at all. For an unknown token Keystone answers 404 to every account,
// because it looks for the token before it checks its policy, and every account may validate its own token. Without a
// token it checks the policy first (keystone/common/rbac_enforcer/enforcer.py): 403, or 404 for an account with the right.
func (c *Client) probeTokens(ctx context.Context, s *session) error {
	_, err := s.identity.Get(asKeystone(ctx), s.identity.ServiceURL("auth", "tokens")+"?nocatalog", nil, nil)
	var code gophercloud.ErrUnexpectedResponseCode
	switch {
	case err == nil || keystoneNotFound(err):
		return nil
	case hasStatus(err, http.StatusForbidden):
		return s.refusedTokens()
	case unauthorized(err) || errors.As(err, &code) && code.Actual < http.StatusInternalServerError:
		s.info.Missing = strings.TrimPrefix(s.info.Missing+"; and ", "; and ") + fmt.Sprintf(
			"keystone does not tell whether %s may validate the tokens of callers (policy %s): by default the roles service and admin give the right (see example/vendordata)", s.holder, policyTokens)
		return errUntold
	}
	return c.refusal("keystone", err)
}

func (s *session) use(lookup, scope string, narrow bool) {
	s.info.Lookup, s.info.Scope, s.info.Narrow = lookup, scope, narrow
}

// randomID returns an ID that no server or project has.
func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
