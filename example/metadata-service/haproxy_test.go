package metadataservice_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen/listentest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
)

const (
	program  = "openstack-nova-authenticator"
	instance = "11111111-aaaa-4aaa-8aaa-000000000001"
	project  = "7e562c1a85814230b973a83db9534b02"
	secret   = "metadata-secret"
	guest    = "10.20.0.11"
)

// site is the example on addresses of 127.0.0.0/8.
type site struct {
	dir string
	net string // in place of 192.0.2.
	ca  *listentest.Certificate

	address string // where agents go, after net

	cloud         *simulator.Cloud
	authenticator *exec.Cmd
	ended         chan struct{}
}

func needTools(t *testing.T, tools ...string) {
	t.Helper()
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is not installed", tool)
			}
			t.Skipf("%s is not installed", tool)
		}
	}
}

// newSite starts nova-metadata's double and an authenticator with one of the files
// as they are, but for addresses and paths.
func newSite(t *testing.T, config string, pairs ...string) *site {
	t.Helper()
	var b [2]byte
	rand.Read(b[:])
	s := &site{dir: t.TempDir(), net: fmt.Sprintf("127.%d.%d.", 1+int(b[0])%250, 1+int(b[1])%250), address: "11:18778"}
	s.ca = listentest.NewCA(t)
	if err := os.WriteFile(filepath.Join(s.dir, "agents-ca.pem"), s.ca.CertPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	s.certificate(t, listentest.NewCA(t), "other")
	s.certificate(t, s.ca, "metadata")
	s.certificate(t, s.ca, "agent")

	l, err := net.Listen("tcp", s.net+"11:8775")
	if err != nil {
		t.Fatal(err)
	}
	nova := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Nova", "yes")
		if strings.HasPrefix(r.URL.Path, "/identity/") {
			w.WriteHeader(http.StatusNotFound)
		}
		fmt.Fprintf(w, "nova: %s %s for %s at %s.", r.Method, r.RequestURI, r.Header.Get("X-Instance-Id"), r.Header.Values("X-Forwarded-For"))
	}))
	nova.Listener = l
	nova.Start()
	t.Cleanup(nova.Close)

	s.startAuthenticator(t, s.write(t, config, pairs...))
	return s
}

// startHAProxy starts it with a file, and has agents go there.
func (s *site) startHAProxy(t *testing.T, file, address string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "haproxy", "-c", "-dW", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("haproxy -c: %v\n%s", err, out)
	}
	s.start(t, exec.Command("haproxy", "-db", "-f", file))
	s.address = address
	awaittest.True(t, "HAProxy and Nova", func() bool { return s.try("/") == http.StatusOK })
}

// write copies a file of the example with what differs here.
func (s *site) write(t *testing.T, name string, pairs ...string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.dir, name)
	changed := strings.NewReplacer(append(pairs, "192.0.2.", s.net)...).Replace(string(text))
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (s *site) startAuthenticator(t *testing.T, file string) {
	t.Helper()
	cloud, err := simulator.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cloud.Close() })
	s.cloud = cloud
	cloud.AddAccount(simulator.Account{Name: "authenticator", Password: "secret-word", ProjectName: "service", Roles: []string{"reader", "instance_reader"}})
	cloud.SetServer(simulator.Server{
		ID: instance, Name: "web-1", ProjectID: project, UserID: "821a2eaac0724c069aa6a44bd7b91935", Created: time.Now(), Launched: time.Now(),
		Addresses: []simulator.Address{{Network: "private", Addr: guest}},
	})
	bin := filepath.Join(s.dir, program)
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../../cmd/"+program).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "metadata.secret"), []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte("metrics:")) {
		text = fmt.Appendf(text, "metrics: {listen: \"%s11:18776\"}\n", s.net)
	}
	// On a busy machine the 500 lookups of a hypervisor's boots take more than the default of 3s.
	text = fmt.Appendf(text, "listen: %[1]s11:18775\nauth: {tokenIssuer: https://id.example.com}\nstate: {type: memory}\nopenstack: {timeout: 30s}\n"+
		"roles:\n  web: {projectID: %[2]s, proof: metadataService, anyAudience: true}\n", s.net, project)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-c", file)
	cmd.Env = append(os.Environ(), "OS_AUTH_URL="+cloud.AuthURL(), "OS_USERNAME=authenticator", "OS_PASSWORD=secret-word", "OS_PROJECT_NAME=service",
		"OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_DOMAIN_NAME=Default", "OS_CLOUD=", "NO_PROXY=*")
	s.authenticator, s.ended = cmd, s.start(t, cmd)
	awaittest.True(t, "the authenticator", func() bool {
		resp, err := http.Get("http://" + s.net + "11:18776/readyz/auth")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// start runs a process until the test ends.
func (s *site) start(t *testing.T, cmd *exec.Cmd) (ended chan struct{}) {
	t.Helper()
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("%s said\n%s", cmd.Path, said.String())
		}
	})
	return ended
}

