package openstack_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

const (
	policyTenants = "os_compute_api:servers:detail:get_all_tenants"
	policyFilters = "os_compute_api:servers:allow_all_filters"
	policyDetail  = "os_compute_api:servers:detail "
	policyShow    = "os_compute_api:servers:show"
)

// leastRights is the policy of example/openstack.
func leastRights() simulator.Policy {
	return simulator.Policy{GetAllTenants: true, AllowAllFilters: true}
}

// addScoped adds accounts with roles on the system and in a domain, and returns the variables of their logins.
func addScoped(cloud *simulator.Cloud) map[string]map[string]string {
	env := map[string]map[string]string{}
	for scope, name := range map[string][2]string{simulator.ScopeSystem: {"OS_SYSTEM_SCOPE", "all"}, simulator.ScopeDomain: {"OS_DOMAIN_ID", "default"}} {
		cloud.AddAccount(simulator.Account{Name: scope + "-admin", ID: scope + "-admin-id", Password: password, Roles: []string{"admin"}, Scope: scope})
		env[scope+"-admin"] = map[string]string{
			"OS_AUTH_URL": cloud.AuthURL(), "OS_USERNAME": scope + "-admin", "OS_PASSWORD": password, "OS_USER_DOMAIN_ID": "default", name[0]: name[1],
		}
	}
	return env
}

