//go:build lab

package lab_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	osconfig "github.com/gophercloud/gophercloud/v2/openstack/config"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/users"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
)

// cloud is a login of one account.
type cloud struct {
	compute  *gophercloud.ServiceClient
	identity *gophercloud.ServiceClient
}

// login signs in as an account of clouds.yaml.
func login(t *testing.T, name string) cloud {
	t.Helper()
	for _, v := range []string{"OS_CLOUD", "OS_REGION_NAME", "OS_INTERFACE", "OS_CACERT"} {
		t.Setenv(v, "")
	}
	auth, endpoint, tlsConfig, err := clouds.Parse(clouds.WithCloudName(name), clouds.WithLocations(filepath.Join(stateDir, "clouds.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	auth.AllowReauth = true
	provider, err := osconfig.NewProviderClient(t.Context(), auth, osconfig.WithTLSConfig(tlsConfig))
	if err != nil {
		t.Fatal(err)
	}
	compute, err := openstack.NewComputeV2(provider, endpoint)
	if err != nil {
		t.Fatal(err)
	}
	compute.Microversion = lab.Microversion
	identity, err := openstack.NewIdentityV3(provider, endpoint)
	if err != nil {
		t.Fatal(err)
	}
	return cloud{compute, identity}
}

// create makes a server of m1.nano on the private network and waits until it
// runs. It goes with the test.
func (c cloud) create(t *testing.T, name string) string {
	t.Helper()
	id := c.request(t, name, nil)
	c.await(t, id, "ACTIVE")
	return id
}

// request is create without the wait. Metadata may make the lab's hypervisor
// slow; see lib/driver.
func (c cloud) request(t *testing.T, name string, metadata map[string]string) string {
	t.Helper()
	return c.launch(t, servers.CreateOpts{Name: name, Metadata: metadata})
}

// launch is request with all that Nova takes.
func (c cloud) launch(t *testing.T, opts servers.CreateOpts) string {
	t.Helper()
	opts.ImageRef, opts.FlavorRef = facts.Images["tiny"], facts.Flavors["m1.nano"]
	opts.Networks = []servers.Network{{UUID: facts.Servers["web-1"].NetworkID}}
	s, err := servers.Create(t.Context(), c.compute, opts, nil).Extract()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		script(t, "./instance", "-d", s.ID)
		_ = servers.Delete(context.Background(), c.compute, s.ID).ExtractErr()
	})
	return s.ID
}

// await waits for a status, with no task under way.
func (c cloud) await(t *testing.T, id, status string) {
	t.Helper()
	awaittest.Within(t, 2*time.Minute, "status "+status+" of "+id, func() bool {
		s, err := servers.Get(t.Context(), c.compute, id).Extract()
		if err != nil {
			t.Fatal(err)
		}
		if s.Status == "ERROR" && status != "ERROR" {
			t.Fatalf("server %s is in ERROR: %+v", id, s.Fault)
		}
		return s.Status == status && s.TaskState == ""
	})
	outgrow()
}

// do runs an action on a server and waits for the status that it leads to.
func (c cloud) do(t *testing.T, id, status string, action map[string]any) {
	t.Helper()
	c.begin(t, id, action)
	c.await(t, id, status)
}

// awaitTask waits until a task with that prefix runs.
func (c cloud) awaitTask(t *testing.T, id, prefix string) {
	t.Helper()
	awaittest.Within(t, time.Minute, "task "+prefix+" of "+id, func() bool {
		s, err := servers.Get(t.Context(), c.compute, id).Extract()
		if err != nil {
			t.Fatal(err)
		}
		return strings.HasPrefix(s.TaskState, prefix)
	})
	outgrow()
}

// begin runs an action on a server.
func (c cloud) begin(t *testing.T, id string, action map[string]any) {
	t.Helper()
	resp, err := c.compute.Post(t.Context(), c.compute.ServiceURL("servers", id, "action"), action, nil,
		&gophercloud.RequestOpts{OkCodes: []int{200, 202, 204}})
	if err != nil {
		t.Fatalf("%v: %v", action, err)
	}
	_ = resp.Body.Close()
}

// gone waits until Nova knows the server no more.
func (c cloud) gone(t *testing.T, id string) {
	t.Helper()
	if err := servers.Delete(t.Context(), c.compute, id).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	awaittest.Within(t, time.Minute, "end of "+id, func() bool {
		_, err := servers.Get(t.Context(), c.compute, id).Extract()
		return gophercloud.ResponseCodeIs(err, 404)
	})
	outgrow()
}

// user gives the ID of a user.
func (c cloud) user(t *testing.T, name string) string {
	t.Helper()
	all, err := users.List(c.identity, users.ListOpts{Name: name}).AllPages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list, err := users.ExtractUsers(all)
	if err != nil || len(list) != 1 {
		t.Fatalf("%d users %s, %v", len(list), name, err)
	}
	return list[0].ID
}
