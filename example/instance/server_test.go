package instance_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
)

const (
	program  = "openstack-nova-authenticator"
	instance = "11111111-aaaa-4aaa-8aaa-000000000001"
	project  = "7e562c1a85814230b973a83db9534b02"
	novaUser = "0f4d3c2b1a0f4d3c2b1a0f4d3c2b1a0f"
	secret   = "metadata-secret"
)

// server is the program itself with a simulated cloud, and a metadata service that
// asks it as Nova and Neutron's agent do.
type server struct {
	url, ca  string
	metadata string
	process  *os.Process
	ended    chan struct{}
}

func newServer(t *testing.T) *server {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	var b [2]byte
	rand.Read(b[:])
	host := fmt.Sprintf("127.%d.%d.11", 1+int(b[0])%250, 1+int(b[1])%250)
	dir := t.TempDir()
	bin := filepath.Join(dir, program)
	for _, command := range [][]string{{"go", "build", "-o", bin, "../../cmd/" + program}, {"sh", "../try-out.sh", dir, host}} {
		if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, out)
		}
	}

	cloud, err := simulator.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cloud.Close() })
	cloud.AddAccount(simulator.Account{Name: "authenticator", Password: "secret-word", ProjectName: "service", Roles: []string{"reader", "instance_reader", "service"}})
	cloud.AddAccount(simulator.Account{Name: "nova", ID: novaUser, Password: "nova-word", ProjectName: "service", Roles: []string{"service"}})
	cloud.SetServer(simulator.Server{
		ID: instance, Name: "web-1", ProjectID: project, UserID: "821a2eaac0724c069aa6a44bd7b91935", Created: time.Now(), Launched: time.Now(),
		Addresses: []simulator.Address{{Network: "private", Addr: "127.0.0.1"}}, // from where curl comes
	})

	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, fmt.Appendf(nil, `listen: %[1]s:18775
tls: {certFile: server.pem, keyFile: server-key.pem}
auth: {signingKeyFile: signing-key.pem, tokenIssuer: "https://%[1]s:18775"}
state: {type: memory}
metrics: {listen: ""}
throttle: {perAddress: {rate: 1000, burst: 1000}, perInstance: {rate: 1000, burst: 1000}}
vendordata: {users: [%[2]s]}
metadataService: {listen: "%[1]s:18778", agents: 127.0.0.1, sharedSecretFile: secret, agentsLimitHeaders: true}
roles:
  agent: {projectID: %[3]s, proof: metadataService, anyAudience: true}
  papers: {projectID: %[3]s, proof: document}
  near: {projectID: %[3]s}
`, host, novaUser, project), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-c", file)
	cmd.Env = append(os.Environ(), "OS_AUTH_URL="+cloud.AuthURL(), "OS_USERNAME=authenticator", "OS_PASSWORD=secret-word", "OS_PROJECT_NAME=service",
		"OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_DOMAIN_NAME=Default", "OS_CLOUD=", "NO_PROXY=*")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &server{url: "https://" + host + ":18775", ca: filepath.Join(dir, "server.pem"), process: cmd.Process, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	client := s.client(t)
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if resp, err := client.Get(s.url + "/readyz/auth"); err == nil {
			_ = resp.Body.Close()
			break
		}
		select {
		case <-deadline.C:
			t.Fatal("it does not start")
		case <-s.ended:
			t.Fatal("it ended")
		case <-tick.C:
		}
	}
	metadata := httptest.NewServer(&metadataService{client, s.url, "http://" + host + ":18778", cloud.AuthURL()})
	t.Cleanup(metadata.Close)
	s.metadata = metadata.URL
	return s
}

func (s *server) kill() {
	_ = s.process.Kill()
	<-s.ended
}

func (s *server) client(t *testing.T) *http.Client {
	t.Helper()
	text, err := os.ReadFile(s.ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Timeout: 20 * time.Second, Transport: transport}
}

// metadataService is 169.254.169.254.
type metadataService struct {
	client                   *http.Client
	server, agents, keystone string
}

