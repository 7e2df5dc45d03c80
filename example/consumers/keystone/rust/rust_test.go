// Package rust_test exchanges our tokens at a real Keystone in Rust.
package rust_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
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
	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/example/consumers/consumertest"
)

const (
	adminWord = "word-of-the-test"
	spiffeID  = "spiffe://example.org/keystone"
)

func TestRustKeystone(t *testing.T) {
	bin, err := filepath.Abs("bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(bin, "keystone")); err != nil {
		t.Skip("SKIPPED: the Rust Keystone is not built here: run ./build")
	}
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("SKIPPED: python3 is not installed")
	}
	i := consumertest.Start(t, "", `  keystone: {allowAnyInstance: true, audience: [keystone]}
  vault: {allowAnyInstance: true, audience: [https://vault.example.com]}
`)
	k := start(t, bin, i)
	k.setUp(t, i)

	good := i.Token(t, "keystone", "")
	granted := k.federate(t, good)
	unscoped := granted.token()
	if granted.status != http.StatusOK || unscoped == "" {
		t.Fatalf("a good token: %d %s", granted.status, granted.body)
	}
	held := k.works(t, unscoped)

	bad := i.Bad(t, good)
	bad["for another audience, as the issuer made it"] = i.Token(t, "vault", "")
	for name, token := range bad {
		// It looks at the audience in the rule alone, and has a 500 for a token that meets no rule.
		want := http.StatusBadRequest
		if strings.Contains(name, "another audience") {
			want = http.StatusInternalServerError
		}
		if a := k.federate(t, token); a.status != want || a.token() != "" {
			t.Errorf("%s: %d %s, want %d", name, a.status, a.body, want)
		}
	}
	k.looksAt(t, i, good)

	k.takenBack(t, unscoped, held)
	k.moved(t, i, unscoped, held)
	k.lapses(t, i)
	k.disabled(t, i, unscoped)
}

// works uses a token that an instance was given, and gives the one for the project.
func (k *keystone) works(t *testing.T, unscoped string) (scoped string) {
	t.Helper()
	if a := k.show(t, unscoped); a.status != http.StatusOK || !strings.Contains(a.body, `"name":"`+consumertest.Instance+`"`) {
		t.Errorf("the token of a user named as the instance: %d %s", a.status, a.body)
	}
	if _, err := k.scope(t, unscoped); err == nil {
		t.Error("the group has no role, and the instance gets into the project")
	}
	// For users there is an API. Groups have none here yet: see README.md.
	path := "/v3/projects/" + k.project + "/groups/" + k.group + "/roles/" + k.member
	if a := k.do(t, http.MethodPut, path, http.Header{"X-Auth-Token": {k.admin}}, nil); a.status != http.StatusNotFound {
		t.Errorf("PUT %s: %d %s, and the README says 404", path, a.status, a.body)
	}
	k.sql(t, "INSERT INTO assignment (type, actor_id, target_id, role_id, inherited) VALUES ('GroupProject', ?, ?, ?, 0)", k.group, k.project, k.member)
	scoped, err := k.scope(t, unscoped)
	if err != nil {
		t.Fatalf("the group has a role, and the instance does not get into the project: %v", err)
	}
	if a := k.show(t, scoped); a.status != http.StatusOK || !strings.Contains(a.body, `"name":"member"`) || !strings.Contains(a.body, `"id":"`+k.project+`"`) {
		t.Errorf("the token for the project: %d %s", a.status, a.body)
	}
	return scoped
}

