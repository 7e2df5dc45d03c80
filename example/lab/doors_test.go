//go:build lab

package lab_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	osconfig "github.com/gophercloud/gophercloud/v2/openstack/config"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/domains"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/projects"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/roles"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/users"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
)

const (
	publicAddr  = "127.0.0.1:8790" // where Nova looks for vendordata, and what 172.24.4.1:8791 leads to
	publicURL   = "http://" + publicAddr
	agentsAddr  = "127.0.0.1:8776" // for Neutron's metadata agent
	novaAddr    = "127.0.0.1:8775"
	labSecret   = "lab-metadata-secret"
	metadataURL = "http://169.254.169.254"
)

// doors is an authenticator behind the lab's own reverse proxy, with Nova and the
// metadata agent as its callers.
func doors(t *testing.T, extra string) *authenticator {
	t.Helper()
	a := start(t, config{cloud: "authenticator", here: true, whole: doorsConfig(t) + extra})
	// A login on a busy machine takes longer than the 1.5 s within which a guest gets its answer.
	awaittest.Within(t, time.Minute, "the login", func() bool { return strings.Contains(a.log(), "logged in") })
	return a
}

func doorsConfig(t *testing.T) string {
	t.Helper()
	secret := filepath.Join(workDir, "metadata-secret")
	if err := os.WriteFile(secret, []byte(labSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`listen: %[1]s
auth: {limit: 3, period: 1s, signingKeyFile: %[2]s/signing-key.pem, tokenIssuer: "http://%[1]s"}
proxy: {trusted: 127.0.0.1}
openstack: {cloud: authenticator, cloudsFile: %[3]s/clouds.yaml, timeout: 10s}
metrics: {listen: ""}
admin: {socket: admin.sock}
audit: {output: audit.log, required: true}
log: {format: text}
throttle: {perAddress: {rate: 1000, burst: 1000}, perInstance: {rate: 1000, burst: 1000}}
vendordata:
  users: [%[4]s]
  from: 127.0.0.1
  audience: https://keystone.example.com
  static: {note: hello}
metadataService:
  listen: %[5]s
  agents: 127.0.0.1
  sharedSecretFile: %[6]s
  agentsLimitHeaders: true
  nova: http://%[7]s
roles:
  papers: {allowAnyInstance: true, proof: document}
  near: {allowAnyInstance: true, limit: 100, period: 720h}
  agent: {allowAnyInstance: true, proof: metadataService, anyAudience: true}
  workload: {projectID: %[8]s, proof: [metadataService, document]}
`, publicAddr, workDir, stateDir, userID(t, "nova-vendordata"), agentsAddr, secret, novaAddr, facts.Projects["workloads"])
}

func userID(t *testing.T, name string) string {
	t.Helper()
	page, err := users.List(login(t, "admin").identity, users.ListOpts{Name: name, DomainID: "default"}).AllPages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, err := users.ExtractUsers(page)
	if err != nil || len(all) != 1 {
		t.Fatalf("%d users are called %s: %v", len(all), name, err)
	}
	return all[0].ID
}

// guest runs curl in an instance, and gives the status and the body. After 500 from the door it asks again, as the door
// wants it: on a busy machine a lookup takes longer than the 1.5 s within which the door answers.
func guest(t *testing.T, server string, args ...string) (status int, body string) {
	t.Helper()
	tries := 1
	if strings.Contains(strings.Join(args, " "), "/identity/") {
		tries = 5
	}
	for range tries {
		if status, body = guestOnce(t, server, args...); status != http.StatusInternalServerError {
			break
		}
	}
	return status, body
}

// scripted runs a script in an instance, again while it says that it should be tried again.
func scripted(t *testing.T, args ...string) (out []byte, err error) {
	t.Helper()
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		out, err = exec.CommandContext(ctx, "./instance", args...).Output()
		cancel()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 75 {
			break
		}
	}
	return out, err
}

