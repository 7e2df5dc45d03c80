package state

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"strings"
	"sync"
	"time"
)

const (
	memorySize = 1 << 20
	// MemoryBytes is about how many bytes a full Memory uses: some 200 for each count.
	MemoryBytes = 200 * memorySize

	// maxValues is how many values a Memory or a File holds. The key set is one value,
	// and the denial list is another.
	maxValues = 1 << 16
)

// Memory is a Store that ends with the process. After a restart every attempt can be
// made again. The zero value is ready for use.
type Memory struct {
	// Size is the maximum number of counts. Optional, 0 means 1048576.
	Size int
	// Now is the clock. Optional, nil means time.Now.
	Now func() time.Time

	mu     sync.Mutex
	closed bool
	counts map[string]*entry
	values map[string]*entry
	expiry expiryHeap         // all entries that expire
	back   map[*entry][]int64 // the numbers that were given back; few counts have any
}

// entry is a count, or a value if value is not nil.
type entry struct {
	key     string
	n       int64
	value   []byte
	expires time.Time
	index   int // in the heap; noIndex for an entry that never expires
}

const noIndex = -1

// lock locks m and returns the time. If m is closed it returns an error, with m locked.
func (m *Memory) lock() (now time.Time, err error) {
	m.mu.Lock()
	switch {
	case m.closed:
		return now, errClosed
	case m.counts == nil:
		m.counts, m.values, m.back = map[string]*entry{}, map[string]*entry{}, map[*entry][]int64{}
	}
	return orTimeNow(m.Now)(), nil
}

// Count implements [Store].
func (m *Memory) Count(_ context.Context, key string) (int64, error) {
	now, err := m.lock()
	defer m.mu.Unlock()
	if c := m.counts[key]; err == nil && c != nil && !expired(c.expires, now) {
		return m.count(c).used(), nil
	}
	return 0, err
}

// Increment implements [Store].
func (m *Memory) Increment(_ context.Context, key string, expires time.Time) (int64, error) {
	now, err := m.lock()
	defer m.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if err := checkExpiry(expires, now); err != nil {
		return 0, err
	}
	m.sweep(now)
	c := m.counts[key]
	switch {
	case c == nil && len(m.counts) >= cmp.Or(m.Size, memorySize):
		return 0, ErrFull
	case c == nil:
		c = &entry{key: key, expires: expires}
		m.counts[key] = c
		heap.Push(&m.expiry, c)
	case expired(c.expires, now):
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
	now, err := m.lock()
	defer m.mu.Unlock()
	c := m.counts[key]
	if err != nil || c == nil || expired(c.expires, now) {
		return err
	}
	numbers := m.count(c)
	if numbers.giveBack(n) {
		m.keep(c, numbers)
	}
	if numbers.n == 0 {
		m.remove(m.counts, key)
	}
	return nil
}

// sweep removes up to two expired entries. A call that writes adds at most one, so
// expired entries disappear faster than others are added, and no call pays for all.
func (m *Memory) sweep(now time.Time) {
	for range 2 {
		if len(m.expiry) == 0 || !expired(m.expiry[0].expires, now) {
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
	now, err := m.lock()
	defer m.mu.Unlock()
	return m.value(key, now), err
}

// value returns a copy.
func (m *Memory) value(key string, now time.Time) []byte {
	if e := m.values[key]; e != nil && !expired(e.expires, now) {
		return bytes.Clone(e.value)
	}
	return nil
}

// Update implements [Store]. change must not call the store.
func (m *Memory) Update(_ context.Context, key string, change func(old []byte) ([]byte, error)) error {
	now, err := m.lock()
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	value, err := change(m.value(key, now))
	if err != nil {
		return err
	}
	return m.put(key, value, time.Time{}, now)
}

// Put implements [Store].
func (m *Memory) Put(_ context.Context, key string, value []byte, expires time.Time) error {
	now, err := m.lock()
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	if err := checkLasting(expires, now); err != nil {
		return err
	}
	return m.put(key, value, expires, now)
}

func (m *Memory) put(key string, value []byte, expires, now time.Time) error {
	if err := checkValue(value); err != nil {
		return err
	}
	m.sweep(now)
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
	_, err := m.lock()
	defer m.mu.Unlock()
	m.remove(m.counts, key)
	m.remove(m.values, key)
	return err
}

// Scan implements [Store].
func (m *Memory) Scan(ctx context.Context, prefix string, visit func(Entry) bool) error {
	now, err := m.lock()
	defer m.mu.Unlock()
	for _, entries := range []map[string]*entry{m.counts, m.values} {
		for key, e := range entries {
			if err := ctx.Err(); err != nil {
				return err
			}
			if strings.HasPrefix(key, prefix) && !expired(e.expires, now) &&
				!visit(Entry{key, m.count(e).used(), bytes.Clone(e.value), e.expires}) {
				return nil
			}
		}
	}
	return err
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
