package simulator

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

const (
	tokensPath = "/v3/auth/tokens" //nolint:gosec // a path, no credential
	maxTokens  = 10_000            // the oldest are forgotten first

	// malformed is how Keystone ends the message of every 400.
	malformed = " The server could not comply with the request since it is either malformed or otherwise incorrect. The client is assumed to be in error."
)

// token is what Keystone knows about a token. The account is looked up at every use, so that a change of its roles has
// an effect at once, as in Keystone.
type token struct {
	userID          string
	method          string // "password" or "application_credential"
	auditID         string
	issued, expires time.Time // UTC, whole seconds
}

// SetTokenLife sets how long tokens issued from now on are valid. The default is one hour.
func (c *Cloud) SetTokenLife(life time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokenLife = life
}

// RevokeTokens revokes every token issued so far: Nova answers 401, and Keystone 404 to a validation.
func (c *Cloud) RevokeTokens() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.tokens)
	c.tokenOrder = nil
}

// account returns the owner of a valid token.
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
	// Real ones are Fernet tokens of 183 characters. The same length exposes a client that truncates them.
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

// The supported part of an authentication request of Identity API v3.
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
				len(scope) == 0 // the credential has its own project, and Keystone refuses a scope
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
		// Keystone checks this before the rights of the caller.
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
