package simulator

import (
	"cmp"
	"encoding/json"
	"slices"
)

// Account is a user with roles in one project, on the system or in a domain.
//
// Roles decide the rights: "admin" sees every server and all fields, and validates any token; "service" validates any
// token; "project_reader" sees every project; "instance_reader" lists the servers of all projects as [Policy] allows.
// Every account sees the servers of its project and validates its own token.
type Account struct {
	Name              string
	ID                string // empty: made from the name and domain
	Password          string // empty: no login by password
	DomainID          string // empty: "default"
	DomainName        string // empty: "Default"
	ProjectID         string // empty: made from the project's name and domain
	ProjectName       string
	ProjectDomainID   string // empty: "default"
	ProjectDomainName string // empty: "Default"
	Roles             []string
	// Scope is where the roles are: "" in the project, [ScopeSystem], or [ScopeDomain] in the domain of the user. Nova
	// gives rights only to roles in a project, as with enforce_scope, its default since 2023.1.
	Scope string

	ApplicationCredentialID     string // empty: made from the account's ID and the credential's name
	ApplicationCredentialName   string
	ApplicationCredentialSecret string // empty: no application credential
}

// The values of [Account.Scope].
const (
	ScopeSystem = "system"
	ScopeDomain = "domain"
)

// AddAccount adds an account, or replaces the one with the same ID. Tokens of a replaced account stay valid.
func (c *Cloud) AddAccount(a Account) {
	a.Roles = slices.Clone(a.Roles)
	a.DomainID = cmp.Or(a.DomainID, "default")
	a.DomainName = cmp.Or(a.DomainName, "Default")
	a.ProjectDomainID = cmp.Or(a.ProjectDomainID, "default")
	a.ProjectDomainName = cmp.Or(a.ProjectDomainName, "Default")
	a.ID = cmp.Or(a.ID, derivedHex("user", a.DomainID, a.Name))
	a.ProjectID = cmp.Or(a.ProjectID, derivedHex("project", a.ProjectDomainID, a.ProjectName))
	a.ApplicationCredentialID = cmp.Or(a.ApplicationCredentialID, derivedHex("credential", a.ID, a.ApplicationCredentialName))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.accounts[a.ID] = a
}

func (a Account) has(role string) bool { return slices.Contains(a.Roles, role) }

func (c *Cloud) findAccount(found func(Account) bool) (Account, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, a := range c.accounts {
		if found(a) {
			return a, true
		}
	}
	return Account{}, false
}

func (c *Cloud) knowsCredential(id string) bool {
	_, ok := c.findAccount(func(a Account) bool {
		return a.ApplicationCredentialID == id && a.ApplicationCredentialSecret != ""
	})
	return ok
}

// covers reports whether the account has a role in the scope of a login. Without a scope it is its own.
func (a Account) covers(scope json.RawMessage) bool {
	if len(scope) == 0 || string(scope) == "null" || string(scope) == `"unscoped"` {
		return true
	}
	var s scopeRef
	if err := json.Unmarshal(scope, &s); err != nil {
		return false
	}
	switch a.Scope {
	case ScopeSystem:
		return s.System != nil && s.System.All
	case ScopeDomain:
		return s.Domain != nil && s.Domain.is(a.DomainID, a.DomainName)
	}
	if s.Project == nil {
		return false
	}
	if s.Project.ID != "" {
		return s.Project.ID == a.ProjectID
	}
	return s.Project.Name == a.ProjectName && s.Project.Domain.is(a.ProjectDomainID, a.ProjectDomainName)
}
