package metadataservice_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
	ca  *x509.Certificate
	key *ecdsa.PrivateKey

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

// newSite starts nova-metadata's double, the authenticator and HAProxy with one
// of the files as they are, but for addresses and paths.
func newSite(t *testing.T, haproxy string) *site {
	t.Helper()
	needTools(t, "haproxy")
	dir := t.TempDir()
	var b [2]byte
	rand.Read(b[:])
	s := &site{dir: dir, net: fmt.Sprintf("127.%d.%d.", 1+int(b[0])%250, 1+int(b[1])%250)}
	s.newAuthority(t)
	s.certificate(t, "metadata", true)
	s.certificate(t, "agent", false)

	l, err := net.Listen("tcp", s.net+"11:8775")
	if err != nil {
		t.Fatal(err)
	}
	nova := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Nova", "yes")
		if strings.HasPrefix(r.URL.Path, "/identity/") {
			w.WriteHeader(http.StatusNotFound)
		}
		fmt.Fprintf(w, "nova: %s %s for %s", r.Method, r.RequestURI, r.Header.Get("X-Instance-Id"))
	}))
	nova.Listener = l
	nova.Start()
	t.Cleanup(nova.Close)

	s.startAuthenticator(t)
	config := s.write(t, haproxy, "/etc/haproxy/", dir+"/", "/dev/log", "stderr")
	if out, err := exec.CommandContext(t.Context(), "haproxy", "-c", "-dW", "-f", config).CombinedOutput(); err != nil {
		t.Fatalf("haproxy -c: %v\n%s", err, out)
	}
	s.start(t, exec.Command("haproxy", "-db", "-f", config))
	s.await(t, "HAProxy and Nova", func() bool { return s.try("/") == http.StatusOK })
	return s
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

func (s *site) startAuthenticator(t *testing.T) {
	t.Helper()
	cloud, err := simulator.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cloud.Close() })
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
	// HAProxy speaks from this address of the loopback.
	file := s.write(t, "config.yml", "proxies: [192.0.2.10]", "proxies: [127.0.0.1]", "# nova: ", "nova: ")
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(f, "listen: %[1]s11:18775\nmetrics: {listen: \"%[1]s11:18776\"}\nauth: {tokenIssuer: https://id.example.com}\nstate: {type: memory}\n"+
		"roles:\n  web: {projectID: %[2]s, proof: metadataService, anyAudience: true}\n", s.net, project)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-c", file)
	cmd.Env = append(os.Environ(), "OS_AUTH_URL="+cloud.AuthURL(), "OS_USERNAME=authenticator", "OS_PASSWORD=secret-word", "OS_PROJECT_NAME=service",
		"OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_DOMAIN_NAME=Default", "OS_CLOUD=", "NO_PROXY=*")
	s.authenticator, s.ended = cmd, s.start(t, cmd)
	s.await(t, "the authenticator", func() bool {
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

func (s *site) await(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline.C:
			t.Fatalf("%s: waited in vain", what)
		case <-tick.C:
		}
	}
}

func (s *site) newAuthority(t *testing.T) {
	t.Helper()
	var err error
	if s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &s.key.PublicKey, s.key)
	if err != nil {
		t.Fatal(err)
	}
	if s.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	s.save(t, "agents-ca.pem", &pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func (s *site) save(t *testing.T, name string, blocks ...*pem.Block) {
	t.Helper()
	var text []byte
	for _, b := range blocks {
		text = append(text, pem.EncodeToMemory(b)...)
	}
	if err := os.WriteFile(filepath.Join(s.dir, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// certificate writes NAME.pem, a certificate with its key.
func (s *site) certificate(t *testing.T, name string, server bool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if server {
		template.IPAddresses, template.ExtKeyUsage = []net.IP{net.ParseIP(s.net + "10")}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.ca, &key.PublicKey, s.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s.save(t, name+".pem", &pem.Block{Type: "CERTIFICATE", Bytes: der}, &pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

// dial connects as the agent at an address does; without a certificate if file is "".
func (s *site) dial(ctx context.Context, from, file string) (net.Conn, error) {
	pool := x509.NewCertPool()
	pool.AddCert(s.ca)
	config := &tls.Config{RootCAs: pool}
	if file != "" {
		cert, err := tls.LoadX509KeyPair(filepath.Join(s.dir, file), filepath.Join(s.dir, file))
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{cert}
	}
	d := &tls.Dialer{Config: config, NetDialer: &net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(s.net + from)}}}
	return d.DialContext(ctx, "tcp", s.net+"10:8775")
}

// ask sends a request line with the headers that the agent adds.
func (s *site) ask(ctx context.Context, from, file, request string) (string, error) {
	c, err := s.dial(ctx, from, file)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
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

func TestHAProxy(t *testing.T) {
	for _, file := range []string{"haproxy.cfg", "haproxy-backup.cfg"} {
		t.Run(file, func(t *testing.T) {
			s := newSite(t, file)
			s.await(t, "the authenticator behind HAProxy", func() bool { return strings.HasPrefix(s.must(t, put), "HTTP/1.1 200 ") })
			if got := s.must(t, put); !strings.Contains(got, `"token":"`) {
				t.Errorf("%s: %s", put, got)
			}
			if got := s.must(t, "GET /latest/meta-data/?a=%zz"); !strings.Contains(got, "nova: GET /latest/meta-data/?a=%zz for "+instance) {
				t.Errorf("Nova's: %s", got)
			}
			for _, path := range []string{"//identity/token", "/identity/../identity/token", "/latest/%2e%2e/identity/token", "/%69dentity/token", "/identity%2ftoken", "/identity;x/token", "/Identity/token", "/identity/./token"} {
				if got := s.must(t, "PUT "+path+"?role=web"); strings.Contains(got, `"token":"`) || strings.HasPrefix(got, "HTTP/1.1 5") {
					t.Errorf("%s: %s", path, got)
				}
			}
			// At the address of no agent, and without a certificate.
			if got, err := s.ask(t.Context(), "99", "agent.pem", put); err != nil || !strings.HasPrefix(got, "HTTP/1.1 403 ") {
				t.Errorf("another address: %v %s", err, got)
			}
			if got, err := s.ask(t.Context(), "21", "", "GET /latest/meta-data/"); err == nil && got != "" {
				t.Errorf("without a certificate: %s", got)
			}

			_ = s.authenticator.Process.Kill()
			<-s.ended
			s.await(t, "Nova without us", func() bool { return s.try("/latest/meta-data/") == http.StatusOK })
			if got := s.must(t, put); strings.HasPrefix(got, "HTTP/1.1 200 ") {
				t.Errorf("a token of nobody: %s", got)
			}
		})
	}
}

// The files for the guest are such as nft and a reader of YAML take.
func TestGuestFiles(t *testing.T) {
	needTools(t, "nft")
	if os.Getuid() != 0 {
		t.Skip("nft -c needs root")
	}
	if out, err := exec.CommandContext(t.Context(), "unshare", "--net", "nft", "-c", "-f", "guest.nft").CombinedOutput(); err != nil {
		t.Errorf("nft: %v\n%s", err, out)
	}
}
