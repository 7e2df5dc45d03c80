package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config/configtest"
)

// spilled is a configuration with secrets in wrong places. Tests look for them in all output.
type spilled struct {
	dir, file string
	metrics   string // URL
	listen    string // URL
	base      configtest.Values
}

func newSpilled(t *testing.T) *spilled {
	t.Helper()
	variables := credentialVariables(t)
	cloud, err := scriptCloud()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cloud.Close() })
	s := &spilled{dir: t.TempDir()}
	s.file = filepath.Join(s.dir, "config.yml")
	for _, name := range variables {
		t.Setenv(name, "")
	}
	for name, value := range map[string]string{
		"RUNTIME_DIRECTORY": "", "STATE_DIRECTORY": "", "HOME": s.dir, "XDG_CONFIG_HOME": "",
	} {
		t.Setenv(name, value)
	}
	for name, value := range account(cloud.AuthURL()) {
		t.Setenv(name, value)
	}
	t.Chdir(s.dir)
	if err := scriptKey("key.pem"); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"encryption.key": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n", "metadata.secret": "shared-word\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ports := freePorts(t, 2)
	s.listen, s.metrics = "http://127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1]
	s.base = configtest.Values{
		"listen": "127.0.0.1:" + ports[0], "metrics.listen": "127.0.0.1:" + ports[1], "admin.socket": "./admin.sock",
		"auth.tokenIssuer": "https://id.example.com", "roles.web.projectID": "a", "auth.signingKeyFile": "key.pem",
		"metadataService.listen": "127.0.0.1:0", "metadataService.agents": "192.0.2.1", "metadataService.sharedSecretFile": "metadata.secret",
		"vendordata.users": scriptNova, "vendordata.listen": "127.0.0.1:0", "log.level": "debug",
	}
	return s
}

// account returns the variables of an openrc file.
func account(authURL string) map[string]string {
	return map[string]string{
		"OS_AUTH_URL": authURL, "OS_USERNAME": "validator", "OS_PASSWORD": "secret-word",
		"OS_PROJECT_NAME": "service", "OS_USER_DOMAIN_NAME": "Default", "OS_PROJECT_DOMAIN_NAME": "Default",
	}
}

// credentialKeys returns the keys of clouds.yaml and the OS_* variables in the source of
// pkg/clouds.
func credentialKeys(t *testing.T) (keys, variables []string) {
	t.Helper()
	files, err := filepath.Glob("../../pkg/clouds/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range regexp.MustCompile(`\.(?:top|inAuth|option|login|scope|get|endpoint)\(("[a-z_]+"(?:, "?[a-z_]+"?)*)\)`).FindAllStringSubmatch(string(text), -1) {
			for _, name := range regexp.MustCompile(`"[a-z_]+"`).FindAllString(call[1], -1) {
				keys = append(keys, strings.Trim(name, `"`))
			}
		}
		for _, name := range regexp.MustCompile(`"OS_[A-Z_]+"`).FindAllString(string(text), -1) {
			variables = append(variables, strings.Trim(name, `"`))
		}
	}
	keys = append(keys, "interface", "endpoint_type", "compute_interface", "compute_endpoint_override", "identity_endpoint_override", "region_name")
	slices.Sort(keys)
	slices.Sort(variables)
	return slices.Compact(keys), slices.Compact(variables)
}

func credentialVariables(t *testing.T) []string {
	t.Helper()
	keys, found := credentialKeys(t)
	for _, key := range keys {
		found = append(found, "OS_"+strings.ToUpper(key))
	}
	slices.Sort(found)
	if found = slices.Compact(found); len(found) < 40 {
		t.Fatalf("%d variables are too few: %v", len(found), found)
	}
	return found
}

