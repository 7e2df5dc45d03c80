//go:build lab

package lab_test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
)

// What of ours is away is missed by a token alone: Nova's metadata is there as it is
// without us.
func TestWhatATokenNeeds(t *testing.T) {
	web := facts.Servers["web-1"]
	ask := func(t *testing.T, address, request string) string {
		t.Helper()
		return agentAsks(t, address, web.ID, web.ProjectID, web.FixedIPs["v4"], request)
	}
	passes := func(t *testing.T) {
		t.Helper()
		for _, request := range []string{"GET /latest/meta-data/", "GET /openstack/latest/user_data", "GET /openstack/2012-08-10/meta_data.json?x=%zz", "HEAD /openstack", "GET /none"} {
			ours, bare := ask(t, agentsAddr, request), ask(t, novaAddr, request)
			if strings.Contains(request, ".json") {
				ours, bare = withoutOurs(ours), withoutOurs(bare)
			}
			if ours != bare {
				t.Errorf("%s: with us\n%.300q\nwithout\n%.300q", request, ours, bare)
			}
		}
		if got := ask(t, agentsAddr, "GET /latest/meta-data/instance-id"); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Errorf("Nova's metadata: %.100q", got)
		}
	}
	const put = "PUT /identity/token?role=agent"
	token := func(t *testing.T, status int) {
		t.Helper()
		if got := ask(t, agentsAddr, put); !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", status)) {
			t.Errorf("a token: %.300q, want %d", got, status)
		}
	}
	granted := func() bool { return strings.HasPrefix(ask(t, agentsAddr, put), "HTTP/1.1 200 ") }

	text := doorsConfig(t)
	// begin starts with a text of the configuration replaced.
	begin := func(t *testing.T, before, after string) {
		t.Helper()
		if !strings.Contains(text, before) {
			t.Fatalf("the configuration has no %q", before)
		}
		launch(t, config{cloud: "authenticator", here: true, whole: strings.Replace(text, before, after, 1)})
		awaittest.True(t, "the door", func() bool {
			c, err := net.Dial("tcp", agentsAddr)
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
	}

	t.Run("the state is away", func(t *testing.T) {
		begin(t, "metrics:", "keys: {encryptionKeyFile: "+workDir+"/encryption.key}\nstate: {type: redis, redis: {addresses: [\"127.0.0.1:1\"]}}\nmetrics:")
		passes(t)
		token(t, 500)
	})
	t.Run("the state is damaged, and mended", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "state.db")
		if err := os.WriteFile(file, []byte("these are notes"), 0o600); err != nil {
			t.Fatal(err)
		}
		begin(t, "metrics:", "state: {type: file, file: {path: \""+file+"\"}}\nmetrics:")
		passes(t)
		token(t, 500)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		awaittest.True(t, "token", granted)
	})
	t.Run("there are no keys", func(t *testing.T) {
		redis := exec.Command("redis-server", "--port", "16379", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir())
		if err := redis.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = redis.Process.Kill()
			_ = redis.Wait()
		})
		begin(t, "signingKeyFile: "+workDir+"/signing-key.pem, tokenIssuer: \""+publicURL+"\"}",
			"tokenIssuer: \""+publicURL+"\"}\nkeys: {encryptionKeyFile: "+workDir+"/encryption.key}\nstate: {type: redis, redis: {addresses: [\"127.0.0.1:16379\"]}}")
		passes(t)
		token(t, 500)
	})
	t.Run("Keystone refuses us", func(t *testing.T) {
		clouds, err := os.ReadFile(filepath.Join(stateDir, "clouds.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "clouds.yaml")
		if err := os.WriteFile(file, bytes.ReplaceAll(clouds, []byte("lab-secret"), []byte("another-secret")), 0o600); err != nil {
			t.Fatal(err)
		}
		begin(t, "cloudsFile: "+stateDir+"/clouds.yaml", "cloudsFile: "+file)
		passes(t)
		token(t, 500)
	})
	t.Run("Keystone is down", func(t *testing.T) {
		down(t, "keystone")
		t.Cleanup(func() { up(t) })
		begin(t, "metrics:", "metrics:")
		passes(t)
		token(t, 500)
	})
	t.Run("Nova is slow", func(t *testing.T) {
		begin(t, "metrics:", "metrics:")
		awaittest.True(t, "token", granted)
		outgrow()
		thaw := freeze(t, lab.NovaAPI...)
		answer := make(chan string, 1)
		go func() {
			r, err := http.NewRequest(http.MethodGet, "http://"+agentsAddr+"/latest/meta-data/instance-id", http.NoBody)
			if err != nil {
				answer <- err.Error()
				return
			}
			for name, value := range map[string]string{"X-Instance-ID": web.ID, "X-Tenant-ID": web.ProjectID, "X-Instance-ID-Signature": sign(web.ID), "X-Forwarded-For": web.FixedIPs["v4"]} {
				r.Header.Set(name, value)
			}
			resp, err := (&http.Client{Timeout: time.Minute}).Do(r)
			if err != nil {
				answer <- err.Error()
				return
			}
			_ = resp.Body.Close()
			answer <- resp.Status
		}()
		began := time.Now()
		token(t, 500) // after 1.5 s, while the lookup goes on to openstack.timeout, 10 s
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("no token after %v", took)
		}
		select {
		case got := <-answer:
			t.Errorf("Nova's metadata is not waited for: %s", got)
		default:
		}
		thaw()
		if got := <-answer; got != "200 OK" {
			t.Errorf("Nova's metadata, late: %s", got)
		}
	})
}