func guestOnce(t *testing.T, server string, args ...string) (status int, body string) {
	t.Helper()
	args = append([]string{"./instance", named(server), "curl", "-sS", "-m", "40", "-w", "\n%{http_code}"}, args...)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	i := strings.LastIndex(string(out), "\n")
	if _, err := fmt.Sscanf(string(out[i+1:]), "%d", &status); err != nil {
		t.Fatalf("%s: %q", strings.Join(args, " "), out)
	}
	return status, string(out[:i])
}

// readVendordata gives all of what an instance reads.
func readVendordata(t *testing.T, server string) (status int, all map[string]map[string]string) {
	t.Helper()
	status, body := guest(t, server, metadataURL+"/openstack/latest/vendor_data2.json")
	if err := json.Unmarshal([]byte(body), &all); err != nil && status == http.StatusOK {
		t.Fatalf("vendor_data2.json: %s: %v", body, err)
	}
	return status, all
}

// vendordata is what an instance reads under our name. On a busy machine the
// first lookup takes longer than Nova is made to wait.
func vendordata(t *testing.T, server string) (ours map[string]string) {
	t.Helper()
	awaittest.Within(t, 2*time.Minute, "document of "+server, func() bool {
		_, all := readVendordata(t, server)
		ours = all["instance_identity"]
		return ours["document"] != ""
	})
	return ours
}

// The instance takes what Nova hands to it alone to a place that knows it by no
// address of its own.
func TestDocumentOfARealInstance(t *testing.T) {
	a := doors(t, "")
	db := facts.Servers["db-1"]
	got := vendordata(t, "db-1")
	if got["document"] == "" || got["note"] != "hello" || payload(t, got["token"])["aud"] != "https://keystone.example.com" || payload(t, got["token"])["sub"] != db.ID {
		t.Fatalf("the instance reads %v", got)
	}
	exchange := func(server, document, role string) (int, string) {
		return guest(t, server, "http://172.24.4.1:8791/auth", "-d", "document="+document, "-d", "role="+role)
	}
	status, body := exchange("db-1", got["document"], "papers")
	var granted struct{ Token string }
	if err := json.Unmarshal([]byte(body), &granted); err != nil || status != http.StatusOK || payload(t, granted.Token)["sub"] != db.ID {
		t.Fatalf("from behind source NAT: %d %s", status, body)
	}
	a.audited(t, `"client":"172.24.4.2"`) // its router's address
	verify(t, granted.Token, publicURL+"/roles/papers")
	for name, not := range map[string]string{"a role token": granted.Token, "the other token": got["token"], "garbage": "a.b.c"} {
		if status, body := exchange("db-1", not, "papers"); status != http.StatusForbidden {
			t.Errorf("%s for a document: %d %s", name, status, body)
		}
	}
	if status, body := guest(t, "db-1", "http://172.24.4.1:8791/auth", "-d", "instance_id="+db.ID, "-d", "role=papers"); status != http.StatusForbidden {
		t.Errorf("without a document: %d %s", status, body)
	}

	t.Run("as the README says", func(t *testing.T) {
		text, err := os.ReadFile("../vendordata/README.md")
		if err != nil {
			t.Fatal(err)
		}
		_, commands, _ := strings.Cut(string(text), "## In the instance\n\n```sh\n")
		commands, _, ok := strings.Cut(commands, "```")
		if !ok {
			t.Fatal("the README has no commands for the instance")
		}
		commands = strings.NewReplacer("https://id.example.com", "http://172.24.4.1:8791", "role=web", "role=papers").Replace(commands)
		var token string
		awaittest.Within(t, 2*time.Minute, "token", func() bool { // as in vendordata
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			out, err := exec.CommandContext(ctx, "./instance", db.ID, "sh", "-euc", commands).Output()
			token = strings.TrimSpace(string(out))
			return err == nil
		})
		verify(t, token, publicURL+"/roles/papers")
	})

	t.Run("void after a rebuild", func(t *testing.T) {
		demo := login(t, "demo")
		id := demo.create(t, "papers")
		before := vendordata(t, id)["document"]
		if status, body := exchange("db-1", before, "papers"); status != http.StatusOK {
			t.Fatalf("%d %s", status, body)
		}
		demo.do(t, id, "ACTIVE", map[string]any{"rebuild": map[string]any{"imageRef": facts.Images["tiny"]}})
		if status, body := exchange("db-1", before, "papers"); status != http.StatusForbidden {
			t.Errorf("after a rebuild from the same image: %d %s", status, body)
		}
		a.audited(t, `"reason":"document_void"`)
	})

	t.Run("on a config drive", func(t *testing.T) {
		awaittest.Within(t, time.Minute, "document on the whole config drive", func() bool { // as in vendordata
			all, with := 0, 0
			for path, content := range configDrive(t, db.ID) {
				if strings.HasSuffix(path, "vendor_data2.json") {
					all++
					if strings.Contains(content, `"document"`) {
						with++
					}
				}
			}
			if all != 5 {
				t.Fatalf("the config drive has %d vendor_data2.json, want five", all)
			}
			return with == all
		})
	})
}

