package attest

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// Issuer is the URL of the issuer: the `iss` claim, below which verifiers find its
// documents. The zero value is invalid.
type Issuer struct {
	text string
	url  url.URL
}

// A path that verifiers can only write in one way.
var issuerPath = regexp.MustCompile(`\A(?:/[A-Za-z0-9._~-]+)*/?\z`)

// ParseIssuer takes a URL to which a verifier can append a path, and which it can
// compare byte for byte (OpenID Connect Discovery 1.0, section 4).
func ParseIssuer(s string) (Issuer, error) {
	u, err := url.Parse(s)
	switch {
	case s == "":
		return Issuer{}, errors.New("is required")
	case err != nil:
		return Issuer{}, err
	case (u.Scheme != "https" && u.Scheme != "http") || u.Hostname() == "" || u.Opaque != "":
		return Issuer{}, fmt.Errorf("%q is not a URL such as https://id.example.com", s)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#"):
		return Issuer{}, fmt.Errorf("%q has a user, a query or a fragment, which OpenID Connect forbids", s)
	case !issuerPath.MatchString(u.EscapedPath()) || strings.Contains(u.Path+"/", "/../") || strings.Contains(u.Path+"/", "/./"):
		return Issuer{}, fmt.Errorf("%q has a path that can be written in several ways; use A-Z a-z 0-9 . _ ~ - and single slashes", s)
	}
	return Issuer{s, *u}, nil
}

// String returns the URL as it was written; "" for the zero value.
func (i Issuer) String() string { return i.text }

// IsZero reports whether i is the invalid zero value.
func (i Issuer) IsZero() bool { return i.text == "" }

// Path returns the path of the URL without a slash at its end; "" for none.
func (i Issuer) Path() string { return strings.TrimSuffix(i.url.Path, "/") }

// Below returns the URL of a path that begins with a slash.
func (i Issuer) Below(path string) string { return strings.TrimSuffix(i.text, "/") + path }

// Unsuitable says which verifiers cannot use the issuer; "" if all can.
func (i Issuer) Unsuitable() string {
	switch {
	case i.url.Scheme == "http":
		return i.text + " is not https: an attacker on the network can give verifiers other keys, and most verifiers reject it"
	case strings.HasSuffix(i.text, "/"):
		return i.text + " ends in a slash: verifiers compare byte for byte, and some remove it"
	}
	return ""
}

// audienceOf is roles/<role> resolved against the issuer (RFC 3986, section 5.2).
func (i Issuer) audienceOf(role RoleName) Audience {
	return Audience{i.url.ResolveReference(&url.URL{Path: "roles/" + role.String()}).String()}
}

// namedIn reports whether an audience contains the issuer's host.
func (i Issuer) namedIn(a Audience) bool {
	host := strings.TrimRight(strings.ToLower(i.url.Hostname()), ".")
	return strings.Contains(loosely(a.name), host) || strings.Contains(strings.ToLower(a.name), host)
}
