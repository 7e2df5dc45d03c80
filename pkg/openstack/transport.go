package openstack

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const (
	// maxBody limits the size of an answer. A server record takes about 3 KiB, a token with its catalog about 30.
	maxBody = 1 << 20
	// maxOrigins limits the hosts that logins have named. A catalog seldom changes.
	maxOrigins = 16
)

type serviceKey struct{}

// asKeystone marks a call to Keystone for [Options.Observe]. All other calls are to Nova.
func asKeystone(ctx context.Context) context.Context {
	return context.WithValue(ctx, serviceKey{}, "keystone")
}

func serviceOf(ctx context.Context) string {
	if s, ok := ctx.Value(serviceKey{}).(string); ok {
		return s
	}
	return "nova"
}

// transport limits and observes every call, and sends tokens and passwords only to allowed hosts.
type transport struct {
	base    *http.Transport
	observe func(service, outcome string, took time.Duration)

	mu      sync.Mutex
	allowed map[string]bool // scheme and host
}

// allow permits secrets for the scheme and host of an endpoint that the configuration or the catalog names.
func (t *transport) allow(e endpoint) {
	u, err := url.Parse(e.origin)
	if err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.allowed == nil || len(t.allowed) >= maxOrigins {
		t.allowed = map[string]bool{}
	}
	t.allowed[u.Scheme+"://"+u.Host] = true
}

// allows reports whether a request may be sent. One without a token and a body has no secret in it.
func (t *transport) allows(r *http.Request) bool {
	if r.Header.Get("X-Auth-Token") == "" && r.Header.Get("X-Subject-Token") == "" && r.Body == nil {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.allowed[r.URL.Scheme+"://"+r.URL.Host]
}

func newTransport(plan Plan, creds credentials, observe func(service, outcome string, took time.Duration)) *transport {
	base := &http.Transport{
		Proxy:                  proxyFromEnvironment,
		TLSClientConfig:        creds.tls,
		DialContext:            (&net.Dialer{Timeout: plan.timeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:    plan.timeout,
		ResponseHeaderTimeout:  plan.timeout,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConns:           2 * plan.maxConcurrent,
		MaxIdleConnsPerHost:    plan.maxConcurrent,
		MaxConnsPerHost:        2*plan.maxConcurrent + 2*callerChecks, // Keystone and Nova may be on one host
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
	}
	return &transport{base: base, observe: observe}
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !t.allows(r) {
		return nil, errElsewhere
	}
	begin := time.Now()
	resp, err := t.base.RoundTrip(r)
	if t.observe != nil {
		t.observe(serviceOf(r.Context()), outcome(resp, err), time.Since(begin))
	}
	if err != nil {
		return nil, err
	}
	resp.Body = http.MaxBytesReader(nil, resp.Body, maxBody)
	return resp, nil
}

func outcome(resp *http.Response, err error) string {
	switch {
	case err != nil:
		return "unreachable"
	case resp.StatusCode < 400:
		return "ok"
	case resp.StatusCode == http.StatusNotFound:
		return "not_found"
	case resp.StatusCode < 500:
		return "refused"
	}
	return "error"
}

func newHTTPClient(plan Plan, t *transport) http.Client {
	return http.Client{
		Transport: t,
		// gophercloud makes some calls without a context.
		Timeout:       plan.timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return errRedirect },
	}
}

// proxyFromEnvironment is [http.ProxyFromEnvironment] with an error that does not quote the URL, which may have a
// password in it.
func proxyFromEnvironment(r *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(r)
	if err != nil {
		return nil, errors.New("HTTP_PROXY, HTTPS_PROXY or NO_PROXY: the value is not a URL such as http://proxy.example.com:3128 " + secret.Hidden)
	}
	return u, nil
}
