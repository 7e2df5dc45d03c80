package config_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config/configtest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// bases returns configurations that together use all keys.
func bases() map[string]configtest.Values {
	all := configtest.Values{
		"auth.tokenIssuer": "https://id.example.com", "roles.web.projectID": "a", "keys.encryptionKeyFile": "encryption.key",
		"tls.certFile": "server.pem", "tls.keyFile": "server-key.pem",
		"metadataService.listen": "127.0.0.1:0", "metadataService.agents": "192.0.2.1", "metadataService.sharedSecretFile": "metadata.secret",
		"vendordata.users": "d0fd9128b4574898af1ba8f4e7836ede", "vendordata.listen": "192.0.2.5:0",
	}
	return map[string]configtest.Values{
		"managed keys in Redis":   all.With(configtest.Values{"state.type": "redis"}),
		"a signing key in memory": all.With(configtest.Values{"auth.signingKeyFile": "signing-key.pem", "state.type": "memory"}),
	}
}

// No problem and no warning shows a secret that an operator pasted as any value or key.
func TestNoSecretIsPrinted(t *testing.T) {
	dir := newDir(t)
	file := filepath.Join(dir, "config.yml")
	said := func(v configtest.Values) string {
		write(t, file, []byte(v.String()))
		c, err := config.Load(file)
		if err != nil {
			return err.Error()
		}
		var all strings.Builder
		for _, w := range c.Warnings() {
			all.WriteString(w.String() + "\n")
		}
		return all.String()
	}
	keys := configtest.Keys()
	if len(keys) < 70 {
		t.Fatalf("%d keys are too few: %v", len(keys), keys)
	}
	for name, base := range bases() {
		t.Run(name, func(t *testing.T) {
			write(t, file, []byte(base.String()))
			if _, err := config.Load(file); err != nil {
				t.Fatal(err)
			}
			for n, s := range configtest.Secrets() {
				if testing.Short() && n > 0 {
					break
				}
				if name != "managed keys in Redis" && n%3 > 0 {
					continue // few keys are used in only one of them
				}
				for _, key := range keys {
					for _, value := range []string{s.YAML, "[" + s.YAML + "]", "{a: " + s.YAML + "}"} {
						if (strings.Contains(s.YAML, "\n") || n > 0) && value != s.YAML {
							continue // a block cannot be in brackets, and brackets do not depend on the shape
						}
						if text := said(base.With(configtest.Values{key: value})); s.Seen(text) != "" {
							t.Errorf("%s at %s is seen (%s):\n%s", s.Name, key, s.Seen(text), text)
						}
					}
				}
				for _, section := range configtest.Sections() {
					key := strings.ReplaceAll(strings.TrimSuffix(s.YAML, "\n"), ".", "_") // a dot separates
					if section != "" {
						key = section + "." + key
					}
					s.Private = strings.ReplaceAll(s.Private, ".", "_")
					if section == "roles" && secret.ShownKey(s.Value) && !strings.Contains(s.Value, " ") {
						continue // it is the name of a role
					}
					values := []string{"x", "[]", "~", "{a: [b, {}]}"}
					if n%4 > 0 {
						values = values[:2] // the shape makes no difference to the others
					}
					for _, value := range values {
						if text := said(base.With(configtest.Values{key: value})); s.Seen(text) != "" {
							t.Errorf("%s as a key of %q is seen (%s):\n%s", s.Name, section, s.Seen(text), text)
						}
					}
				}
			}
		})
	}
}
