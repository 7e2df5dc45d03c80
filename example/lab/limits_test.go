//go:build lab

package lab_test

import (
	"context"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
)

// metadataURL6 is the metadata service over IPv6. An instance reaches it from its link-local address.
const metadataURL6 = "http://[fe80::a9fe:a9fe%25eth0]"

// The limit of example/metadata-service/agent-limits in the haproxies that Neutron's own agent starts, as an instance sees it:
// with token.sh --check, and without it.
func TestLimitOfTheAgent(t *testing.T) {
	doors(t, "")
	agentOfOurs(t)
	check := func(url string) string {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, _ := exec.CommandContext(ctx, "./instance", named("web-1"), "env", "METADATA_URL="+url, "sh", "../instance/token.sh", "--check").Output()
		return string(out)
	}
	wanted := func(t *testing.T, url, limit string) {
		t.Helper()
		got := ""
		awaittest.Within(t, time.Minute, "answers at "+url, func() bool { // on a busy machine the first roles come too late
			got = check(url)
			return strings.Contains(got, "identity: answers (status 200)")
		})
		if !strings.Contains(got, "\nlimit: "+limit+" ") {
			t.Errorf("%s, want limit: %s\n%s", url, limit, got)
		}
	}
	if !lab.AgentLimits {
		wanted(t, metadataURL, "missing") // an agent of 2022 needs none
		return
	}
	wanted(t, metadataURL, "in place")
	wanted(t, metadataURL6, "in place")
	for _, url := range []string{metadataURL, metadataURL6} {
		for _, args := range [][]string{
			{"-X", "PUT", url + "/identity/token?role=agent", "-H", "X-Pad: " + strings.Repeat("a", 3100)},
			{url + "/latest/meta-data/instance-id?" + strings.Repeat("a", 3100)},
			{url + "/openstack/latest/vendor_data2.json", "-H", "Cookie: " + strings.Repeat("a", 8000)},
		} {
			if status, body := guest(t, "web-1", append([]string{"-g"}, args...)...); status != http.StatusBadRequest {
				t.Errorf("%.60v: %d %.200s, want 400", args, status, body)
			}
		}
	}
	t.Run("left out", func(t *testing.T) {
		leadAgent(t, "METADATA_PORT=8776", "AGENT_LIMITS=no")
		wanted(t, metadataURL, "missing")
	})
}

// Over IPv6 the agent names the link-local address of the instance.
func TestIdentityOverIPv6(t *testing.T) {
	if !lab.MetadataOverIPv6 {
		t.Skip("the routers have no metadata service over IPv6")
	}
	a := doors(t, "")
	agentOfOurs(t)
	for _, name := range []string{"web-1", "db-1", "other-1", "twin-1", "edge-1"} {
		var status int
		var body string
		awaittest.Within(t, time.Minute, "token of "+name, func() bool {
			status, body = guest(t, name, "-g", "-X", "PUT", metadataURL6+"/identity/token?role=agent&format=token")
			return status != http.StatusInternalServerError // on a busy machine the record comes late
		})
		if status != http.StatusOK || payload(t, body)["sub"] != facts.Servers[name].ID {
			t.Errorf("%s: %d %s\n%s", name, status, body, a.read("audit.log"))
		}
		if status, body := guest(t, name, "-g", metadataURL6+"/openstack/latest/meta_data.json"); status != http.StatusOK || !strings.Contains(body, facts.Servers[name].ID) {
			t.Errorf("Nova's metadata of %s: %d %s", name, status, body)
		}
	}
	a.audited(t, `"client":"fe80::`)
}
