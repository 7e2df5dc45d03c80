package attest_test

import (
	"net/netip"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
)

// Without the operator's word nothing that rests on a metadata agent is believed, also
// where a role takes it beside other proofs.
func TestUnlimitedAgents(t *testing.T) {
	agent := func(s *scene) attest.Evidence {
		return attest.FromMetadataAgent(s.instance.ID, s.instance.ProjectID, attesttest.Addr)
	}
	address := func(*scene) attest.Evidence { return attest.FromAddress(attesttest.Addr) }
	elsewhere := func(s *scene) attest.Evidence {
		return withDocument(attest.FromAddress(neighbor), papers(s))
	}
	both := func(s *scene) attest.Evidence { return withDocument(address(s), papers(s)) }
	all := []attest.Proof{"metadataService", "document", "address", "address+document"}
	for _, tt := range []struct {
		name     string
		proof    []attest.Proof
		evidence func(*scene) attest.Evidence
		without  string // the outcome without the operator's word
		with     string // and with it
	}{
		{"the metadata service", []attest.Proof{"metadataService"}, agent, no(attest.AgentsUnlimited), granted},
		{"the metadata service in a list", []attest.Proof{"address", "metadataService"}, agent, no(attest.AgentsUnlimited), granted},
		{"the metadata service in a list of all", all, agent, no(attest.AgentsUnlimited), granted},
		{"the metadata service, not accepted", []attest.Proof{"address"}, agent, no(attest.ProofNotAccepted), no(attest.ProofNotAccepted)},
		{"an agent with a document", []attest.Proof{"document"}, func(s *scene) attest.Evidence { return withDocument(agent(s), papers(s)) }, no(attest.AgentsUnlimited), granted},
		{"a document", []attest.Proof{"document"}, elsewhere, no(attest.AgentsUnlimited), granted},
		{"a document, from the instance's address", []attest.Proof{"document"}, both, no(attest.AgentsUnlimited), granted},
		{"a document in a list, from elsewhere", []attest.Proof{"address", "document"}, elsewhere, no(attest.AgentsUnlimited), granted},
		{"a document in a list of all, from elsewhere", all, elsewhere, no(attest.AgentsUnlimited), granted},
		{"a document in a list, from the instance's address", []attest.Proof{"document", "address"}, both, granted, granted},
		{"an address", nil, address, granted, granted},
		{"an address in a list", all, address, granted, granted},
		{"an address and a document", []attest.Proof{"address+document"}, both, granted, granted},
		{"an address and a document, from elsewhere", []attest.Proof{"address+document"}, elsewhere, no(attest.AddressMismatch), no(attest.AddressMismatch)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for unlimited, want := range map[bool]string{true: tt.without, false: tt.with} {
				s := newScene(t)
				s.grant.Proof, s.unlimited = tt.proof, unlimited
				s.evidence = tt.evidence(s)
				if got := s.ask(t); got != want {
					t.Errorf("agents are unlimited: %v: %s, want %s", unlimited, got, want)
				}
				if want != granted && s.attempts.(*attesttest.State).Writes() != 0 {
					t.Error("an attempt was spent")
				}
			}
		})
	}
}

// The checks end with the one that decided, also where another proof was tried before.
func TestChecksOfUnlimitedAgents(t *testing.T) {
	agent := func(s *scene) attest.Evidence {
		return attest.FromMetadataAgent(s.instance.ID, s.instance.ProjectID, attesttest.Addr)
	}
	for _, tt := range []struct {
		name     string
		proof    []attest.Proof
		evidence func(*scene) attest.Evidence
		before   int // checks that come first
	}{
		{"the metadata service", []attest.Proof{"metadataService"}, agent, 1},
		{"a document", []attest.Proof{"document"}, func(s *scene) attest.Evidence { return withDocument(s.evidence, papers(s)) }, 1},
		{"a document or the address, from elsewhere", []attest.Proof{"address", "document"}, func(s *scene) attest.Evidence {
			return withDocument(attest.FromAddress(neighbor), papers(s))
		}, 5}, // role, proof, audience, instance, address
	} {
		s := newScene(t)
		s.grant.Proof, s.unlimited = tt.proof, true
		s.evidence = tt.evidence(s)
		j, err := s.attestor(t).Attest(t.Context(), s.request(t))
		if outcome(err) != no(attest.AgentsUnlimited) || len(j.Checks) != tt.before+1 {
			t.Errorf("%s: %v after %v", tt.name, err, j.Checks)
			continue
		}
		if last := j.Checks[tt.before]; last.Name != "proof" || outcome(last.Err) != no(attest.AgentsUnlimited) {
			t.Errorf("%s: the last check is %v", tt.name, last)
		}
	}
}

