package server

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

// The ways in which a load balancer names the client.
const (
	ViaHeader   = "header"
	viaProtocol = "protocol"
)

// ProxyConfig names the load balancers that may name the client.
type ProxyConfig struct {
	// Trusted are the addresses of load balancers, as CIDRs. Optional: without
	// it the peer of a connection is the client, whatever a header says.
	Trusted []netip.Prefix `yaml:"trusted"`
	// Via is how they name the client: header (X-Forwarded-For) or protocol (PROXY v1
	// or v2, required from them; the header is then ignored). Default: header.
	Via string `yaml:"via"`
}

// Proxy is a parsed [ProxyConfig]. The zero value trusts no load balancer.
type Proxy struct {
	trusted  networks
	protocol bool
}

// Parse checks the configuration. The error joins all problems ([problem.List]).
func (c ProxyConfig) Parse() (Proxy, error) {
	problems := checkPrefixes("trusted", c.Trusted, "any client could name the address of an instance")
	if c.Via != ViaHeader && c.Via != viaProtocol {
		problems = append(problems, problem.Errorf("via", "%q is neither header nor protocol", c.Via))
	}
	if len(problems) > 0 {
		return Proxy{}, errors.Join(problems...)
	}
	return Proxy{c.Trusted, c.Via == viaProtocol}, nil
}

// ThrottleConfig bounds requests before the cloud is asked.
type ThrottleConfig struct {
	// PerAddress bounds a client address; an IPv6 /64 may have 64 times that.
	// Default: rate 5, burst 20.
	PerAddress ratelimit.Rate `yaml:"perAddress"`
	// PerInstance bounds an instance that a document or the metadata agent
	// authenticates, in place of its address. Default: rate 1, burst 10.
	// It may use no more than 64 documents at once, and again within
	// vendordata.documentExpiry, as each is counted until it expires.
	PerInstance ratelimit.Rate `yaml:"perInstance"`
}

// Throttle is a parsed [ThrottleConfig]. The zero value allows no request.
type Throttle struct{ perAddress, perInstance ratelimit.Limit }

// Parse checks the rates. The error joins all problems ([problem.List]).
func (c ThrottleConfig) Parse() (Throttle, error) {
	address, one := c.PerAddress.Parse()
	instance, other := c.PerInstance.Parse()
	return Throttle{address, instance}, errors.Join(problem.At("perAddress", one), problem.At("perInstance", other))
}

// MetricsConfig is the listener for monitoring.
type MetricsConfig struct {
	// Listen is the address of GET /metrics, /healthz and /readyz; "" for none.
	// Default: 127.0.0.1:18776.
	Listen string `yaml:"listen"`
}

// VendordataConfig is the door for Nova's DynamicJSON vendordata
// (nova/doc/source/admin/vendordata.rst).
type VendordataConfig struct {
	// Listen is the address of a separate listener, on the cloud's internal network.
	// Optional: without it POST /vendordata is served at `listen`.
	Listen string `yaml:"listen"`
	// Users are the Keystone IDs of the users as whom Nova signs in
	// ([vendordata_dynamic_auth]). Names are an error, as another user can take them.
	// Optional: without it the door is closed.
	Users []string `yaml:"users"`
	// From are the addresses of the callers, as CIDRs: the hosts with nova-api, and
	// those with nova-compute for config drives. Optional: without it a caller may have
	// any address, and its request may have 8 KiB in place of 1 MiB, which user data can
	// exceed.
	From []netip.Prefix `yaml:"from"`
	// DocumentExpiry is how long a document is valid, 10s to 1h. Default: 5m.
	DocumentExpiry time.Duration `yaml:"documentExpiry"`
	// Audience adds an ordinary token for these to the answer, without a role. It
	// needs metadataService.agentsLimitHeaders: without it Nova gets 403 in place of
	// the answer. Optional.
	Audience []string `yaml:"audience"`
	// Static is returned beside the document. Optional.
	Static map[string]string `yaml:"static"`
}

// Vendordata is a parsed [VendordataConfig]. The zero value is a closed door.
type Vendordata struct {
	listen   listen.Address
	users    []string
	from     networks
	expiry   time.Duration
	audience []string
	static   map[string]string
}

