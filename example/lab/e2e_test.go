//go:build lab

package lab_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/users"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
)

// The reasons of the audit log that the tests expect.
const (
	granted          = "granted"
	addressMismatch  = "address_mismatch"
	windowClosed     = "window_closed"
	statusDenied     = "status_denied"
	instanceUnknown  = "instance_unknown"
	instanceChanging = "instance_changing"
	attemptsUsed     = "attempts_exhausted"
	ruleProject      = "rule_project_id"
	ruleMetadata     = "rule_metadata"
	cloudUnavailable = "cloud_unavailable"
)

func TestAnInstanceIsKnownByItsAddressAlone(t *testing.T) {
	a := start(t, config{cloud: "authenticator"})
	v4, v6 := facts.Outside["v4"], facts.Outside["v6"]
	s := facts.Servers
	for _, tt := range []struct {
		name, from, to, instance, role string
		status                         int
		reason, client                 string
	}{
		{"another's ID, from its own floating address", "web-1", v4, s["db-1"].ID, "any", 403, addressMismatch, s["web-1"].FloatingIP},
		{"another's ID, behind source NAT", "db-1", v4, s["web-1"].ID, "any", 403, addressMismatch, ""},
		{"its own ID, behind source NAT", "db-1", v4, s["db-1"].ID, "any", 403, addressMismatch, ""},
		{"another's ID over IPv6", "db-1", v6, s["web-1"].ID, "any", 403, addressMismatch, s["db-1"].FixedIPs["v6"]},
		{"an ID of another project over IPv6", "other-1", v6, s["web-1"].ID, "any", 403, addressMismatch, s["other-1"].FixedIPs["v6"]},
		{"an unused ID", "web-1", v4, "11111111-2222-4333-8444-555555555555", "any", 403, instanceUnknown, s["web-1"].FloatingIP},
		{"a role that asks for another project", "other-1", v6, s["other-1"].ID, "web", 403, ruleProject, s["other-1"].FixedIPs["v6"]},
		{"a role that asks for other metadata", "db-1", v6, s["db-1"].ID, "web", 403, ruleMetadata, s["db-1"].FixedIPs["v6"]},
		{"a window that has closed", "web-1", v4, s["web-1"].ID, "young", 403, windowClosed, s["web-1"].FloatingIP},
		{"the ID of one that has the same fixed address in another project", "twin-1", v4, s["web-1"].ID, "any", 403, addressMismatch, ""},
		{"its floating address", "web-1", v4, s["web-1"].ID, "web", 200, granted, s["web-1"].FloatingIP},
		{"its ID in capitals", "web-1", v4, strings.ToUpper(s["web-1"].ID), "web", 200, granted, s["web-1"].FloatingIP},
		{"its fixed IPv6 address", "db-1", v6, s["db-1"].ID, "any", 200, granted, s["db-1"].FixedIPs["v6"]},
		{"its fixed IPv4 address", "edge-1", v4, s["edge-1"].ID, "any", 200, granted, s["edge-1"].FixedIPs["v4"]},
		{"in another project", "other-1", v6, s["other-1"].ID, "any", 200, granted, s["other-1"].FixedIPs["v6"]},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := a.ask(t, tt.from, tt.to, tt.instance, tt.role)
			got.want(t, tt.status, tt.reason)
			if tt.client != "" && got.Client != tt.client {
				t.Errorf("seen from %s, want %s", got.Client, tt.client)
			}
		})
	}

	t.Run("what the token says", func(t *testing.T) {
		got := a.ask(t, "web-1", v4, s["web-1"].ID, "web")
		claims := payload(t, got.Token)
		for claim, want := range map[string]string{
			"sub": s["web-1"].ID, "instance_id": s["web-1"].ID, "instance_name": "web-1",
			"project_id": s["web-1"].ProjectID, "role": "web",
		} {
			if claims[claim] != want {
				t.Errorf("%s is %v, want %s", claim, claims[claim], want)
			}
		}
	})
}

