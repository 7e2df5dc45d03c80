// Package state keeps what must outlive a request: counts, such as the attempts of
// instances, which expire, and a few small values on which replicas agree, such as the
// sealed key set. It does not know what its entries mean.
//
// There are three stores, and statetest.Run specifies each of them:
//
//   - [Memory], which ends with the process;
//   - [File], a bbolt database that one process uses, and that survives a crash;
//   - [Redis], a Redis or Valkey that several servers share.
//
// If a store fails, the result is an error and never a count: the caller must refuse.
//
// # What it promises
//
// No two calls of Increment get the same number, unless the first caller gave it back;
// the next call gets the lowest such number. So at most n callers have a number up to n
// at any time. With Redis this holds for all processes together. If a call returned
// without an error, its change is kept: kill -9 of the process loses nothing of a File
// or a Redis, and kill -9 of a Redis with appendonly loses nothing of it. A call that
// failed may have counted, and a number whose return failed may stay in use: both cost
// an attempt and never add one. After [Store.Forget] of a count, a number that is given
// back late may go to two callers.
//
// Expired entries are removed: in Memory and File each call that writes removes up to
// two; Redis removes them by itself, two minutes late, because the clocks of servers
// differ. A File does not shrink.
//
// A state has a version: 2 for a File, 1 for a Redis. A newer version is refused, and a
// release reads the version before its own. To go back to an older release, restore
// the copy from before the upgrade. Version 1 of a file had neither checksums nor numbers
// that were given back. A count in Redis with such numbers is refused by the release
// before this one.
//
// # Failures
//
// If the disk is full or read-only, or if Redis does not answer, is full, is a replica,
// may evict keys, or has too few replicas, each call fails within about a second, for up
// to 256 waiting callers. Calls succeed again when the cause is gone. A disk that hangs
// blocks up to 64 threads that read and one that writes; each caller waits two seconds,
// and Close five.
//
// OpenFile refuses a file that is damaged, truncated, newer, another program's, or
// accessible to other users, and does not write to it. It verifies all pages, which takes
// about a second for a full file. Later, each page is compared with its checksum before
// bbolt uses it; pages.go says why. If that finds damage, this call and all later ones
// fail with an error that says to restore a copy, and nothing is written. If a page
// changes within the microseconds between the check and its use, bbolt faults or panics;
// that is recovered, with the same result.
//
// Another program that answers instead of Redis, or that writes to it, cannot end the
// process: the sizes of answers, their strings, and values are bounded.
//
// A Redis holds a mark of ours. If the mark is missing, the Redis is new or has lost its
// counts, so it is refused until [Redis.Init] accepts it. Each script checks the mark, so
// a flush between two commands is noticed.
//
// # What a failover loses
//
// Redis answers before it copies a write to its replicas. When Sentinel makes a replica
// the primary, the writes that the replica does not have are lost, and those attempts can
// be made again: those of some milliseconds on a good network, or all since the replica
// was disconnected. TestSentinelFailover kills a primary while 16 callers use it:
//
//	                                     waitReplicas: 0    waitReplicas: 1
//	connected, 1000 answered             0 lost             0 lost
//	disconnected, 100 tried since then   100 lost           none was answered
//	the replica is the primary           1.2 s later        1.2 s later (down-after 0.3 s)
//
// With waitReplicas: 1, the primary and one replica must both be available: after a
// failover there are no tokens until there is another replica. A primary that is
// disconnected from the Sentinels still answers its clients, unless it has
// min-replicas-to-write or they set waitReplicas. The key set is not lost: a server with
// a newer one writes it back (package keyring).
//
// # Figures
//
// On two shared cores of a virtual machine, with Redis 7.0 on the same machine, ext4, and
// 64 callers, where each attempt is the first one of an instance:
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
//	from the end of a process to the next attempt that counts, with 50 000 counts
//	file, kill -9                2 ms, and the start of the server
//	redis, kill -9             116 ms, and up to a second if there were requests meanwhile
package state
