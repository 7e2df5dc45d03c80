// Package keycloak_test exchanges our tokens at a real Keycloak, for those of a
// client and for those of a user.
package keycloak_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/example/consumers/consumertest"
)

const assertion = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

func TestKeycloak(t *testing.T) {
	if os.Getuid() != 0 {
		for _, tool := range []string{"java", "mvn", "unzip"} {
			if _, err := exec.LookPath(tool); err != nil {
				t.Skipf("SKIPPED: %s is not installed", tool)
			}
		}
	}
	port := consumertest.FreePort(t)
	realm := "http://127.0.0.1:" + port + "/realms/instances"
	i := consumertest.Start(t, "", `  web: {projectID: `+consumertest.Project+`, audience: [`+realm+`]}
  elsewhere: {allowAnyInstance: true, audience: [https://elsewhere.example.com]}
`)
	k := start(t, port, i)

	k.admin(t, "", map[string]any{"realm": "instances", "enabled": true})
	provider := consumertest.ReadJSON(t, "identity-provider.json")
	config := provider["config"].(map[string]any)
	for name, value := range config {
		config[name] = strings.ReplaceAll(value.(string), "https://id.example.com", i.URL)
	}
	k.admin(t, "/instances/identity-provider/instances", provider)
	k.admin(t, "/instances/clients", consumertest.ReadJSON(t, "client-of-an-instance.json"))
	grant := consumertest.ReadJSON(t, "client-of-the-grant.json")
	k.admin(t, "/instances/clients", grant)
	user := k.admin(t, "/instances/users", map[string]any{"username": "web-1", "enabled": true, "firstName": "web", "lastName": "1", "email": "web-1@example.com"})
	k.admin(t, user+"/federated-identity/nova-authenticator",
		map[string]any{"identityProvider": "nova-authenticator", "userId": consumertest.Instance, "userName": "web-1"})

	for name, form := range map[string]func(token string) url.Values{
		"federated client authentication": func(token string) url.Values {
			return url.Values{"grant_type": {"client_credentials"}, "client_assertion_type": {assertion}, "client_assertion": {token}}
		},
		"JWT authorization grant": func(token string) url.Values {
			return url.Values{
				"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {token},
				"client_id": {grant["clientId"].(string)}, "client_secret": {grant["secret"].(string)},
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			good := i.Token(t, "web", "")
			status, body := k.post(t, realm+"/protocol/openid-connect/token", form(good))
			var granted struct {
				AccessToken string `json:"access_token"`
			}
			if status != http.StatusOK || json.Unmarshal(body, &granted) != nil || consumertest.Claims(t, granted.AccessToken)["iss"] != realm {
				t.Fatalf("a good token: %d %s", status, body)
			}
			t.Logf("Keycloak's token: %v", consumertest.Claims(t, granted.AccessToken))
			if status, body := k.post(t, realm+"/protocol/openid-connect/token", form(good)); status == http.StatusOK {
				t.Errorf("a token is good twice: %s", body)
			}
			for bad := range i.Bad(t, good) {
				// Of a fresh one each: a jti that was seen would be refused for that.
				token := i.Bad(t, i.Token(t, "web", ""))[bad]
				if status, body := k.post(t, realm+"/protocol/openid-connect/token", form(token)); status/100 != 4 {
					t.Errorf("%s: %d %s", bad, status, body)
				}
			}
			if status, body := k.post(t, realm+"/protocol/openid-connect/token", form(i.Token(t, "elsewhere", ""))); status/100 != 4 {
				t.Errorf("another role's token: %d %s", status, body)
			}
			for name, edit := range map[string]func(jwt.MapClaims){
				"made six minutes ago, if good for four more": func(c jwt.MapClaims) {
					c["iat"], c["nbf"], c["exp"] = time.Now().Add(-6*time.Minute).Unix(), time.Now().Add(-6*time.Minute).Unix(), time.Now().Add(4*time.Minute).Unix()
				},
				"with two audiences": func(c jwt.MapClaims) { c["aud"] = []string{realm, "https://elsewhere.example.com"} },
				"without an ID":      func(c jwt.MapClaims) { delete(c, "jti") },
			} {
				if status, body := k.post(t, realm+"/protocol/openid-connect/token", form(i.Forge(t, i.Token(t, "web", ""), edit))); status/100 != 4 {
					t.Errorf("a token %s: %d %s", name, status, body)
				}
			}
			forged := i.Forge(t, i.Token(t, "web", ""), func(c jwt.MapClaims) { c["sub"] = "22222222-aaaa-4aaa-8aaa-000000000002" })
			if status, body := k.post(t, realm+"/protocol/openid-connect/token", form(forged)); status/100 != 4 {
				t.Errorf("an instance that Keycloak does not know: %d %s", status, body)
			}
		})
	}
}

// keycloak is a running one.
type keycloak struct {
	url   string
	token string
}

func start(t *testing.T, port string, i *consumertest.Issuer) *keycloak {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	out, err := consumertest.Run(t, 8*time.Minute, "", nil, "./install", filepath.Join(cache, "openstack-nova-authenticator"))
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err != nil {
		t.Fatalf("install: %v\n%s", err, out)
	}
	home := lines[len(lines)-1]
	t.Log(filepath.Base(home))

	// Its build and its database are in its folder: each test has one of its own.
	own := filepath.Join(t.TempDir(), "keycloak")
	if out, err := consumertest.Run(t, time.Minute, "", nil, "cp", "-r", home, own); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	var log bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(own, "bin/kc.sh"), "start-dev", "--http-host=127.0.0.1", "--http-port="+port,
		"--http-management-port="+consumertest.FreePort(t), "--truststore-paths="+i.CAFile)
	cmd.Env = append(os.Environ(), "KC_BOOTSTRAP_ADMIN_USERNAME=admin", "KC_BOOTSTRAP_ADMIN_PASSWORD=admin", "JAVA_OPTS_APPEND=-Xmx1g")
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a script and what it starts
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			text := log.String()
			t.Logf("Keycloak said\n%s", text[max(0, len(text)-4000):])
		}
	})
	k := &keycloak{url: "http://127.0.0.1:" + port}
	consumertest.AwaitFor(t, 4*time.Minute, "Keycloak", func() bool {
		status, body := k.try(t, k.url+"/realms/master/protocol/openid-connect/token",
			url.Values{"grant_type": {"password"}, "client_id": {"admin-cli"}, "username": {"admin"}, "password": {"admin"}})
		var granted struct {
			AccessToken string `json:"access_token"`
		}
		if status == http.StatusOK && json.Unmarshal(body, &granted) == nil {
			k.token = granted.AccessToken
		}
		return k.token != ""
	})
	return k
}

// admin makes something, and gives its path below /admin/realms.
func (k *keycloak) admin(t *testing.T, path string, what any) string {
	t.Helper()
	body, err := json.Marshal(what)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, k.url+"/admin/realms"+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+k.token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if resp.StatusCode/100 != 2 {
		t.Fatalf("POST %s: %s %s", path, resp.Status, said)
	}
	return strings.TrimPrefix(resp.Header.Get("Location"), k.url+"/admin/realms")
}

func (k *keycloak) post(t *testing.T, target string, form url.Values) (status int, body []byte) {
	t.Helper()
	status, body = k.try(t, target, form)
	if status == 0 {
		t.Fatalf("%s does not answer", target)
	}
	return status, body
}

// try returns the status, 0 without an answer.
func (k *keycloak) try(t *testing.T, target string, form url.Values) (status int, body []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, target, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil
	}
	defer func() { _ = resp.Body.Close() }()
	body, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, nil
	}
	return resp.StatusCode, body
}
