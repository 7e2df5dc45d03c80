package simulator

import (
	"fmt"
	"net/http"
	"strings"
)

const projectsPath = "/v3/projects/"

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

// showProject answers with the project of any account. Without the right the answer is 403 for an unknown project, too.
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

// keystoneUnauthorized is the same answer for a wrong password, an unknown user and an invalid token.
func keystoneUnauthorized(w http.ResponseWriter, r *http.Request) {
	setKeystoneHeaders(w)
	w.Header().Set("WWW-Authenticate", fmt.Sprintf("Keystone uri=%q", rootURL(r)+identityPrefix+"/v3"))
	keystoneError(w, http.StatusUnauthorized, "The request you have made requires authentication.")
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
