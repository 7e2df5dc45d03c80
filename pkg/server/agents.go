package server

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const (
	// maxTarget is how much of a URL some releases of the agent read at once.
	maxTarget = 4 << 10
	// guestWait is how long a guest waits for its answer. An agent with one worker, as in
	// 2026.1 by default with OVN, serves no other guest of its hypervisor meanwhile. A
	// lookup that takes longer goes on, and the guest's next request gets its record.
	guestWait = 1500 * time.Millisecond
)

// Agents serves Neutron's metadata agents, which send requests for the instances behind
// them:
//
//	PUT /identity/token?role=ROLE[&audience=AUDIENCE][&format=token]
//	GET /identity/roles    the roles that the instance could have here
//
// All other requests go to Nova's metadata API unchanged; these need neither the cloud
// nor the state nor keys. Requests that net/http refuses, such as one for /%zz, get its
// 400, and so does a request target that is neither a path nor *; an agent sends no such
// request, as it writes the path anew. All answers of ours are sent by answerGuest, in the
// form that all releases of the agent pass on.
type Agents struct {
	config MetadataService
	nova   http.Handler // nil for none
	log    *slog.Logger
	server atomic.Pointer[Server] // nil while no request can be judged
}

// NewAgents makes the door. It issues no token before [Agents.Attach].
func NewAgents(m MetadataService, log *slog.Logger) *Agents {
	a := &Agents{config: m, log: log}
	if m.nova != nil {
		a.nova = newNovaProxy(m.nova, log, novaTransport())
	}
	return a
}

// Attach sets the server that judges requests; with nil they get 500.
func (a *Agents) Attach(s *Server) { a.server.Store(s) }

// ServeHTTP implements [http.Handler].
func (a *Agents) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := a.ours(r); h != nil {
		answerGuest(w, r, h, func(id string, defect any) {
			if s := a.server.Load(); s == nil || s.mayLog(r) {
				a.log.Error("a handler panicked", "error", defect, "stack", string(debug.Stack()), "request_id", id)
			}
		})
		return
	}
	a.nova.ServeHTTP(w, r)
}

// ours returns the handler of a request that we answer, nil for one that goes to Nova. The
// header of its answer has the request ID.
func (a *Agents) ours(r *http.Request) http.HandlerFunc {
	refused := func(status int, word, description string, wait time.Duration) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _ = refuse(w, status, word, description, wait) }
	}
	if err := a.authenticate(r); err != nil {
		return func(w http.ResponseWriter, r *http.Request) {
			a.recordRefusal(w.Header().Get(echo.HeaderXRequestID), r.RemoteAddr, err)
			_ = refuse(w, http.StatusForbidden, "access_denied", "", 0)
		}
	}
	if !isOriginForm(r.RequestURI) && r.RequestURI != "*" {
		return refused(http.StatusBadRequest, "invalid_request", "the request target is not a path", 0)
	}
	switch at := rawPath(r); {
	case at == identityToken || at == identityRoles:
		s := a.server.Load()
		if s == nil {
			return refused(http.StatusInternalServerError, "temporarily_unavailable", "", time.Second)
		}
		return func(w http.ResponseWriter, r *http.Request) {
			c := s.echo.NewContext(r, w)
			s.logUnsent(c, s.serve(c, a.door(s, at)))
		}
	case leadsToUs(at) || a.nova == nil:
		return refused(http.StatusNotFound, "invalid_request", nothingThere, 0)
	}
	return nil
}

var errNotListed = errors.New("its address is not in metadataService.agents")

// authenticate returns nil if the client is an agent. It refuses all other clients:
// signatures never expire, so a captured one can be replayed.
func (a *Agents) authenticate(r *http.Request) error {
	c := a.config
	if c.clientCAs != nil && (r.TLS == nil || len(r.TLS.PeerCertificates) == 0) {
		return listen.ErrNoCertificate // the handshake verified the certificate and its name
	}
	peer, err := parsePeer(r.RemoteAddr)
	if err != nil {
		return err
	}
	if len(c.agents) > 0 && !c.agents.contain(peer) {
		return errNotListed
	}
	if len(c.agents) == 0 && (c.clientCAs == nil || len(c.clientNames) == 0) {
		return errors.New("no agent is configured")
	}
	return nil
}

// recordRefusal writes the audit line of a client that is not an agent, as far as the
// limit of its address allows.
func (a *Agents) recordRefusal(id, peer string, why error) {
	s := a.server.Load()
	if s == nil {
		return
	}
	s.opts.Metrics.unknown.Inc()
	d := s.begin(doorMetadata, id, peer)
	if at, err := parsePeer(peer); err == nil {
		d.evidence = attest.FromAddress(at)
	}
	s.settle(context.Background(), d, &attest.Denied{Reason: agentUnknown, Detail: why.Error()})
	s.record(context.Background(), d)
}