// looksAt is what the README says of claims. The issuer makes no such tokens.
func (k *keystone) looksAt(t *testing.T, i *consumertest.Issuer, good string) {
	t.Helper()
	in := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	for name, tt := range map[string]struct {
		edit func(jwt.MapClaims)
		want int
	}{
		"over for half a minute":           {func(c jwt.MapClaims) { c["exp"] = in(-30 * time.Second) }, http.StatusOK},
		"over for a minute and a half":     {func(c jwt.MapClaims) { c["exp"] = in(-90 * time.Second) }, http.StatusBadRequest},
		"not good for half a minute":       {func(c jwt.MapClaims) { c["nbf"] = in(30 * time.Second) }, http.StatusOK},
		"not good for a minute and a half": {func(c jwt.MapClaims) { c["nbf"] = in(90 * time.Second) }, http.StatusBadRequest},
		"made half an hour from now":       {func(c jwt.MapClaims) { c["iat"] = in(30 * time.Minute) }, http.StatusOK},
		"made two hours from now":          {func(c jwt.MapClaims) { c["iat"] = in(2 * time.Hour) }, http.StatusBadRequest},
		"no exp":                           {func(c jwt.MapClaims) { delete(c, "exp") }, http.StatusBadRequest},
		"no aud":                           {func(c jwt.MapClaims) { delete(c, "aud") }, http.StatusBadRequest},
		"no sub":                           {func(c jwt.MapClaims) { delete(c, "sub") }, http.StatusBadRequest},
		"no iat":                           {func(c jwt.MapClaims) { delete(c, "iat") }, http.StatusOK},
		"no nbf":                           {func(c jwt.MapClaims) { delete(c, "nbf") }, http.StatusOK},
		"no iss, which the rule looks at":  {func(c jwt.MapClaims) { delete(c, "iss") }, http.StatusInternalServerError},
		"another form of iss":              {func(c jwt.MapClaims) { c["iss"] = i.URL + "/" }, http.StatusBadRequest},
		"one audience of two":              {func(c jwt.MapClaims) { c["aud"] = []string{"https://vault.example.com", "keystone"} }, http.StatusOK},
		"a line more in sub":               {func(c jwt.MapClaims) { c["sub"] = consumertest.Instance + "\n" }, http.StatusInternalServerError},
		"a line more in project_id":        {func(c jwt.MapClaims) { c["project_id"] = k.project + "\n" }, http.StatusInternalServerError},
	} {
		if a := k.federate(t, i.Forge(t, good, tt.edit)); a.status != tt.want {
			t.Errorf("%s: %d %s, and the README says %d", name, a.status, a.body, tt.want)
		}
	}
}

// takenBack takes the role from the group, while a token for the project is held, and gives it again.
func (k *keystone) takenBack(t *testing.T, unscoped, held string) {
	t.Helper()
	k.sql(t, "DELETE FROM assignment WHERE actor_id = ?", k.group)
	if a := k.show(t, held); a.status != http.StatusNotFound {
		t.Errorf("a token for the project when the role was taken: %d %s", a.status, a.body)
	}
	if _, err := k.scope(t, unscoped); err == nil {
		t.Error("the role was taken from the group, and the instance gets into the project")
	}
	k.sql(t, "INSERT INTO assignment (type, actor_id, target_id, role_id, inherited) VALUES ('GroupProject', ?, ?, ?, 0)", k.group, k.project, k.member)
}

// moved is one group a project: an instance of another one is known, and has no right in the first, even with a token of before.
func (k *keystone) moved(t *testing.T, i *consumertest.Issuer, before, held string) {
	t.Helper()
	const other = "c0ffee00c0ffee00c0ffee00c0ffee00"
	a := k.federate(t, k.moveTo(t, i, other))
	if a.status != http.StatusOK {
		t.Errorf("another project's instance: %d %s", a.status, a.body)
	}
	for name, unscoped := range map[string]string{"now": a.token(), "before": before} {
		if _, err := k.scope(t, unscoped); err == nil {
			t.Errorf("another project's instance gets into the project with a token of %s", name)
		}
	}
	if a := k.show(t, held); a.status != http.StatusNotFound {
		t.Errorf("another project's instance keeps a token for the project: %d %s", a.status, a.body)
	}
	// The rule says "get", and it makes the group all the same: without a role it is worth nothing.
	if a := k.do(t, http.MethodGet, "/v3/groups", http.Header{"X-Auth-Token": {k.admin}}, nil); !strings.Contains(a.body, "instances-"+other) {
		t.Errorf("groups: %d %s, and the README says that the other project's is made", a.status, a.body)
	}
	if a := k.federate(t, k.moveTo(t, i, k.project)); a.status != http.StatusOK {
		t.Errorf("back in its project: %d %s", a.status, a.body)
	}
	if _, err := k.scope(t, before); err != nil {
		t.Errorf("back in its project: %v", err)
	}
}

func (k *keystone) moveTo(t *testing.T, i *consumertest.Issuer, project string) (token string) {
	t.Helper()
	i.Move(project)
	consumertest.Await(t, "a token of project "+project, func() bool {
		token = i.Token(t, "keystone", "")
		return consumertest.Claims(t, token)["project_id"] == project
	})
	return token
}

