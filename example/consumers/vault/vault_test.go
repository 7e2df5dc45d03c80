// Package vault_test logs in with our tokens at Vault's own JWT auth backend.
package vault_test

import (
	"testing"
	"time"

	jwtauth "github.com/hashicorp/vault-plugin-auth-jwt"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/example/consumers/consumertest"
)

func TestVault(t *testing.T) {
	i := consumertest.Start(t, "", `  web: {projectID: `+consumertest.Project+`, audience: [https://vault.example.com]}
  db: {projectID: `+consumertest.Project+`, audience: [https://vault.example.com]}
  elsewhere: {allowAnyInstance: true}
`)
	config := &logical.BackendConfig{
		System:      &logical.StaticSystemView{DefaultLeaseTTLVal: time.Hour, MaxLeaseTTLVal: 24 * time.Hour},
		StorageView: &logical.InmemStorage{},
	}
	backend, err := jwtauth.Factory(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string, data map[string]any) (*logical.Response, error) {
		return backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.UpdateOperation, Path: path, Storage: config.StorageView, Data: data})
	}
	must := func(operation logical.Operation, path string, data map[string]any) {
		t.Helper()
		resp, err := backend.HandleRequest(t.Context(), &logical.Request{Operation: operation, Path: path, Storage: config.StorageView, Data: data})
		if err != nil || resp.IsError() {
			t.Fatalf("%s: %v, %v", path, resp, err)
		}
	}
	settings := consumertest.ReadJSON(t, "config.json")
	settings["oidc_discovery_url"], settings["bound_issuer"], settings["oidc_discovery_ca_pem"] = i.URL, i.URL, string(i.CA)
	must(logical.UpdateOperation, "config", settings)
	must(logical.CreateOperation, "role/web", consumertest.ReadJSON(t, "role.json"))

	good := i.Token(t, "web", "")
	resp, err := write("login", map[string]any{"role": "web", "jwt": good})
	if err != nil || resp.IsError() {
		t.Fatalf("a good token: %v, %v", resp, err)
	}
	if a := resp.Auth; a.Alias.Name != consumertest.Instance || a.Metadata["project_id"] != consumertest.Project || len(a.Policies) != 1 || a.Policies[0] != "web" {
		t.Errorf("Vault made of it %+v", resp.Auth)
	}
	bad := i.Bad(t, good)
	bad["another role of the same project"] = i.Token(t, "db", "")
	bad["for another audience"] = i.Token(t, "elsewhere", "")
	for name, token := range bad {
		if resp, err := write("login", map[string]any{"role": "web", "jwt": token}); err == nil && !resp.IsError() {
			t.Errorf("%s is accepted: %+v", name, resp.Auth)
		}
	}
}