// configDrive gives the files that Nova's own code writes, with these options of
// Nova's over those of the lab.
func configDrive(t *testing.T, id string, options ...string) map[string]string {
	t.Helper()
	files := []string{filepath.Join(stateDir, "etc/nova/nova.conf"), filepath.Join(stateDir, "etc/nova/nova-db.conf")}
	if len(options) > 0 {
		files = append(files, filepath.Join(t.TempDir(), "more.conf"))
		if err := os.WriteFile(files[2], []byte(strings.Join(options, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(stateDir, "bin/python"), append([]string{"lib/configdrive.py", id}, files...)...).Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderrOf(err))
	}
	var drive map[string]string
	if err := json.Unmarshal(out, &drive); err != nil {
		t.Fatalf("%v: %.300s", err, out)
	}
	return drive
}

func stderrOf(err error) []byte {
	if e, ok := err.(*exec.ExitError); ok { //nolint:errorlint // of exec's own
		return e.Stderr
	}
	return nil
}

// verify has software that we did not write look at a token.
func verify(t *testing.T, token, audience string) {
	t.Helper()
	provider, err := oidc.NewProvider(t.Context(), publicURL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.Verifier(&oidc.Config{ClientID: audience}).Verify(t.Context(), token); err != nil {
		t.Errorf("go-oidc: %v", err)
	}
	if _, err := provider.Verifier(&oidc.Config{ClientID: audience + "2"}).Verify(t.Context(), token); err == nil {
		t.Error("go-oidc accepts it for somebody else")
	}
}

// A Keystone token of anybody but the listed user buys nothing.
func TestVendordataTakesOnlyTokensOfNovasUser(t *testing.T) {
	a := doors(t, "")
	web := facts.Servers["web-1"]
	post := func(t *testing.T, token string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, publicURL+"/vendordata",
			strings.NewReader(fmt.Sprintf(`{"instance-id":%q,"project-id":%q,"user-data":"bm90LWZvci1sb2dz"}`, web.ID, web.ProjectID)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		if token != "" {
			r.Header.Set("X-Auth-Token", token)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if strings.Contains(string(body), "document\":") != (resp.StatusCode == http.StatusOK) {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
		return resp.StatusCode
	}
	token := func(c cloud) string { return c.identity.TokenID }
	nova := login(t, "nova-vendordata")
	for _, tt := range []struct {
		name, token string
		status      int
	}{
		{"Nova's", token(nova), 200},
		{"none", "", 401},
		{"garbage", "garbage", 401},
		{"garbage that looks right", "gAAAAA" + strings.Repeat("B", 177), 401},
		{"a member's", token(login(t, "demo")), 403},
		{"an admin's", token(login(t, "admin")), 403},
		{"our own", token(login(t, "authenticator")), 403},
		{"a namesake's", token(namesake(t)), 403},
	} {
		got := post(t, tt.token)
		for range 10 { // a busy machine does not answer us within a second
			if got == http.StatusServiceUnavailable {
				got = post(t, tt.token)
			}
		}
		if got != tt.status {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.status)
		}
	}
	revoked := login(t, "nova-vendordata")
	if err := tokens.Revoke(t.Context(), login(t, "admin").identity, token(revoked)).Err; err != nil {
		t.Fatal(err)
	}
	if got := post(t, token(revoked)); got != 401 {
		t.Errorf("a revoked one: %d", got)
	}
	if log := a.log() + a.read("audit.log"); strings.Contains(log, "bm90LWZvci1sb2dz") || strings.Contains(log, token(nova)) {
		t.Error("user data or a token is in a log")
	}
}

// namesake signs in as a nova-vendordata of another domain.
func namesake(t *testing.T) cloud {
	t.Helper()
	admin := login(t, "admin").identity
	name := fmt.Sprintf("namesake-%d", time.Now().UnixNano())
	d, err := domains.Create(t.Context(), admin, domains.CreateOpts{Name: name, Enabled: gophercloud.Enabled}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := domains.Update(context.Background(), admin, d.ID, domains.UpdateOpts{Enabled: gophercloud.Disabled}).Extract(); err == nil {
			_ = domains.Delete(context.Background(), admin, d.ID).ExtractErr()
		}
	})
	p, err := projects.Create(t.Context(), admin, projects.CreateOpts{Name: "service", DomainID: d.ID}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	u, err := users.Create(t.Context(), admin, users.CreateOpts{Name: "nova-vendordata", DomainID: d.ID, Password: "lab-secret"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	page, err := roles.List(admin, roles.ListOpts{Name: "service"}).AllPages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found, err := roles.ExtractRoles(page)
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	if err := roles.Assign(t.Context(), admin, found[0].ID, roles.AssignOpts{UserID: u.ID, ProjectID: p.ID}).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	provider, err := osconfig.NewProviderClient(t.Context(), gophercloud.AuthOptions{
		IdentityEndpoint: "http://127.0.0.1:5000/v3", UserID: u.ID, Password: "lab-secret", TenantID: p.ID,
	})
	if err != nil {
		t.Fatal(err)
	}
	identity, err := openstack.NewIdentityV3(provider, gophercloud.EndpointOpts{Region: "RegionOne"})
	if err != nil {
		t.Fatal(err)
	}
	return cloud{identity: identity}
}

// agentOfOurs points Neutron's metadata agent at us until the test ends.
func agentOfOurs(t *testing.T) {
	t.Helper()
	agentAt(t, "8776")
	awaittest.Within(t, time.Minute, "the metadata service", func() bool {
		status, _ := guest(t, "db-1", metadataURL+"/latest/meta-data/")
		return status == http.StatusOK
	})
}

// agentAt points it at a port.
func agentAt(t *testing.T, port string) {
	t.Helper()
	leadAgent(t, "METADATA_PORT="+port)
}

// leadAgent restarts Neutron's metadata agent with settings of ./up, until the
// test ends.
func leadAgent(t *testing.T, settings ...string) {
	t.Helper()
	restart := func(settings []string) {
		down(t, lab.Agent)
		up(t, settings...)
	}
	t.Cleanup(func() { restart(nil) })
	restart(settings)
}

const putToken = metadataURL + "/identity/token?role=agent"

func TestIdentityFromTheMetadataService(t *testing.T) {
	a := doors(t, "")
	agentOfOurs(t)
	awaittest.Within(t, time.Minute, "the metadata service", func() bool {
		status, _ := guest(t, "web-1", metadataURL+"/latest/meta-data/")
		return status == http.StatusOK
	})
	s := facts.Servers
	const vault = "https://vault.example.com"

	t.Run("each gets its own", func(t *testing.T) {
		// twin-1 has the fixed address of web-1, in another project.
		for _, name := range []string{"web-1", "db-1", "other-1", "twin-1"} {
			status, body := guest(t, name, "-X", "PUT", putToken+"&format=token&audience="+vault)
			if status != http.StatusOK {
				t.Fatalf("%s: %d %s\n%s", name, status, body, a.read("audit.log"))
			}
			claims := payload(t, body)
			if claims["sub"] != s[name].ID || claims["project_id"] != s[name].ProjectID {
				t.Errorf("%s is told that it is %v", name, claims)
			}
			verify(t, body, vault)
		}
		if status, body := guest(t, "web-1", metadataURL+"/identity/roles"); status != http.StatusOK || body != `{"roles":["agent","workload"]}`+"\n" {
			t.Errorf("the roles of web-1: %d %s", status, body)
		}
		if status, body := guest(t, "other-1", metadataURL+"/identity/roles"); status != http.StatusOK || body != `{"roles":["agent"]}`+"\n" {
			t.Errorf("the roles of other-1: %d %s", status, body)
		}
		if status, _ := guest(t, "other-1", "-X", "PUT", metadataURL+"/identity/token?role=workload"); status != http.StatusForbidden {
			t.Errorf("another project's role: %d", status)
		}
	})

	t.Run("by the first line of the README", func(t *testing.T) {
		text, err := os.ReadFile("../../README.md")
		if err != nil {
			t.Fatal(err)
		}
		_, line, _ := strings.Cut(string(text), "```sh\n")
		line, _, _ = strings.Cut(line, "\n")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, "./instance", "web-1", "sh", "-c", strings.Replace(line, "role=web", "role=agent", 1)).Output()
		var granted struct{ Token string }
		if err != nil || json.Unmarshal(out, &granted) != nil {
			t.Fatalf("%s: %v %s\n%s", line, err, out, stderrOf(err))
		}
		verify(t, granted.Token, vault)
	})

	t.Run("by the script of the example", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "token")
		for way, args := range map[string][]string{
			"metadata": {"-r", "agent", "-a", vault}, "document": {"-r", "papers", "-w", "document"}, "address": {"-r", "near", "-w", "address"},
			"file": {"-r", "agent", "-o", file},
		} {
			out, err := scripted(t, append([]string{"web-1", "sh", "../instance/token.sh", "-u", "http://172.24.4.1:8791"}, args...)...)
			if err != nil {
				t.Errorf("%s: %v\n%s", way, err, stderrOf(err))
				continue
			}
			if way == "file" {
				if out, err = os.ReadFile(file); err != nil {
					t.Fatal(err)
				}
			}
			if sub := payload(t, strings.TrimSpace(string(out)))["sub"]; sub != s["web-1"].ID {
				t.Errorf("%s: the token is of %v", way, sub)
			}
		}
	})

	t.Run("no guest gets the token of another", func(t *testing.T) {
		web := s["web-1"]
		signature := sign(web.ID)
		for name, args := range map[string][]string{
			"headers":            {"-H", "X-Instance-ID: " + web.ID, "-H", "X-Tenant-ID: " + web.ProjectID, "-H", "X-Instance-ID-Signature: " + signature, putToken},
			"lower case headers": {"-H", "x-instance-id: " + web.ID, "-H", "x-instance-id-signature: " + signature, putToken},
			"an address":         {"-H", "X-Forwarded-For: " + web.FixedIPs["v4"], putToken},
			"two addresses":      {"-H", "X-Forwarded-For: " + web.FixedIPs["v4"], "-H", "X-Forwarded-For: " + web.FixedIPs["v4"], putToken},
			"a query":            {putToken + "&instance_id=" + web.ID},
			"a body":             {"-d", "instance_id=" + web.ID, putToken},
			"a provider":         {"-H", "X-Metadata-Provider: x", "-H", "X-Metadata-Provider-Signature: x", putToken},
			"a router":           {"-H", "X-Neutron-Router-ID: x", "-H", "X-Neutron-Network-ID: x", putToken},
			"a host":             {"-H", "Host: " + web.ID, putToken},
			"two slashes":        {metadataURL + "//identity/token?role=agent"},
			"dots":               {"--path-as-is", metadataURL + "/identity/../identity/token?role=agent"},
			"escaped dots":       {"--path-as-is", metadataURL + "/latest/%2e%2e/identity/token?role=agent"},
			"an escaped letter":  {metadataURL + "/%69dentity/token?role=agent"},
			"an escaped slash":   {metadataURL + "/identity%2ftoken?role=agent"},
			"a parameter":        {metadataURL + "/identity;x=1/token?role=agent"},
			"an absolute URI":    {"--request-target", "http://" + web.FixedIPs["v4"] + "/identity/token?role=agent", metadataURL},
		} {
			status, body := guest(t, "db-1", append([]string{"-X", "PUT"}, args...)...)
			if strings.Contains(body, "token\":") && payload(t, tokenOf(t, body))["sub"] != s["db-1"].ID {
				t.Errorf("%s: db-1 got another's: %d %s", name, status, body)
			}
		}
		for _, method := range []string{"GET", "POST", "OPTIONS", "HEAD"} {
			args := []string{"-X", method, putToken}
			if method == "HEAD" {
				args = []string{"-I", putToken}
			}
			if status, body := guest(t, "db-1", args...); status == http.StatusOK || strings.Contains(body, "token\":") {
				t.Errorf("%s: %d %s", method, status, body)
			}
		}
	})

	t.Run("a deleted instance gets none, though Nova still tells of it", func(t *testing.T) {
		demo := login(t, "demo")
		project := facts.Projects["workloads"]
		// told is whether Nova's cache still had it, seconds after it was deleted.
		told := func() bool {
			id := demo.create(t, "short-lived")
			if status, body := guest(t, id, "-X", "PUT", putToken); status != http.StatusOK {
				t.Fatalf("%d %s", status, body)
			}
			_, address := guest(t, id, metadataURL+"/latest/meta-data/local-ipv4")
			ask := func(at, request string) string { return agentAsks(t, at, id, project, address, request) }
			awaittest.True(t, "a token before", func() bool {
				return strings.HasPrefix(ask(agentsAddr, "PUT /identity/token?role=agent"), "HTTP/1.1 200 ")
			})
			ask(novaAddr, "GET /openstack/latest/meta_data.json")
			demo.gone(t, id)
			// Neutron knows the port no more; an agent that still did would say this.
			var answer string
			line := a.auditOf(t, func() { answer = ask(agentsAddr, "PUT /identity/token?role=agent") })
			if !strings.HasPrefix(answer, "HTTP/1.1 403 ") && !strings.HasPrefix(answer, "HTTP/1.1 500 ") {
				t.Errorf("a token: %.300s", answer)
			}
			if !strings.Contains(line, `"reason":"`+instanceUnknown) && !strings.Contains(line, `"reason":"`+cloudUnavailable) {
				t.Errorf("it is refused for another reason: %s", line)
			}
			return strings.HasPrefix(ask(novaAddr, "GET /openstack/latest/meta_data.json"), "HTTP/1.1 200 ")
		}
		for range 3 {
			if told() {
				return
			}
		}
		t.Error("Nova never told of it any more, so that nothing was shown")
	})

	t.Run("Nova's metadata is what it is without us", func(t *testing.T) {
		web := s["web-1"]
		for _, path := range crawl(t, web) {
			ours := agentAsks(t, agentsAddr, web.ID, web.ProjectID, web.FixedIPs["v4"], "GET "+path)
			bare := agentAsks(t, novaAddr, web.ID, web.ProjectID, web.FixedIPs["v4"], "GET "+path)
			if strings.Contains(path, "vendor_data2.json") || strings.Contains(path, "meta_data.json") {
				ours, bare = withoutOurs(ours), withoutOurs(bare)
			}
			if bare == noAnswer {
				if !strings.HasPrefix(ours, "HTTP/1.1 500 ") {
					t.Errorf("%s, which Nova does not answer: %.600q", path, ours)
				}
				continue
			}
			if ours != bare {
				t.Errorf("%s: with us\n%.600q\nwithout\n%.600q", path, ours, bare)
			}
		}
	})

	t.Run("cloud-init finds no difference", func(t *testing.T) {
		crawlBy := cloudInit(t)
		with := crawlBy("web-1")
		if !strings.Contains(with, facts.Servers["web-1"].ID) {
			t.Fatalf("cloud-init found %.300s", with)
		}
		down(t, lab.Agent)
		up(t)
		without := crawlBy("web-1")
		if with != without {
			t.Errorf("with us\n%s\nwithout\n%s", with, without)
		}
	})
}

// Each part of ours that is away fails only what needs it.
func TestNovasMetadataNeedsNothingOfOurs(t *testing.T) {
	a := doors(t, "")
	agentOfOurs(t)
	ask := func(t *testing.T, token int) {
		t.Helper()
		if status, body := guest(t, "db-1", metadataURL+"/latest/meta-data/instance-id"); status != http.StatusOK {
			t.Errorf("Nova's metadata: %d %s", status, body)
		}
		if status, body := guest(t, "db-1", "-X", "PUT", putToken); status != token {
			t.Errorf("a token: %d %s, want %d", status, body, token)
		}
	}
	ask(t, http.StatusOK)
	t.Run("Nova's API is away for us", func(t *testing.T) {
		// The lookup's account is refused; Nova itself is there.
		policy := filepath.Join(stateDir, "etc/nova/policy.yaml")
		good, err := os.ReadFile(policy)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.WriteFile(policy, good, 0o600); err != nil {
				t.Error(err)
			}
		})
		if err := os.WriteFile(policy, []byte("\"os_compute_api:servers:detail:get_all_tenants\": \"!\"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		awaittest.True(t, "policy", func() bool {
			status, _ := guest(t, "db-1", "-X", "PUT", putToken)
			return status == http.StatusInternalServerError
		})
		ask(t, http.StatusInternalServerError)
	})
	awaittest.True(t, "policy", func() bool {
		status, _ := guest(t, "db-1", "-X", "PUT", putToken)
		return status == http.StatusOK
	})
	t.Run("nova's metadata API is down", func(t *testing.T) {
		down(t, lab.NovaAPI...)
		t.Cleanup(func() { up(t) })
		if status, _ := guest(t, facts.Servers["db-1"].ID, metadataURL+"/latest/meta-data/"); status != http.StatusInternalServerError {
			t.Errorf("Nova's metadata: %d", status)
		}
		if got := a.read("log"); !strings.Contains(got, "nova's metadata API") {
			t.Errorf("the log does not say so:\n%s", got)
		}
	})
}

func tokenOf(t *testing.T, body string) string {
	t.Helper()
	var granted struct{ Token string }
	if err := json.Unmarshal([]byte(body), &granted); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return granted.Token
}

// agentAsks speaks as the metadata agent does, and gives the answer with its
// header in order and without what differs each time.
func agentAsks(t *testing.T, address, id, project, from, request string) string {
	t.Helper()
	return agentSends(t, address, id, project, from, request, "")
}

// noAnswer is of a connection that was closed without one. Nova's WSGI applications do so, behind uWSGI, for a path that
// they cannot take, such as one below a value.
const noAnswer = "no answer"

func agentSends(t *testing.T, address, id, project, from, request, body string) string {
	t.Helper()
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Forwarded-For: %s\r\nX-Instance-ID: %s\r\nX-Tenant-ID: %s\r\nX-Instance-ID-Signature: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
		request, from, id, project, sign(id), len(body), body)
	var status string
	var header []string
	reader := bufio.NewReader(c)
	for {
		line, err := reader.ReadString('\n')
		if errors.Is(err, io.EOF) && line == "" && status == "" {
			return noAnswer
		}
		if err != nil {
			t.Fatalf("%s: %v after %q", request, err, header)
		}
		line = strings.TrimRight(line, "\r\n")
		name, _, _ := strings.Cut(strings.ToLower(line), ":")
		switch {
		case line == "":
			slices.Sort(header)
			body, err := io.ReadAll(reader)
			if err != nil {
				t.Fatal(err)
			}
			return status + "\n" + strings.Join(header, "\n") + "\n\n" + string(body)
		case status == "":
			status = line
		case name != "date" && name != "connection" && !strings.Contains(name, "request-id"):
			header = append(header, line)
		}
	}
}

