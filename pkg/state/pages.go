package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"hash/maphash"
	"io"
	"sync"
	"sync/atomic"
)

// bbolt believes every page of its file: it follows page numbers and lengths as
// they are, through a memory map. A damaged page makes it panic, fault, recurse
// until the stack is used up, or allocate gigabytes; or it finds nothing where a
// count is. Therefore no page is used before it was read here, with pread(2),
// and found to be whole: by its shape when the file is opened, and from then on
// by the checksum that it had then or when it was written.
//
// The format is that of bbolt's version 2: internal/common/page.go and meta.go.
const (
	boltMagic    = 0xED0CDAED
	boltVersion  = 2
	pageHeader   = 16 // id uint64, flags uint16, count uint16, overflow uint32
	pageElement  = 16
	bucketHeader = 16 // root uint64, sequence uint64
	metaSize     = 64
	metaSum      = 56 // where its checksum is

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10
	flagBucket   = 0x01 // of an element of a leaf

	minPageSize  = 1 << 10
	maxPageSize  = 1 << 16
	maxTreeDepth = 24
)

// damage is what is wrong with a file. It is never written to again.
type damage struct{ what string }

func (d *damage) Error() string {
	return "is damaged: " + d.what + "; stop the server and restore a copy (state save), or move the file away to begin anew, which gives attempts back and makes new signing keys"
}

func damaged(format string, args ...any) error { return &damage{fmt.Sprintf(format, args...)} }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sums are the checksums of the pages that are in use, by the number of the
// first of each; 0 for one that is not known. One goroutine writes them.
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

// meta is what a file says of itself, twice, on its first two pages.
type meta struct {
	pageSize       int
	root, freelist uint64
	pages          uint64 // how many there are; those after them are not in use
	txid           uint64
}

func parseMeta(page []byte) (m meta, ok bool) {
	if len(page) < pageHeader+metaSize {
		return m, false
	}
	b := page[pageHeader:]
	h := fnv.New64a()
	_, _ = h.Write(b[:metaSum]) // never fails
	e := binary.NativeEndian
	m = meta{int(e.Uint32(b[8:])), e.Uint64(b[16:]), e.Uint64(b[32:]), e.Uint64(b[40:]), e.Uint64(b[48:])}
	return m, e.Uint32(b) == boltMagic && e.Uint32(b[4:]) == boltVersion && e.Uint64(b[metaSum:]) == h.Sum64() &&
		m.pageSize >= minPageSize && m.pageSize <= maxPageSize && m.pageSize&(m.pageSize-1) == 0
}

// readMeta gives the newer of the two, both of which must be good: with the newer
// one lost, the last write would be taken back.
func readMeta(file io.ReaderAt) (meta, error) {
	var buf [pageHeader + metaSize]byte
	var metas [2]meta
	for i := range metas {
		if err := readFull(file, buf[:], int64(i*metas[0].pageSize)); err != nil {
			return meta{}, err
		}
		m, ok := parseMeta(buf[:])
		if !ok || (i > 0 && m.pageSize != metas[0].pageSize) {
			return meta{}, damaged("page %d does not say what the file is", i)
		}
		metas[i] = m
	}
	m := metas[0]
	if metas[1].txid > m.txid {
		m = metas[1]
	}
	for _, id := range []uint64{m.root, m.freelist} {
		if id < 2 || id >= m.pages {
			return meta{}, damaged("it names page %d of %d", id, m.pages)
		}
	}
	return m, nil
}

func readFull(file io.ReaderAt, b []byte, offset int64) error {
	n, err := file.ReadAt(b, offset)
	switch {
	case n == len(b):
		return nil
	case errors.Is(err, io.EOF):
		return damaged("it is cut off at %d bytes", offset+int64(n))
	}
	return err
}

// page is a leaf or a branch of a tree, as it was read.
type page struct {
	id    uint64
	leaf  bool
	count int
	data  []byte // with its overflow
}

func (p page) header(i int) []byte { return p.data[pageHeader+i*pageElement:][:pageElement] }

