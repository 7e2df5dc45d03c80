package attest_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
)

var compare = cmp.Options{cmpopts.EquateComparable(attest.InstanceID{}, netip.Addr{}), cmpopts.EquateEmpty()}

func TestIdentityIsWhatWasProven(t *testing.T) {
	s := newScene(t)
	j, err := s.attestor(t).Attest(t.Context(), s.request(t))
	id, in := j.Identity, j.Instance
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s.instance, id.Instance(), compare); diff != "" {
		t.Errorf("Identity.Instance (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(s.instance, in, compare); diff != "" {
		t.Errorf("instance for the log (-want +got):\n%s", diff)
	}
	if id.IsZero() || id.Role() != roleName(t, "web") || id.Attempt() != 1 || !slices.Equal(id.Proofs(), []attest.Proof{attest.ProofAddress}) {
		t.Errorf("identity: zero %v, role %s, attempt %d, proofs %q", id.IsZero(), id.Role(), id.Attempt(), id.Proofs())
	}
}

func TestZeroValueIdentityIsNoIdentity(t *testing.T) {
	if id := (attest.Identity{}); !id.IsZero() {
		t.Error("the zero Identity is not zero")
	}
}

func TestZeroValuePolicyDenies(t *testing.T) {
	s := newScene(t)
	a := s.attestor(t)
	a.Policy = attest.Policy{}
	for name, role := range map[string]attest.RoleName{"a role": roleName(t, "web"), "no role": {}} {
		r := s.request(t)
		r.Role = role
		if j, err := a.Attest(t.Context(), r); outcome(err) != no(attest.RoleUnknown) || !j.Identity.IsZero() {
			t.Errorf("%s: %v, want it unknown", name, err)
		}
	}
}

func TestZeroValueRoleDenies(t *testing.T) {
	// The cloud's clock may be ahead: an empty window must not be open then.
	for _, ahead := range []time.Duration{0, time.Second, time.Minute} {
		s := newScene(t)
		s.now = created.Add(-ahead)
		a := s.attestor(t)
		a.Policy = attest.NewPolicy(attesttest.Issuer(t, ""), attest.Role{})
		r := s.request(t)
		r.Role = attest.RoleName{}
		j, err := a.Attest(t.Context(), r)
		if got := outcome(err); !j.Identity.IsZero() || !strings.HasPrefix(got, "denied: ") {
			t.Errorf("asked %v before the start: %s, want a denial", ahead, got)
		}
	}
}

func TestZeroValueRequestIsNotGranted(t *testing.T) {
	s := newScene(t)
	s.cloud = cloudFunc(func(attest.InstanceID, netip.Addr) (attest.Instance, error) {
		in := s.instance
		in.ID = attest.InstanceID{}
		return in, nil
	})
	a := s.attestor(t)
	if _, err := a.Attest(t.Context(), attest.Request{}); outcome(err) != no(attest.RoleUnknown) {
		t.Errorf("the zero Request: %v", err)
	}
	r := s.request(t)
	r.Instance = attest.InstanceID{}
	if j, err := a.Attest(t.Context(), r); outcome(err) != broken(attest.CloudUnavailable) || !j.Identity.IsZero() {
		t.Errorf("no instance: %v", err)
	}
}

