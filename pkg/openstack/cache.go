package openstack

import (
	"container/list"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

// cacheBytes is how many bytes the instances of one cache take together: the owners
// of instances write their metadata, up to 260 KiB for each.
const cacheBytes = 32 << 20

// ttlCache keeps values for one time after their birth, and no more than size
// of them, nor more than cacheBytes: the oldest goes first. It is not safe for
// concurrent use.
type ttlCache[K comparable, V any] struct {
	ttl    time.Duration
	size   int
	bytes  int
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
	c.bytes += bytesOf(val)
	for c.bytes > cacheBytes {
		c.drop(c.oldest.Front().Value.(entry[K, V]).key)
	}
	for range 2 {
		front := c.oldest.Front()
		if front == nil {
			return
		}
		if e := front.Value.(entry[K, V]); c.oldest.Len() > c.size || born.Sub(e.born) >= c.ttl {
			c.drop(e.key)
		}
	}
}

func (c *ttlCache[K, V]) drop(key K) {
	if e, ok := c.byKey[key]; ok {
		c.bytes -= bytesOf(c.oldest.Remove(e).(entry[K, V]).val)
		delete(c.byKey, key)
	}
}

// bytesOf is what an instance takes beyond its entry; 0 for all else, which is
// small.
func bytesOf(v any) int {
	in, ok := v.(attest.Instance)
	if !ok {
		return 0
	}
	n := len(in.Name) + len(in.Hostname) + len(in.Flavor) + len(in.Zone) + len(in.ImageID) + addressBytes*len(in.Addresses)
	for key, value := range in.Metadata {
		n += len(key) + len(value) + metadataBytes
	}
	return n
}

const (
	addressBytes  = 128 // of an address, with its network's name
	metadataBytes = 64  // of a pair, in the map
)

// Memory is how many bytes a [Client] takes at most, with so many calls at one
// time: the answers that are being read and decoded, and the caches with their
// entries.
func Memory(maxConcurrent int) int64 {
	const (
		answer = 2 * maxBody // its bytes, and what they become
		entry  = 512         // of an instance, the largest; with the map and the list
		owner  = 256
		seen   = 160
	)
	return int64(maxConcurrent)*answer + cacheBytes + 2*cacheSize*entry + 4*callersSize*owner + seenSize*seen + projectsSize*entry
}
