package server

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

// Options are what a Server is made of. A field is required unless its comment says
// that it is optional.
type Options struct {
	Attestor   *attest.Attestor
	Issuer     *token.Issuer
	Proxy      Proxy
	Throttle   Throttle
	Audit      *audit.Log
	Metrics    *Metrics
	Log        *slog.Logger
	ConfigHash string
	// Vendordata is Nova's door, and Callers identifies the callers there. Optional:
	// the zero value is a closed door.
	Vendordata Vendordata
	Callers    Callers
	// Now is the clock. Optional, nil means time.Now.
	Now func() time.Time
}

// Server answers instances, Nova, and the verifiers of tokens.
type Server struct {
	opts      Options
	throttle  *ratelimit.Addresses
	instances *ratelimit.Limiter[attest.InstanceID]
	documents *ratelimit.Limiter[attest.InstanceID]
	bodies    bodies
	echo      *echo.Echo
}

// New makes a server that listens nowhere yet.
func New(o Options) *Server {
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{
		opts:      o,
		throttle:  ratelimit.NewAddresses(o.Throttle.perAddress, throttleSize),
		instances: ratelimit.New[attest.InstanceID](o.Throttle.perInstance, throttleSize),
		documents: ratelimit.New[attest.InstanceID](ratelimit.Within(documentsKept, o.Vendordata.expiry), documentsSize),
	}
	e := s.newEcho()
	s.echo = e
	path := s.opts.Issuer.URL().Path()
	for _, at := range []string{"", path} {
		e.POST(at+"/auth", s.through(door{name: doorAddress, judge: s.judgeAuth, render: s.renderToken}))
	}
	if s.opts.Vendordata.open() && !s.opts.Vendordata.separate() {
		s.routeVendordata(e)
	}
	for at, document := range map[string]func() token.Document{
		token.DiscoveryPath: s.opts.Issuer.Discovery,
		token.JWKSPath:      s.opts.Issuer.JWKS,
	} {
		e.Match([]string{http.MethodGet, http.MethodHead}, path+at, s.publish(document))
	}
	return s
}

func (s *Server) newEcho() *echo.Echo {
	e := echo.New()
	// Without an extractor echo believes any X-Forwarded-For. Ours reads no header
	// that the client can write; see Proxy.evidence.
	e.IPExtractor = func(r *http.Request) string { return s.opts.Proxy.evidence(r).Addr().String() }
	e.HTTPErrorHandler = s.handleError
	e.Use(s.identify, middleware.RecoverWithConfig(middleware.RecoverConfig{
		LogErrorFunc: func(c echo.Context, err error, stack []byte) error {
			if s.mayLog(c.Request()) {
				s.opts.Log.Error("a handler panicked", "error", err, "stack", string(stack))
			}
			return err
		},
	}))
	return e
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.echo.ServeHTTP(w, r) }

// identify gives a request an ID and refuses headers that are too long.
func (s *Server) identify(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		name(c.Response(), newRequestID())
		if headerSize(c.Request().Header) > maxHeaders {
			return echo.NewHTTPError(http.StatusRequestHeaderFieldsTooLarge)
		}
		return next(c)
	}
}

// name gives a request an ID of ours: a client could send the ID of another request.
func name(w http.ResponseWriter, id string) {
	w.Header().Set(echo.HeaderXRequestID, id)
	w.Header().Set(echo.HeaderXContentTypeOptions, "nosniff")
}

func newRequestID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return hex.EncodeToString(id[:])
}

func requestID(c echo.Context) string { return c.Response().Header().Get(echo.HeaderXRequestID) }

// publish serves a document that verifiers may cache (RFC 9111).
func (s *Server) publish(document func() token.Document) echo.HandlerFunc {
	cacheControl := fmt.Sprintf("public, max-age=%d", int(s.opts.Issuer.MaxAge().Seconds()))
	return func(c echo.Context) error {
		doc := document()
		if doc.Body == nil {
			return refuse(c.Response(), http.StatusServiceUnavailable, "temporarily_unavailable", "", time.Second)
		}
		h := c.Response().Header()
		h.Set(echo.HeaderContentType, echo.MIMEApplicationJSON)
		h.Set(echo.HeaderCacheControl, cacheControl)
		h.Set("ETag", doc.ETag)
		http.ServeContent(c.Response(), c.Request(), "", time.Time{}, bytes.NewReader(doc.Body))
		return nil
	}
}
