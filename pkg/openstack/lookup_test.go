package openstack_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

func TestRightsChooseTheLookup(t *testing.T) {
	for _, test := range []struct {
		name, user, project, lookup string
		want                        openstack.Info // Lookup and Narrow
		scope                       string
		sees, doesNot               []string
	}{
		{
			name: "an admin shows", user: "admin", project: "admin", lookup: openstack.LookupAuto,
			want: openstack.Info{Lookup: openstack.LookupShow}, scope: "of all projects (admin)",
			sees: []string{web, foreign}, doesNot: []string{unknown},
		},
		{
			name: "an admin lists if told to", user: "admin", project: "admin", lookup: openstack.LookupList,
			want: openstack.Info{Lookup: openstack.LookupList}, scope: "of all projects (list)",
			sees: []string{web, foreign}, doesNot: []string{unknown},
		},
		{
			name: "the least rights list", user: "authenticator", project: "service", lookup: openstack.LookupAuto,
			want: openstack.Info{Lookup: openstack.LookupList}, scope: "of all projects (list)",
			sees: []string{web, foreign}, doesNot: []string{unknown},
		},
		{
			name: "a project's reader shows, and sees that project alone", user: "reader", project: "workloads", lookup: openstack.LookupAuto,
			want: openstack.Info{Lookup: openstack.LookupShow, Narrow: true}, scope: "of project workloads alone",
			sees: []string{web}, doesNot: []string{foreign, unknown},
		},
		{
			name: "show chosen by the operator, for a project's reader", user: "reader", project: "workloads", lookup: openstack.LookupShow,
			want: openstack.Info{Lookup: openstack.LookupShow, Narrow: true}, scope: "of project workloads alone",
			sees: []string{web}, doesNot: []string{foreign, unknown},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			cloud := startCloud(t)
			cfg := config()
			cfg.Lookup = test.lookup
			c := newClient(t, as(test.user, test.project, cloud.AuthURL()), cfg, openstack.Options{})
			info := connect(t, c)
			if info.Lookup != test.want.Lookup || info.Narrow != test.want.Narrow || !strings.Contains(info.Scope, test.scope) {
				t.Errorf("Connect = %+v, want %+v and the scope %q", info, test.want, test.scope)
			}
			for _, id := range test.sees {
				mustFind(t, c, id)
			}
			for _, id := range test.doesNot {
				if in, err := ask(t, c, id); !errors.Is(err, attest.ErrNoInstance) || !in.ID.IsZero() {
					t.Errorf("Instance(%s) = %+v, %v, want ErrNoInstance", id, in, err)
				}
			}
		})
	}
}

