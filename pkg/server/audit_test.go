package server_test

import (
	"context"
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

func decodeSegment(t testing.TB, s string) []byte {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// stalled is a pipe that nobody reads.
type stalled chan struct{}

func (s stalled) Write(p []byte) (int, error) { <-s; return len(p), nil }

// A required log that takes no line keeps tokens back, and requests no longer
// than its deadline: neither the first, nor those that find the queue full.
func TestAStalledAuditLogThatIsRequired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pipe := make(stalled)
		s := newScene(t)
		s.audit, s.window.Limit, s.window.Period = pipe, 1<<20, 24*time.Hour
		d := s.open(t)
		defer close(pipe)
		for range server.AuditQueue + 3 {
			began := time.Now()
			got := d.ask(t, home, webForm)
			got.wants(t, http.StatusServiceUnavailable, "temporarily_unavailable", "")
			if took := time.Since(began); took != server.AuditWait {
				t.Fatalf("an answer took %v, want %v", took, server.AuditWait)
			}
		}
		d.ask(t, other, webForm).wants(t, http.StatusForbidden, "access_denied", "") // a no needs no line
		if n := d.decisions(t, "web", "failed", attest.AuditUnavailable); n != "1027" {
			t.Errorf("%s decisions failed for want of a line", n)
		}
		if n := d.decisions(t, "web", "granted", attest.Granted); n != "0" {
			t.Errorf("%s tokens were granted", n)
		}
		if n := d.metric(t, "nova_authenticator_audit_lost_total"); n != "1028" {
			t.Errorf("audit_lost_total is %s", n)
		}
	})
}

// One that is not required holds up nothing, and its losses are counted.
func TestAStalledAuditLogThatIsNotRequired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pipe := make(stalled)
		s := newScene(t)
		s.audit, s.lossy, s.window.Limit = pipe, true, 1<<20
		d := s.open(t)
		defer close(pipe)
		d.ask(t, home, webForm).granted(t)
		synctest.Wait() // the writer has the first line, and stands
		began := time.Now()
		for range server.AuditQueue + 5 {
			d.ask(t, home, webForm).granted(t)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("the answers took %v", took)
		}
		if n := d.metric(t, "nova_authenticator_audit_lost_total"); n != "5" {
			t.Errorf("audit_lost_total is %s, want 5", n)
		}
	})
}

// A line that nobody waited for can be lost when it is written, say on a full
// disk.
func TestLinesThatCannotBeWrittenAreCounted(t *testing.T) {
	s := newScene(t)
	s.audit, s.lossy = failing{}, true
	d := s.open(t)
	got := d.ask(t, home, webForm)
	got.granted(t)
	if err := d.auditLog.Close(); err != nil {
		t.Fatal(err)
	}
	if n := d.metric(t, "nova_authenticator_audit_lost_total"); n != "1" {
		t.Errorf("audit_lost_total is %s", n)
	}
	if line := d.log.only(t, got); line["level"] != "ERROR" || line["msg"] != "audit line lost" {
		t.Errorf("the log has %v", line)
	}
}

func TestNoTokenAfterTheAuditLogIsClosed(t *testing.T) {
	d := newScene(t).open(t)
	for range 2 {
		if err := d.auditLog.Close(); err != nil {
			t.Fatal(err)
		}
	}
	d.ask(t, home, webForm).wants(t, http.StatusServiceUnavailable, "temporarily_unavailable", "")
}

func TestClosingAStalledAuditLogEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pipe := make(stalled)
		s := newScene(t)
		s.audit, s.lossy = pipe, true
		d := s.open(t)
		defer close(pipe)
		d.ask(t, other, webForm)
		began := time.Now()
		if err := d.auditLog.Close(); err == nil || time.Since(began) != server.AuditWait {
			t.Errorf("Close says %v after %v", err, time.Since(began))
		}
	})
}

func TestAuditOutputs(t *testing.T) {
	t.Run("stdout and stderr are the process's", func(t *testing.T) {
		for _, output := range []string{"stdout", "stderr"} {
			streams := map[string]*lines{"stdout": newLines(), "stderr": newLines()}
			a, err := server.OpenAuditLog(server.AuditConfig{Output: output, Required: true}, streams["stdout"], streams["stderr"])
			if err != nil {
				t.Fatal(err)
			}
			ask(t, a)
			for name, s := range streams {
				if got, want := strings.Count(s.String(), "\n"), map[bool]int{true: 1}[name == output]; got != want {
					t.Errorf("output %s: %d lines on %s", output, got, name)
				}
			}
		}
	})
	t.Run("a file is its owner's, and is appended to", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "audit.log")
		for range 2 {
			a, err := server.OpenAuditLog(server.AuditConfig{Output: file, Required: true}, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			ask(t, a)
		}
		data, err := os.ReadFile(file)
		if err != nil || strings.Count(string(data), "\n") != 2 {
			t.Errorf("the file has %q (%v)", data, err)
		}
		if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
			t.Errorf("the file is %v (%v)", info.Mode(), err)
		}
	})
	t.Run("a file that cannot be opened", func(t *testing.T) {
		if _, err := server.OpenAuditLog(server.AuditConfig{Output: filepath.Join(t.TempDir(), "no", "audit.log")}, nil, nil); err == nil {
			t.Error("no error")
		}
	})
}

// ask asks once at a server that writes to a, and closes a.
func ask(t *testing.T, a *server.AuditLog) {
	t.Helper()
	d := newScene(t).open(t)
	s := server.New(server.Options{
		Attestor: &attest.Attestor{}, Issuer: newIssuer(t, "https://id.example.com"), Audit: a, Log: d.logger,
		Metrics:  server.NewMetrics("", "", func() int { return 0 }),
		Throttle: server.ThrottleConfig{PerAddress: d.scene.throttle},
	})
	s.ServeHTTP(discard{http.Header{}}, d.request(home, webForm).WithContext(context.Background()))
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}
