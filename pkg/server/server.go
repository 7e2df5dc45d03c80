// Package server is the HTTP side: the door, the key set, and what operators see.
//
// It parses, calls, and renders; what may be granted is decided in attest. It
// promises that a client address is never taken from a header that a client can
// write, that every refusal of one kind looks the same whatever its reason, and
// that a decision has one audit line and one count.
//
// Requests that are malformed or throttled are counted and logged at debug
// level, but have no audit line: nothing was decided, and whoever floods the
// server must not fill the disk.
package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

// throttleSize is how many client addresses, and how many instances, are
// remembered.
const throttleSize = 1 << 16

// documentsSize is how many instances are remembered to have shown documents; some
// 250 bytes each.
const documentsSize = 1 << 14

// Options are what a Server is made of. All are required but
// those that say so.
type Options struct {
	Attestor   *attest.Attestor
	Issuer     *token.Issuer
	Proxy      ProxyConfig
	Throttle   ThrottleConfig
	Audit      *audit.Log
	Metrics    *Metrics
	Log        *slog.Logger
	ConfigHash string
	// Nova is the door for vendordata, which is closed without users, and Callers
	// knows who comes to it. Optional.
	Nova    VendordataConfig
	Callers Callers
	// Now is the clock. Optional, nil means time.Now.
	Now func() time.Time
}

// Server answers instances and verifiers.
type Server struct {
	attestor   *attest.Attestor
	issuer     *token.Issuer
	proxy      ProxyConfig
	throttle   *ratelimit.Addresses
	instances  *ratelimit.Limiter[attest.InstanceID]
	documents  *ratelimit.Limiter[attest.InstanceID]
	bodies     bodies
	audit      *audit.Log
	metrics    *Metrics
	log        *slog.Logger
	configHash string
	nova       VendordataConfig
	callers    Callers
	now        func() time.Time
	echo       *echo.Echo
}

// New makes a server that listens nowhere yet.
func New(o Options) *Server {
	s := &Server{
		attestor: o.Attestor, issuer: o.Issuer, proxy: o.Proxy,
		throttle:  ratelimit.NewAddresses(o.Throttle.PerAddress, throttleSize),
		instances: ratelimit.New[attest.InstanceID](o.Throttle.PerInstance, throttleSize),
		documents: ratelimit.New[attest.InstanceID](documentRate(o.Nova.DocumentExpiry), documentsSize),
		audit:     o.Audit, metrics: o.Metrics, log: o.Log, configHash: o.ConfigHash, nova: o.Nova, callers: o.Callers, now: o.Now,
	}
	if s.now == nil {
		s.now = time.Now
	}
	e := s.newEcho()
	s.echo = e
	e.POST("/auth", s.auth)
	path := s.issuer.Path()
	if path != "" {
		e.POST(path+"/auth", s.auth)
	}
	if len(s.nova.Users) > 0 && s.nova.Listen == "" {
		e.POST(vendordataPath, s.vendordata)
	}
	for at, document := range map[string]func() token.Document{
		token.DiscoveryPath: s.issuer.Discovery,
		token.JWKSPath:      s.issuer.JWKS,
	} {
		e.Match([]string{http.MethodGet, http.MethodHead}, path+at, s.publish(document))
	}
	return s
}

// newEcho makes a router without a route.
func (s *Server) newEcho() *echo.Echo {
	e := echo.New()
	// Without an extractor echo believes any X-Forwarded-For. Ours needs no
	// header that the client can write; see ProxyConfig.evidence.
	e.IPExtractor = func(r *http.Request) string { return s.proxy.evidence(r).Addr().String() }
	e.HTTPErrorHandler = s.refuse
	e.Use(s.identify, middleware.RecoverWithConfig(middleware.RecoverConfig{
		LogErrorFunc: func(c echo.Context, err error, stack []byte) error {
			if s.mayLog(c.Request()) {
				s.log.Error("a handler panicked", "error", err, "stack", string(stack))
			}
			return err
		},
	}))
	return e
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.echo.ServeHTTP(w, r) }

const keyRequestID = "request_id"

// identify gives every request an ID of ours: a client's could be another's.
func (s *Server) identify(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		s.name(c)
		if headerSize(c.Request().Header) > maxHeaders {
			return echo.NewHTTPError(http.StatusRequestHeaderFieldsTooLarge)
		}
		return next(c)
	}
}

func (s *Server) name(c echo.Context) {
	id := newRequestID()
	c.Set(keyRequestID, id)
	c.Response().Header().Set(echo.HeaderXRequestID, id)
	c.Response().Header().Set(echo.HeaderXContentTypeOptions, "nosniff")
}