// The answers of Nova count, not the names of roles.
func TestRightsAreProbed(t *testing.T) {
	const auto, show, list = openstack.LookupAuto, openstack.LookupShow, openstack.LookupList
	withoutAll, adminByName, noLists := simulator.Policy{AllowAllFilters: true}, leastRights(), leastRights()
	adminByName.AdminIsNoAdmin, noLists.RefuseDetail = true, true
	refused := simulator.Fault{Status: http.StatusForbidden, Only: servers}
	for _, test := range []struct {
		name, user, lookup string
		policy             simulator.Policy
		fault              simulator.Fault

		lacks   []string // parts of the text of the one missing right
		want    string   // the lookup if no right is missing
		scope   string
		narrow  bool
		missing string
	}{
		{name: "the least rights list", user: "authenticator", lookup: auto, policy: adminByName, want: list, scope: "of all projects (list)"},
		{name: "an admin only by name sees its project", user: "admin", lookup: auto, policy: adminByName, want: show, scope: "of project admin alone", narrow: true},
		{name: "the same, with lookup show", user: "admin", lookup: show, policy: adminByName, want: show, scope: "of project admin alone", narrow: true},
		{
			name: "the same, with lookup list", user: "admin", lookup: list, policy: adminByName,
			lacks: []string{policyTenants, "user admin (project admin, roles admin)", "openstack role add --project admin-id --user admin-id instance_reader", "example/openstack"},
		},
		{name: "an admin only by name who has the least rights lists", user: "both", lookup: auto, policy: adminByName, want: list, scope: "of all projects (list)"},
		{name: "an admin shows with lookup show", user: "admin", lookup: show, policy: leastRights(), want: show, scope: "of all projects (admin)"},
		{name: "a token of the system, with lookup auto", user: "system-admin", lookup: auto, lacks: []string{policyShow, "user system-admin (system scope all, roles admin)", "instead of OS_SYSTEM_SCOPE", "set OS_PROJECT_NAME"}},
		{name: "a token of the system, with lookup show", user: "system-admin", lookup: show, lacks: []string{policyShow, "system scope all", "set OS_PROJECT_NAME"}},
		{name: "a token of the system, with lookup list", user: "system-admin", lookup: list, lacks: []string{policyTenants, "system scope all", "set OS_PROJECT_NAME"}},
		{name: "a token of a domain, with lookup auto", user: "domain-admin", lookup: auto, lacks: []string{policyShow, "user domain-admin (domain Default, roles admin)", "instead of OS_DOMAIN_ID", "set OS_PROJECT_NAME"}},
		{name: "an admin to whom Nova refuses everything", user: "admin", lookup: auto, fault: refused, lacks: []string{policyShow, "user admin (project admin, roles admin)", "openstack role add --project admin-id --user admin-id reader"}},
		{name: "the same, with lookup show", user: "admin", lookup: show, fault: refused, lacks: []string{policyShow, "openstack role add --project admin-id --user admin-id reader"}},
		{name: "the same, with lookup list", user: "admin", lookup: list, fault: refused, lacks: []string{policyTenants}},
		{name: "an account without the role reader", user: "bare", lookup: auto, policy: noLists, lacks: []string{policyDetail, "user bare (project workloads, no role)", "openstack role add --project workloads-id --user bare-id reader"}},
		{name: "a reader who may not list", user: "reader", lookup: auto, policy: noLists, lacks: []string{policyDetail, `in nova's policy.yaml, allow "os_compute_api:servers:detail" to role:reader`}},
		{name: "a reader who may not list may be shown instances", user: "reader", lookup: show, policy: noLists, want: show, scope: "of project workloads alone", narrow: true, missing: "os_compute_api:servers:detail)"},
		{name: "the least rights without the policy", user: "authenticator", lookup: list, policy: withoutAll, lacks: []string{policyTenants, `in nova's policy.yaml, allow "` + policyTenants + `" and "` + policyFilters + `" to role:instance_reader`}},
		{name: "the least rights without the uuid filter", user: "authenticator", lookup: list, policy: simulator.Policy{GetAllTenants: true}, lacks: []string{policyFilters, "role:instance_reader"}},
		{name: "the same, with lookup auto", user: "authenticator", lookup: auto, policy: simulator.Policy{GetAllTenants: true}, lacks: []string{policyFilters}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cloud, clock := startCloud(t), statetest.NewClock()
			cloud.AddAccount(simulator.Account{Name: "admin", ID: "admin-id", ProjectID: "admin-id", ProjectName: "admin", Password: password, Roles: []string{"admin"}})
			cloud.AddAccount(simulator.Account{Name: "bare", ID: "bare-id", ProjectID: "workloads-id", ProjectName: "workloads", Password: password})
			cloud.AddAccount(simulator.Account{Name: "both", ProjectName: "service", Password: password, Roles: []string{"admin", "instance_reader"}})
			env := addScoped(cloud)[test.user]
			if env == nil {
				env = as(test.user, map[string]string{"admin": "admin", "reader": "workloads", "bare": "workloads"}[test.user], cloud.AuthURL())
				if env["OS_PROJECT_NAME"] == "" {
					env["OS_PROJECT_NAME"] = "service"
				}
			}
			cloud.SetPolicy(test.policy)
			cloud.Fail("nova", test.fault)
			cfg := config()
			cfg.Lookup = test.lookup
			var log bytes.Buffer
			c := newClient(t, env, cfg, openstack.Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Now: clock.Now})
			info := connect(t, c)
			if len(test.lacks) == 0 {
				if info.Lookup != test.want || info.Narrow != test.narrow || !strings.HasPrefix(info.Scope, test.scope) || len(info.Lacks) > 0 ||
					!strings.Contains(info.Missing, test.missing) || test.missing == "" && info.Missing != "" {
					t.Errorf("Connect = %+v", info)
				}
				if err := errors.Join(c.Refused()...); err != nil {
					t.Errorf("Rights = %v", err)
				}
				return
			}
			said := strings.Join(info.Lacks, "\n")
			for _, want := range test.lacks {
				if !strings.Contains(said, want) {
					t.Errorf("the missing right is %q, want %q in it", said, want)
				}
			}
			if strings.Contains(said, "\n") || info.Narrow {
				t.Errorf("Connect = %+v, want one right on one line and no warning", info)
			}
			// Lookups fail with the same error, and make no call for some time.
			asked := countLookups(cloud)
			for range 3 {
				_, err := ask(t, c, web)
				checkBroken(t, err)
				if err == nil || !isSetup(err) || err.Error() != said {
					t.Errorf("Instance = %v, want %s", err, said)
				}
			}
			if n := countLookups(cloud) - asked; n != 0 {
				t.Errorf("Nova was called %d times", n)
			}
			if err := errors.Join(c.Refused()...); err == nil || err.Error() != said || len(c.Refused()) != 1 {
				t.Errorf("Rights = %v", err)
			}
			clock.Advance(5 * time.Second)
			if again := connect(t, c); strings.Join(again.Lacks, "\n") != said || countLookups(cloud) == asked || countLogins(cloud) != 1 {
				t.Errorf("later, Connect = %+v after %d more calls and %d logins", again, countLookups(cloud)-asked, countLogins(cloud))
			}
			if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
				t.Errorf("it was logged %d times:\n%s", n, log.String())
			}
		})
	}
}

