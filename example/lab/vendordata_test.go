//go:build lab

package lab_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/users"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
)

const identityTarget = "instance_identity"

// doorsBut is doors with pairs of texts replaced in the configuration.
func doorsBut(t *testing.T, pairs ...string) *authenticator {
	t.Helper()
	text := doorsConfig(t)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("the configuration has no %q", pairs[i])
		}
	}
	return start(t, config{cloud: "authenticator", here: true, whole: strings.NewReplacer(pairs...).Replace(text)})
}

// wantNothing reads as the instance does, and looks for why in the audit log, if anything should be in it. On a busy machine
// the answer may first come too late for Nova, which is another reason: it reads again.
func wantNothing(t *testing.T, a *authenticator, server, reason string) {
	t.Helper()
	awaittest.Within(t, time.Minute, "audit line with "+reason, func() bool {
		status, all := readVendordata(t, server)
		if ours, there := all[identityTarget]; status != http.StatusOK || !there || len(ours) != 0 || len(all["static"]) == 0 {
			t.Errorf("the instance reads %d %v, want {} under our name and the static part", status, all)
			return true
		}
		if reason == "" {
			return true
		}
		log := a.read("audit.log")
		return strings.Contains(log, `"door":"vendordata","outcome":"`) && strings.Contains(log, `"reason":"`+reason+`"`)
	})
}

// What example/vendordata/README.md says of failures.
func TestHowFailuresOfVendordataShow(t *testing.T) {
	const silent = "we hang or are down"
	web := facts.Servers["web-1"].ID
	nova := userID(t, "nova-vendordata")
	for _, tt := range []struct {
		name, reason string
		change       []string
	}{
		{"a user who is not listed", "caller_denied", []string{"users: [" + nova + "]", "users: [" + userID(t, "admin") + "]"}},
		{"a caller that is not in from", "caller_denied", []string{"from: 127.0.0.1", "from: 192.0.2.11"}},
		{"an audience without the word on the agents", "agents_unlimited", []string{"agentsLimitHeaders: true", "agentsLimitHeaders: false"}},
		{"our account may validate no token", "cloud_unavailable", []string{"cloud: authenticator,", "cloud: no-rights, lookup: show,"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wantNothing(t, doorsBut(t, tt.change...), "web-1", tt.reason)
		})
	}
	t.Run("without a token", func(t *testing.T) {
		a := doors(t, "")
		drive := configDrive(t, web, "[vendordata_dynamic_auth]", "auth_type =")
		if got := drive["openstack/latest/vendor_data2.json"]; !strings.Contains(got, `"instance_identity": {}`) {
			t.Errorf("the config drive has %s", got)
		}
		a.audited(t, `"reason":"caller_unknown"`)
		a.audited(t, "does nova.conf have")
	})
	t.Run("with a token that was revoked: Nova gets another and tries once more", func(t *testing.T) {
		admin := login(t, "admin")
		before := doors(t, "")
		vendordata(t, "web-1")
		before.stop()                                 // what it remembers for a minute
		for _, enabled := range []bool{false, true} { // ends all tokens of the user
			if _, err := users.Update(t.Context(), admin.identity, nova, users.UpdateOpts{Enabled: &enabled}).Extract(); err != nil {
				t.Fatal(err)
			}
		}
		a := doors(t, "")
		vendordata(t, "web-1")
		a.audited(t, `"reason":"caller_unknown"`)
		a.audited(t, `"reason":"granted"`)
		log := a.read("audit.log")
		if no, yes := strings.Index(log, `"reason":"caller_unknown"`), strings.Index(log, `"reason":"granted"`); no < 0 || yes < no {
			t.Errorf("the audit log has %s", log)
		}
	})
	t.Run("it is denied, and allowed again", func(t *testing.T) {
		a := doors(t, "")
		operate(t, a, "/instances/"+web+"/deny")
		wantNothing(t, a, "web-1", "instance_denied")
		operate(t, a, "/instances/"+web+"/allow")
		vendordata(t, "web-1")
	})
	t.Run("it is stopped", func(t *testing.T) {
		a, demo := doors(t, ""), login(t, "demo")
		id := demo.create(t, "stopped")
		vendordata(t, id)
		demo.do(t, id, "SHUTOFF", map[string]any{"os-stop": nil})
		wantNothing(t, a, id, "status_denied")
	})
	t.Run("it is gone", func(t *testing.T) {
		a, demo := doors(t, ""), login(t, "demo")
		id := demo.create(t, "gone")
		vendordata(t, id)
		demo.gone(t, id)
		// Nova's metadata tells of it as long as it remembers it, to whom the agent
		// speaks for.
		answer := agentAsks(t, novaAddr, id, facts.Servers["db-1"].ProjectID, "10.20.0.99", "GET /openstack/latest/vendor_data2.json")
		if !strings.HasPrefix(answer, "HTTP/1.1 200 ") {
			t.Skipf("Nova tells of it no more: %.60q", answer)
		}
		if !strings.Contains(answer, `"instance_identity": {}`) {
			t.Errorf("Nova tells %s", answer)
		}
		a.audited(t, `"reason":"cloud_unavailable"`)
	})
	t.Run("it asks in a loop, and is throttled alone", func(t *testing.T) {
		a := doorsBut(t, "perInstance: {rate: 1000, burst: 1000}", "perInstance: {rate: 0.001, burst: 3}")
		got := 0
		for range 6 {
			if _, all := readVendordata(t, "web-1"); all[identityTarget]["document"] != "" {
				got++
			}
		}
		if got == 0 || got > 3 {
			t.Errorf("it got %d documents, want three at most", got)
		}
		wantNothing(t, a, "web-1", "")
		vendordata(t, "db-1")
	})
	t.Run("we are down", func(t *testing.T) { wantNothing(t, nil, "web-1", "") })
	t.Run(silent, func(t *testing.T) {
		l, err := net.Listen("tcp", publicAddr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		began := time.Now()
		wantNothing(t, nil, "web-1", "")
		if took := time.Since(began); took < 5*time.Second {
			t.Errorf("it took %v, less than Nova waits", took)
		}
	})
	t.Run("fatal", func(t *testing.T) {
		restart := func(value string) {
			down(t, lab.NovaAPI...)
			up(t, "VENDORDATA_FATAL="+value)
		}
		restart("true")
		t.Cleanup(func() { restart("false") })
		if status, _ := readVendordata(t, "web-1"); status != lab.NoAnswer {
			t.Errorf("the instance gets %d, want %d", status, lab.NoAnswer)
		}
		if status, _ := guest(t, "web-1", metadataURL+"/openstack/latest/meta_data.json"); status != http.StatusOK {
			t.Errorf("meta_data.json: %d", status)
		}
	})
}

// operate has the admin socket do something.
func operate(t *testing.T, a *authenticator, path string) {
	t.Helper()
	resp, err := a.admin().Post("http://admin"+path, "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s", path, resp.StatusCode, body)
	}
}

