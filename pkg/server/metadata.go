package server

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// doorMetadata is the name of the metadata service's door in audit lines and
// metrics.
const doorMetadata = "metadata"

// The paths that are ours. Nova's metadata API has nothing below this
// (nova/api/metadata/handler.py).
const (
	identityPrefix = "/identity/"
	identityToken  = identityPrefix + "token"
	identityRoles  = identityPrefix + "roles"
)

const (
	maxSecret = 4 << 10
	// agentWait is how long Neutron's metadata agent waits for an answer
	// (neutron/agent/metadata/proxy_base.py).
	agentWait = 60 * time.Second
	novaDial  = 3 * time.Second
	// novaTime bounds a request of Nova's. Vendordata may drip, and an agent allows
	// agentWait between two bytes: it is to give up before we do.
	novaTime = 10 * time.Minute
	// maxTarget is what some releases of the agent read at once.
	maxTarget = 4 << 10
)

// MetadataServiceConfig is the listener for Neutron's metadata agents.
type MetadataServiceConfig struct {
	// Listen is the address, on a network of the cloud's own, to which the agents'
	// nova_metadata_host and nova_metadata_port lead. Optional: without it the door
	// is closed.
	Listen string `yaml:"listen"`
	// TLS is the certificate, and the CA of the agents' (nova_metadata_protocol,
	// nova_client_cert and nova_client_priv_key of metadata_agent.ini).
	TLS MetadataTLSConfig `yaml:"tls"`
	// Agents are the addresses of the agents, as CIDRs. A caller must be one of
	// them. Without it a client certificate with one of tls.clientNames is what makes
	// an agent; one of the two is required.
	Agents []netip.Prefix `yaml:"agents"`
	// Proxies are load balancers between the agents and this listener, as CIDRs.
	// They, and nobody else, speak the PROXY protocol, version 2; the agent is who
	// they name. Optional.
	Proxies []netip.Prefix `yaml:"proxies"`
	// SharedSecretFile names files that hold Nova's metadata_proxy_shared_secret.
	// A signature with any of them counts, so that it can be changed. Required.
	SharedSecretFile []string `yaml:"sharedSecretFile"`
	// Nova is the URL of Nova's metadata API, such as http://127.0.0.1:8775, to
	// which all goes that is not below /identity/. Optional: without it that is 404.
	Nova string `yaml:"nova"`
	// AgentsLimitHeaders is the operator's statement that each metadata agent of the
	// cloud is of Neutron 2024.2 or older, or has the limit of
	// example/metadata-service/agent-limits: otherwise neither the metadata service nor
	// vendordata identifies an instance. It counts for both, also without listen. If
	// false, the proof metadataService, a document alone and tokens of
	// vendordata.audience are denied (agents_unlimited); address and Nova's metadata are
	// not concerned, and address+document rests on the address alone. Default: false.
	AgentsLimitHeaders bool `yaml:"agentsLimitHeaders"`
}

// MetadataTLSConfig names the certificates of the listener for agents.
type MetadataTLSConfig struct {
	listen.TLSConfig `yaml:",inline"`
	// ClientCAFile has the certificates, in PEM, of those who sign agents'. If set,
	// a caller must have one. It is read again when it changes. Optional.
	ClientCAFile string `yaml:"clientCAFile"`
	// ClientNames are DNS names of which an agent's certificate must have one as a
	// subjectAltName; its common name and wildcards do not count. A CA may have signed
	// certificates for others as well. Required with clientCAFile if agents is empty,
	// optional otherwise.
	ClientNames []string `yaml:"clientNames"`
}

