package server

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
)

// The paths of the metadata door. Nova's metadata API has nothing below this prefix
// (nova/api/metadata/handler.py).
const (
	identityPrefix = "/identity/"
	identityToken  = identityPrefix + "token"
	identityRoles  = identityPrefix + "roles"

	// agentWait is how long Neutron's metadata agent waits for an answer
	// (neutron/agent/metadata/proxy_base.py).
	agentWait = 60 * time.Second
	novaDial  = 3 * time.Second
	// novaTime bounds a request to Nova. Vendordata may come slowly, and an agent allows
	// agentWait between two bytes: the agent must give up before we do.
	novaTime = 10 * time.Minute
)

// newNovaProxy passes requests on to Nova unchanged.
func newNovaProxy(nova *url.URL, log *slog.Logger, transport http.RoundTripper) http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = nova.Scheme, nova.Host
			p.Out.Host = p.In.Host
			// The path and the query stay as they are, byte for byte: httputil drops what it
			// cannot parse, and net/url rewrites some paths.
			p.Out.URL.RawQuery = p.In.URL.RawQuery
			if raw := rawPath(p.In); strings.HasPrefix(raw, "/") && !strings.HasPrefix(raw, "//") {
				p.Out.URL.Opaque = raw
			}
			for _, name := range []string{"Forwarded", headerForwardedFor, "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if values, ok := p.In.Header[http.CanonicalHeaderKey(name)]; ok {
					p.Out.Header[http.CanonicalHeaderKey(name)] = values
				}
			}
		},
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				log.Warn("request to nova's metadata API failed", "error", err)
			}
			answerGuest(w, r, func(w http.ResponseWriter, _ *http.Request) {
				_ = refuse(w, http.StatusInternalServerError, "temporarily_unavailable", "nova's metadata API does not answer", time.Second)
			}, nil)
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		deadline := http.NewResponseController(w)
		end := time.Now().Add(novaTime)
		_ = deadline.SetReadDeadline(end) // fails only with the recorders of tests
		_ = deadline.SetWriteDeadline(end)
		// net/http must not add a header that Nova does not send.
		w.Header()["Date"], w.Header()["Content-Type"] = nil, nil
		proxy.ServeHTTP(w, r)
	})
}

func novaTransport() *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: novaDial}).DialContext,
		TLSHandshakeTimeout:    novaDial,
		ResponseHeaderTimeout:  agentWait + listen.ReadTimeout,
		DisableCompression:     true,
		MaxResponseHeaderBytes: novaHeaders,
		// One connection for each request, as agents do it. Nova closes connections that
		// are kept, uWSGI without notice, and a request body would be lost.
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12},
	}
}

// isOriginForm reports whether a request target is a path with an optional query
// (RFC 9112, section 3.2.1). An agent sends no other form. In the absolute form and in
// the authority form a proxy before us, or Nova behind us, could read another path
// than we do; the same holds for a fragment, which no request target has.
func isOriginForm(target string) bool {
	return strings.HasPrefix(target, "/") && !strings.Contains(target, "#")
}

// rawPath returns the path of a target in origin form, with its escapes.
func rawPath(r *http.Request) string {
	target, _, _ := strings.Cut(r.RequestURI, "?")
	return target
}

// parameters are what follows a semicolon in a segment of a path.
var parameters = regexp.MustCompile(`;[^/]*`)

// leadsToUs reports whether a path is below /identity for a program that unescapes it,
// folds its case, drops parameters or cleans it. Nova must not get a path that a proxy
// between the agent and us reads as one of ours.
func leadsToUs(raw string) bool {
	p := raw
	for range 4 {
		folded := strings.ToLower(p)
		slashed := strings.ReplaceAll(folded, `\`, "/")
		for _, reading := range []string{folded, parameters.ReplaceAllString(folded, ""), slashed, parameters.ReplaceAllString(slashed, "")} {
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
	return true // it has been escaped four times, or more
}
