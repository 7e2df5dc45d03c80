package openstack

import (
	"container/list"
	"sync"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

// cacheBytes limits the size of all instances of one cache: users write the metadata of their instances, up to 260 KiB
// for each.
const cacheBytes = 16 << 20

// ttlCache keeps values for a fixed time after their birth, at most size of them and at most cacheBytes in all. The
// oldest is evicted first.
type ttlCache[K comparable, V any] struct {
	ttl  time.Duration
	size int

	mu     sync.Mutex
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

func (c *ttlCache[K, V]) get(key K, now time.Time) (val V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byKey[key]; ok {
		if v := e.Value.(entry[K, V]); now.Sub(v.born) < c.ttl {
			return v.val, true
		}
	}
	return val, false
}

// put adds a value, and removes at most two that are too old. So its cost is constant, and the cache shrinks as fast as
// it grew.
func (c *ttlCache[K, V]) put(key K, val V, born time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(key)
	c.byKey[key] = c.oldest.PushBack(entry[K, V]{key, val, born})
	c.bytes += bytesOf(val)
	for c.bytes > cacheBytes {
		c.remove(c.oldest.Front().Value.(entry[K, V]).key)
	}
	for range 2 {
		front := c.oldest.Front()
		if front == nil {
			return
		}
		if e := front.Value.(entry[K, V]); c.oldest.Len() > c.size || born.Sub(e.born) >= c.ttl {
			c.remove(e.key)
		}
	}
}

func (c *ttlCache[K, V]) drop(key K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(key)
}

// remove is drop for a caller that holds c.mu.
func (c *ttlCache[K, V]) remove(key K) {
	if e, ok := c.byKey[key]; ok {
		c.bytes -= bytesOf(c.oldest.Remove(e).(entry[K, V]).val)
		delete(c.byKey, key)
	}
}

// bytesOf returns the size of an instance beyond that of its entry. All other values are small and count as 0.
func bytesOf(v any) int {
	const address, pair = 128, 64 // an address with its network's name, and a pair in the map
	in, ok := v.(attest.Instance)
	if !ok {
		return 0
	}
	n := len(in.Name) + len(in.Hostname) + len(in.Flavor) + len(in.Zone) + len(in.ImageID) + address*len(in.Addresses)
	for key, value := range in.Metadata {
		n += len(key) + len(value) + pair
	}
	return n
}

// Memory is the most memory that a [Client] takes, in bytes, with this many calls in flight: the answers that are read
// and decoded, and the caches.
func Memory(maxConcurrent int) int64 {
	const (
		answer = 2 * maxBody // the body, and the decoded value
		entry  = 512         // of an instance, the largest, with the map and the list
		owner  = 256
		seen   = 160
	)
	return int64(maxConcurrent)*answer + 2*cacheBytes + 3*cacheSize*entry + 4*callersSize*owner + seenSize*seen + projectsSize*entry
}