// certificate writes NAME.pem, a certificate with its key, and NAME-key.pem, the
// key alone.
func (s *site) certificate(t *testing.T, ca *listentest.Certificate, name string) {
	t.Helper()
	cert := ca.Issue(t, name, func(c *x509.Certificate) {
		c.IPAddresses = []net.IP{net.ParseIP(s.net + "10"), net.ParseIP(s.net + "11")}
	})
	file := filepath.Join(s.dir, name)
	cert.Write(t, file+".pem", file+"-key.pem")
	cert.Write(t, file+".pem", file+".pem")
}

// dial connects as the agent at an address does; without a certificate if file is "".
func (s *site) dial(ctx context.Context, from, file string) (net.Conn, error) {
	config := &tls.Config{RootCAs: s.ca.Pool()}
	if file != "" {
		cert, err := tls.LoadX509KeyPair(filepath.Join(s.dir, file), filepath.Join(s.dir, file))
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{cert}
	}
	d := &tls.Dialer{Config: config, NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(s.net + from)}}}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return d.DialContext(ctx, "tcp", s.net+s.address)
}

// ask sends a request line with the headers that the agent adds.
func (s *site) ask(ctx context.Context, from, file, request string) (string, error) {
	return s.askFor(ctx, from, file, request, instance)
}

// askFor does so for an instance.
func (s *site) askFor(ctx context.Context, from, file, request, instance string) (string, error) {
	c, err := s.dial(ctx, from, file)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(instance))
	fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Forwarded-For: %s\r\nX-Instance-ID: %s\r\nX-Tenant-ID: %s\r\nX-Instance-ID-Signature: %s\r\nConnection: close\r\n\r\n",
		request, guest, instance, project, hex.EncodeToString(mac.Sum(nil)))
	answer, err := io.ReadAll(c)
	return string(answer), err
}

func (s *site) try(path string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	answer, err := s.ask(ctx, "21", "agent.pem", "GET "+path)
	var status int
	if err == nil {
		_, _ = fmt.Sscanf(answer, "HTTP/1.1 %d", &status)
	}
	return status
}

func (s *site) must(t *testing.T, request string) string {
	t.Helper()
	answer, err := s.ask(t.Context(), "21", "agent.pem", request)
	if err != nil {
		t.Fatalf("%s: %v", request, err)
	}
	return answer
}

const put = "PUT /identity/token?role=web&audience=https://vault.example.com"

