package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen/listentest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

func TestGranted(t *testing.T) {
	d := newScene(t).open(t)
	before := time.Now().Truncate(time.Second)
	got := d.ask(t, home, webForm)
	compact := got.granted(t)
	var body map[string]any
	if err := json.Unmarshal([]byte(got.body), &body); err != nil {
		t.Fatal(err)
	}
	if len(body) != 3 {
		t.Errorf("the body is %s", got.body)
	}
	if in := body["expires_in"].(float64); in < 590 || in > 600 {
		t.Errorf("expires_in is %v", in)
	}
	at, err := time.Parse("2006-01-02T15:04:05Z", body["expires_at"].(string))
	if err != nil || at.Before(before.Add(10*time.Minute)) || at.After(time.Now().Add(10*time.Minute)) {
		t.Errorf("expires_at is %v (%v)", body["expires_at"], err)
	}

	line := d.audit.only(t, got)
	if line["jti"] == nil || line["jti"] != claim(t, compact, "jti") {
		t.Errorf("the audit line has jti %v, the token %v", line["jti"], claim(t, compact, "jti"))
	}
	delete(line, "time")
	delete(line, "seconds")
	delete(line, "jti")
	want := map[string]any{
		"level": "INFO", "msg": "decision", "door": "address", "outcome": "granted", "reason": "granted",
		"request_id": got.header.Get("X-Request-Id"), "client": home, "peer": home + ":4711",
		"instance_id": webID, "instance_name": "web-1", "project_id": project, "role": "web", "config": "c0ffee",
		"amr": []any{"address"}, "attempt": 1.0, "expires_at": body["expires_at"],
	}
	if diff := cmp.Diff(want, line); diff != "" {
		t.Errorf("the audit line (-want +got):\n%s", diff)
	}
	if n := d.decisions(t, "web", "granted", "granted"); n != "1" {
		t.Errorf("%s decisions are counted", n)
	}
}

// denials change one thing of a request that would be granted. Each is a near miss.
var denials = []struct {
	name   string
	reason attest.Reason
	spoil  func(*scene)
	form   string // empty: webForm
	from   string // empty: home
}{
	{name: "a role that is not configured", reason: attest.RoleUnknown, form: "instance_id=" + webID + "&role=web2"},
	{name: "a role in capitals", reason: attest.RoleUnknown, form: "instance_id=" + webID + "&role=WEB"},
	{name: "an instance that does not exist", reason: attest.InstanceUnknown, form: "instance_id=" + noID + "&role=web"},
	{name: "a neighbor's address", reason: attest.AddressMismatch, from: "127.0.0.2"},
	{name: "an instance without an address", reason: attest.AddressMismatch, spoil: func(s *scene) { s.instance.Addresses = nil }},
	{name: "a second too late", reason: attest.WindowClosed, spoil: func(s *scene) { s.instance.Created = time.Now().Add(-5*time.Minute - time.Second) }},
	{name: "an instance that is shut off", reason: attest.StatusDenied, spoil: func(s *scene) { s.instance.Phase = attest.PhaseInactive }},
	{name: "an instance that is being deleted", reason: attest.StatusDenied, spoil: func(s *scene) { s.instance.Phase = attest.PhaseInactive }},
	{name: "attempts that are used up", reason: attest.AttemptsExhausted, spoil: func(s *scene) { s.attempts = usedUp{} }},
	{name: "another project", reason: attest.RuleProjectID, spoil: func(s *scene) { s.instance.ProjectID = project + "0" }},
	{name: "another user", reason: attest.RuleUserID, spoil: func(s *scene) { s.rules.UserID = []string{user[1:]} }},
	{name: "another value in the metadata", reason: attest.RuleMetadata, spoil: func(s *scene) { s.rules.Metadata = map[string][]string{"role": {"we"}} }},
	{name: "a key that is not in the metadata", reason: attest.RuleMetadata, spoil: func(s *scene) { s.rules.Metadata = map[string][]string{"tier": {"*"}} }},
}

