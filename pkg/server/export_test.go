package server

import (
	"log/slog"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

// The parsers, for the fuzz tests.
var (
	ParseForm    = parseForm
	ParseJSON    = parseJSON
	RawPath      = rawPath
	IsOriginForm = isOriginForm
	LeadsToUs    = leadsToUs
)

// AnswerGuest sends what a handler answers to a guest.
var AnswerGuest = answerGuest

// BadRequest is the only error of the parsers.
type BadRequest = badRequest

// OperatorHandler is what [ListenOperator] serves.
var OperatorHandler = operatorHandler

const (
	ViaProtocol   = viaProtocol
	LargeBodies   = largeBodies
	LargeCopies   = largeCopies
	MaxVendordata = maxVendordata
	CheckKept     = checkKept
	NoClient      = proxiesAlone
)

// Evidence returns the address that a request came from.
func (p Proxy) Evidence(r *http.Request) attest.Evidence { return p.evidence(r) }

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// NovaProxy is the way to a Nova that answer stands for.
func NovaProxy(nova string, log *slog.Logger, answer func(*http.Request) (*http.Response, error)) http.Handler {
	u, err := parseNova(nova)
	if err != nil {
		panic(err)
	}
	return newNovaProxy(u, log, roundTripFunc(answer))
}

// Echo is for routes that a test adds.
func (s *Server) Echo() *echo.Echo { return s.echo }

// Conclude returns the status, the outcome and the reason of an error.
func Conclude(err error) (status int, outcome string, reason attest.Reason) {
	var d decision
	d.conclude(err)
	return d.status, d.outcome, d.reason
}
