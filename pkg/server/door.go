package server

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

// The names of the doors in audit lines and metrics.
const (
	doorAddress    = "address"
	doorMetadata   = "metadata"
	doorVendordata = "vendordata"
)

// The outcomes of decisions, as a label of metrics.
const (
	outcomeGranted   = "granted"
	outcomeDenied    = "denied"
	outcomeNotYet    = "not_yet"
	outcomeThrottled = "throttled"
	outcomeInvalid   = "invalid"
	outcomeFailed    = "failed"
)

// The reasons that this package decides: what comes before a judgment, or prevents its
// answer.
const (
	reasonGranted      attest.Reason = "granted"
	requestInvalid     attest.Reason = "request_invalid"
	agentUnknown       attest.Reason = "agent_unknown"
	agentClaimInvalid  attest.Reason = "agent_claim_invalid"
	agentUnsupported   attest.Reason = "agent_unsupported"
	callerDenied       attest.Reason = "caller_denied"
	throttledAddress   attest.Reason = "throttled_address"
	throttledInstance  attest.Reason = "throttled_instance"
	throttledBodies    attest.Reason = "throttled_bodies"
	signingUnavailable attest.Reason = "signing_unavailable"
	auditUnavailable   attest.Reason = "audit_unavailable"
	clientGone         attest.Reason = "client_gone"
)

// door has what differs from door to door.
type door struct {
	name string
	// judge parses a request and judges it. It fills in the decision.
	judge func(d *decision, w http.ResponseWriter, r *http.Request) error
	// within bounds the time of a decision. Optional, 0 means no bound.
	within time.Duration
	// render writes the answer to a request that was granted.
	render func(c echo.Context, d *decision) error
}

// decision has everything about one request that its answer, its audit line and the
// metrics are made of.
type decision struct {
	door      string
	requestID string
	clientID  string // the request ID that the client sent, cleaned
	began     time.Time
	evidence  attest.Evidence
	peer      string
	request   authRequest
	limited   bool // one of the limits has counted the request
	proven    bool // and it was that of the instance, which is authenticated

	outcome    string
	reason     attest.Reason
	detail     string
	status     int
	retryAfter time.Duration

	identity attest.Identity
	instance attest.Instance
	token    token.Token
	document string // the ID of the document that was verified or issued

	roles []attest.RoleName // the answer to GET /identity/roles
	paper token.Token       // the document that was issued
}

func (s *Server) through(at door) echo.HandlerFunc {
	return func(c echo.Context) error { return s.serve(c, at) }
}

// serve takes a request through a door.
func (s *Server) serve(c echo.Context, at door) error {
	r := c.Request()
	d := s.begin(at.name, requestID(c), r.RemoteAddr)
	d.clientID = secret.Printable(r.Header.Get(echo.HeaderXRequestID))
	client := r.Context()
	if at.within > 0 {
		ctx, cancel := context.WithTimeout(client, at.within)
		defer cancel()
		r = r.WithContext(ctx)
	}
	s.settle(client, d, at.judge(d, c.Response(), r))
	s.record(r.Context(), d)
	return s.answer(c, d, at)
}

func (s *Server) begin(door, id, peer string) *decision {
	return &decision{door: door, requestID: id, began: s.opts.Now(), peer: peer}
}

// settle turns the error of a judgment into a decision. A request that was refused
// before it was counted is counted here, so that the limits bound all answers and all
// lines of the log.
func (s *Server) settle(ctx context.Context, d *decision, err error) {
	if err != nil && !d.limited {
		err = cmp.Or(s.limit(d), err)
	}
	d.conclude(err)
	if ctx.Err() != nil && d.outcome == outcomeFailed {
		d.reason, d.detail = clientGone, "the client hung up"
	}
}

// conclude is the one place that turns an error into an outcome, a reason and an HTTP
// status; nil means granted.
func (d *decision) conclude(err error) {
	if err == nil {
		d.set(outcomeGranted, reasonGranted, http.StatusOK, 0)
		return
	}
	var denied *attest.Denied
	var notYet *attest.NotYet
	var failure *attest.Failure
	var bad *badRequest
	var often *throttled
	d.detail = err.Error()
	switch {
	case errors.As(err, &denied):
		d.set(outcomeDenied, denied.Reason, http.StatusForbidden, 0)
		d.detail = denied.Detail
		if denied.Reason == attest.CallerUnknown {
			d.status = http.StatusUnauthorized // Nova fetches a new token and retries once
		}
	case errors.As(err, &notYet):
		d.set(outcomeNotYet, notYet.Reason, http.StatusServiceUnavailable, notYet.After)
		d.detail = notYet.Detail
	case errors.As(err, &bad):
		d.set(outcomeInvalid, requestInvalid, bad.status, 0)
	case errors.As(err, &often):
		d.set(outcomeThrottled, often.reason, http.StatusTooManyRequests, often.wait)
	case errors.As(err, &failure) && failure.Reason == attest.ThrottledLookups:
		d.set(outcomeThrottled, failure.Reason, http.StatusTooManyRequests, time.Second)
	case errors.As(err, &failure) && failure.Reason == attest.ThrottledCallers:
		d.set(outcomeThrottled, failure.Reason, http.StatusTooManyRequests, callersWait)
	case errors.As(err, &failure):
		d.set(outcomeFailed, failure.Reason, http.StatusServiceUnavailable, time.Second)
		d.detail = failure.Err.Error()
	default: // from the issuer
		d.set(outcomeFailed, signingUnavailable, http.StatusServiceUnavailable, time.Second)
	}
}

func (d *decision) set(outcome string, reason attest.Reason, status int, retryAfter time.Duration) {
	d.outcome, d.reason, d.status, d.retryAfter = outcome, reason, status, retryAfter
}