// usedUp has no attempt left.
type usedUp struct{}

func (usedUp) Count(context.Context, string) (int64, error) { return 1 << 20, nil }

func (usedUp) Increment(context.Context, string, time.Time) (int64, error) {
	return 0, errors.New("an exhausted counter is not written")
}

func (usedUp) GiveBack(context.Context, string, int64) error {
	return errors.New("an exhausted counter is not written")
}

// All denials are the same bytes, so the client does not learn the reason. The audit line
// has it.
func TestDenialsLookTheSame(t *testing.T) {
	var first http.Header
	for _, row := range denials {
		t.Run(row.name, func(t *testing.T) {
			s := newScene(t)
			if row.spoil != nil {
				row.spoil(s)
			}
			d := s.open(t)
			got := d.ask(t, or(row.from, home), or(row.form, webForm))
			got.wants(t, http.StatusForbidden, "access_denied", "")
			line := d.audit.only(t, got)
			if line["outcome"] != "denied" || line["reason"] != string(row.reason) || line["detail"] == "" || line["detail"] == nil {
				t.Errorf("the audit line is %v", line)
			}
			for _, key := range []string{"jti", "attempt", "expires_at"} {
				if v, ok := line[key]; ok {
					t.Errorf("the audit line of a denial has %s %v", key, v)
				}
			}
			got.header.Del("X-Request-Id")
			if first == nil {
				first = got.header
			}
			if diff := cmp.Diff(first, got.header); diff != "" {
				t.Errorf("the headers differ from those of other denials:\n%s", diff)
			}
			if strings.Contains(d.log.String(), `"level":"ERROR"`) {
				t.Errorf("a denial is logged as an error:\n%s", d.log)
			}
			role := "web"
			if row.reason == attest.RoleUnknown {
				role = "unknown"
			}
			if n := d.decisions(t, role, "denied", row.reason); n != "1" {
				t.Errorf("%s decisions are counted:\n%s", n, d.metrics(t))
			}
		})
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// A token is only in the answer, and so is its signature, which would make a token of the
// claims.
func TestTokensAreNotLogged(t *testing.T) {
	d := newScene(t).open(t)
	address := d.serve(t)
	for _, f := range []string{webForm, webForm + "&format=token", webForm} {
		got := send(t, clientFrom(t, home), http.MethodPost, "http://"+address+"/auth", formType, strings.NewReader(f))
		compact := got.body
		if !strings.Contains(f, "format") {
			compact = got.granted(t)
		}
		parts := strings.Split(compact, ".")
		if len(parts) != 3 {
			t.Fatalf("%q is not a token", compact)
		}
		for place, text := range map[string]string{"audit log": d.audit.String(), "log": d.log.String(), "metrics": d.metrics(t)} {
			for _, secret := range []string{compact, parts[1], parts[2]} {
				if strings.Contains(text, secret) {
					t.Errorf("the %s has %q", place, secret)
				}
			}
		}
		if jti, _ := claim(t, compact, "jti").(string); jti == "" || !strings.Contains(d.audit.String(), jti) {
			t.Errorf("the audit log has no jti %q", jti)
		}
	}
}

func TestAnInstanceThatIsNotReady(t *testing.T) {
	for name, spoil := range map[string]func(*scene){
		"it is being built":    func(s *scene) { s.instance.Phase = attest.PhaseSpawning },
		"it reboots":           func(s *scene) { s.instance.Phase = attest.PhaseChanging },
		"it was never started": func(s *scene) { s.window.Since, s.instance.Launched = attest.SinceLaunched, time.Time{} },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			spoil(s)
			d := s.open(t)
			got := d.ask(t, home, webForm)
			got.wants(t, http.StatusServiceUnavailable, "temporarily_unavailable", "")
			if after, _ := strconv.Atoi(got.header.Get("Retry-After")); after < 5 || after > 7 {
				t.Errorf("Retry-After is %d", after)
			}
			if line := d.audit.only(t, got); line["outcome"] != "not_yet" || line["reason"] != "instance_changing" {
				t.Errorf("the audit line is %v", line)
			}
			if n := d.attempts.Writes(); n != 0 {
				t.Errorf("%d attempts were spent", n)
			}
		})
	}
	t.Run("another client does not learn that", func(t *testing.T) {
		s := newScene(t)
		s.instance.Phase = attest.PhaseBuilding
		s.open(t).ask(t, other, webForm).wants(t, http.StatusForbidden, "access_denied", "")
	})
}