// Validate reports every problem, each beginning with its key. It reads the
// files.
func (c MetadataServiceConfig) Validate() error {
	if c.Listen == "" {
		return nil
	}
	var problems []error
	add := func(path, format string, args ...any) {
		problems = append(problems, problem.Errorf(path, format, args...))
	}
	if err := listen.ValidateAddress(c.Listen); err != nil {
		problems = append(problems, problem.At("listen", err))
	}
	if err := c.TLS.Validate(); err != nil {
		problems = append(problems, problem.At("tls", err))
	}
	switch {
	case c.TLS.ClientCAFile != "" && c.TLS.CertFile == "":
		add("tls.clientCAFile", "needs certFile and keyFile: without TLS there are no client certificates")
	case c.TLS.ClientCAFile != "":
		if _, err := listen.LoadCA(c.TLS.ClientCAFile); err != nil {
			problems = append(problems, problem.At("tls.clientCAFile", err))
		}
		if len(c.Agents) == 0 && len(c.TLS.ClientNames) == 0 {
			add("tls.clientNames", "is empty, and so is agents: each certificate that a CA of clientCAFile has signed, for whatever purpose, would make an agent")
		}
	case len(c.Agents) == 0:
		add("agents", "is empty, and so is tls.clientCAFile: nobody could be told from an agent")
	}
	if len(c.TLS.ClientNames) > 0 && c.TLS.ClientCAFile == "" {
		add("tls.clientNames", "needs clientCAFile, which says whose certificates count")
	}
	for i, name := range c.TLS.ClientNames {
		if !isHostName(name) {
			add(fmt.Sprintf("tls.clientNames[%d]", i), "%q is not a DNS name such as agent.example.com; a wildcard is none", name)
		}
	}
	for key, list := range map[string][]netip.Prefix{"agents": c.Agents, "proxies": c.Proxies} {
		for i, p := range list {
			if p.Bits() == 0 {
				add(fmt.Sprintf("%s[%d]", key, i), "%v is everyone", p)
			}
		}
	}
	if len(c.SharedSecretFile) == 0 {
		add("sharedSecretFile", "is required: it holds Nova's metadata_proxy_shared_secret")
	} else if _, err := loadSecrets(c.SharedSecretFile); err != nil {
		problems = append(problems, problem.At("sharedSecretFile", err))
	}
	if nova, err := parseNova(c.Nova); err != nil {
		problems = append(problems, problem.At("nova", err))
	} else if nova != nil && nova.Host == c.Listen {
		add("nova", "%q is this listener itself", c.Nova)
	}
	return errors.Join(problems...)
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)

// isHostName reports whether s is a DNS name of a host, without a final dot (RFC 1123,
// section 2.1).
func isHostName(s string) bool { return len(s) <= 253 && hostName.MatchString(s) }

func parseNova(s string) (*url.URL, error) {
	if s == "" {
		return nil, nil
	}
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("%q is not a URL such as http://127.0.0.1:8775", s)
	}
	return u, nil
}

func loadSecrets(files []string) ([][]byte, error) {
	var secrets [][]byte
	for _, file := range files {
		data, err := secret.ReadFile(file, maxSecret)
		if err != nil {
			return nil, err
		}
		word := strings.TrimSpace(string(data))
		if word == "" {
			return nil, secret.FileError(file, errors.New("is empty"))
		}
		secrets = append(secrets, []byte(word))
	}
	return secrets, nil
}

// Listen opens the listener for metadata agents. A peer that is known not to be an
// agent is closed before a byte is read.
func (a *Agents) Listen() (net.Listener, error) {
	c := a.config
	o := listen.Options{
		TLS: c.TLS.TLSConfig, ClientCAFile: c.TLS.ClientCAFile, ClientNames: c.TLS.ClientNames,
		Trusted:     func(addr netip.Addr) bool { return within(c.Agents, addr) || within(c.Proxies, addr) },
		Connections: AgentConnections,
		Refused:     a.turnAway,
		Closed: func(why string) {
			if s := a.server.Load(); s != nil {
				s.metrics.closed(listenerAgents)(why)
			}
		},
		Log: a.log,
	}
	if len(c.Agents) > 0 {
		o.Admit = func(addr netip.Addr) error {
			if o.Trusted(addr) {
				return nil
			}
			return errNotListed
		}
	}
	if len(c.Proxies) > 0 {
		o.Proxies, o.ProxyVersion2 = func(addr netip.Addr) bool { return within(c.Proxies, addr) }, true
	}
	return listen.Open(c.Listen, o)
}

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
			a.identity(s, w, r, at)
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
	d := &decision{door: doorMetadata, requestID: newRequestID(), began: s.now(), peer: peer}
	if at, err := parsePeer(peer); err == nil {
		d.evidence = attest.FromAddress(at)
	}
	s.settle(context.Background(), d, &attest.Denied{Reason: attest.AgentUnknown, Detail: why.Error()})
	s.record(context.Background(), d)
}

// isOriginForm reports whether a request target is a path with an optional query
// (RFC 9112, section 3.2.1). An agent sends no other form. In the absolute form and in
// the authority form a proxy before us, or Nova behind us, could read another path
// than we do; the same holds for a fragment, which no request target has.
func isOriginForm(target string) bool {
	return strings.HasPrefix(target, "/") && !strings.Contains(target, "#")
}

// rawPath is the path of a target in origin form as it was sent, escapes and all.
func rawPath(r *http.Request) string {
	target, _, _ := strings.Cut(r.RequestURI, "?")
	return target
}

