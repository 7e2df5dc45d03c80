package attest_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
)

func Example() {
	// The configuration: a role, and which instances may have it how often.
	web, err := attest.NewRole("web", attest.Grant{},
		attest.Window{Limit: 3, Period: 5 * time.Minute, Since: attest.SinceCreated},
		attest.Rules{ProjectID: []string{"7e562c1a85814230b973a83db9534b02"}, Metadata: map[string][]string{"role": {"web-*"}}})
	if err != nil {
		fmt.Println(err)
		return
	}

	// The cloud, here with a single instance.
	id, err := attest.ParseInstanceID("1B9C7A3E-4F0D-4C63-9D0E-0E8F6F3C5A21")
	if err != nil {
		fmt.Println(err)
		return
	}
	cloud := attesttest.Cloud{id: {
		ID: id, ProjectID: "7e562c1a85814230b973a83db9534b02", Metadata: map[string]string{"role": "web-blue"},
		Phase: attest.PhaseRunning, Created: time.Now(),
		Addresses: []attest.Address{{Network: "private", Addr: netip.MustParseAddr("10.20.0.11")}},
	}}

	issuer, err := attest.ParseIssuer("https://id.example.com")
	if err != nil {
		fmt.Println(err)
		return
	}
	attestor := &attest.Attestor{Policy: attest.NewPolicy(issuer, web), Instances: cloud, State: &attesttest.State{}, Denials: &attesttest.Denials{}}
	role, err := attest.ParseRoleName("web")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, caller := range []string{"10.20.0.12", "10.20.0.11"} {
		judgment, err := attestor.Attest(context.Background(), attest.Request{
			Instance: id, Role: role, Evidence: attest.FromAddress(netip.MustParseAddr(caller)),
		})
		var denied *attest.Denied
		switch {
		case errors.As(err, &denied):
			fmt.Println(caller, "is denied:", denied.Reason)
		case err != nil:
			fmt.Println(caller, "could not be judged:", err)
		default:
			fmt.Println(caller, "is", judgment.Instance.ID, "in role", judgment.Identity.Role())
		}
	}
	// Output:
	// 10.20.0.12 is denied: address_mismatch
	// 10.20.0.11 is 1b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5a21 in role web
}
