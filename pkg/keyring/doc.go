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
// no wait. A replica for which the set was not confirmed within maxAge signs no more
// (ErrKeysStale), and goes on publishing what it has.
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
// # Sealed values
//
// The key set and the list of denied instances ([Ledger]) are one value of the state
// each. A value is sealed with keys.encryptionKeyFile (AES-256-GCM; the issuer, the
// kind of value and the format are bound in), and says its generation, how often it
// was confirmed, and when last. A state that other machines write to needs the key:
// what is not sealed with it is not read, published or written there.
//
//	refresh    min(maxAge/10, 10s)    each replica reads the values; the list is also
//	                                  read with each decision
//	renewal    min(maxAge/4, 1m)      the replica that finds a value unconfirmed for
//	                                  so long confirms it, for all
//	maxAge                            a replica that has found no confirmation for so
//	                                  long signs nothing, and decides nothing
//
// Somebody who can write to the state, and has no key, can put an earlier value back:
//
//   - A running replica refuses what is older than it holds, and replaces it. A
//     confirmation of its own counts only when it finds it again at a later refresh:
//     so a replica from which a revocation is kept by putting the old value back
//     again and again signs no more after maxAge.
//   - A revoked key is named in the set for good, and the last change of a denial
//     counts: a set or list of a replica that did not know of them is joined with what
//     another holds, and a set with the revoked keys that the server has seen.
//   - A replica that starts refuses what is older than its server has seen ([Seen]),
//     however long ago that was: servers that were all down start without a person.
//     A server that has seen nothing wants a value that was confirmed within maxAge;
//     else an operator decides (`keys init --accept`).
//   - A state file counts how often it was opened and saved, and is refused when it
//     is older than its server has seen, until an operator accepts it (`state accept`).
//
// What remains: on a server without the file of what it has seen, a value that was
// recorded within the last maxAge counts as new. And somebody who controls the state
// so closely that each replica finds what it wrote itself, and nothing of the others,
// can keep a revocation made at one from the others: where the state may be in such
// hands, revoke and deny at each server.
//
// The value of release 65ed6e0 (format 1) was never confirmed. A server on a state of
// its own takes it over once; on a shared one an operator accepts it once (`keys init
// --accept`), and the other servers find it confirmed. Replicas of 65ed6e0 that still
// run then say that it was written by a newer release, and sign until maxAge is over.
//
// Considered and turned down: the confirmation of a majority (two replicas have none
// when one of them is down); an expiry in Redis (its writer sets it); to renew with
// each refresh (a write for each replica every ten seconds, each copied to the
// replicas of Redis and to its disk).
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
// The keys of the state are published beside them only if one of the files' keys was
// imported, which is the way from one to the other: what else is in the state is not
// published, and `keys list` says so.
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
