package server

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const maxSecret = 4 << 10

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