// What an instance writes comes to Nova by way of us, and is what it reads.
func TestPasswordSlotThroughUs(t *testing.T) {
	doors(t, "")
	demo := login(t, "demo")
	id := demo.create(t, "slotted")
	_, address := guest(t, id, metadataURL+"/latest/meta-data/local-ipv4")
	slot := func(at, request, body string) string {
		t.Helper()
		return agentSends(t, at, id, facts.Projects["workloads"], address, request, body)
	}
	if got := slot(agentsAddr, "POST /openstack/latest/password", "c2VjcmV0"); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Fatalf("%.300q", got)
	}
	awaittest.Within(t, time.Minute, "word of it", func() bool { // Nova remembers the instance for some seconds
		return strings.HasSuffix(slot(novaAddr, "GET /openstack/latest/password", ""), "c2VjcmV0")
	})
	if got := slot(agentsAddr, "GET /openstack/latest/password", ""); !strings.HasSuffix(got, "\n\nc2VjcmV0") {
		t.Errorf("%.300q", got)
	}
	// A second time it is Nova's conflict, in the same words.
	ours, bare := slot(agentsAddr, "POST /openstack/latest/password", "eA=="), slot(novaAddr, "POST /openstack/latest/password", "eA==")
	if ours != bare || !strings.HasPrefix(bare, "HTTP/1.1 409 ") {
		t.Errorf("with us\n%.300q\nwithout\n%.300q", ours, bare)
	}
}

// The agent's words: exactly one address, of the instance, and the project of its
// record; a link-local address by the MAC of its port.
func TestWhatTheAgentSays(t *testing.T) {
	a := doors(t, "")
	web := facts.Servers["web-1"]
	mac, err := net.ParseMAC(strings.TrimSpace(script(t, "./instance", "web-1", "cat", "/sys/class/net/eth0/address")))
	if err != nil {
		t.Fatal(err)
	}
	linkLocal := func(m net.HardwareAddr) string {
		return net.IP{0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]}.String()
	}
	other := append(net.HardwareAddr{}, mac...)
	other[5] ^= 1
	for _, tt := range []struct {
		name, project, from string
		status              int
		reason              string
	}{
		{"another project", facts.Projects["other"], web.FixedIPs["v4"], 403, "project_mismatch"},
		{"a neighbor's address", web.ProjectID, facts.Servers["db-1"].FixedIPs["v4"], 403, addressMismatch},
		{"two addresses", web.ProjectID, web.FixedIPs["v4"] + ", " + web.FixedIPs["v4"], 403, "agent_claim_invalid"},
		{"two headers", web.ProjectID, web.FixedIPs["v4"] + "\r\nX-Forwarded-For: " + web.FixedIPs["v4"], 403, "agent_claim_invalid"},
		{"a link-local address of another MAC", web.ProjectID, linkLocal(other), 403, addressMismatch},
		{"a link-local address of its MAC", web.ProjectID, linkLocal(mac), 200, granted},
		{"its IPv6 address", web.ProjectID, web.FixedIPs["v6"], 200, granted},
	} {
		var got, line string
		// Nova on a busy machine takes longer than the 1.5 s within which the door answers.
		awaittest.Within(t, time.Minute, tt.name, func() bool {
			line = a.auditOf(t, func() {
				got = agentAsks(t, agentsAddr, web.ID, tt.project, tt.from, "PUT /identity/token?role=agent")
			})
			return !strings.HasPrefix(got, "HTTP/1.1 500 ")
		})
		if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", tt.status)) || !strings.Contains(line, `"reason":"`+tt.reason+`"`) {
			t.Errorf("%s: %.200q, %s", tt.name, got, line)
		}
	}
}

