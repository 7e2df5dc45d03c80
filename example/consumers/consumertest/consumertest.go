// Package consumertest gives the tests of consumers what they have in common: the
// program itself, on a simulated cloud, with TLS, and tokens good and bad.
package consumertest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
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

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
)

// What the instance is that asks.
const (
	Instance = "11111111-aaaa-4aaa-8aaa-000000000001"
	Project  = "7e562c1a85814230b973a83db9534b02"
	User     = "821a2eaac0724c069aa6a44bd7b91935"

	nova = "d0fd9128b4574898af1ba8f4e7836ede" // as whom Nova comes for documents
)

// Issuer is a running authenticator.
type Issuer struct {
	// URL is the issuer, https on the loopback.
	URL string
	// CAFile and CA are those of its certificate.
	CAFile string
	CA     []byte
	// Dir has its configuration.
	Dir string
	// Cloud is the simulated one.
	Cloud *simulator.Cloud
	// Client trusts it.
	Client *http.Client

	project string // in which the instance is
	key     crypto.Signer
	cmd     *exec.Cmd
	log     *bytes.Buffer
}

// Start runs the program until the test ends. roles is YAML, in the file's
// columns; path is that of the issuer, "" for none.
func Start(t testing.TB, path, roles string) *Issuer {
	t.Helper()
	return start(t, path, roles, "signingKeyFile: signing-key.pem", "")
}

// StartManaged is Start with keys that the program makes and changes itself, and
// that verifiers may keep for a minute.
func StartManaged(t testing.TB, roles string) *Issuer {
	t.Helper()
	return start(t, "", roles, "tokenExpiry: 10m", "keys: {maxAge: 1m}\nstate: {type: memory}\nadmin: {socket: admin.sock}\n")
}

// StartNamed is Start with another name for the issuer than where it listens, as
// behind a proxy of the Internet. Discovery and keys are at URL all the same.
func StartNamed(t testing.TB, issuer, roles string) *Issuer {
	t.Helper()
	return start(t, "", roles, `signingKeyFile: signing-key.pem, tokenIssuer: "`+issuer+`"`, "")
}

