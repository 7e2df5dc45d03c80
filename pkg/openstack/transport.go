package openstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// maxBody bounds an answer of the cloud. A server record takes some 3 KiB, a
// token with its catalog some 30.
const maxBody = 1 << 20

var (
	errBodyTooLarge = fmt.Errorf("the answer is longer than %d bytes", maxBody)
	errRedirect     = errors.New("the answer is a redirect, which is not followed: it would carry the token elsewhere")
)

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

// transport bounds and observes every call.
type transport struct {
	base    *http.Transport
	observe Observer
}

func newTransport(cfg Config, creds credentials, observe Observer) *transport {
	base := &http.Transport{
		Proxy:                  proxyFromEnvironment,
		TLSClientConfig:        creds.tls,
		DialContext:            (&net.Dialer{Timeout: cfg.Timeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:    cfg.Timeout,
		ResponseHeaderTimeout:  cfg.Timeout,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConns:           2 * cfg.MaxConcurrent,
		MaxIdleConnsPerHost:    cfg.MaxConcurrent,
		MaxConnsPerHost:        2*cfg.MaxConcurrent + 2*callerChecks, // Keystone and Nova can be one host
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
	}
	return &transport{base, observe}
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
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

func newHTTPClient(cfg Config, t *transport) http.Client {
	return http.Client{
		Transport: t,
		// gophercloud makes some calls without a context.
		Timeout:       cfg.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return errRedirect },
	}
}