func TestRecord(t *testing.T) {
	cloud := startCloud(t)
	for name, c := range map[string]*openstack.Client{
		"show": newAdmin(t, cloud, openstack.Options{}),
		"list": newLister(t, cloud, openstack.Options{}),
	} {
		in, err := ask(t, c, web)
		if err != nil {
			t.Fatal(err)
		}
		if diff := sameInstance(webInstance(t), in); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestUpperCaseNeverReachesNova(t *testing.T) {
	cloud := startCloud(t)
	for name, c := range map[string]*openstack.Client{
		"show": newAdmin(t, cloud, openstack.Options{}),
		"list": newLister(t, cloud, openstack.Options{}),
	} {
		in, err := ask(t, c, strings.ToUpper(web))
		if err != nil || in.ID.String() != web {
			t.Errorf("%s: Instance = %s, %v", name, in.ID, err)
		}
	}
	for _, r := range cloud.Requests() {
		if strings.Contains(strings.ToLower(r.URI), web) && !strings.Contains(r.URI, web) {
			t.Errorf("Nova was asked for %s", r.URI)
		}
	}
}

// The query has one ID, and nothing that would include deleted servers.
func TestListAsksForOneID(t *testing.T) {
	cloud := startCloud(t)
	c := newLister(t, cloud, openstack.Options{})
	mustFind(t, c, web)
	last := cloud.Requests()[len(cloud.Requests())-1]
	u, err := url.Parse(last.URI)
	if err != nil {
		t.Fatal(err)
	}
	want := url.Values{"all_tenants": {"1"}, "uuid": {web}, "limit": {"2"}}
	if got := u.Query(); u.Path != "/compute/v2.1/servers/detail" || got.Encode() != want.Encode() {
		t.Errorf("Nova was asked for %s, want the query %v", last.URI, want)
	}
}

func TestListRightsThatAreRevoked(t *testing.T) {
	for _, test := range []struct {
		name    string
		policy  simulator.Policy
		servers []string // that stay in the cloud
		want    string
	}{
		{"all projects", simulator.Policy{AllowAllFilters: true}, []string{web, foreign}, policyTenants},
		{"the uuid filter, with two servers in the cloud", simulator.Policy{GetAllTenants: true}, []string{web, foreign}, policyFilters},
		{"the uuid filter, with another's server alone in the cloud", simulator.Policy{GetAllTenants: true}, []string{foreign}, policyFilters},
	} {
		t.Run("the right to "+test.name+" is revoked while the server runs", func(t *testing.T) {
			cloud := startCloud(t)
			c := newLister(t, cloud, openstack.Options{})
			cloud.SetPolicy(test.policy)
			for _, id := range []string{web, foreign} {
				if !slices.Contains(test.servers, id) {
					cloud.DeleteServer(id)
				}
			}
			in, err := ask(t, c, web)
			checkBroken(t, err)
			if !in.ID.IsZero() || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("Instance = %s, %v, want an error that names %s", in.ID, err, test.want)
			}
			if err := c.Check(t.Context()); err == nil || errors.Is(err, attest.ErrNoInstance) {
				t.Errorf("Check = %v, want an error", err)
			}
			if err := errors.Join(c.Refused()...); err == nil || !strings.Contains(err.Error(), test.want) || len(c.Refused()) != 1 {
				t.Errorf("Rights = %v, want %s", err, test.want)
			}
			cloud.SetPolicy(leastRights())
			cloud.SetServer(webServer())
			mustFind(t, c, web)
			if err := errors.Join(c.Refused()...); err != nil {
				t.Errorf("Rights = %v", err)
			}
		})
	}
}

// completeRecord returns web as a JSON object with all required keys.
func completeRecord() map[string]any {
	return map[string]any{
		"id": web, "name": "web-1", "status": "ACTIVE", "tenant_id": "workloads-id", "user_id": "user-id",
		"metadata": map[string]any{"role": "web"}, "created": "2026-11-22T07:25:01Z",
		"OS-EXT-STS:task_state": nil, "OS-SRV-USG:launched_at": "2026-11-22T07:25:05.000000",
		"image": "", "flavor": map[string]any{"original_name": "m1.nano"}, "OS-EXT-AZ:availability_zone": "nova",
		"addresses": map[string]any{"private": []any{
			map[string]any{"addr": "10.20.0.11", "OS-EXT-IPS:type": "fixed", "version": 4},
			map[string]any{"addr": "172.24.4.145", "OS-EXT-IPS:type": "floating", "version": 4},
		}},
	}
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type object = map[string]any

// An answer that cannot be used is a failure: not a denial, not another server's record, and not later than the timeout.
func TestInvalidAnswersAreFailures(t *testing.T) {
	type row struct {
		name string
		simulator.Fault
	}
	html := func(status int) simulator.Fault {
		return simulator.Fault{Status: status, ContentType: "text/html", Body: []byte("<!doctype html><title>a balancer's page</title>")}
	}
	huge := strings.Repeat("x", 1<<20)
	rows := []row{
		{"HTML with status 200", html(200)},
		{"HTML with status 404, from a balancer", html(404)},
		{"a 404 in JSON that is not Nova's", simulator.Fault{Status: 404, Body: []byte(`{"error":{"code":404,"message":"no route"}}`)}},
		{"a 404 for a path without meaning", simulator.Fault{Status: 404, Body: []byte(`{"message":"The resource could not be found.","code":"404 Not Found","title":"Not Found"}`)}},
		{"Nova's words for a missing server, and status 200", simulator.Fault{Body: []byte(`{"itemNotFound":{"code":404,"message":"Instance could not be found."}}`)}},
		{"Nova's words for a missing server, and status 500", simulator.Fault{Status: 500, Body: []byte(`{"itemNotFound":{"code":404,"message":"Instance could not be found."}}`)}},
		{"nothing", simulator.Fault{Body: []byte{}}},
		{"no content", simulator.Fault{Status: 204}},
		{"an empty object", simulator.Fault{Body: []byte(`{}`)}},
		{"null", simulator.Fault{Body: []byte(`null`)}},
		{"a list", simulator.Fault{Body: []byte(`[]`)}},
		{"truncated JSON", simulator.Fault{Body: marshal(t, object{"server": completeRecord(), "servers": []any{completeRecord()}})[:300]}},
		{"more than a mebibyte of error", simulator.Fault{Status: 502, Body: []byte(huge)}},
		{"no end", simulator.Fault{Endless: true}},
		{"no answer", simulator.Fault{Hang: true}},
		{"a connection that is dropped", simulator.Fault{Drop: true}},
		{"a redirect without a target", simulator.Fault{Status: 302}},
		{"400", simulator.Fault{Status: 400}},
		{"403", simulator.Fault{Status: 403}},
		{"406", simulator.Fault{Status: 406}},
		{"410", simulator.Fault{Status: 410}},
		{"429", simulator.Fault{Status: 429}},
		{"500", simulator.Fault{Status: 500}},
		{"503", simulator.Fault{Status: 503}},
	}
	for _, lookup := range []string{openstack.LookupShow, openstack.LookupList} {
		// wrap puts records where this lookup expects them.
		wrap := func(records ...any) simulator.Fault {
			if lookup == openstack.LookupShow && len(records) == 1 {
				return simulator.Fault{Body: marshal(t, object{"server": records[0]})}
			}
			return simulator.Fault{Body: marshal(t, object{"servers": records})}
		}
		change := func(key string, value any) any {
			r := completeRecord()
			r[key] = value
			return r
		}
		address := func(key string, value any) any {
			a := object{"addr": "10.20.0.11", "OS-EXT-IPS:type": "fixed"}
			if a[key] = value; value == nil {
				delete(a, key)
			}
			return change("addresses", object{"private": []any{a}})
		}
		rows := slices.Clone(rows)
		if lookup == openstack.LookupShow {
			rows = append(rows,
				row{"a list of servers", simulator.Fault{Body: marshal(t, object{"servers": []any{completeRecord()}})}},
				row{"server null", simulator.Fault{Body: []byte(`{"server":null}`)}},
				row{"server a list", simulator.Fault{Body: []byte(`{"server":[]}`)}})
		} else {
			rows = append(rows,
				row{"one server", simulator.Fault{Body: marshal(t, object{"server": completeRecord()})}},
				row{"servers null", simulator.Fault{Body: []byte(`{"servers":null}`)}},
				row{"servers an object", simulator.Fault{Body: []byte(`{"servers":{}}`)}},
				row{"the server twice", wrap(completeRecord(), completeRecord())},
				row{"the server and another", wrap(completeRecord(), change("id", foreign))})
		}
		rows = append(rows,
			row{"a record of more than a mebibyte", wrap(change("name", huge))},
			row{"an empty record", wrap(object{})},
			row{"another server", wrap(change("id", foreign))},
			row{"an invalid ID", wrap(change("id", "detail"))},
			row{"an empty ID", wrap(change("id", ""))},
			row{"a number for an ID", wrap(change("id", 7))},
			row{"status UNKNOWN, of a cell that is down", wrap(change("status", "UNKNOWN"))},
			row{"an empty status", wrap(change("status", ""))},
			row{"a number for a status", wrap(change("status", 1))},
			row{"a list for a name", wrap(change("name", []any{"web-1"}))},
			row{"an empty project", wrap(change("tenant_id", ""))},
			row{"an empty user", wrap(change("user_id", ""))},
			row{"user UNKNOWN", wrap(change("user_id", "UNKNOWN"))},
			row{"metadata a list", wrap(change("metadata", []any{}))},
			row{"metadata with a number", wrap(change("metadata", object{"role": 1}))},
			row{"created without a zone", wrap(change("created", "2026-11-22T07:25:01"))},
			row{"created a number", wrap(change("created", 1795332301))},
			row{"created in no year", wrap(change("created", "0001-01-01T00:00:00Z"))},
			row{"task_state a number", wrap(change("OS-EXT-STS:task_state", 0))},
			row{"launched_at with a zone", wrap(change("OS-SRV-USG:launched_at", "2026-11-22T07:25:05Z"))},
			row{"launched_at a number", wrap(change("OS-SRV-USG:launched_at", 1795332305))},
			row{"an image without an id", wrap(change("image", map[string]any{"links": nil}))},
			row{"an image that is a name", wrap(change("image", "debian-12"))},
			row{"addresses a list", wrap(change("addresses", []any{}))},
			row{"an address without a type", wrap(address("OS-EXT-IPS:type", nil))},
			row{"an address of an unheard-of type", wrap(address("OS-EXT-IPS:type", "user"))},
			row{"an address without an addr", wrap(address("addr", nil))},
			row{"an address that is a name", wrap(address("addr", "localhost"))},
			row{"an address that is a network", wrap(address("addr", "10.20.0.0/24"))})
		for _, key := range slices.Sorted(maps.Keys(completeRecord())) {
			r := completeRecord()
			delete(r, key)
			rows = append(rows, row{"no " + key, wrap(r)})
			if key != "OS-EXT-STS:task_state" && key != "OS-SRV-USG:launched_at" && key != "OS-EXT-AZ:availability_zone" {
				rows = append(rows, row{key + " null", wrap(change(key, nil))})
			}
		}

		cloud := startCloud(t)
		cfg := config()
		cfg.Lookup, cfg.Timeout = lookup, 500*time.Millisecond
		c := newClient(t, as("admin", "admin", cloud.AuthURL()), cfg, openstack.Options{})
		connect(t, c)
		for _, r := range rows {
			t.Run(lookup+": "+r.name, func(t *testing.T) {
				r.Only = servers
				cloud.Fail("nova", r.Fault)
				defer cloud.Fail("nova", simulator.Fault{})
				began := time.Now()
				in, err := ask(t, c, web)
				if took := time.Since(began); took > cfg.Timeout+2*time.Second {
					t.Errorf("it took %v", took)
				}
				if !in.ID.IsZero() {
					t.Errorf("it returned the record %+v", in)
				}
				checkBroken(t, err)
				if err != nil && len(err.Error()) > 1000 {
					t.Errorf("the error has %d bytes: %.100s", len(err.Error()), err)
				}
				// The answer is not cached.
				cloud.Fail("nova", simulator.Fault{})
				if in, err := ask(t, c, unknown); !errors.Is(err, attest.ErrNoInstance) {
					t.Errorf("after it, Instance of an unknown one = %s, %v", in.ID, err)
				}
			})
		}
		t.Run(lookup+": the complete record is good, and the ID may be in capitals", func(t *testing.T) {
			f := wrap(change("id", strings.ToUpper(web)))
			f.Only = servers
			cloud.Fail("nova", f)
			defer cloud.Fail("nova", simulator.Fault{})
			in, err := ask(t, c, web)
			if err != nil {
				t.Fatal(err)
			}
			want := webInstance(t)
			want.ImageID, want.Hostname = "", "" // a boot from volume, before 2.90
			for i := range want.Addresses {
				want.Addresses[i].MAC = attest.MAC{}
			}
			if diff := sameInstance(want, in); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A redirect would send the token to another host.
func TestRedirectIsNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, service := range []string{"identity", "compute"} {
			t.Run(fmt.Sprintf("%d by %s", status, service), func(t *testing.T) {
				var reached atomic.Int64
				target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
				defer target.Close()
				f := newFront(t, startCloud(t))
				c := newClient(t, as("admin", "admin", f.authURL()), config(), openstack.Options{})
				if service == "compute" {
					connect(t, c)
				}
				f.answerInstead(func(w http.ResponseWriter, r *http.Request) bool {
					if !strings.Contains(r.URL.Path, service) {
						return false
					}
					http.Redirect(w, r, target.URL+r.URL.Path, status)
					return true
				})
				_, err := ask(t, c, web)
				checkBroken(t, err)
				if reached.Load() > 0 {
					t.Error("the redirect was followed")
				}
			})
		}
	}
}

func TestServersOfACellThatIsDown(t *testing.T) {
	for _, test := range []struct {
		name, microversion string
		client             func(*testing.T, *simulator.Cloud, openstack.Options) *openstack.Client
	}{
		{"show", "2.93", newAdmin},
		{"show before microversion 2.69", "2.60", newAdmin},
		{"list, of one that was seen", "2.93", newLister},
		{"list before microversion 2.69, of one that was seen", "2.60", newLister},
	} {
		t.Run(test.name, func(t *testing.T) {
			cloud, clock := startCloud(t), statetest.NewClock()
			if err := cloud.SetMaxMicroversion(test.microversion); err != nil {
				t.Fatal(err)
			}
			c := test.client(t, cloud, openstack.Options{Now: clock.Now})
			mustFind(t, c, web)
			clock.Advance(2 * time.Second)
			s := webServer()
			s.Partial = true
			cloud.SetServer(s)
			_, err := ask(t, c, web)
			checkBroken(t, err)
			cloud.SetServer(webServer())
			mustFind(t, c, web)
		})
	}
}

func TestDeletedInstance(t *testing.T) {
	t.Run("with show, it is unknown at once", func(t *testing.T) {
		cloud, clock := startCloud(t), statetest.NewClock()
		c := newAdmin(t, cloud, openstack.Options{Now: clock.Now})
		mustFind(t, c, web)
		cloud.DeleteServer(web)
		clock.Advance(2 * time.Second)
		if _, err := ask(t, c, web); !errors.Is(err, attest.ErrNoInstance) {
			t.Errorf("Instance = %v, want ErrNoInstance", err)
		}
	})
	t.Run("with list, it is a failure for an hour after it was last seen, and unknown then", func(t *testing.T) {
		cloud, clock := startCloud(t), statetest.NewClock()
		c := newLister(t, cloud, openstack.Options{Now: clock.Now})
		mustFind(t, c, web)
		clock.Advance(30 * time.Minute)
		mustFind(t, c, web)
		cloud.DeleteServer(web)
		for _, after := range []time.Duration{2 * time.Second, 30 * time.Minute, 30*time.Minute - 3*time.Second} {
			clock.Advance(after)
			_, err := ask(t, c, web)
			checkBroken(t, err)
		}
		clock.Advance(time.Second)
		if _, err := ask(t, c, web); !errors.Is(err, attest.ErrNoInstance) {
			t.Errorf("Instance after an hour = %v, want ErrNoInstance", err)
		}
		if _, err := ask(t, c, unknown); !errors.Is(err, attest.ErrNoInstance) {
			t.Errorf("Instance of one that was never seen = %v, want ErrNoInstance", err)
		}
	})
}

func TestCache(t *testing.T) {
	for name, client := range bothLookups {
		t.Run(name+": one lookup is one call, good for two seconds from its start", func(t *testing.T) {
			cloud, clock := startCloud(t), statetest.NewClock()
			c := client(t, cloud, openstack.Options{Now: clock.Now})
			before := countLookups(cloud)
			held := make(chan struct{})
			cloud.Fail("nova", simulator.Fault{Delay: held, Only: servers})
			done := make(chan error)
			go func() {
				_, err := askProven(t, c, web)
				done <- err
			}()
			awaittest.True(t, "the call to arrive", func() bool { return countLookups(cloud) == before+1 })
			clock.Advance(1500 * time.Millisecond)
			close(held)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			cloud.Fail("nova", simulator.Fault{})
			clock.Advance(499 * time.Millisecond)
			mustFindProven(t, c, web)
			if n := countLookups(cloud) - before; n != 1 {
				t.Errorf("after 1.999 s, Nova was called %d times, want 1", n)
			}
			clock.Advance(time.Millisecond)
			mustFindProven(t, c, web)
			if n := countLookups(cloud) - before; n != 2 {
				t.Errorf("after 2 s, Nova was called %d times, want 2", n)
			}
		})
		t.Run(name+": an unknown one is asked for once a second", func(t *testing.T) {
			cloud, clock := startCloud(t), statetest.NewClock()
			c := client(t, cloud, openstack.Options{Now: clock.Now})
			before := countLookups(cloud)
			for step, want := range []int{1, 1, 2, 2, 3} {
				if _, err := askProven(t, c, unknown); !errors.Is(err, attest.ErrNoInstance) {
					t.Fatalf("Instance = %v, want ErrNoInstance", err)
				}
				if n := countLookups(cloud) - before; n != want {
					t.Errorf("after %d half seconds, Nova was called %d times, want %d", step, n, want)
				}
				clock.Advance(500 * time.Millisecond)
			}
			s := webServer()
			s.ID = unknown
			cloud.SetServer(s)
			clock.Advance(time.Second)
			mustFindProven(t, c, unknown)
		})
		t.Run(name+": a failure is not cached, and removes nothing from the cache", func(t *testing.T) {
			cloud, clock := startCloud(t), statetest.NewClock()
			c := client(t, cloud, openstack.Options{Now: clock.Now})
			mustFindProven(t, c, web)
			cloud.Fail("nova", simulator.Fault{Status: 503, Only: servers})
			mustFindProven(t, c, web)
			clock.Advance(2 * time.Second)
			before := countLookups(cloud)
			for range 3 {
				_, err := askProven(t, c, web)
				checkBroken(t, err)
			}
			if n := countLookups(cloud) - before; n != 3 {
				t.Errorf("Nova was called %d times, want 3", n)
			}
			cloud.Fail("nova", simulator.Fault{})
			mustFindProven(t, c, web)
		})
	}
}

// An unproven caller must not learn from the time of an answer whether the instance asked before.
func TestUnprovenCallersDoNotUseTheCache(t *testing.T) {
	for name, client := range bothLookups {
		t.Run(name, func(t *testing.T) {
			cloud, clock := startCloud(t), statetest.NewClock()
			c := client(t, cloud, openstack.Options{Now: clock.Now})
			mustFindProven(t, c, web)
			if _, err := askProven(t, c, unknown); !errors.Is(err, attest.ErrNoInstance) {
				t.Fatal(err)
			}
			before := countLookups(cloud)
			for i, id := range []string{web, unknown, web, unknown} {
				_, _ = ask(t, c, id)
				if n := countLookups(cloud) - before; n != i+1 {
					t.Errorf("after %d questions of an unproven caller, Nova was called %d times", i+1, n)
				}
			}
		})
	}
}

func TestCallersGetCopiesOfARecord(t *testing.T) {
	cloud, clock := startCloud(t), statetest.NewClock()
	c := newAdmin(t, cloud, openstack.Options{Now: clock.Now})
	for range 2 {
		in, err := ask(t, c, web)
		if err != nil {
			t.Fatal(err)
		}
		if diff := sameInstance(webInstance(t), in); diff != "" {
			t.Fatalf("the instance (-want +got):\n%s", diff)
		}
		in.Metadata["role"] = "changed"
		in.Addresses[0], in.Addresses[1] = attest.Address{}, attest.Address{}
	}
}

// An instance that was not launched has no address and no launch time.
func TestBuildingInstance(t *testing.T) {
	cloud := startCloud(t)
	cloud.SetServer(simulator.Server{ID: unknown, Name: "probe", Status: "BUILD", TaskState: "spawning", ProjectID: "p", UserID: "u", Created: created})
	c := newAdmin(t, cloud, openstack.Options{})
	in, err := ask(t, c, unknown)
	if err != nil {
		t.Fatal(err)
	}
	want := attest.Instance{
		ID: attesttest.ID(t, unknown), Name: "probe", Phase: attest.PhaseSpawning, State: "BUILD with task spawning", Launching: true, ProjectID: "p", UserID: "u",
		Created: created, Metadata: map[string]string{}, Hostname: "probe", Region: "RegionOne",
	}
	if diff := sameInstance(want, in); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A caller with a deadline is answered in time, and finds the record of its call when it retries.
func TestRetryFindsTheRecord(t *testing.T) {
	for name, client := range bothLookups {
		t.Run(name, func(t *testing.T) {
			cloud := startCloud(t)
			c := client(t, cloud, openstack.Options{})
			before, held := countLookups(cloud), make(chan struct{})
			cloud.Fail("nova", simulator.Fault{Delay: held, Only: servers})
			ask := func(patience time.Duration) error {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				_, err := c.Instance(ctx, attesttest.ID(t, web), netip.Addr{})
				return err
			}
			if err := ask(100 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "goes on") {
				t.Fatalf("Instance = %v", err)
			}
			close(held)
			if err := ask(10 * time.Second); err != nil {
				t.Fatal(err)
			}
			if n := countLookups(cloud) - before; n != 1 {
				t.Errorf("Nova was called %d times, want 1", n)
			}
		})
	}
}
