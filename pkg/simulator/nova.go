package simulator

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	novaRoot  = "/v2.1"
	pageLimit = 1000 // servers in one answer, Nova's default max_limit

	textNotFound = "The resource could not be found.<br /><br />\n\n\n"
	serverError  = "Unexpected API Error. Please report this at http://bugs.launchpad.net/nova/ and attach the Nova API log if possible.\n<class 'nova.exception.NovaException'>"
)

// Policy is what the role instance_reader may do besides reading its own project, and what Nova's policy refuses the
// others. A new cloud has both rights and no refusal.
type Policy struct {
	// GetAllTenants allows all_tenants=1 (os_compute_api:servers:detail:get_all_tenants). Without it the answer is 403.
	GetAllTenants bool
	// AllowAllFilters allows the uuid filter (os_compute_api:servers:allow_all_filters). Without it Nova silently ignores
	// the filter and returns all servers, so that a client must compare the ID.
	AllowAllFilters bool
	// AdminIsNoAdmin gives the role admin the rights of member: context_is_admin requires more than the name of the role.
	AdminIsNoAdmin bool
	// RefuseShow refuses to show a server (os_compute_api:servers:show). Nova looks for the server first.
	RefuseShow bool
	// RefuseDetail refuses every list (os_compute_api:servers:detail), also of the account's own project.
	RefuseDetail bool
}

// forbidden answers that a policy refuses the request.
func forbidden(w http.ResponseWriter, policy string) {
	novaError(w, http.StatusForbidden, "forbidden", "Policy doesn't allow "+policy+" to be performed.")
}

// isAdmin reports whether the caller is an admin for Nova (its rule context_is_admin).
func (p Policy) isAdmin(caller Account) bool { return caller.has("admin") && !p.AdminIsNoAdmin }

// SetPolicy replaces the policy.
func (c *Cloud) SetPolicy(p Policy) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.policy = p
}

// microversion is a version of the compute API.
type microversion struct{ major, minor int }

func newestMicroversion() microversion { return microversion{2, 103} }

func (v microversion) text() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

func (v microversion) less(other microversion) bool {
	return v.major < other.major || v.major == other.major && v.minor < other.minor
}

// since reports whether the version is 2.minor or later.
func (v microversion) since(minor int) bool { return !v.less(microversion{2, minor}) }

func parseMicroversion(s string) (v microversion, ok bool) {
	major, minor, _ := strings.Cut(s, ".")
	x, errMajor := strconv.Atoi(major)
	y, errMinor := strconv.Atoi(minor)
	v = microversion{x, y}
	// The comparison refuses signs and leading zeros, as Nova does.
	return v, errMajor == nil && errMinor == nil && x > 0 && y >= 0 && v.text() == s
}

// SetMaxMicroversion makes an older cloud, which answers later versions with 406. The version must be between "2.1" and
// "2.103", the default: fields of later versions are unknown here.
func (c *Cloud) SetMaxMicroversion(version string) error {
	v, ok := parseMicroversion(version)
	if !ok || !v.since(1) || newestMicroversion().less(v) {
		return fmt.Errorf("highest microversion %q is not one of 2.1 to %s", version, newestMicroversion().text())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.max = v
	return nil
}

func (c *Cloud) maxMicroversion() microversion {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.max
}

// requestedMicroversion returns the version that the client requests from Nova, "" if there is none. The newer header
// wins over the older one.
func requestedMicroversion(h http.Header) string {
	for _, line := range h.Values("OpenStack-API-Version") {
		for part := range strings.SplitSeq(line, ",") {
			if service, version, ok := strings.Cut(strings.TrimSpace(part), " "); ok && service == "compute" {
				return strings.TrimSpace(version)
			}
		}
	}
	return strings.TrimSpace(h.Get("X-OpenStack-Nova-API-Version"))
}

// negotiate returns the version of the answer and sets its headers, or answers 400 or 406 and reports false.
func (c *Cloud) negotiate(w http.ResponseWriter, r *http.Request) (microversion, bool) {
	highest := c.maxMicroversion()
	version := microversion{2, 1}
	switch asked := requestedMicroversion(r.Header); asked {
	case "":
	case "latest":
		version = highest
	default:
		var ok bool
		if version, ok = parseMicroversion(asked); !ok {
			novaError(w, http.StatusBadRequest, "badRequest",
				"API Version String "+asked+" is of invalid format. Must be of format MajorNum.MinorNum.")
			return version, false
		}
	}
	header := w.Header()
	header.Set("Openstack-Api-Version", "compute "+version.text())
	header.Set("X-Openstack-Nova-Api-Version", version.text())
	header.Add("Vary", "OpenStack-API-Version")
	header.Add("Vary", "X-OpenStack-Nova-API-Version")
	if !version.since(1) || highest.less(version) {
		novaError(w, http.StatusNotAcceptable, "computeFault",
			fmt.Sprintf("Version %s is not supported by the API. Minimum is 2.1 and maximum is %s.", version.text(), highest.text()))
		return version, false
	}
	return version, true
}

// needsToken reports whether the path is not a version document.
func needsToken(path string) bool {
	return strings.HasPrefix(path, novaRoot+"/") && path != novaRoot+"/"
}

func (c *Cloud) serveNova(w http.ResponseWriter, r *http.Request, path string) {
	if path == "" || path == "/" {
		reply(w, http.StatusOK, c.novaVersions(r))
		return
	}
	setNovaRequestID(w)
	if path == novaRoot || path == novaRoot+"/" {
		if _, ok := c.negotiate(w, r); ok {
			reply(w, http.StatusOK, c.novaVersion(r))
		}
		return
	}
	caller, _, ok := c.account(r.Header.Get("X-Auth-Token"))
	if needsToken(path) && !ok {
		novaUnauthorized(w, r)
		return
	}
	id, ok := strings.CutPrefix(path, novaRoot+"/servers/")
	if !ok || id == "" || strings.Contains(id, "/") || r.Method != http.MethodGet {
		novaNotFound(w, r)
		return
	}
	version, ok := c.negotiate(w, r)
	switch {
	case !ok:
	case id == "detail":
		c.listServers(w, r, caller, version)
	default:
		c.showServer(w, r, caller, version, id)
	}
}

func setNovaRequestID(w http.ResponseWriter) {
	id := newRequestID()
	w.Header().Set("X-Openstack-Request-Id", id)
	w.Header().Set("X-Compute-Request-Id", id)
}

// novaError answers with a fault in Nova's own form.
func novaError(w http.ResponseWriter, status int, name, message string) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	reply(w, status, object{name: object{"code": status, "message": message}})
}