func (s *spilled) write(t *testing.T, v configtest.Values) {
	t.Helper()
	if err := os.WriteFile(s.file, []byte(v.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// command runs the program to its end.
func (s *spilled) command(t *testing.T, args ...string) (status int, said string) {
	t.Helper()
	var out lockedBuffer
	status = run(t.Context(), append([]string{"-c", s.file}, args...), &out, &out)
	return status, out.String()
}

func (s *spilled) checks(t *testing.T, what string, secret configtest.Secret) {
	t.Helper()
	commands := [][]string{{"check", "--online"}}
	if len(secret.Name)%3 == 0 {
		commands = append(commands, []string{"check", "--online", "--json"}) // with the same content
	}
	for _, args := range commands {
		_, said := s.command(t, args...)
		if part := secret.Seen(said); part != "" {
			t.Errorf("%s as %s is seen by %v (%s):\n%s", secret.Name, what, args, part, said)
		}
	}
}

// serve runs the server, and returns its output and its answers to many requests.
func (s *spilled) serve(t *testing.T) string {
	t.Helper()
	var out lockedBuffer
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, []string{"-c", s.file}, &out, &out) }()
	said := func(resp *http.Response, err error) bool {
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		fmt.Fprintf(&out, "%s %v\n%s\n", resp.Status, resp.Header, body)
		return true
	}
	client := &http.Client{Timeout: 30 * time.Second}
	for deadline := time.Now().Add(time.Minute); ; {
		if said(client.Get(s.metrics + "/readyz")) {
			break
		}
		select {
		case <-ended:
			return out.String()
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server does not start:\n%s", out.String())
		}
	}
	said(client.PostForm(s.listen+"/auth", url.Values{"instance_id": {scriptWeb}, "role": {"web"}}))
	said(client.Post(s.listen+"/vendordata", "application/json", strings.NewReader("{}")))
	for _, page := range []string{s.metrics + "/readyz/auth", s.metrics + "/metrics", s.listen + "/jwks.json", s.listen + "/.well-known/openid-configuration"} {
		said(client.Get(page))
	}
	for _, args := range [][]string{{"keys", "list"}, {"instances", "list", "--json"}, {"instances", "deny", scriptWeb}, {"state", "save", "copy.db"}, {"keys", "rotate"}} {
		_, text := s.command(t, args...)
		out.WriteString(text)
	}
	client.CloseIdleConnections()
	cancel()
	<-ended
	return out.String()
}

// check and serve do not print a secret in place of any credential.
func TestNoCredentialIsPrinted(t *testing.T) {
	variables := credentialVariables(t)
	s := newSpilled(t)
	s.write(t, s.base)
	if status, said := s.command(t, "check", "--online"); status != 0 {
		t.Fatal(said)
	}
	served := 0
	for i, name := range variables {
		good := os.Getenv(name)
		for n, secret := range secrets() {
			if strings.Contains(secret.Value, "\x00") {
				continue // not possible in a variable
			}
			t.Setenv(name, secret.Value)
			s.checks(t, name, secret)
			if n == i%6 || name == "OS_AUTH_URL" && n%4 == 0 {
				served++
				if said := s.serve(t); secret.Seen(said) != "" {
					t.Errorf("%s as %s is seen by serve (%s):\n%s", secret.Name, name, secret.Seen(said), said)
				}
			}
		}
		t.Setenv(name, good)
	}
	t.Logf("served %d times", served)
}

// An error of a proxy does not contain its password.
func TestNoPasswordOfAProxyIsPrinted(t *testing.T) {
	startsProcesses(t)
	s := newSpilled(t)
	s.write(t, s.base)
	for _, proxy := range []string{"http://me:tr0Ub4dor@127.0.0.1:1", "me:tr0Ub4dor@127.0.0.1:1", "https://tr0Ub4dor@127.0.0.1:1", "socks5://me:tr0Ub4dor@127.0.0.1:1"} {
		cmd := exec.CommandContext(t.Context(), program, "-c", s.file, "check", "--online")
		cmd.Env = append(os.Environ(), "HTTP_PROXY="+proxy, "http_proxy=", "NO_PROXY=", "no_proxy=", "OS_AUTH_URL=http://id.example.com/v3")
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "error: openstack: ") || strings.Contains(string(out), "tr0Ub4dor") {
			t.Errorf("with the proxy %s: %v:\n%s", proxy, err, out)
		}
	}
}