// lapses changes the configuration, without a login, and shows that the unit of federation.conf is the second: for
// minutes, it would have to wait for one.
func (k *keystone) lapses(t *testing.T, i *consumertest.Issuer) {
	t.Helper()
	file := filepath.Join(k.dir, "etc/keystone.conf")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	short := strings.Replace(string(text), "default_authorization_ttl = 3600", "default_authorization_ttl = 1", 1)
	if short == string(text) {
		t.Fatal("federation.conf has no default_authorization_ttl = 3600")
	}
	unscoped := k.federate(t, i.Token(t, "keystone", "")).token()
	held, err := k.scope(t, unscoped)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		config  []byte
		allowed bool
		held    int
	}{{[]byte(short), false, http.StatusNotFound}, {text, true, http.StatusOK}} {
		if err := os.WriteFile(file+".new", tt.config, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
		consumertest.AwaitFor(t, 30*time.Second, fmt.Sprintf("the project with a membership of a second or of an hour: %v", tt.allowed), func() bool {
			_, err := k.scope(t, unscoped)
			return (err == nil) == tt.allowed
		})
		if a := k.show(t, held); a.status != tt.held {
			t.Errorf("the project with a membership of a second or of an hour: %v, but a token of before: %d %s", tt.allowed, a.status, a.body)
		}
	}
}

// disabled closes the identity provider, which ends no token that is held.
func (k *keystone) disabled(t *testing.T, i *consumertest.Issuer, held string) {
	t.Helper()
	a := k.do(t, http.MethodPut, "/v4/federation/identity_providers/"+k.provider, http.Header{"X-Auth-Token": {k.admin}},
		map[string]any{"identity_provider": map[string]any{"enabled": false}})
	if a.status != http.StatusOK {
		t.Fatalf("disable the identity provider: %d %s", a.status, a.body)
	}
	if a := k.federate(t, i.Token(t, "keystone", "")); a.status != http.StatusBadRequest || a.token() != "" {
		t.Errorf("a good token for a disabled identity provider: %d %s", a.status, a.body)
	}
	if a := k.show(t, held); a.status != http.StatusOK {
		t.Errorf("a token of before: %d %s", a.status, a.body)
	}
}

// keystone is a running one.
type keystone struct {
	url string
	dir string // its own

	admin string // the administrator's token
	// IDs of what setUp makes, and of the role that is there.
	domain, project, provider, group, member string
}

// config follows federation.conf.
const config = `
[DEFAULT]
use_stderr = true
[database]
connection = sqlite://DIR/keystone.db?mode=rwc
[api_policy]
opa_base_url = unix://DIR/opa.sock
opa_policies_path = BIN/policy
[fernet_tokens]
key_repository = DIR/fernet-keys
[fernet_receipts]
key_repository = DIR/fernet-keys
[credential]
key_repository = DIR/fernet-keys
[interface_public]
tcp_address = PUBLIC
type = "http"
[interface_metrics]
tcp_address = METRICS
[interface_admin]
socket_path = DIR/admin.sock
trust_domains = example.org
admin_svid = ` + spiffeID + `
[distributed_storage]
path = DIR/raft
node_cluster_addr = https://RAFT
node_listener_addr = RAFT
node_id = 0
tls_client_ca_file = DIR/ca.pem
tls_cert_file = DIR/node.pem
tls_key_file = DIR/node-key.pem
dev_mode = true
[mapping]
cluster_salt = "SALT"
[audit]
spool_dir = DIR/audit
`

