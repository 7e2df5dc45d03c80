package attest

import (
	"context"
	"errors"
	"testing"
	"time"
)

// The window of a zero Role denies, too; this is about the rules alone.
func TestZeroValueRulesDeny(t *testing.T) {
	var d *Denied
	if err := (compiled{}).allow(&Judgment{}, Instance{Phase: PhaseRunning}); !errors.As(err, &d) {
		t.Errorf("allow = %v, want a denial", err)
	}
	bare := compiled{rules: []rule{{value: func(Instance) (string, bool) { return "", true }}}}
	if err := bare.allow(&Judgment{}, Instance{}); !errors.As(err, &d) {
		t.Errorf("a rule without a pattern: %v, want a denial", err)
	}
}

// The rules of a zero Role deny, too; this is about the window alone, with a
// start that the cloud's clock puts ahead of ours.
func TestZeroValueWindowDenies(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	a := &Attestor{State: noAttempts{t}, Now: func() time.Time { return now }}
	in := Instance{Phase: PhaseRunning, Created: now.Add(time.Second)}
	var d *Denied
	start, err := Window{}.open(in, now)
	if err == nil {
		_, err = a.spend(t.Context(), counter{"key", start}, int64(Window{}.Limit))
	}
	if !errors.As(err, &d) {
		t.Errorf("the zero window = %v, want a denial", err)
	}
}

// noAttempts were made, and none may be.
type noAttempts struct{ t *testing.T }

func (noAttempts) Count(context.Context, string) (int64, error) { return 0, nil }

func (a noAttempts) Increment(_ context.Context, key string, _ time.Time) (int64, error) {
	a.t.Errorf("an attempt was spent: %s", key)
	return 1, nil
}

func (a noAttempts) GiveBack(_ context.Context, key string, _ int64) error {
	a.t.Errorf("an attempt was given back: %s", key)
	return nil
}