// An unproven client learns nothing about an instance, its role or its state: all answers
// are the same bytes, but for the random request ID.
func TestUnprovenClientsGetTheSameAnswer(t *testing.T) {
	want := ""
	for _, tt := range []struct {
		name  string
		spoil func(*scene)
	}{
		{"another's", func(*scene) {}},
		{"unknown", func(s *scene) { s.cloud = attesttest.Cloud{} }},
		{"being built, scheduled", func(s *scene) {
			s.instance.Phase, s.instance.Addresses, s.instance.Launched = attest.PhaseBuilding, nil, time.Time{}
		}},
		{"being built, with its address", func(s *scene) { s.instance.Phase = attest.PhaseSpawning }},
		{"rebooting", func(s *scene) { s.instance.Phase = attest.PhaseChanging }},
		{"rebuilt, without an address", func(s *scene) {
			s.instance.Phase, s.instance.Addresses = attest.PhaseChanging, nil
		}},
		{"stopped", func(s *scene) { s.instance.Phase = attest.PhaseInactive }},
		{"failed", func(s *scene) { s.instance.Phase, s.instance.Addresses = attest.PhaseInactive, nil }},
		{"of a later time", func(s *scene) { s.instance.Created = s.instance.Created.Add(24 * time.Hour) }},
		{"of another project than the role's", func(s *scene) { s.instance.ProjectID = strings.Repeat("0", 32) }},
		{"without the metadata of the role", func(s *scene) { s.instance.Metadata = nil }},
		{"too old", func(s *scene) { s.instance.Created = s.instance.Created.Add(-time.Hour) }},
		{"without attempts", func(s *scene) { s.window.Limit = 1 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			tt.spoil(s)
			d := s.open(t)
			if tt.name == "without attempts" {
				d.ask(t, home, webForm).granted(t)
			}
			got := d.ask(t, other, webForm)
			text := fmt.Sprintf("%d %v %s", got.status, got.header, got.body)
			text = strings.ReplaceAll(text, got.header.Get("X-Request-Id"), "ID")
			if want == "" {
				want = text
			}
			if text != want || got.status != http.StatusForbidden {
				t.Errorf("the answer is\n%s\nand the one about another's instance is\n%s", text, want)
			}
			if n := d.attempts.Writes(); n != 0 && tt.name != "without attempts" {
				t.Errorf("%d writes", n)
			}
		})
	}
}

var errSecret = errors.New("dial tcp 10.0.0.5:8774: connection refused")