func (m *metadataService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var request *http.Request
	var err error
	switch {
	case strings.HasPrefix(r.URL.Path, "/identity/"): // the agent
		request, err = http.NewRequestWithContext(r.Context(), r.Method, m.agents+r.RequestURI, nil)
		if err == nil {
			mac := hmac.New(sha256.New, []byte(secret))
			mac.Write([]byte(instance))
			request.Header = http.Header{
				"X-Forwarded-For": {"127.0.0.1"}, "X-Instance-Id": {instance}, "X-Tenant-Id": {project},
				"X-Instance-Id-Signature": {hex.EncodeToString(mac.Sum(nil))},
			}
		}
	case r.URL.Path == "/openstack/latest/vendor_data2.json": // Nova
		request, err = http.NewRequestWithContext(r.Context(), http.MethodPost, m.server+"/vendordata",
			strings.NewReader(fmt.Sprintf(`{"instance-id":%q,"project-id":%q}`, instance, project)))
		if err == nil {
			request.Header = http.Header{"Content-Type": {"application/json"}, "X-Auth-Token": {m.novasToken()}}
		}
	case r.URL.Path == "/openstack/latest/meta_data.json":
		fmt.Fprintf(w, `{"random_seed": "x", "uuid": "%s", "name": "web-1"}`, instance)
		return
	default:
		http.NotFound(w, r)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	resp, err := m.client.Do(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if request.Method == http.MethodPost {
		body = fmt.Appendf(nil, `{"static": {"document": "x"}, "instance_identity": %s, "other": {"document": "y"}}`, bytes.TrimSpace(body))
	}
	if strings.HasPrefix(r.URL.Path, "/identity/") && (!slices.Contains([]int{200, 400, 403, 404, 409, 500}, resp.StatusCode) || len(body) == 0 || resp.ContentLength < 0) {
		w.WriteHeader(http.StatusBadGateway) // as Neutron 2025.1 does
		return
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(body)
}

func (m *metadataService) novasToken() string {
	resp, err := m.client.Post(m.keystone+"/auth/tokens", "application/json", strings.NewReader(`{"auth":{"identity":{"methods":["password"],"password":{"user":{`+
		`"name":"nova","domain":{"id":"default"},"password":"nova-word"}}},"scope":{"project":{"name":"service","domain":{"id":"default"}}}}}`))
	if err != nil {
		return err.Error()
	}
	_ = resp.Body.Close()
	return resp.Header.Get("X-Subject-Token")
}

// Each way to a token, at the program itself.
func TestTokenOfTheServer(t *testing.T) {
	s := newServer(t)
	env := []string{"METADATA_URL=" + s.metadata}
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		aud    string
	}{
		{"the metadata service", []string{"-r", "agent", "-a", "https://vault.example.com"}, 0, "https://vault.example.com"},
		{"the document", []string{"-r", "papers", "-w", "document"}, 0, s.url + "/roles/papers"},
		{"the address", []string{"-r", "near", "-w", "address"}, 0, s.url + "/roles/near"},
		{"refused by the metadata service, then the document", []string{"-r", "papers"}, 0, s.url + "/roles/papers"},
		{"refused by two, then the address", []string{"-r", "near"}, 0, s.url + "/roles/near"},
		{"no such role", []string{"-r", "none"}, 1, ""},
		{"a proof that the role does not take", []string{"-r", "agent", "-w", "address"}, 1, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, out, said := run(t, env, "token.sh", append(tt.args, "-u", s.url, "-c", s.ca)...)
			if status != tt.status {
				t.Fatalf("status %d, want %d: %s", status, tt.status, said)
			}
			if status != 0 {
				return
			}
			var claims struct {
				Sub string
				Aud any // one, or a list
			}
			parts := strings.Split(strings.TrimSpace(out), ".")
			text, err := base64.RawURLEncoding.DecodeString(parts[min(1, len(parts)-1)])
			if err != nil || json.Unmarshal(text, &claims) != nil || claims.Sub != instance || strings.Trim(fmt.Sprint(claims.Aud), "[]") != tt.aud {
				t.Errorf("%s, %v: %+v, want %s", out, err, claims, tt.aud)
			}
		})
	}
	t.Run("a CA that is not its", func(t *testing.T) {
		status, _, _ := run(t, env, "token.sh", "-r", "near", "-w", "address", "-u", s.url)
		if status != 75 {
			t.Errorf("status %d", status)
		}
	})
	t.Run("it is gone", func(t *testing.T) {
		s.kill()
		if status, out, said := run(t, env, "token.sh", "-r", "near", "-u", s.url, "-c", s.ca); status != 75 || out != "" {
			t.Errorf("status %d, %s, %s", status, out, said)
		}
	})
}

// The scripts run in any image: nothing that a plain shell lacks.
func TestShellcheck(t *testing.T) {
	tool, err := exec.LookPath("shellcheck")
	if err != nil {
		t.Skip("shellcheck is not installed")
	}
	scripts, err := filepath.Glob("*.sh")
	if err != nil || len(scripts) != 4 {
		t.Fatalf("%v, %v", scripts, err)
	}
	if out, err := exec.CommandContext(t.Context(), tool, append([]string{"--shell=sh", "--enable=check-unassigned-uppercase"}, scripts...)...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
