//go:build agents

package agents_test

import (
	"crypto"
	"crypto/elliptic"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring/keyringtest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
)

const (
	issuer       = "https://id.example.com"
	roleForAll   = "for-all"
	novaDelay    = 1500 * time.Millisecond
	novaLongText = 20_000
)

// door is the authenticator's binary, with a simulated cloud and a server in the place of Nova's metadata API behind it.
type door struct {
	dir      string
	agents   string // the port for agents
	metrics  string
	cloud    *simulator.Cloud
	nova     *httptest.Server
	verifier *oidc.IDTokenVerifier
	cmd      *exec.Cmd
	ended    chan struct{}
}

// settings are what differs between doors.
type settings struct {
	unstated bool // without agentsLimitHeaders
	burst    int  // requests of an instance at once; 0: plenty
}

func newDoor(t *testing.T, dir string, guests ...*guest) *door {
	t.Helper()
	ports, err := awaittest.FreePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	key := keyringtest.EC(t, elliptic.P256())
	write(t, filepath.Join(dir, "key.pem"), string(keyringtest.PKCS8(t, key)))
	write(t, filepath.Join(dir, "secret"), secret)
	d := &door{dir: dir, agents: ports[0], metrics: ports[1]}
	d.verifier = oidc.NewVerifier(issuer, &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{key.Public()}},
		&oidc.Config{SkipClientIDCheck: true, SupportedSigningAlgs: []string{oidc.ES256}})
	if d.cloud, err = simulator.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.cloud.Close() })
	d.cloud.AddAccount(simulator.Account{Name: "authenticator", Password: "secret-word", ProjectName: "service", Roles: []string{"reader", "instance_reader"}})
	for _, g := range guests {
		d.cloud.SetServer(simulator.Server{
			ID: g.device, Name: g.name, ProjectID: g.project, UserID: "821a2eaac0724c069aa6a44bd7b91935", Flavor: "m1.small",
			Created: time.Now(), Launched: time.Now(), Metadata: map[string]string{"role": g.name},
			Addresses: []simulator.Address{{Network: "work", Addr: g.v4, MAC: g.mac}},
		})
	}
	d.nova = httptest.NewServer(http.HandlerFunc(serveNova))
	t.Cleanup(d.nova.Close)
	return d
}

// fromNova is what the server in Nova's place answers.
type fromNova struct {
	Instance string `json:"uuid"`
	Project  string `json:"of"`
	Method   string `json:"method"`
	URI      string `json:"uri"`
	Text     string `json:"text,omitempty"`
}

func serveNova(w http.ResponseWriter, r *http.Request) {
	said := fromNova{r.Header.Get("X-Instance-ID"), r.Header.Get("X-Tenant-ID"), r.Method, r.RequestURI, ""}
	switch r.URL.Path {
	case "/slow":
		select {
		case <-time.After(novaDelay):
		case <-r.Context().Done():
		}
	case "/long":
		said.Text = strings.Repeat("a", novaLongText)
	}
	body, _ := json.Marshal(said) // never fails: it has texts alone
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	if r.URL.Path == "/none" {
		w.WriteHeader(http.StatusNotFound)
	}
	_, _ = w.Write(body)
}

// start starts the binary, and waits until it issues tokens. One that runs is ended.
func (d *door) start(t *testing.T, s settings) {
	t.Helper()
	if d.cmd != nil {
		endProcess(d.cmd, d.ended)
	}
	statement := "agentsLimitHeaders: true"
	if s.unstated {
		statement = "agentsLimitHeaders: false"
	}
	rate := "{rate: 100000, burst: 100000}"
	if s.burst > 0 {
		rate = fmt.Sprintf("{rate: 0.01, burst: %d}", s.burst)
	}
	write(t, filepath.Join(d.dir, "config.yml"), fmt.Sprintf(`listen: 127.0.0.1:0
metrics: {listen: "127.0.0.1:%[1]s"}
state: {type: memory}
audit: {output: audit.log}
log: {format: text}
auth: {signingKeyFile: key.pem, tokenIssuer: "%[2]s"}
throttle: {perInstance: %[3]s}
metadataService:
  listen: 127.0.0.1:%[4]s
  agents: 127.0.0.1
  sharedSecretFile: secret
  nova: %[5]s
  %[6]s
roles:
  %[7]s: {allowAnyInstance: true, proof: metadataService, anyAudience: true}
  only-web: {metadata: {role: web}, proof: metadataService}
  only-db: {metadata: {role: db}, proof: metadataService}
`, d.metrics, issuer, rate, d.agents, d.nova.URL, statement, roleForAll))
	d.cmd = exec.Command("timeout", bounded(t, authenticator(), "-c", filepath.Join(d.dir, "config.yml"))...)
	d.cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "OS_") }),
		"OS_AUTH_URL="+d.cloud.AuthURL(), "OS_USERNAME=authenticator", "OS_PASSWORD=secret-word",
		"OS_PROJECT_NAME=service", "OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_DOMAIN_NAME=Default")
	log, err := os.OpenFile(filepath.Join(d.dir, "door.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.ended = startProcess(t, d.cmd)
	client := &http.Client{Timeout: time.Second}
	awaittest.Success(t, "the authenticator", func() error {
		select {
		case <-d.ended:
			t.Fatalf("the authenticator ended:\n%s", tail(log.Name()))
		default:
		}
		resp, err := client.Get("http://127.0.0.1:" + d.metrics + "/readyz/auth")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", resp.Status)
		}
		return nil
	})
}

// audited returns the audit log.
func (d *door) audited(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(d.dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
