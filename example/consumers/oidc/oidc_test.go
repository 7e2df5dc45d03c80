// Package oidc_test verifies our tokens with github.com/coreos/go-oidc, on which
// many Go services stand.
package oidc_test

import (
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/example/consumers/consumertest"
)

const audience = "https://app.example.com"

func TestGoOIDC(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"", "/region-1"} {
		i := consumertest.Start(t, path, "  web: {allowAnyInstance: true, audience: ["+audience+"]}\n  original: {allowAnyInstance: true}\n")
		ctx := oidc.ClientContext(t.Context(), i.Client)
		provider, err := oidc.NewProvider(ctx, i.URL)
		if err != nil {
			t.Fatal(err)
		}
		verifier := provider.Verifier(&oidc.Config{ClientID: audience})
		good := i.Token(t, "web", "")
		token, err := verifier.Verify(ctx, good)
		if err != nil || token.Subject != consumertest.Instance {
			t.Errorf("a good token: %+v, %v", token, err)
		}
		for name, bad := range i.Bad(t, good) {
			if _, err := verifier.Verify(ctx, bad); err == nil {
				t.Errorf("%s is accepted", name)
			}
		}
		if _, err := verifier.Verify(ctx, i.Token(t, "original", "")); err == nil {
			t.Error("another role's token is accepted")
		}
	}
}
