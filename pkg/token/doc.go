// Package token makes what relying parties see: the signed token, the key set
// and the discovery document.
//
// It signs nothing but an [attest.Identity], which only a passed check makes.
//
// # Keys
//
// Signing keys come from files. The first signs, all are published, so that a
// key is changed without a gap in three steps: add the new one as second and
// restart, wait until every verifier has fetched the key set ([MaxAge] and what
// the verifier adds), put it first; and take the old one away once the last
// token it signed has expired.
//
//	key.pem, new.pem      old signs, new is published
//	  ... MaxAge ...
//	new.pem, key.pem      new signs, old still verifies
//	  ... tokenExpiry ...
//	new.pem
//
// The key ID is the thumbprint of RFC 7638, so the same file has the same ID on
// every replica. The algorithm is that of the key: RS256 for RSA, ES256 for
// P-256, ES384 for P-384; a verifier that fixes its algorithm (RFC 8725,
// section 3.1) sees no other.
package token
