// Package token makes what relying parties see: the signed token, the key set
// and the discovery document.
//
// It signs nothing but an [attest.Identity] or an [attest.Vouched], which only a
// passed check makes.
//
// The keys are those of package keyring.
//
// # Documents
//
// A document says that Nova handed it to an instance ([Issuer.IssueDocument]), and
// is for this issuer alone: `typ` openstack-instance-document+jwt, `aud` the issuer,
// HS256. Its secret is made of a signing key (HKDF, RFC 5869), so that it is wherever
// that key is, sealed with it, shared with all replicas, known to no verifier, and
// gone with it: who revokes a key voids its documents. A document is verified with
// the secrets of all published keys, so that a rotation voids none.
//
// Considered and turned down: a secret of its own beside the key set (one more thing
// to make, seal, rotate and lose, also with signingKeyFile, where the state may be
// memory); a document in the state under a random name (a write for each time that an
// instance reads its vendor data).
//
// The token in the answer to Nova ([Issuer.IssueVouched]) is an ordinary one without
// a role, so it has no `role` claim, `amr` is vendordata, and its audiences are none
// of a role or of the issuer.
package token
