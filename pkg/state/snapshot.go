package state

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"sync"
	"sync/atomic"
)

// sums are the checksums of the pages in use, by page number; 0 means unknown. One
// goroutine writes them.
type sums struct {
	all atomic.Pointer[[]atomic.Uint32]
}

func (s *sums) of(id uint64) uint32 {
	if all := s.all.Load(); all != nil && id < uint64(len(*all)) {
		return (*all)[id].Load()
	}
	return 0
}

func (s *sums) set(id uint64, sum uint32) {
	all := s.all.Load()
	if all == nil || id >= uint64(len(*all)) {
		more := make([]atomic.Uint32, max(1024, id+id/4))
		if all != nil {
			for i := range *all {
				more[i].Store((*all)[i].Load())
			}
		}
		s.all.Store(&more)
		all = &more
	}
	(*all)[id].Store(sum)
}

func sumOf(data []byte) uint32 { return max(crc32.Checksum(data, castagnoli), 1) }

var pageBuffers = sync.Pool{New: func() any { return new([]byte) }}

// snapshot reads a file as it is after one transaction.
type snapshot struct {
	file  io.ReaderAt
	size  int // of a page
	sums  *sums
	root  uint64
	pages uint64
	trust bool // the checksums of all pages are known
	learn bool // store the checksums of the pages that are read
	// written means that bbolt has just written the pages, from verified ones.
	written bool

	loaded  map[uint64]page
	buckets map[string]tree
	buffers []*[]byte
}

// tree is a bucket: the number of its root page, or the only page of a small bucket.
type tree struct {
	root     uint64
	inline   page
	sequence uint64
}

// release returns all buffers. No page may be used afterwards.
func (s *snapshot) release() {
	for _, b := range s.buffers {
		pageBuffers.Put(b)
	}
	s.buffers, s.loaded, s.buckets = nil, nil, nil
}

// raw reads a page with its overflow and compares its checksum.
func (s *snapshot) raw(id uint64) (_ []byte, known bool, err error) {
	if id < 2 || id >= s.pages {
		return nil, false, damaged("it refers to page %d of %d", id, s.pages)
	}
	buffer := pageBuffers.Get().(*[]byte)
	s.buffers = append(s.buffers, buffer)
	if cap(*buffer) < s.size {
		*buffer = make([]byte, s.size)
	}
	data := (*buffer)[:s.size]
	at := int64(id) * int64(s.size) //nolint:gosec // within the file
	if err := readFull(s.file, data, at); err != nil {
		return nil, false, err
	}
	if more := uint64(binary.NativeEndian.Uint32(data[12:])); more > 0 {
		if more >= s.pages-id {
			return nil, false, damaged("page %d: ends after the end of the file", id)
		}
		all := make([]byte, (int(more)+1)*s.size) //nolint:gosec // no more than the file has
		copy(all, data)
		if err := readFull(s.file, all[s.size:], at+int64(s.size)); err != nil {
			return nil, false, err
		}
		*buffer, data = all, all
	}
	sum := sumOf(data)
	want := s.sums.of(id)
	switch {
	case s.learn:
		s.sums.set(id, sum)
	case s.trust && want != 0 && want != sum:
		return nil, false, damaged("page %d has changed since it was written", id)
	}
	return data, s.trust && want != 0, nil
}

// load reads a page of a tree.
func (s *snapshot) load(id uint64) (page, error) {
	if p, ok := s.loaded[id]; ok {
		return p, nil
	}
	data, known, err := s.raw(id)
	if err != nil {
		return page{}, err
	}
	p := page{id: id, leaf: binary.NativeEndian.Uint16(data[8:]) == flagLeaf, count: int(binary.NativeEndian.Uint16(data[10:])), data: data}
	if !known && !s.written {
		if p, err = parsePage(id, data, s.size, s.pages); err != nil {
			return page{}, err
		}
	}
	if s.loaded == nil {
		s.loaded = map[uint64]page{}
	}
	s.loaded[id] = p
	return p, nil
}

// descend loads the pages on the way to key and returns the leaf. With beside it also
// loads the neighbors of each page, because bbolt merges them after a deletion.
func (s *snapshot) descend(t tree, key []byte, beside bool) (page, error) {
	if t.root == 0 {
		return t.inline, nil
	}
	p, err := s.load(t.root)
	for depth := 0; err == nil && !p.leaf; depth++ {
		if depth == maxTreeDepth {
			return page{}, damaged("page %d is deeper than a tree can be", p.id)
		}
		i, _ := p.search(key)
		for _, neighbor := range []int{i - 1, i + 1} {
			if beside && neighbor >= 0 && neighbor < p.count {
				if _, err := s.load(p.child(neighbor)); err != nil {
					return page{}, err
				}
			}
		}
		p, err = s.load(p.child(i))
	}
	return p, err
}

