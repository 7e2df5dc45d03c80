package attest_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
)

const maxPeriod = 100 * 365 * 24 * time.Hour // the longest window and denial

// created is when the instance of a scene was created and launched.
var created = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// scene is an instance that asks for a role, with all as it must be to be
// granted. A test spoils one thing.
type scene struct {
	instance attest.Instance
	role     string
	audience string // that is wanted
	grant    attest.Grant
	window   attest.Window
	rules    attest.Rules
	evidence attest.Evidence
	now      time.Time
	cloud    attest.Instances // nil: knows the instance
	attempts attest.State
	denials  *attesttest.Denials

	unlimited bool // the operator's word on the metadata agents is missing
}

func newScene(t *testing.T) *scene {
	t.Helper()
	in := attesttest.Instance(t)
	in.Created, in.Launched = created, created
	return &scene{
		instance: in,
		role:     "web",
		window:   attest.Window{Limit: 3, Period: 5 * time.Minute, Since: attest.SinceCreated},
		rules:    attest.Rules{AllowAnyInstance: true},
		evidence: attest.FromAddress(attesttest.Addr),
		now:      created.Add(time.Minute),
		attempts: &attesttest.State{},
		denials:  &attesttest.Denials{},
	}
}

func (s *scene) attestor(t *testing.T) *attest.Attestor {
	t.Helper()
	db := newRole(t, "db", attest.Grant{Audience: []string{"https://db.example.com"}}, s.window, attest.Rules{AllowAnyInstance: true})
	policy := attest.NewPolicy(attesttest.Issuer(t, "https://id.example.com/region-1"), newRole(t, s.role, s.grant, s.window, s.rules), db)
	if !s.unlimited {
		policy = policy.WithLimitedAgents()
	}
	now := s.now
	a := &attest.Attestor{
		Policy:    policy,
		Instances: s.cloud,
		State:     s.attempts,
		Denials:   s.denials,
		Now:       func() time.Time { return now },
	}
	if a.Instances == nil {
		a.Instances = attesttest.Cloud{s.instance.ID: s.instance}
	}
	return a
}

func (s *scene) request(t *testing.T) attest.Request {
	t.Helper()
	r := attest.Request{Instance: s.instance.ID, Role: roleName(t, s.role), Evidence: s.evidence}
	if s.audience != "" {
		var err error
		if r.Audience, err = attest.ParseAudience(s.audience); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func newRole(t *testing.T, name string, g attest.Grant, w attest.Window, rules attest.Rules) attest.Role {
	t.Helper()
	r, err := attest.NewRole(name, g, w, rules)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ask gives the outcome in words, and fails the test if an identity came with
// an error or none without.
func (s *scene) ask(t *testing.T) string {
	t.Helper()
	j, err := s.attestor(t).Attest(t.Context(), s.request(t))
	if j.Identity.IsZero() != (err != nil) {
		t.Errorf("Attest gave the identity %+v with the error %v", j.Identity, err)
	}
	return outcome(err)
}

// outcome is what an error of Attest means, and why.
func outcome(err error) string {
	var (
		denied  *attest.Denied
		notYet  *attest.NotYet
		failure *attest.Failure
	)
	switch {
	case err == nil:
		return granted
	case errors.As(err, &denied):
		return no(denied.Reason)
	case errors.As(err, &notYet):
		return later(notYet.Reason)
	case errors.As(err, &failure):
		return broken(failure.Reason)
	}
	return fmt.Sprintf("an error of no known kind: %v", err)
}

const granted = "granted"

func no(r attest.Reason) string     { return "denied: " + string(r) }
func later(r attest.Reason) string  { return "not yet: " + string(r) }
func broken(r attest.Reason) string { return "failure: " + string(r) }

func roleName(t *testing.T, s string) attest.RoleName {
	t.Helper()
	n, err := attest.ParseRoleName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// at is what Neutron would report for these addresses.
func at(addrs ...string) []attest.Address {
	var all []attest.Address
	for _, a := range addrs {
		all = append(all, attest.Address{Network: "private", Addr: netip.MustParseAddr(a)})
	}
	return all
}

// cloudFunc is a cloud in one function.
type cloudFunc func(id attest.InstanceID, caller netip.Addr) (attest.Instance, error)

func (f cloudFunc) Instance(_ context.Context, id attest.InstanceID, caller netip.Addr) (attest.Instance, error) {
	return f(id, caller)
}

type verifier attest.Document

func (v verifier) VerifyDocument(string) (attest.Document, error) { return attest.Document(v), nil }

func withDocument(e attest.Evidence, d attest.Document) attest.Evidence {
	e, _, _ = e.WithDocument(verifier(d), "") // it cannot fail
	return e
}
