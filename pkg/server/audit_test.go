package server_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
)

// stalled is a pipe without a reader.
type stalled chan struct{}

func (s stalled) Write(p []byte) (int, error) { <-s; return len(p), nil }

// If a required log accepts no line, there are no tokens, and each request takes as long
// as the deadline of the log: the first one, and those that find the queue full.
func TestAStalledAuditLogThatIsRequired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pipe := make(stalled)
		s := newScene(t)
		s.audit, s.window.Limit, s.window.Period = pipe, 1<<20, 24*time.Hour
		d := s.open(t)
		defer close(pipe)
		for range audit.QueueLines + 3 {
			began := time.Now()
			got := d.ask(t, home, webForm)
			got.wants(t, http.StatusServiceUnavailable, "temporarily_unavailable", "")
			if took := time.Since(began); took != audit.Wait {
				t.Fatalf("an answer took %v, want %v", took, audit.Wait)
			}
		}
		began := time.Now()
		d.ask(t, other, webForm).wants(t, http.StatusForbidden, "access_denied", "") // a denial does not wait for its line
		if took := time.Since(began); took != 0 {
			t.Errorf("a denial took %v", took)
		}
		if n := d.decisions(t, "web", "failed", "audit_unavailable"); n != "1027" {
			t.Errorf("%s decisions failed because the line was not written", n)
		}
		if n := d.decisions(t, "web", "granted", "granted"); n != "0" {
			t.Errorf("%s tokens were granted", n)
		}
		if n := d.metric(t, "nova_authenticator_audit_lost_total"); n != "1027" {
			t.Errorf("audit_lost_total is %s", n)
		}
	})
}

// A log that is not required delays nothing, and its losses are counted.
func TestAStalledAuditLogThatIsNotRequired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pipe := make(stalled)
		s := newScene(t)
		s.audit, s.lossy, s.window.Limit = pipe, true, 1<<20
		d := s.open(t)
		defer close(pipe)
		d.ask(t, home, webForm).granted(t)
		synctest.Wait() // the writer has the first line, and is blocked
		began := time.Now()
		for range audit.QueueLines + 5 {
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

// A line can also be lost when it is written, say on a full disk.
func TestLinesThatCannotBeWrittenAreCounted(t *testing.T) {
	s := newScene(t)
	s.audit, s.lossy = failing{}, true
	d := s.open(t)
	got := d.ask(t, home, webForm)
	got.granted(t)
	if err := d.stream.Close(); err != nil {
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
		if err := d.stream.Close(); err != nil {
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
		if err := d.stream.Close(); err == nil || time.Since(began) != audit.Wait {
			t.Errorf("Close says %v after %v", err, time.Since(began))
		}
	})
}
