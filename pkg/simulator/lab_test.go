//go:build lab

package simulator_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/example/lab/labtest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
)

// labSecret is the password of every account of example/lab.
const labSecret = "lab-secret"

// site is a Keystone and a Nova, simulated or real.
type site struct {
	identity, compute string
	ids               map[string]string // of servers, by name
	tokens            map[string]string // by account
}

var labProjects = map[string]string{ // by account
	"admin": "admin", "demo": "workloads", "other": "other", "authenticator": "service", "authenticator-admin": "service", "nova-vendordata": "service", "no-rights": "service",
}

// signIn logs every account in.
func (s *site) signIn(t *testing.T) {
	t.Helper()
	s.tokens = map[string]string{"no token": "", "an invalid token": "junk"}
	for account, project := range labProjects {
		scope := `,"scope":{"project":{"name":"` + project + `","domain":{"name":"Default"}}}`
		a := ask(t, "POST", s.identity+"/v3/auth/tokens", passwordLogin(account, labSecret, scope))
		if a.status != http.StatusCreated {
			t.Fatalf("login of %s at %s: %d %s", account, s.identity, a.status, a.body)
		}
		s.tokens[account] = a.header.Get("X-Subject-Token")
	}
}

// TestMain goes on where the services of the lab listen.
func TestMain(m *testing.M) {
	cloud, err := labtest.Selected()
	if err == nil && !cloud.Entered() {
		err = cloud.Enter()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:forbidigo // a TestMain has no other way to fail
	}
	os.Exit(m.Run()) //nolint:forbidigo // a TestMain ends the process
}

// realSite is the lab that example/lab/up has started.
func realSite(t *testing.T) *site {
	t.Helper()
	cloud, err := labtest.Selected()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(cloud.StateDir, "demo.json"))
	if err != nil {
		t.Fatal(err)
	}
	var demo struct {
		Servers map[string]struct{ ID string }
	}
	if err := json.Unmarshal(data, &demo); err != nil {
		t.Fatal(err)
	}
	s := &site{identity: "http://127.0.0.1:5000", compute: "http://127.0.0.1:8774", ids: map[string]string{"unknown": unknown}}
	for name, server := range demo.Servers {
		s.ids[name] = server.ID
	}
	s.signIn(t)
	return s
}

// simulatedSite has the microversions of the lab, and the accounts and servers on which the answers depend.
func simulatedSite(t *testing.T) *site {
	t.Helper()
	cloud, err := labtest.Selected()
	if err != nil {
		t.Fatal(err)
	}
	c, err := simulator.Start()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetMaxMicroversion(cloud.Microversion); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	roles := map[string][]string{
		"admin": {"admin", "member", "reader"}, "demo": {"member", "reader"}, "other": {"member", "reader"},
		"authenticator": {"reader", "service", "instance_reader"}, "authenticator-admin": {"admin", "member", "reader"},
		"nova-vendordata": {"service"}, "no-rights": {"reader"},
	}
	for account, project := range labProjects {
		c.AddAccount(simulator.Account{Name: account, Password: labSecret, ProjectID: project + "-id", ProjectName: project, Roles: roles[account]})
	}
	created := time.Now().Add(-time.Hour)
	server := simulator.Server{
		ID: web, Name: "web-1", ProjectID: "workloads-id", UserID: "u", ImageID: "44742495-68d3-4c10-8642-423ed054a9f2",
		Flavor: "m1.nano", KeyName: "demo", AvailabilityZone: "nova", Metadata: map[string]string{"role": "web"},
		Tags: []string{"production", "web"}, SecurityGroups: []string{"web"}, Created: created, Launched: created,
		Addresses: []simulator.Address{{Network: "workloads", Addr: "10.20.0.11", MAC: "fa:16:3e:73:ce:1b"}},
	}
	c.SetServer(server)
	server.ID, server.Name, server.ProjectID, server.KeyName, server.Tags = foreign, "other-1", "other-id", "", nil
	server.Addresses = []simulator.Address{{Network: "other", Addr: "10.30.0.11", MAC: "fa:16:3e:73:ce:1c"}}
	c.SetServer(server)
	s := &site{identity: identity(c), compute: compute(c), ids: map[string]string{"web-1": web, "other-1": foreign, "unknown": unknown}}
	s.signIn(t)
	return s
}

// alike returns what must be the same in both answers: the status, the headers that clients use, and the shape of the
// body.
func alike(t *testing.T, a answer) map[string]any {
	t.Helper()
	got := map[string]any{"status": a.status}
	for _, name := range []string{"Content-Type", "Openstack-Api-Version", "X-Openstack-Nova-Api-Version", "Vary"} {
		got[name] = strings.Join(a.header.Values(name), ", ")
	}
	for _, name := range []string{"X-Openstack-Request-Id", "X-Compute-Request-Id", "X-Subject-Token", "Www-Authenticate", "Location"} {
		got[name] = a.header.Get(name) != ""
	}
	if len(a.body) > 0 {
		got["body"] = shape(a.json(t))
	}
	return got
}

