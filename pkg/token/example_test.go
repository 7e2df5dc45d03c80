package token_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

func Example() {
	if err := example(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// discovery at https://id.example.com/.well-known/openid-configuration
	// a token until 2026-11-23 12:10:00 +0000 UTC
}

func example() error {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "key.pem")
	if err := writeKey(file); err != nil {
		return err
	}

	config := token.Config{
		SigningKeyFile: []string{file},
		TokenIssuer:    "https://id.example.com",
		TokenExpiry:    10 * time.Minute,
	}
	plan, err := config.Plan()
	if err != nil {
		return err
	}
	window := attest.Window{Limit: 3, Period: 5 * time.Minute, Since: attest.SinceCreated}
	web, err := attest.NewRole("web", attest.Grant{}, window, attest.Rules{AllowAnyInstance: true})
	if err != nil {
		return err
	}
	if err := plan.Add(web, token.RoleConfig{}); err != nil {
		return err
	}
	keys, err := keyring.LoadKeys(config.SigningKeyFile)
	if err != nil {
		return err
	}
	issuer, err := token.NewIssuer(plan, keys, nil)
	if err != nil {
		return err
	}
	issuer.Now = func() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }
	fmt.Println("discovery at", issuer.URL().String()+token.DiscoveryPath)

	// Only what passed the check can be signed.
	identity, err := recognize(plan)
	if err != nil {
		return err
	}
	signed, err := issuer.Issue(context.Background(), identity)
	if err != nil {
		return err
	}
	fmt.Println("a token until", signed.Expires)
	return nil
}

// writeKey does what openssl genpkey does.
func writeKey(file string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// recognize lets an instance of a cloud with one instance ask for a role.
func recognize(plan *token.Plan) (attest.Identity, error) {
	id, err := attest.ParseInstanceID("1b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5a21")
	if err != nil {
		return attest.Identity{}, err
	}
	name, err := attest.ParseRoleName("web")
	if err != nil {
		return attest.Identity{}, err
	}
	attestor := &attest.Attestor{
		Policy: plan.Policy(),
		Instances: attesttest.Cloud{id: {
			ID: id, Phase: attest.PhaseRunning, Created: time.Now(),
			Addresses: []attest.Address{{Network: "private", Addr: attesttest.Addr}},
		}},
		State:   &attesttest.State{},
		Denials: &attesttest.Denials{},
	}
	judgment, err := attestor.Attest(context.Background(), attest.Request{
		Instance: id, Role: name, Evidence: attest.FromAddress(netip.MustParseAddr("10.20.0.11")),
	})
	return judgment.Identity, err
}
