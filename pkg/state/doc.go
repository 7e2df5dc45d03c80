// Package state keeps what outlives a request: the attempts of instances, which
// expire, and a few small values that replicas agree on, which are the sealed key
// set and the denied instances. It knows nothing of what it keeps.
//
// Three stores are here, and statetest.Run says what each of them promises:
//
//   - memory, which ends with the process;
//   - one file with bbolt, of one process, whose answers survive a crash;
//   - Redis or Valkey, which several processes use together.
//
// A failure of the store is an error and never a count: whoever asks must refuse.
//
// # What is promised
//
// No two calls of Increment are given one number, whatever the callers and, with
// Redis, the processes are, unless the first has given it back: the lowest such
// number is the next to be given. So no more than n callers have a number up to n
// at a time, whichever of them give theirs back. What was answered is kept: kill -9
// of the process at any moment loses nothing of a file or a Redis, and kill -9 of a
// Redis with appendonly loses nothing of it. A call that failed may have counted, and
// a number whose return failed may stay out, which takes an attempt and never gives
// one. [Store.Forget] of a count, which an operator asks for, forgets who has its
// numbers: one that is given back after it may be given to two callers.
//
// What has expired goes away by itself: each call that writes takes away two such
// entries, in memory and file; Redis does it alone, two minutes later than it has
// to, since the clocks of its users differ. A file has the size of the most that
// it ever held at one time, and does not shrink.
//
// State carries a version. That of a file is 2 and that of a Redis 1. A newer one is
// refused, and a later release reads the one before its own: so a release is gone
// back from by restoring the copy that was made before it, and gone forward from one
// by one. Version 1 of a file had no checksums, and no numbers that were given back.
// In a Redis a count of which a lower number than the highest was given back is one
// that the release before refuses; all others it reads.
//
// # When it is gone
//
// A disk that is full or read-only, and a Redis that does not answer, is full, is
// a replica, may evict, or has fewer replicas than wanted: an error within about a
// second, to at most 256 callers that wait at a time, and all is well again when
// the cause is. A disk that hangs holds up 64 threads that read and one that writes,
// each caller for two seconds, and Close for five.
//
// A file that is damaged, cut off, newer, another program's, or open to other users
// is refused at start and not touched. bbolt itself believes what its pages say: a
// bad one makes it panic in goroutines that nobody recovers, fault, recurse without
// end, or allocate gigabytes, and a page in a wrong place hides counts. So all pages
// are verified at start (a second or so for a full file), and each is compared with
// its checksum before bbolt uses it; see pages.go. A page that was damaged while the
// file was open is an error of the call that comes to it and of all calls after it,
// which says to restore a copy: nothing is written any more. What goes wrong between
// the look and the use, within microseconds, is a fault or a panic in bbolt, which is
// recovered and has the same end. [VerifyFile] looks at a copy.
//
// What answers in the place of Redis, or writes into it, cannot end the process: the
// length of an answer, of its strings and of a value are bounded.
//
// A Redis holds a mark of ours. Without the mark it is new or lost what it held,
// and with that the count of attempts: it is refused until [Redis.Init] accepts
// it. Each script looks at the mark itself, so a flush between two commands is
// seen.
//
// # What a failover gives back
//
// Redis copies to its replicas after it has answered. When Sentinel makes a replica
// the primary, what that did not have yet is lost, and those attempts can be made
// again: the milliseconds for which a replica on a good network lags, or, if it was
// cut off, all since then. TestSentinelFailover kills a primary under the load of
// 16 callers, with the replica in step and with it cut off:
//
//	                                 waitReplicas: 0    waitReplicas: 1
//	in step, 1000 answered           0 given back       0 given back
//	cut off, 100 tried since then    100 given back     none of them was answered
//	the replica is the primary       1.2 s later        1.2 s later (down-after 0.3 s)
//
// With waitReplicas a primary and one replica have to be both there: after the
// failover there are no tokens until the other one is back, or another replica is.
// A primary that was only cut off from the Sentinels still answers those on its
// side, for as long as it believes that it is one; min-replicas-to-write on it, or
// waitReplicas, ends that. The key set is not lost: a replica of ours that holds a
// newer one writes it back (package keyring).
//
// # Figures
//
// On two cores of a virtual machine that all shared, Redis 7.0 on the same
// machine, disk and file on its ext4, with 64 callers of which each attempt is the
// first of an instance:
//
//	go test -run '^$' -bench 'Attempts|Recovery' ./pkg/state
//
//	                            attempts a second    bytes for an instance
//	memory                                480 000                       210
//	file                          14 000 - 60 000                410 - 570
//	redis, appendfsync everysec            50 000                220 - 250
//	redis, appendfsync always              21 000                240 - 260
//	redis, waitReplicas 1         20 000 - 32 000                260 - 290
//
//	from the end of a process to the next attempt that counts, 50 000 kept
//	file, kill -9                2 ms, and the start of the server
//	redis, kill -9             116 ms, and up to a second if it was asked meanwhile
//
// The file waits for fsync, which the callers share that came during the one before
// it: a slow disk has fewer attempts.
package state