// novaUnauthorized is the answer of the Keystone middleware in front of Nova, before microversions are looked at.
func novaUnauthorized(w http.ResponseWriter, r *http.Request) {
	setNovaRequestID(w)
	w.Header().Set("WWW-Authenticate", fmt.Sprintf("Keystone uri=%q", rootURL(r)+identityPrefix))
	reply(w, http.StatusUnauthorized, errorObject(http.StatusUnauthorized, "The request you have made requires authentication."))
}

// novaNotFound is the answer to an unknown path, in the third form of Nova's errors.
func novaNotFound(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.Header.Get("Accept"), "json") {
		reply(w, http.StatusNotFound, object{"message": textNotFound, "code": "404 Not Found", "title": "Not Found"})
		return
	}
	page := "<html>\n <head>\n  <title>404 Not Found</title>\n </head>\n <body>\n  <h1>404 Not Found</h1>\n  " + textNotFound + "\n </body>\n</html>"
	replyBytes(w, http.StatusNotFound, "text/html; charset=UTF-8", []byte(page))
}

func (c *Cloud) novaVersions(r *http.Request) object {
	version := func(id, status, highest, lowest, updated string) object {
		return object{
			"id": id, "status": status, "version": highest, "min_version": lowest, "updated": updated,
			"links": []any{object{"rel": "self", "href": rootURL(r) + computePrefix + "/" + strings.TrimSuffix(id, ".0") + "/"}},
		}
	}
	return object{"versions": []any{
		version("v2.0", "SUPPORTED", "", "", "2011-01-21T11:33:21Z"),
		version("v2.1", "CURRENT", c.maxMicroversion().text(), "2.1", "2013-07-23T11:33:21Z"),
	}}
}

func (c *Cloud) novaVersion(r *http.Request) object {
	return object{"version": object{
		"id": "v2.1", "status": "CURRENT", "version": c.maxMicroversion().text(), "min_version": "2.1",
		"updated": "2013-07-23T11:33:21Z",
		"links": []any{
			object{"rel": "self", "href": rootURL(r) + computePrefix + novaRoot + "/"},
			object{"rel": "describedby", "type": "text/html", "href": "http://docs.openstack.org/"},
		},
		"media-types": []any{object{"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"}},
	}}
}

// showServer answers GET servers/{id}. Only an admin finds servers of other projects: Nova's database layer adds the
// project to the query, regardless of the policy.
func (c *Cloud) showServer(w http.ResponseWriter, r *http.Request, caller Account, version microversion, id string) {
	c.mu.RLock()
	s, ok := c.servers[strings.ToLower(id)]
	policy := c.policy
	c.mu.RUnlock()
	if !ok || !policy.isAdmin(caller) && s.ProjectID != caller.ProjectID {
		novaError(w, http.StatusNotFound, "itemNotFound", "Instance "+id+" could not be found.")
		return
	}
	if policy.RefuseShow || caller.Scope != "" {
		forbidden(w, "os_compute_api:servers:show")
		return
	}
	if s.Partial && !version.since(69) {
		novaError(w, http.StatusInternalServerError, "computeFault", serverError)
		return
	}
	v := view{root: rootURL(r) + computePrefix, version: version, caller: caller, admin: policy.isAdmin(caller), single: true}
	reply(w, http.StatusOK, object{"server": v.record(s)})
}