// check does not print a secret in place of any value of clouds.yaml and secure.yaml.
func TestNoSecretOfCloudsFilesIsPrinted(t *testing.T) {
	known, _ := credentialKeys(t)
	s := newSpilled(t)
	s.write(t, s.base)
	good := configtest.Values{
		"clouds.mine.auth.auth_url": os.Getenv("OS_AUTH_URL"), "clouds.mine.auth.username": "validator", "clouds.mine.auth.password": "secret-word",
		"clouds.mine.auth.project_name": "service",
	}
	for name := range account("") {
		t.Setenv(name, "")
	}
	t.Setenv("OS_CLOUD", "mine")
	keys := []string{"clouds", "clouds.mine", "clouds.mine.auth", "clouds.mine.profile.x", "clouds.mine.unknown_token", "clouds.mine.auth.unknown"}
	for _, key := range known {
		keys = append(keys, "clouds.mine."+key, "clouds.mine.auth."+key)
	}
	slices.Sort(keys)
	if keys = slices.Compact(keys); len(keys) < 60 {
		t.Fatalf("%d keys are too few: %v", len(keys), keys)
	}
	write := func(file string, v configtest.Values) {
		if err := os.WriteFile(file, []byte(v.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("clouds.yaml", good)
	if status, said := s.command(t, "check", "--online"); status != 0 {
		t.Fatal(said)
	}
	for _, secret := range secrets() {
		for _, key := range keys {
			write("clouds.yaml", good.With(configtest.Values{key: secret.YAML}))
			s.checks(t, key+" of clouds.yaml", secret)
		}
		write("clouds.yaml", good)
		for _, key := range []string{"clouds", "clouds.mine.auth", "clouds.mine.auth.password", "clouds.mine.auth.auth_url", "clouds.mine.verify", "clouds.mine.cacert", "x"} {
			write("secure.yaml", configtest.Values{key: secret.YAML})
			s.checks(t, key+" of secure.yaml", secret)
		}
		if err := os.Remove("secure.yaml"); err != nil {
			t.Fatal(err)
		}
	}
}

// check and serve do not print a secret in place of any value of the configuration.
func TestNoSecretOfTheConfigurationIsPrinted(t *testing.T) {
	s := newSpilled(t)
	if err := os.WriteFile("redis.password", []byte("word\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	redis := s.base.With(configtest.Values{
		"state.type": "redis", "state.redis.addresses": "127.0.0.1:1", "state.redis.username": "ona", "state.redis.passwordFile": "redis.password",
		"state.redis.sentinel": "primary", "keys.encryptionKeyFile": "encryption.key",
	})
	for name, base := range map[string]configtest.Values{"memory": s.base, "a Redis that is away": redis} {
		for n, secret := range secrets() {
			if name != "memory" && n%3 > 0 {
				continue // few keys are only for Redis
			}
			good := configtest.Values{}
			for _, key := range configtest.Keys() {
				s.write(t, base.With(configtest.Values{key: secret.YAML}))
				status, said := s.command(t, "check")
				if part := secret.Seen(said); part != "" {
					t.Errorf("%s at %s is seen by check (%s):\n%s", secret.Name, key, part, said)
				}
				if status == 0 {
					s.checks(t, key, secret)
					good[key] = secret.YAML
				}
			}
			// The server runs with all valid ones. An audience cannot be of a role and of
			// vendordata, and a region must be in the catalog.
			delete(good, "vendordata.audience")
			delete(good, "openstack.region")
			s.write(t, base.With(good))
			said := s.serve(t)
			if len(good) > 0 && !strings.Contains(said, "nova_authenticator_build_info") {
				t.Errorf("%s at %v, %s: the server did not serve:\n%s", secret.Name, slices.Sorted(maps.Keys(good)), name, said)
			}
			if secret.Seen(said) != "" {
				t.Errorf("%s at %v, %s, is seen by serve (%s):\n%s", secret.Name, slices.Sorted(maps.Keys(good)), name, secret.Seen(said), said)
			}
		}
	}
}

// secrets are all, or one with -short.
func secrets() []configtest.Secret {
	all := configtest.Secrets()
	if testing.Short() {
		return all[:1]
	}
	return all
}

// lockedBuffer is a buffer for several goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) WriteString(s string) { _, _ = b.Write([]byte(s)) }

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
