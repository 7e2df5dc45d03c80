package clouds

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// The ways to log in.
const (
	password              = "password"
	applicationCredential = "application credential"
)

// kind returns the way to log in that auth_type names, "" if there is none.
func (s *settings) kind() (string, error) {
	v := s.top("auth_type")
	for _, other := range []*value{s.top("auth_plugin"), s.root.get("auth-type")} {
		if v == nil {
			v = other
		}
	}
	if !v.isText() {
		return "", nil
	}
	dashed := v == s.root.get("auth-type") // openstacksdk refuses it or ignores it
	switch v.text {
	case "password":
		return password, nil
	case "v3password":
		s.generic = dashed
		return password, nil
	case "v3applicationcredential", "applicationcredential":
		if s.generic = dashed; dashed {
			return "", nil
		}
		return applicationCredential, nil
	}
	return "", fmt.Errorf("%s: the auth_type %s is not supported: set it to password, v3password or v3applicationcredential", v.path, secret.Quote(v.text))
}

func (s *settings) account(c *Cloud, kind string) error {
	given := Credential{
		ID: s.login("application_credential_id"), Name: s.login("application_credential_name"), Secret: s.login("application_credential_secret"),
	}
	word := s.login("password")
	if kind == "" {
		kind = password
		if (given.ID != "" || given.Name != "") && (word == "" || s.login("user_id", "username", "user_name") == "") {
			kind = applicationCredential
		}
	}
	ofAll := Domain{s.login("default_domain_id"), s.login("default_domain_name")}
	if !s.generic {
		ofAll = Domain{}
	}
	// The domain of the scope is the default for that of the user.
	domain := Domain{s.scope("domain_id"), s.scope("domain_name")}
	project := Name{ID: s.scope("tenant_id", "project_id"), Name: s.scope("tenant_name", "project_name")}
	ofUser := Domain{s.scope("user_domain_id"), s.scope("user_domain_name")}
	ofProject := Domain{s.scope("project_domain_id"), s.scope("project_domain_name")}
	if project != (Name{}) {
		ofUser = Domain{cmp.Or(ofUser.ID, domain.ID), cmp.Or(ofUser.Name, domain.Name)}
		ofProject = Domain{cmp.Or(ofProject.ID, domain.ID), cmp.Or(ofProject.Name, domain.Name)}
		domain = Domain{}
	}
	// keystoneauth1 prefers an ID, even that of the default domain.
	ofUser = Domain{cmp.Or(ofUser.ID, ofAll.ID), cmp.Or(ofUser.Name, ofAll.Name)}
	ofProject = Domain{cmp.Or(ofProject.ID, ofAll.ID), cmp.Or(ofProject.Name, ofAll.Name)}
	// As in python-openstackclient, for users and projects without a domain.
	fallback := Domain{ID: cmp.Or(s.login("default_domain"), "default")}
	c.User = named(s.login("user_id"), s.login("username", "user_name"), ofUser, fallback)
	if c.User == (Name{}) && (kind == password || given.ID == "") {
		return fmt.Errorf("there is no user: set %s or %s", s.key("username"), s.key("user_id"))
	}
	if kind == applicationCredential {
		return s.credential(c, given, word)
	}
	if given != (Credential{}) {
		s.warn("%s: the application credential is not used, because there is a password: set %s to v3applicationcredential to use it", c.Source, s.typeKey())
	}
	if c.Password = word; word == "" {
		hint := ""
		if given != (Credential{}) {
			hint = fmt.Sprintf("; for the application credential set %s to v3applicationcredential", s.typeKey())
		}
		return fmt.Errorf("there is no password: set %s%s", s.key("password"), hint)
	}
	return s.target(c, project, ofProject, domain, fallback)
}

// credential sets the application credential. It has a project of its own, so Keystone refuses another scope.
func (s *settings) credential(c *Cloud, given Credential, word string) error {
	switch {
	case given.ID == "" && given.Name == "":
		return fmt.Errorf("there is no application credential: set %s or %s", s.key("application_credential_id"), s.key("application_credential_name"))
	case given.Secret == "":
		return fmt.Errorf("there is no secret of the application credential: set %s", s.key("application_credential_secret"))
	}
	if given.ID != "" {
		given.Name, c.User = "", Name{}
	}
	if word != "" {
		s.warn("%s: the password is not used, because there is an application credential", c.Source)
	}
	for _, name := range []string{"system_scope", "trust_id"} {
		if s.login(name) != "" {
			s.warn("%s is not used: an application credential has its own project", s.key(name))
		}
	}
	c.ApplicationCredential = given
	return nil
}

// target sets the scope. Keystone accepts only one.
func (s *settings) target(c *Cloud, project Name, ofProject, domain, fallback Domain) error {
	system, trust := s.login("system_scope"), s.login("trust_id")
	var have []string
	if project != (Name{}) {
		have = append(have, "project")
		c.Scope.Project = named(project.ID, project.Name, ofProject, fallback)
	}
	if domain != (Domain{}) {
		have = append(have, "domain")
		c.Scope.Domain = one(domain)
	}
	if trust != "" {
		have = append(have, "trust")
		c.Scope.Trust = trust
	}
	if system != "" {
		have = append(have, "system")
		c.Scope.System = true
		if system != "all" {
			return fmt.Errorf("%s: the only system scope is all", s.key("system_scope"))
		}
	}
	if len(have) > 1 {
		return fmt.Errorf("a login has one scope, and this one has several: %s; remove all but one", strings.Join(have, ", "))
	}
	return nil
}

// named returns a user or a project: an ID, or a name in a domain.
func named(id, name string, domain, fallback Domain) Name {
	switch {
	case id != "":
		return Name{ID: id}
	case name == "":
		return Name{}
	case domain == (Domain{}):
		domain = fallback
	}
	return Name{Name: name, Domain: one(domain)}
}

// one returns a domain by its ID, otherwise by its name.
func one(d Domain) Domain {
	if d.ID != "" {
		d.Name = ""
	}
	return d
}
