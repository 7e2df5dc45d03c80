package server_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

// hangs waits until its context ends, or for an hour.
func hangs(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Hour):
		return nil
	}
}

// hangingState is a state and a denial list that do not answer.
type hangingState struct{ attest.State }

func (hangingState) Entry(ctx context.Context, _ string) ([]byte, error) { return nil, hangs(ctx) }

// hangingOutput is an output of the audit log whose reader has stopped.
type hangingOutput struct{ until chan struct{} }

func (o hangingOutput) Write(p []byte) (int, error) { <-o.until; return len(p), nil }

// An agent may serve one guest at a time, so each gets an answer within 1.5 s, whatever is slow.
func TestGuestsDoNotWaitLong(t *testing.T) {
	for _, tt := range []struct {
		name   string
		edit   func(*scene)
		reason string
	}{
		{"the cloud", func(s *scene) {
			s.cloud = cloudFunc(func(ctx context.Context) (attest.Instance, error) { return attest.Instance{}, hangs(ctx) })
		}, "cloud_unavailable"},
		{"the denial list", func(s *scene) { s.denials = hangingState{} }, "state_unavailable"},
		{"the cloud, and then the audit log", func(s *scene) {
			in := s.instance
			s.cloud = cloudFunc(func(context.Context) (attest.Instance, error) { <-time.After(1400 * time.Millisecond); return in, nil })
			s.audit = hangingOutput{make(chan struct{})}
		}, "audit_unavailable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t)
				tt.edit(s)
				h := newMetadataDoor(t, s, nil)
				if o, ok := s.audit.(hangingOutput); ok {
					defer close(o.until)
				}
				for _, ask := range []struct{ method, target string }{{http.MethodPut, webToken}, {http.MethodGet, "/identity/roles"}} {
					began := time.Now()
					got := h.do(t, h.request(ask.method, ask.target))
					if took := time.Since(began); took != 1500*time.Millisecond || got.status != http.StatusInternalServerError || !strings.Contains(got.body, `"retry_after":`) {
						t.Errorf("%s: after %v %d %s", ask.target, took, got.status, got.body)
					}
					series := `nova_authenticator_decision_seconds_count{door="metadata",outcome="failed"}`
					if !strings.Contains(h.metrics(t), `reason="`+tt.reason+`"`) || h.metric(t, series) == "0" {
						t.Errorf("%s: it is not counted as %s:\n%s", ask.target, tt.reason, h.metrics(t))
					}
				}
			})
		})
	}
}

// A cloud whose lookup has an earlier deadline, openstack.timeout, gives the answer then.
func TestAShorterTimeoutOfTheCloudCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.cloud = cloudFunc(func(ctx context.Context) (attest.Instance, error) {
			ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
			defer cancel()
			return attest.Instance{}, hangs(ctx)
		})
		h := newMetadataDoor(t, s, nil)
		began := time.Now()
		if got := h.do(t, h.request(http.MethodPut, webToken)); got.status != http.StatusInternalServerError || time.Since(began) != 500*time.Millisecond {
			t.Errorf("after %v %d %s", time.Since(began), got.status, got.body)
		}
	})
}

// The address's door waits as long as the cloud does.
func TestOtherDoorsHaveNoBoundOfTheGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		in := s.instance
		s.cloud = cloudFunc(func(ctx context.Context) (attest.Instance, error) {
			if _, bounded := ctx.Deadline(); bounded {
				t.Error("the lookup has a deadline")
			}
			<-time.After(2 * time.Second)
			return in, nil
		})
		s.open(t).ask(t, home, webForm).granted(t)
	})
}
