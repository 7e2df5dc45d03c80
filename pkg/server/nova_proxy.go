package server

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
)

const (
	// agentWait is how long Neutron's metadata agent waits for an answer
	// (neutron/agent/metadata/proxy_base.py).
	agentWait = 60 * time.Second
	novaDial  = 3 * time.Second
	// novaTime bounds a request to Nova. Vendordata may drip, and an agent allows
	// agentWait between two bytes: the agent is to give up before we do.
	novaTime = 10 * time.Minute
)

// newNovaProxy passes requests on as they came.
func newNovaProxy(nova *url.URL, log *slog.Logger, transport http.RoundTripper) http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = nova.Scheme, nova.Host
			p.Out.Host = p.In.Host
			// The path and the query byte for byte: httputil drops what it cannot
			// parse, and net/url writes some paths anew.
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
				log.Warn("nova's metadata API", "error", err)
			}
			// The statuses of a gateway do not pass older agents.
			http.Error(w, "nova's metadata API does not answer", http.StatusInternalServerError)
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		deadline := http.NewResponseController(w)
		end := time.Now().Add(novaTime)
		_ = deadline.SetReadDeadline(end) // refused by test recorders alone
		_ = deadline.SetWriteDeadline(end)
		// What Nova does not send is not added.
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
		// A connection for each request, as agents have it. Nova closes those that are
		// kept, uWSGI without a word, and what was posted then would be lost.
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12},
	}
}
