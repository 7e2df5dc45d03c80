package server

import (
	"errors"
	"net/http"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
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
	case errors.As(err, new(errUnauthorized)):
		d.set(outcomeDenied, attest.CallerUnknown, http.StatusUnauthorized, 0)
	case errors.As(err, &denied):
		d.set(outcomeDenied, denied.Reason, http.StatusForbidden, 0)
		d.detail = denied.Detail
	case errors.As(err, &notYet):
		d.set(outcomeNotYet, notYet.Reason, http.StatusServiceUnavailable, notYet.After)
		d.detail = notYet.Detail
	case errors.As(err, &bad):
		d.set(outcomeInvalid, requestInvalid, bad.status, 0)
	case errors.As(err, &often):
		d.set(outcomeThrottled, often.reason, http.StatusTooManyRequests, often.wait)
	case errors.As(err, &failure) && failure.Reason == attest.ThrottledLookups:
		d.set(outcomeThrottled, failure.Reason, http.StatusTooManyRequests, time.Second)
	case errors.As(err, &failure):
		d.set(outcomeFailed, failure.Reason, http.StatusServiceUnavailable, time.Second)
		d.detail = failure.Err.Error()
	default:
		d.set(outcomeFailed, signingUnavailable, http.StatusServiceUnavailable, time.Second)
	}
}

func (d *decision) set(outcome string, reason attest.Reason, status int, retryAfter time.Duration) {
	d.outcome, d.reason, d.status, d.retryAfter = outcome, reason, status, retryAfter
}
