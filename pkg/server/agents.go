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

// Agents serves Neutron's metadata agents, which speak for the instances behind
// them:
//
//	PUT /identity/token?role=ROLE[&audience=AUDIENCE][&format=token]
//	GET /identity/roles    the roles that the instance could have here
//
// All else is Nova's, and goes there as it came; for that nothing of ours is
// needed, neither cloud nor state nor keys. What net/http takes for no request,
// such as one for /%zz, gets its 400, and so does a request target that is neither
// a path nor *; an agent sends none such, as it writes the path anew. Of an answer
// other than 200 no more than the status reaches the instance, and of those only
// 200, 400, 403, 404, 409 and 500 in all releases of the agent.
type Agents struct {
	config  MetadataServiceConfig
	secrets [][]byte
	nova    http.Handler // nil for none
	log     *slog.Logger
	server  atomic.Pointer[Server] // nil while nothing can be judged
}

// NewAgents reads the secrets. There is no token before [Agents.Attach].
func NewAgents(c MetadataServiceConfig, log *slog.Logger) (*Agents, error) {
	a := &Agents{config: c, log: log}
	var err error
	if a.secrets, err = loadSecrets(c.SharedSecretFile); err != nil {
		return nil, fmt.Errorf("sharedSecretFile: %w", err)
	}
	nova, err := parseNova(c.Nova)
	if err != nil {
		return nil, fmt.Errorf("nova: %w", err)
	}
	if nova != nil {
		a.nova = newNovaProxy(nova, log, novaTransport())
	}
	return a, nil
}

// Attach has s judge from now on; nil for nobody.
func (a *Agents) Attach(s *Server) { a.server.Store(s) }