// Every file of the example, and HAProxy as it is in Kolla-Ansible, with other
// defaults.
func TestMetadataService(t *testing.T) {
	needTools(t, "haproxy", "sh", "sed")
	byHAProxy := []string{"proxies: [192.0.2.10]", "proxies: [127.0.0.1]"} // from where HAProxy speaks on the loopback
	withNova := append([]string{"# nova: ", "nova: "}, byHAProxy...)
	for _, tt := range []struct {
		name       string
		site       func(t *testing.T) *site
		standalone bool // Nova does not need us
	}{
		{"haproxy.cfg", func(t *testing.T) *site {
			s := newSite(t, "config.yml", byHAProxy...)
			s.startHAProxy(t, s.write(t, "haproxy.cfg", "/etc/haproxy/", s.dir+"/", "/dev/log", "stderr"), "10:8775")
			return s
		}, true},
		{"haproxy-backup.cfg", func(t *testing.T) *site {
			s := newSite(t, "config.yml", withNova...)
			s.startHAProxy(t, s.write(t, "haproxy-backup.cfg", "/etc/haproxy/", s.dir+"/", "/dev/log", "stderr"), "10:8775")
			return s
		}, true},
		{"kolla.md", func(t *testing.T) *site {
			s := newSite(t, "config.yml", byHAProxy...)
			s.startHAProxy(t, s.kolla(t), "10:18779")
			return s
		}, true},
		{"direct.yml", func(t *testing.T) *site { return newSite(t, "direct.yml") }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.site(t)
			awaittest.True(t, "the authenticator", func() bool { return strings.HasPrefix(s.must(t, put), "HTTP/1.1 200 ") })
			s.testPaths(t)
			// At the address of no agent there is not even a handshake, and without an
			// agent's certificate nothing more.
			for _, request := range []string{"GET /latest/meta-data/", put} {
				if got, err := s.ask(t.Context(), "99", "agent.pem", request); err == nil || strings.Contains(err.Error(), "tls:") {
					t.Errorf("another address: %v %s", err, got)
				}
			}
			s.testTargets(t)
			s.testHTTP1(t)
			s.testBoots(t)
			s.testOften(t)
			for _, file := range []string{"", "other.pem"} {
				for _, request := range []string{"GET /latest/meta-data/", put} {
					if got, err := s.ask(t.Context(), "21", file, request); err == nil || !strings.Contains(err.Error(), "remote error: tls") {
						t.Errorf("with certificate %q, %s: %v %s", file, request, err, got)
					}
				}
			}

			_ = s.authenticator.Process.Kill()
			<-s.ended
			if tt.standalone {
				awaittest.True(t, "Nova without us", func() bool { return s.try("/latest/meta-data/") == http.StatusOK })
				// A status that each release of the agent passes on, and a body.
				got := s.must(t, put)
				head, body, _ := strings.Cut(strings.ToLower(got), "\r\n\r\n")
				unavailable := strings.HasPrefix(head, "http/1.1 500 ") && strings.Contains(head, "\r\ncontent-type: application/json\r\n") &&
					strings.Contains(head, fmt.Sprintf("\r\ncontent-length: %d", len(body))) && body == `{"error":"temporarily_unavailable","retry_after":2}`
				if !unavailable && (!strings.HasPrefix(got, "HTTP/1.1 404 ") || body == "") {
					t.Errorf("without us: %s", got)
				}
			}
		})
	}
}

// Below an operator's defaults, too, HAProxy adds nothing to the address that the
// agent names.
func TestHAProxyAddsNoAddress(t *testing.T) {
	needTools(t, "haproxy")
	for _, name := range []string{"haproxy.cfg", "haproxy-backup.cfg"} {
		for _, option := range []string{"option forwardfor", "option forwardfor except 127.0.0.0/8 header X-Client"} {
			t.Run(name+", "+option, func(t *testing.T) {
				s := newSite(t, "config.yml", "# nova: ", "nova: ", "proxies: [192.0.2.10]", "proxies: [127.0.0.1]")
				s.startHAProxy(t, s.write(t, name, "/etc/haproxy/", s.dir+"/", "/dev/log", "stderr", "defaults\n", "defaults\n    "+option+"\n"), "10:8775")
				awaittest.True(t, "the authenticator", func() bool { return strings.HasPrefix(s.must(t, put), "HTTP/1.1 200 ") })
				if got := s.must(t, "GET /latest"); !strings.Contains(got, "at ["+guest+"].") {
					t.Errorf("to Nova came %s", got)
				}
			})
		}
	}
}

