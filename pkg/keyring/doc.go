// Package keyring holds the signing keys in memory (the key ring) and in the state (the
// key set): it makes, publishes, rotates, retires and revokes them, and agrees on them
// with all replicas. It keeps the denial list in the same way.
//
// It promises that verifiers can know a key before it signs, that a key stays published
// until all its tokens have expired, and that a revoked key does not return. It does not
// know what is signed, or what a denial means.
//
// # Managed keys
//
// A [Ring] keeps the signing keys in the state, as one value, and rotates them by a
// schedule. Before a key signs, it is published until no verifier has a cached key set
// without it. After that it stays published until its last token has expired:
//
//	          published        signs             gone
//	key 1     |------next------|=====current=====|---retired---|
//	key 2                      |------next-------|=====current=====|---retired---|
//	key 3                                        |------next-------|=====current==
//	          >= lead          rotationPeriod    keep
//
//	lead = maxAge + refresh + 1m    a replica publishes it after one refresh, and a
//	                                verifier then caches the old set for maxAge; the
//	                                minute is for clocks that differ
//	keep = maxAge + tokenExpiry + 2m    a replica without access to the state signs
//	                                for maxAge, and its last token lives for
//	                                tokenExpiry; two pairs of clocks may differ
//
// There is always a next key, so that a stolen current key can be replaced at once
// (Revoke). Both clocks, the wall clock and the monotonic clock of the process, must
// agree before a key becomes current or is removed, so a step of the wall clock shortens
// no wait. A replica stops signing when the key set was not confirmed within maxAge
// (ErrKeysStale). It goes on publishing what it has.
//
// Replicas agree by compare-and-swap. Each one decides again, on the value that is in the
// state, whether its change is still due. A replica that loses the race has nothing to do.
//
// Rejected alternatives: a leader among the replicas (one more part that can fail); a key
// for each replica (verifiers bound the size of a key set, and each restart would be a
// rotation); a new key that signs at once (a verifier that caches the key set for maxAge
// rejects its first tokens).
//
// # Sealed values
//
// The key set and the denial list ([DenialList]) are one value of the state each. A value
// is sealed with keys.encryptionKeyFile (AES-256-GCM, with the issuer, the kind of value and
// the format as additional data). It has a generation, a count of confirmations, and the
// time of the last one. A state that other machines write to needs the encryption key:
// this server reads, publishes and writes nothing there that is not sealed with it.
//
//	refresh    min(maxAge/10, 10s)    each replica reads the values; each decision also
//	                                  reads the denial list
//	renewal    min(maxAge/4, 1m)      a replica that finds a value unconfirmed for this
//	                                  long confirms it, for all replicas
//	maxAge                            a replica that has found no confirmation for this
//	                                  long signs nothing and decides nothing
//
// An attacker who can write to the state, but has no encryption key, can put an earlier
// value back:
//
//   - A running replica refuses a value that is older than the one it holds, and replaces
//     it. Its own confirmation counts only when a later refresh finds it. So if an attacker
//     hides a revocation from a replica by writing the old value again and again, the
//     replica stops signing after maxAge.
//   - The key set names revoked keys for good, and the last change of a denial counts. If a
//     replica does not know of them, its set or list is joined with the one that another
//     replica holds, and its set with the revoked keys that the server has seen.
//   - A replica that starts refuses a value that is older than its server has seen ([Seen]),
//     no matter how long ago: servers that were all down start without an operator. A
//     server that has seen nothing needs a value that was confirmed within maxAge.
//     Otherwise an operator decides (`keys init --accept`).
//   - A state file counts how often it was opened and saved. It is refused when it is older
//     than its server has seen, until an operator accepts it (`state accept`).
//
// What remains: a server without the file of what it has seen accepts an old value that was
// recorded within the last maxAge. And an attacker who controls the state so closely that
// each replica finds its own writes and not those of the others can hide a revocation from
// the other replicas. If that is possible, revoke and deny at each server.
//
// Release 65ed6e0 wrote values (format 1) without confirmations. A server on a state of its
// own takes such a value over once. On a shared state an operator accepts it once (`keys
// init --accept`), and the other servers find it confirmed. Replicas of 65ed6e0 that still
// run then log that a newer release wrote it, and sign until maxAge is over.
//
// Rejected alternatives: confirmation by a majority (two replicas have none when one is
// down); an expiry in Redis (an attacker who writes can set it); a renewal with each refresh
// (a write from each replica every ten seconds, which Redis copies to its replicas and its
// disk).
//
// # Keys from files
//
// With auth.signingKeyFile the keys come from files. The first signs, all are published.
// Changing a key without a gap takes three steps: add the new key as second and restart;
// when every verifier has fetched the key set (keys.maxAge and what the verifier adds), put
// it first; when the last token of the old key has expired, remove the old key.
//
//	key.pem, new.pem      old signs, new is published
//	  ... maxAge ...
//	new.pem, key.pem      new signs, old still verifies
//	  ... tokenExpiry ...
//	new.pem
//
// The keys of the state are published beside them only if one of the files' keys was
// imported, which is the way from one to the other. Otherwise they are not published, and
// `keys list` says so.
//
// From files to managed keys: `keys import key.pem`. In a state without keys it becomes the
// current key, and signs when signingKeyFile is removed from the configuration. In a state
// with keys it becomes the next key, so that it stays published when it stops signing. Back:
// `keys import new.pem` makes that the next key. When verifiers know it (`keys list` has the
// time since which it is published), signingKeyFile: new.pem lets it sign, and the keys of
// the state stay published.
//
// # Names
//
// The key ID is the thumbprint of RFC 7638, so the same key has the same ID on every
// replica. The key determines the algorithm: RS256 for RSA, ES256 for P-256, ES384 for
// P-384. So a verifier that expects one algorithm for a key (RFC 8725, section 3.1) sees
// no other.
package keyring