func TestFailures(t *testing.T) {
	for _, row := range []struct {
		name   string
		reason attest.Reason
		spoil  func(*scene)
	}{
		{"the cloud is away", attest.CloudUnavailable, func(s *scene) {
			s.cloud = cloudFunc(func(context.Context) (attest.Instance, error) { return attest.Instance{}, errSecret })
		}},
		{"the cloud answers with another instance", attest.CloudUnavailable, func(s *scene) {
			in := s.instance
			in.ID, _ = attest.ParseInstanceID(noID)
			s.cloud = cloudFunc(func(context.Context) (attest.Instance, error) { return in, nil })
		}},
		{"the cloud answers with nothing", attest.CloudUnavailable, func(s *scene) {
			s.cloud = cloudFunc(func(context.Context) (attest.Instance, error) { return attest.Instance{}, nil })
		}},
		{"the cloud's clock is ahead", attest.CloudUnavailable, func(s *scene) { s.instance.Created = time.Now().Add(time.Hour) }},
		{"the state is away", attest.StateUnavailable, func(s *scene) { s.attempts = &attesttest.State{Err: errSecret} }},
		{"the audit log cannot be written", "audit_unavailable", func(s *scene) { s.audit = failing{} }},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newScene(t)
			row.spoil(s)
			d := s.open(t)
			got := d.ask(t, home, webForm)
			got.wants(t, http.StatusServiceUnavailable, "temporarily_unavailable", "")
			if n := d.decisions(t, "web", "failed", row.reason); n != "1" {
				t.Errorf("%s decisions are counted", n)
			}
			// A failure with an audit line is not in the log, too.
			if lines := d.log.of(t, got); (len(lines) > 0) != (row.reason == "audit_unavailable") {
				t.Errorf("the log has %v", lines)
			}
			if row.reason != "audit_unavailable" {
				if line := d.audit.only(t, got); line["outcome"] != "failed" || line["reason"] != string(row.reason) {
					t.Errorf("the audit line is %v", line)
				}
			}
			if row.reason == attest.CloudUnavailable && d.attempts.Writes() != 0 {
				t.Error("an attempt was spent")
			}
		})
	}
}

// Our failures spend no attempts: the instance has all its attempts when the failure is
// over.
func TestFailuresSpendNoAttempts(t *testing.T) {
	for _, row := range []struct {
		name   string
		reason attest.Reason
		set    func(*scene, *atomic.Bool)
	}{
		{"the audit log cannot be written", "audit_unavailable", func(s *scene, bad *atomic.Bool) { s.audit = failingWhile{bad, newLines()} }},
		{"no key can sign", "signing_unavailable", func(s *scene, bad *atomic.Bool) { s.unusable = bad }},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, bad := newScene(t), new(atomic.Bool)
			row.set(s, bad)
			d := s.open(t)
			d.ask(t, home, webForm).granted(t)
			bad.Store(true)
			for range 3 * s.window.Limit {
				d.ask(t, home, webForm).wants(t, http.StatusServiceUnavailable, "temporarily_unavailable", "")
			}
			bad.Store(false)
			for range s.window.Limit - 1 {
				d.ask(t, home, webForm).granted(t)
			}
			d.ask(t, home, webForm).wants(t, http.StatusForbidden, "access_denied", "")
			if n := d.decisions(t, "web", "failed", row.reason); n != strconv.Itoa(3*s.window.Limit) {
				t.Errorf("%s decisions are counted", n)
			}
		})
	}
}

// Of many at once, some of which fail on our side, no more are granted than may be,
// each with a number of its own, and in the end no fewer.
func TestFailuresOfManyAtOnce(t *testing.T) {
	s, bad, out := newScene(t), new(atomic.Bool), newLines()
	s.audit, s.window.Limit = failingWhile{bad, out}, 20
	s.throttle = ratelimit.Rate{Rate: 1e6, Burst: 1e6}
	d := s.open(t)
	granted := new(atomic.Int64)
	ask := func() int {
		status := d.ask(t, home, webForm).status
		if status == http.StatusOK {
			granted.Add(1)
		}
		return status
	}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 8 {
				bad.Store((i+j)%3 > 0)
				ask()
			}
		})
	}
	wg.Wait()
	bad.Store(false)
	for ask() == http.StatusOK {
	}
	if n := granted.Load(); n != int64(s.window.Limit) {
		t.Errorf("%d were granted, and %d may be", n, s.window.Limit)
	}
	seen := map[any]bool{}
	for _, line := range out.parsed(t) {
		if line["outcome"] == "granted" {
			if seen[line["attempt"]] {
				t.Errorf("attempt %v was granted twice", line["attempt"])
			}
			seen[line["attempt"]] = true
		}
	}
}