func start(t *testing.T, bin string, i *consumertest.Issuer) *keystone {
	t.Helper()
	dir, err := os.MkdirTemp("", "keystone-") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	secret := func() []byte {
		b := make([]byte, 32)
		_, _ = rand.Read(b) // it never fails
		return b
	}
	write := func(name string, data []byte) {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("fernet-keys/0", []byte(base64.URLEncoding.EncodeToString(secret())))
	node := serveWorkloads(t, filepath.Join(dir, "workload.sock"))
	write("ca.pem", block("CERTIFICATE", node.Bundle))
	write("node.pem", block("CERTIFICATE", node.X509Svid))
	write("node-key.pem", block("PRIVATE KEY", node.X509SvidKey))
	federation, err := os.ReadFile("federation.conf")
	if err != nil {
		t.Fatal(err)
	}
	public := "127.0.0.1:" + consumertest.FreePort(t)
	// In a folder of its own: with a change there, a login may hang. See README.md.
	write("etc/keystone.conf", append(federation, strings.NewReplacer("DIR", dir, "BIN", bin, "PUBLIC", public, "METRICS", "127.0.0.1:"+consumertest.FreePort(t),
		"RAFT", "127.0.0.1:"+consumertest.FreePort(t), "SALT", hex.EncodeToString(secret())).Replace(config)...))

	env := []string{
		"PATH=" + bin + ":" + os.Getenv("PATH"), // for opa, which it starts
		"SPIFFE_ENDPOINT_SOCKET=unix://" + filepath.Join(dir, "workload.sock"),
		"KEYSTONE_DEV_KEK=" + hex.EncodeToString(secret()), "KEYSTONE_ALLOW_ENV_KEK=1",
		"SSL_CERT_FILE=" + i.CAFile, "NO_PROXY=*",
	}
	manage := func(args ...string) {
		t.Helper()
		args = append([]string{filepath.Join(bin, "keystone-manage"), "--config", filepath.Join(dir, "etc/keystone.conf")}, args...)
		if out, err := consumertest.Run(t, time.Minute, dir, env, args...); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	manage("db", "sync")
	var log bytes.Buffer
	cmd := exec.Command(filepath.Join(bin, "keystone"), "--config", filepath.Join(dir, "etc/keystone.conf"))
	cmd.Env = append(os.Environ(), env...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // with the opa that it starts
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// It ends its opa itself, if it can.
		_ = cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(20*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		_ = cmd.Wait()
		late.Stop()
		if t.Failed() {
			text := log.String()
			t.Logf("Keystone said\n%s", text[max(0, len(text)-4000):])
		}
	})
	k := &keystone{url: "http://" + public, dir: dir}
	consumertest.Await(t, "Keystone", func() bool {
		_, err := os.Stat(filepath.Join(dir, "admin.sock"))
		return err == nil && k.try(t, http.MethodGet, "/v3", nil, nil).status == http.StatusOK
	})
	manage("bootstrap", "--bootstrap-password", adminWord, "--bootstrap-public-url", k.url+"/v3")
	return k
}

func block(name string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: name, Bytes: der})
}

// agent is SPIFFE's Workload API with one identity, in place of a SPIRE: with it Keystone serves its socket for administrators,
// and keystone-manage comes to that.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	svid *workload.X509SVID
}

func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if err := stream.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{a.svid}}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

func serveWorkloads(t *testing.T, socket string) *workload.X509SVID {
	t.Helper()
	id, err := url.Parse(spiffeID)
	if err != nil {
		t.Fatal(err)
	}
	ca, caKey := consumertest.IssueCertificate(t, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, URIs: []*url.URL{{Scheme: id.Scheme, Host: id.Host}},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	cert, key := consumertest.IssueCertificate(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), BasicConstraintsValid: true, URIs: []*url.URL{id}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, ca, caKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	svid := &workload.X509SVID{SpiffeId: spiffeID, X509Svid: cert.Raw, X509SvidKey: der, Bundle: ca.Raw}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, &agent{svid: svid})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-ended
	})
	return svid
}