// withoutOurs leaves out what is new each time.
func withoutOurs(answer string) string {
	head, body, _ := strings.Cut(answer, "\n\n")
	var all map[string]any
	if json.Unmarshal([]byte(body), &all) == nil {
		delete(all, "instance_identity")
		delete(all, "random_seed")
	}
	rest, _ := json.Marshal(all)
	lines := slices.DeleteFunc(strings.Split(head, "\n"), func(l string) bool { return strings.HasPrefix(strings.ToLower(l), "content-length") })
	return strings.Join(lines, "\n") + string(rest)
}

// crawl gives all paths of Nova's metadata API for an instance, and odd ones.
func crawl(t *testing.T, s serverFacts) []string {
	t.Helper()
	body := func(path string) (string, bool) {
		answer := agentAsks(t, novaAddr, s.ID, s.ProjectID, s.FixedIPs["v4"], "GET "+path)
		_, b, _ := strings.Cut(answer, "\n\n")
		return b, strings.HasPrefix(answer, "HTTP/1.1 200 ")
	}
	paths := []string{
		"/", "//", "/latest", "/latest/meta-data", "/latest?x=%zz&y;z", "/latest/meta-data/?", "/latest/%6deta-data/", "/none", "/latest/none", "/openstack/none",
		"/latest/meta-data/../user-data", "/openstack/latest/password", "/openstack//latest", "/openstack/latest/meta_data.json/", "/a%00b", "/latest/a%2Fb",
	}
	seen := map[string]bool{}
	var walk func(path string, depth int)
	walk = func(path string, depth int) {
		if depth > 5 || seen[path] || len(seen) > 400 {
			return
		}
		seen[path] = true
		paths = append(paths, path)
		listing, ok := body(path)
		if !ok || strings.HasSuffix(path, ".json") || len(listing) > 2000 {
			return
		}
		for _, name := range strings.Fields(listing) {
			name, _, _ = strings.Cut(name, "=")
			if name != "" && !strings.ContainsAny(name, "{}<>\"[]:,") && (strings.HasSuffix(path, "/")) {
				walk(path+name, depth+1)
				walk(path+name+"/", depth+1)
			}
		}
	}
	walk("/", 0)
	walk("/openstack/", 0)
	if len(paths) < 100 {
		t.Errorf("only %d paths: %v", len(paths), paths)
	}
	t.Logf("%d paths", len(paths))
	return paths
}