// The simulator and the real services get the same requests.
func TestTheSimulatorAnswersAsTheLab(t *testing.T) {
	lab, simulated := realSite(t), simulatedSite(t)

	type request struct {
		method, at, path, account, version string // {NAME} in a path is the server's ID; at: identity or compute
		headers                            []string
		body                               string
	}
	send := func(t *testing.T, s *site, r request) map[string]any {
		t.Helper()
		url := s.identity
		if r.at == "compute" {
			url = s.compute
		}
		path := r.path
		for name, id := range s.ids {
			path = strings.ReplaceAll(path, "{"+name+"}", id)
			path = strings.ReplaceAll(path, "{"+strings.ToUpper(name)+"}", strings.ToUpper(id))
		}
		headers := []string{"X-Auth-Token", s.tokens[r.account]}
		if r.account == "" {
			headers = nil
		}
		headers = append(headers, microversion(r.version)...)
		for i, h := range r.headers {
			if i%2 == 1 {
				h = strings.ReplaceAll(h, "{demo's token}", s.tokens["demo"])
			}
			headers = append(headers, h)
		}
		return alike(t, ask(t, r.method, url+path, r.body, headers...))
	}
	compare := func(name string, r request) {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(send(t, lab, r), send(t, simulated, r)); diff != "" {
				t.Errorf("lab -, simulator +\n%s", diff)
			}
		})
	}

	for _, path := range []string{"/", "/v3"} {
		compare("keystone "+path, request{method: "GET", at: "identity", path: path})
	}
	for name, body := range map[string]string{
		"a good password": passwordLogin("demo", labSecret, `,"scope":{"project":{"name":"workloads","domain":{"name":"Default"}}}`),
		"a bad password":  passwordLogin("demo", "wrong", ""),
		"an unknown user": passwordLogin("nobody", labSecret, ""),
		"another project": passwordLogin("demo", labSecret, `,"scope":{"project":{"name":"other","domain":{"name":"Default"}}}`),
		"a credential":    credentialLogin(`{"id":"none","secret":"x"}`),
		"no JSON":         "{",
		"no identity":     `{"auth":{}}`,
	} {
		compare("a login with "+name, request{method: "POST", at: "identity", path: "/v3/auth/tokens", body: body, headers: []string{"Content-Type", "application/json"}})
	}
	for _, account := range []string{"nova-vendordata", "authenticator-admin", "demo", "other", "no-rights", "no token", "an invalid token"} {
		compare(account+" validates no token", request{method: "GET", at: "identity", path: "/v3/auth/tokens?nocatalog", account: account})
		for name, subject := range map[string]string{"demo's token": "{demo's token}", "garbage": "junk"} {
			compare(account+" validates "+name, request{
				method: "GET", at: "identity", path: "/v3/auth/tokens?nocatalog", account: account, headers: []string{"X-Subject-Token", subject},
			})
		}
	}

	compare("nova /", request{method: "GET", at: "compute", path: "/"})
	compare("nova /v2.1/", request{method: "GET", at: "compute", path: "/v2.1/"})
	// Those that change a record, the newest of each lab, and the next.
	for _, version := range []string{"2.95", "2.96", "2.97", "2.98", "2.99", "2.100"} {
		for _, account := range []string{"demo", "authenticator-admin"} {
			compare(account+" "+version+" shows", request{method: "GET", at: "compute", path: "/v2.1/servers/{web-1}", account: account, version: version})
		}
	}
	for _, version := range []string{"", "2.1", "2.93", "2.94", "2.103", "2.104", "latest", "abc"} {
		for _, account := range []string{"demo", "authenticator-admin", "authenticator", "other", "no token", "an invalid token"} {
			for _, path := range []string{
				"/v2.1/servers/{web-1}", "/v2.1/servers/{WEB-1}", "/v2.1/servers/{other-1}", "/v2.1/servers/{unknown}", "/v2.1/servers/not-a-uuid",
				"/v2.1/servers/detail?all_tenants=1&limit=2&uuid={web-1}",
				"/v2.1/servers/detail?all_tenants=1&limit=2&uuid={other-1}",
				"/v2.1/servers/detail?all_tenants=1&limit=2&uuid={unknown}",
				"/v2.1/servers/detail?limit=1&status=deleted&uuid={unknown}",
			} {
				compare(account+" "+version+" "+path, request{method: "GET", at: "compute", path: path, account: account, version: version})
			}
		}
	}
}