// get returns the value of key, nil if there is none.
func (s *snapshot) get(t tree, key []byte) ([]byte, error) {
	p, err := s.descend(t, key, false)
	if err != nil {
		return nil, err
	}
	if i, same := p.search(key); same {
		return p.value(i), nil
	}
	return nil, nil
}

// scan calls visit with all keys, in order, from a first one on, until visit returns
// false.
func (s *snapshot) scan(t tree, from []byte, visit func(key, value []byte) bool) error {
	if t.root == 0 {
		scanLeaf(t.inline, from, visit)
		return nil
	}
	_, err := s.scanPage(t.root, from, visit, 0)
	return err
}

func (s *snapshot) scanPage(id uint64, from []byte, visit func(key, value []byte) bool, depth int) (on bool, err error) {
	if depth > maxTreeDepth {
		return false, damaged("page %d is deeper than a tree can be", id)
	}
	defer s.forget(id, len(s.buffers)) // a scan may read the whole file
	p, err := s.load(id)
	if err != nil {
		return false, err
	}
	if p.leaf {
		return scanLeaf(p, from, visit), nil
	}
	i, _ := p.search(from)
	for ; i < p.count; i++ {
		if on, err := s.scanPage(p.child(i), from, visit, depth+1); err != nil || !on {
			return false, err
		}
	}
	return true, nil
}

// forget returns the buffers of a page, which are those after the first ones.
func (s *snapshot) forget(id uint64, first int) {
	delete(s.loaded, id)
	for _, b := range s.buffers[first:] {
		pageBuffers.Put(b)
	}
	s.buffers = s.buffers[:first]
}

func scanLeaf(p page, from []byte, visit func(key, value []byte) bool) (on bool) {
	i, _ := p.search(from)
	for ; i < p.count; i++ {
		if bytes.Compare(p.key(i), from) >= 0 && !visit(p.key(i), p.value(i)) {
			return false
		}
	}
	return true
}

// bucket finds a bucket that must exist.
func (s *snapshot) bucket(name []byte) (tree, error) {
	t, ok, err := s.find(name)
	if err == nil && !ok {
		err = damaged("it has no bucket %s", name)
	}
	return t, err
}

// find finds a bucket; ok is false if it does not exist.
func (s *snapshot) find(name []byte) (t tree, ok bool, err error) {
	if t, ok := s.buckets[string(name)]; ok {
		return t, true, nil
	}
	p, err := s.descend(tree{root: s.root}, name, false)
	if err != nil {
		return tree{}, false, err
	}
	i, same := p.search(name)
	if !same {
		return tree{}, false, nil
	}
	if !p.isBucket(i) {
		return tree{}, false, damaged("page %d: %q is not a bucket", p.id, name)
	}
	if t, err = s.parseBucket(p.value(i)); err != nil {
		return tree{}, false, err
	}
	if s.buckets == nil {
		s.buckets = map[string]tree{}
	}
	s.buckets[string(name)] = t
	return t, true, nil
}

func (s *snapshot) parseBucket(value []byte) (t tree, err error) {
	if len(value) < bucketHeader {
		return t, damaged("a bucket has %d bytes", len(value))
	}
	t.root, t.sequence = binary.NativeEndian.Uint64(value), binary.NativeEndian.Uint64(value[8:])
	if t.root == 0 {
		t.inline, err = parsePage(0, value[bucketHeader:], s.size, s.pages)
	} else if len(value) != bucketHeader {
		err = damaged("a bucket has %d bytes", len(value))
	}
	return t, err
}

// learnFrom stores the checksums of the pages that a transaction wrote. These are the
// pages below the root that were not below it before the transaction.
func (s *snapshot) learnFrom(old *snapshot, freelist uint64) error {
	known := map[uint64]bool{}
	for _, p := range old.loaded {
		for i := range p.count {
			if !p.leaf {
				known[p.child(i)] = true
			}
		}
	}
	for _, t := range old.buckets {
		known[t.root] = true
	}
	s.learn, s.written = true, true
	if _, _, err := s.raw(freelist); err != nil {
		return err
	}
	return s.learnPage(s.root, known, 0)
}

func (s *snapshot) learnPage(id uint64, known map[uint64]bool, depth int) error {
	if known[id] {
		return nil
	}
	if depth > maxTreeDepth {
		return damaged("page %d is deeper than a tree can be", id)
	}
	p, err := s.load(id)
	if err != nil {
		return err
	}
	for i := range p.count {
		switch {
		case !p.leaf:
			err = s.learnPage(p.child(i), known, depth+1)
		case p.isBucket(i):
			var t tree
			if t, err = s.parseBucket(p.value(i)); err == nil && t.root != 0 {
				err = s.learnPage(t.root, known, depth+1)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// entry returns the value of a key in a bucket.
func (s *snapshot) entry(bucket, key []byte) ([]byte, error) {
	t, err := s.bucket(bucket)
	if err != nil {
		return nil, err
	}
	return s.get(t, key)
}
