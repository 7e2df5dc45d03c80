package openstack_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

func document(newest, oldest string) string {
	return fmt.Sprintf(`{"version":{"id":"v2.1","status":"CURRENT","version":%q,"min_version":%q}}`, newest, oldest)
}

func version(newest, oldest string) simulator.Fault {
	return simulator.Fault{Body: []byte(document(newest, oldest))}
}

func TestMicroversionIsTheNewestThatBothKnow(t *testing.T) {
	for _, test := range []struct {
		name, cloud, want string
		document          string // instead of the cloud's
	}{
		{name: "the oldest", cloud: "2.1", want: "2.1"},
		{name: "one in between", cloud: "2.60", want: "2.60"},
		{name: "that of Zed", cloud: "2.93", want: "2.93"},
		{name: "the newest that is known", cloud: "2.103", want: "2.103"},
		{name: "a cloud that has newer ones", cloud: "2.103", want: "2.103", document: document("2.104", "2.1")},
		{name: "a cloud without the old ones", cloud: "2.103", want: "2.103", document: document("2.104", "2.103")},
	} {
		for user, project := range map[string]string{"admin": "admin", "authenticator": "service"} {
			t.Run(test.name+", for "+user, func(t *testing.T) {
				cloud := startCloud(t)
				if err := cloud.SetMaxMicroversion(test.cloud); err != nil {
					t.Fatal(err)
				}
				f := newFront(t, cloud)
				f.answerInstead(func(w http.ResponseWriter, r *http.Request) bool {
					if test.document == "" || !strings.HasSuffix(r.URL.Path, "/v2.1/") {
						return false
					}
					_, _ = w.Write([]byte(test.document))
					return true
				})
				c := newClient(t, as(user, project, f.authURL()), config(), openstack.Options{})
				if info := connect(t, c); info.Microversion != test.want {
					t.Errorf("the microversion is %s, want %s", info.Microversion, test.want)
				}
				in, err := ask(t, c, web)
				if err != nil {
					t.Fatal(err)
				}
				want := webInstance(t)
				switch {
				case test.cloud == "2.1":
					want.Flavor, want.Hostname = "", ""
				case test.cloud == "2.60" && user != "admin": // an admin sees it from 2.3 on
					want.Hostname = ""
				}
				if diff := sameInstance(want, in); diff != "" {
					t.Errorf("the instance (-want +got):\n%s", diff)
				}
				for _, r := range cloud.Requests() {
					if strings.Contains(r.URI, servers) && r.Microversion != test.want {
						t.Errorf("%s was asked for in microversion %q, want %s", r.URI, r.Microversion, test.want)
					}
				}
			})
		}
	}
}

func TestInvalidVersionDocuments(t *testing.T) {
	body := func(s string) simulator.Fault { return simulator.Fault{Body: []byte(s)} }
	for _, test := range []struct {
		name  string
		fault simulator.Fault
		setup bool // a retry does not help
		want  string
	}{
		{"an empty object", body(`{}`), true, "without a version"},
		{"the list of versions, of an endpoint without one", body(`{"versions":[{"id":"v2.1","version":"2.93","min_version":"2.1"}]}`), true, "without a version"},
		{"null", body(`{"version":null}`), true, "without a version"},
		{"a version without microversions, as of v2", version("", ""), true, "min_version"},
		{"a microversion that is not a number", version("latest", "2.1"), true, "version"},
		{"a microversion without a minor", version("2", "2.1"), true, "version"},
		{"a lowest microversion that is not a number", version("2.93", "old"), true, "min_version"},
		{"another major version", version("3.5", "3.1"), true, "2.1 and later"},
		{"a negative minor", version("2.-5", "2.1"), true, "2.1 and later"},
		{"a cloud that requires a newer one", version("2.200", "2.104"), true, "2.104 at least"},
		{"a refusal", simulator.Fault{Status: 403}, true, "nova refuses"},
		{"HTML", simulator.Fault{ContentType: "text/html", Body: []byte("<h1>maintenance</h1>")}, false, "invalid character"},
		{"an outage", simulator.Fault{Status: 503}, false, "503"},
		{"no end", simulator.Fault{Endless: true}, false, "longer than"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cloud := startCloud(t)
			cloud.Fail("nova", test.fault)
			c := newClient(t, as("admin", "admin", cloud.AuthURL()), config(), openstack.Options{})
			_, err := c.Connect(t.Context())
			checkBroken(t, err)
			if isSetup(err) != test.setup || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("Connect = %v, want %q in it, and a SetupError: %t", err, test.want, test.setup)
			}
		})
	}
}