// What a user of the cloud can set must not make an address an instance's.
func TestAccessAddressesOfAUserChangeNothing(t *testing.T) {
	a := start(t, config{cloud: "authenticator"})
	demo := login(t, "demo")
	id := demo.create(t, "accessible")
	attacker := facts.Servers["web-1"].FloatingIP
	_, err := servers.Update(t.Context(), demo.compute, id, servers.UpdateOpts{AccessIPv4: attacker}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	got := a.ask(t, "web-1", facts.Outside["v4"], id, "any")
	got.want(t, http.StatusForbidden, addressMismatch)
	if got.Client != attacker {
		t.Errorf("seen from %s, want %s", got.Client, attacker)
	}
}

func TestAnInstanceInEveryState(t *testing.T) {
	a := start(t, config{cloud: "authenticator"})
	demo, admin := login(t, "demo"), login(t, "admin")
	id := demo.request(t, "stateful", map[string]string{
		"lab_build_seconds": "15", "lab_snapshot_seconds": "8", "lab_reboot_seconds": "8",
	})
	v6 := facts.Outside["v6"]
	ask := func(t *testing.T, role string, status int, reason string) {
		t.Helper()
		a.ask(t, id, v6, id, role).want(t, status, reason)
	}
	action := func(name string, args any) map[string]any { return map[string]any{name: args} }

	// Nova shows no address of a server that is being built, also when it knows
	// them (nova/api/openstack/compute/views/servers.py, _get_addresses).
	t.Run("being built, when it has its addresses", func(t *testing.T) {
		demo.awaitTask(t, id, "spawning")
		ask(t, "any", 503, instanceChanging)
		demo.await(t, id, "ACTIVE")
	})
	t.Run("one just created", func(t *testing.T) {
		ask(t, "any", 200, granted)
		ask(t, "launched", 200, granted)
		ask(t, "launched", 403, attemptsUsed)
	})
	for _, tt := range []struct {
		name, there string
		leave       map[string]any
		reason      string
		back        map[string]any
	}{
		{"stopped", "SHUTOFF", action("os-stop", nil), statusDenied, action("os-start", nil)},
		{"paused", "PAUSED", action("pause", nil), statusDenied, action("unpause", nil)},
		{"suspended", "SUSPENDED", action("suspend", nil), statusDenied, action("resume", nil)},
		{"rescued", "RESCUE", action("rescue", map[string]any{}), statusDenied, action("unrescue", nil)},
		{"resized and not confirmed", "VERIFY_RESIZE", action("resize", map[string]any{"flavorRef": facts.Flavors["m1.micro"]}), granted, action("confirmResize", nil)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			demo.do(t, id, tt.there, tt.leave)
			status := http.StatusForbidden
			if tt.reason == granted {
				status = http.StatusOK
			}
			ask(t, "any", status, tt.reason)
			demo.do(t, id, "ACTIVE", tt.back)
			ask(t, "any", 200, granted)
		})
	}
	t.Run("in ERROR", func(t *testing.T) {
		admin.do(t, id, "ERROR", action("os-resetState", map[string]any{"state": "error"}))
		ask(t, "any", 403, statusDenied)
		admin.do(t, id, "ACTIVE", action("os-resetState", map[string]any{"state": "active"}))
		ask(t, "any", 200, granted)
	})
	t.Run("while a snapshot is taken, and after", func(t *testing.T) {
		demo.begin(t, id, action("createImage", map[string]any{"name": "snapshot-of-" + id}))
		demo.awaitTask(t, id, "image_")
		ask(t, "any", 200, granted)
		demo.await(t, id, "ACTIVE")
		ask(t, "any", 200, granted)
	})
	t.Run("while it reboots, and after", func(t *testing.T) {
		demo.begin(t, id, action("reboot", map[string]any{"type": "HARD"}))
		demo.awaitTask(t, id, "reboot")
		ask(t, "any", 503, instanceChanging)
		demo.await(t, id, "ACTIVE")
		ask(t, "any", 200, granted)
	})
	t.Run("rebuilt: a new window for what counts from the launch", func(t *testing.T) {
		ask(t, "launched", 200, granted) // rescue and resize moved the launch, too
		ask(t, "launched", 403, attemptsUsed)
		demo.do(t, id, "ACTIVE", action("rebuild", map[string]any{"imageRef": facts.Images["tiny-2"]}))
		ask(t, "launched", 200, granted)
		ask(t, "launched", 403, attemptsUsed)
	})
	t.Run("shelved", func(t *testing.T) {
		demo.do(t, id, "SHELVED_OFFLOADED", action("shelve", nil))
		ask(t, "any", 403, statusDenied)
	})
	t.Run("deleted", func(t *testing.T) {
		demo.gone(t, id)
		// In list mode a cell that is down looks the same: no verdict for an hour.
		a.ask(t, "web-1", v6, id, "any").want(t, 503, cloudUnavailable)
	})
}

func TestADeletedInstanceIsUnknownToAnAdmin(t *testing.T) {
	a := start(t, config{cloud: "authenticator-admin"})
	demo := login(t, "demo")
	id := demo.create(t, "short-lived")
	a.ask(t, id, facts.Outside["v6"], id, "any").want(t, 200, granted)
	demo.gone(t, id)
	// Its own port has no network any more.
	a.ask(t, "web-1", facts.Outside["v6"], id, "any").want(t, 403, instanceUnknown)
}

