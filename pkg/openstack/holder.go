package openstack

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
)

// instanceReader is the role of example/openstack.
const instanceReader = "instance_reader"

// named is a user, project, domain or role in a token of Keystone.
type named struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// holder is the owner of a token, its scope and its roles, as Keystone says.
type holder struct {
	user, project, domain named           // a token has at most one scope
	system                map[string]bool // {"all": true} for the scope of the system
	credential            bool            // the login was with an application credential
	roles                 []string
}

// holderOf reads the token of the last login.
func holderOf(provider *gophercloud.ProviderClient) (h holder) {
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
	h = holder{user: token.User, project: token.Project, domain: token.Domain, system: token.System, credential: token.Credential != nil}
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
	return fmt.Sprintf("user %s (%s, %s)", h.user.Name, h.scope(), roles)
}

func (h holder) scope() string {
	switch {
	case h.project.ID != "":
		return "project " + h.project.Name
	case h.system["all"]:
		return "system scope all"
	case h.domain.ID != "":
		return "domain " + h.domain.Name
	}
	return "no scope"
}

// grant returns the command that gives the account a role.
func (h holder) grant(role string) string {
	where := "--domain " + h.domain.ID
	switch {
	case h.project.ID != "":
		where = "--project " + h.project.ID
	case h.system["all"]:
		where = "--system all"
	}
	command := fmt.Sprintf("openstack role add %s --user %s %s", where, h.user.ID, role)
	if h.credential {
		command += " and a new application credential, because each keeps the roles that it was made with"
	}
	return command
}

// byRole says how to give rights to the role of example/openstack, and the role to the account.
func (h holder) byRole(service string, policies ...string) string {
	line := fmt.Sprintf(`in %s's policy.yaml, allow "%s" to role:%s (see example/openstack)`, service, strings.Join(policies, `" and "`), instanceReader)
	if h.has(instanceReader) {
		return line
	}
	return h.grant(instanceReader) + "; and " + line
}

// byDefault says how to give a right that Nova's default policy gives to the role reader.
func (h holder) byDefault(policy string) string {
	if h.has("reader") {
		return fmt.Sprintf(`in nova's policy.yaml, allow "%s" to role:reader`, policy)
	}
	return h.grant("reader")
}

// wrongScope says what to set if the token has no project, and is "" if it has one. All policies of Nova's servers have
// the scope project (nova/policies/servers.py).
func (h holder) wrongScope() string {
	const project = "set OS_PROJECT_NAME and OS_PROJECT_DOMAIN_NAME (project_name and project_domain_name in clouds.yaml): nova's API of servers needs the token of a project"
	switch {
	case h.project.ID != "":
		return ""
	case h.system["all"]:
		return "instead of OS_SYSTEM_SCOPE (system_scope) " + project
	case h.domain.ID != "":
		return "instead of OS_DOMAIN_ID or OS_DOMAIN_NAME (domain_id, domain_name) " + project
	}
	return project
}
