//go:build lab

package lab_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFederation is the whole way of an instance: its token, of us; Keystone's token
// for that; and what that is good for.
func TestFederation(t *testing.T) {
	issuer := fmt.Sprintf("https://%s:%s", facts.Outside["v4"], outsidePort)
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(stateDir, "log", "federation.log"))
			t.Logf("Apache said\n%s", log[max(0, len(log)-3000):])
		}
		down(t, "federation", "keystone")
		up(t)
	})
	caFile := filepath.Join(workDir, "server.pem")
	down(t, "keystone")
	up(t, "FEDERATION_ISSUER="+issuer, "FEDERATION_CA="+caFile)

	a := start(t, config{cloud: "authenticator", extra: "  keystone: {allowAnyInstance: true, audience: keystone}\n  vault: {allowAnyInstance: true, audience: https://vault.example.com}\n"})
	project := facts.Projects["workloads"]
	allow := "allow-project " + project + " reader"
	for _, command := range []string{"setup", allow, allow} { // an operator may run them again
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		cmd := exec.CommandContext(ctx, "sh", "-c", "OS_CLIENT_CONFIG_FILE="+filepath.Join(stateDir, "clouds.yaml")+" OS_CLOUD=admin ../consumers/keystone/"+command)
		cmd.Env = append(os.Environ(), "ISSUER="+issuer)
		out, err := cmd.CombinedOutput()
		cancel()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}

	const keystone = "http://172.24.4.1:5001/v3"
	// exchange runs both scripts in an instance, and gives Keystone's token.
	exchange := func(server, role string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		file := filepath.Join(t.TempDir(), "token")
		out, err := exec.CommandContext(ctx, "./instance", server, "sh", "-ec",
			`sh ../instance/token.sh -w address -u "$1" -c "$2" -r "$3" -o "$4" && sh ../instance/keystone-token.sh -k "$5" -p "$6" -t "$4"`,
			"sh", issuer, caFile, role, file, keystone, project).Output()
		if err != nil {
			return "", fmt.Errorf("%w: %s", err, stderrOf(err))
		}
		return strings.TrimSpace(string(out)), nil
	}

	scoped, err := exchange("web-1", "keystone")
	if err != nil || !strings.HasPrefix(scoped, "gAAAA") {
		t.Fatalf("%q, %v\n%s", scoped, err, a.read("audit.log"))
	}
	status, body := as(t, scoped, "http://127.0.0.1:8774/v2.1/servers")
	if status != http.StatusOK || !strings.Contains(body, facts.Servers["web-1"].ID) || strings.Contains(body, facts.Servers["other-1"].ID) {
		t.Errorf("the instance's list of servers: %d %s", status, body)
	}
	if status, _ := as(t, scoped, "http://127.0.0.1:8774/v2.1/servers?all_tenants=1"); status != http.StatusForbidden {
		t.Errorf("the servers of all projects: %d", status)
	}

	// The same with clouds.yaml, as openstack and SDKs read it.
	text, err := os.ReadFile("../instance/clouds.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "clouds.yaml")
	text = []byte(strings.NewReplacer("https://keystone.example.com:5000/v3", keystone, "7e562c1a85814230b973a83db9534b02", project).Replace(string(text)))
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "./instance", "web-1", "sh", "-ec",
		`export PATH="$4:$PATH" OS_CLIENT_CONFIG_FILE="$1" OS_ACCESS_TOKEN="$(sh ../instance/token.sh -w address -u "$2" -c "$3" -r keystone)" && openstack --os-cloud instance token issue -f value -c project_id`,
		"sh", file, issuer, caFile, filepath.Join(stateDir, "bin")).Output()
	if err != nil || strings.TrimSpace(string(out)) != project {
		t.Errorf("by clouds.yaml: %q, %v\n%s", out, err, stderrOf(err))
	}

	if token, err := exchange("other-1", "keystone"); err == nil {
		t.Errorf("an instance of another project got %q", token)
	}
	if token, err := exchange("web-1", "vault"); err == nil {
		t.Errorf("a token for Vault became %q", token)
	}
}

// as is GET with a Keystone token.
func as(t *testing.T, token, target string) (status int, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Auth-Token", token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}
