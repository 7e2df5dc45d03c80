// Package keyring keeps the signing keys: it makes, publishes, rotates and
// retires them by a schedule, agrees on them with all replicas on the same state,
// and seals what it keeps there. It does not know what is signed.
//
// # Managed keys
//
// A [Ring] keeps the signing keys in the state, as one value, and changes
// them by itself. A key is published before it signs, for as long as the last
// verifier may go on with a key set that lacks it, and after it has signed, until
// its last token has expired:
//
//	          published        signs             gone
//	key 1     |------next------|=====current=====|---retired---|
//	key 2                      |------next-------|=====current=====|---retired---|
//	key 3                                        |------next-------|=====current==
//	          >= lead          rotationPeriod    keep
//
//	lead = maxAge + refresh + 1m    a replica publishes it one refresh late, and a
//	                                verifier then keeps the old set for maxAge; the
//	                                minute is for clocks that differ
//	keep = maxAge + tokenExpiry + 2m    a replica that is cut off from the state signs
//	                                for maxAge, and its last token lives for
//	                                tokenExpiry; two pairs of clocks may differ
//
// There is always a next key, so that a lost current one can be replaced at once
// (Revoke). Both clocks, the wall's and the monotonic one of the process, must
// agree before a key becomes current or goes away: a step of the clock shortens
// no wait. A replica that could not read the state for maxAge signs no more
// (ErrKeysStale), and goes on publishing what it has.
//
// The value is sealed with keys.encryptionKeyFile (AES-256-GCM, the issuer bound
// in). What does not open is ignored; an older generation than the one that is
// held is refused and replaced. So whoever can write to the state, but has no
// encryption key, can neither read, add nor revive a key; he can take the value
// away, and a running replica writes it back.
//
// Replicas agree by compare-and-swap: each decides anew, on the value that is
// there, whether the change that it came for is still due. To lose the race is
// success.
//
// Considered and turned down: a leader among the replicas (another thing that can
// fail); a key of each replica's own (verifiers bound the size of a key set, and
// a restart would be a rotation); to sign at once with a new key, as some do (a
// verifier that keeps the key set for maxAge refuses its first tokens).
//
// # Keys from files
//
// With auth.signingKeyFile the keys come from files. The first signs, all are
// published, so that a key is changed without a gap in three steps: add the new
// one as second and restart, wait until every verifier has fetched the key set
// (keys.maxAge and what the verifier adds), put it first; and take the old one
// away once the last token it signed has expired.
//
//	key.pem, new.pem      old signs, new is published
//	  ... maxAge ...
//	new.pem, key.pem      new signs, old still verifies
//	  ... tokenExpiry ...
//	new.pem
//
// From files to managed keys: `keys import key.pem`. In a state without keys it
// becomes the current one, and signs when signingKeyFile is taken out of the
// configuration; in one that has keys it becomes the next one, so that it stays
// published when it signs no more. Back: `keys import new.pem` makes that the next
// key; when verifiers know it (`keys list` says since when it is published),
// signingKeyFile: new.pem lets it sign, and the keys of the state stay published.
//
// # Names
//
// The key ID is the thumbprint of RFC 7638, so the same key has the same ID on
// every replica. The algorithm is that of the key: RS256 for RSA, ES256 for
// P-256, ES384 for P-384; a verifier that fixes its algorithm (RFC 8725,
// section 3.1) sees no other.
package keyring
