// Package attest decides whether what a caller shows proves that it is a given
// instance, and whether that instance may have a given role.
//
// The only way to an [Identity] is [Attestor.Attest], and only an Identity can
// be signed: a new door cannot forget the check. The zero values of [Evidence],
// [Role], [Policy] and [Identity] deny.
//
// # Order
//
// Cheap before dear, local before remote, and nothing is spent on a stranger:
//
//  1. the role exists, takes a proof of the kind that is offered, and may be for
//     the audience that is wanted
//  2. the instance is looked up in the cloud
//  3. proof: the caller speaks from one of the instance's own addresses, and
//     the window that opened with the instance's start is still open; or it has a
//     document that only the instance was handed; or a metadata agent speaks for
//     it
//  4. no operator denied it, and its status is that of a running instance
//  5. an attempt is spent. It comes after the proof, so that a stranger cannot
//     use up the attempts of an instance whose ID he has read in a log
//  6. the role's rules hold
//
// # Attempts
//
//	proof              counter                                  ends with
//	address            instance, role, start of the window      the window
//	document           the document                             the document
//	address+document   both of these                            each its own
//	metadataService    none: the caller throttles by instance
//
// A rule that denies leaves the attempt spent. What fails on our side does not: who
// called Attest gives back the attempts of an identity whose token could not be signed
// or recorded ([Attestor.GiveBack]), and of address+document the first counter is given
// back if the second cannot be spent. A number that was given back is the next one to
// be given, so no more attempts are granted than the limit says, and none twice.
//
// The alternative, to count only when the answer is certain, would let as many callers
// as ask at one time be judged beyond the limit. What remains: a crash, or a state that
// fails, between the two leaves an attempt spent; and while an attempt that is about
// to fail is the last, another caller is denied.
//
// # Metadata agents
//
// The agents of Neutron 2025.1 and later identify an instance only if their haproxy
// limits the size of requests. The operator says so, or that all agents are older, with
// [Policy.WithLimitedAgents]. Without it metadataService, a document alone and the token
// of [Attestor.Vouch] are denied with [AgentsUnlimited]; the address is not concerned,
// and address+document rests on the address alone.
//
// # Verdict and failure
//
// "No" and "broken" are different errors. A [*Denied] is a verdict about the
// caller. A [*NotYet] is neither: the instance is changing, and to ask again
// soon is right. Every other error is a failure of ours or of the cloud, in
// which nothing was decided.
//
// # What the address proves
//
// A caller that completes a TCP handshake from an address that Neutron assigned
// to the instance is behind that instance's port, as long as Neutron's
// anti-spoofing holds: identity by network is identity up to whoever owns the
// network, not against them. accessIPv4 and accessIPv6 are set by users and are
// never in [Instance.Addresses].
package attest