func newRequestID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return hex.EncodeToString(id[:])
}

func requestID(c echo.Context) string {
	id, _ := c.Get(keyRequestID).(string)
	return id
}

// begin is the decision about a request, of which nothing was judged yet.
func (s *Server) begin(c echo.Context, door string) *decision {
	r := c.Request()
	return &decision{
		door: door, requestID: requestID(c), clientID: secret.Printable(r.Header.Get(echo.HeaderXRequestID)),
		began: s.now(), peer: r.RemoteAddr,
	}
}

// auth is POST /auth.
func (s *Server) auth(c echo.Context) error {
	r := c.Request()
	d := s.begin(c, doorAddress)
	d.evidence = s.proxy.evidence(r)
	s.settle(r.Context(), d, s.judge(r.Context(), d, c.Response(), r))
	s.record(r.Context(), d)
	return s.answer(c, d)
}

// The events, as the lines' msg.
const (
	eventDecision  = "decision"
	eventWithdrawn = "withdrawn" // the decision of that request was not handed out
)

// record writes the audit line and counts. Where the line is required, a token
// without it becomes a failure; nothing else waits for the log.
func (s *Server) record(ctx context.Context, d *decision) {
	now := s.now()
	lost := func(err error) {
		s.metrics.auditLost.Inc()
		s.log.Error("audit line lost", "error", err, "request_id", d.requestID)
	}
	if d.outcome == outcomeInvalid || d.outcome == outcomeThrottled {
		s.log.Debug("not judged", "reason", d.reason, "detail", d.detail, "client", d.evidence.String(), "request_id", d.requestID)
	} else if err := s.writeLine(d, now, lost); err != nil {
		lost(err)
		if s.audit.Required() && d.outcome == outcomeGranted {
			d.set(outcomeFailed, attest.AuditUnavailable, http.StatusServiceUnavailable, time.Second)
			d.token = token.Token{}
			s.giveBack(ctx, d)
		}
	}
	// A client that hangs up is no failure of ours, and could fill the log.
	s.metrics.observe(d, s.attestor.Policy.Has(d.request.role), now.Sub(d.began))
}

func (s *Server) writeLine(d *decision, now time.Time, lost func(error)) error {
	granted := d.outcome == outcomeGranted
	line := audit.Event{Time: now, Name: eventDecision, Attrs: s.auditAttrs(d, now), Proven: granted || d.proven}
	if !granted || !s.audit.Required() {
		return s.audit.Record(line, lost)
	}
	return s.audit.RecordAndWait(line, audit.Event{Time: now, Name: eventWithdrawn, Proven: true, Attrs: []slog.Attr{
		slog.String("request_id", d.requestID), slog.String("reason", string(attest.AuditUnavailable)),
		slog.String("detail", "the line before was not written in time, so the caller got no token"),
	}})
}

func (s *Server) auditAttrs(d *decision, now time.Time) []slog.Attr {
	attrs := []slog.Attr{
		slog.String("door", d.door),
		slog.String("outcome", d.outcome),
		slog.String("reason", string(d.reason)),
		slog.String("request_id", d.requestID),
		slog.String("client", d.evidence.Addr().String()),
		slog.String("peer", d.peer),
		slog.String("instance_id", d.request.instance.String()),
		slog.String("role", d.request.role.String()),
		slog.String("config", s.configHash),
		slog.Float64("seconds", math.Round(now.Sub(d.began).Seconds()*1e6)/1e6),
	}
	optional := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	optional("audience", d.request.audience.String())
	optional("detail", d.detail)
	optional("project_id", d.instance.ProjectID)
	optional("instance_name", d.instance.Name)
	optional("client_request_id", d.clientID)
	optional("document", d.document)
	if d.token.ID != "" {
		attrs = append(attrs, slog.String("jti", d.token.ID), slog.Time("expires_at", d.token.Expires))
	}
	if !d.identity.IsZero() {
		attrs = append(attrs, slog.Any("amr", d.identity.Proofs()))
	}
	if n := d.identity.Attempt(); n > 0 {
		attrs = append(attrs, slog.Int64("attempt", n))
	}
	return attrs
}

type granted struct {
	Token     string `json:"token"`
	ExpiresIn int64  `json:"expires_in"` // seconds
	ExpiresAt string `json:"expires_at"` // RFC 3339, UTC
}

