package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/spf13/cobra"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
)

const (
	demoAddress  = "127.0.0.1:18775"
	demoProject  = "7e562c1a85814230b973a83db9534b02"
	demoUser     = "821a2eaac0724c069aa6a44bd7b91935"
	demoPassword = "demo"

	demoWeb   = "88802a48-f721-4561-b9d6-4f28cb4eca3a"
	demoDB    = "5ad2d1b0-6c1c-4a43-9f0e-3f1d5a7f0b11"
	demoOld   = "0c9b2f3e-8d57-4b57-8f0a-5f6f2f0f7a22"
	demoSpare = "e1f5c0de-2b6a-4d0c-9a3b-7d4c5b6a7f33"
)

const demoConfig = `listen: %s
auth:
  signingKeyFile: key.pem
  tokenIssuer: http://%s
openstack:
  cloud: demo
  cloudsFile: clouds.yaml
metrics: {listen: ""}
log: {level: error}
audit: {required: true}
roles:
  web:
    projectID: ` + demoProject + `
    metadata: {role: web}
  db:
    projectID: ` + demoProject + `
    metadata: {role: db}
`

const demoClouds = `clouds:
  demo:
    auth:
      auth_url: %s
      username: authenticator
      password: ` + demoPassword + `
      project_name: service
      user_domain_name: Default
      project_domain_name: Default
`

