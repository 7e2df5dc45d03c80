package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
)

// heard is a server whose stdout and stderr are one pipe, as in a container. The test reads it
// or does not.
type heard struct {
	*replica

	agents string
	reader *os.File
	exited chan error
}

// launchHeard starts a server that passes metadata on to a Nova.
func launchHeard(t *testing.T, audit string) *heard {
	t.Helper()
	s := newSite(t)
	nova := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "metadata") }))
	t.Cleanup(nova.Close)
	port := freePorts(t, 1)[0]
	h := &heard{replica: s.newReplica(t, "heard", 1000, "{type: memory}"), agents: "http://127.0.0.1:" + port, exited: make(chan error, 1)}
	text, err := os.ReadFile(h.file)
	if err != nil {
		t.Fatal(err)
	}
	config := strings.Replace(string(text), "audit: {output: heard.audit}", "audit: "+audit, 1) + fmt.Sprintf(
		"metadataService: {listen: \"127.0.0.1:%s\", agents: [127.0.0.1], sharedSecretFile: metadata.secret, nova: %q}\n", port, nova.URL)
	for name, text := range map[string]string{h.file: config, s.dir + "/metadata.secret": "shared-secret\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	h.reader = reader
	t.Cleanup(func() { _ = reader.Close() })
	h.cmd = exec.Command(h.binary(), "-c", h.file)
	h.cmd.Env, h.cmd.Stdout, h.cmd.Stderr = s.env, writer, writer
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = writer.Close()
	h.ended = make(chan struct{})
	go func() {
		defer close(h.ended)
		h.exited <- h.cmd.Wait()
	}()
	h.ready(t)
	return h
}

// get returns the status and body of a page. A stalled log must not delay it.
func (h *heard) get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return resp.StatusCode, string(data)
}

// deny makes denied requests over one connection.
func deny(t *testing.T, h *heard, times int) {
	t.Helper()
	address := strings.TrimPrefix(h.url, "http://")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(60 * time.Second))
	const form = "instance_id=1b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5a21&role=nobody"
	request := fmt.Sprintf("POST /auth HTTP/1.1\r\nHost: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", address, len(form), form)
	answers := bufio.NewReader(conn)
	for range times {
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != http.StatusForbidden {
			t.Fatalf("a denied client gets %s", resp.Status)
		}
	}
}

func (h *heard) terminate(t *testing.T) {
	t.Helper()
	if err := h.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-h.exited:
		if err != nil {
			t.Errorf("the server ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("SIGTERM does not end the server")
	}
}

// A stalled reader of the logs delays no decision, no metadata agent, no page and no shutdown.
func TestAStalledReaderDelaysNothing(t *testing.T) {
	h := launchHeard(t, "{output: stdout}")
	deny(t, h, 2000) // some 800 KB: more than a pipe and the queue hold
	other, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IP(netip.MustParseAddr("127.0.0.66").AsSlice())}}).Dial("tcp", strings.TrimPrefix(h.agents, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for range 3 {
		if status, body := h.get(t, h.agents+"/latest/meta-data/"); status != http.StatusOK || body != "metadata" {
			t.Errorf("Nova's metadata: %d %q", status, body)
		}
	}
	if status, _ := h.get(t, h.url+"/.well-known/jwks.json"); status != http.StatusOK {
		t.Errorf("the key set: %d", status)
	}
	if a, err := h.ask(t.Context(), h.site.newInstance()); err != nil || a.status != http.StatusOK {
		t.Errorf("a token: %+v, %v", a, err)
	}
	if _, body := h.get(t, h.metrics+"/metrics"); !strings.Contains(body, "nova_authenticator_audit_lost_total") {
		t.Error("no metrics")
	}
	h.terminate(t)
}

// With audit.required a stalled reader prevents tokens, and nothing else.
func TestAStalledReaderOfRequiredLinesPreventsTokens(t *testing.T) {
	h := launchHeard(t, "{output: stdout, required: true}")
	if a, err := h.ask(t.Context(), h.site.newInstance()); err != nil || a.status != http.StatusOK {
		t.Fatalf("a token before the stall: %+v, %v", a, err)
	}
	deny(t, h, 2000)
	id := h.site.newInstance()
	for range 2 {
		if a, err := h.ask(t.Context(), id); err != nil || a.status != http.StatusServiceUnavailable {
			t.Errorf("a token without its line: %+v, %v", a, err)
		}
	}
	if status, body := h.get(t, h.metrics+"/readyz/auth"); status != http.StatusServiceUnavailable || !strings.Contains(body, `"audit":"the output has accepted no line`) {
		t.Errorf("/readyz/auth: %d %s", status, body)
	}
	if status, body := h.get(t, h.agents+"/"); status != http.StatusOK || body != "metadata" {
		t.Errorf("Nova's metadata: %d %q", status, body)
	}
	if status, _ := h.get(t, h.metrics+"/readyz"); status != http.StatusOK {
		t.Errorf("/readyz: %d", status)
	}

	// The reader continues: tokens are issued again, and the log reports lost lines.
	said := make(chan string, 1)
	go func() {
		var text bytes.Buffer
		_, _ = io.Copy(&text, h.reader)
		said <- text.String()
	}()
	awaittest.Success(t, "a token, when lines are read again", func() error {
		if a, err := h.ask(t.Context(), id); err != nil || a.status != http.StatusOK {
			return fmt.Errorf("%+v, %w", a, err)
		}
		return nil
	})
	h.terminate(t)
	text := <-said
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "{") || !strings.HasSuffix(line, "}\n") {
			t.Errorf("a line is not whole: %q", line)
		}
	}
	if !strings.Contains(text, `"msg":"lines of the log were lost"`) {
		t.Error("the log does not say that lines were lost")
	}
}

func TestTheServerOutlivesAReader(t *testing.T) {
	h := launchHeard(t, "{output: stdout}")
	deny(t, h, 1)
	if err := h.reader.Close(); err != nil {
		t.Fatal(err)
	}
	deny(t, h, 20)
	if a, err := h.ask(t.Context(), h.site.newInstance()); err != nil || a.status != http.StatusOK {
		t.Errorf("a token: %+v, %v", a, err)
	}
	h.terminate(t)
}