// behindHAProxy runs HAProxy with a configuration, and us behind it for the paths
// that are ours.
func behindHAProxy(t *testing.T, file string) *authenticator {
	t.Helper()
	haproxy := exec.Command("haproxy", "-db", "-f", file)
	var said bytes.Buffer
	haproxy.Stdout, haproxy.Stderr = &said, &said
	if err := haproxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = haproxy.Process.Kill()
		_ = haproxy.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	return doorsBut(t, "agents: 127.0.0.1\n", "agents: 127.0.0.1\n  proxies: 127.0.0.1\n",
		"  nova: http://"+novaAddr+"\n", "", `metrics: {listen: ""}`, `metrics: {listen: "127.0.0.1:18776"}`)
}

// Through the path rule that we ship: Neutron's agent, HAProxy, and behind it Nova
// and us. Without us Nova is as it was.
func TestIdentityThroughHAProxy(t *testing.T) {
	data, err := os.ReadFile("../metadata-service/haproxy.cfg")
	if err != nil {
		t.Fatal(err)
	}
	// One machine, one of each, and no certificates: the lab's agent has none.
	text := string(data)
	for _, pair := range [][2]string{
		{" ssl crt /etc/haproxy/metadata.pem ca-file /etc/haproxy/agents-ca.pem verify required", ""},
		{"192.0.2.10:8775", "127.0.0.1:8777"}, {"src 192.0.2.21 192.0.2.22 192.0.2.23", "src 127.0.0.1"},
		{"    log /dev/log local0\n", ""},
		{"192.0.2.11:18778", agentsAddr}, {"192.0.2.12:18778", "127.0.0.1:1"},
		{"192.0.2.11:8775", novaAddr}, {"    server two 192.0.2.12:8775 check\n", ""},
		{"check port 18776", "check port 18776 inter 1s rise 1"},
	} {
		if !strings.Contains(text, pair[0]) {
			t.Fatalf("haproxy.cfg has no %q", pair[0])
		}
		text = strings.ReplaceAll(text, pair[0], pair[1])
	}
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a := behindHAProxy(t, file)
	agentAt(t, "8777")
	awaittest.Within(t, time.Minute, "identity", func() bool {
		status, _ := guest(t, "db-1", "-X", "PUT", putToken)
		return status == http.StatusOK
	})
	for _, name := range []string{"web-1", "twin-1"} {
		status, body := guest(t, name, "-X", "PUT", putToken+"&format=token")
		if status != http.StatusOK || payload(t, body)["sub"] != facts.Servers[name].ID {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	if status, body := guest(t, "web-1", metadataURL+"/latest/meta-data/instance-id"); status != http.StatusOK || !strings.HasPrefix(body, "i-") {
		t.Errorf("Nova's metadata: %d %s", status, body)
	}
	for _, path := range []string{"//identity/token", "/latest/%2e%2e/identity/token", "/%69dentity/token"} {
		status, body := guest(t, "db-1", "--path-as-is", "-X", "PUT", metadataURL+path+"?role=agent")
		if status == http.StatusOK && payload(t, tokenOf(t, body))["sub"] != facts.Servers["db-1"].ID {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	a.stop()
	if status, _ := guest(t, "web-1", metadataURL+"/latest/meta-data/instance-id"); status != http.StatusOK {
		t.Errorf("Nova's metadata without us: %d", status)
	}
	if status, _ := guest(t, "web-1", "-X", "PUT", putToken); status == http.StatusOK {
		t.Error("a token without us")
	}
}

// vault-login.sh in the instance, against a double that keeps what it is sent.
func TestVaultLoginInAnInstance(t *testing.T) {
	web := facts.Servers["web-1"]
	doorsBut(t, "listen: "+publicAddr, "listen: 127.0.0.1:8795")
	agentOfOurs(t)
	sent := make(chan string, 1)
	vault := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		_, _ = body.ReadFrom(r.Body)
		sent <- r.Method + " " + r.URL.Path + " " + body.String()
		fmt.Fprint(w, `{"auth":{"client_token":"hvs.of-the-instance"}}`)
	}))
	l, err := net.Listen("tcp", publicAddr) // 172.24.4.1:8791 leads there
	if err != nil {
		t.Fatal(err)
	}
	_ = vault.Listener.Close()
	vault.Listener = l
	vault.Start()
	t.Cleanup(vault.Close)
	out, err := scripted(t, "web-1", "sh", "-ec",
		`sh ../instance/token.sh -r agent -a https://vault.example.com -o "$1" && sh ../instance/vault-login.sh -a http://172.24.4.1:8791 -r web -t "$1"`,
		"sh", filepath.Join(t.TempDir(), "token"))
	if err != nil || string(out) != "hvs.of-the-instance\n" {
		t.Fatalf("%q, %v\n%s", out, err, stderrOf(err))
	}
	got := <-sent
	rest, ok := strings.CutPrefix(got, `POST /v1/auth/jwt/login {"role":"web","jwt":"`)
	if !ok || payload(t, strings.TrimSuffix(rest, `"}`))["sub"] != web.ID {
		t.Errorf("Vault is sent %s", got)
	}
}
