package state

import (
	"bytes"
	"container/heap"
	"context"
	"sync"
	"time"
)

// MemorySize is how many counts NewMemory is meant to hold: some 200 bytes
// each, and one for an instance and role whose window is open.
const MemorySize = 1 << 20

// Memory is a Store that lives as long as the process. A restart gives every
// attempt back.
type Memory struct {
	now  func() time.Time
	size int

	mu     sync.Mutex
	closed bool
	counts map[string]*count
	expiry expiryHeap
	values map[string][]byte
}

type count struct {
	key     string
	n       int64
	expires time.Time
	index   int // in the heap
}

// NewMemory makes a store of at most size counts. now may be nil for time.Now.
func NewMemory(size int, now func() time.Time) *Memory {
	if now == nil {
		now = time.Now
	}
	return &Memory{now: now, size: size, counts: map[string]*count{}, values: map[string][]byte{}}
}

// Count implements [Store].
func (m *Memory) Count(_ context.Context, key string) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return 0, errClosed
	}
	if c := m.counts[key]; c != nil && m.now().Before(c.expires) {
		return c.n, nil
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
	if !now.Before(expires) {
		return 0, errExpired
	}
	m.sweep(now)
	c := m.counts[key]
	switch {
	case c == nil && len(m.counts) >= m.size:
		return 0, ErrFull
	case c == nil:
		c = &count{key: key, expires: expires}
		m.counts[key] = c
		heap.Push(&m.expiry, c)
	case !now.Before(c.expires):
		c.n, c.expires = 0, expires
		heap.Fix(&m.expiry, c.index)
	case expires.After(c.expires):
		c.expires = expires
		heap.Fix(&m.expiry, c.index)
	}
	c.n++
	return c.n, nil
}

// sweep takes away two expired counts. Each Increment adds at most one, so what
// has expired goes away as fast as it came, and no call pays for all of it.
func (m *Memory) sweep(now time.Time) {
	for range 2 {
		if len(m.expiry) == 0 || now.Before(m.expiry[0].expires) {
			return
		}
		c := heap.Pop(&m.expiry).(*count)
		delete(m.counts, c.key)
	}
}

// Get implements [Store].
func (m *Memory) Get(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errClosed
	}
	return bytes.Clone(m.values[key]), nil
}

// Update implements [Store]. change must not call the store.
func (m *Memory) Update(_ context.Context, key string, change func(old []byte) ([]byte, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errClosed
	}
	value, err := change(bytes.Clone(m.values[key]))
	if err != nil {
		return err
	}
	if value == nil {
		delete(m.values, key)
	} else {
		m.values[key] = bytes.Clone(value)
	}
	return nil
}

// Close implements [Store].
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.counts, m.expiry, m.values = nil, nil, nil
	return nil
}

// expiryHeap has the count that expires first on top (container/heap).
type expiryHeap []*count

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].expires.Before(h[j].expires) }
func (h expiryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *expiryHeap) Push(x any) {
	c := x.(*count)
	c.index = len(*h)
	*h = append(*h, c)
}

func (h *expiryHeap) Pop() any {
	old := *h
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return c
}
