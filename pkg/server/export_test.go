package server

import (
	"log/slog"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

// What tests see beyond the front door.
var (
	ParseForm    = parseForm
	ParseJSON    = parseJSON
	RawPath      = rawPath
	IsOriginForm = isOriginForm
	LeadsToUs    = leadsToUs
)

// BadRequest is the only error of the parsers.
type BadRequest = badRequest

// What is bounded, and why no client is known.
const (
	LargeCopies   = largeCopies
	MaxVendordata = maxVendordata
	CheckKept     = checkKept
	NoClient      = proxiesAlone
)

// Evidence is what is known of who sent a request.
func (c ProxyConfig) Evidence(r *http.Request) attest.Evidence { return c.evidence(r) }

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// NovaProxy is what stands before a Nova in one function.
func NovaProxy(nova string, log *slog.Logger, answer func(*http.Request) (*http.Response, error)) http.Handler {
	u, err := parseNova(nova)
	if err != nil {
		panic(err)
	}
	return newNovaProxy(u, log, roundTripFunc(answer))
}

// Echo is for routes of a test's own.
func (s *Server) Echo() *echo.Echo { return s.echo }

// Conclude gives what is made of an error: status, outcome and reason.
func Conclude(err error) (status int, outcome string, reason attest.Reason) {
	var d decision
	d.conclude(err)
	return d.status, d.outcome, d.reason
}
