package attest

import (
	"errors"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
)

var (
	errSeparator = errors.New("it has a ; or a comma, where some verifiers split it into two audiences")
	errSpelling  = errors.New("it is an http(s) URL that is not in its normal form: lower-case scheme and host, no user, no default port, no final dot, no dot segments, no needless percent-encoding and no fragment")
)

// checkSpelling returns nil if a request may choose an audience of this form. An http(s)
// URL must be in its normal form (RFC 3986, section 6.2), as verifiers differ in which
// forms they treat as equal. Keystone's mapping splits values at a semicolon
// (keystone/federation/utils.py).
func checkSpelling(name string) error {
	if strings.ContainsAny(name, ";,") {
		return errSeparator
	}
	if !isHTTP(name) {
		return nil
	}
	u, err := url.Parse(name)
	if err != nil || u.Opaque != "" || u.User != nil || u.String() != name || !strings.HasPrefix(name, u.Scheme+"://"+u.Host) ||
		strings.ContainsAny(name, "#@<>^`{|}") || strings.HasSuffix(name, "?") {
		return errSpelling
	}
	rest := strings.TrimPrefix(name, u.Scheme+"://"+u.Host)
	at, _, _ := strings.Cut(rest, "?")
	if !isNormalHost(u) || !isNormalEscaping(rest) || at != "" && at != "/" && path.Clean(at) != strings.TrimSuffix(at, "/") {
		return errSpelling
	}
	return nil
}

func isHTTP(name string) bool {
	scheme, _, ok := strings.Cut(name, ":")
	return ok && (strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https"))
}

// isNormalHost reports whether host and port of an http(s) URL are in normal form.
func isNormalHost(u *url.URL) bool {
	host, port := u.Hostname(), u.Port()
	switch {
	case host == "" || strings.ToLower(u.Host) != u.Host || strings.HasSuffix(u.Host, ":"),
		port != "" && port == map[string]string{"http": "80", "https": "443"}[u.Scheme]:
		return false
	}
	if n, err := strconv.ParseUint(port, 10, 16); port != "" && (err != nil || strconv.FormatUint(n, 10) != port) {
		return false
	}
	if strings.HasPrefix(u.Host, "[") {
		addr, err := netip.ParseAddr(host)
		return err == nil && addr.Is6() && addr.Zone() == "" && !addr.Is4In6() && addr.String() == host
	}
	if strings.ContainsFunc(host, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_')
	}) || strings.HasPrefix(host, ".") || strings.HasSuffix(host, ".") || strings.Contains(host, "..") {
		return false
	}
	// A host that ends in a number is an IPv4 address, which has many forms (WHATWG URL,
	// "ends in a number").
	last := host[strings.LastIndex(host, ".")+1:]
	if last[0] >= '0' && last[0] <= '9' {
		addr, err := netip.ParseAddr(host)
		return err == nil && addr.String() == host
	}
	return true
}

// isNormalEscaping reports whether s has percent-encoding only where needed, in capitals.
func isNormalEscaping(s string) bool {
	for {
		_, rest, ok := strings.Cut(s, "%")
		if !ok {
			return true
		}
		if len(rest) < 2 || strings.ToUpper(rest[:2]) != rest[:2] {
			return false
		}
		b, err := strconv.ParseUint(rest[:2], 16, 8)
		if err != nil || isUnreserved(byte(b)) || b == '/' || b == '\\' {
			return false
		}
		s = rest[2:]
	}
}

// isUnreserved reports whether b is an unreserved character (RFC 3986, section 2.3).
func isUnreserved(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("-._~", b) >= 0
}

// loosely returns an audience in a form that is equal for all audiences that some verifier
// may treat as equal. It is only for refusals: it makes more audiences equal than any
// verifier does.
func loosely(name string) string {
	s := strings.ToLower(name)
	for range 4 {
		next, err := url.PathUnescape(s)
		if err != nil || next == s {
			break
		}
		s = strings.ToLower(next)
	}
	s = strings.ReplaceAll(s, `\`, "/")
	if strings.HasPrefix(s, "//") {
		// Google takes //iam.googleapis.com/... with or without "https:" (the default of
		// allowed_audiences of a workload identity pool provider).
		s = "https:" + s
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || scheme != "http" && scheme != "https" {
		return strings.TrimRight(s, "/")
	}
	rest, _, _ = strings.Cut(rest, "#")
	rest, _, _ = strings.Cut(rest, "?")
	host, at, _ := strings.Cut(rest, "/")
	host = host[strings.LastIndex(host, "@")+1:]
	for _, port := range []string{":80", ":443", ":"} {
		host = strings.TrimSuffix(host, port)
	}
	return strings.TrimRight("https://"+strings.TrimRight(host, ".")+path.Clean("/"+at), "/")
}
