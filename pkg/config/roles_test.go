package config_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

// scene has an instance that was created an hour and launched ten minutes before now.
type scene struct {
	policy   attest.Policy
	instance attest.Instance
	attempts *attesttest.State
	now      time.Time
	evidence attest.Evidence
}

func newScene(t *testing.T, c *config.Plan) *scene {
	t.Helper()
	s := &scene{c.RoleSet, attesttest.Instance(t), &attesttest.State{}, time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), attest.FromAddress(attesttest.Addr)}
	s.instance.Created, s.instance.Launched = s.now.Add(-time.Hour), s.now.Add(-10*time.Minute)
	s.instance.ProjectID = "a"
	return s
}

// ask makes one attempt. It returns the reason of a denial, "" for a grant.
func (s *scene) ask(t *testing.T, role string) (attest.Identity, attest.Reason) {
	t.Helper()
	name, err := attest.ParseRoleName(role)
	if err != nil {
		t.Fatal(err)
	}
	a := &attest.Attestor{
		Policy:    s.policy,
		Instances: attesttest.Cloud{s.instance.ID: s.instance},
		State:     s.attempts,
		Denials:   &attesttest.Denials{},
		Now:       func() time.Time { return s.now },
	}
	j, err := a.Attest(t.Context(), attest.Request{Instance: s.instance.ID, Role: name, Evidence: s.evidence})
	var denied *attest.Denied
	switch {
	case err == nil:
		return j.Identity, ""
	case errors.As(err, &denied):
		return j.Identity, denied.Reason
	}
	t.Fatal(err)
	return j.Identity, ""
}

// A role has the settings of auth unless it has others.
func TestARoleInheritsFromAuth(t *testing.T) {
	const auth = auth + `
  limit: 2
  period: 30m
  since: created
  tokenExpiry: 5m
`
	tests := []struct {
		name, role string
		limit      int // 0: the window is closed
		expiry     time.Duration
	}{
		{"nothing, the window is closed", "", 0, 0},
		{"another moment opens the window", "since: launched", 2, 5 * time.Minute},
		{"the window is longer", "period: 61m", 2, 5 * time.Minute},
		{"the window is as long as the instance is old", "period: 60m", 0, 0},
		{"the window is shorter, from another moment", "since: launched, period: 10m", 0, 0},
		{"other limit", "since: launched, limit: 4", 4, 5 * time.Minute},
		{"other token life", "since: launched, tokenExpiry: 1m", 2, time.Minute},
		{"all others", "since: launched, period: 11m, limit: 1, tokenExpiry: 2h", 1, 2 * time.Hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := mustLoad(t, auth+"roles:\n  web: {projectID: a, "+tt.role+"}\n  other: {projectID: a, limit: 99, period: 99h, since: launched, tokenExpiry: 3h}\n")
			s := newScene(t, c)
			id, reason := s.ask(t, "web")
			if tt.limit == 0 {
				if reason != attest.WindowClosed {
					t.Fatalf("the answer is %q, want %q", reason, attest.WindowClosed)
				}
				return
			}
			if reason != "" {
				t.Fatalf("denied: %s", reason)
			}
			if got := life(t, c, id); got != tt.expiry {
				t.Errorf("the token lives %v, want %v", got, tt.expiry)
			}
			granted := 1
			for ; granted <= tt.limit; granted++ {
				if _, reason = s.ask(t, "web"); reason != "" {
					break
				}
			}
			if granted != tt.limit || reason != attest.AttemptsExhausted {
				t.Errorf("%d attempts were granted and then %q, want %d", granted, reason, tt.limit)
			}
		})
	}
}

// life returns the life of a token for id.
func life(t *testing.T, c *config.Plan, id attest.Identity) time.Duration {
	t.Helper()
	issuer, err := token.NewIssuer(c.Tokens, c.SigningKeys, nil)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := issuer.Issue(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(tok.Compact, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct{ Iat, Exp int64 }
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return time.Duration(claims.Exp-claims.Iat) * time.Second
}

func TestTheRulesOfTheFileDecide(t *testing.T) {
	c := mustLoad(t, auth+`
  period: 2h
  limit: 99
roles:
  value: {projectID: a}
  list: {projectID: [b, a]}
  pattern: {projectID: "?"}
  open: {allowAnyInstance: true}
  other-project: {projectID: b}
  other-user: {projectID: a, userID: nobody}
  other-metadata: {projectID: a, metadata: {no-such-key: "*"}}
`)
	s := newScene(t, c)
	for role, want := range map[string]attest.Reason{
		"value": "", "list": "", "pattern": "", "open": "",
		"other-project":  attest.RuleProjectID,
		"other-user":     attest.RuleUserID,
		"other-metadata": attest.RuleMetadata,
		"unknown":        attest.RoleUnknown,
	} {
		if _, got := s.ask(t, role); got != want {
			t.Errorf("role %s: the answer is %q, want %q", role, got, want)
		}
	}
}

// Only the operator's statement on the metadata agents allows their proof.
func TestAgentsLimitHeaders(t *testing.T) {
	for word, want := range map[string]attest.Reason{
		"": attest.AgentsUnlimited, "metadataService: {}\n": attest.AgentsUnlimited,
		"metadataService: {agentsLimitHeaders: false}\n": attest.AgentsUnlimited, "metadataService: {agentsLimitHeaders: true}\n": "",
	} {
		c := mustLoad(t, word+auth+"roles:\n  web: {allowAnyInstance: true, proof: metadataService}\n")
		s := newScene(t, c)
		s.evidence = attest.FromMetadataAgent(s.instance.ID, s.instance.ProjectID, attesttest.Addr)
		if _, got := s.ask(t, "web"); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}