func (s *site) testPaths(t *testing.T) {
	t.Helper()
	if got := s.must(t, put); !strings.Contains(got, `"token":"`) {
		t.Errorf("%s: %s", put, got)
	}
	for _, target := range []string{"/latest/meta-data/?a=%zz", "/latest/a%2Fb;c/?identity/token", "/latest/../openstack?x=/identity/"} {
		if got := s.must(t, "GET "+target); !strings.Contains(got, "nova: GET "+target+" for "+instance+" at ["+guest+"].") {
			t.Errorf("%s did not come to Nova as it was: %s", target, got)
		}
	}
	for _, path := range []string{
		"//identity/token", "///identity/token", "/identity/../identity/token", "/latest/../identity/token", "/latest/%2e%2e/identity/token", "/latest/%2E%2E%2fidentity/token",
		"/%69dentity/token", "/identity%2ftoken", "/identity%2Ftoken", "/identity;x/token", "/identity/token;x", "/identity;/token", "/Identity/token", "/identity/./token",
		"/identity//token", "/identity/token/", "/identity/token%00", "/identity/%74oken", "/identity\\token", "/identity/tokens", "/identity", "/./identity/token", "/x/../identity/token",
		"http://169.254.169.254//identity/token", "http://169.254.169.254/latest/../identity/token", "http://169.254.169.254/%69dentity/token", "http://identity/token",
	} {
		got := s.must(t, "PUT "+path+"?role=web")
		if strings.Contains(got, `"token":"`) || strings.HasPrefix(got, "HTTP/1.1 5") {
			t.Errorf("%s: %s", path, got)
		}
		_, seen, ok := strings.Cut(got, "nova: PUT ")
		_, origin, _ := strings.Cut(strings.TrimPrefix(path, "http://"), "/") // the same to everybody (RFC 9112, section 3.2.2)
		if ok && !strings.HasPrefix(seen, path+"?role=web for") && (path[0] == '/' || !strings.HasPrefix(seen, "/"+origin+"?role=web for")) {
			t.Errorf("%s came to Nova as %s", path, seen)
		}
	}
	for _, method := range []string{"GET", "POST", "OPTIONS", "HEAD", "put", "PATCH"} {
		if got := s.must(t, method+strings.TrimPrefix(put, "PUT")); strings.Contains(got, `"token":"`) || strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Errorf("%s: %s", method, got)
		}
	}
}

// Request targets that are neither a path nor * reach neither Nova nor us.
func (s *site) testTargets(t *testing.T) {
	t.Helper()
	for _, target := range []string{
		"http://169.254.169.254/identity/token?role=web", "http://169.254.169.254/latest/meta-data/", "HTTP://169.254.169.254/identity/token?role=web",
		"https://169.254.169.254/identity/token?role=web", "http://169.254.169.254", "identity/token", "/identity/token?role=web#", "/latest#/identity/token",
	} {
		for _, method := range []string{"PUT", "GET"} {
			if got := s.must(t, method+" "+target); !strings.HasPrefix(got, "HTTP/1.1 400 ") || strings.HasSuffix(got, "\r\n\r\n") {
				t.Errorf("%s %s: %s", method, target, got)
			}
		}
	}
	if got := s.must(t, "CONNECT 169.254.169.254:80"); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
		t.Errorf("CONNECT: %s", got)
	}
}

// HTTP/2 is spoken neither by ALPN nor by its preface.
func (s *site) testHTTP1(t *testing.T) {
	t.Helper()
	c, err := s.dial(t.Context(), "21", "agent.pem")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	_, _ = io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	if got, _ := io.ReadAll(c); len(got) > 0 && !bytes.HasPrefix(got, []byte("HTTP/1.")) {
		t.Errorf("the preface of HTTP/2 is answered with %q", got)
	}
}

