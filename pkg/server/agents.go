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
	"slices"
	"strings"
	"sync/atomic"

	"github.com/labstack/echo/v4"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// maxTarget is how much of a URL some releases of the agent read at once.
const maxTarget = 4 << 10

// Agents serves Neutron's metadata agents, which send requests for the instances behind
// them:
//
//	PUT /identity/token?role=ROLE[&audience=AUDIENCE][&format=token]
//	GET /identity/roles    the roles that the instance could have here
//
// All other requests go to Nova's metadata API unchanged; these need neither the cloud
// nor the state nor keys. Requests that net/http refuses, such as one for /%zz, get its
// 400, and so does a request target that is neither a path nor *; an agent sends no such
// request, as it writes the path anew. Of an answer other than 200 only the status reaches
// the instance, and in all releases of the agent only 200, 400, 403, 404, 409 and 500 do.
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

func (a *Agents) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := a.authenticate(r); err != nil {
		a.recordRefusal(r.RemoteAddr, err)
		http.Error(w, "forbidden", http.StatusForbidden)
		return
	}
	if !isOriginForm(r.RequestURI) && r.RequestURI != "*" {
		http.Error(w, "the request target is not a path", http.StatusBadRequest)
		return
	}
	switch at := rawPath(r); {
	case at == identityToken || at == identityRoles:
		if s := a.server.Load(); s != nil {
			c := s.echo.NewContext(r, w)
			s.name(c)
			s.logUnsent(c, s.serve(c, a.door(s, at)))
			return
		}
		w.Header().Set(echo.HeaderCacheControl, "no-store")
		http.Error(w, "temporarily unavailable", http.StatusInternalServerError)
	case leadsToUs(at) || a.nova == nil:
		http.Error(w, "not found", http.StatusNotFound)
	default:
		a.nova.ServeHTTP(w, r)
	}
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
func (a *Agents) recordRefusal(peer string, why error) {
	s := a.server.Load()
	if s == nil {
		return
	}
	s.opts.Metrics.unknown.Inc()
	d := s.begin(doorMetadata, newRequestID(), peer)
	if at, err := parsePeer(peer); err == nil {
		d.evidence = attest.FromAddress(at)
	}
	s.settle(context.Background(), d, &attest.Denied{Reason: agentUnknown, Detail: why.Error()})
	s.record(context.Background(), d)
}

// door returns the door for one of the two paths.
func (a *Agents) door(s *Server, at string) door {
	if at == identityRoles {
		return door{name: doorMetadata, status: agentStatus, judge: func(d *decision, _ http.ResponseWriter, r *http.Request) error {
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
	return door{name: doorMetadata, status: agentStatus, render: s.renderToken, judge: func(d *decision, _ http.ResponseWriter, r *http.Request) error {
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

// agentStatus returns, for the status of a refusal, one that reaches the instance in all
// releases of the agent.
func agentStatus(status int) int {
	switch status {
	case http.StatusForbidden:
		return status
	case http.StatusTooManyRequests:
		return http.StatusConflict
	case http.StatusServiceUnavailable:
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

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
	addr, err := netip.ParseAddr(claim[headerForwardedFor])
	if err != nil {
		return notOneAddress([]string{claim[headerForwardedFor]})
	}
	d.request.instance, d.evidence = id, attest.FromMetadataAgent(id, claim["X-Tenant-ID"], addr)
	return nil
}
