package state

import (
	"bytes"
	"container/heap"
	"context"
	"strings"
	"sync"
	"time"
)

// MemorySize is how many counts NewMemory is meant to hold: some 200 bytes
// each, and one for an instance and role whose window is open.
const MemorySize = 1 << 20

// CountMemory is how many bytes a count takes in a Memory.
const CountMemory = 200

// maxValues is how many values a store of one process holds. The key set is
// one, and so is each denied instance.
const maxValues = 1 << 16

// Memory is a Store that lives as long as the process. A restart gives every
// attempt back.
type Memory struct {
	now  func() time.Time
	size int

	mu     sync.Mutex
	closed bool
	counts map[string]*entry
	values map[string]*entry
	expiry expiryHeap         // of all that expires
	back   map[*entry][]int64 // what was given back, of the few counts of which anything was
}

// entry is a count, or a value if that is not nil.
type entry struct {
	key     string
	n       int64
	value   []byte
	expires time.Time
	index   int // in the heap; noIndex for what never expires
}

const noIndex = -1

func (e *entry) expired(now time.Time) bool { return e.index != noIndex && !now.Before(e.expires) }

// NewMemory makes a store of at most size counts. now may be nil for time.Now.
func NewMemory(size int, now func() time.Time) *Memory {
	if now == nil {
		now = time.Now
	}
	return &Memory{now: now, size: size, counts: map[string]*entry{}, values: map[string]*entry{}, back: map[*entry][]int64{}}
}

// Count implements [Store].
func (m *Memory) Count(_ context.Context, key string) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return 0, errClosed
	}
	if c := m.counts[key]; c != nil && !c.expired(m.now()) {
		return m.count(c).used(), nil
	}
	return 0, nil
}

// Increment implements [Store].
func (m *Memory) Increment(_ context.Context, key string, expires time.Time) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return 0, errClosed
	}
	now := m.now()
	if err := checkExpiry(expires, now); err != nil {
		return 0, err
	}
	m.sweep(now)
	c := m.counts[key]
	switch {
	case c == nil && len(m.counts) >= m.size:
		return 0, ErrFull
	case c == nil:
		c = &entry{key: key, expires: expires}
		m.counts[key] = c
		heap.Push(&m.expiry, c)
	case !now.Before(c.expires):
		m.keep(c, count{})
		c.expires = expires
		heap.Fix(&m.expiry, c.index)
	case expires.After(c.expires):
		c.expires = expires
		heap.Fix(&m.expiry, c.index)
	}
	if len(m.back) == 0 { // nearly always
		c.n++
		return c.n, nil
	}
	numbers := m.count(c)
	n := numbers.take()
	m.keep(c, numbers)
	return n, nil
}

func (m *Memory) count(e *entry) count { return count{e.n, m.back[e]} }

func (m *Memory) keep(e *entry, c count) {
	e.n = c.n
	if len(c.back) > 0 {
		m.back[e] = c.back
	} else {
		delete(m.back, e)
	}
}

// GiveBack implements [Store].
func (m *Memory) GiveBack(_ context.Context, key string, n int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errClosed
	}
	if c := m.counts[key]; c != nil && !c.expired(m.now()) {
		numbers := m.count(c)
		if numbers.giveBack(n) {
			m.keep(c, numbers)
		}
		if numbers.n == 0 {
			m.remove(m.counts, key)
		}
	}
	return nil
}

// sweep takes away two entries that have expired. Each call that writes adds at
// most one, so what has expired goes away as fast as it came, and no call pays
// for all of it.
func (m *Memory) sweep(now time.Time) {
	for range 2 {
		if len(m.expiry) == 0 || !m.expiry[0].expired(now) {
			return
		}
		e := heap.Pop(&m.expiry).(*entry)
		delete(m.back, e)
		if e.value == nil {
			delete(m.counts, e.key)
		} else {
			delete(m.values, e.key)
		}
	}
}

// Get implements [Store].
func (m *Memory) Get(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errClosed
	}
	return bytes.Clone(m.value(key)), nil
}

func (m *Memory) value(key string) []byte {
	if e := m.values[key]; e != nil && !e.expired(m.now()) {
		return e.value
	}
	return nil
}

// Update implements [Store]. change must not call the store.
func (m *Memory) Update(_ context.Context, key string, change func(old []byte) ([]byte, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errClosed
	}
	value, err := change(bytes.Clone(m.value(key)))
	if err != nil {
		return err
	}
	return m.put(key, value, time.Time{})
}

// Put implements [Store].
func (m *Memory) Put(_ context.Context, key string, value []byte, expires time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errClosed
	}
	if err := checkLasting(expires, m.now()); err != nil {
		return err
	}
	return m.put(key, value, expires)
}

func (m *Memory) put(key string, value []byte, expires time.Time) error {
	if err := checkValue(value); err != nil {
		return err
	}
	m.sweep(m.now())
	if m.values[key] == nil && value != nil && len(m.values) >= maxValues {
		return ErrFull
	}
	m.remove(m.values, key)
	if value == nil {
		return nil
	}
	e := &entry{key: key, value: append([]byte{}, value...), expires: expires, index: noIndex}
	m.values[key] = e
	if !expires.IsZero() {
		heap.Push(&m.expiry, e)
	}
	return nil
}

func (m *Memory) remove(from map[string]*entry, key string) {
	e := from[key]
	if e == nil {
		return
	}
	delete(from, key)
	delete(m.back, e)
	if e.index != noIndex {
		heap.Remove(&m.expiry, e.index)
	}
}

// Forget implements [Store].
func (m *Memory) Forget(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errClosed
	}
	m.remove(m.counts, key)
	m.remove(m.values, key)
	return nil
}

// Scan implements [Store].
func (m *Memory) Scan(ctx context.Context, prefix string, visit func(key string, count int64, value []byte, expires time.Time) bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errClosed
	}
	now := m.now()
	for _, entries := range []map[string]*entry{m.counts, m.values} {
		for key, e := range entries {
			if err := ctx.Err(); err != nil {
				return err
			}
			if strings.HasPrefix(key, prefix) && !e.expired(now) && !visit(key, m.count(e).used(), bytes.Clone(e.value), e.expires) {
				return nil
			}
		}
	}
	return nil
}

// Close implements [Store].
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.counts, m.expiry, m.values, m.back = nil, nil, nil, nil
	return nil
}

// expiryHeap has the entry that expires first on top (container/heap).
type expiryHeap []*entry

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].expires.Before(h[j].expires) }
func (h expiryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *expiryHeap) Push(x any) {
	c := x.(*entry)
	c.index = len(*h)
	*h = append(*h, c)
}

func (h *expiryHeap) Pop() any {
	old := *h
	c := old[len(old)-1]
	old[len(old)-1] = nil
	c.index = noIndex
	*h = old[:len(old)-1]
	return c
}