// exchange shows a document from behind another instance's router.
func exchange(t *testing.T, document string) int {
	t.Helper()
	status, _ := guest(t, "db-1", "http://172.24.4.1:8791/auth", "-d", "document="+document, "-d", "role=papers")
	return status
}

// wantExchange lets records grow old first: what is two seconds old is still used.
func wantExchange(t *testing.T, what, document string, want int) {
	t.Helper()
	outgrow()
	got := exchange(t, document)
	for range 10 {
		if got == http.StatusServiceUnavailable && want != got {
			got = exchange(t, document)
		}
	}
	if got != want {
		t.Errorf("%s: %d, want %d", what, got, want)
	}
}

// driveDocument is the document on a config drive.
func driveDocument(t *testing.T, id string) string {
	t.Helper()
	var document string
	awaittest.Within(t, time.Minute, "document on the config drive", func() bool {
		var latest map[string]map[string]string
		if err := json.Unmarshal([]byte(configDrive(t, id)["openstack/latest/vendor_data2.json"]), &latest); err != nil {
			t.Fatal(err)
		}
		document = latest[identityTarget]["document"]
		return document != ""
	})
	return document
}

// Nova writes a config drive while it builds or rebuilds: with the launch that
// follows its document is good, and with no other.
func TestDocumentOfAConfigDrive(t *testing.T) {
	doors(t, "")
	demo := login(t, "demo")
	id := demo.request(t, "driven", map[string]string{"lab_build_seconds": "25"})
	demo.awaitTask(t, id, "spawning")
	first := driveDocument(t, id)
	if payload(t, first)["launched_at"] != "" || payload(t, first)["sub"] != id {
		t.Errorf("the document says %v", payload(t, first))
	}
	wantExchange(t, "while it is built", first, http.StatusServiceUnavailable)
	demo.await(t, id, "ACTIVE")
	wantExchange(t, "when it runs", first, http.StatusOK)

	// The old system keeps what it can get before its end.
	kept := vendordata(t, id)["document"]
	wantExchange(t, "of the running instance", kept, http.StatusOK)
	demo.begin(t, id, map[string]any{"rebuild": map[string]any{"imageRef": facts.Images["tiny"]}})
	demo.awaitTask(t, id, "rebuild_spawning")
	second := driveDocument(t, id)
	demo.await(t, id, "ACTIVE")
	wantExchange(t, "kept through a rebuild", kept, http.StatusForbidden)
	wantExchange(t, "made in the rebuild", second, http.StatusOK)
}