func (a *Agents) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := a.recognise(r); err != nil {
		a.turnAway(r.RemoteAddr, err)
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
			s.logUnsent(s.serve(c, a.door(s, at)), requestID(c))
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

var errNotListed = errors.New("its address is none of metadataService.agents")

// recognise is nil for an agent: whoever is none must get nothing, as a signature
// that was caught is good for ever.
func (a *Agents) recognise(r *http.Request) error {
	if a.config.TLS.ClientCAFile != "" && (r.TLS == nil || len(r.TLS.PeerCertificates) == 0) {
		return listen.ErrNoCertificate // what it shows, and its name, the handshake verified
	}
	peer, err := parsePeer(r.RemoteAddr)
	if err != nil {
		return err
	}
	if len(a.config.Agents) > 0 && !within(a.config.Agents, peer) {
		return errNotListed
	}
	if len(a.config.Agents) == 0 && (a.config.TLS.ClientCAFile == "" || len(a.config.TLS.ClientNames) == 0) {
		return errors.New("nothing says who is an agent")
	}
	return nil
}

// turnAway records who is no agent, in as many lines as its address may have.
func (a *Agents) turnAway(peer string, why error) {
	s := a.server.Load()
	if s == nil {
		return
	}
	s.metrics.strangers.Inc()
	d := s.begin(doorMetadata, newRequestID(), peer)
	if at, err := parsePeer(peer); err == nil {
		d.evidence = attest.FromAddress(at)
	}
	s.settle(context.Background(), d, &attest.Denied{Reason: attest.AgentUnknown, Detail: why.Error()})
	s.record(context.Background(), d)
}

// door returns the door for one of the two paths.
func (a *Agents) door(s *Server, at string) door {
	if at == identityRoles {
		return door{name: doorMetadata, status: agentStatus, judge: func(d *decision, _ http.ResponseWriter, r *http.Request) error {
			fields, err := a.parse(d, r, http.MethodGet)
			if err != nil {
				return err
			}
			if len(fields) > 0 {
				return badField("this path takes no parameters")
			}
			if err := s.limit(d); err != nil {
				return err
			}
			d.roles, d.instance, err = s.attestor.Roles(r.Context(), d.request.instance, d.evidence)
			return err
		}, render: func(c echo.Context, d *decision) error {
			return c.JSON(http.StatusOK, map[string][]attest.RoleName{"roles": d.roles})
		}}
	}
	return door{name: doorMetadata, status: agentStatus, render: s.renderToken, judge: func(d *decision, _ http.ResponseWriter, r *http.Request) error {
		fields, err := a.parse(d, r, http.MethodPut)
		if err != nil {
			return err
		}
		if err := d.request.fill(fields, fieldRole, fieldAudience, fieldFormat); err != nil {
			return err
		}
		return s.grant(r.Context(), d)
	}}
}

// parse reads the agent's claim and the fields of the query.
func (a *Agents) parse(d *decision, r *http.Request, method string) (fields map[string]string, err error) {
	if headerSize(r.Header) > maxHeaders || len(r.RequestURI) > maxTarget {
		return nil, badField("the headers are longer than %d bytes, or the URL than %d", maxHeaders, maxTarget)
	}
	if d.evidence, d.request.instance, err = a.claim(r); err != nil {
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

// agentStatus is the one that reaches the instance in all releases of the agent.
func agentStatus(status int) int {
	switch status {
	case http.StatusOK, http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound:
		return status
	case http.StatusTooManyRequests:
		return http.StatusConflict
	case http.StatusServiceUnavailable:
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

// claim reads what the agent says of the instance, which is so only if it is
// said once and the signature is right: hex(HMAC-SHA256(secret, instance ID))
// (neutron/common/utils.py, sign_instance_id).
func (a *Agents) claim(r *http.Request) (attest.Evidence, attest.InstanceID, error) {
	var none attest.Evidence
	var noID attest.InstanceID
	invalid := func(format string, args ...any) error {
		return &attest.Denied{Reason: attest.AgentClaimInvalid, Detail: fmt.Sprintf(format, args...)}
	}
	notOneAddress := func(lines []string) error {
		text := "X-Forwarded-For is %s, not one IP address"
		if strings.Contains(strings.Join(lines, ","), ",") {
			text += ": a proxy between the agent and us added its peer; in HAProxy write `option forwardfor if-none` in the frontend and in the backend"
		}
		return invalid(text, quoteHops(lines))
	}
	if len(r.Header.Values("X-Metadata-Provider")) > 0 {
		return none, noID, invalid("X-Metadata-Provider is for Nova alone")
	}
	said := map[string]string{}
	for _, name := range []string{"X-Instance-ID", "X-Tenant-ID", "X-Instance-ID-Signature", headerForwardedFor} {
		values := r.Header.Values(name)
		switch {
		case len(values) == 1 && values[0] == "":
			return none, noID, invalid("%s is empty", name)
		case len(values) > 1 && name == headerForwardedFor:
			return none, noID, notOneAddress(values)
		case len(values) != 1:
			return none, noID, invalid("%s is there %d times", name, len(values))
		}
		said[name] = values[0]
	}
	signature, err := hex.DecodeString(said["X-Instance-ID-Signature"])
	if err != nil || !slices.ContainsFunc(a.secrets, func(secret []byte) bool {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(said["X-Instance-ID"]))
		return hmac.Equal(signature, mac.Sum(nil))
	}) {
		return none, noID, invalid("the signature of %q is wrong: compare sharedSecretFile with the agents' metadata_proxy_shared_secret", secret.Printable(said["X-Instance-ID"]))
	}
	id, err := attest.ParseInstanceID(said["X-Instance-ID"])
	if err != nil {
		return none, noID, invalid("X-Instance-ID: %v", err)
	}
	addr, err := netip.ParseAddr(said[headerForwardedFor])
	if err != nil {
		return none, noID, notOneAddress([]string{said[headerForwardedFor]})
	}
	return attest.FromMetadataAgent(id, said["X-Tenant-ID"], addr), id, nil
}
