// Package attest decides whether evidence proves that a client is a given instance, and
// whether that instance may have a given role.
//
// Only [Attestor.Attest] makes an [Identity], and only an Identity can be signed: no door
// can forget a check. The zero values of [Evidence], [Role], [Policy] and [Identity] deny.
// The package does not know HTTP, tokens, or how the client's address was found.
//
// # Order
//
// Cheap checks come before expensive ones, local ones before remote ones:
//
//  1. the role exists, takes a proof that the request has, and may have the audience
//  2. the instance is looked up in the cloud
//  3. a proof holds: the client is at an address of the instance, within the window that
//     opened with the instance's start; or it has a document that only the instance can
//     read; or a metadata agent names the instance
//  4. no operator denied the instance, and it runs
//  5. an attempt is spent. The proof comes first, so that a client that knows the ID of
//     another instance cannot use up its attempts
//  6. the rules of the role hold
//
// # Attempts
//
//	proof              counter                                  ends with
//	address            instance, role, start of the window      the window
//	document           the document                             the document
//	address+document   both of these                            each its own
//	metadataService    none: the server limits the rate of the instance
//
// If a rule denies, the attempt stays spent. If this server fails, it does not: the caller
// of Attest gives the attempts back if it cannot sign or record the token
// ([Attestor.GiveBack]), and of address+document the first counter is given back if the
// second cannot be spent. The next request gets a number that was given back, so that no
// more attempts are granted than the limit, and none twice.
//
// The alternative, to count after the answer is certain, would judge any number of
// simultaneous requests beyond the limit. What remains: after a crash, or an error of the
// state, between the two the attempt stays spent; and while the last attempt is about to
// fail, another request is denied.
//
// # Metadata agents
//
// The agents of Neutron 2025.1 and later identify an instance only if their haproxy limits
// the size of requests. With [Policy.WithLimitedAgents] the operator states this, or that
// all agents are older. Without it metadataService, a document alone and the token of
// [Attestor.Vouch] are denied with [AgentsUnlimited]. The address proof does not depend on
// agents; address+document then depends on the address alone.
//
// # Verdict and failure
//
// A [*Denied] is a verdict about the request. A [*NotYet] says that the instance is
// changing, and that the client should ask again. Every other error is a failure of this
// server or of the cloud: nothing was decided.
//
// # What the address proves
//
// A client that completes a TCP handshake from an address that Neutron assigned to the
// instance is behind the instance's port, as long as Neutron's anti-spoofing holds. It
// proves nothing against those who control the network. Users set accessIPv4 and
// accessIPv6, so these are never in [Instance.Addresses].
package attest
