package server_test

import (
	"strings"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

func TestValidate(t *testing.T) {
	long := "/" + strings.Repeat("a", 107)
	check := func(c server.ProxyConfig) error {
		_, err := c.Parse()
		return err
	}
	for _, row := range []struct {
		name string
		err  error
		want string // empty: valid
	}{
		{"any address", listen.ValidateAddress("0.0.0.0:18775"), ""},
		{"any IPv6 address", listen.ValidateAddress("[::]:18775"), ""},
		{"any address, in short", listen.ValidateAddress(":18775"), ""},
		{"localhost", listen.ValidateAddress("localhost:18775"), ""},
		{"a free port", listen.ValidateAddress("127.0.0.1:0"), ""},
		{"no port", listen.ValidateAddress("0.0.0.0"), `"0.0.0.0" is not an address such as 0.0.0.0:18775`},
		{"an IPv6 address without brackets", listen.ValidateAddress("::1:18775x"), `"::1:18775x" is not an address such as 0.0.0.0:18775`},
		{"a host name", listen.ValidateAddress("example.com:1"), `"example.com:1": "example.com" is not an IP address`},
		{"a port too high", listen.ValidateAddress(":65536"), `":65536": "65536" is not a port`},
		{"a port with a name", listen.ValidateAddress(":http"), `":http": "http" is not a port`},

		{"no socket", listen.ValidateSocket(""), ""},
		{"a socket", listen.ValidateSocket("/run/x/admin.sock"), ""},
		{"a path as long as it may be", listen.ValidateSocket(long[:107]), ""},
		{"a path too long", listen.ValidateSocket(long), `"` + long + `" is not an absolute path of at most 107 bytes`},
		{"a relative path", listen.ValidateSocket("admin.sock"), `"admin.sock" is not an absolute path of at most 107 bytes`},

		{"plain HTTP", listen.TLSConfig{}.Validate(), ""},
		{"a certificate and its key", listen.TLSConfig{CertFile: "a", KeyFile: "b"}.Validate(), ""},
		{"a certificate without a key", listen.TLSConfig{CertFile: "a"}.Validate(), "certFile: goes with keyFile; one of them is missing"},
		{"a key without a certificate", listen.TLSConfig{KeyFile: "b"}.Validate(), "certFile: goes with keyFile; one of them is missing"},

		{"no proxy", check(noProxy), ""},
		{"proxies", check(byHeader), ""},
		{"the PROXY protocol", check(byProxy), ""},
		{"everyone is a proxy", check(server.ProxyConfig{Via: server.ViaHeader, Trusted: prefixes("10.0.0.0/8", "0.0.0.0/0")}), "trusted[1]: 0.0.0.0/0 contains every address: any client could name the address of an instance"},
		{"everyone with IPv6 is a proxy", check(server.ProxyConfig{Via: server.ViaHeader, Trusted: prefixes("::/0")}), "trusted[0]: ::/0 contains every address: any client could name the address of an instance"},
		{"another way", check(server.ProxyConfig{Via: "Forwarded"}), `via: "Forwarded" is neither header nor protocol`},
		{"no way", check(server.ProxyConfig{}), `via: "" is neither header nor protocol`},

		{"audit to stdout", audit.Config{Output: "stdout"}.Validate(), ""},
		{"audit to nowhere", audit.Config{}.Validate(), "output: is empty; set it to stdout, stderr or the path of a file"},
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
