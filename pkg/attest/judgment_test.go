package attest_test

import (
	"slices"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
)

// The checks are in the order of the decision, and end with the one that decided.
func TestJudgmentListsTheChecks(t *testing.T) {
	all := []string{"role", "proof", "audience", "instance", "address", "window", "denial", "status", "attempts", "projectID", "metadata.role"}
	for last, spoil := range map[string]func(*scene){
		"role":          func(s *scene) { s.role = "other" },
		"proof":         func(s *scene) { s.grant.Proof = []attest.Proof{attest.ProofDocument} },
		"instance":      func(s *scene) { s.cloud = attesttest.Cloud{} },
		"address":       func(s *scene) { s.evidence = attest.Evidence{} },
		"status":        func(s *scene) { s.instance.Phase = attest.PhaseInactive },
		"projectID":     func(s *scene) { s.instance.ProjectID = "another" },
		"metadata.role": func(*scene) {},
	} {
		s := newScene(t)
		s.rules = attest.Rules{ProjectID: []string{s.instance.ProjectID}, Metadata: map[string][]string{"role": {"web"}}}
		spoil(s)
		r := s.request(t)
		r.Role = roleName(t, "web")
		j, err := s.attestor(t).Attest(t.Context(), r)
		var got []string
		failed := 0
		for _, c := range j.Checks {
			if got = append(got, c.Name); c.Err != nil {
				failed++
			}
		}
		if want := all[:slices.Index(all, last)+1]; !slices.Equal(got, want) || failed > 1 || (failed == 1) != (err != nil) {
			t.Errorf("%s: checks %q, %d failed, %v", last, got, failed, err)
		}
		if n := len(j.Checks) - 1; err != nil && j.Checks[n].Err.Error() != err.Error() {
			t.Errorf("%s: the last check says %v, the error is %v", last, j.Checks[n].Err, err)
		}
	}
}
