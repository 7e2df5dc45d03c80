package attest

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// Proof names how an instance proves its identity, in the configuration and in the `amr`
// claim (RFC 8176 leaves its values to the issuer).
type Proof string

const (
	// ProofAddress means that the client connects from an address of the instance.
	ProofAddress Proof = "address"
	// ProofDocument means that the client has a document that only the instance can read,
	// from its metadata service or config drive.
	ProofDocument Proof = "document"
	// ProofMetadataService means that Neutron's metadata agent names the instance.
	ProofMetadataService Proof = "metadataService"
	// ProofVendordata means that Nova asks for the instance's vendordata. No role takes it:
	// a token in Nova's answer has no role.
	ProofVendordata Proof = "vendordata"
	// ProofAddressAndDocument means both. Without [Policy.WithLimitedAgents] the address
	// alone identifies the instance.
	ProofAddressAndDocument Proof = "address+document"
)

var knownProofs = []Proof{ProofAddress, ProofDocument, ProofMetadataService, ProofAddressAndDocument}

// parts returns the proofs that must all hold for p.
func (p Proof) parts() (parts []Proof) {
	for part := range strings.SplitSeq(string(p), "+") {
		parts = append(parts, Proof(part))
	}
	return parts
}

// Evidence is what a request has to prove an instance's identity. The zero value proves
// nothing.
type Evidence struct {
	addr         netip.Addr
	intermediary bool   // addr is a load balancer's, and the client is unknown
	why          string // the client is unknown
	agent        agentClaim
	document     Document
}

// agentClaim is what a metadata agent says about the guest that asked it.
type agentClaim struct {
	instance InstanceID
	project  string
}

// FromAddress is the evidence of a client at addr: the peer of a connection, or the
// client that a trusted load balancer named.
func FromAddress(addr netip.Addr) Evidence {
	return Evidence{addr: Canonical(addr)}
}

// FromIntermediary is the evidence of an unknown client behind a load balancer at addr.
// It proves nothing, also if an instance has this address: each client of the balancer
// would be that instance. why is a short text without secrets for the operator; "" if
// the balancer named no client.
func FromIntermediary(addr netip.Addr, why string) Evidence {
	return Evidence{addr: Canonical(addr), intermediary: true, why: why}
}

// FromMetadataAgent is the evidence of a guest that a metadata agent named: its instance,
// the project of its port, and the address from which it asked the agent. The agent must
// have been authenticated, and its signature over the instance's ID verified. If one of
// the three is missing, the evidence proves nothing.
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

// Addr returns the client's address, as this server or the metadata agent saw it.
func (e Evidence) Addr() netip.Addr { return e.addr }

// Recognized reports whether a document or a metadata agent identifies the client.
func (e Evidence) Recognized() bool { return !e.document.IsZero() || e.agent != agentClaim{} }

// client returns the address whose limit a lookup counts against; see [Instances].
func (e Evidence) client() netip.Addr {
	if e.Recognized() {
		return netip.Addr{}
	}
	return e.addr
}

// offers reports whether e has a proof, valid or not.
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

// String returns the client's address for the operator's log.
func (e Evidence) String() string {
	text := e.addr.String()
	if e.intermediary {
		text += ", a trusted proxy that named no client"
	}
	if e.why != "" {
		text += ": " + e.why
	}
	return text
}

// Canonical returns addr in the form in which addresses are compared: IPv4 rather than
// IPv4 in IPv6, without a zone.
func Canonical(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// isAt reports whether the client is at an address of the instance that belongs to one
// machine.
func (e Evidence) isAt(in Instance) bool {
	alone := e.addr.IsGlobalUnicast() || e.addr.IsLoopback()
	return alone && !e.intermediary && slices.ContainsFunc(in.Addresses, func(a Address) bool { return Canonical(a.Addr) == e.addr })
}

// checkAddress returns nil if the client is at an address of the instance. The error is a
// [*Denied] or a [*NotYet].
func (e Evidence) checkAddress(in Instance) error {
	switch {
	case e.offers(ProofAddress) && e.isAt(in):
		return nil
	case building(in) && in.Phase == PhaseSpawning:
		// The guest may run already, and Nova lists its addresses when it is ACTIVE. This is
		// the only thing that a caller learns about an instance that may be another's.
		return checkPhase(in)
	}
	return denied(AddressMismatch, "the client is at %s, the instance has %v", e, in.Addresses)
}

// checkAgent compares what the agent says with the record. The agent signs only the
// instance's ID: an attacker who captured a signature can send any project and address.
func (e Evidence) checkAgent(in Instance) error {
	switch {
	case e.agent == agentClaim{} || e.agent.instance != in.ID:
		return denied(AddressMismatch, "the metadata agent names another instance, %q", e.agent.instance)
	case e.agent.project != in.ProjectID:
		return denied(ProjectMismatch, "the metadata agent says that the project is %q", secret.Clip(e.agent.project, 64))
	case e.isAt(in) || e.isLinkLocalOf(in):
		return nil
	case building(in):
		return checkPhase(in)
	}
	return denied(AddressMismatch, "the metadata agent was asked from %s, the instance has %v", e, in.Addresses)
}

// isLinkLocalOf reports whether the client is at the link-local address of a MAC of the
// instance. The metadata agent finds the port by this address, too.
func (e Evidence) isLinkLocalOf(in Instance) bool {
	return slices.ContainsFunc(in.Addresses, func(a Address) bool { return a.MAC != MAC{} && a.MAC.linkLocal() == e.addr })
}

// MAC is an Ethernet address; the zero value is invalid.
type MAC [6]byte

// linkLocal returns fe80:: with the interface identifier of the MAC (RFC 4291, appendix
// A).
func (m MAC) linkLocal() netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]})
}

// Document is what an instance document says: Nova gave it to this instance, in this
// state. The zero value is invalid.
type Document struct {
	ID        string // of the document
	Instance  InstanceID
	ProjectID string
	ImageID   string    // "" for a boot from volume
	Launched  time.Time // see [Vouched.Launched]
	Issued    time.Time
	Expires   time.Time
}

// IsZero reports whether d is the invalid zero value.
func (d Document) IsZero() bool { return d.ID == "" || d.Instance.IsZero() }

// buildFor bounds the time between a document that was issued during a launch and the end
// of that launch. Nova's record does not tell this launch from that of a later rebuild: a
// rebuild within this time is not detected.
const buildFor = 2 * time.Minute

// check returns nil if the document is about the instance as it is now: after a rebuild
// another system runs with the same ID.
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