func TestRightThatIsGrantedLater(t *testing.T) {
	for name, notice := range map[string]func(*testing.T, *openstack.Client){
		"a request": func(t *testing.T, c *openstack.Client) { mustFind(t, c, web) },
		"Connect":   func(t *testing.T, c *openstack.Client) { connect(t, c) },
		"Check": func(t *testing.T, c *openstack.Client) {
			if err := c.Check(t.Context()); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cloud, clock := startCloud(t), statetest.NewClock()
			cloud.SetPolicy(simulator.Policy{})
			cfg := config()
			cfg.Lookup = openstack.LookupList
			c := newClient(t, as("authenticator", "service", cloud.AuthURL()), cfg, openstack.Options{Now: clock.Now})
			connect(t, c)
			cloud.SetPolicy(leastRights())
			clock.Advance(4 * time.Second)
			if _, err := ask(t, c, web); err == nil {
				t.Error("the cloud was asked for the right again within five seconds")
			}
			clock.Advance(time.Second)
			// A failure of the cloud changes nothing.
			cloud.Fail("nova", simulator.Fault{Status: 503})
			if _, err := ask(t, c, web); err == nil || !strings.Contains(err.Error(), policyTenants) || len(c.Refused()) != 1 {
				t.Errorf("Instance = %v", err)
			}
			cloud.Fail("nova", simulator.Fault{})
			clock.Advance(5 * time.Second)
			notice(t, c)
			if err := errors.Join(c.Refused()...); err != nil || len(c.Refused()) != 0 {
				t.Errorf("Rights = %v", err)
			}
			if info := connect(t, c); len(info.Lacks) > 0 || info.Scope != "of all projects (list)" || countLogins(cloud) != 1 {
				t.Errorf("Connect = %+v after %d logins", info, countLogins(cloud))
			}
			mustFind(t, c, foreign)
		})
	}
}

// Nova checks the policy for showing for each server, so a refusal of one blocks no other.
func TestRightThatIsRevoked(t *testing.T) {
	cloud, clock := startCloud(t), statetest.NewClock()
	c := newAdmin(t, cloud, openstack.Options{Now: clock.Now})
	policy := leastRights()
	policy.RefuseShow = true
	cloud.SetPolicy(policy)
	_, err := ask(t, c, web)
	checkBroken(t, err)
	if err == nil || !strings.Contains(err.Error(), policyShow) || !strings.Contains(err.Error(), "user admin (project admin, roles admin)") {
		t.Errorf("Instance = %v", err)
	}
	// Nova looks for the server before it checks the policy.
	if _, err := ask(t, c, unknown); !errors.Is(err, attest.ErrNoInstance) || len(c.Refused()) != 1 {
		t.Errorf("Instance of an unknown one = %v, and %d rights are missing", err, len(c.Refused()))
	}
	if err := errors.Join(c.Refused()...); err == nil || !strings.Contains(err.Error(), policyShow) {
		t.Errorf("Rights = %v", err)
	}
	cloud.SetPolicy(leastRights())
	mustFind(t, c, web)
	if err := errors.Join(c.Refused()...); err != nil {
		t.Errorf("Rights = %v", err)
	}
}

// A 404 other than for an unknown server comes from another service.
func TestEndpointOfAnotherService(t *testing.T) {
	for what, fault := range map[string]simulator.Fault{
		"a balancer's page":  {Status: 404, ContentType: "text/html", Body: []byte("<h1>Not Found</h1>")},
		"another service":    {Status: 404, Body: []byte(`{"NeutronError":{"message":"not found"}}`)},
		"an unknown path":    {Status: 404, Body: []byte(`{"message":"The resource could not be found.","code":"404 Not Found","title":"Not Found"}`)},
		"Keystone's own 404": {Status: 404},
	} {
		for _, lookup := range []string{openstack.LookupAuto, openstack.LookupShow, openstack.LookupList} {
			t.Run(what+", "+lookup, func(t *testing.T) {
				cloud := startCloud(t)
				fault.Only = servers
				cloud.Fail("nova", fault)
				cfg := config()
				cfg.Lookup = lookup
				c := newClient(t, as("admin", "admin", cloud.AuthURL()), cfg, openstack.Options{})
				_, err := c.Connect(t.Context())
				checkBroken(t, err)
				if !isSetup(err) || !strings.Contains(err.Error(), "another service is there") || !strings.Contains(err.Error(), "/compute/v2.1/") {
					t.Errorf("Connect = %v", err)
				}
			})
		}
	}
}