func newDemoCommand(stdout io.Writer) *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show it at work: a simulated cloud, a real server, a token, its verification, and the refusals",
		Long: `Starts a small simulated Keystone and Nova and the real server on loopback, and
goes through what an instance, a verifier and an attacker see, as the curl
commands that a person could type. It needs no cloud and no file, and then
serves until Ctrl-C, for commands of your own.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo(cmd.Context(), stdout, once)
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "end after the tour; the exit status says whether all was as told")
	return cmd
}

func demo(ctx context.Context, stdout io.Writer, once bool) error {
	cloud, err := demoCloud()
	if err != nil {
		return err
	}
	defer cloud.Close()
	dir, err := os.MkdirTemp("", program+"-demo-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	address, err := freeAddress()
	if err != nil {
		return err
	}
	file, err := demoFiles(dir, address, cloud.AuthURL())
	if err != nil {
		return err
	}
	c, err := config.Load(file)
	if err != nil {
		return err
	}
	audit := newAuditTail()
	var log bytes.Buffer // the tour makes errors; they are shown if it fails
	out := newOutputs(c.Log, audit, &log)
	s, err := newService(c, out)
	if err != nil {
		out.close()
		return err
	}
	defer out.close()
	defer s.close()

	serving, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- s.run(serving) }()

	t := &tour{out: stdout, base: "http://" + address, cloud: cloud, audit: audit, client: &http.Client{Timeout: 10 * time.Second}}
	err = t.run(ctx)
	if err == nil && !once {
		t.say("\nThe server goes on until Ctrl-C. For the next minutes web-2 has two attempts left:\n\n   curl %s/auth -d instance_id=%s -d role=web\n", t.base, demoSpare)
		select {
		case <-ctx.Done():
		case err := <-ended:
			return err
		}
	}
	stop()
	if err = errors.Join(err, <-ended, t.err); err != nil {
		out.close() // has written all
		t.say("\n%s", log.String())
	}
	return err
}

// demoCloud has four instances: two that the machine of the demo can pose as,
// one elsewhere, and one that is too old.
func demoCloud() (*simulator.Cloud, error) {
	cloud, err := simulator.Start()
	if err != nil {
		return nil, fmt.Errorf("simulated cloud: %w", err)
	}
	cloud.AddAccount(simulator.Account{
		Name: "authenticator", Password: demoPassword, DomainID: "default", DomainName: "Default",
		ProjectName: "service", ProjectDomainID: "default", ProjectDomainName: "Default",
		Roles: []string{"reader", "instance_reader"},
	})
	now := time.Now()
	for _, s := range []simulator.Server{
		{ID: demoWeb, Name: "web-1", Metadata: map[string]string{"role": "web"}, Created: now, Addresses: []simulator.Address{{Network: "private", Addr: "127.0.0.1", Type: "fixed"}}},
		{ID: demoSpare, Name: "web-2", Metadata: map[string]string{"role": "web"}, Created: now, Addresses: []simulator.Address{{Network: "private", Addr: "127.0.0.1", Type: "fixed"}}},
		{ID: demoDB, Name: "db-1", Metadata: map[string]string{"role": "db"}, Created: now, Addresses: []simulator.Address{{Network: "private", Addr: "10.20.0.12", Type: "fixed"}}},
		{ID: demoOld, Name: "old-1", Metadata: map[string]string{"role": "web"}, Created: now.Add(-time.Hour), Addresses: []simulator.Address{{Network: "private", Addr: "127.0.0.1", Type: "fixed"}}},
	} {
		s.Status, s.VMState, s.ProjectID, s.UserID, s.Launched, s.Flavor = "ACTIVE", "active", demoProject, demoUser, s.Created, "m1.small"
		cloud.SetServer(s)
	}
	return cloud, nil
}

// freeAddress is the usual one if nobody has it.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", demoAddress)
	if err != nil {
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return "", err
		}
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func demoFiles(dir, address, authURL string) (config string, err error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	config = filepath.Join(dir, "config.yml")
	for name, data := range map[string]string{
		"config.yml":  fmt.Sprintf(demoConfig, address, address),
		"clouds.yaml": fmt.Sprintf(demoClouds, authURL),
		"key.pem":     string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			return "", err
		}
	}
	return config, nil
}

// auditTail keeps the last audit line.
type auditTail struct {
	mu   sync.Mutex
	last map[string]any
	more chan struct{} // closed by the next line
}

func newAuditTail() *auditTail { return &auditTail{more: make(chan struct{})} }

// Write implements [io.Writer]: one call is one line.
func (a *auditTail) Write(line []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = nil
	close(a.more)
	a.more = make(chan struct{})
	return len(line), json.Unmarshal(line, &a.last)
}

// of gives the reason and detail of the line of a request, which is written soon after
// its answer.
func (a *auditTail) of(requestID string) (reason attest.Reason, detail string) {
	for {
		a.mu.Lock()
		last, more := a.last, a.more
		a.mu.Unlock()
		if last["request_id"] == requestID {
			word, _ := last["reason"].(string)
			detail, _ = last["detail"].(string)
			return attest.Reason(word), detail
		}
		select {
		case <-more:
		case <-time.After(5 * time.Second):
			return "", ""
		}
	}
}

// tour goes through the stops and keeps what was not as told.
type tour struct {
	out    io.Writer
	base   string
	cloud  *simulator.Cloud
	audit  *auditTail
	client *http.Client
	err    error // of writing
}

func (t *tour) say(format string, args ...any) {
	if _, err := fmt.Fprintf(t.out, format, args...); err != nil && t.err == nil {
		t.err = err
	}
}

func (t *tour) run(ctx context.Context) error {
	t.say("A simulated cloud, and %s at %s.\n", program, t.base)

	t.say("\n1. The instance web-1 asks for its token, from its own address, with its ID and a role.\n")
	compact, err := t.granted(ctx, demoWeb, "web")
	if err != nil {
		return err
	}
	t.say("\n   What the token says:\n\n%s\n", claims(compact))

	t.say("\n2. Any service verifies it: it finds the keys by the issuer's name alone.\n")
	if err := t.verify(ctx, compact); err != nil {
		return err
	}

	t.say("\n3. All refusals look the same to the caller. The operator reads the reason in the audit log.\n")
	for _, stop := range []struct {
		title, instance, role string
		reason                attest.Reason
	}{
		{"The wrong address: db-1 is elsewhere, and its ID is no secret.", demoDB, "db", attest.AddressMismatch},
		{"Too old: the window of old-1 has closed.", demoOld, "web", attest.WindowClosed},
		{"The wrong role: web-1 is no database.", demoWeb, "db", attest.RuleMetadata},
		{"No such instance.", "00000000-0000-4000-8000-000000000000", "web", attest.InstanceUnknown},
		{"No such role.", demoWeb, "admin", attest.RoleUnknown},
	} {
		t.say("\n   %s\n", stop.title)
		if err := t.refused(ctx, stop.instance, stop.role, http.StatusForbidden, stop.reason); err != nil {
			return err
		}
	}

	t.say("\n   Too many attempts: web-1 has asked once and may ask three times.\n")
	for range 2 {
		if _, err := t.granted(ctx, demoWeb, "web"); err != nil {
			return err
		}
	}
	if err := t.refused(ctx, demoWeb, "web", http.StatusForbidden, attest.AttemptsExhausted); err != nil {
		return err
	}

	t.say("\n4. Nova is down: that is no verdict, and it costs web-2 no attempt.\n")
	t.cloud.Fail("nova", simulator.Fault{Status: http.StatusServiceUnavailable})
	err = t.refused(ctx, demoSpare, "web", http.StatusServiceUnavailable, attest.CloudUnavailable)
	t.cloud.Fail("nova", simulator.Fault{})
	if err != nil {
		return err
	}
	t.say("\n   Nova is back.\n")
	_, err = t.granted(ctx, demoSpare, "web")
	return err
}

// post asks for a token and shows the command and the answer.
func (t *tour) post(ctx context.Context, instance, role string) (status int, body []byte, requestID string, err error) {
	form := url.Values{"instance_id": {instance}, "role": {role}}
	t.say("\n   $ curl -w '%%{http_code}\\n' %s/auth -d instance_id=%s -d role=%s\n", t.base, instance, role)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.base+"/auth", strings.NewReader(form.Encode()))
	if err != nil {
		return 0, nil, "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := t.client.Do(req)
	if err != nil {
		return 0, nil, "", err
	}
	defer resp.Body.Close()
	if body, err = secret.ReadAll(resp.Body, 1<<20); err != nil {
		return 0, nil, "", err
	}
	return resp.StatusCode, bytes.TrimSpace(body), resp.Header.Get("X-Request-Id"), nil
}

func (t *tour) granted(ctx context.Context, instance, role string) (compact string, err error) {
	status, body, _, err := t.post(ctx, instance, role)
	if err != nil {
		return "", err
	}
	var answer struct{ Token string }
	if err := json.Unmarshal(body, &answer); err != nil || status != http.StatusOK {
		return "", fmt.Errorf("demo: wanted a token, got status %d: %s", status, body)
	}
	head, rest, _ := strings.Cut(answer.Token, ".")
	t.say("   %s\n   %d\n", strings.Replace(string(body), rest, "...", 1), status)
	if head == "" {
		return "", fmt.Errorf("demo: %q is no token", answer.Token)
	}
	return answer.Token, nil
}

func (t *tour) refused(ctx context.Context, instance, role string, status int, reason attest.Reason) error {
	got, body, id, err := t.post(ctx, instance, role)
	if err != nil {
		return err
	}
	t.say("   %s\n   %d\n", body, got)
	word, detail := t.audit.of(id)
	t.say("   the audit log: %s: %s\n", word, detail)
	if got != status || word != reason {
		return fmt.Errorf("demo: wanted status %d for %s, got %d for %q", status, reason, got, word)
	}
	return nil
}

// verify does what a relying party does, with a library that is not ours.
func (t *tour) verify(ctx context.Context, compact string) error {
	for _, path := range []string{"/.well-known/openid-configuration", "/.well-known/jwks.json"} {
		t.say("\n   $ curl %s%s\n", t.base, path)
		body, err := t.get(ctx, t.base+path)
		if err != nil {
			return err
		}
		t.say("   %s\n", secret.Clip(string(body), 300))
	}
	ctx = oidc.ClientContext(ctx, t.client)
	provider, err := oidc.NewProvider(ctx, t.base)
	if err != nil {
		return fmt.Errorf("demo: discovery: %w", err)
	}
	audience := t.base + "/roles/web"
	verified, err := provider.Verifier(&oidc.Config{ClientID: audience}).Verify(ctx, compact)
	if err != nil {
		return fmt.Errorf("demo: verification: %w", err)
	}
	t.say("\n   github.com/coreos/go-oidc accepts it: subject %s, audience %s\n", verified.Subject, audience)
	broken := compact[:len(compact)-8] + "AAAAAAAA"
	if _, err := provider.Verifier(&oidc.Config{ClientID: audience}).Verify(ctx, broken); err == nil {
		return errors.New("demo: a token with a changed signature was accepted")
	}
	if _, err := provider.Verifier(&oidc.Config{ClientID: t.base + "/roles/db"}).Verify(ctx, compact); err == nil {
		return errors.New("demo: a token for another audience was accepted")
	}
	t.say("   ... and refuses it with another signature, and for another audience\n")
	return nil
}

func (t *tour) get(ctx context.Context, u string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	resp, err := t.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("demo: GET %s: %s", u, resp.Status)
	}
	return secret.ReadAll(resp.Body, 1<<20)
}

// claims is the token's payload, for reading; it verifies nothing.
func claims(compact string) string {
	parts := strings.Split(compact, ".")
	if len(parts) != 3 {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, payload, "   ", "  "); err != nil {
		return ""
	}
	return "   " + pretty.String()
}