func TestConnectLogsInOnce(t *testing.T) {
	cloud := startCloud(t)
	var log bytes.Buffer
	c := newClient(t, as("authenticator", "service", cloud.AuthURL()), config(), openstack.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if n := len(cloud.Requests()); n != 0 {
		t.Errorf("New made %d calls", n)
	}
	info := connect(t, c)
	if again := connect(t, c); !cmp.Equal(again, info) || countLogins(cloud) != 1 {
		t.Errorf("a second Connect gave %+v after %d logins, the first %+v", again, countLogins(cloud), info)
	}
	want := openstack.Info{
		Account:  "authenticator at " + cloud.AuthURL() + " (the OS_* variables)",
		Endpoint: strings.Replace(cloud.AuthURL(), "/identity/v3", "/compute/v2.1/", 1), Microversion: "2.103",
		Lookup: openstack.LookupList, Scope: "of all projects (list)",
	}
	if diff := cmp.Diff(want, info); diff != "" {
		t.Errorf("Connect (-want +got):\n%s", diff)
	}
	if s := log.String(); strings.Count(s, "logged in") != 1 || !strings.Contains(s, "authenticator") || strings.Contains(s, password) || strings.Contains(s, "gAAAAA") {
		t.Errorf("the log is %q", s)
	}
}

func TestCheck(t *testing.T) {
	for name, client := range bothLookups {
		t.Run(name, func(t *testing.T) {
			cloud, clock := startCloud(t), statetest.NewClock()
			c := client(t, cloud, openstack.Options{Now: clock.Now})
			for i := range 3 {
				before := countLookups(cloud)
				if err := c.Check(t.Context()); err != nil {
					t.Errorf("Check %d = %v", i, err)
				}
				if n := countLookups(cloud) - before; n != 1 {
					t.Errorf("Check %d made %d calls, want 1: it asks now", i, n)
				}
			}
			for what, fault := range map[string]simulator.Fault{
				"an outage": {Status: 503}, "a page": {Status: 404, Body: []byte("<h1>")}, "a dropped connection": {Drop: true}, "a refused token": {Unauthorized: true},
			} {
				cloud.Fail("nova", fault)
				err := c.Check(t.Context())
				if err == nil {
					t.Errorf("Check did not report %s", what)
				}
				checkDiscreet(t, err)
			}
			cloud.Fail("nova", simulator.Fault{})
			if err := c.Check(t.Context()); err != nil {
				t.Errorf("Check after the outage = %v", err)
			}
		})
	}
	t.Run("before the first login it logs in", func(t *testing.T) {
		cloud := startCloud(t)
		c := newClient(t, as("admin", "admin", cloud.AuthURL()), config(), openstack.Options{})
		if err := c.Check(t.Context()); err != nil || countLogins(cloud) != 1 {
			t.Errorf("Check = %v after %d logins", err, countLogins(cloud))
		}
	})
	t.Run("it ends at the timeout", func(t *testing.T) {
		cloud := startCloud(t)
		cfg := config()
		cfg.Timeout = 300 * time.Millisecond
		c := newClient(t, as("admin", "admin", cloud.AuthURL()), cfg, openstack.Options{})
		cloud.Fail("nova", simulator.Fault{Hang: true})
		began := time.Now()
		err := c.Check(t.Context())
		if took := time.Since(began); err == nil || took > 3*time.Second {
			t.Errorf("Check = %v after %v", err, took)
		}
	})
}

func TestObserverIsToldOfEveryCall(t *testing.T) {
	cloud, clock := startCloud(t), statetest.NewClock()
	var seen calls
	c := newClient(t, as("admin", "admin", cloud.AuthURL()), config(), openstack.Options{Observe: seen.observe, Now: clock.Now})
	connect(t, c)
	// The version, a list, a list for admins, and an unknown server.
	if got, want := seen.take(), []string{"keystone ok", "nova ok", "nova ok", "nova ok", "nova not_found"}; !slices.Equal(got, want) {
		t.Errorf("for a login the observer got %q, want %q", got, want)
	}
	for _, test := range []struct {
		id    string
		fault simulator.Fault
		want  []string
	}{
		{web, simulator.Fault{}, []string{"nova ok"}},
		{unknown, simulator.Fault{}, []string{"nova not_found"}},
		{foreign, simulator.Fault{Status: 403}, []string{"nova refused"}},
		{foreign, simulator.Fault{Status: 503}, []string{"nova error"}},
		{foreign, simulator.Fault{Drop: true}, []string{"nova unreachable"}},
	} {
		cloud.Fail("nova", test.fault)
		_, _ = ask(t, c, test.id)
		if got := seen.take(); !slices.Equal(got, test.want) {
			t.Errorf("for %s with %+v the observer got %q, want %q", test.id, test.fault, got, test.want)
		}
	}
	cloud.Fail("nova", simulator.Fault{})
	cloud.RevokeTokens()
	clock.Advance(2 * time.Second)
	mustFind(t, c, web)
	if got, want := seen.take(), []string{"nova refused", "keystone ok", "nova ok"}; !slices.Equal(got, want) {
		t.Errorf("for a renewal the observer got %q, want %q", got, want)
	}
	cloud.Fail("keystone", simulator.Fault{Unauthorized: true})
	cloud.RevokeTokens()
	clock.Advance(2 * time.Second)
	_, _ = ask(t, c, web)
	if got, want := seen.take(), []string{"nova refused", "keystone refused"}; !slices.Equal(got, want) {
		t.Errorf("for a refused renewal the observer got %q, want %q", got, want)
	}
}

func TestUserAgent(t *testing.T) {
	cloud, clock := startCloud(t), statetest.NewClock()
	env := as("authenticator", "service", strings.TrimSuffix(cloud.AuthURL(), "/v3"))
	c := newClient(t, env, config(), openstack.Options{UserAgent: "openstack-nova-authenticator/1.2.3", Now: clock.Now})
	mustFind(t, c, web)
	cloud.RevokeTokens()
	clock.Advance(2 * time.Second)
	mustFind(t, c, web)
	for _, r := range cloud.Requests() {
		if !strings.HasPrefix(r.UserAgent, "openstack-nova-authenticator/1.2.3 ") {
			t.Errorf("%s %s came from %q", r.Method, r.URI, r.UserAgent)
		}
		if r.Method != http.MethodGet && r.Service == "nova" {
			t.Errorf("Nova was sent %s %s", r.Method, r.URI)
		}
	}
}
