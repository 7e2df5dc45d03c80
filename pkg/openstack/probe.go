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
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const (
	policyAllTenants = "os_compute_api:servers:detail:get_all_tenants"
	policyAllFilters = "os_compute_api:servers:allow_all_filters"
	policyDetail     = "os_compute_api:servers:detail"
	policyShow       = "os_compute_api:servers:show"
)

// errUntold is that a right could not be asked for.
var errUntold = errors.New("the cloud does not tell")

// probe asks the cloud for the rights that the configuration needs, in the way of the
// requests that will need them, and chooses the way of the lookup. A right that the
// cloud refuses is no error: s.info.Lacks has it, and what needs it fails.
func (c *Client) probe(ctx context.Context, s *session) error {
	s.holder, s.asked = holderOf(s.compute.ProviderClient), c.now()
	s.info.Lacks, s.info.Missing, s.refused = nil, "", nil
	for _, p := range []struct {
		right  right
		wanted bool
		ask    func(context.Context, *session) error
	}{
		{rightLookup, true, c.probeLookup},
		{rightProjects, c.projects != nil, c.probeProjects},
		{rightTokens, c.wantsCallers, c.probeTokens},
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
				s.use(cmp.Or(s.info.Lookup, LookupList), "of no project, as a right is missing", false)
			}
			s.info.Lacks = append(s.info.Lacks, err.Error())
			c.lacks(p.right, err)
		case !errors.Is(err, errUntold):
			return err
		}
	}
	return nil
}

// probeAgain is probe for an account that lacked a right, at most once in pauseRights:
// rights can be given while the server runs. It gives the session as it is then.
func (c *Client) probeAgain(ctx context.Context, s *session) (*session, error) {
	if c.now().Sub(s.asked) < pauseRights {
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
			// The cloud does not answer, and what it said last stands.
			again = *s
			again.asked = c.now()
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.session = &again
		return &again, nil
	})
}

// probeLookup prefers what Nova proves. That it shows no server with a random ID proves
// little: it looks for the server first, and asks its policy then. Its lists ask the policy
// first.
func (c *Client) probeLookup(ctx context.Context, s *session) error {
	if c.plan.lookup == LookupShow {
		return c.probeShow(ctx, s)
	}
	found, err := s.listServers(ctx, probeID())
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
	// An admin is shown the servers of a cell that is down, too, which a list leaves out.
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
	own := "of project " + s.holder.project + " alone"
	if c.plan.lookup == LookupAuto {
		own += fmt.Sprintf("; all others will be unknown (the right to list all projects, policy %s, is missing)", policyAllTenants)
	}
	s.use(LookupShow, own, true)
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
		s.use(LookupShow, "of project "+s.holder.project+", and of all others if it is an admin for Nova", false)
		s.info.Missing = "nova was not asked whether the account is an admin, as it refuses the token for a list: unless it is, the instances of project " + s.holder.project + " are found, and no others"
		return nil
	case err != nil:
		return err
	case admin:
		s.use(LookupShow, "of all projects (admin)", false)
		return nil
	case s.holder.projectID == "": // no server is in the scope of the token
		return s.refusedShow()
	}
	lists, err := c.granted(s, s.mayList(ctx, nil))
	switch {
	case err != nil || lists:
		return err
	case c.plan.lookup == LookupAuto:
		return s.refusedList(policyDetail)
	}
	// The policy of showing is the same by default, and can be another.
	s.info.Missing = fmt.Sprintf("nova refuses %s the list of its own project (policy %s), and may refuse to show an instance (policy %s): %s", s.holder, policyDetail, policyShow, s.holder.byDefault(policyDetail))
	return nil
}

// granted tells what an answer of Nova's means for a right: false is its 403. Another 404
// than that of an unknown server is not from Nova's API of servers.
func (c *Client) granted(s *session, err error) (bool, error) {
	var code gophercloud.ErrUnexpectedResponseCode
	switch {
	case err == nil:
		return true, nil
	case gophercloud.ResponseCodeIs(err, http.StatusForbidden):
		return false, nil
	case errors.As(err, &code) && code.Actual == http.StatusNotFound:
		return false, setup("nova's endpoint %s: GET servers answers 404, and not as Nova does: %q: another service is there; correct the endpoint of type compute in keystone's catalog (openstack endpoint list --service compute)",
			s.compute.Endpoint, secret.Clip(c.creds.hide(errors.New(string(code.Body))).Error(), maxShown))
	}
	return false, c.refusal("nova", err)
}

// mayShow reports whether Nova looks for a server that it is asked for by ID.
func (c *Client) mayShow(ctx context.Context, s *session) (bool, error) {
	_, err := s.compute.Get(ctx, s.compute.ServiceURL(serversPath, probeID()), nil, nil)
	if unknownServer(err) {
		return true, nil
	}
	return c.granted(s, err)
}

