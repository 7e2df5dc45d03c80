package server_test

import (
	"strings"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

func TestValidate(t *testing.T) {
	long := "/" + strings.Repeat("a", 107)
	for _, row := range []struct {
		name string
		err  error
		want string // empty: valid
	}{
		{"any address", server.ValidateListen("0.0.0.0:18775"), ""},
		{"any IPv6 address", server.ValidateListen("[::]:18775"), ""},
		{"any address, in short", server.ValidateListen(":18775"), ""},
		{"localhost", server.ValidateListen("localhost:18775"), ""},
		{"a free port", server.ValidateListen("127.0.0.1:0"), ""},
		{"no port", server.ValidateListen("0.0.0.0"), `"0.0.0.0" is not an address such as 0.0.0.0:18775`},
		{"an IPv6 address without brackets", server.ValidateListen("::1:18775x"), `"::1:18775x" is not an address such as 0.0.0.0:18775`},
		{"a host name", server.ValidateListen("example.com:1"), `"example.com:1": "example.com" is not an IP address`},
		{"a port too high", server.ValidateListen(":65536"), `":65536": "65536" is not a port`},
		{"a port with a name", server.ValidateListen(":http"), `":http": "http" is not a port`},

		{"no socket", server.ValidateSocket(""), ""},
		{"a socket", server.ValidateSocket("/run/x/admin.sock"), ""},
		{"a path as long as it may be", server.ValidateSocket(long[:107]), ""},
		{"a path too long", server.ValidateSocket(long), `"` + long + `" is not an absolute path of at most 107 bytes`},
		{"a relative path", server.ValidateSocket("admin.sock"), `"admin.sock" is not an absolute path of at most 107 bytes`},

		{"plain HTTP", server.TLSConfig{}.Validate(), ""},
		{"a certificate and its key", server.TLSConfig{CertFile: "a", KeyFile: "b"}.Validate(), ""},
		{"a certificate without a key", server.TLSConfig{CertFile: "a"}.Validate(), "certFile: goes with keyFile; one of them is missing"},
		{"a key without a certificate", server.TLSConfig{KeyFile: "b"}.Validate(), "certFile: goes with keyFile; one of them is missing"},

		{"no proxy", noProxy.Validate(), ""},
		{"proxies", byHeader.Validate(), ""},
		{"the PROXY protocol", byProxy.Validate(), ""},
		{"everyone is a proxy", server.ProxyConfig{Via: server.ViaHeader, Trusted: prefixes("10.0.0.0/8", "0.0.0.0/0")}.Validate(), "trusted[1]: 0.0.0.0/0 trusts everyone to name an address, an instance's among them"},
		{"everyone with IPv6 is a proxy", server.ProxyConfig{Via: server.ViaHeader, Trusted: prefixes("::/0")}.Validate(), "trusted[0]: ::/0 trusts everyone to name an address, an instance's among them"},
		{"another way", server.ProxyConfig{Via: "Forwarded"}.Validate(), `via: "Forwarded" is neither header nor protocol`},
		{"no way", server.ProxyConfig{}.Validate(), `via: "" is neither header nor protocol`},

		{"audit to stdout", server.AuditConfig{Output: "stdout"}.Validate(), ""},
		{"audit to nowhere", server.AuditConfig{}.Validate(), "output: is empty; stdout, stderr or the path of a file is wanted"},
	} {
		var got string
		if row.err != nil {
			got = row.err.Error()
		}
		if got != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}