// leadsToUs reports whether a path is below /identity in the eyes of somebody who
// unescapes, folds case, drops parameters or cleans it: what Nova then sees must
// not be something that a proxy between us and the agent took for another path.
func leadsToUs(raw string) bool {
	p := raw
	for range 4 {
		folded := strings.ToLower(p)
		slashed := strings.ReplaceAll(folded, `\`, "/")
		for _, reading := range []string{folded, dropParameters(folded), slashed, dropParameters(slashed)} {
			clean := path.Clean("/" + reading)
			if clean == strings.TrimSuffix(identityPrefix, "/") || strings.HasPrefix(clean, identityPrefix) {
				return true
			}
		}
		next, err := url.PathUnescape(p)
		if err != nil || next == p {
			return false
		}
		p = next
	}
	return true // escaped four times over
}

func dropParameters(p string) string {
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segments, "/")
}

// identity is what an agent asks for an instance.
func (a *Agents) identity(s *Server, w http.ResponseWriter, r *http.Request, at string) {
	c := s.echo.NewContext(r, w)
	s.name(c)
	d := s.begin(c, doorMetadata)
	roles, err := a.judge(s, d, r, at)
	s.settle(r.Context(), d, err)
	s.record(r.Context(), d)
	d.status = agentStatus(d.status)
	if d.outcome == outcomeGranted && at == identityRoles {
		c.Response().Header().Set(echo.HeaderCacheControl, "no-store")
		err = c.JSON(http.StatusOK, map[string][]attest.RoleName{"roles": roles})
	} else {
		err = s.answer(c, d)
	}
	if err != nil {
		s.log.Debug("answer not sent", "error", err, "request_id", d.requestID)
	}
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

func (a *Agents) judge(s *Server, d *decision, r *http.Request, at string) (roles []attest.RoleName, err error) {
	if headerSize(r.Header) > maxHeaders || len(r.RequestURI) > maxTarget {
		return nil, badField("the headers are longer than %d bytes, or the URL than %d", maxHeaders, maxTarget)
	}
	if d.evidence, d.request.instance, err = a.claim(r); err != nil {
		return nil, err
	}
	if want := map[string]string{identityToken: http.MethodPut, identityRoles: http.MethodGet}[at]; r.Method != want {
		return nil, badField("this path takes %s", want)
	}
	if r.ContentLength != 0 {
		return nil, badField("parameters go into the query, and the body stays empty")
	}
	fields, err := parseForm([]byte(r.URL.RawQuery))
	if err != nil {
		return nil, err
	}
	if at == identityRoles {
		if len(fields) > 0 {
			return nil, badField("this path takes no parameters")
		}
		if err := s.limit(d); err != nil {
			return nil, err
		}
		roles, d.instance, err = s.attestor.Roles(r.Context(), d.request.instance, d.evidence)
		return roles, err
	}
	if err := d.request.fill(fields, fieldRole, fieldAudience, fieldFormat); err != nil {
		return nil, err
	}
	return nil, s.grant(r.Context(), d)
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

// newNovaProxy passes requests on as they came.
func newNovaProxy(nova *url.URL, log *slog.Logger, transport http.RoundTripper) http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = nova.Scheme, nova.Host
			p.Out.Host = p.In.Host
			// The path and the query byte for byte: httputil drops what it cannot
			// parse, and net/url writes some paths anew.
			p.Out.URL.RawQuery = p.In.URL.RawQuery
			if raw := rawPath(p.In); strings.HasPrefix(raw, "/") && !strings.HasPrefix(raw, "//") {
				p.Out.URL.Opaque = raw
			}
			for _, name := range []string{"Forwarded", headerForwardedFor, "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if values, ok := p.In.Header[http.CanonicalHeaderKey(name)]; ok {
					p.Out.Header[http.CanonicalHeaderKey(name)] = values
				}
			}
		},
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				log.Warn("nova's metadata API", "error", err)
			}
			// The statuses of a gateway do not pass older agents.
			http.Error(w, "nova's metadata API does not answer", http.StatusInternalServerError)
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		deadline := http.NewResponseController(w)
		end := time.Now().Add(novaTime)
		_ = deadline.SetReadDeadline(end) // refused by test recorders alone
		_ = deadline.SetWriteDeadline(end)
		// What Nova does not send is not added.
		w.Header()["Date"], w.Header()["Content-Type"] = nil, nil
		proxy.ServeHTTP(w, r)
	})
}

func novaTransport() *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: novaDial}).DialContext,
		TLSHandshakeTimeout:    novaDial,
		ResponseHeaderTimeout:  agentWait + listen.ReadTimeout,
		DisableCompression:     true,
		MaxResponseHeaderBytes: novaHeaders,
		// A connection for each request, as agents have it. Nova closes those that are
		// kept, uWSGI without a word, and what was posted then would be lost.
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12},
	}
}
