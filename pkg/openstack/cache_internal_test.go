package openstack

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

var birth = time.Date(2026, 11, 22, 7, 25, 1, 0, time.UTC)

func TestCacheKeepsValuesForItsTTL(t *testing.T) {
	c := newTTLCache[string, int](time.Minute, 10)
	c.put("a", 1, birth)
	for _, test := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {time.Minute - 1, true}, {time.Minute, false}, {time.Hour, false}} {
		if v, ok := c.get("a", birth.Add(test.after)); ok != test.want || ok != (v == 1) {
			t.Errorf("after %v it has %d, %t", test.after, v, ok)
		}
	}
	if _, ok := c.get("b", birth); ok {
		t.Error("it has a key that was not put")
	}
	c.put("a", 2, birth.Add(time.Minute))
	if v, ok := c.get("a", birth.Add(time.Minute)); v != 2 || !ok {
		t.Errorf("after the second put it has %d, %t", v, ok)
	}
	c.drop("a")
	c.drop("a")
	if _, ok := c.get("a", birth.Add(time.Minute)); ok {
		t.Error("it has a dropped key")
	}
}

func TestCacheSizeIsBounded(t *testing.T) {
	c := newTTLCache[int, int](time.Hour, 10)
	for i := range 1000 {
		c.put(i, i, birth.Add(time.Duration(i)))
		if want := min(i+1, 10); len(c.byKey) != want || c.oldest.Len() != want {
			t.Fatalf("after %d puts it has %d keys and %d entries, want %d", i+1, len(c.byKey), c.oldest.Len(), want)
		}
	}
	for i := range 1000 {
		if _, ok := c.get(i, birth.Add(1000)); ok != (i >= 990) {
			t.Errorf("it has value %d of 1000: %t, want only the newest ten", i, ok)
		}
	}
	// A second put renews a value.
	c.put(990, 0, birth.Add(1000))
	c.put(1000, 0, birth.Add(1001))
	if _, ok := c.get(990, birth.Add(1001)); !ok {
		t.Error("a renewed value was evicted")
	}
	if _, ok := c.get(991, birth.Add(1001)); ok {
		t.Error("the oldest value was not evicted")
	}
}

// Each put after a flood removes two old values, and no others.
func TestCacheShrinksAfterAFlood(t *testing.T) {
	const flood = 1000
	c := newTTLCache[string, int](time.Second, flood)
	for i := range flood {
		c.put(fmt.Sprint("flood ", i), i, birth)
	}
	later := birth.Add(time.Second)
	for i := range flood {
		c.put(fmt.Sprint("later ", i), i, later)
		if want := max(flood-2*(i+1), 0) + i + 1; len(c.byKey) != want || c.oldest.Len() != want {
			t.Fatalf("after %d puts it has %d keys and %d entries, want %d", i+1, len(c.byKey), c.oldest.Len(), want)
		}
	}
	for i := range flood {
		if _, ok := c.get(fmt.Sprint("later ", i), later); !ok {
			t.Fatalf("the young value %d is gone", i)
		}
	}
	// Many puts of one key make one entry.
	for i := range flood {
		c.put("one", i, later.Add(time.Duration(i)*time.Second))
	}
	if len(c.byKey) != 1 || c.oldest.Len() != 1 {
		t.Errorf("it has %d keys and %d entries, want one", len(c.byKey), c.oldest.Len())
	}
}

// Calls that end out of order put older values after younger ones.
func TestCacheWithBirthsOutOfOrder(t *testing.T) {
	c := newTTLCache[string, int](2*time.Second, 3)
	c.put("young", 1, birth.Add(time.Second))
	c.put("old", 2, birth)
	c.put("new", 3, birth.Add(2500*time.Millisecond))
	for key, want := range map[string]bool{"young": true, "old": false, "new": true} {
		if _, ok := c.get(key, birth.Add(2500*time.Millisecond)); ok != want {
			t.Errorf("it has %s: %t", key, ok)
		}
	}
	c.put("newer", 4, birth.Add(3*time.Second))
	if _, ok := c.get("newer", birth.Add(3*time.Second)); !ok || c.oldest.Len() > 3 {
		t.Errorf("it has %d entries, newer: %t", c.oldest.Len(), ok)
	}
}

func TestCacheBytesAreBounded(t *testing.T) {
	c := newTTLCache[int, attest.Instance](time.Hour, 1<<20)
	now := time.Now()
	big := attest.Instance{Metadata: map[string]string{"k": strings.Repeat("a", 1<<20)}}
	for i := range 100 {
		c.put(i, big, now)
	}
	if n := c.oldest.Len(); n != cacheBytes>>20-1 || c.bytes > cacheBytes || len(c.byKey) != n {
		t.Errorf("it has %d instances of %d bytes", n, c.bytes)
	}
	if _, ok := c.get(99, now); !ok {
		t.Error("the newest is gone")
	}
	for i := range 100 {
		c.drop(i)
	}
	if c.bytes != 0 {
		t.Errorf("an empty cache counts %d bytes", c.bytes)
	}
	c.put(1, attest.Instance{Name: strings.Repeat("a", cacheBytes+1)}, now)
	if _, ok := c.get(1, now); ok {
		t.Error("it has an instance larger than the limit")
	}
}
