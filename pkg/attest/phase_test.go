package attest_test

import (
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
)

func TestOnlyARunningInstanceSpendsAnAttempt(t *testing.T) {
	changing := later(attest.InstanceChanging)
	for phase, want := range map[attest.Phase]string{
		attest.PhaseRunning: granted, attest.PhaseChanging: changing, attest.PhaseBuilding: changing, attest.PhaseSpawning: changing,
		attest.PhaseInactive: no(attest.StatusDenied), "something new": no(attest.StatusDenied),
	} {
		attempts := &attesttest.State{}
		s := newScene(t)
		s.attempts, s.instance.Phase = attempts, phase
		if got := s.ask(t); got != want {
			t.Errorf("%q: %s, want %s", phase, got, want)
		}
		if spent := attempts.Writes() > 0; spent != (want == granted) {
			t.Errorf("%q: %s, attempt spent %v", phase, want, spent)
		}
	}
}

// A caller that is told to come back must be told when.
func TestNotYetSaysWhen(t *testing.T) {
	for name, edit := range map[string]func(*scene){
		"a task":       func(s *scene) { s.instance.Phase = attest.PhaseChanging },
		"the build":    func(s *scene) { s.instance.Phase = attest.PhaseBuilding },
		"never booted": func(s *scene) { s.window.Since, s.instance.Launched = attest.SinceLaunched, time.Time{} },
	} {
		s := newScene(t)
		edit(s)
		_, err := s.attestor(t).Attest(t.Context(), s.request(t))
		n, ok := err.(*attest.NotYet) //nolint:errorlint // the contract is the type itself
		if !ok || n.After <= 0 || n.After > time.Minute {
			t.Errorf("%s: %#v, want a NotYet with a wait of some seconds", name, err)
		}
	}
}