func start(t testing.TB, path, roles, auth, more string) *Issuer {
	t.Helper()
	cloud, err := simulator.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cloud.Close() })
	cloud.AddAccount(simulator.Account{Name: "authenticator", Password: "secret-word", ProjectName: "service", Roles: []string{"reader", "instance_reader", "project_reader", "service"}})
	cloud.AddAccount(simulator.Account{Name: "nova-vendordata", ID: nova, Password: "secret-word", ProjectName: "service", Roles: []string{"service"}})
	cloud.AddAccount(simulator.Account{Name: "owner", ProjectID: Project, ProjectName: "shop", Roles: []string{"member"}})
	dir, err := os.MkdirTemp("", "issuer-") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	i := &Issuer{Dir: dir, Cloud: cloud, log: &bytes.Buffer{}}
	i.build(t)
	i.Move(Project)
	port := FreePort(t)
	i.URL = "https://127.0.0.1:" + port + path
	if !strings.Contains(auth, "tokenIssuer") {
		auth += `, tokenIssuer: "` + i.URL + `"`
	}
	i.certify(t)
	if i.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		t.Fatal(err)
	}
	i.write(t, "signing-key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	i.write(t, "config.yml", fmt.Appendf(nil, `listen: 127.0.0.1:%s
tls: {certFile: server.pem, keyFile: server-key.pem}
auth: {limit: 1000000, period: 24h, %s}
%smetrics: {listen: ""}
audit: {output: audit.log}
throttle: {perAddress: {rate: 10000, burst: 10000}, perInstance: {rate: 10000, burst: 10000}}
vendordata: {users: [%s], from: 127.0.0.1}
roles:
%s`, port, auth, more, nova, roles))
	i.cmd = exec.Command(i.binary(), "-c", filepath.Join(i.Dir, "config.yml")) //nolint:gosec,noctx // our own program, which the cleanup ends in order
	i.cmd.Stderr = i.log
	i.cmd.Env = append(os.Environ(), "OS_AUTH_URL="+cloud.AuthURL(), "OS_USERNAME=authenticator", "OS_PASSWORD=secret-word", "OS_PROJECT_NAME=service",
		"OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_DOMAIN_NAME=Default", "OS_CLOUD=", "NO_PROXY=*")
	if err := i.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = i.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = i.cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if t.Failed() {
			t.Logf("the authenticator said\n%s", i.log)
		}
	})
	Await(t, "the authenticator", func() bool {
		resp, err := i.Do(t, http.MethodGet, "/.well-known/jwks.json", nil)
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return i
}

func (i *Issuer) binary() string { return filepath.Join(i.Dir, "openstack-nova-authenticator") }

// build makes the program in its own module, with the dependencies that it is
// released with.
func (i *Issuer) build(t testing.TB) {
	t.Helper()
	root, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/openstack-nova-authenticator/openstack-nova-authenticator").Output()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := Run(t, 5*time.Minute, strings.TrimSpace(string(root)), nil, "go", "build", "-o", i.binary(), "./cmd/openstack-nova-authenticator"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// Move makes the instance one of a project.
func (i *Issuer) Move(project string) {
	i.project = project
	i.Cloud.SetServer(simulator.Server{
		ID: Instance, Name: "web-1", ProjectID: project, UserID: User, Created: time.Now(), Launched: time.Now(), Flavor: "m1.small",
		ImageID: "44742495-68d3-4c10-8642-423ed054a9f2", AvailabilityZone: "nova", Metadata: map[string]string{"tier": "front"},
		Addresses: []simulator.Address{{Network: "private", Addr: "127.0.0.1"}},
	})
}

// FreePort returns a free port of the loopback.
func FreePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// Await polls until done, for a minute.
func Await(t testing.TB, what string, done func() bool) {
	t.Helper()
	AwaitFor(t, time.Minute, what, done)
}

// AwaitFor polls until done, for a time.
func AwaitFor(t testing.TB, limit time.Duration, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline.C:
			t.Fatalf("%s: waited for %v in vain", what, limit)
		case <-tick.C:
		}
	}
}

func (i *Issuer) write(t testing.TB, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(i.Dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// IssueCertificate makes a key, and a certificate for it that is good for a day,
// signed by the parent's key; by its own without a parent.
func IssueCertificate(t testing.TB, template, parent *x509.Certificate, by crypto.Signer) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// certify makes a CA, and a certificate of it for the loopback.
func (i *Issuer) certify(t testing.TB) {
	t.Helper()
	ca, caKey := IssueCertificate(t, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}, nil, nil)
	cert, key := IssueCertificate(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "127.0.0.1"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, caKey)
	i.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})
	i.write(t, "ca.pem", i.CA)
	i.CAFile = filepath.Join(i.Dir, "ca.pem")
	i.write(t, "server.pem", append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), i.CA...))
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	i.write(t, "server-key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	i.Client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	t.Cleanup(i.Client.CloseIdleConnections)
}

// Do sends a request to the issuer, whose path is below the issuer's; the caller
// closes the body of what comes.
func (i *Issuer) Do(t testing.TB, method, path string, form url.Values) (*http.Response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, i.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return i.Client.Do(r)
}

// Token asks for one, as the instance does. audience may be "".
func (i *Issuer) Token(t testing.TB, role, audience string) string {
	t.Helper()
	form := url.Values{"instance_id": {Instance}, "role": {role}}
	if audience != "" {
		form.Set("audience", audience)
	}
	resp, err := i.Do(t, http.MethodPost, "/auth", form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var granted struct{ Token string }
	if err := json.Unmarshal(body, &granted); err != nil || granted.Token == "" {
		t.Fatalf("no token but %s %s", resp.Status, body)
	}
	return granted.Token
}

// Document is what Nova is handed for the instance.
func (i *Issuer) Document(t testing.TB) string {
	t.Helper()
	login := `{"auth":{"identity":{"methods":["password"],"password":{"user":{"id":"` + nova + `","password":"secret-word"}}}}}`
	resp, err := i.Client.Post(i.Cloud.AuthURL()+"/auth/tokens", "application/json", strings.NewReader(login)) //nolint:noctx // the simulated cloud
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	u, err := url.Parse(i.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/vendordata"
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, u.String(), strings.NewReader(`{"instance-id":"`+Instance+`","project-id":"`+i.project+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Auth-Token", resp.Header.Get("X-Subject-Token"))
	if resp, err = i.Client.Do(r); err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Document string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Document == "" {
		t.Fatalf("no document but %s: %v", resp.Status, err)
	}
	return answer.Document
}

// Command runs a command of the program on this issuer, such as keys rotate.
func (i *Issuer) Command(t testing.TB, args ...string) (string, error) {
	t.Helper()
	return Run(t, time.Minute, i.Dir, nil, append([]string{i.binary(), "-c", filepath.Join(i.Dir, "config.yml")}, args...)...)
}