// isAdmin reports whether the account is an admin for Nova, which sees all projects, by
// the list of deleted servers, which Nova gives to admins alone, whatever its policy is
// (nova/api/openstack/compute/servers.py). The name of a role says little: the rule
// context_is_admin can want more. The error is errUntold if Nova takes no list from this
// token, as of an application credential with access rules.
func (c *Client) isAdmin(ctx context.Context, s *session) (bool, error) {
	err := s.mayList(ctx, url.Values{"status": {"deleted"}})
	if unauthorized(err) || gophercloud.ResponseCodeIs(err, http.StatusBadRequest) {
		return false, errUntold
	}
	return c.granted(s, err)
}

// mayList is the error of a list of servers with a random ID.
func (s *session) mayList(ctx context.Context, query url.Values) error {
	all := url.Values{"uuid": {probeID()}, "limit": {"1"}}
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

// unauthorized reports whether err is a 401, also one that a login anew did not mend.
func unauthorized(err error) bool {
	return gophercloud.ResponseCodeIs(err, http.StatusUnauthorized) ||
		errors.As(err, new(*gophercloud.ErrUnableToReauthenticate)) || errors.As(err, new(*gophercloud.ErrErrorAfterReauthentication))
}

// probeProjects asks for a project that does not exist: Keystone tells that to those alone
// who may read the projects of others.
func (c *Client) probeProjects(ctx context.Context, s *session) error {
	_, err := s.project(ctx, strings.ReplaceAll(probeID(), "-", ""))
	switch {
	case err == nil || gophercloud.ResponseCodeIs(err, http.StatusNotFound):
		return nil
	case gophercloud.ResponseCodeIs(err, http.StatusForbidden):
		return s.refusedProjects()
	}
	return c.refusal("keystone", err)
}

// probeTokens has Keystone validate no token at all. For one that does not exist it
// answers 404 to every account, as it looks for the token before it asks its policy, and
// everyone may validate a token of its own. Without a token it asks its policy first
// (keystone/common/rbac_enforcer/enforcer.py): 403, or 404 for an account that may.
func (c *Client) probeTokens(ctx context.Context, s *session) error {
	_, err := s.identity.Get(asKeystone(ctx), s.identity.ServiceURL("auth", "tokens")+"?nocatalog", nil, nil)
	var code gophercloud.ErrUnexpectedResponseCode
	switch {
	case err == nil || keystoneNotFound(err):
		return nil
	case gophercloud.ResponseCodeIs(err, http.StatusForbidden):
		return s.refusedTokens()
	case unauthorized(err) || errors.As(err, &code) && code.Actual < http.StatusInternalServerError:
		s.info.Missing = strings.TrimPrefix(s.info.Missing+"; and ", "; and ") + fmt.Sprintf(
			"keystone does not tell whether %s may validate tokens of Nova's (policy %s): by default the roles service and admin give it (see example/vendordata)", s.holder, policyTokens)
		return errUntold
	}
	return c.refusal("keystone", err)
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

// holder is whose token it is, in Keystone's words.
type holder struct {
	user, userID       string
	project, projectID string // "" for a token of another scope
	domain, domainID   string // of a token of a domain
	system             bool
	credential         bool // an application credential logged in
	roles              []string
}

// holderOf reads the token of the last login.
func holderOf(provider *gophercloud.ProviderClient) (h holder) {
	type named struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	}
	var token struct {
		User, Project, Domain named
		System                map[string]bool
		Roles                 []named
		Credential            *named `json:"application_credential"`
	}
	result, ok := provider.GetAuthResult().(interface{ ExtractInto(v any) error })
	if !ok || result.ExtractInto(&token) != nil {
		return h
	}
	h = holder{
		user: token.User.Name, userID: token.User.ID, project: token.Project.Name, projectID: token.Project.ID,
		domain: token.Domain.Name, domainID: token.Domain.ID, system: token.System["all"], credential: token.Credential != nil,
	}
	for _, r := range token.Roles {
		h.roles = append(h.roles, r.Name)
	}
	slices.Sort(h.roles)
	return h
}

func (h holder) has(role string) bool { return slices.Contains(h.roles, role) }

func (h holder) String() string {
	roles := "no role"
	if len(h.roles) > 0 {
		roles = "roles " + strings.Join(h.roles, ", ")
	}
	return fmt.Sprintf("user %s (%s, %s)", h.user, h.scope(), roles)
}

func (h holder) scope() string {
	switch {
	case h.projectID != "":
		return "project " + h.project
	case h.system:
		return "system scope all"
	case h.domainID != "":
		return "domain " + h.domain
	}
	return "no scope"
}

// grant is the command that gives the account a role.
func (h holder) grant(role string) string {
	where := "--project " + h.projectID
	switch {
	case h.projectID != "":
	case h.system:
		where = "--system all"
	default:
		where = "--domain " + h.domainID
	}
	command := fmt.Sprintf("openstack role add %s --user %s %s", where, h.userID, role)
	if h.credential {
		command += " and a new application credential, as each keeps the roles that it was made with"
	}
	return command
}
