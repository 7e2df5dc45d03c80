package attest

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// Proof is a way to show that a caller is an instance, in the words of the
// configuration and of the `amr` claim (RFC 8176 leaves them to the issuer).
type Proof string

// The proofs.
const (
	// ProofAddress is to speak from one of the instance's own addresses.
	ProofAddress Proof = "address"
	// ProofDocument is to hold a document that the instance's metadata service or
	// config drive alone hands out.
	ProofDocument Proof = "document"
	// ProofMetadataService is what Neutron's metadata agent says of the instance
	// that asked it.
	ProofMetadataService Proof = "metadataService"
	// ProofVendordata is Nova's own word, when it asks for vendordata. No role takes
	// it: what is given to Nova is for the instance to show.
	ProofVendordata Proof = "vendordata"
	// ProofAddressAndDocument is both of its parts. Without [Policy.WithLimitedAgents]
	// it rests on the address alone.
	ProofAddressAndDocument Proof = "address+document"
)

var knownProofs = []Proof{ProofAddress, ProofDocument, ProofMetadataService, ProofAddressAndDocument}

// parts are what has to be proven for p.
func (p Proof) parts() []Proof {
	var parts []Proof
	for part := range strings.SplitSeq(string(p), "+") {
		parts = append(parts, Proof(part))
	}
	return parts
}

// Evidence is what a caller shows to prove that it is an instance. The zero
// value proves nothing.
type Evidence struct {
	addr         netip.Addr
	intermediary bool   // addr is a load balancer's
	why          string // no client is known, if addr is a load balancer's
	agent        agentClaim
	document     Document
}

// agentClaim is what a metadata agent says of the one who asked it.
type agentClaim struct {
	instance InstanceID
	project  string
}

// FromAddress is the evidence of a caller that was seen to speak from addr. It
// must be the peer of a connection, or what a trusted load balancer named as
// such.
func FromAddress(addr netip.Addr) Evidence {
	return Evidence{addr: Canonical(addr)}
}

// FromIntermediary is the evidence of a caller of which only the load balancer
// in front of it was seen. It proves nothing, also when an instance has that
// very address: everyone behind the balancer would be that instance. The operator
// reads why, a short text without secrets; "" for a balancer that named no client.
func FromIntermediary(addr netip.Addr, why string) Evidence {
	return Evidence{addr: Canonical(addr), intermediary: true, why: why}
}

// FromMetadataAgent is the evidence of a caller for whom a metadata agent
// speaks: its instance, the project of its port, and the address from which it
// asked the agent. The agent must have been recognised, and its signature over
// the instance's ID verified. Without any one of the three it proves nothing.
func FromMetadataAgent(id InstanceID, project string, forwarded netip.Addr) Evidence {
	if id.IsZero() || project == "" || !forwarded.IsValid() {
		return Evidence{}
	}
	return Evidence{addr: Canonical(forwarded), agent: agentClaim{id, project}}
}

// Verifier verifies documents; token.Issuer is one.
type Verifier interface {
	// VerifyDocument returns what a document says. The error is a [*Denied] if it is not
	// valid, and anything else if it cannot be verified now.
	VerifyDocument(compact string) (Document, error)
}

// WithDocument returns the evidence with a document, and what the document says. The
// errors are those of v. There is no other way to evidence with a document.
func (e Evidence) WithDocument(v Verifier, compact string) (Evidence, Document, error) {
	d, err := v.VerifyDocument(compact)
	if err != nil {
		return e, Document{}, err
	}
	e.document = d
	return e, d, nil
}

// Addr is the address that the caller was seen to speak from, by us or by the
// metadata agent.
func (e Evidence) Addr() netip.Addr { return e.addr }

// Recognised reports whether the caller showed more than an address: a verified
// document, or a metadata agent that speaks for it.
func (e Evidence) Recognised() bool { return !e.document.IsZero() || e.agent != agentClaim{} }

// caller is on whose behalf the cloud is asked; see [Instances].
func (e Evidence) caller() netip.Addr {
	if e.Recognised() {
		return netip.Addr{}
	}
	return e.addr
}

// offers reports whether e has what a proof is made of, whatever it is worth.
func (e Evidence) offers(part Proof) bool {
	switch part {
	case ProofAddress:
		return e.agent == agentClaim{}
	case ProofDocument:
		return !e.document.IsZero()
	case ProofMetadataService:
		return e.agent != agentClaim{}
	}
	return false
}

// String is for the operator's log.
func (e Evidence) String() string {
	if e.intermediary {
		text := e.addr.String() + ", a trusted proxy that named no client"
		if e.why != "" {
			text += ": " + e.why
		}
		return text
	}
	return e.addr.String()
}