// bounds are those of the key and the value of an element in data.
func (p page) bounds(i int) (key, value, end uint64) {
	h, e := p.header(i), binary.NativeEndian
	at := uint64(pageHeader + i*pageElement) //nolint:gosec // i is within a page
	if p.leaf {
		key = at + uint64(e.Uint32(h[4:]))
		value = key + uint64(e.Uint32(h[8:]))
		return key, value, value + uint64(e.Uint32(h[12:]))
	}
	key = at + uint64(e.Uint32(h))
	value = key + uint64(e.Uint32(h[4:]))
	return key, value, value
}

func (p page) key(i int) []byte {
	key, value, _ := p.bounds(i)
	return p.data[key:value:value]
}

func (p page) value(i int) []byte {
	_, value, end := p.bounds(i)
	return p.data[value:end:end]
}

func (p page) isBucket(i int) bool { return binary.NativeEndian.Uint32(p.header(i)) == flagBucket }
func (p page) child(i int) uint64  { return binary.NativeEndian.Uint64(p.header(i)[8:]) }

// search gives the element with the greatest key that is not greater, else the
// first; and whether the key is the same.
func (p page) search(key []byte) (i int, same bool) {
	low, high := 0, p.count
	for low < high {
		mid := (low + high) / 2
		switch bytes.Compare(p.key(mid), key) {
		case 0:
			return mid, true
		case -1:
			low = mid + 1
		default:
			high = mid
		}
	}
	return max(low-1, 0), false
}

// parsePage looks at a page that is in a file of so many pages, or with id 0 in the
// value of a bucket. It must look as bbolt writes it: its elements one after the
// other, in the order of their keys, in as few pages as they need.
func parsePage(id uint64, data []byte, size int, pages uint64) (page, error) {
	bad := func(what string) (page, error) { return page{}, damaged("page %d: %s", id, what) }
	e := binary.NativeEndian
	if len(data) < pageHeader {
		return bad("is too short")
	}
	p := page{id: id, count: int(e.Uint16(data[10:])), data: data}
	switch flags := e.Uint16(data[8:]); {
	case e.Uint64(data) != id:
		return bad("says that it is another")
	case flags == flagLeaf:
		p.leaf = true
	case flags != flagBranch || id == 0:
		return bad("is neither a leaf nor a branch")
	case p.count == 0:
		return bad("is an empty branch")
	}
	offset := uint64(pageHeader + p.count*pageElement) //nolint:gosec // count is 16 bits
	if offset > uint64(len(data)) {
		return bad("has more elements than room")
	}
	var last []byte
	for i := range p.count {
		key, value, end := p.bounds(i)
		if key != offset || value <= key || end > uint64(len(data)) {
			return bad("has an element outside of itself")
		}
		name := p.data[key:value]
		if i > 0 && bytes.Compare(last, name) >= 0 {
			return bad("has its keys in disorder")
		}
		last = name
		if p.leaf && e.Uint32(p.header(i)) > flagBucket {
			return bad("has an element of no kind")
		}
		if !p.leaf && (p.child(i) < 2 || p.child(i) >= pages || p.child(i) == id) {
			return bad("leads out of the file")
		}
		offset = end
	}
	if id == 0 {
		if offset != uint64(len(data)) {
			return bad("is longer than what is in it")
		}
	} else if (offset+uint64(size)-1)/uint64(size)*uint64(size) != uint64(len(data)) { //nolint:gosec // size is positive
		return bad("has another length than what is in it")
	}
	return p, nil
}

// freelist gives the numbers of the pages that are not in use.
func parseFreelist(id uint64, data []byte, pages uint64) ([]uint64, error) {
	e := binary.NativeEndian
	count, at := uint64(e.Uint16(data[10:])), pageHeader
	if count == 0xFFFF && len(data) >= at+8 {
		count, at = e.Uint64(data[at:]), at+8
	}
	if e.Uint64(data) != id || e.Uint16(data[8:]) != flagFreelist || count > uint64(len(data))/8-uint64(at)/8 {
		return nil, damaged("page %d: is no list of free pages", id)
	}
	free := make([]uint64, count)
	for i := range free {
		free[i] = e.Uint64(data[at+i*8:])
		if free[i] < 2 || free[i] >= pages || (i > 0 && free[i] <= free[i-1]) {
			return nil, damaged("page %d: lists page %d of %d as free", id, free[i], pages)
		}
	}
	return free, nil
}

