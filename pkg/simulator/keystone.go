package simulator

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	tokensPath   = "/v3/auth/tokens" //nolint:gosec // a path, no credential
	projectsPath = "/v3/projects/"
	maxTokens    = 10_000 // valid at one time; the oldest are forgotten first

	// malformed is how Keystone ends the message of every 400.
	malformed = " The server could not comply with the request since it is either malformed or otherwise incorrect. The client is assumed to be in error."
)

// Account is a user with roles in one project, on the system or in a domain.
//
// Roles decide the rights: "admin" sees every server and all fields, and validates any token; "service" validates any
// token; "project_reader" sees every project; "instance_reader" lists the servers of all projects as [Policy] allows. Every account, whatever its roles
// ("member", "reader"), sees the servers of its project and validates its own token.
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
	// Scope is where the roles are: "" in the project, [ScopeSystem] or [ScopeDomain], the domain of the user. Nova
	// allows roles elsewhere than in a project nothing, as it does with enforce_scope, its default since 2023.1.
	Scope string

	ApplicationCredentialID     string // empty: made from the account's ID and the credential's name
	ApplicationCredentialName   string
	ApplicationCredentialSecret string // empty: no application credential
}

// The scopes of an [Account] whose roles are not in a project.
const (
	ScopeSystem = "system"
	ScopeDomain = "domain"
)

// token is what Keystone remembers of a token. The account is looked up at every use, so that changed roles count at
// once, as they do in Keystone.
type token struct {
	userID          string
	method          string // "password" or "application_credential"
	auditID         string
	issued, expires time.Time // UTC, whole seconds
}

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

// SetTokenLife sets how long tokens issued from now on are valid. The default is one hour.
func (c *Cloud) SetTokenLife(life time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokenLife = life
}

// RevokeTokens makes every token issued so far worthless: 401 from Nova, 404 from Keystone when it is to be validated.
func (c *Cloud) RevokeTokens() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.tokens)
	c.tokenOrder = nil
}

// account finds the owner of a valid token.
func (c *Cloud) account(value string) (Account, token, bool) {
	now := c.time()
	c.mu.RLock()
	defer c.mu.RUnlock()
	t, ok := c.tokens[value]
	if !ok || !now.Before(t.expires) {
		return Account{}, token{}, false
	}
	a, ok := c.accounts[t.userID]
	return a, t, ok
}

func (c *Cloud) issue(a Account, method string) (string, token) {
	// Real ones are Fernet tokens of 183 characters: clients and columns that cut them off shall be noticed.
	var secret [133]byte
	rand.Read(secret[:])
	value := ("gAAAAA" + base64.RawURLEncoding.EncodeToString(secret[:]))[:183]
	now := c.time().UTC().Truncate(time.Second)

	c.mu.Lock()
	defer c.mu.Unlock()
	t := token{
		userID: a.ID, method: method, auditID: base64.RawURLEncoding.EncodeToString(secret[:16]),
		issued: now, expires: now.Add(c.tokenLife),
	}
	if len(c.tokenOrder) >= maxTokens {
		delete(c.tokens, c.tokenOrder[0])
		c.tokenOrder = c.tokenOrder[1:]
	}
	c.tokens[value] = t
	c.tokenOrder = append(c.tokenOrder, value)
	return value, t
}

func (c *Cloud) serveKeystone(w http.ResponseWriter, r *http.Request, path string) {
	setKeystoneHeaders(w)
	reading := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch strings.TrimSuffix(path, "/") {
	case "":
		if reading {
			w.Header().Set("Location", rootURL(r)+identityPrefix+"/v3/")
			reply(w, http.StatusMultipleChoices, object{"versions": object{"values": []any{keystoneVersion(r)}}})
			return
		}
	case "/v3":
		if reading {
			reply(w, http.StatusOK, object{"version": keystoneVersion(r)})
			return
		}
	case tokensPath:
		c.serveTokens(w, r)
		return
	default:
		if id, ok := strings.CutPrefix(path, projectsPath); ok && reading && id != "" && !strings.Contains(id, "/") {
			c.showProject(w, r, id)
			return
		}
		replyBytes(w, http.StatusNotFound, "text/html; charset=utf-8", []byte("<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n"))
		return
	}
	methodNotAllowed(w, "HEAD, OPTIONS, GET")
}

