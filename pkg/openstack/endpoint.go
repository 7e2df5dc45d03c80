package openstack

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// endpoint is the URL of an API. Its scheme and host always come from the configuration or the catalog, never from a
// link in a version document: behind a proxy that ends TLS such links often have another scheme, and a password or
// token must not be sent there.
type endpoint struct {
	origin string // scheme, user information if there is any, and host
	path   string // without a slash at the end
}

func (e endpoint) String() string { return e.origin + e.path }

// base returns the URL as gophercloud wants it.
func (e endpoint) base() string { return e.String() + "/" }

// version returns the last segment of the path if it is a version such as v2.1, otherwise "".
func (e endpoint) version() string {
	last := e.path[strings.LastIndexByte(e.path, '/')+1:]
	if !versionSegment.MatchString(last) {
		return ""
	}
	return last
}

var versionSegment = regexp.MustCompile(`\Av[0-9]+(?:\.[0-9]+)?\z`)

// parent returns the URL without its last segment.
func (e endpoint) parent() endpoint {
	e.path = e.path[:max(0, strings.LastIndexByte(e.path, '/'))]
	return e
}

func (e endpoint) below(segment string) endpoint {
	e.path += "/" + segment
	return e
}

// parseEndpoint parses the URL of an API in the configuration. User information is refused: Keystone does not use it.
func parseEndpoint(s string) (endpoint, error) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return endpoint{}, fmt.Errorf("%s is not a URL such as https://cloud.example.com/v3", secret.Quote(s))
	}
	return endpoint{u.Scheme + "://" + u.Host, strings.TrimRight(u.EscapedPath(), "/")}, nil
}

// follow returns the URL of a link in a version document of e, with the scheme and host of e. Unless the link has the
// same host, its path must be directly below e: other paths may exist only behind a proxy.
func (e endpoint) follow(href, segment string) endpoint {
	u, err := url.Parse(href)
	if err != nil || !strings.HasPrefix(u.Path, "/") {
		return e.below(segment) // without a slash in front, the path would become a part of the host
	}
	linked := endpoint{e.origin, strings.TrimRight(u.EscapedPath(), "/")}
	_, host, _ := strings.Cut(e.origin, "://")
	if linked.version() != "" && (u.Host == host || linked.parent() == e) {
		return linked
	}
	return e.below(segment)
}

// parseCatalogURL parses a URL of the catalog, which may have user information.
func parseCatalogURL(s string) (endpoint, error) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return endpoint{}, fmt.Errorf("%s is not a URL", secret.Quote(s))
	}
	origin := u.Scheme + "://"
	if u.User != nil {
		origin += u.User.String() + "@"
	}
	return endpoint{origin + u.Host, strings.TrimRight(u.EscapedPath(), "/")}, nil
}

func shownURL(e endpoint) string { return secret.Text(e.base()) }
