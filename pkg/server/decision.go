package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

// doorAddress is the name of POST /auth in audit lines and metrics.
const doorAddress = "address"

// Outcomes are what decisions are counted by.
const (
	outcomeGranted   = "granted"
	outcomeDenied    = "denied"
	outcomeNotYet    = "not_yet"
	outcomeThrottled = "throttled"
	outcomeInvalid   = "invalid"
	outcomeFailed    = "failed"
)

// decision is everything about one request that its answer, its audit line and
// the metrics are made of.
type decision struct {
	door      string
	requestID string
	clientID  string // the request ID that the client sent, cleaned
	began     time.Time
	evidence  attest.Evidence
	peer      string
	request   authRequest
	limited   bool // the request was counted by one of the caller's limits
	proven    bool // and that was the instance's: the caller was recognized

	outcome    string
	reason     attest.Reason
	detail     string
	status     int
	retryAfter time.Duration

	identity attest.Identity
	instance attest.Instance
	token    token.Token
	document string // the ID of the document that was shown or made
}

// conclude is the one place that turns an error into an outcome and an HTTP
// status.
func (d *decision) conclude(err error) {
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
		d.set(outcomeInvalid, attest.RequestInvalid, bad.status, 0)
	case errors.As(err, &often):
		d.set(outcomeThrottled, often.reason, http.StatusTooManyRequests, often.wait)
	case errors.As(err, &failure) && failure.Reason == attest.ThrottledLookups:
		d.set(outcomeThrottled, failure.Reason, http.StatusTooManyRequests, time.Second)
	case errors.As(err, &failure):
		d.set(outcomeFailed, failure.Reason, http.StatusServiceUnavailable, time.Second)
		d.detail = failure.Err.Error()
	default:
		d.set(outcomeFailed, attest.SigningUnavailable, http.StatusServiceUnavailable, time.Second)
	}
}

func (d *decision) set(outcome string, reason attest.Reason, status int, retryAfter time.Duration) {
	d.outcome, d.reason, d.status, d.retryAfter = outcome, reason, status, retryAfter
}

// settle turns the outcome of a judgement into a decision. A request that was turned down
// before it was counted is counted now: nothing is said or written that the caller's
// limit does not bound.
func (s *Server) settle(ctx context.Context, d *decision, err error) {
	if err != nil && !d.limited {
		if often := s.limit(d); often != nil {
			err = often
		}
	}
	if err == nil {
		d.set(outcomeGranted, attest.Granted, http.StatusOK, 0)
		return
	}
	d.conclude(err)
	if ctx.Err() != nil && d.outcome == outcomeFailed {
		d.reason, d.detail = attest.ClientGone, "the client hung up"
	}
}

// judge judges one request of the address door.
func (s *Server) judge(ctx context.Context, d *decision, w http.ResponseWriter, r *http.Request) error {
	var err error
	if d.request, err = parseAuth(w, r, &s.bodies); err != nil {
		return err
	}
	if err := s.readDocument(d); err != nil {
		return err
	}
	return s.grant(ctx, d)
}

// readDocument takes the document of a request, which then is evidence. One that
// does not verify is a denial.
func (s *Server) readDocument(d *decision) error {
	if d.request.document == "" {
		return nil
	}
	document, err := s.issuer.VerifyDocument(d.request.document)
	if errors.Is(err, token.ErrInvalidDocument) {
		return &attest.Denied{Reason: attest.DocumentInvalid, Detail: err.Error()}
	}
	if err != nil {
		return &attest.Failure{Reason: attest.SigningUnavailable, Err: err}
	}
	d.document = document.ID
	if d.request.instance.IsZero() {
		d.request.instance = document.Instance
	}
	if d.request.instance != document.Instance {
		return &attest.Denied{Reason: attest.DocumentVoid, Detail: fmt.Sprintf("the document is of instance %s", document.Instance)}
	}
	d.evidence = d.evidence.WithDocument(document)
	return nil
}

// grant judges a request that was read, and signs.
func (s *Server) grant(ctx context.Context, d *decision) error {
	err := s.limit(d)
	if err != nil {
		return err
	}
	d.identity, d.instance, err = s.attestor.Attest(ctx, attest.Request{
		Instance: d.request.instance, Role: d.request.role, Audience: d.request.audience, Evidence: d.evidence,
	})
	if err != nil {
		return err
	}
	if d.token, err = s.issuer.Issue(ctx, d.identity); err != nil {
		s.giveBack(ctx, d)
		return &attest.Failure{Reason: attest.SigningUnavailable, Err: err}
	}
	return nil
}

// giveBack gives back what was spent for a token that is not handed out.
func (s *Server) giveBack(ctx context.Context, d *decision) {
	if err := s.attestor.GiveBack(ctx, d.identity); err != nil {
		s.log.Warn("attempts of a token that was not handed out", "error", err, "request_id", d.requestID)
	}
}

// limit counts a request by the caller's address, or by instance if the caller
// was recognised: neighbours behind one NAT address must not starve each other.
//
// Its clock is not d.began: who holds a body back could turn the bucket's clock
// back with it, and so have it filled anew.
func (s *Server) limit(d *decision) error {
	if d.evidence.Recognised() {
		return s.limitInstance(d)
	}
	d.limited = true
	client := d.evidence.Addr()
	if !client.IsValid() { // a metadata agent whose words cannot be used
		client, _ = parsePeer(d.peer)
	}
	if wait, ok := s.throttle.Allow(client, s.now()); !ok {
		return &throttled{attest.ThrottledAddress, wait}
	}
	return nil
}

// limitInstance counts a request by instance.
func (s *Server) limitInstance(d *decision) error {
	d.limited, d.proven = true, true
	wait, ok := s.instances.Allow(d.request.instance, s.now())
	if ok && d.request.document != "" {
		wait, ok = s.documents.Allow(d.request.instance, s.now())
	}
	if !ok {
		return &throttled{attest.ThrottledInstance, wait}
	}
	return nil
}

// documentsKept is how many documents of one instance are shown at once, and again
// within the life of a document. Each has a count in the state until it expires, of
// which there is room for a million: without a bound 600 instances that read a new
// document twice in three seconds, each good for an hour, would take all of it, and
// all other instances would get no token.
const documentsKept = 64

// documentRate bounds the documents of one instance that are counted at a time to
// twice documentsKept.
func documentRate(expiry time.Duration) ratelimit.Rate {
	return ratelimit.Rate{Rate: documentsKept / max(expiry, time.Second).Seconds(), Burst: documentsKept}
}

type throttled struct {
	reason attest.Reason
	wait   time.Duration
}

func (t *throttled) Error() string { return fmt.Sprintf("asks too often; again in %v", t.wait) }
