package keyring

import (
	"fmt"
	"slices"
	"time"
)

// observation is a key in a state.
type observation struct {
	kid   string
	state KeyState
}

func (m *Ring) wrongAlgorithm(next managedKey) bool {
	return next.alg != m.config.Algorithm && !next.imported
}

// due is why the next key should now become current, "" if it should not.
//
// Both clocks must agree: one that stepped forward must not let a key sign that
// verifiers cannot know.
func (m *Ring) due(keys *keySet) string {
	current, next := keys.current(), keys.next()
	now, lead := m.wall(), m.leadOf(next)
	switch {
	case now.Sub(next.published) < lead || m.observedFor(next) < lead:
		return ""
	case now.Sub(current.since) >= m.config.RotationPeriod:
		return "age"
	case current.alg != m.config.Algorithm && next.alg == m.config.Algorithm:
		return "algorithm"
	}
	return ""
}

func (m *Ring) leadOf(next managedKey) time.Duration {
	return m.config.lead(max(next.maxAge, m.config.MaxAge))
}

// removedAfter is when nobody can hold a good token of a retired key.
func removedAfter(k managedKey) time.Time { return k.retired.Add(keep(k.maxAge, k.life)) }

// full says when there is room for another key.
func full(keys *keySet) error {
	return fmt.Errorf("the %d keys that verifiers take are published: the oldest is removed after %s",
		maxKeys, formatTime(removedAfter(keys.keys[len(keys.keys)-1])))
}

// withoutExpired leaves out the retired keys whose time is over, by both clocks.
func (m *Ring) withoutExpired(keys *keySet) *keySet {
	now := m.wall()
	rest := slices.DeleteFunc(slices.Clone(keys.keys), func(k managedKey) bool {
		return k.state == StateRetired && !now.Before(removedAfter(k)) && m.observedFor(k) >= keep(k.maxAge, k.life)
	})
	if len(rest) == len(keys.keys) {
		return keys
	}
	return keys.successor(rest...)
}

// lengthen raises what the keys know of caches and tokens to what this replica
// allows.
func (m *Ring) lengthen(keys *keySet) *keySet {
	maxAge, life := m.allowed()
	rest := slices.Clone(keys.keys)
	for i := range rest {
		rest[i].maxAge, rest[i].life = max(rest[i].maxAge, maxAge), max(rest[i].life, life)
	}
	if slices.EqualFunc(rest, keys.keys, func(a, b managedKey) bool { return a.maxAge == b.maxAge && a.life == b.life }) {
		return keys
	}
	return keys.successor(rest...)
}

// allowed is in whole seconds, as it is stored.
func (m *Ring) allowed() (maxAge, life time.Duration) {
	return time.Duration(seconds(m.config.MaxAge)) * time.Second, time.Duration(seconds(time.Duration(m.life.Load()))) * time.Second
}

// observe notes which keys are now in which state, for observedFor.
func (m *Ring) observe(keys *keySet) {
	observed := map[observation]time.Duration{}
	if keys != nil {
		now := m.elapsed()
		for _, k := range keys.keys {
			o := observation{k.public.KeyID, k.state}
			since, ok := m.observed[o]
			if !ok {
				since = now
			}
			observed[o] = since
		}
	}
	m.observed = observed
}

// observedFor is for how long this process knows that the key is in its state.
func (m *Ring) observedFor(k managedKey) time.Duration {
	since, ok := m.observed[observation{k.public.KeyID, k.state}]
	if !ok {
		return 0
	}
	return m.elapsed() - since
}