// cloudInitPackage is a folder with Debian's cloud-init, cloud-init_*.deb, whose
// dependencies are installed. $CLOUD_INIT_DEB is the package, for a machine without
// a network.
func cloudInitPackage(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, command := range []string{
		"if [ -n \"${CLOUD_INIT_DEB:-}\" ]; then cp \"$CLOUD_INIT_DEB\" cloud-init_.deb; else apt-get -qq download cloud-init; fi",
		"dpkg -s python3-jsonpatch python3-jsonschema python3-configobj python3-oauthlib python3-requests python3-yaml python3-jinja2 python3-netifaces python3-serial >/dev/null 2>&1 || " +
			"DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends python3-jsonpatch python3-jsonschema python3-configobj python3-oauthlib python3-requests python3-yaml python3-jinja2 python3-netifaces python3-serial >/dev/null",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		cmd := lab.AtMachine(ctx, "sh", "-ec", command)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		cancel()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
	return dir
}

// cloudInit gives what Debian's cloud-init reads with its OpenStack data source.
func cloudInit(t *testing.T) func(server string) string {
	t.Helper()
	dir := cloudInitPackage(t)
	script(t, "sh", "-ec", "dpkg -x \"$1\"/cloud-init_*.deb \"$1\"", "sh", dir)
	const read = `import json, sys
sys.path.insert(0, sys.argv[1])
from cloudinit.sources.helpers import openstack
found = openstack.MetadataReader(sys.argv[2]).read_v2()
found.pop("vendordata2", None)
found["metadata"].pop("random_seed", None)
print(json.dumps(found, sort_keys=True, default=repr))`
	return func(server string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "./instance", server, "/usr/bin/python3", "-c", read, filepath.Join(dir, "usr/lib/python3/dist-packages"), metadataURL)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("cloud-init: %v\n%s", err, stderrOf(err))
		}
		return string(out)
	}
}
