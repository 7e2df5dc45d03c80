// Package token makes what verifiers see: the signed token, the JWKS and the discovery
// document. It also makes and verifies instance documents.
//
// It signs only an [attest.Identity] or an [attest.Vouched], which only a passed check
// makes. The keys are those of package keyring.
//
// # Documents
//
// A document says that Nova gave it to an instance ([Issuer.IssueDocument]). Only this
// issuer verifies it: `typ` is openstack-instance-document+jwt, `aud` the issuer, `alg`
// HS256. Its secret is derived from a signing key (HKDF, RFC 5869), so that the secret is
// where that key is: sealed with it, shared with all replicas, and unknown to verifiers.
// If an operator revokes the key, its documents are void. The secrets of all published
// keys verify a document, so that a key rotation voids none.
//
// Alternatives that were rejected: a secret beside the key set (one more thing to create,
// seal, rotate and lose, also with signingKeyFile, where the state may be memory); a
// document in the state under a random name (a write each time that an instance reads its
// vendordata).
//
// The token in the answer to Nova ([Issuer.IssueVouched]) has no role, so it has no `role`
// claim, its `amr` is vendordata, and its audiences are not those of a role or the issuer.
package token