// An access rule of an application credential may allow GET /servers/ID and no list.
func TestAccessRuleThatAllowsOnlyShow(t *testing.T) {
	cloud := startCloud(t)
	f := newFront(t, cloud)
	f.answerInstead(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/servers/detail") {
			return false
		}
		http.Error(w, `{"error":{"code":401}}`, http.StatusUnauthorized)
		return true
	})
	cfg := config()
	cfg.Lookup = openstack.LookupShow
	c := newClient(t, as("admin", "admin", f.authURL()), cfg, openstack.Options{})
	info := connect(t, c)
	if info.Lookup != openstack.LookupShow || info.Narrow || len(info.Lacks) > 0 || !strings.Contains(info.Missing, "whether the account is an admin") {
		t.Errorf("Connect = %+v", info)
	}
	mustFind(t, c, web)
	mustFind(t, c, foreign)
}

func TestRightToValidateTokens(t *testing.T) {
	for _, test := range []struct {
		name, user string
		fault      simulator.Fault
		lacks      []string
		missing    string
		broken     bool
	}{
		{name: "the role service", user: "validator"},
		{name: "an admin", user: "admin"},
		{
			name: "an account with neither role", user: "authenticator",
			lacks: []string{"identity:validate_token", "user authenticator (project service, roles instance_reader, reader)", "openstack role add --project service-id --user authenticator-id service", "example/vendordata"},
		},
		{name: "the role service without the right", user: "validator", fault: simulator.Fault{Status: 403}, lacks: []string{"identity:validate_token"}},
		{name: "an admin without the right", user: "admin", fault: simulator.Fault{Status: 403}, lacks: []string{"identity:validate_token"}},
		{name: "a Keystone that does not tell the right", user: "authenticator", fault: simulator.Fault{Status: 400}, missing: "roles service and admin"},
		{name: "a Keystone that fails", user: "validator", fault: simulator.Fault{Status: 503}, broken: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			cloud := startCloud(t)
			cloud.AddAccount(simulator.Account{Name: "validator", Password: password, ProjectName: "service", Roles: []string{"reader", "instance_reader", "service"}})
			f := newFront(t, cloud)
			f.answerInstead(func(w http.ResponseWriter, r *http.Request) bool {
				if test.fault.Status == 0 || r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, tokens) {
					return false
				}
				http.Error(w, fmt.Sprintf(`{"error":{"code":%d}}`, test.fault.Status), test.fault.Status)
				return true
			})
			project := "service"
			if test.user == "admin" {
				project = "admin"
			}
			c := newClient(t, as(test.user, project, f.authURL()), config(), openstack.Options{Callers: []string{"nova-id"}})
			info, err := c.Connect(t.Context())
			if (err != nil) != test.broken {
				t.Fatalf("Connect = %v", err)
			}
			said := strings.Join(info.Lacks, "\n")
			for _, want := range test.lacks {
				if !strings.Contains(said, want) {
					t.Errorf("the missing right is %q, want %q in it", said, want)
				}
			}
			if (said == "") != (len(test.lacks) == 0) || (info.Missing == "") != (test.missing == "") || !strings.Contains(info.Missing, test.missing) {
				t.Errorf("Connect = %+v", info)
			}
			if len(c.Refused()) != len(info.Lacks) {
				t.Errorf("%d rights are missing, and %q", len(c.Refused()), said)
			}
		})
	}
}

// An application credential keeps its roles, so that the remedy is a new one.
func TestRemedyOfAnApplicationCredential(t *testing.T) {
	cloud := startCloud(t)
	c := newClient(t, map[string]string{
		"OS_AUTH_URL": cloud.AuthURL(), "OS_APPLICATION_CREDENTIAL_ID": "credential-id", "OS_APPLICATION_CREDENTIAL_SECRET": secret,
	}, config(), openstack.Options{Callers: []string{"nova-id"}})
	if info := connect(t, c); len(info.Lacks) != 1 || !strings.Contains(info.Lacks[0], "authenticator-id service and a new application credential") {
		t.Errorf("Connect = %+v", info)
	}
}