// showProject shows the project of any account. One without the right is told so for projects that do not exist, too.
func (c *Cloud) showProject(w http.ResponseWriter, r *http.Request, id string) {
	caller, _, ok := c.account(r.Header.Get("X-Auth-Token"))
	if !ok {
		keystoneUnauthorized(w, r)
		return
	}
	if caller.ProjectID != id && !caller.has("admin") && !caller.has("project_reader") {
		keystoneError(w, http.StatusForbidden, "You are not authorized to perform the requested action: identity:get_project.")
		return
	}
	a, ok := c.findAccount(func(a Account) bool { return a.ProjectID == id })
	if !ok {
		keystoneError(w, http.StatusNotFound, "Could not find project: "+id+".")
		return
	}
	reply(w, http.StatusOK, object{"project": object{
		"id": a.ProjectID, "name": a.ProjectName, "domain_id": a.ProjectDomainID, "parent_id": a.ProjectDomainID,
		"description": "", "enabled": true, "is_domain": false, "tags": []any{}, "options": object{},
		"links": object{"self": rootURL(r) + identityPrefix + projectsPath + a.ProjectID},
	}})
}

func setKeystoneHeaders(w http.ResponseWriter) {
	w.Header().Set("Vary", "X-Auth-Token")
	w.Header().Set("X-Openstack-Request-Id", newRequestID())
}

func (c *Cloud) serveTokens(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost:
		c.login(w, r)
	case http.MethodGet, http.MethodHead, http.MethodDelete:
		c.inspect(w, r)
	default:
		methodNotAllowed(w, "HEAD, OPTIONS, POST, GET, DELETE")
	}
}

func methodNotAllowed(w http.ResponseWriter, allow string) {
	w.Header().Set("Allow", allow)
	reply(w, http.StatusMethodNotAllowed, object{"message": "The method is not allowed for the requested URL."})
}

func keystoneVersion(r *http.Request) object {
	return object{
		"id":          "v3.14",
		"status":      "stable",
		"updated":     "2020-04-07T00:00:00Z",
		"links":       []any{object{"rel": "self", "href": rootURL(r) + identityPrefix + "/v3/"}},
		"media-types": []any{object{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}},
	}
}

func keystoneError(w http.ResponseWriter, status int, message string) {
	reply(w, status, errorObject(status, message))
}

// keystoneUnauthorized is one answer for a wrong password, an unknown user and a bad token.
func keystoneUnauthorized(w http.ResponseWriter, r *http.Request) {
	setKeystoneHeaders(w)
	w.Header().Set("WWW-Authenticate", fmt.Sprintf("Keystone uri=%q", rootURL(r)+identityPrefix+"/v3"))
	keystoneError(w, http.StatusUnauthorized, "The request you have made requires authentication.")
}

// The part of Identity API v3's authentication request that is understood.
type (
	loginRequest struct {
		Auth *struct {
			Identity *struct {
				Methods  []string `json:"methods"`
				Password struct {
					User userRef `json:"user"`
				} `json:"password"`
				ApplicationCredential struct {
					ID     string  `json:"id"`
					Name   string  `json:"name"`
					Secret string  `json:"secret"`
					User   userRef `json:"user"`
				} `json:"application_credential"`
			} `json:"identity"`
			Scope json.RawMessage `json:"scope"`
		} `json:"auth"`
	}
	domainRef struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	}
	userRef struct {
		ID       string    `json:"id"`
		Name     string    `json:"name"`
		Domain   domainRef `json:"domain"`
		Password string    `json:"password"`
	}
	scopeRef struct {
		Project *struct {
			ID     string    `json:"id"`
			Name   string    `json:"name"`
			Domain domainRef `json:"domain"`
		} `json:"project"`
		Domain *domainRef `json:"domain"`
		System *struct {
			All bool `json:"all"`
		} `json:"system"`
	}
)

func (d domainRef) is(id, name string) bool {
	return d.ID == id || d.ID == "" && d.Name == name
}

func (u userRef) is(a Account) bool {
	if u.ID != "" {
		return u.ID == a.ID
	}
	return u.Name == a.Name && u.Domain.is(a.DomainID, a.DomainName)
}

// covers tells whether the account has a role in the scope that is asked for. No scope means its own.
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

