package server_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen/listentest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

// finds checks that each change of a good configuration is a problem, which begins with
// the key.
func finds[C interface{ Parse() (P, error) }, P any](t *testing.T, good func() C, changes map[string]func(*C)) {
	t.Helper()
	parse(t, good())
	for want, change := range changes {
		c := good()
		change(&c)
		if _, err := c.Parse(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("Parse: %v, want %s", err, want)
		}
	}
}

func TestProxyConfigProblems(t *testing.T) {
	parse(t, byHeader)
	parse(t, byProxy)
	finds(t, func() server.ProxyConfig { return noProxy }, map[string]func(*server.ProxyConfig){
		"trusted[1]: 0.0.0.0/0 contains every address: any client could name the address of an instance": func(c *server.ProxyConfig) { c.Trusted = prefixes("10.0.0.0/8", "0.0.0.0/0") },
		"trusted[0]: ::/0 contains every address: any client could name the address of an instance":      func(c *server.ProxyConfig) { c.Trusted = prefixes("::/0") },
		`via: "Forwarded" is neither header nor protocol`:                                                func(c *server.ProxyConfig) { c.Via = "Forwarded" },
		`via: "" is neither header nor protocol`:                                                         func(c *server.ProxyConfig) { c.Via = "" },
	})
}

func TestMetadataServiceConfigProblems(t *testing.T) {
	good := func() server.MetadataServiceConfig {
		return server.MetadataServiceConfig{
			Listen: "127.0.0.1:8775", Agents: prefixes("192.0.2.0/24"), SharedSecretFile: []string{secretFile(t, secret)}, Nova: "http://127.0.0.1:8774/",
		}
	}
	parse(t, server.MetadataServiceConfig{Nova: "nonsense"}) // the door is closed
	ca := listentest.NewCA(t)
	names := func(name string) func(*server.MetadataServiceConfig) {
		return func(c *server.MetadataServiceConfig) {
			c.TLS.ClientCAFile, c.TLS.ClientNames = ca.File(t), []string{name}
			c.TLS.CertFile, c.TLS.KeyFile = ca.Issue(t, "door.example.com").Files(t)
		}
	}
	finds(t, good, map[string]func(*server.MetadataServiceConfig){
		"listen: ":                               func(c *server.MetadataServiceConfig) { c.Listen = "8775" },
		"agents: is empty":                       func(c *server.MetadataServiceConfig) { c.Agents = nil },
		"agents[0]: 0.0.0.0/0 contains every":    func(c *server.MetadataServiceConfig) { c.Agents[0] = netip.MustParsePrefix("0.0.0.0/0") },
		"proxies[0]: ::/0 contains every":        func(c *server.MetadataServiceConfig) { c.Proxies = prefixes("::/0") },
		"sharedSecretFile: is required":          func(c *server.MetadataServiceConfig) { c.SharedSecretFile = nil },
		"sharedSecretFile: none.secret: no such": func(c *server.MetadataServiceConfig) { c.SharedSecretFile = []string{"none.secret"} },
		"tls.certFile: goes with keyFile":        func(c *server.MetadataServiceConfig) { c.TLS.CertFile = "cert.pem" },
		"tls.clientNames: is empty": func(c *server.MetadataServiceConfig) {
			c.Agents, c.TLS.ClientCAFile = nil, ca.File(t)
			c.TLS.CertFile, c.TLS.KeyFile = ca.Issue(t, "door.example.com").Files(t)
		},
		"tls.clientNames: needs clientCAFile":    func(c *server.MetadataServiceConfig) { c.TLS.ClientNames = []string{agentName} },
		`tls.clientNames[0]: "*.example.com" is`: names("*.example.com"),
		`tls.clientNames[0]: "a b" is not`:       names("a b"),
		`tls.clientNames[0]: "" is not`:          names(""),
		`tls.clientNames[0]: "a.example.com."`:   names("a.example.com."),
		`tls.clientNames[0]: "spiffe://a/b" is`:  names("spiffe://a/b"),
		"tls.clientCAFile: needs certFile":       func(c *server.MetadataServiceConfig) { c.TLS.ClientCAFile = ca.File(t) },
		`nova: "127.0.0.1:8775" is not a URL`:    func(c *server.MetadataServiceConfig) { c.Nova = "127.0.0.1:8775" },
		`nova: "http://127.0.0.1:8775" is this`:  func(c *server.MetadataServiceConfig) { c.Nova = "http://" + c.Listen },
		`nova: "http://127.0.0.1/x" is not`:      func(c *server.MetadataServiceConfig) { c.Nova = "http://127.0.0.1/x" },
		"sharedSecretFile: " + os.TempDir():      func(c *server.MetadataServiceConfig) { c.SharedSecretFile = []string{secretFile(t, "\n")} },
	})
}

func TestVendordataConfigProblems(t *testing.T) {
	good := func() server.VendordataConfig {
		return server.VendordataConfig{Users: []string{novaUser, novaUser + novaUser}, DocumentExpiry: time.Minute}
	}
	finds(t, good, map[string]func(*server.VendordataConfig){
		"listen: ":                                  func(c *server.VendordataConfig) { c.Listen = "x" },
		`users[1]: "nova" is not the ID`:            func(c *server.VendordataConfig) { c.Users = []string{novaUser, "nova"} },
		"from[0]: 0.0.0.0/0 contains every address": func(c *server.VendordataConfig) { c.From = prefixes("0.0.0.0/0") },
		"documentExpiry: 9s is not in":              func(c *server.VendordataConfig) { c.DocumentExpiry = 9 * time.Second },
		"documentExpiry: 2h0m0s is not in":          func(c *server.VendordataConfig) { c.DocumentExpiry = 2 * time.Hour },
		`audience[0]: "a b": an audience is`:        func(c *server.VendordataConfig) { c.Audience = []string{"a b"} },
		"static.token: is reserved":                 func(c *server.VendordataConfig) { c.Static = map[string]string{"token": "x"} },
	})
}
