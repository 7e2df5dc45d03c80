package server_test

import (
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

func TestValidate(t *testing.T) {
	check := func(c server.ProxyConfig) error {
		_, err := c.Parse()
		return err
	}
	for _, row := range []struct {
		name string
		err  error
		want string // empty: valid
	}{
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