// What was granted by the address says so, though a document came with it.
func TestUnlimitedAgentsLeaveTheAddress(t *testing.T) {
	s := newScene(t)
	s.grant.Proof, s.unlimited = []attest.Proof{"document", "address"}, true
	s.evidence = withDocument(s.evidence, papers(s))
	j, err := s.attestor(t).Attest(t.Context(), s.request(t))
	if err != nil || len(j.Identity.Proofs()) != 1 || j.Identity.Proofs()[0] != attest.ProofAddress {
		t.Errorf("%v, %v", j.Identity.Proofs(), err)
	}
}

// An instance that changes is told to ask again, as without the document.
func TestUnlimitedAgentsKeepRetryableErrors(t *testing.T) {
	s := newScene(t)
	s.grant.Proof, s.unlimited = []attest.Proof{"document", "address"}, true
	s.instance.Phase, s.instance.Addresses = attest.PhaseSpawning, nil
	s.evidence = withDocument(s.evidence, papers(s))
	if got := s.ask(t); got != later(attest.InstanceChanging) {
		t.Error(got)
	}
}

func TestUnlimitedAgentsAskNothingOfTheCloud(t *testing.T) {
	s := newScene(t)
	s.grant.Proof, s.unlimited = []attest.Proof{"metadataService", "document"}, true
	s.cloud = cloudFunc(func(attest.InstanceID, netip.Addr) (attest.Instance, error) {
		t.Error("the cloud was asked")
		return attest.Instance{}, attest.ErrNoInstance
	})
	agent := attest.FromMetadataAgent(s.instance.ID, s.instance.ProjectID, attesttest.Addr)
	for _, s.evidence = range []attest.Evidence{agent, withDocument(attest.FromAddress(neighbor), papers(s))} {
		if got := s.ask(t); got != no(attest.AgentsUnlimited) {
			t.Error(got)
		}
	}
	if names, _, err := s.attestor(t).Roles(t.Context(), s.instance.ID, agent); outcome(err) != no(attest.AgentsUnlimited) || names != nil {
		t.Errorf("Roles = %v, %v", names, err)
	}
}

func TestRolesOfUnlimitedAgents(t *testing.T) {
	for _, tt := range []struct {
		name  string
		proof []attest.Proof
		from  netip.Addr
		want  string // the outcome
		roles int
	}{
		{"a document for one role, the address for the other", []attest.Proof{"document"}, attesttest.Addr, granted, 1},
		{"a document or the address", []attest.Proof{"document", "address"}, attesttest.Addr, granted, 2},
		{"a document and the address", []attest.Proof{"address+document"}, attesttest.Addr, granted, 2},
		{"a document and the address, from elsewhere", []attest.Proof{"address+document"}, neighbor, no(attest.AddressMismatch), 0},
	} {
		s := newScene(t)
		s.grant.Proof, s.unlimited = tt.proof, true
		names, _, err := s.attestor(t).Roles(t.Context(), s.instance.ID, withDocument(attest.FromAddress(tt.from), papers(s)))
		if outcome(err) != tt.want || len(names) != tt.roles {
			t.Errorf("%s: %v, %v", tt.name, names, err)
		}
	}
}

// Nova is given documents, and no tokens.
func TestVouchWithUnlimitedAgents(t *testing.T) {
	for unlimited, want := range map[bool]string{true: no(attest.AgentsUnlimited), false: granted} {
		s := newScene(t)
		s.unlimited = unlimited
		v, _, err := s.attestor(t).Vouch(t.Context(), s.instance.ID, s.instance.ProjectID)
		if err != nil || v.IsZero() {
			t.Fatal(err)
		}
		if got := outcome(v.MayHaveToken()); got != want {
			t.Errorf("agents are unlimited: %v: %s, want %s", unlimited, got, want)
		}
	}
	if got := outcome(attest.Vouched{}.MayHaveToken()); got != no(attest.AgentsUnlimited) {
		t.Errorf("the zero value: %s", got)
	}
}
