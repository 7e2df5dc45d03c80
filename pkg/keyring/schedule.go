package keyring

import (
	"fmt"
	"slices"
	"time"
)

// skew is the largest difference that is allowed between the clocks of two replicas, or
// of a replica and a verifier.
const skew = time.Minute

// lead is how long a key is published before it signs: the last replica publishes it
// after one refresh, and verifiers may then cache the key set without it for maxAge.
func (p Plan) lead(maxAge time.Duration) time.Duration { return maxAge + p.refresh() + skew }

// keep is how long a retired key is published. A replica without access to the state
// signs with it for maxAge, and then the last token lives. The clocks of the replicas
// that retire and remove the key may differ, and so may those of signer and verifier.
func keep(maxAge, life time.Duration) time.Duration { return maxAge + life + 2*skew }

// schedule says what is due at one moment. It reads no clock and changes nothing.
//
// It needs two clocks to agree, because the wall clock may step: now is the time of the
// wall clock, and seenFor is how long this process has known a key in its state.
type schedule struct {
	Plan
	now     time.Time
	seenFor func(managedKey) time.Duration
}

func (s schedule) wrongAlgorithm(next managedKey) bool {
	return next.alg != s.algorithm && !next.imported
}

// due returns why the next key should become current now, "" if it should not.
func (s schedule) due(keys *managedSet) string {
	current, next := keys.current(), keys.next()
	switch {
	case s.now.Before(s.ready(next)) || s.seenFor(next) < s.leadOf(next):
		return ""
	case s.now.Sub(current.since) >= s.rotationPeriod:
		return "age"
	case current.alg != s.algorithm && next.alg == s.algorithm:
		return "algorithm"
	}
	return ""
}

func (s schedule) leadOf(next managedKey) time.Duration {
	return s.lead(max(next.maxAge, s.maxAge))
}

// ready is when all verifiers know the next key, by the wall clock.
func (s schedule) ready(next managedKey) time.Time { return next.published.Add(s.leadOf(next)) }

// removedAfter is when all tokens of a retired key have expired.
func removedAfter(k managedKey) time.Time { return k.retired.Add(keep(k.maxAge, k.life)) }

// full says when there is room for another key.
func full(keys *managedSet) error {
	return fmt.Errorf("the %d keys that verifiers take are published: the oldest is removed after %s",
		maxKeys, formatTime(removedAfter(keys.keys[len(keys.keys)-1])))
}

// withoutExpired returns the key set without the retired keys whose tokens have expired
// by both clocks, the same set if there are none.
func (s schedule) withoutExpired(keys *managedSet) *managedSet {
	rest := slices.DeleteFunc(slices.Clone(keys.keys), func(k managedKey) bool {
		return k.state == stateRetired && !s.now.Before(removedAfter(k)) && s.seenFor(k) >= keep(k.maxAge, k.life)
	})
	if len(rest) == len(keys.keys) {
		return keys
	}
	return keys.successor(rest...)
}

// lengthen raises the maxAge and the life that the keys carry to those of this replica.
// It returns the same set if they are long enough.
func (s schedule) lengthen(keys *managedSet) *managedSet {
	maxAge, life := s.allowed()
	rest := slices.Clone(keys.keys)
	for i := range rest {
		rest[i].maxAge, rest[i].life = max(rest[i].maxAge, maxAge), max(rest[i].life, life)
	}
	if slices.EqualFunc(rest, keys.keys, func(a, b managedKey) bool { return a.maxAge == b.maxAge && a.life == b.life }) {
		return keys
	}
	return keys.successor(rest...)
}

// allowed is in whole seconds, as the state stores it.
func (s schedule) allowed() (maxAge, life time.Duration) {
	return time.Duration(seconds(s.maxAge)) * time.Second, time.Duration(seconds(s.longestLife)) * time.Second
}