// Canonical is addr in the one form in which addresses are compared: IPv4 in
// IPv6 is unwrapped and a zone is dropped.
func Canonical(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// mayProve reports whether addr is of a kind that only one machine can speak
// from.
func mayProve(addr netip.Addr) bool {
	return addr.IsValid() && !addr.IsUnspecified() && !addr.IsMulticast() && !addr.IsLinkLocalUnicast() &&
		addr != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// isAt reports whether e was seen at an address of the instance.
func (e Evidence) isAt(in Instance) bool {
	return !e.intermediary && mayProve(e.addr) &&
		slices.ContainsFunc(in.Addresses, func(a Address) bool { return Canonical(a.Addr) == e.addr })
}

// checkAddress is nil if the caller speaks from an address of the instance.
func (e Evidence) checkAddress(in Instance) error {
	switch {
	case e.offers(ProofAddress) && e.isAt(in):
		return nil
	case building(in) && in.Phase == PhaseSpawning:
		// The guest may run already, and Nova lists its addresses when it is ACTIVE. This is
		// the only thing that a caller learns about an instance that may be another's.
		return checkPhase(in)
	}
	return denied(AddressMismatch, "the caller speaks from %s, the instance has %v", e, addrs(in))
}

// checkAgent compares the agent's words with the record: its signature covers
// the ID alone, so that one that was overheard comes with a project and an
// address of the thief's choice.
func (e Evidence) checkAgent(in Instance) error {
	switch {
	case e.agent == agentClaim{} || e.agent.instance != in.ID:
		return denied(AddressMismatch, "the metadata agent speaks for another instance, %q", e.agent.instance)
	case e.agent.project != in.ProjectID:
		return denied(ProjectMismatch, "the metadata agent says that the project is %q", secret.Clip(e.agent.project, 64))
	case e.isAt(in) || e.isLinkLocalOf(in):
		return nil
	case building(in):
		return checkPhase(in)
	}
	return denied(AddressMismatch, "the metadata agent was asked from %s, the instance has %v", e, addrs(in))
}

// isLinkLocalOf reports whether e was seen at the address that IPv6 makes of a
// MAC of the instance; the metadata agent finds the port by it, too.
func (e Evidence) isLinkLocalOf(in Instance) bool {
	return slices.ContainsFunc(in.Addresses, func(a Address) bool { return a.MAC != MAC{} && a.MAC.linkLocal() == e.addr })
}

// MAC is an Ethernet address; the zero value is none.
type MAC [6]byte

// linkLocal is fe80:: with the interface identifier made of the MAC (RFC 4291,
// appendix A).
func (m MAC) linkLocal() netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]})
}

// Document is what a verified instance document says: that Nova handed it to
// this instance when it was this far. The zero value is no document.
type Document struct {
	// ID is the document's own, a short text of ours.
	ID        string
	Instance  InstanceID
	ProjectID string
	ImageID   string    // "" for a boot from volume
	Launched  time.Time // zero if it was made while a launch was under way; see [Vouched.Launched]
	Issued    time.Time
	Expires   time.Time
}

// IsZero reports whether there is no document.
func (d Document) IsZero() bool { return d.ID == "" || d.Instance.IsZero() }

// buildFor is how long after a document that was made while a launch was under way
// that launch may be. Nova's record does not tell it from that after a rebuild: one
// within this time goes unseen.
const buildFor = 2 * time.Minute

// check is nil if the document is about the instance as it now is: what runs
// after a rebuild is another system with the same ID.
func (d Document) check(in Instance, now time.Time) error {
	switch {
	case d.IsZero():
		return denied(DocumentInvalid, "there is no document")
	case !now.Before(d.Expires):
		return denied(DocumentInvalid, "the document expired at %s", d.Expires.Format(time.RFC3339))
	case d.Instance != in.ID:
		return denied(DocumentVoid, "the document is of instance %s", d.Instance)
	case d.ProjectID != in.ProjectID:
		return denied(DocumentVoid, "the document is of project %q", d.ProjectID)
	case d.ImageID != in.ImageID:
		return denied(DocumentVoid, "the document is of image %q", d.ImageID)
	case d.Launched.Equal(in.Launched):
		return nil
	case d.Launched.IsZero() && in.Launched.After(d.Issued.Add(-clockSkew)) && in.Launched.Before(d.Issued.Add(buildFor)):
		return nil
	}
	return denied(DocumentVoid, "the document is of the launch at %s, the instance was launched at %s: it was rebuilt, unshelved, rescued or resized since",
		formatLaunch(d.Launched), formatLaunch(in.Launched))
}

func formatLaunch(t time.Time) string {
	if t.IsZero() {
		return "(never)"
	}
	return t.UTC().Format(time.RFC3339)
}