// Without a compute service a new server stays in BUILD with the task scheduling, and
// gets no address. Nothing of it runs, so no client learns that it is being built.
func TestAnInstanceThatIsBeingBuilt(t *testing.T) {
	a := start(t, config{cloud: "authenticator"})
	demo := login(t, "demo")
	down(t, "nova-compute")
	t.Cleanup(func() { up(t) })
	id := demo.request(t, "unborn", nil)
	awaittest.Within(t, time.Minute, "BUILD", func() bool {
		s, err := servers.Get(t.Context(), demo.compute, id).Extract()
		return err == nil && s.Status == "BUILD"
	})
	a.ask(t, "web-1", facts.Outside["v4"], id, "any").want(t, 403, addressMismatch)
}

func TestLookupAccounts(t *testing.T) {
	web, other := facts.Servers["web-1"], facts.Servers["other-1"]
	for _, tt := range []struct {
		name  string
		c     config
		log   string
		other string // what other-1 is told
	}{
		{"an admin", config{cloud: "authenticator-admin"}, "lookup=show scope=\"of all projects (admin)\"", granted},
		{"the least rights", config{cloud: "authenticator"}, "lookup=list scope=\"of all projects (list)\"", granted},
		{"an application credential for that one URL", config{cloud: "authenticator-appcred", lookup: "list"}, "lookup=list", granted},
		{"a project's own reader", config{cloud: "demo-reader"}, "the account sees only the instances of one project", instanceUnknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := start(t, tt.c)
			a.ask(t, "web-1", facts.Outside["v4"], web.ID, "web").want(t, 200, granted)
			status := http.StatusOK
			if tt.other != granted {
				status = http.StatusForbidden
			}
			a.ask(t, "other-1", facts.Outside["v6"], other.ID, "any").want(t, status, tt.other)
			if !strings.Contains(a.log(), tt.log) {
				t.Errorf("the log does not say %q:\n%s", tt.log, a.log())
			}
			if strings.Contains(a.log()+a.read("audit.log"), "lab-secret") {
				t.Error("the password is in a log")
			}
		})
	}
	t.Run("without the right", func(t *testing.T) {
		a := launch(t, config{cloud: "no-rights", lookup: "list"})
		a.wantLacking(t, "os_compute_api:servers:detail:get_all_tenants", "os_compute_api:servers:allow_all_filters")
	})
}

// Claims say what the real cloud knows of web-1, the name of its project among
// it, for which the account needs a right of Keystone's.
func TestClaims(t *testing.T) {
	const role = `  told:
    allowAnyInstance: true
    audience: [https://vault.example.com, https://keystone.example.com]
    subject: project/${project_id}/instance/${instance_id}
    claims: [user_id, image_id, flavor, availability_zone, region, hostname, address, created, launched_at, project_name, project_domain_id, metadata.role]
`
	a := start(t, config{cloud: "authenticator", extra: role})
	web := facts.Servers["web-1"]
	got := a.ask(t, "web-1", facts.Outside["v4"], web.ID, "told&audience=https://keystone.example.com")
	got.want(t, http.StatusOK, granted)
	claims := payload(t, got.Token)
	for name, want := range map[string]any{
		"sub": "project/" + web.ProjectID + "/instance/" + web.ID, "aud": "https://keystone.example.com",
		"user_id": web.UserID, "image_id": facts.Images["tiny"], "flavor": "m1.nano", "availability_zone": "nova", "region": "RegionOne",
		"hostname": "web-1", "address": web.FloatingIP, "project_name": "workloads", "project_domain_id": "default", "metadata_role": "web",
	} {
		if claims[name] != want {
			t.Errorf("%s is %v, want %v", name, claims[name], want)
		}
	}
	for _, name := range []string{"created", "launched_at"} {
		if at, ok := claims[name].(float64); !ok || time.Unix(int64(at), 0).After(time.Now()) {
			t.Errorf("%s is %v", name, claims[name])
		}
	}
	a.ask(t, "web-1", facts.Outside["v4"], web.ID, "told&audience=https://minio.example.com").want(t, http.StatusForbidden, "audience_denied")

	t.Run("without the right", func(t *testing.T) {
		a.stop() // its port is wanted
		launch(t, config{cloud: "no-rights", lookup: "show", extra: role}).wantLacking(t, "identity:get_project")
	})
}