// open reports whether any caller may use the door, and separate whether it then has its
// own listener.
func (v *Vendordata) open() bool     { return len(v.users) > 0 }
func (v *Vendordata) separate() bool { return v.open() && v.listen != listen.Address{} }

var keystoneID = regexp.MustCompile(`\A[0-9a-f]{32}(?:[0-9a-f]{32})?\z`)

// Parse checks the configuration. The error joins all problems ([problem.List]).
func (c VendordataConfig) Parse() (Vendordata, error) {
	problems := checkPrefixes("from", c.From, "leave it out to allow that")
	add := func(path string, err error) { problems = append(problems, problem.At(path, err)) }
	v := Vendordata{users: c.Users, from: c.From, expiry: c.DocumentExpiry, audience: c.Audience, static: c.Static}
	var err error
	if c.Listen != "" {
		v.listen, err = listen.ParseAddress(c.Listen)
		add("listen", err)
	}
	for i, id := range c.Users {
		if !keystoneID.MatchString(id) {
			add(fmt.Sprintf("users[%d]", i), fmt.Errorf("%q is not the ID of a Keystone user (`openstack user show -f value -c id NAME`): another user can take a name", id))
		}
	}
	add("documentExpiry", token.CheckDocumentExpiry(c.DocumentExpiry))
	for i, a := range c.Audience {
		if _, err := attest.ParseAudience(a); err != nil {
			add(fmt.Sprintf("audience[%d]", i), fmt.Errorf("%q: %w", a, err))
		}
	}
	for key := range c.Static {
		if slices.Contains([]string{"document", "expires_at", "token"}, key) {
			add("static."+key, errors.New("is reserved for the server's own value"))
		}
	}
	if err = errors.Join(problems...); err != nil {
		return Vendordata{}, err
	}
	return v, nil
}

// MetadataServiceConfig is the listener for Neutron's metadata agents.
type MetadataServiceConfig struct {
	// Listen is the address, on an internal network of the cloud, to which the agents'
	// nova_metadata_host and nova_metadata_port lead. Optional: without it the door
	// is closed.
	Listen string `yaml:"listen"`
	// TLS is the certificate, and the CA of the agents' (nova_metadata_protocol,
	// nova_client_cert and nova_client_priv_key of metadata_agent.ini).
	TLS agentsTLSConfig `yaml:"tls"`
	// Agents are the addresses of the agents, as CIDRs. Requests from other addresses
	// are refused. Without it an agent is identified by a client certificate with one of
	// tls.clientNames; one of the two is required.
	Agents []netip.Prefix `yaml:"agents"`
	// Proxies are load balancers between the agents and this listener, as CIDRs.
	// They must speak the PROXY protocol, version 2, and name the agent; no other peer
	// may. Optional.
	Proxies []netip.Prefix `yaml:"proxies"`
	// SharedSecretFile names files that hold Nova's metadata_proxy_shared_secret.
	// A signature with any of them is valid, so that the secret can be changed. Required.
	SharedSecretFile []string `yaml:"sharedSecretFile"`
	// Nova is the URL of Nova's metadata API, such as http://127.0.0.1:8775, which
	// gets all requests that are not below /identity/. Optional: without it they get 404.
	Nova string `yaml:"nova"`
	// AgentsLimitHeaders is the operator's statement that each metadata agent of the
	// cloud is of Neutron 2024.2 or older, or has the limit of
	// example/metadata-service/agent-limits, and that no host in agents has Neutron's
	// extension metadata_path, which has no agent: otherwise neither the metadata service nor
	// vendordata identifies an instance. It counts for both, also without listen. If
	// false, the proof metadataService, a document alone and tokens of
	// vendordata.audience are denied (agents_unlimited); address and Nova's metadata are
	// not affected, and address+document rests on the address alone. Default: false.
	AgentsLimitHeaders bool `yaml:"agentsLimitHeaders"`
}

