package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
)

// auditTail keeps the last audit line.
type auditTail struct {
	mu   sync.Mutex
	last map[string]any
	more chan struct{} // closed by the next line
}

func newAuditTail() *auditTail { return &auditTail{more: make(chan struct{})} }

// Write implements [io.Writer]. Each call has one line.
func (a *auditTail) Write(line []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = nil
	close(a.more)
	a.more = make(chan struct{})
	return len(line), json.Unmarshal(line, &a.last)
}

// of waits for the line of a request, and returns its reason and detail.
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

// tour sends requests and prints them with their answers.
type tour struct {
	out    io.Writer
	base   string
	cloud  *simulator.Cloud
	audit  *auditTail
	client *http.Client
	err    error // of a write to out
}

func (t *tour) say(format string, args ...any) {
	if _, err := fmt.Fprintf(t.out, format, args...); err != nil && t.err == nil {
		t.err = err
	}
}

func (t *tour) run(ctx context.Context) error {
	t.say("A simulated cloud, and %s at %s.\n", program, t.base)

	t.say("\n1. The instance web-1 asks for a token, from its address, with its ID and a role.\n")
	compact, err := t.granted(ctx, demoWeb, "web")
	if err != nil {
		return err
	}
	t.say("\n   The claims of the token:\n\n%s\n", claims(compact))

	t.say("\n2. Any service can verify it: the URL of the issuer leads to the keys.\n")
	if err := t.verify(ctx, compact); err != nil {
		return err
	}

	t.say("\n3. All denials look the same to the client. The audit log has the reason.\n")
	for _, stop := range []struct {
		title, instance, role string
		reason                attest.Reason
	}{
		{"The wrong address: db-1 has another one. Its ID is not a secret.", demoDB, "db", attest.AddressMismatch},
		{"Too old: the window of old-1 is closed.", demoOld, "web", attest.WindowClosed},
		{"The wrong role: the metadata of web-1 does not meet the rules of db.", demoWeb, "db", attest.RuleMetadata},
		{"No such instance.", "00000000-0000-4000-8000-000000000000", "web", attest.InstanceUnknown},
		{"No such role.", demoWeb, "admin", attest.RoleUnknown},
	} {
		t.say("\n   %s\n", stop.title)
		if err := t.refused(ctx, stop.instance, stop.role, http.StatusForbidden, stop.reason); err != nil {
			return err
		}
	}

	t.say("\n   Too many attempts: web-1 has made one of three.\n")
	for range 2 {
		if _, err := t.granted(ctx, demoWeb, "web"); err != nil {
			return err
		}
	}
	if err := t.refused(ctx, demoWeb, "web", http.StatusForbidden, attest.AttemptsExhausted); err != nil {
		return err
	}

	t.say("\n4. Nova is down: this is not a denial, and web-2 loses no attempt.\n")
	t.cloud.Fail("nova", simulator.Fault{Status: http.StatusServiceUnavailable})
	err = t.refused(ctx, demoSpare, "web", http.StatusServiceUnavailable, attest.CloudUnavailable)
	t.cloud.Fail("nova", simulator.Fault{})
	if err != nil {
		return err
	}
	t.say("\n   Nova is up again.\n")
	_, err = t.granted(ctx, demoSpare, "web")
	return err
}

// post asks for a token, and prints the command.
func (t *tour) post(ctx context.Context, instance, role string) (status int, body []byte, requestID string, err error) {
	t.say("\n   $ curl -w '%%{http_code}\\n' %s/auth -d instance_id=%s -d role=%s\n", t.base, instance, role)
	return t.send(ctx, http.MethodPost, "/auth", url.Values{"instance_id": {instance}, "role": {role}})
}

func (t *tour) send(ctx context.Context, method, path string, form url.Values) (status int, body []byte, requestID string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, t.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, nil, "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := t.client.Do(req)
	if err != nil {
		return 0, nil, "", err
	}
	defer resp.Body.Close()
	body, err = secret.ReadAll(resp.Body, 1<<20)
	return resp.StatusCode, bytes.TrimSpace(body), resp.Header.Get("X-Request-Id"), err
}

func (t *tour) granted(ctx context.Context, instance, role string) (compact string, err error) {
	status, body, _, err := t.post(ctx, instance, role)
	if err != nil {
		return "", err
	}
	var answer struct{ Token string }
	if err := json.Unmarshal(body, &answer); err != nil || status != http.StatusOK || answer.Token == "" {
		return "", fmt.Errorf("demo: wanted a token, got status %d: %s", status, body)
	}
	_, rest, _ := strings.Cut(answer.Token, ".")
	t.say("   %s\n   %d\n", strings.Replace(string(body), rest, "...", 1), status)
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

// verify does what a verifier does, with a library that we did not write.
func (t *tour) verify(ctx context.Context, compact string) error {
	for _, path := range []string{"/.well-known/openid-configuration", "/.well-known/jwks.json"} {
		t.say("\n   $ curl %s%s\n", t.base, path)
		status, body, _, err := t.send(ctx, http.MethodGet, path, nil)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		if err != nil {
			return fmt.Errorf("demo: GET %s: %w", path, err)
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
	t.say("   ... and rejects it with another signature, and for another audience\n")
	return nil
}

// claims returns the payload of a token, unverified, for people to read.
func claims(compact string) string {
	_, rest, _ := strings.Cut(compact, ".")
	payload, _, _ := strings.Cut(rest, ".")
	data, err := base64.RawURLEncoding.DecodeString(payload)
	var pretty bytes.Buffer
	if err != nil || json.Indent(&pretty, data, "   ", "  ") != nil {
		return ""
	}
	return "   " + pretty.String()
}
