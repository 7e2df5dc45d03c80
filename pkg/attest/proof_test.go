package attest_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
)

const image = "44742495-68d3-4c10-8642-423ed054a9f2"

// papers are a good document of the instance of a scene.
func papers(s *scene) attest.Document {
	return attest.Document{
		ID: "doc-1", Instance: s.instance.ID, ProjectID: s.instance.ProjectID, ImageID: s.instance.ImageID,
		Launched: s.instance.Launched, Issued: s.now.Add(-time.Minute), Expires: s.now.Add(4 * time.Minute),
	}
}

// neighbor is an address of another instance, or of a NAT that many share.
var neighbor = netip.MustParseAddr("10.20.0.99")

func TestProofs(t *testing.T) {
	agent := func(s *scene) attest.Evidence {
		return attest.FromMetadataAgent(s.instance.ID, s.instance.ProjectID, attesttest.Addr)
	}
	address := func(*scene) attest.Evidence { return attest.FromAddress(attesttest.Addr) }
	outside := func(*scene) attest.Evidence { return attest.FromAddress(neighbor) }
	with := func(from func(*scene) attest.Evidence) func(*scene) attest.Evidence {
		return func(s *scene) attest.Evidence { return withDocument(from(s), papers(s)) }
	}
	tests := []struct {
		name     string
		proof    []attest.Proof
		evidence func(*scene) attest.Evidence
		want     string
		amr      []attest.Proof
	}{
		{"nothing, for any proof", []attest.Proof{"address", "document", "metadataService"}, func(*scene) attest.Evidence { return attest.Evidence{} }, no(attest.AddressMismatch), nil},
		{"an address for an address", nil, address, granted, []attest.Proof{"address"}},
		{"an address for a document", []attest.Proof{"document"}, address, no(attest.ProofNotAccepted), nil},
		{"an address for the metadata service", []attest.Proof{"metadataService"}, address, no(attest.ProofNotAccepted), nil},
		{"an address for both", []attest.Proof{"address+document"}, address, no(attest.ProofNotAccepted), nil},

		{"a document for an address, from elsewhere", nil, with(outside), no(attest.AddressMismatch), nil},
		{"a document for a document, from elsewhere", []attest.Proof{"document"}, with(outside), granted, []attest.Proof{"document"}},
		{"Nova's word, which no role takes", []attest.Proof{"address"}, func(*scene) attest.Evidence { return attest.Evidence{} }, no(attest.AddressMismatch), nil},
		{"a document for the metadata service", []attest.Proof{"metadataService"}, with(address), no(attest.ProofNotAccepted), nil},
		{"a document for both, from elsewhere", []attest.Proof{"address+document"}, with(outside), no(attest.AddressMismatch), nil},
		{"both for both", []attest.Proof{"address+document"}, with(address), granted, []attest.Proof{"address", "document"}},
		{"a document for either, from elsewhere", []attest.Proof{"address", "document"}, with(outside), granted, []attest.Proof{"document"}},
		{"both for either: the first that holds", []attest.Proof{"document", "address"}, with(address), granted, []attest.Proof{"document"}},

		{"an agent for an address", nil, agent, no(attest.ProofNotAccepted), nil},
		{"an agent for a document", []attest.Proof{"document"}, agent, no(attest.ProofNotAccepted), nil},
		{"an agent for the metadata service", []attest.Proof{"metadataService"}, agent, granted, []attest.Proof{"metadataService"}},
		{"an agent for any", []attest.Proof{"address", "document", "metadataService"}, agent, granted, []attest.Proof{"metadataService"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			s.grant.Proof = tt.proof
			s.evidence = tt.evidence(s)
			if got := s.ask(t); got != tt.want {
				t.Fatalf("%s, want %s", got, tt.want)
			}
			if tt.want != granted {
				return
			}
			j, err := s.attestor(t).Attest(t.Context(), s.request(t))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.amr, j.Identity.Proofs()); diff != "" {
				t.Errorf("proofs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatIsNotAcceptedAsksNothingOfTheCloud(t *testing.T) {
	s := newScene(t)
	s.grant.Proof = []attest.Proof{attest.ProofDocument}
	s.cloud = cloudFunc(func(attest.InstanceID, netip.Addr) (attest.Instance, error) {
		t.Error("the cloud was asked")
		return attest.Instance{}, attest.ErrNoInstance
	})
	if got := s.ask(t); got != no(attest.ProofNotAccepted) {
		t.Error(got)
	}
}

func TestDocument(t *testing.T) {
	tests := []struct {
		name string
		edit func(*scene, *attest.Document)
		want string
	}{
		{"expired", func(s *scene, d *attest.Document) { d.Expires = s.now }, no(attest.DocumentInvalid)},
		{"without an ID, and so no document", func(_ *scene, d *attest.Document) { d.ID = "" }, no(attest.ProofNotAccepted)},
		{"of another instance", func(_ *scene, d *attest.Document) {
			d.Instance = attesttest.ID(t, "5ad2d1b0-6c1c-4a43-9f0e-3f1d5a7f0b11")
		}, no(attest.DocumentVoid)},
		{"of another project", func(_ *scene, d *attest.Document) { d.ProjectID = "other" }, no(attest.DocumentVoid)},
		{"of another image: rebuilt", func(_ *scene, d *attest.Document) { d.ImageID = "other" }, no(attest.DocumentVoid)},
		{"of no image, as after a boot from volume", func(_ *scene, d *attest.Document) { d.ImageID = "" }, no(attest.DocumentVoid)},
		{"rebuilt from the same image", func(s *scene, _ *attest.Document) { s.instance.Launched = s.now.Add(-time.Second) }, no(attest.DocumentVoid)},
		{"of a later launch than Nova knows", func(s *scene, d *attest.Document) { d.Launched = s.now }, no(attest.DocumentVoid)},
		{"of a launched instance that Nova says was never launched", func(s *scene, _ *attest.Document) { s.instance.Launched = time.Time{} }, no(attest.DocumentVoid)},
		{"made while BUILD, which is over", func(s *scene, d *attest.Document) {
			d.Launched, s.instance.Launched = time.Time{}, d.Issued.Add(5*time.Second)
		}, granted},
		{"made while BUILD, and rebuilt since", func(s *scene, d *attest.Document) {
			d.Launched, s.now, d.Expires = time.Time{}, d.Issued.Add(4*time.Minute), d.Issued.Add(5*time.Minute)
			s.instance.Launched = d.Issued.Add(3 * time.Minute)
		}, no(attest.DocumentVoid)},
		{"made while BUILD, which goes on", func(s *scene, d *attest.Document) {
			d.Launched, s.instance.Launched, s.instance.Phase = time.Time{}, time.Time{}, attest.PhaseSpawning
		}, later(attest.InstanceChanging)},
		{"made long after the launch, but without one", func(s *scene, d *attest.Document) {
			d.Launched, d.Issued, s.instance.Launched = time.Time{}, s.now, s.now.Add(-10*time.Minute)
		}, no(attest.DocumentVoid)},
		{"good, when the window is over", func(s *scene, d *attest.Document) {
			s.now = created.Add(24 * time.Hour)
			d.Expires = s.now.Add(time.Second)
		}, granted},
		{"good, but the instance is stopped", func(s *scene, _ *attest.Document) { s.instance.Phase = attest.PhaseInactive }, no(attest.StatusDenied)},
		{"good, but the rules do not hold", func(s *scene, _ *attest.Document) {
			s.rules = attest.Rules{ProjectID: []string{"other"}}
		}, no(attest.RuleProjectID)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			s.instance.ImageID = image
			s.grant.Proof = []attest.Proof{attest.ProofDocument}
			d := papers(s)
			tt.edit(s, &d)
			s.evidence = withDocument(attest.FromAddress(neighbor), d)
			if got := s.ask(t); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// Attempts are the document's: another one of the same instance has its own.
func TestDocumentsAreCountedEachForItself(t *testing.T) {
	s := newScene(t)
	s.grant.Proof, s.window.Limit = []attest.Proof{attest.ProofDocument}, 2
	ask := func(id string) string {
		d := papers(s)
		d.ID = id
		s.evidence = withDocument(attest.FromAddress(neighbor), d)
		return s.ask(t)
	}
	for _, want := range []string{granted, granted, no(attest.AttemptsExhausted)} {
		if got := ask("one"); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if got := ask("two"); got != granted {
		t.Error(got)
	}
}

// With both proofs a fresh document gives no attempts back.
func TestBothProofsAreCountedByBoth(t *testing.T) {
	s := newScene(t)
	s.grant.Proof, s.window.Limit = []attest.Proof{attest.ProofAddressAndDocument}, 2
	for i, want := range []string{granted, granted, no(attest.AttemptsExhausted)} {
		d := papers(s)
		d.ID = strings.Repeat("x", i+1)
		s.evidence = withDocument(attest.FromAddress(attesttest.Addr), d)
		if got := s.ask(t); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// Of two proofs that are both counted, one that cannot be spent leaves the other
// unspent.
func TestAnAttemptOfOneProofAloneIsGivenBack(t *testing.T) {
	s, state := newScene(t), &stubbornState{State: &attesttest.State{}}
	s.grant.Proof, s.window.Limit, s.attempts = []attest.Proof{attest.ProofAddressAndDocument}, 2, state
	s.evidence = withDocument(s.evidence, papers(s))
	state.refuse = "documents/"
	for range 5 {
		if got := s.ask(t); got != broken(attest.StateUnavailable) {
			t.Fatal(got)
		}
	}
	state.refuse = ""
	for i, want := range []string{granted, granted} {
		if got := s.ask(t); got != want {
			t.Fatalf("%d: %s, want %s", i, got, want)
		}
	}
	// The document is used up with all of its attempts, which does not cost the window.
	other := newScene(t)
	other.grant.Proof, other.window.Limit, other.attempts = []attest.Proof{attest.ProofDocument}, 1, &attesttest.State{}
	other.evidence = withDocument(attest.FromAddress(attesttest.Addr), papers(other))
	if got := other.ask(t); got != granted {
		t.Fatal(got)
	}
	other.grant.Proof = []attest.Proof{attest.ProofAddressAndDocument}
	for range 3 {
		if got := other.ask(t); got != no(attest.AttemptsExhausted) {
			t.Fatal(got)
		}
	}
	d := papers(other)
	d.ID = "another"
	other.evidence = withDocument(attest.FromAddress(attesttest.Addr), d)
	if got := other.ask(t); got != granted {
		t.Errorf("with a fresh document: %s", got)
	}
}

// stubbornState fails for the keys that begin with refuse.
type stubbornState struct {
	*attesttest.State

	refuse string
}

func (s *stubbornState) Increment(ctx context.Context, key string, expires time.Time) (int64, error) {
	if s.refuse != "" && strings.HasPrefix(key, s.refuse) {
		return 0, errors.New("away")
	}
	return s.State.Increment(ctx, key, expires)
}

// An identity that nothing came of gives its attempts back, once the request that
// it was for has ended, too; a verdict gives nothing back.
func TestGiveBack(t *testing.T) {
	s := newScene(t)
	a := s.attestor(t)
	ctx, cancel := context.WithCancel(t.Context())
	for range 10 {
		j, err := a.Attest(ctx, s.request(t))
		if err != nil || j.Identity.Attempt() != 1 {
			t.Fatalf("attempt %d, %v", j.Identity.Attempt(), err)
		}
		if err := a.GiveBack(ctx, j.Identity); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := a.GiveBack(ctx, attest.Identity{}); err != nil {
		t.Error(err)
	}
	s.rules = attest.Rules{ProjectID: []string{"another"}}
	for i, want := range []string{no(attest.RuleProjectID), no(attest.RuleProjectID), no(attest.RuleProjectID), no(attest.AttemptsExhausted)} {
		if got := s.ask(t); got != want {
			t.Errorf("%d: %s, want %s", i, got, want)
		}
	}
}

func TestMetadataAgent(t *testing.T) {
	mac := attest.MAC{0xfa, 0x16, 0x3e, 0x73, 0xce, 0x1b}
	const other = "5ad2d1b0-6c1c-4a43-9f0e-3f1d5a7f0b11"
	agent := func(s *scene, addr string) attest.Evidence {
		return attest.FromMetadataAgent(s.instance.ID, s.instance.ProjectID, netip.MustParseAddr(addr))
	}
	tests := []struct {
		name string
		edit func(*scene)
		want string
	}{
		{"for another instance", func(s *scene) {
			s.evidence = attest.FromMetadataAgent(attesttest.ID(t, other), s.instance.ProjectID, attesttest.Addr)
		}, no(attest.AddressMismatch)},
		{"for a port of another project", func(s *scene) {
			s.evidence = attest.FromMetadataAgent(s.instance.ID, "other", attesttest.Addr)
		}, no(attest.ProjectMismatch)},
		{"without a project", func(s *scene) { s.evidence = attest.FromMetadataAgent(s.instance.ID, "", attesttest.Addr) }, no(attest.ProofNotAccepted)},
		{"without an address", func(s *scene) {
			s.evidence = attest.FromMetadataAgent(s.instance.ID, s.instance.ProjectID, netip.Addr{})
		}, no(attest.ProofNotAccepted)},
		{"from an address of another", func(s *scene) { s.evidence = agent(s, neighbor.String()) }, no(attest.AddressMismatch)},
		{"from a link-local address of another MAC", func(s *scene) { s.evidence = agent(s, "fe80::f816:3eff:fe73:ce1c") }, no(attest.AddressMismatch)},
		{"from a link-local address without the bit that EUI-64 flips", func(s *scene) { s.evidence = agent(s, "fe80::fa16:3eff:fe73:ce1b") }, no(attest.AddressMismatch)},
		{"from the link-local address of its MAC", func(s *scene) { s.evidence = agent(s, "fe80::f816:3eff:fe73:ce1b%eth0") }, granted},
		{"from its address", func(*scene) {}, granted},
		{"from its address, IPv4 in IPv6", func(s *scene) { s.evidence = agent(s, "::ffff:"+attesttest.Addr.String()) }, granted},
		{"long after the window", func(s *scene) { s.now = created.Add(1000 * time.Hour) }, granted},
		{"while BUILD, before Nova knows the address", func(s *scene) {
			s.instance.Addresses, s.instance.Phase = nil, attest.PhaseSpawning
		}, later(attest.InstanceChanging)},
		{"while ACTIVE without an address", func(s *scene) { s.instance.Addresses = nil }, no(attest.AddressMismatch)},
		{"of a stopped instance", func(s *scene) { s.instance.Phase = attest.PhaseInactive }, no(attest.StatusDenied)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			s.grant.Proof = []attest.Proof{attest.ProofMetadataService}
			s.instance.Addresses[0].MAC = mac
			s.evidence = agent(s, attesttest.Addr.String())
			tt.edit(s)
			if got := s.ask(t); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// The agent is the throttle: it has no attempts, however often it asks.
func TestMetadataAgentHasNoAttempts(t *testing.T) {
	s := newScene(t)
	s.grant.Proof, s.window.Limit = []attest.Proof{attest.ProofMetadataService}, 1
	s.evidence = attest.FromMetadataAgent(s.instance.ID, s.instance.ProjectID, attesttest.Addr)
	for range 5 {
		if got := s.ask(t); got != granted {
			t.Fatal(got)
		}
	}
	if n := s.attempts.(*attesttest.State).Writes(); n != 0 {
		t.Errorf("%d attempts were written", n)
	}
}

// The cloud is asked for the address of another client, and for no address for
// who was recognized.
func TestCallerOfTheCloud(t *testing.T) {
	s := newScene(t)
	for name, tt := range map[string]struct {
		evidence attest.Evidence
		want     netip.Addr
	}{
		"another client":   {attest.FromAddress(neighbor), neighbor},
		"with a document":  {withDocument(attest.FromAddress(neighbor), papers(s)), netip.Addr{}},
		"a metadata agent": {attest.FromMetadataAgent(s.instance.ID, "p", neighbor), netip.Addr{}},
	} {
		s.grant.Proof, s.evidence = []attest.Proof{"address", "document", "metadataService"}, tt.evidence
		s.cloud = cloudFunc(func(_ attest.InstanceID, caller netip.Addr) (attest.Instance, error) {
			if caller != tt.want {
				t.Errorf("%s: the cloud was asked for %v, want %v", name, caller, tt.want)
			}
			return attest.Instance{}, attest.ErrNoInstance
		})
		s.ask(t)
	}
}

// An address that Nova assigned is in the token; that of a NAT is not.
func TestIdentityAddress(t *testing.T) {
	s := newScene(t)
	s.grant.Proof = []attest.Proof{attest.ProofDocument}
	for from, want := range map[netip.Addr]netip.Addr{attesttest.Addr: attesttest.Addr, neighbor: {}} {
		s.evidence = withDocument(attest.FromAddress(from), papers(s))
		j, err := s.attestor(t).Attest(t.Context(), s.request(t))
		if err != nil || j.Identity.Address() != want {
			t.Errorf("from %v: %v, %v, want %v", from, j.Identity.Address(), err, want)
		}
	}
}

// What Nova itself says of an instance.
func TestVouch(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*scene)
		as   string // the project that Nova names
		want string
	}{
		{"of another project", func(*scene) {}, "other", no(attest.ProjectMismatch)},
		{"of no project", func(*scene) {}, "", no(attest.ProjectMismatch)},
		{"of an instance that is gone", func(s *scene) { s.cloud = attesttest.Cloud{} }, "", no(attest.InstanceUnknown)},
		{"of one in ERROR", func(s *scene) { s.instance.Phase = attest.PhaseInactive }, "own", no(attest.StatusDenied)},
		{"of one that is shelved", func(s *scene) { s.instance.Phase = attest.PhaseInactive }, "own", no(attest.StatusDenied)},
		{"of one that an operator denied", func(s *scene) {
			s.denials.Values = denial(s.instance.ID, "{}")
		}, "own", no(attest.InstanceDenied)},
		{"of one that is built, without an address", func(s *scene) {
			s.instance.Phase, s.instance.Launching, s.instance.Addresses, s.instance.Launched = attest.PhaseSpawning, true, nil, time.Time{}
		}, "own", granted},
		{"of one that is rebuilt", func(s *scene) { s.instance.Phase, s.instance.Launching = attest.PhaseChanging, true }, "own", granted},
		{"of one that runs, long after its window", func(s *scene) { s.now = created.Add(1000 * time.Hour) }, "own", granted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			tt.edit(s)
			if tt.as == "own" {
				tt.as = s.instance.ProjectID
			}
			v, _, err := s.attestor(t).Vouch(t.Context(), s.instance.ID, tt.as)
			if got := outcome(err); got != tt.want || v.IsZero() != (err != nil) {
				t.Errorf("%s, %+v, want %s", got, v, tt.want)
			}
		})
	}
}

func TestRoles(t *testing.T) {
	s := newScene(t)
	s.grant.Proof = []attest.Proof{attest.ProofMetadataService}
	a := s.attestor(t)
	agent := attest.FromMetadataAgent(s.instance.ID, s.instance.ProjectID, attesttest.Addr)
	names, _, err := a.Roles(t.Context(), s.instance.ID, agent)
	if err != nil || len(names) != 1 || names[0].String() != "web" {
		t.Errorf("Roles = %v, %v, want web and not db, which takes an address", names, err)
	}
	if names, _, err := a.Roles(t.Context(), s.instance.ID, attest.FromAddress(neighbor)); outcome(err) != no(attest.AddressMismatch) || names != nil {
		t.Errorf("Roles of another client = %v, %v", names, err)
	}
	s.instance.Phase = attest.PhaseInactive
	if names, _, err := s.attestor(t).Roles(t.Context(), s.instance.ID, agent); outcome(err) != no(attest.StatusDenied) {
		t.Errorf("Roles of a stopped instance = %v, %v", names, err)
	}
	if n := s.attempts.(*attesttest.State).Writes(); n != 0 {
		t.Errorf("%d attempts were written", n)
	}
}
