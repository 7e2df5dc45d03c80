package openstack

import (
	"container/list"
	"time"
)

// ttlCache keeps values for one time after their birth, and no more than size
// of them: the oldest goes first. It is not safe for concurrent use.
type ttlCache[K comparable, V any] struct {
	ttl    time.Duration
	size   int
	byKey  map[K]*list.Element
	oldest *list.List // of entry, by birth
}

type entry[K comparable, V any] struct {
	key  K
	val  V
	born time.Time
}

func newTTLCache[K comparable, V any](ttl time.Duration, size int) *ttlCache[K, V] {
	return &ttlCache[K, V]{ttl: ttl, size: size, byKey: map[K]*list.Element{}, oldest: list.New()}
}

func (c *ttlCache[K, V]) get(key K, now time.Time) (V, bool) {
	if e, ok := c.byKey[key]; ok {
		if v := e.Value.(entry[K, V]); now.Sub(v.born) < c.ttl {
			return v.val, true
		}
	}
	var none V
	return none, false
}

// put keeps val. A put costs the same whatever is kept: each takes away at most
// two entries that are over their time, so that the rest shrinks as it came.
func (c *ttlCache[K, V]) put(key K, val V, born time.Time) {
	c.drop(key)
	c.byKey[key] = c.oldest.PushBack(entry[K, V]{key, val, born})
	for range 2 {
		front := c.oldest.Front()
		if e := front.Value.(entry[K, V]); c.oldest.Len() > c.size || born.Sub(e.born) >= c.ttl {
			c.drop(e.key)
		}
	}
}

func (c *ttlCache[K, V]) drop(key K) {
	if e, ok := c.byKey[key]; ok {
		c.oldest.Remove(e)
		delete(c.byKey, key)
	}
}