var pageBuffers = sync.Pool{New: func() any { return new([]byte) }}

// snapshot is the state of a file after one transaction.
type snapshot struct {
	file  io.ReaderAt
	size  int // of a page
	sums  *sums
	root  uint64
	pages uint64
	// trust says that the sums of all pages are known.
	trust bool
	// learn puts the sums of pages into sums.
	learn bool
	// written says that bbolt wrote the pages just now, from such as were good.
	written bool

	loaded  map[uint64]page
	buckets map[string]tree
	buffers []*[]byte
}

// tree is a bucket: the root of its pages, or the one page of a small one.
type tree struct {
	root     uint64
	inline   page
	sequence uint64
}

// release gives the buffers of the pages back, none of which is used any more.
func (s *snapshot) release() {
	for _, b := range s.buffers {
		pageBuffers.Put(b)
	}
	s.buffers, s.loaded, s.buckets = nil, nil, nil
}

// raw reads a page with its overflow, and compares its checksum.
func (s *snapshot) raw(id uint64) (_ []byte, known bool, err error) {
	if id < 2 || id >= s.pages {
		return nil, false, damaged("page %d of %d is named", id, s.pages)
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
			return nil, false, damaged("page %d: goes on after the end of the file", id)
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

// descend loads the pages on the way to key, and with beside the neighbors of each,
// which bbolt merges with a page of which something was deleted. It gives the leaf.
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

// get gives the value of key, nil if there is none.
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

// scan calls visit with all keys from a first one on, in their order, until it says
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
	held := len(s.buffers)
	p, err := s.load(id)
	if err != nil {
		return false, err
	}
	// What was looked at is let go: a scan may go through all of the file.
	defer func() {
		delete(s.loaded, id)
		for _, b := range s.buffers[held:] {
			pageBuffers.Put(b)
		}
		s.buffers = s.buffers[:held]
	}()
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

func scanLeaf(p page, from []byte, visit func(key, value []byte) bool) (on bool) {
	i, _ := p.search(from)
	for ; i < p.count; i++ {
		if bytes.Compare(p.key(i), from) >= 0 && !visit(p.key(i), p.value(i)) {
			return false
		}
	}
	return true
}

// bucket finds a bucket that must be there.
func (s *snapshot) bucket(name []byte) (tree, error) {
	t, ok, err := s.find(name)
	if err == nil && !ok {
		err = damaged("it has no bucket %s", name)
	}
	return t, err
}

// find finds a bucket; ok is false if there is none.
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
		return tree{}, false, damaged("page %d: %q is no bucket", p.id, name)
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

// learnFrom takes the sums of the pages that a transaction wrote: those that can be
// reached from the root now, and could not be before it.
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

// verifier goes through a whole file.
type verifier struct {
	*snapshot
	used  []bool
	index uint64 // of what expires: of all entries less of all in the index
	seed  maphash.Seed
}

// verify looks at every page of a file that is not being written to, and takes
// their sums: each page must be whole and used once, each entry be in the index of
// what expires, and the numbers of entries be right. A file without any bucket is
// good, too.
func verify(file io.ReaderAt, size int64) (m meta, s *sums, err error) {
	if m, err = readMeta(file); err != nil {
		return m, nil, err
	}
	if uint64(size) < m.pages*uint64(m.pageSize) || m.pages > uint64(size) { //nolint:gosec // neither is negative
		return m, nil, damaged("it is cut off at %d of its %d pages", size/int64(m.pageSize), m.pages)
	}
	v := &verifier{&snapshot{file: file, size: m.pageSize, sums: new(sums), root: m.root, pages: m.pages, learn: true}, make([]bool, m.pages), 0, maphash.MakeSeed()}
	defer v.release()
	v.used[0], v.used[1] = true, true
	if err = v.file(); err == nil {
		err = v.free(m.freelist)
	}
	return m, v.sums, err
}

func (v *verifier) free(id uint64) error {
	data, _, err := v.raw(id)
	if err != nil {
		return err
	}
	free, err := parseFreelist(id, data, v.pages)
	if err != nil {
		return err
	}
	if err := v.use(id, len(data)); err != nil {
		return err
	}
	for _, id := range free {
		if err := v.use(id, v.size); err != nil {
			return err
		}
	}
	for id, used := range v.used {
		if !used {
			return damaged("page %d is neither used nor free", id)
		}
	}
	return nil
}

func (v *verifier) use(id uint64, length int) error {
	for range length / v.size {
		if v.used[id] {
			return damaged("page %d is used twice", id)
		}
		v.used[id] = true
		id++
	}
	return nil
}

// file looks at the buckets.
func (v *verifier) file() error {
	root, err := v.load(v.root)
	if err != nil {
		return err
	}
	t, ok, err := v.find(bucketMeta)
	if err != nil {
		return err
	}
	if !ok && root.count == 0 {
		return v.use(root.id, len(root.data))
	}
	data, err := v.get(t, keyVersion)
	if err != nil {
		return err
	}
	if !ok || len(data) != 8 {
		return errForeign
	}
	if version := binary.BigEndian.Uint64(data); version > fileVersion {
		return fmt.Errorf("has version %d, and %d is the newest that this binary knows", version, fileVersion)
	}
	if err := v.use(root.id, len(root.data)); err != nil {
		return err
	}
	if !root.leaf || root.count != 4 {
		return damaged("page %d does not have the four buckets", root.id)
	}
	for _, name := range [][]byte{bucketMeta, bucketCounts, bucketValues, bucketExpiry} {
		t, err := v.bucket(name)
		if err != nil {
			return err
		}
		entries := uint64(0)
		if err := v.tree(t, func(key, value []byte) error {
			entries++
			return v.entry(name, key, value)
		}); err != nil {
			return err
		}
		if counted := name[0] == bucketCounts[0] || name[0] == bucketValues[0]; counted && entries != t.sequence {
			return damaged("there are %d %s, and should be %d", entries, name, t.sequence)
		}
	}
	if v.index != 0 {
		return damaged("what expires is not what the index of it says")
	}
	return nil
}

func (v *verifier) entry(bucket, key, value []byte) error {
	switch bucket[0] {
	case bucketMeta[0]:
		return nil
	case bucketExpiry[0]:
		if len(key) < 9 || len(value) != 0 {
			return damaged("an entry of what expires has %d bytes", len(key))
		}
		v.index -= maphash.Bytes(v.seed, key)
		return nil
	}
	e, err := decodeEntry(bucket, key, value)
	if err == nil && !e.Expires.IsZero() {
		v.index += maphash.Bytes(v.seed, expiryKey(e.Expires, bucket, key))
	}
	return err
}

// tree looks at all pages of a bucket.
func (v *verifier) tree(t tree, visit func(key, value []byte) error) error {
	if t.root == 0 {
		return v.leaf(t.inline, visit)
	}
	return v.page(t.root, nil, nil, 0, visit)
}

func (v *verifier) leaf(p page, visit func(key, value []byte) error) error {
	for i := range p.count {
		if p.isBucket(i) {
			return damaged("page %d has a bucket in a bucket", p.id)
		}
		if err := visit(p.key(i), p.value(i)); err != nil {
			return err
		}
	}
	return nil
}

// page looks at a page, all of whose keys must be from low on and, unless that is
// nil, below high.
func (v *verifier) page(id uint64, low, high []byte, depth int, visit func(key, value []byte) error) error {
	if depth > maxTreeDepth {
		return damaged("page %d is deeper than a tree can be", id)
	}
	held := len(v.buffers)
	p, err := v.load(id)
	if err != nil {
		return err
	}
	defer func() {
		delete(v.loaded, id)
		for _, b := range v.buffers[held:] {
			pageBuffers.Put(b)
		}
		v.buffers = v.buffers[:held]
	}()
	if err := v.use(id, len(p.data)); err != nil {
		return err
	}
	if p.count == 0 {
		return damaged("page %d is empty", id)
	}
	if bytes.Compare(p.key(0), low) < 0 || (high != nil && bytes.Compare(p.key(p.count-1), high) >= 0) {
		return damaged("page %d has keys of another", id)
	}
	if p.leaf {
		return v.leaf(p, visit)
	}
	for i := range p.count {
		end := high
		if i+1 < p.count {
			end = p.key(i + 1)
		}
		if err := v.page(p.child(i), p.key(i), end, depth+1, visit); err != nil {
			return err
		}
	}
	return nil
}