func TestLookup(t *testing.T) {
	cause := errors.New("connection refused")
	other := newScene(t).instance
	other.ID = attesttest.ID(t, "00000000-0000-4000-8000-000000000001")
	nameless := newScene(t).instance
	nameless.ID = attest.InstanceID{}
	tests := []struct {
		name   string
		record attest.Instance
		err    error
		want   string
	}{
		{"the cloud knows no such instance", attest.Instance{}, attest.ErrNoInstance, no(attest.InstanceUnknown)},
		{"so it does, wrapped", attest.Instance{}, fmt.Errorf("nova: %w", attest.ErrNoInstance), no(attest.InstanceUnknown)},
		{"too many lookups", attest.Instance{}, attest.ErrTooManyLookups, broken(attest.ThrottledLookups)},
		{"too many lookups, wrapped", attest.Instance{}, fmt.Errorf("nova: %w", attest.ErrTooManyLookups), broken(attest.ThrottledLookups)},
		{"the cloud is down", attest.Instance{}, cause, broken(attest.CloudUnavailable)},
		{"the cloud is slow", attest.Instance{}, context.DeadlineExceeded, broken(attest.CloudUnavailable)},
		{"a record beside an error", newScene(t).instance, cause, broken(attest.CloudUnavailable)},
		{"an error of the same words", attest.Instance{}, errors.New(attest.ErrNoInstance.Error()), broken(attest.CloudUnavailable)},
		{"the record of another instance", other, nil, broken(attest.CloudUnavailable)},
		{"a record without an ID", nameless, nil, broken(attest.CloudUnavailable)},
		{"no record", attest.Instance{}, nil, broken(attest.CloudUnavailable)},
		{"the record", newScene(t).instance, nil, granted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			attempts := &attesttest.State{}
			s := newScene(t)
			s.attempts = attempts
			s.cloud = cloudFunc(func(attest.InstanceID, netip.Addr) (attest.Instance, error) { return tt.record, tt.err })
			j, err := s.attestor(t).Attest(t.Context(), s.request(t))
			id, in := j.Identity, j.Instance
			if got := outcome(err); got != tt.want {
				t.Fatalf("%s, want %s", got, tt.want)
			}
			if tt.want == granted {
				return
			}
			if !id.IsZero() || !in.ID.IsZero() || attempts.Writes() != 0 {
				t.Errorf("identity %+v, record %+v, %d attempts spent", id, in, attempts.Writes())
			}
			var f *attest.Failure
			if errors.As(err, &f) && tt.err != nil && !errors.Is(err, tt.err) {
				t.Errorf("%v does not wrap its cause", err)
			}
		})
	}
}

func TestLookupIsOnBehalfOfTheCaller(t *testing.T) {
	s := newScene(t)
	s.evidence = attest.FromAddress(netip.MustParseAddr("::ffff:10.20.0.11"))
	type call struct {
		ID     attest.InstanceID
		Caller netip.Addr
	}
	var calls []call
	s.cloud = cloudFunc(func(id attest.InstanceID, caller netip.Addr) (attest.Instance, error) {
		calls = append(calls, call{id, caller})
		return s.instance, nil
	})
	if got := s.ask(t); got != granted {
		t.Fatal(got)
	}
	if diff := cmp.Diff([]call{{s.instance.ID, netip.MustParseAddr("10.20.0.11")}}, calls, compare); diff != "" {
		t.Errorf("lookups (-want +got):\n%s", diff)
	}
}

func TestAnUnknownRoleMakesNoLookup(t *testing.T) {
	s := newScene(t)
	s.cloud = cloudFunc(func(attest.InstanceID, netip.Addr) (attest.Instance, error) {
		t.Error("the cloud was asked")
		return s.instance, nil
	})
	for _, role := range []string{"Web", "web2", "we"} {
		r := s.request(t)
		r.Role = roleName(t, role)
		if _, err := s.attestor(t).Attest(t.Context(), r); outcome(err) != no(attest.RoleUnknown) {
			t.Errorf("role %s: %v, want it unknown", role, err)
		}
	}
}