// failingWhile is a disk that is full for some time.
type failingWhile struct {
	bad *atomic.Bool
	out io.Writer
}

func (f failingWhile) Write(p []byte) (int, error) {
	if f.bad.Load() {
		return 0, io.ErrShortWrite
	}
	return f.out.Write(p)
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// What no other test can bring about.
func TestErrorsOfAnyKindRefuse(t *testing.T) {
	for _, row := range []struct {
		name   string
		err    error
		status int
		want   string
	}{
		{"the key does not sign", &attest.Failure{Reason: "signing_unavailable", Err: errSecret}, 503, "failed: signing_unavailable"},
		{"an error of no known kind", errSecret, 503, "failed: signing_unavailable"},
		{"a denial within an error", fmt.Errorf("x: %w", &attest.Denied{Reason: attest.StatusDenied}), 403, "denied: status_denied"},
	} {
		if status, outcome, reason := server.Conclude(row.err); status != row.status || outcome+": "+string(reason) != row.want {
			t.Errorf("%s: %d %s: %s", row.name, status, outcome, reason)
		}
	}
}

func TestAClientThatHangsUp(t *testing.T) {
	s := newScene(t)
	asked := make(chan struct{})
	s.cloud = cloudFunc(func(ctx context.Context) (attest.Instance, error) {
		close(asked)
		<-ctx.Done()
		return attest.Instance{}, ctx.Err()
	})
	d := s.open(t)
	conn := listentest.DialFrom(t, home, d.serve(t))
	listentest.Send(t, conn, rawAuth(""))
	<-asked
	conn.Close()
	d.audit.await(t, 1)
	line := d.audit.parsed(t)[0]
	if line["outcome"] != "failed" || line["reason"] != "client_gone" {
		t.Errorf("the audit line is %v", line)
	}
	if n := d.attempts.Writes(); n != 0 {
		t.Errorf("%d attempts were spent", n)
	}
	if strings.Contains(d.log.String(), `"level":"ERROR"`) {
		t.Errorf("a client can write errors into the log:\n%s", d.log)
	}
}

func TestAPanicIsAnAnswer(t *testing.T) {
	s := newScene(t)
	s.cloud = cloudFunc(func(context.Context) (attest.Instance, error) { panic("broken in 10.0.0.5") })
	d := s.open(t)
	address := d.serve(t)
	client := clientFrom(t, home)
	for range 2 { // the connection and the process survive it
		got := send(t, client, http.MethodPost, "http://"+address+"/auth", formType, strings.NewReader(webForm))
		got.wants(t, http.StatusInternalServerError, "server_error", "")
		lines := d.log.of(t, got)
		if len(lines) == 0 || lines[0]["level"] != "ERROR" || lines[0]["error"] != "broken in 10.0.0.5" {
			t.Errorf("the log has %v", lines)
		}
	}
	if !strings.Contains(d.log.String(), "goroutine ") {
		t.Error("the log does not say where it happened")
	}
}

// Clients must not be able to make series.
func TestUnknownRolesMakeNoSeries(t *testing.T) {
	d := newScene(t).open(t)
	d.ask(t, other, form("instance_id", webID, "role", "invented"))
	before := series(t, d)
	for i := range 10_000 {
		d.ask(t, other, form("instance_id", webID, "role", fmt.Sprintf("r%d", i)))
	}
	if diff := cmp.Diff(before, series(t, d)); diff != "" {
		t.Errorf("the series after 10,000 invented roles (-before +after):\n%s", diff)
	}
	if n := d.decisions(t, "unknown", "denied", attest.RoleUnknown); n != "10001" {
		t.Errorf("%s decisions are counted", n)
	}
}

// series are the names with labels of what is ours.
func series(t testing.TB, d *testServer) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for line := range strings.Lines(d.metrics(t)) {
		if strings.HasPrefix(line, "nova_authenticator_") {
			all[line[:strings.LastIndexByte(line, ' ')]] = true
		}
	}
	return maps.Clone(all)
}
