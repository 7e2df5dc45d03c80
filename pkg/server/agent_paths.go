package server

import (
	"net/http"
	"net/url"
	"path"
	"strings"
)

// The paths of the metadata door. Nova's metadata API has nothing below this prefix
// (nova/api/metadata/handler.py).
const (
	identityPrefix = "/identity/"
	identityToken  = identityPrefix + "token"
	identityRoles  = identityPrefix + "roles"
)

// isOriginForm reports whether a request target is a path with an optional query
// (RFC 9112, section 3.2.1). An agent sends no other form. In the absolute form and in
// the authority form a proxy before us, or Nova behind us, could read another path
// than we do; the same holds for a fragment, which no request target has.
func isOriginForm(target string) bool {
	return strings.HasPrefix(target, "/") && !strings.Contains(target, "#")
}

// rawPath is the path of a target in origin form as it was sent, escapes and all.
func rawPath(r *http.Request) string {
	target, _, _ := strings.Cut(r.RequestURI, "?")
	return target
}

// leadsToUs reports whether a path is below /identity for a program that unescapes it,
// folds its case, drops parameters or cleans it. Nova must not get a path that a proxy
// between the agent and us reads as one of ours.
func leadsToUs(raw string) bool {
	p := raw
	for range 4 {
		folded := strings.ToLower(p)
		slashed := strings.ReplaceAll(folded, `\`, "/")
		for _, reading := range []string{folded, dropParameters(folded), slashed, dropParameters(slashed)} {
			clean := path.Clean("/" + reading)
			if clean == strings.TrimSuffix(identityPrefix, "/") || strings.HasPrefix(clean, identityPrefix) {
				return true
			}
		}
		next, err := url.PathUnescape(p)
		if err != nil || next == p {
			return false
		}
		p = next
	}
	return true // escaped four times over
}

func dropParameters(p string) string {
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segments, "/")
}