// listing is a parsed query of servers/detail.
type listing struct {
	allTenants bool
	uuid       string
	limit      int
	marker     string
	partial    bool // with the servers in cells that are down
	deleted    bool // only deleted servers; there are none here
}

// parseListing parses the query. Of a repeated parameter the last value counts. wrong is Nova's message, "" if the query
// is valid.
func parseListing(query url.Values, version microversion) (l listing, wrong string) {
	l.limit = pageLimit
	for _, name := range slices.Sorted(maps.Keys(query)) {
		value := query[name][len(query[name])-1]
		switch name {
		case "all_tenants":
			switch strings.ToLower(strings.TrimSpace(value)) {
			case "", "1", "t", "true", "on", "y", "yes":
				l.allTenants = true
			case "0", "f", "false", "off", "n", "no":
				l.allTenants = false
			default:
				return l, fmt.Sprintf("Unrecognized value '%s', acceptable values are: '0', '1', 'f', 'false', 'n', 'no', 'off', 'on', 't', 'true', 'y', 'yes'", value)
			}
		case "uuid":
			l.uuid = strings.ToLower(value)
		case "limit":
			if strings.Trim(value, "0123456789") != "" {
				return l, fmt.Sprintf("Invalid input for query parameters limit. Value: %[1]s. '%[1]s' does not match '^[0-9]*$'", value)
			}
			if n, err := strconv.Atoi(value); err == nil {
				l.limit = min(n, pageLimit)
			}
		case "marker":
			l.marker = strings.ToLower(value)
		case "status":
			if !strings.EqualFold(value, "deleted") {
				return l, "The simulator knows only status=deleted."
			}
			l.deleted = true
		default:
			return l, fmt.Sprintf("'%s' does not match any of the regexes: '^_'", name)
		}
	}
	// Nova cannot filter or page servers in a cell that is down, and then leaves them out.
	l.partial = version.since(69) && !query.Has("uuid") && !query.Has("limit") && !query.Has("marker")
	return l, ""
}

func (c *Cloud) listServers(w http.ResponseWriter, r *http.Request, caller Account, version microversion) {
	query := r.URL.Query()
	l, wrong := parseListing(query, version)
	if wrong != "" {
		novaError(w, http.StatusBadRequest, "badRequest", wrong)
		return
	}
	c.mu.RLock()
	policy := c.policy
	candidates := slices.Collect(maps.Values(c.servers))
	c.mu.RUnlock()
	reader, admin := caller.has("instance_reader"), policy.isAdmin(caller)
	switch {
	case policy.RefuseDetail || caller.Scope != "":
		forbidden(w, "os_compute_api:servers:detail")
		return
	case l.deleted && !admin:
		novaError(w, http.StatusForbidden, "forbidden", "Only administrators may list deleted instances")
		return
	case l.allTenants && !admin && !(reader && policy.GetAllTenants):
		forbidden(w, "os_compute_api:servers:detail:get_all_tenants")
		return
	}
	if !admin && !(reader && policy.AllowAllFilters) {
		l.uuid = ""
	}
	found := slices.DeleteFunc(candidates, func(s Server) bool {
		return l.deleted || !l.allTenants && s.ProjectID != caller.ProjectID || l.uuid != "" && s.ID != l.uuid || s.Partial && !l.partial
	})
	slices.SortFunc(found, newestFirst)
	if l.marker != "" {
		at := slices.IndexFunc(found, func(s Server) bool { return s.ID == l.marker })
		if at < 0 {
			novaError(w, http.StatusBadRequest, "badRequest", "marker ["+query.Get("marker")+"] not found")
			return
		}
		found = found[at+1:]
	}
	found = found[:min(len(found), l.limit)]

	v := view{root: rootURL(r) + computePrefix, version: version, caller: caller, admin: admin}
	records := make([]any, 0, len(found))
	for _, s := range found {
		records = append(records, v.record(s))
	}
	body := object{"servers": records}
	if l.limit > 0 && len(found) == l.limit {
		query.Set("marker", found[len(found)-1].ID)
		body["servers_links"] = []any{object{"rel": "next", "href": v.root + novaRoot + "/servers/detail?" + query.Encode()}}
	}
	reply(w, http.StatusOK, body)
}