// All instances of a hypervisor boot at once, through its agent, and no limit
// refuses one. A hundred of them are under way at a time: all that serves them
// runs on the same processors.
func (s *site) testBoots(t *testing.T) {
	t.Helper()
	const boots, atOnce = 500, 100
	turn := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i := range boots {
		id := fmt.Sprintf("22222222-aaaa-4aaa-8aaa-%012d", i)
		s.cloud.SetServer(simulator.Server{
			ID: id, Name: fmt.Sprintf("boot-%d", i), ProjectID: project, UserID: "821a2eaac0724c069aa6a44bd7b91935", Created: time.Now(), Launched: time.Now(),
			Addresses: []simulator.Address{{Network: "private", Addr: guest}},
		})
		all.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			for _, request := range []string{"GET /latest/meta-data/", put} {
				got, err := s.askFor(t.Context(), "22", "agent.pem", request, id)
				// On a busy machine a lookup takes longer than the 1.5 s after which the instance is told to ask again.
				for tries := 1; tries < 8 && strings.HasPrefix(got, "HTTP/1.1 500 ") && strings.Contains(got, `"retry_after"`); tries++ {
					got, err = s.askFor(t.Context(), "22", "agent.pem", request, id)
				}
				if !strings.HasPrefix(got, "HTTP/1.1 200 ") {
					t.Errorf("%s for %s: %v %.200s", request, id, err, got)
					return
				}
			}
		})
	}
	all.Wait()
}

// An instance that asks too often is told so in a status that each agent passes
// on, and no other instance of that agent is held up.
func (s *site) testOften(t *testing.T) {
	t.Helper()
	const often, other = "33333333-aaaa-4aaa-8aaa-000000000001", "33333333-aaaa-4aaa-8aaa-000000000002"
	for _, id := range []string{often, other} {
		s.cloud.SetServer(simulator.Server{
			ID: id, Name: id, ProjectID: project, UserID: "821a2eaac0724c069aa6a44bd7b91935", Created: time.Now(), Launched: time.Now(),
			Addresses: []simulator.Address{{Network: "private", Addr: guest}},
		})
	}
	statuses := map[string]int{}
	for range 60 {
		got, err := s.askFor(t.Context(), "23", "agent.pem", put, often)
		head, body, _ := strings.Cut(got, "\r\n\r\n")
		status, _, _ := strings.Cut(strings.TrimPrefix(head, "HTTP/1.1 "), " ")
		statuses[status]++
		if err != nil || body == "" || status != "200" && !strings.Contains(body, `"error":"slow_down"`) || status == "409" && !strings.Contains(body, `"retry_after":`) {
			t.Fatalf("%v %s", err, got)
		}
	}
	if statuses["200"] == 0 || statuses["409"] == 0 || len(statuses) != 2 {
		t.Errorf("the answers were %v", statuses)
	}
	if got, err := s.askFor(t.Context(), "23", "agent.pem", put, other); err != nil || !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("another instance: %v %s", err, got)
	}
	for range 60 { // what is Nova's has no limit
		if got, err := s.askFor(t.Context(), "23", "agent.pem", "GET /latest/meta-data/", often); err != nil || !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Fatalf("its metadata: %v %s", err, got)
		}
	}
}