func TestWindow(t *testing.T) {
	const period, running = 5 * time.Minute, attest.PhaseRunning
	var never time.Time
	tests := []struct {
		name              string
		since             attest.Since
		created, launched time.Time
		phase             attest.Phase
		now               time.Time
		want              string
	}{
		{"at the end", attest.SinceCreated, created, created, running, created.Add(period), no(attest.WindowClosed)},
		{"long after", attest.SinceCreated, created, created, running, created.Add(1000 * time.Hour), no(attest.WindowClosed)},
		{"a launch does not move the creation", attest.SinceCreated, created, created.Add(period), running, created.Add(period), no(attest.WindowClosed)},
		{"the creation does not count, the launch is over", attest.SinceLaunched, created.Add(time.Hour), created, running, created.Add(period), no(attest.WindowClosed)},
		{"over and switched off: the window comes first", attest.SinceCreated, created, created, attest.PhaseInactive, created.Add(period), no(attest.WindowClosed)},
		{"over and building: the window comes first", attest.SinceCreated, created, never, attest.PhaseBuilding, created.Add(period), no(attest.WindowClosed)},

		{"created more than a minute ahead", attest.SinceCreated, created, created, running, created.Add(-time.Minute - 1), broken(attest.CloudUnavailable)},
		{"launched more than a minute ahead", attest.SinceLaunched, created.Add(-time.Hour), created, running, created.Add(-time.Minute - 1), broken(attest.CloudUnavailable)},
		{"created years ahead", attest.SinceCreated, created, created, running, created.AddDate(-30, 0, 0), broken(attest.CloudUnavailable)},

		{"never launched, building", attest.SinceLaunched, created, never, attest.PhaseBuilding, created, later(attest.InstanceChanging)},
		{"never launched, building for long", attest.SinceLaunched, created, never, attest.PhaseBuilding, created.Add(time.Hour), later(attest.InstanceChanging)},
		{"never launched, though active", attest.SinceLaunched, created, never, running, created, later(attest.InstanceChanging)},
		{"never launched, inactive", attest.SinceLaunched, created, never, attest.PhaseInactive, created, no(attest.StatusDenied)},

		{"at the start", attest.SinceCreated, created, created, running, created, granted},
		{"the last moment", attest.SinceCreated, created, created, running, created.Add(period - 1), granted},
		{"the clocks differ by a minute", attest.SinceCreated, created, created, running, created.Add(-time.Minute), granted},
		{"the last moment since the launch", attest.SinceLaunched, created.Add(-time.Hour), created, running, created.Add(period - 1), granted},
		{"never launched, which does not matter", attest.SinceCreated, created, never, running, created, granted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			s.window.Since, s.window.Period = tt.since, period
			s.instance.Created, s.instance.Launched = tt.created, tt.launched
			s.instance.Phase = tt.phase
			s.now = tt.now
			if got := s.ask(t); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

func TestWithoutAClockItIsNow(t *testing.T) {
	s := newScene(t)
	s.instance.Created = time.Now()
	a := s.attestor(t)
	a.Now = nil
	if _, err := a.Attest(t.Context(), s.request(t)); err != nil {
		t.Errorf("created just now: %v", err)
	}
	s.instance.Created = time.Now().Add(-s.window.Period)
	a = s.attestor(t)
	a.Now = nil
	if _, err := a.Attest(t.Context(), s.request(t)); outcome(err) != no(attest.WindowClosed) {
		t.Errorf("created a window ago: %v", err)
	}
}

// A rebuild is a new machine in the old record: `launched` starts anew with it,
// `created` does not.
func TestARebuildMovesTheWindowSinceLaunched(t *testing.T) {
	for since, want := range map[attest.Since]string{
		attest.SinceLaunched: granted,
		attest.SinceCreated:  no(attest.AttemptsExhausted),
	} {
		s := newScene(t)
		s.window.Since, s.window.Limit = since, 1
		if got := s.ask(t); got != granted {
			t.Fatalf("since %s, before: %s", since, got)
		}
		if got := s.ask(t); got != no(attest.AttemptsExhausted) {
			t.Fatalf("since %s, again: %s", since, got)
		}
		s.instance.Launched = created.Add(2 * time.Minute)
		s.now = created.Add(3 * time.Minute)
		if got := s.ask(t); got != want {
			t.Errorf("since %s, after a rebuild: %s, want %s", since, got, want)
		}
	}
}

func TestARebuildOpensTheWindowSinceLaunchedAgain(t *testing.T) {
	s := newScene(t)
	s.window.Since = attest.SinceLaunched
	s.now = created.Add(time.Hour)
	if got := s.ask(t); got != no(attest.WindowClosed) {
		t.Fatalf("before: %s", got)
	}
	s.instance.Launched = s.now
	if got := s.ask(t); got != granted {
		t.Errorf("after: %s", got)
	}
}

// What each outcome costs an instance that has a single attempt.
func TestWhatSpendsTheAttempt(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(*scene)
		want  string
		spent int
	}{
		{"the address of another client", func(s *scene) { s.evidence = attest.FromAddress(netip.MustParseAddr("10.20.0.12")) }, no(attest.AddressMismatch), 0},
		{"another client, and the instance is down", func(s *scene) {
			s.evidence, s.instance.Phase = attest.Evidence{}, attest.PhaseInactive
		}, no(attest.AddressMismatch), 0},
		{"another client, and the window is closed", func(s *scene) {
			s.evidence, s.now = attest.Evidence{}, created.Add(time.Hour)
		}, no(attest.AddressMismatch), 0},
		{"another client, and the clocks differ", func(s *scene) {
			s.evidence, s.now = attest.Evidence{}, created.Add(-time.Hour)
		}, no(attest.AddressMismatch), 0},
		{"another client, and no rule holds", func(s *scene) {
			s.evidence, s.rules = attest.Evidence{}, attest.Rules{ProjectID: []string{"of another"}}
		}, no(attest.AddressMismatch), 0},
		{"the window is closed", func(s *scene) { s.now = created.Add(time.Hour) }, no(attest.WindowClosed), 0},
		{"the clocks differ", func(s *scene) { s.now = created.Add(-time.Hour) }, broken(attest.CloudUnavailable), 0},
		{"the window is closed, and an operator denied it", func(s *scene) {
			s.denials.Values = denial(s.instance.ID, "{}")
			s.now = created.Add(time.Hour)
		}, no(attest.WindowClosed), 0},
		{"an operator denied it", func(s *scene) {
			s.denials.Values = denial(s.instance.ID, "{}")
		}, no(attest.InstanceDenied), 0},
		{"an operator denied it, and the status denies", func(s *scene) {
			s.denials.Values = denial(s.instance.ID, "{}")
			s.instance.Phase = attest.PhaseInactive
		}, no(attest.InstanceDenied), 0},
		{"the status denies", func(s *scene) { s.instance.Phase = attest.PhaseInactive }, no(attest.StatusDenied), 0},
		{"the status denies, and no rule holds", func(s *scene) {
			s.instance.Phase, s.rules = attest.PhaseInactive, attest.Rules{ProjectID: []string{"of another"}}
		}, no(attest.StatusDenied), 0},
		{"the instance is changing", func(s *scene) { s.instance.Phase = attest.PhaseChanging }, later(attest.InstanceChanging), 0},
		{"no rule holds", func(s *scene) { s.rules = attest.Rules{ProjectID: []string{"of another"}} }, no(attest.RuleProjectID), 1},
		{"granted", func(*scene) {}, granted, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			attempts := &attesttest.State{}
			s := newScene(t)
			s.attempts, s.window.Limit = attempts, 1
			tt.spoil(s)
			for range 1 + 2*(1-tt.spent) { // what spends nothing may be repeated
				if got := s.ask(t); got != tt.want {
					t.Errorf("%s, want %s", got, tt.want)
				}
			}
			if n := attempts.Writes(); n != tt.spent {
				t.Errorf("%d attempts were spent, want %d", n, tt.spent)
			}
			// The instance itself, with all in order, has what is left.
			good := newScene(t)
			good.attempts, good.window.Limit = attempts, 1
			want := granted
			if tt.spent > 0 {
				want = no(attest.AttemptsExhausted)
			}
			if got := good.ask(t); got != want {
				t.Errorf("afterwards: %s, want %s", got, want)
			}
		})
	}
}

// The record goes to the operator's log with every verdict about it.
func TestADenialComesWithTheRecord(t *testing.T) {
	for name, spoil := range map[string]func(*scene){
		"address":  func(s *scene) { s.evidence = attest.Evidence{} },
		"window":   func(s *scene) { s.now = created.Add(time.Hour) },
		"status":   func(s *scene) { s.instance.Phase = attest.PhaseInactive },
		"attempts": func(s *scene) { s.attempts = &attesttest.State{Err: errors.New("disk full")} },
		"rules":    func(s *scene) { s.rules = attest.Rules{ProjectID: []string{"of another"}} },
	} {
		s := newScene(t)
		spoil(s)
		j, err := s.attestor(t).Attest(t.Context(), s.request(t))
		in := j.Instance
		if err == nil {
			t.Errorf("%s: granted", name)
		}
		if diff := cmp.Diff(s.instance, in, compare); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestAnExhaustedCounterIsNotWritten(t *testing.T) {
	attempts := &attesttest.State{}
	s := newScene(t)
	s.attempts = attempts
	for i := range 10 {
		want := granted
		if i >= s.window.Limit {
			want = no(attest.AttemptsExhausted)
		}
		if got := s.ask(t); got != want {
			t.Errorf("request %d: %s, want %s", i+1, got, want)
		}
	}
	if n := attempts.Writes(); n != s.window.Limit {
		t.Errorf("%d writes, want %d", n, s.window.Limit)
	}
}

func TestConcurrentRequestsShareTheLimit(t *testing.T) {
	s := newScene(t)
	a, r := s.attestor(t), s.request(t)
	var (
		wg       sync.WaitGroup
		mu       sync.Mutex
		attempts []int64
	)
	for range 100 {
		wg.Go(func() {
			j, err := a.Attest(t.Context(), r)
			switch got := outcome(err); got {
			case granted:
				mu.Lock()
				defer mu.Unlock()
				attempts = append(attempts, j.Identity.Attempt())
			case no(attest.AttemptsExhausted):
			default:
				t.Errorf("a request: %s", got)
			}
		})
	}
	wg.Wait()
	slices.Sort(attempts)
	if diff := cmp.Diff([]int64{1, 2, 3}, attempts); diff != "" {
		t.Errorf("attempts granted (-want +got):\n%s", diff)
	}
}

// behind reads what was counted before anyone wrote, as all do that read at the
// same time.
type behind struct{ attesttest.State }

func (*behind) Count(context.Context, string) (int64, error) { return 0, nil }

func TestTheLimitHoldsForThoseWhoReadAtTheSameTime(t *testing.T) {
	s := newScene(t)
	s.attempts = &behind{}
	for i := range 10 {
		want := granted
		if i >= s.window.Limit {
			want = no(attest.AttemptsExhausted)
		}
		if got := s.ask(t); got != want {
			t.Errorf("request %d: %s, want %s", i+1, got, want)
		}
	}
}

func TestCountersAreApart(t *testing.T) {
	attempts := &attesttest.State{}
	exhausted := func() *scene {
		s := newScene(t)
		s.attempts, s.window.Limit = attempts, 1
		return s
	}
	if got := exhausted().ask(t); got != granted {
		t.Fatal(got)
	}
	if got := exhausted().ask(t); got != no(attest.AttemptsExhausted) {
		t.Fatal(got)
	}
	role := exhausted()
	role.role = "db"
	if got := role.ask(t); got != granted {
		t.Errorf("another role: %s", got)
	}
	instance := exhausted()
	instance.instance.ID = attesttest.ID(t, "00000000-0000-4000-8000-000000000001")
	if got := instance.ask(t); got != granted {
		t.Errorf("another instance: %s", got)
	}
	upper := exhausted()
	upper.instance.ID = attesttest.ID(t, strings.ToUpper(upper.instance.ID.String()))
	if got := upper.ask(t); got != no(attest.AttemptsExhausted) {
		t.Errorf("the instance by its ID in upper case: %s", got)
	}
}

// expiries remembers until when counts are to be kept.
type expiries struct {
	attesttest.State
	at []time.Time
}

func (e *expiries) Increment(ctx context.Context, key string, expires time.Time) (int64, error) {
	e.at = append(e.at, expires)
	return e.State.Increment(ctx, key, expires)
}

// A count that was forgotten sooner would give the attempts back.
func TestTheCountLivesAsLongAsTheWindow(t *testing.T) {
	attempts := &expiries{}
	s := newScene(t)
	s.attempts = attempts
	s.now = created.Add(4 * time.Minute)
	if got := s.ask(t); got != granted {
		t.Fatal(got)
	}
	if diff := cmp.Diff([]time.Time{created.Add(s.window.Period)}, attempts.at); diff != "" {
		t.Errorf("expiries (-want +got):\n%s", diff)
	}
}

// readOnly can be read and not written.
type readOnly struct {
	attesttest.State
	err error
}

func (r *readOnly) Increment(context.Context, string, time.Time) (int64, error) { return 1, r.err }

func TestAStoreThatFailsGrantsNothing(t *testing.T) {
	cause := errors.New("disk full")
	for name, fail := range map[string]func(*scene){
		"it cannot be read":              func(s *scene) { s.attempts = &attesttest.State{Err: cause} },
		"it cannot be written":           func(s *scene) { s.attempts = &readOnly{err: cause} },
		"the denials cannot be read":     func(s *scene) { s.denials.Err = cause },
		"the denials cannot be known of": func(s *scene) { s.denials.Err = fmt.Errorf("stale: %w", cause) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			fail(s)
			j, err := s.attestor(t).Attest(t.Context(), s.request(t))
			if !j.Identity.IsZero() || outcome(err) != broken(attest.StateUnavailable) || !errors.Is(err, cause) {
				t.Errorf("Attest = %+v, %v, want no identity and a failure of the state", j.Identity, err)
			}
		})
	}
}

// An attestor that has no denial list denies no instance, and so grants
// nothing.
func TestWithoutDenialsNothingIsGranted(t *testing.T) {
	s := newScene(t)
	a := s.attestor(t)
	a.Denials = nil
	j, err := a.Attest(t.Context(), s.request(t))
	if !j.Identity.IsZero() || outcome(err) != broken(attest.StateUnavailable) {
		t.Errorf("Attest = %+v, %v", j.Identity, err)
	}
	if v, _, err := a.Vouch(t.Context(), s.instance.ID, s.instance.ProjectID); !v.IsZero() || outcome(err) != broken(attest.StateUnavailable) {
		t.Errorf("Vouch = %+v, %v", v, err)
	}
}

func TestErrorsSayWhatTheyAre(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&attest.Denied{Reason: attest.StatusDenied}, "denied: status_denied"},
		{&attest.Denied{Reason: attest.StatusDenied, Detail: "the instance is ERROR"}, "denied: status_denied: the instance is ERROR"},
		{&attest.NotYet{Reason: attest.InstanceChanging, Detail: "the instance is BUILD"}, "not yet: instance_changing: the instance is BUILD"},
		{&attest.Failure{Reason: attest.CloudUnavailable, Err: errors.New("nova: 503")}, "cloud_unavailable: nova: 503"},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// The operator who reads a denial must see both sides of what did not match.
func TestDetailsNameWhatWasFound(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(*scene)
		want  []string
	}{
		"address": {func(s *scene) { s.evidence = attest.FromAddress(netip.MustParseAddr("10.20.0.12")) }, []string{"10.20.0.12", "10.20.0.11"}},
		"window":  {func(s *scene) { s.now = created.Add(time.Hour) }, []string{"created", "2026-11-23T12:00:00Z", "2026-11-23T12:05:00Z"}},
		"clock":   {func(s *scene) { s.now = created.Add(-time.Hour) }, []string{"created", "2026-11-23T12:00:00Z"}},
		"status":  {func(s *scene) { s.instance.Phase, s.instance.State = attest.PhaseInactive, "ERROR with task deleting" }, []string{"ERROR", "deleting"}},
		"rule":    {func(s *scene) { s.rules = attest.Rules{Metadata: map[string][]string{"role": {"db"}}} }, []string{"metadata.role", `"web"`}},
		"no key":  {func(s *scene) { s.rules = attest.Rules{Metadata: map[string][]string{"env": {"db"}}} }, []string{"metadata.env", "not set"}},
	} {
		s := newScene(t)
		tt.spoil(s)
		_, err := s.attestor(t).Attest(t.Context(), s.request(t))
		for _, want := range tt.want {
			if !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("%s: %v does not say %s", name, err, want)
			}
		}
	}
}