// Claims are those of a token.
func Claims(t testing.TB, token string) jwt.MapClaims {
	t.Helper()
	claims := jwt.MapClaims{}
	if _, _, err := jwt.NewParser(jwt.WithJSONNumber()).ParseUnverified(token, claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// Forge changes the claims of a token and signs them with the issuer's own key,
// which no attacker has: it is for what the issuer itself would never make.
func (i *Issuer) Forge(t testing.TB, token string, edit func(jwt.MapClaims)) string {
	t.Helper()
	return i.sign(t, token, i.key, edit)
}

func (i *Issuer) sign(t testing.TB, token string, key crypto.Signer, edit func(jwt.MapClaims)) string {
	t.Helper()
	parsed, _, err := jwt.NewParser(jwt.WithJSONNumber()).ParseUnverified(token, jwt.MapClaims{})
	if err != nil {
		t.Fatal(err)
	}
	claims := maps.Clone(parsed.Claims.(jwt.MapClaims))
	edit(claims)
	again := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	again.Header["kid"] = parsed.Header["kid"]
	signed, err := again.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// Bad gives, by name, what no consumer must take in place of a good token: all is
// as in that, but for one thing.
func (i *Issuer) Bad(t testing.TB, good string) map[string]string {
	t.Helper()
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	segments := strings.Split(good, ".")
	// A letter in the middle: the last has bits that mean nothing.
	changed := []byte(segments[2])
	changed[len(changed)/2] = map[bool]byte{true: 'B', false: 'A'}[changed[len(changed)/2] == 'A']
	return map[string]string{
		"unsigned":          unsigned(t, good),
		"a changed payload": segments[0] + "." + segments[1][:len(segments[1])-6] + "AAAA" + segments[1][len(segments[1])-2:] + "." + segments[2],
		"expired": i.Forge(t, good, func(c jwt.MapClaims) {
			now := time.Now()
			c["iat"], c["nbf"], c["exp"] = now.Add(-2*time.Hour).Unix(), now.Add(-2*time.Hour).Unix(), now.Add(-time.Hour).Unix()
		}),
		"a changed signature":          segments[0] + "." + segments[1] + "." + string(changed),
		"another audience":             i.Forge(t, good, func(c jwt.MapClaims) { c["aud"] = "https://elsewhere.example.com" }),
		"another issuer":               i.Forge(t, good, func(c jwt.MapClaims) { c["iss"] = "https://elsewhere.example.com" }),
		"another issuer's key":         i.sign(t, good, other, func(jwt.MapClaims) {}),
		"a document":                   i.Document(t),
		"signed with the public key":   i.confuse(t, good),
		"another issuer, with its key": i.sign(t, good, other, func(c jwt.MapClaims) { c["iss"] = "https://elsewhere.example.com" }),
	}
}

// unsigned makes alg none of a token.
func unsigned(t testing.TB, token string) string {
	t.Helper()
	parsed, _, err := jwt.NewParser(jwt.WithJSONNumber()).ParseUnverified(token, jwt.MapClaims{})
	if err != nil {
		t.Fatal(err)
	}
	again := jwt.NewWithClaims(jwt.SigningMethodNone, parsed.Claims)
	again.Header["kid"] = parsed.Header["kid"]
	none, err := again.SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	return none
}

// confuse signs the claims of a token with what everyone knows.
func (i *Issuer) confuse(t testing.TB, token string) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(i.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	again := jwt.NewWithClaims(jwt.SigningMethodHS256, Claims(t, token))
	again.Header["kid"] = kid(t, token)
	signed, err := again.SignedString(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func kid(t testing.TB, token string) any {
	t.Helper()
	parsed, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Header["kid"]
}

// Verifies tries a verifier that prints the claims of a good token, and fails for
// one that is not for an audience of the issuer's.
func Verifies(t *testing.T, verify func(i *Issuer, token, audience string) (claims string, err error)) {
	t.Helper()
	const audience = "https://app.example.com"
	i := Start(t, "", "  web: {allowAnyInstance: true, audience: ["+audience+"]}\n  original: {allowAnyInstance: true}\n")
	good := i.Token(t, "web", "")
	out, err := verify(i, good, audience)
	var claims struct{ Sub string }
	if err != nil || json.Unmarshal([]byte(out), &claims) != nil || claims.Sub != Instance {
		t.Errorf("a good token: %v\n%s", err, out)
	}
	for name, bad := range i.Bad(t, good) {
		if out, err := verify(i, bad, audience); err == nil {
			t.Errorf("%s is accepted: %s", name, out)
		}
	}
	if out, err := verify(i, i.Token(t, "original", ""), i.URL+"/roles/original"); err != nil {
		t.Errorf("a token as the original has it: %v\n%s", err, out)
	}
}

// ReadJSON reads an object that a consumer is configured with.
func ReadJSON(t testing.TB, name string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// Run runs a command of a consumer's, and gives what it printed.
func Run(t testing.TB, limit time.Duration, dir string, env []string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // what the test says
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