// The words of the error body: invalid_request, access_denied, slow_down
// (RFC 8628, section 3.5) and temporarily_unavailable are OAuth's.
type refusal struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
	RequestID   string `json:"request_id"`
}

// answer renders a decision. Of a denial nothing but the fact gets out.
func (s *Server) answer(c echo.Context, d *decision) error {
	h := c.Response().Header()
	h.Set(echo.HeaderCacheControl, "no-store")
	if d.outcome == outcomeGranted {
		if d.request.bare {
			return c.Blob(http.StatusOK, "text/plain; charset=utf-8", []byte(d.token.Compact))
		}
		return c.JSON(http.StatusOK, granted{
			Token:     d.token.Compact,
			ExpiresIn: int64(d.token.Expires.Sub(s.now().Truncate(time.Second)).Seconds()),
			ExpiresAt: d.token.Expires.Format(time.RFC3339),
		})
	}
	body := refusal{RequestID: d.requestID}
	switch d.outcome {
	case outcomeDenied:
		body.Error = "access_denied"
	case outcomeThrottled:
		body.Error = "slow_down"
	case outcomeInvalid:
		body.Error, body.Description = "invalid_request", d.detail
	default:
		body.Error = "temporarily_unavailable"
	}
	if d.status == http.StatusUnauthorized {
		h.Set(echo.HeaderWWWAuthenticate, "Keystone") // RFC 9110, section 15.5.2
	}
	if d.retryAfter > 0 {
		h.Set(echo.HeaderRetryAfter, retryAfter(d.retryAfter, d.requestID))
	}
	return c.JSON(d.status, body)
}

// retryAfter is a wait in whole seconds, spread over a third more so that those
// who were turned away together do not come back together. The random request
// ID is the die.
func retryAfter(wait time.Duration, id string) string {
	seconds := max(1, int(math.Ceil(wait.Seconds())))
	die := 0
	if len(id) > 0 {
		n, _ := strconv.ParseUint(id[:1], 16, 8)
		die = int(n) // 0 to 15
	}
	return strconv.Itoa(seconds + die%(seconds/3+2))
}

// refuse is the answer to what no handler took, and to a panic.
func (s *Server) refuse(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	c.Response().Header().Set(echo.HeaderCacheControl, "no-store")
	body, status := refusal{Error: "invalid_request", RequestID: requestID(c)}, http.StatusInternalServerError
	var he *echo.HTTPError
	switch {
	case errors.As(err, &he) && he.Code == http.StatusNotFound:
		status, body.Description = he.Code, "there is nothing at this path"
	case errors.As(err, &he) && he.Code == http.StatusMethodNotAllowed:
		status, body.Description = he.Code, "this path takes "+c.Response().Header().Get(echo.HeaderAllow)
	case errors.As(err, &he) && he.Code == http.StatusRequestHeaderFieldsTooLarge:
		status, body.Description = he.Code, longHeaders
	case errors.As(err, &he) && he.Code < 500:
		status = he.Code
	default:
		body.Error = "server_error"
		if s.mayLog(c.Request()) {
			s.log.Error("request failed", "error", err, "path", secret.Printable(c.Request().URL.Path), "request_id", body.RequestID)
		}
	}
	if err := c.JSON(status, body); err != nil {
		s.log.Debug("answer not sent", "error", err, "request_id", body.RequestID)
	}
}

// mayLog counts what a client makes us log beside its decisions.
func (s *Server) mayLog(r *http.Request) bool {
	_, ok := s.throttle.Allow(s.proxy.evidence(r).Addr(), s.now())
	return ok
}

// publish serves a document that verifiers may cache (RFC 9111).
func (s *Server) publish(document func() token.Document) echo.HandlerFunc {
	cacheControl := fmt.Sprintf("public, max-age=%d", int(s.issuer.MaxAge().Seconds()))
	return func(c echo.Context) error {
		doc := document()
		h := c.Response().Header()
		if doc.Body == nil {
			h.Set(echo.HeaderCacheControl, "no-store")
			h.Set(echo.HeaderRetryAfter, retryAfter(time.Second, requestID(c)))
			return c.JSON(http.StatusServiceUnavailable, refusal{Error: "temporarily_unavailable", RequestID: requestID(c)})
		}
		h.Set(echo.HeaderContentType, echo.MIMEApplicationJSON)
		h.Set(echo.HeaderCacheControl, cacheControl)
		h.Set("ETag", doc.ETag)
		http.ServeContent(c.Response(), c.Request(), "", time.Time{}, bytes.NewReader(doc.Body))
		return nil
	}
}
