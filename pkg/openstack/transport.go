package openstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// maxBody bounds an answer of the cloud. A server record takes some 3 KiB, a
// token with its catalog some 30.
const maxBody = 1 << 20

var (
	errBodyTooLarge = fmt.Errorf("the answer is longer than %d bytes", maxBody)
	errRedirect     = errors.New("the answer is a redirect, which is not followed: it would carry the token elsewhere")
)

// maxOrigins bounds the places that logins have named. A catalog changes seldom.
const maxOrigins = 16

var errElsewhere = errors.New("a request with a secret was about to leave for a host that neither the configuration nor the catalog names")

// Observer is told of every call to the cloud: service is keystone or nova,
// outcome one of ok, not_found, refused, error, unreachable.
type Observer func(service, outcome string, took time.Duration)

type serviceKey struct{}

// asKeystone marks the calls of a login; all others are Nova's.
func asKeystone(ctx context.Context) context.Context {
	return context.WithValue(ctx, serviceKey{}, "keystone")
}

func serviceOf(ctx context.Context) string {
	if s, ok := ctx.Value(serviceKey{}).(string); ok {
		return s
	}
	return "nova"
}

// transport bounds and observes every call, and keeps our token and password at the
// places for which they are.
type transport struct {
	base    *http.Transport
	observe Observer

	mu      sync.Mutex
	allowed map[string]bool // scheme and host
}

// allow lets secrets go to the scheme and host of an endpoint, which the configuration
// or the catalog names.
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

// mayGo reports whether a request may leave: one without a token and a body has no
// secret.
func (t *transport) mayGo(r *http.Request) bool {
	if r.Header.Get("X-Auth-Token") == "" && r.Header.Get("X-Subject-Token") == "" && r.Body == nil {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.allowed[r.URL.Scheme+"://"+r.URL.Host]
}

func newTransport(plan Plan, creds credentials, observe Observer) *transport {
	base := &http.Transport{
		Proxy:                  proxyFromEnvironment,
		TLSClientConfig:        creds.tls,
		DialContext:            (&net.Dialer{Timeout: plan.timeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:    plan.timeout,
		ResponseHeaderTimeout:  plan.timeout,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConns:           2 * plan.maxConcurrent,
		MaxIdleConnsPerHost:    plan.maxConcurrent,
		MaxConnsPerHost:        2*plan.maxConcurrent + 2*callerChecks, // Keystone and Nova can be one host
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
	}
	return &transport{base: base, observe: observe}
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if !t.mayGo(r) {
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
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: maxBody}
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

type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errBodyTooLarge
	}
	if len(p) > b.left {
		p = p[:b.left]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= n
	return n, err
}

func newHTTPClient(plan Plan, t *transport) http.Client {
	return http.Client{
		Transport: t,
		// gophercloud makes some calls without a context.
		Timeout:       plan.timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return errRedirect },
	}
}
