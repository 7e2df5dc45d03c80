package attest_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

func denial(id attest.InstanceID, value string) map[string][]byte {
	return map[string][]byte{id.String(): []byte(value)}
}

// Whatever an entry says, that it is there denies.
func TestDenialThatCannotBeRead(t *testing.T) {
	for _, value := range []string{"", "no JSON", `{"until":"soon"}`, `{"instance_id":"of another"}`, "null", "[]"} {
		t.Run(value, func(t *testing.T) {
			s := newScene(t)
			s.denials.Values = denial(s.instance.ID, value)
			if got := s.ask(t); got != no(attest.InstanceDenied) {
				t.Errorf("%s, want a denial", got)
			}
		})
	}
}

func TestDenialOfAnother(t *testing.T) {
	s := newScene(t)
	other := attesttest.ID(t, "99999999-4f0d-4c63-9d0e-0e8f6f3c5a21")
	s.denials.Values = denial(other, "{}")
	if got := s.ask(t); got != granted {
		t.Errorf("%s, want it granted", got)
	}
}

// registered is a scene with a store and its register, by one clock.
func registered(t *testing.T) (*scene, *attest.Register, *statetest.Clock) {
	t.Helper()
	clock := statetest.NewClock()
	store := &state.Memory{Now: clock.Now}
	s := newScene(t)
	s.attempts = store
	s.instance.Created, s.now = clock.Now(), clock.Now()
	return s, &attest.Register{Store: store, Denials: s.denials, Now: clock.Now}, clock
}