// agentsTLSConfig names the certificates of the listener for agents.
type agentsTLSConfig struct {
	listen.TLSConfig `yaml:",inline"`
	// ClientCAFile has the certificates, in PEM, of the CAs that sign the agents'
	// certificates. If set, a client must have one of these. The file is read again when
	// it changes. Optional.
	ClientCAFile string `yaml:"clientCAFile"`
	// ClientNames are DNS names of which an agent's certificate must have one as a
	// subjectAltName; its common name and wildcards do not count. A CA may have signed
	// certificates for others as well. Required with clientCAFile if agents is empty,
	// optional otherwise.
	ClientNames []string `yaml:"clientNames"`
}

// MetadataService is a parsed [MetadataServiceConfig], with the secrets that it names.
// The zero value refuses all agents.
type MetadataService struct {
	listen          listen.Address
	tls             *listen.Certificate
	clientCAs       *listen.CAs // nil for none
	clientNames     []string
	agents, proxies networks
	secrets         [][]byte
	nova            *url.URL // nil for none
}

// Parse checks the configuration and reads the files. The error joins all problems
// ([problem.List]). Without Listen it returns the zero value.
func (c MetadataServiceConfig) Parse() (MetadataService, error) {
	if c.Listen == "" {
		return MetadataService{}, nil
	}
	m := MetadataService{clientNames: c.TLS.ClientNames, agents: c.Agents, proxies: c.Proxies}
	problems := append(checkPrefixes("agents", c.Agents, "any client would be an agent"), checkPrefixes("proxies", c.Proxies, "any client could name an agent")...)
	add := func(path string, err error) { problems = append(problems, problem.At(path, err)) }
	var err error
	m.listen, err = listen.ParseAddress(c.Listen)
	add("listen", err)
	m.tls, err = c.TLS.Load()
	add("tls", err)
	switch t := c.TLS; {
	case t.ClientCAFile == "" && len(c.Agents) == 0:
		add("agents", errors.New("is empty, and so is tls.clientCAFile: the server could not identify agents"))
	case t.ClientCAFile != "" && t.CertFile == "":
		add("tls.clientCAFile", errors.New("needs certFile and keyFile: without TLS there are no client certificates"))
	case t.ClientCAFile != "":
		m.clientCAs, err = listen.LoadCAs(t.ClientCAFile)
		add("tls.clientCAFile", err)
		if len(c.Agents) == 0 && len(t.ClientNames) == 0 {
			add("tls.clientNames", errors.New("is empty, and so is agents: each certificate that a CA of clientCAFile has signed, for whatever purpose, would identify an agent"))
		}
	}
	if len(c.TLS.ClientNames) > 0 && c.TLS.ClientCAFile == "" {
		add("tls.clientNames", errors.New("needs clientCAFile, which has the CAs of the certificates"))
	}
	for i, name := range c.TLS.ClientNames {
		// A DNS name of a host, without a final dot (RFC 1123, section 2.1).
		if len(name) > 253 || !hostName.MatchString(name) {
			add(fmt.Sprintf("tls.clientNames[%d]", i), fmt.Errorf("%q is not a DNS name such as agent.example.com; wildcards are not allowed", name))
		}
	}
	if m.secrets, err = readSecrets(c.SharedSecretFile); err != nil {
		add("sharedSecretFile", err)
	}
	if m.nova, err = parseNova(c.Nova); err != nil {
		add("nova", err)
	} else if m.nova != nil && m.nova.Host == c.Listen {
		add("nova", fmt.Errorf("%q is this listener itself", c.Nova))
	}
	if err := errors.Join(problems...); err != nil {
		return MetadataService{}, err
	}
	return m, nil
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)

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

func readSecrets(files []string) ([][]byte, error) {
	const maxSecret = 4 << 10
	if len(files) == 0 {
		return nil, errors.New("is required: it holds Nova's metadata_proxy_shared_secret")
	}
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

// checkPrefixes reports the networks that contain every address, and what that means.
func checkPrefixes(key string, list []netip.Prefix, meaning string) (problems []error) {
	for i, p := range list {
		if p.Bits() == 0 {
			problems = append(problems, problem.Errorf(fmt.Sprintf("%s[%d]", key, i), "%v contains every address: %s", p, meaning))
		}
	}
	return problems
}