func (c *Cloud) login(w http.ResponseWriter, r *http.Request) {
	var request loginRequest
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		keystoneError(w, http.StatusBadRequest, "Expecting to find valid JSON in request body."+malformed)
		return
	}
	if request.Auth == nil {
		keystoneError(w, http.StatusBadRequest, "Expecting to find auth in request body."+malformed)
		return
	}
	if request.Auth.Identity == nil {
		keystoneError(w, http.StatusBadRequest, "'identity' is a required property")
		return
	}
	var found func(Account) bool
	identity, scope := request.Auth.Identity, request.Auth.Scope
	switch method := strings.Join(identity.Methods, " "); method {
	case "password":
		user := identity.Password.User
		found = func(a Account) bool {
			return user.is(a) && a.Password != "" && a.Password == user.Password && a.covers(scope)
		}
	case "application_credential":
		credential := identity.ApplicationCredential
		if credential.ID != "" && !c.knowsCredential(credential.ID) {
			keystoneError(w, http.StatusNotFound, "Could not find Application Credential: "+credential.ID+".")
			return
		}
		found = func(a Account) bool {
			named := credential.ID == "" && credential.Name == a.ApplicationCredentialName && credential.User.is(a)
			return (named || credential.ID == a.ApplicationCredentialID) &&
				a.ApplicationCredentialSecret != "" && a.ApplicationCredentialSecret == credential.Secret &&
				len(scope) == 0 // such a credential has its project and may not ask for another
		}
	default:
		keystoneUnauthorized(w, r)
		return
	}
	a, ok := c.findAccount(found)
	if !ok {
		keystoneUnauthorized(w, r)
		return
	}
	value, t := c.issue(a, identity.Methods[0])
	c.replyToken(w, r, http.StatusCreated, value, a, t)
}

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

// inspect validates (GET, HEAD) or revokes (DELETE) the token in X-Subject-Token for the one in X-Auth-Token.
func (c *Cloud) inspect(w http.ResponseWriter, r *http.Request) {
	own, subject := r.Header.Get("X-Auth-Token"), r.Header.Get("X-Subject-Token")
	caller, _, ok := c.account(own)
	if !ok {
		keystoneUnauthorized(w, r)
		return
	}
	a, t, ok := c.account(subject)
	action, allowed := "validate_token", caller.has("admin") || caller.has("service") || subject == own
	if r.Method == http.MethodDelete {
		action, allowed = "revoke_token", caller.has("admin") || subject == own
	}
	switch {
	case subject == "" && allowed:
		keystoneError(w, http.StatusNotFound, "No token in the request")
	case subject != "" && !strings.HasPrefix(subject, "gAAAAA"):
		// Noticed before the rights of the caller are looked at, in the real one too.
		keystoneError(w, http.StatusNotFound, "Could not recognize Fernet token")
	case subject != "" && !ok:
		keystoneError(w, http.StatusNotFound, "Failed to validate token")
	case !allowed:
		keystoneError(w, http.StatusForbidden, "You are not authorized to perform the requested action: identity:"+action+".")
	case r.Method == http.MethodDelete:
		c.mu.Lock()
		delete(c.tokens, subject)
		c.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	default:
		c.replyToken(w, r, http.StatusOK, subject, a, t)
	}
}

func (c *Cloud) replyToken(w http.ResponseWriter, r *http.Request, status int, value string, a Account, t token) {
	const timestamp = "2006-01-02T15:04:05.000000Z"
	roles := make([]any, 0, len(a.Roles))
	for _, role := range a.Roles {
		roles = append(roles, object{"id": derivedHex("role", role), "name": role})
	}
	body := object{
		"methods": []string{t.method},
		"user": object{
			"domain": object{"id": a.DomainID, "name": a.DomainName},
			"id":     a.ID, "name": a.Name, "password_expires_at": nil,
		},
		"audit_ids":  []string{t.auditID},
		"expires_at": t.expires.Format(timestamp),
		"issued_at":  t.issued.Format(timestamp),
		"roles":      roles,
	}
	switch a.Scope {
	case ScopeSystem:
		body["system"] = object{"all": true}
	case ScopeDomain:
		body["domain"] = object{"id": a.DomainID, "name": a.DomainName}
	default:
		body["project"] = object{
			"domain": object{"id": a.ProjectDomainID, "name": a.ProjectDomainName},
			"id":     a.ProjectID, "name": a.ProjectName,
		}
		body["is_domain"] = false
	}
	if t.method == "application_credential" {
		body["application_credential"] = object{
			"id": a.ApplicationCredentialID, "name": a.ApplicationCredentialName, "restricted": true,
		}
	}
	if !r.URL.Query().Has("nocatalog") {
		body["catalog"] = []any{
			catalogEntry("compute", "nova", rootURL(r)+computePrefix+"/v2.1"),
			catalogEntry("identity", "keystone", rootURL(r)+identityPrefix),
		}
	}
	w.Header().Set("X-Subject-Token", value)
	reply(w, status, object{"token": body})
}

func catalogEntry(kind, name, url string) object {
	var endpoints []any
	for _, face := range []string{"admin", "internal", "public"} {
		endpoints = append(endpoints, object{
			"id": derivedHex("endpoint", kind, face), "interface": face, "url": url,
			"region_id": "RegionOne", "region": "RegionOne",
		})
	}
	return object{"endpoints": endpoints, "id": derivedHex("service", kind), "type": kind, "name": name}
}