// kolla runs what kolla.md says, and puts defaults in front as those of
// Kolla-Ansible, which leave HAProxy in the mode that looks at no path, with the
// option that many operators add and that the sections must bear: HAProxy adds the
// agent's address to X-Forwarded-For.
func (s *site) kolla(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("kolla.md")
	if err != nil {
		t.Fatal(err)
	}
	_, commands, _ := strings.Cut(string(text), "```sh\n")
	commands, _, ok := strings.Cut(commands, "```")
	if !ok {
		t.Fatal("no commands")
	}
	commands = strings.ReplaceAll(commands, "/etc/kolla/", s.dir+"/kolla/")
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", commands)
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	made, err := os.ReadFile(filepath.Join(s.dir, "kolla/config/haproxy/services.d/identity.cfg"))
	if err != nil {
		t.Fatal(err)
	}
	whole := `global
    log stderr local0
defaults
    log global
    option forwardfor
    option redispatch
    retries 3
    timeout http-request 10s
    timeout connect 10s
    timeout client 1m
    timeout server 1m
    timeout check 10s
    balance roundrobin
` + strings.NewReplacer("192.0.2.", s.net, "/etc/haproxy/", s.dir+"/").Replace(string(made))
	file := filepath.Join(s.dir, "kolla.cfg")
	if err := os.WriteFile(file, []byte(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// The policy for pods denies both addresses, and allows nothing: combined with
// policies of the pods' own it takes away the metadata service, and nothing more
// can be reached than before.
func TestNetworkPolicy(t *testing.T) {
	text, err := os.ReadFile("networkpolicy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var policy struct {
		Kind string
		Spec struct {
			Priority *int
			Subject  map[string]map[string]any
			Egress   []struct {
				Action string
				To     []struct{ Networks []netip.Prefix }
				Ports  []any
			}
		}
	}
	if err := yaml.Unmarshal(text, &policy); err != nil {
		t.Fatal(err)
	}
	everywhere, ok := policy.Spec.Subject["namespaces"]
	if policy.Kind != "AdminNetworkPolicy" || policy.Spec.Priority == nil || *policy.Spec.Priority != 0 || !ok || len(everywhere) != 0 || len(policy.Spec.Subject) != 1 || len(policy.Spec.Egress) == 0 {
		t.Fatalf("%+v", policy)
	}
	// A NetworkPolicy allows; those that select a pod add up, and without one all is
	// allowed. The first rule of an AdminNetworkPolicy that fits decides before them,
	// unless it passes.
	type block struct {
		cidr   netip.Prefix
		except []netip.Prefix
	}
	prefixes := func(all ...string) (list []netip.Prefix) {
		for _, p := range all {
			list = append(list, netip.MustParsePrefix(p))
		}
		return list
	}
	contains := func(list []netip.Prefix, a netip.Addr) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	allowed := func(own [][]block, a netip.Addr) bool {
		for _, policy := range own {
			for _, b := range policy {
				if b.cidr.Contains(a) && !contains(b.except, a) {
					return true
				}
			}
		}
		return len(own) == 0
	}
	withOurs := func(own [][]block, a netip.Addr) bool {
		for _, rule := range policy.Spec.Egress {
			for _, to := range rule.To {
				if contains(to.Networks, a) && len(rule.Ports) == 0 && rule.Action != "Pass" {
					return rule.Action == "Allow"
				}
			}
		}
		return allowed(own, a)
	}
	for name, own := range map[string][][]block{
		"no policy":            nil,
		"nothing":              {{}},
		"one network":          {{{cidr: netip.MustParsePrefix("10.0.0.0/8")}}},
		"all of IPv4 and IPv6": {{{cidr: netip.MustParsePrefix("0.0.0.0/0")}, {cidr: netip.MustParsePrefix("::/0")}}},
		"the service by name":  {{{cidr: netip.MustParsePrefix("169.254.169.254/32")}, {cidr: netip.MustParsePrefix("fe80::/10")}}},
		"two":                  {{{cidr: netip.MustParsePrefix("10.0.0.0/8")}}, {{cidr: netip.MustParsePrefix("0.0.0.0/0"), except: prefixes("10.0.0.0/8")}}},
	} {
		for _, addr := range []string{"169.254.169.254", "fe80::a9fe:a9fe", "169.254.169.253", "fe80::1", "10.0.0.1", "192.0.2.1", "2001:db8::1"} {
			a := netip.MustParseAddr(addr)
			before, after := allowed(own, a), withOurs(own, a)
			service := addr == "169.254.169.254" || addr == "fe80::a9fe:a9fe"
			if service && after {
				t.Errorf("%s: a pod may speak to %s", name, addr)
			}
			if !service && after != before {
				t.Errorf("%s: a pod may speak to %s: %v, and %v before", name, addr, after, before)
			}
		}
	}
}

// A guest with a container, in namespaces: who reaches the metadata service before
// and after the rules.
func TestGuestRules(t *testing.T) {
	needTools(t, "nft", "unshare", "nsenter", "setpriv", "ip", "haproxy", "curl")
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if out, err := exec.CommandContext(t.Context(), "unshare", "--net", "nft", "-c", "-f", "guest.nft").CombinedOutput(); err != nil {
		t.Fatalf("nft -c: %v\n%s", err, out)
	}
	cfg := filepath.Join(t.TempDir(), "metadata.cfg")
	if err := os.WriteFile(cfg, []byte("defaults\n  mode http\n  timeout connect 1s\n  timeout client 5s\n  timeout server 5s\n"+
		"frontend all\n  bind 169.254.169.254:80\n  bind [fe80::a9fe:a9fe]:80 interface eth0\n  http-request return status 200\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const script = `
ended() { for pid in $pids; do kill "$pid" 2>/dev/null || :; done; }
pids= ; trap ended EXIT
own() { # a namespace of its own, for a minute
    unshare --net sleep 60 & pid=$!; pids="$pids $pid"
    until [ "$(readlink "/proc/$pid/ns/net")" != "$(readlink /proc/self/ns/net)" ]; do :; done
}
in_ns() { target=$1; shift; nsenter --net --target "$target" "$@"; }
own; metadata=$pid; own; container=$pid
echo 1 >/proc/sys/net/ipv4/ip_forward
ip link add eth0 type veth peer name eth0 netns "$metadata"
ip link add docker0 type veth peer name eth0 netns "$container"
ip addr add 10.20.0.11/24 dev eth0; ip link set eth0 up; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up
in_ns "$metadata" ip addr add 10.20.0.1/24 dev eth0; in_ns "$metadata" ip addr add 169.254.169.254/32 dev eth0
in_ns "$metadata" ip addr add fe80::a9fe:a9fe/64 dev eth0 nodad; in_ns "$metadata" ip link set eth0 up; in_ns "$metadata" ip link set lo up
in_ns "$metadata" ip route add 172.17.0.0/16 via 10.20.0.11
in_ns "$container" ip addr add 172.17.0.2/16 dev eth0; in_ns "$container" ip link set eth0 up; in_ns "$container" ip route add default via 172.17.0.1
ip route add default via 10.20.0.1
nsenter --net --target "$metadata" haproxy -db -f "$1" & pids="$pids $!"
four=http://169.254.169.254/ six='http://[fe80::a9fe:a9fe%25eth0]/'
ask() { url=$1; shift; "$@" curl -s -o /dev/null -m 2 --noproxy '*' -g -w '%{http_code}' "$url" || :; }
end=$(($(date +%s) + 20))
until [ "$(ask $four)$(ask $six)" = 200200 ]; do [ "$(date +%s)" -lt $end ] || exit 3; done
all() {
    echo "$1: root $(ask $four) $(ask $six)"
    echo "$1: another $(ask $four setpriv --reuid 65534 --clear-groups) $(ask $six setpriv --reuid 65534 --clear-groups)"
    echo "$1: container $(ask $four nsenter --net --target "$container")"
}
all before
nft -f guest.nft
nft -f guest.nft # once more changes nothing
all after
[ "$(nft list ruleset | grep -c reject)" = 4 ]
`
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "unshare", "--net", "sh", "-euc", script, "guest", cfg).CombinedOutput()
	const want = `before: root 200 200
before: another 200 200
before: container 200
after: root 200 200
after: another 000 000
after: container 000
`
	got := string(out)
	if i := strings.Index(got, "before: root"); i > 0 {
		got = got[i:] // HAProxy has something to say
	}
	if err != nil || got != want {
		t.Errorf("%v\n%s\nwant\n%s", err, out, want)
	}
}