// setUp is what an administrator does, with the files of this folder.
func (k *keystone) setUp(t *testing.T, i *consumertest.Issuer) {
	t.Helper()
	login := k.do(t, http.MethodPost, "/v3/auth/tokens", nil, map[string]any{"auth": map[string]any{
		"identity": map[string]any{"methods": []string{"password"}, "password": map[string]any{
			"user": map[string]any{"name": "admin", "password": adminWord, "domain": map[string]any{"id": "default"}},
		}},
		"scope": map[string]any{"project": map[string]any{"name": "admin", "domain": map[string]any{"id": "default"}}},
	}})
	if k.admin = login.token(); k.admin == "" {
		t.Fatalf("the administrator: %d %s", login.status, login.body)
	}
	var roles struct{ Roles []struct{ ID, Name string } }
	a := k.do(t, http.MethodGet, "/v3/roles", http.Header{"X-Auth-Token": {k.admin}}, nil)
	if err := json.Unmarshal([]byte(a.body), &roles); err != nil {
		t.Fatalf("roles: %d %s", a.status, a.body)
	}
	for _, role := range roles.Roles {
		if role.Name == "member" {
			k.member = role.ID
		}
	}
	k.domain = k.make(t, "/v3/domains", map[string]any{"domain": map[string]any{"name": "instances", "enabled": true}}, "id")
	k.project = k.make(t, "/v3/projects", map[string]any{"project": map[string]any{"name": "shop", "domain_id": k.domain, "enabled": true}}, "id")
	i.Move(k.project)
	file := func(name string) map[string]any {
		text, err := json.Marshal(consumertest.ReadJSON(t, name))
		if err != nil {
			t.Fatal(err)
		}
		var v map[string]any
		replaced := strings.NewReplacer("https://id.example.com", i.URL, "INSTANCES_DOMAIN_ID", k.domain, "IDP_ID", k.provider).Replace(string(text))
		if err := json.Unmarshal([]byte(replaced), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	k.provider = k.make(t, "/v4/federation/identity_providers", file("identity-provider.json"), "id")
	k.make(t, "/v4/mappings/rulesets", file("ruleset.json"), "mapping_id")
	k.group = k.make(t, "/v3/groups", map[string]any{"group": map[string]any{"name": "instances-" + k.project, "domain_id": k.domain}}, "id")
}

// make makes something as the administrator, and gives its ID.
func (k *keystone) make(t *testing.T, path string, what any, id string) string {
	t.Helper()
	a := k.do(t, http.MethodPost, path, http.Header{"X-Auth-Token": {k.admin}}, what)
	var made map[string]map[string]any
	if err := json.Unmarshal([]byte(a.body), &made); err == nil && a.status/100 == 2 {
		for _, v := range made {
			if id, isText := v[id].(string); isText {
				return id
			}
		}
	}
	t.Fatalf("POST %s: %d %s", path, a.status, a.body)
	return ""
}

// federate is the exchange.
func (k *keystone) federate(t *testing.T, token string) answer {
	t.Helper()
	return k.do(t, http.MethodPost, "/v4/federation/identity_providers/"+k.provider+"/jwt", http.Header{"Authorization": {"Bearer " + token}}, nil)
}

// show is what a service learns of a token that it was given.
func (k *keystone) show(t *testing.T, token string) answer {
	t.Helper()
	return k.do(t, http.MethodGet, "/v3/auth/tokens", http.Header{"X-Auth-Token": {k.admin}, "X-Subject-Token": {token}}, nil)
}

// scope gets a token for the project, by gophercloud.
func (k *keystone) scope(t *testing.T, unscoped string) (scoped string, err error) {
	t.Helper()
	provider, err := openstack.AuthenticatedClient(t.Context(), gophercloud.AuthOptions{
		IdentityEndpoint: k.url + "/v3", TokenID: unscoped, Scope: &gophercloud.AuthScope{ProjectID: k.project},
	})
	if err != nil {
		return "", err
	}
	return provider.Token(), nil
}

// sql changes Keystone's database, as Python's Keystone would that shares it.
func (k *keystone) sql(t *testing.T, statement string, values ...string) {
	t.Helper()
	const script = `import sqlite3, sys
with sqlite3.connect("keystone.db", timeout=30) as db:
    if db.execute(sys.argv[1], sys.argv[2:]).rowcount != 1:
        sys.exit("no row")
`
	if out, err := consumertest.Run(t, time.Minute, k.dir, nil, append([]string{"python3", "-c", script, statement}, values...)...); err != nil {
		t.Fatalf("%s: %v\n%s", statement, err, out)
	}
}

type answer struct {
	status int
	header http.Header
	body   string
}

// token is Keystone's, if there is one.
func (a answer) token() string { return a.header.Get("X-Subject-Token") }

func (k *keystone) do(t *testing.T, method, path string, header http.Header, what any) answer {
	t.Helper()
	a := k.try(t, method, path, header, what)
	if a.status == 0 {
		t.Fatalf("%s %s: %s", method, path, a.body)
	}
	return a
}

// try returns the status, 0 without an answer.
func (k *keystone) try(t *testing.T, method, path string, header http.Header, what any) answer {
	t.Helper()
	var body []byte
	if what != nil {
		var err error
		if body, err = json.Marshal(what); err != nil {
			t.Fatal(err)
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), method, k.url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		r.Header[name] = values
	}
	if what != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	client := &http.Client{Timeout: 30 * time.Second}
	resp, err := client.Do(r)
	if err != nil {
		return answer{body: err.Error()}
	}
	defer func() { _ = resp.Body.Close() }()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return answer{body: fmt.Sprint(err)}
	}
	return answer{resp.StatusCode, resp.Header, string(said)}
}
