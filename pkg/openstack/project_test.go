package openstack_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

const projects = "/v3/projects/"

// withTenant adds a project and returns its ID.
func withTenant(t *testing.T, cloud *simulator.Cloud) string {
	t.Helper()
	cloud.AddAccount(simulator.Account{Name: "tenant", ProjectID: "tenant-project-id", ProjectName: "shop", ProjectDomainID: "shop-domain", Roles: []string{"member"}})
	return "tenant-project-id"
}

func TestProject(t *testing.T) {
	cloud, clock := startCloud(t), statetest.NewClock()
	id := withTenant(t, cloud)
	c := newAdmin(t, cloud, openstack.Options{ProjectNames: true, Now: clock.Now})
	before := cloud.Count("keystone", "GET", projects)
	var asking sync.WaitGroup
	for range 50 {
		asking.Go(func() {
			if name, domain, err := c.Project(t.Context(), id); err != nil || name != "shop" || domain != "shop-domain" {
				t.Errorf("Project = %q, %q, %v", name, domain, err)
			}
		})
	}
	asking.Wait()
	clock.Advance(9 * time.Minute)
	if _, _, err := c.Project(t.Context(), id); err != nil {
		t.Error(err)
	}
	if n := cloud.Count("keystone", "GET", projects) - before; n != 1 {
		t.Errorf("there were %d calls, want 1", n)
	}
	clock.Advance(2 * time.Minute)
	if _, _, err := c.Project(t.Context(), id); err != nil {
		t.Error(err)
	}
	if n := cloud.Count("keystone", "GET", projects) - before; n != 2 {
		t.Errorf("there were %d calls, want 2", n)
	}
}

func TestProjectErrors(t *testing.T) {
	cloud := startCloud(t)
	id := withTenant(t, cloud)
	c := newAdmin(t, cloud, openstack.Options{ProjectNames: true})
	if name, _, err := c.Project(t.Context(), "none"); err == nil || name != "" {
		t.Errorf("an unknown project = %q, %v", name, err)
	}
	for name, f := range map[string]simulator.Fault{
		"an error":                 {Status: 500},
		"not JSON":                 {Body: []byte("<html>")},
		"no project":               {Body: []byte("{}")},
		"another project":          {Body: []byte(`{"project":{"id":"other","name":"other"}}`)},
		"a project without a name": {Body: []byte(`{"project":{"id":"tenant-project-id"}}`)},
	} {
		f.Only = projects
		cloud.Fail("keystone", f)
		if got, _, err := c.Project(t.Context(), id); err == nil || got != "" {
			t.Errorf("%s: Project = %q, %v", name, got, err)
		}
	}
	// The failures are not cached.
	cloud.Fail("keystone", simulator.Fault{})
	if got, _, err := c.Project(t.Context(), id); err != nil || got != "shop" {
		t.Errorf("Project = %q, %v", got, err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := c.Project(gone, "another"); !errors.Is(err, context.Canceled) {
		t.Errorf("after the caller left, the error is %v", err)
	}
}

func TestProjectNamesNeedARight(t *testing.T) {
	cloud := startCloud(t)
	c := newClient(t, as("authenticator", "service", cloud.AuthURL()), config(), openstack.Options{ProjectNames: true})
	// Roles that need no names work without the right.
	info, err := c.Connect(t.Context())
	if err != nil || len(info.Lacks) != 1 || !strings.Contains(info.Lacks[0], "identity:get_project") {
		t.Errorf("Connect = %+v, %v, want the missing right", info, err)
	}
	if err := errors.Join(c.Refused()...); err == nil || !strings.Contains(err.Error(), "identity:get_project") || len(c.Refused()) != 1 {
		t.Errorf("Rights = %v", err)
	}
	mustFind(t, c, web)
	if _, _, err := c.Project(t.Context(), "any"); err == nil || !strings.Contains(err.Error(), "identity:get_project") {
		t.Errorf("Project = %v, want the missing right", err)
	}
	if _, _, err := newLister(t, cloud, openstack.Options{}).Project(t.Context(), "any"); err == nil {
		t.Error("a client without ProjectNames reads projects")
	}
}