// example/openstack/account.sh makes what it says, and may be run again.
func TestTheAccountOfTheExample(t *testing.T) {
	name := fmt.Sprintf("made-%d", time.Now().UnixNano())
	admin := login(t, "admin")
	file := filepath.Join(t.TempDir(), "clouds.yaml")
	for _, option := range []string{"-pa", "-p"} {
		cmd := exec.Command("sh", "../openstack/account.sh", option)
		cmd.Env = append(os.Environ(), "OS_CLIENT_CONFIG_FILE="+filepath.Join(stateDir, "clouds.yaml"), "OS_CLOUD=admin", "ACCOUNT="+name)
		cmd.Stdin = strings.NewReader("it's a \"secret\" " + option + "\n")
		var said strings.Builder
		cmd.Stderr = &said
		made, err := cmd.Output()
		if err != nil {
			t.Fatalf("account.sh %s: %v\n%s", option, err, said.String())
		}
		if option == "-pa" {
			id := admin.user(t, name)
			t.Cleanup(func() { _ = users.Delete(context.Background(), admin.identity, id).ExtractErr() })
		}
		if err := os.WriteFile(file, made, 0o600); err != nil {
			t.Fatal(err)
		}
		a := start(t, config{cloud: "openstack-nova-authenticator", file: file, lookup: "list"})
		a.ask(t, "web-1", facts.Outside["v4"], facts.Servers["web-1"].ID, "web").want(t, 200, granted)
		a.ask(t, "other-1", facts.Outside["v6"], facts.Servers["other-1"].ID, "any").want(t, 200, granted)
		a.stop()
	}
}

func TestOutages(t *testing.T) {
	web, v4 := facts.Servers["web-1"].ID, facts.Outside["v4"]
	t.Cleanup(func() { up(t) })
	a := start(t, config{cloud: "authenticator"})
	ask := func(t *testing.T, status int, reason string) {
		t.Helper()
		a.ask(t, "web-1", v4, web, "few").want(t, status, reason)
	}
	recovered := func(t *testing.T) {
		t.Helper()
		awaittest.Within(t, time.Minute, "recovery", func() bool {
			return a.ask(t, "web-1", v4, web, "any").Status == http.StatusOK
		})
	}

	t.Run("Nova goes and comes back, and no attempt is spent", func(t *testing.T) {
		ask(t, 200, granted)
		outgrow()
		down(t, lab.NovaAPI...)
		for range 3 {
			ask(t, 503, cloudUnavailable)
		}
		up(t)
		recovered(t)
		ask(t, 200, granted)
		ask(t, 403, attemptsUsed)
	})
	t.Run("a token of the account is revoked", func(t *testing.T) {
		admin := login(t, "admin")
		id := admin.user(t, "authenticator")
		for _, enabled := range []bool{false, true} { // ends all tokens of the user
			if _, err := users.Update(t.Context(), admin.identity, id, users.UpdateOpts{Enabled: &enabled}).Extract(); err != nil {
				t.Fatal(err)
			}
		}
		down(t, lab.NovaAPI...) // which takes a token that it has seen for good, for minutes
		up(t)
		recovered(t)
	})
	t.Run("Keystone goes and comes back", func(t *testing.T) {
		down(t, "keystone")
		fresh := start(t, config{cloud: "authenticator", listen: "[::]:18785"})
		awaittest.Within(t, time.Minute, "the log to say so", func() bool { return strings.Contains(fresh.log(), "the cloud cannot be reached") })
		second := func(role string) string { return askSecond(t, "/auth", "-d", "instance_id="+web+"&role="+role) }
		for range 3 {
			if status := second("few"); status != "503" {
				t.Errorf("without Keystone it answers %s", status)
			}
		}
		if status := askSecond(t, "/.well-known/jwks.json"); status != "200" {
			t.Errorf("without Keystone the key set is answered with %s", status)
		}
		up(t)
		recovered(t)
		awaittest.Within(t, time.Minute, "login of the server that started without Keystone", func() bool {
			return second("any") == "200"
		})
		for i, want := range []string{"200", "200", "403"} {
			if status := second("few"); status != want {
				t.Errorf("request %d after Keystone came back is answered %s, want %s: no attempt was spent before", i+1, status, want)
			}
		}
	})
}

// outgrow lets records that were looked up before grow too old to be used, also those of a late answer, kept for the retry.
func outgrow() {
	ctx, cancel := context.WithTimeout(context.Background(), 3100*time.Millisecond)
	defer cancel()
	<-ctx.Done()
}

// askSecond asks the authenticator on the second port from web-1, for its
// status alone. By ID no API is needed to find the instance.
func askSecond(t *testing.T, path string, more ...string) string {
	t.Helper()
	args := append([]string{"./instance", facts.Servers["web-1"].ID, "curl", "-sS", "-m", "20", "--cacert", filepath.Join(workDir, "server.pem"),
		"-o", "/dev/null", "-w", "%{http_code}", "https://" + facts.Outside["v4"] + ":18785" + path}, more...)
	return script(t, args...)
}

func payload(t *testing.T, compact string) map[string]any {
	t.Helper()
	parts := strings.Split(compact, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no token", compact)
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(data, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}