func TestDeny(t *testing.T) {
	s, r, clock := registered(t)
	d, err := r.Deny(t.Context(), s.instance.ID, 10*time.Second, "it was broken into")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(s.detail(t), "it was broken into") {
		t.Errorf("the detail %q has no reason", s.detail(t))
	}
	kept, err := r.Show(t.Context(), s.instance.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&d, kept.Denial, cmp.Comparer(sameID)); diff != "" {
		t.Errorf("what is kept (-want +got):\n%s", diff)
	}
	clock.Advance(9 * time.Second)
	if got := s.ask(t); got != no(attest.InstanceDenied) {
		t.Errorf("a second before its end: %s", got)
	}
	clock.Advance(3 * time.Second)
	s.now = clock.Now()
	if got := s.ask(t); got != granted {
		t.Errorf("after its end: %s", got)
	}

	if _, err := r.Deny(t.Context(), s.instance.ID, 0, ""); err != nil {
		t.Fatal(err)
	}
	clock.Advance(100 * 365 * 24 * time.Hour)
	s.instance.Created, s.now = clock.Now(), clock.Now()
	if got := s.ask(t); got != no(attest.InstanceDenied) {
		t.Errorf("for ever: %s", got)
	}
	for range 2 {
		if err := r.Allow(t.Context(), s.instance.ID); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.ask(t); got != granted {
		t.Errorf("allowed again: %s", got)
	}
}

func TestDenyRefuses(t *testing.T) {
	s, r, _ := registered(t)
	for _, tt := range []struct {
		life   time.Duration
		reason string
	}{{-time.Second, ""}, {time.Millisecond, ""}, {maxPeriod + 1, ""}, {math.MaxInt64, ""}, {math.MinInt64, ""}, {0, strings.Repeat("x", 501)}} {
		if d, err := r.Deny(t.Context(), s.instance.ID, tt.life, tt.reason); err == nil {
			t.Errorf("Deny for %v = %+v", tt.life, d)
		}
	}
	if got := s.ask(t); got != granted {
		t.Errorf("after refusals: %s", got)
	}
	if d, err := r.Deny(t.Context(), s.instance.ID, maxPeriod, ""); err != nil || d.Until.Year() < 2100 {
		t.Errorf("Deny for the longest time = %+v, %v", d, err)
	}
	if got := s.ask(t); got != no(attest.InstanceDenied) {
		t.Errorf("denied for the longest time: %s", got)
	}
}

func TestReset(t *testing.T) {
	s, r, _ := registered(t)
	s.window.Limit = 2
	for _, want := range []string{granted, granted, no(attest.AttemptsExhausted)} {
		if got := s.ask(t); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
	kept, err := r.Show(t.Context(), s.instance.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := []attest.Attempts{{Role: roleName(t, "web"), Opened: s.instance.Created.UTC(), Count: 2, Expires: s.instance.Created.Add(5 * time.Minute).UTC()}}
	if diff := cmp.Diff(want, kept.Attempts, cmp.Comparer(func(a, b attest.RoleName) bool { return a == b })); diff != "" {
		t.Errorf("the attempts (-want +got):\n%s", diff)
	}
	if n, err := r.Reset(t.Context(), s.instance.ID); n != 1 || err != nil {
		t.Errorf("Reset = %d, %v, want one window", n, err)
	}
	if got := s.ask(t); got != granted {
		t.Errorf("after the reset: %s", got)
	}
}

func TestList(t *testing.T) {
	s, r, _ := registered(t)
	if kept, more, err := r.List(t.Context()); len(kept) != 0 || more || err != nil {
		t.Errorf("an empty List = %v, %v, %v", kept, more, err)
	}
	if got := s.ask(t); got != granted {
		t.Fatal(got)
	}
	if _, err := r.Deny(t.Context(), s.instance.ID, 0, "why not"); err != nil {
		t.Fatal(err)
	}
	for i := range 10_001 {
		id := attesttest.ID(t, fmt.Sprintf("00000000-0000-4000-8000-%012d", i))
		s.denials.Values[id.String()] = []byte("{}")
		if i == 0 {
			kept, more, err := r.List(t.Context())
			if len(kept) != 2 || more || err != nil || kept[0].Instance != id || kept[1].Denial == nil || len(kept[1].Attempts) != 1 {
				t.Errorf("List of two = %+v, %v, %v", kept, more, err)
			}
		}
	}
	if kept, more, err := r.List(t.Context()); len(kept) != 10_000 || !more || err != nil {
		t.Errorf("List of 10,002 = %d, %v, %v", len(kept), more, err)
	}
}

// Keys that no instance made are left out, not misread.
func TestListOfForeignKeys(t *testing.T) {
	s, r, clock := registered(t)
	store := s.attempts.(*state.Memory)
	for _, key := range []string{"denied/none", "attempts/none/web/1", "attempts/" + s.instance.ID.String() + "/web", "attempts/" + s.instance.ID.String() + "/a b/1", "attempts/" + s.instance.ID.String() + "/web/x"} {
		if _, err := store.Increment(t.Context(), key, clock.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if err := store.Put(t.Context(), key, []byte("x"), time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	if kept, more, err := r.List(t.Context()); len(kept) != 0 || more || err != nil {
		t.Errorf("List = %+v, %v, %v", kept, more, err)
	}
}

func TestRegisterOfAStoreThatFails(t *testing.T) {
	s, r, _ := registered(t)
	_ = s.attempts.(*state.Memory).Close()
	s.denials.Err = errors.New("refused")
	_, _, listErr := r.List(t.Context())
	_, showErr := r.Show(t.Context(), s.instance.ID)
	_, resetErr := r.Reset(t.Context(), s.instance.ID)
	_, denyErr := r.Deny(t.Context(), s.instance.ID, 0, "")
	for i, err := range []error{listErr, showErr, resetErr, denyErr, r.Allow(t.Context(), s.instance.ID)} {
		if err == nil {
			t.Errorf("call %d gave no error", i)
		}
	}
	if got := s.ask(t); got != broken(attest.StateUnavailable) {
		t.Errorf("%s, want a failure", got)
	}
}

func sameID(a, b attest.InstanceID) bool { return a == b }

// detail is the reason of a denial as the audit log has it.
func (s *scene) detail(t *testing.T) string {
	t.Helper()
	_, err := s.attestor(t).Attest(t.Context(), s.request(t))
	var denied *attest.Denied
	if !errors.As(err, &denied) {
		t.Fatalf("Attest = %v, want a denial", err)
	}
	return denied.Detail
}

// Attempts with documents are kept, shown and given back as those of windows are.
func TestRegisterOfDocuments(t *testing.T) {
	s, r, _ := registered(t)
	s.grant.Proof, s.window.Limit = []attest.Proof{attest.ProofDocument, attest.ProofAddress}, 1
	s.evidence = withDocument(attest.FromAddress(neighbor), papers(s))
	for _, want := range []string{granted, no(attest.AttemptsExhausted)} {
		if got := s.ask(t); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	k, err := r.Show(t.Context(), s.instance.ID)
	if err != nil || len(k.Documents) != 1 || k.Documents[0].Document != "doc-1" || k.Documents[0].Count != 1 || !k.Documents[0].Expires.Equal(papers(s).Expires) {
		t.Errorf("Show = %+v, %v", k, err)
	}
	all, _, err := r.List(t.Context())
	if err != nil || len(all) != 1 || len(all[0].Documents) != 1 {
		t.Errorf("List = %+v, %v", all, err)
	}
	if n, err := r.Reset(t.Context(), s.instance.ID); n != 1 || err != nil {
		t.Errorf("Reset = %d, %v", n, err)
	}
	if got := s.ask(t); got != granted {
		t.Errorf("%s, want the attempt back", got)
	}
}

// The denials of release 65ed6e0, an entry of the store for each, are taken over
// whatever they say.
func TestFormerDenials(t *testing.T) {
	clock := statetest.NewClock()
	store := &state.Memory{Size: 10, Now: clock.Now}
	id := func(i int) attest.InstanceID {
		id := attesttest.ID(t, fmt.Sprintf("00000000-0000-4000-8000-%012d", i))
		return id
	}
	until := clock.Now().Add(time.Hour).UTC()
	for key, value := range map[string]string{
		"denied/" + id(1).String(): `{"instance_id":"` + id(1).String() + `","reason":"broken into","since":"2026-11-23T12:00:00Z"}`,
		"denied/" + id(2).String(): "no JSON",
		"denied/none":              "{}",
		"other/" + id(3).String():  "{}",
	} {
		if err := store.Put(t.Context(), key, []byte(value), until); err != nil {
			t.Fatal(err)
		}
	}
	former, err := attest.FormerDenials(t.Context(), store)
	if err != nil || len(former) != 2 {
		t.Fatalf("FormerDenials = %q, %v", former, err)
	}
	r := &attest.Register{Store: store, Denials: &attesttest.Denials{Values: former}, Now: clock.Now}
	for i, want := range map[int]attest.Denial{
		1: {Instance: id(1), Reason: "broken into", Since: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)},
		2: {Instance: id(2), Reason: "the entry cannot be read", Until: until},
	} {
		kept, err := r.Show(t.Context(), id(i))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&want, kept.Denial, cmp.Comparer(sameID)); diff != "" {
			t.Errorf("denial %d (-want +got):\n%s", i, diff)
		}
	}
}