// door returns the door for one of the two paths.
func (a *Agents) door(s *Server, at string) door {
	if at == identityRoles {
		return door{name: doorMetadata, within: guestWait, judge: func(d *decision, _ http.ResponseWriter, r *http.Request) error {
			fields, err := a.parse(d, r, http.MethodGet)
			if err == nil && len(fields) > 0 {
				err = badField("this path takes no parameters")
			}
			if err == nil {
				err = s.limit(d)
			}
			if err == nil {
				d.roles, d.instance, err = s.opts.Attestor.Roles(r.Context(), d.request.instance, d.evidence)
			}
			return err
		}, render: func(c echo.Context, d *decision) error {
			return c.JSON(http.StatusOK, map[string][]attest.RoleName{"roles": d.roles})
		}}
	}
	return door{name: doorMetadata, within: guestWait, render: s.renderToken, judge: func(d *decision, _ http.ResponseWriter, r *http.Request) error {
		fields, err := a.parse(d, r, http.MethodPut)
		if err == nil {
			err = d.request.fill(fields, fieldRole, fieldAudience, fieldFormat)
		}
		if err == nil {
			err = s.grant(r.Context(), d)
		}
		return err
	}}
}

// parse reads the agent's claim and the fields of the query.
func (a *Agents) parse(d *decision, r *http.Request, method string) (map[string]string, error) {
	if headerSize(r.Header) > maxHeaders || len(r.RequestURI) > maxTarget {
		return nil, badField("the headers are longer than %d bytes, or the URL than %d", maxHeaders, maxTarget)
	}
	if err := a.readClaim(d, r.Header); err != nil {
		return nil, err
	}
	if r.Method != method {
		return nil, badField("this path takes %s", method)
	}
	if r.ContentLength != 0 {
		return nil, badField("parameters go into the query, and the body stays empty")
	}
	return parseForm([]byte(r.URL.RawQuery))
}

// noAddress says what sends valid signatures without an address: the HAProxy that the OVS
// agent's extension configures (neutron/agent/l2/extensions/metadata). It passes on what
// the guest sends, so an address would be the guest's word.
const noAddress = "there is no X-Forwarded-For: Neutron's extension metadata_path sends none, and is not supported; use its metadata agent"

// readClaim reads the agent's headers about the instance. Each must be there once, and the
// signature must be valid: hex(HMAC-SHA256(secret, instance ID))
// (neutron/common/utils.py, sign_instance_id).
func (a *Agents) readClaim(d *decision, h http.Header) error {
	invalid := func(format string, args ...any) error {
		return &attest.Denied{Reason: agentClaimInvalid, Detail: fmt.Sprintf(format, args...)}
	}
	notOneAddress := func(lines []string) error {
		text := "X-Forwarded-For is %s, not one IP address"
		if strings.Contains(strings.Join(lines, ","), ",") {
			text += ": a proxy between the agent and us added its peer; in HAProxy write `option forwardfor if-none` in the frontend and in the backend"
		}
		return invalid(text, quoteHops(lines))
	}
	if len(h.Values("X-Metadata-Provider")) > 0 {
		return invalid("X-Metadata-Provider is set, which only Nova accepts")
	}
	claim := map[string]string{}
	for _, name := range []string{"X-Instance-ID", "X-Tenant-ID", "X-Instance-ID-Signature", headerForwardedFor} {
		values := h.Values(name)
		switch {
		case len(values) == 1 && values[0] == "":
			return invalid("%s is empty", name)
		case len(values) > 1 && name == headerForwardedFor:
			return notOneAddress(values)
		case len(values) == 0 && name == headerForwardedFor:
			continue // see below
		case len(values) != 1:
			return invalid("%s is there %d times", name, len(values))
		}
		claim[name] = values[0]
	}
	signature, err := hex.DecodeString(claim["X-Instance-ID-Signature"])
	if err != nil || !slices.ContainsFunc(a.config.secrets, func(secret []byte) bool {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(claim["X-Instance-ID"]))
		return hmac.Equal(signature, mac.Sum(nil))
	}) {
		return invalid("the signature of %q is wrong: compare sharedSecretFile with the agents' metadata_proxy_shared_secret", secret.Printable(claim["X-Instance-ID"]))
	}
	id, err := attest.ParseInstanceID(claim["X-Instance-ID"])
	if err != nil {
		return invalid("X-Instance-ID: %v", err)
	}
	if claim[headerForwardedFor] == "" {
		return &attest.Denied{Reason: agentUnsupported, Detail: noAddress}
	}
	addr, err := netip.ParseAddr(claim[headerForwardedFor])
	if err != nil {
		return notOneAddress([]string{claim[headerForwardedFor]})
	}
	d.request.instance, d.evidence = id, attest.FromMetadataAgent(id, claim["X-Tenant-ID"], addr)
	return nil
}
