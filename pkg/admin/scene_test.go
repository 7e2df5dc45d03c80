package admin_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/admin"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

var status = admin.Status{Version: "1.2.3", Commit: "abc", Config: "c0ffee", Started: "2026-11-23T12:00:00Z"}

// scene is a handler on a state in memory, with one instance that made one attempt.
type scene struct {
	admin.Options
	instance attest.InstanceID
	audit    lines
	stream   *audit.Stream
	log      bytes.Buffer
	ahead    atomic.Int64 // how far the clock of the keys is ahead, in nanoseconds
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{audit: lines{marked: make(chan string, 1)}}
	store := &state.Memory{}
	logger := slog.New(slog.DiscardHandler)
	plan, err := keyring.Config{Algorithm: "ES256", RotationPeriod: 720 * time.Hour, MaxAge: 10 * time.Minute}.Plan(0)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.New(plan, store, keyring.Options{Issuer: "https://id.example.com", Log: logger, Initialize: true, Now: func() time.Time {
		return time.Now().Add(time.Duration(s.ahead.Load()))
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.instance = ask(t, store, keys.Denials())
	s.stream = audit.NewStream(&s.audit, "json")
	t.Cleanup(func() { _ = s.stream.Close() })
	s.Options = admin.Options{
		Status: status, Register: &attest.Register{Store: store, Denials: keys.Denials()}, Keys: keys,
		Log: slog.New(slog.NewJSONHandler(&s.log, nil)),
	}
	if s.Audit, err = audit.Open(audit.Config{Output: "stdout"}, s.stream, nil); err != nil {
		t.Fatal(err)
	}
	return s
}

// ask makes an attempt of the instance of attesttest.
func ask(t *testing.T, store state.Store, denials attest.Denials) attest.InstanceID {
	t.Helper()
	instance := attesttest.Instance(t)
	policy := attest.NewPolicy(attesttest.Issuer(t, ""), attesttest.Role(t, "web"))
	a := attest.Attestor{Policy: policy, Instances: attesttest.Cloud{instance.ID: instance}, State: store, Denials: denials}
	r := attest.Request{Instance: instance.ID, Evidence: attest.FromAddress(attesttest.Addr)}
	var err error
	if r.Role, err = attest.ParseRoleName("web"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Attest(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	return instance.ID
}

// serve serves on a socket until the test ends.
func (s *scene) serve(t *testing.T) *http.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "admin.sock")
	socket, err := listen.ParseSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := listen.Socket(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := listen.Serve(ctx, s.Log, listen.Endpoint{Name: "admin", Listener: l, Handler: admin.NewHandler(s.Options)}); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(func() {
		stop()
		serving.Wait()
	})
	return admin.NewClient(path)
}

// lines collects audit lines up to a mark.
type lines struct {
	text   []byte
	marked chan string
}

func (l *lines) Write(p []byte) (int, error) {
	l.text = append(l.text, p...)
	if bytes.Contains(l.text, []byte(`"msg":"mark"`)) {
		l.marked <- string(l.text)
		l.text = nil
	}
	return len(p), nil
}

// lines returns the audit lines since the last call.
func (s *scene) lines(t *testing.T) string {
	t.Helper()
	if err := s.Audit.Record(audit.Event{Name: "mark", Proven: true}, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	text := <-s.audit.marked
	return text[:strings.LastIndex(strings.TrimSuffix(text, "\n"), "\n")+1]
}

// send makes a request without the checks of Call.
func send(t *testing.T, c *http.Client, method, path, body string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://admin"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}