// Who makes tokens up keeps neither Keystone busy nor Nova out.
func TestGarbageAtVendordata(t *testing.T) {
	doorsBut(t, `metrics: {listen: ""}`, "metrics: {listen: 127.0.0.1:18776}")
	vendordata(t, "web-1") // Nova's token is known now
	asked := func() (n int) {
		resp, err := http.Get("http://127.0.0.1:18776/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(body)) {
			if count := 0; strings.HasPrefix(line, `nova_authenticator_upstream_seconds_count{`) && strings.Contains(line, `service="keystone"`) {
				if _, err := fmt.Sscanf(line[strings.Index(line, "} ")+2:], "%d", &count); err == nil {
					n += count
				}
			}
		}
		return n
	}
	before := asked()
	var asking sync.WaitGroup
	for i := range 200 {
		asking.Go(func() {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, publicURL+"/vendordata", strings.NewReader("{}"))
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("X-Auth-Token", fmt.Sprintf("gAAAAA%0177d", i))
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close()
			if resp.StatusCode < 400 {
				t.Errorf("garbage is answered %d", resp.StatusCode)
			}
		})
	}
	asking.Wait()
	vendordata(t, "web-1")
	n := asked() - before // some checks outlive those who waited for them
	if n > 20 {
		t.Errorf("Keystone was asked %d times about 200 tokens and Nova's", n)
	}
	t.Logf("Keystone was asked %d times", n)
}

// Keystone is stopped, not ended: who connects waits.
func TestKeystoneThatHangs(t *testing.T) {
	a := doors(t, "")
	web, db := facts.Servers["web-1"].ID, facts.Servers["db-1"].ID
	document := vendordata(t, web)["document"]
	// All that Nova and Neutron ask of Keystone for this is kept by them.
	if status, body := guest(t, web, "http://172.24.4.1:8791/auth", "-d", "instance_id="+web, "-d", "role=near"); status != http.StatusOK {
		t.Fatalf("before: %d %s", status, body)
	}
	freeze(t, "keystone")
	var asking sync.WaitGroup
	defer asking.Wait()
	for i := range 8 {
		asking.Go(func() {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, publicURL+"/vendordata", strings.NewReader("{}"))
			if err != nil {
				return
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("X-Auth-Token", fmt.Sprintf("gAAAAA%0177d", i))
			began := time.Now()
			if resp, err := http.DefaultClient.Do(r); err == nil {
				_ = resp.Body.Close()
				if took := time.Since(began); resp.StatusCode < 429 || took > 3*time.Second {
					t.Errorf("garbage is answered %d after %v", resp.StatusCode, took)
				}
			}
		})
	}
	outgrow()
	began := time.Now()
	if status, body := guest(t, web, "http://172.24.4.1:8791/auth", "-d", "instance_id="+web, "-d", "role=near"); status != http.StatusOK {
		t.Errorf("by address: %d %s", status, body)
	}
	if status, body := guest(t, db, "http://172.24.4.1:8791/auth", "-d", "document="+document, "-d", "role=papers"); status != http.StatusOK {
		t.Errorf("with a document: %d %s", status, body)
	}
	if resp, err := http.Get(publicURL + "/.well-known/jwks.json"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("the key set: %v, %v", resp, err)
	}
	t.Logf("three answers took %v", time.Since(began))
	a.audited(t, `"reason":"granted"`)
}

// freeze stops services of the lab until thaw is called, or the test ends.
func freeze(t *testing.T, names ...string) (thaw func()) {
	t.Helper()
	var groups []int
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(stateDir, "run", name+".pid"))
		if err != nil {
			t.Fatal(err)
		}
		var pid int
		if _, err := fmt.Sscanf(string(data), "%d", &pid); err != nil || pid <= 1 {
			t.Fatalf("%s: %q, %v", name, data, err)
		}
		groups = append(groups, -pid)
	}
	thaw = func() {
		for _, group := range groups {
			_ = syscall.Kill(group, syscall.SIGCONT)
		}
	}
	t.Cleanup(thaw)
	for _, group := range groups {
		if err := syscall.Kill(group, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	return thaw
}
