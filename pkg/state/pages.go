package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
)

// bbolt does not verify the pages of its file: it follows page numbers and lengths
// through a memory map. A damaged page makes it panic, fault, recurse until the stack
// is full, or allocate gigabytes, or it finds no count where there is one. Therefore
// every page is read here, with pread(2), and verified before bbolt uses it: by its
// structure when the file is opened, and later by the checksum that it had then or when
// it was written.
//
// The format is that of bbolt's version 2: internal/common/page.go and meta.go.
const (
	boltMagic    = 0xED0CDAED
	boltVersion  = 2
	pageHeader   = 16 // id uint64, flags uint16, count uint16, overflow uint32
	pageElement  = 16
	bucketHeader = 16 // root uint64, sequence uint64
	metaSize     = 64
	metaSum      = 56 // offset of its checksum

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10
	flagBucket   = 0x01 // of an element of a leaf

	minPageSize  = 1 << 10
	maxPageSize  = 1 << 16
	maxTreeDepth = 24
)

// damage is the error of a damaged file. After it the file is never written to.
type damage struct{ what string }

func (d *damage) Error() string {
	return "is damaged: " + d.what + "; stop the server and restore a copy (state save), or move the file away to start with an empty one, after which instances can make their attempts again and the signing keys are new"
}

func damaged(format string, args ...any) error { return &damage{fmt.Sprintf(format, args...)} }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// meta is the description of a file. Its first two pages each have one.
type meta struct {
	pageSize       int
	root, freelist uint64
	pages          uint64 // in use; there may be unused pages after them
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

// readMeta returns the newer of the two descriptions. Both must be valid: without the
// newer one, the last write would be lost.
func readMeta(file io.ReaderAt) (meta, error) {
	var buf [pageHeader + metaSize]byte
	var metas [2]meta
	for i := range metas {
		if err := readFull(file, buf[:], int64(i*metas[0].pageSize)); err != nil {
			return meta{}, err
		}
		m, ok := parseMeta(buf[:])
		if !ok || (i > 0 && m.pageSize != metas[0].pageSize) {
			return meta{}, damaged("page %d does not describe the file", i)
		}
		metas[i] = m
	}
	m := metas[0]
	if metas[1].txid > m.txid {
		m = metas[1]
	}
	for _, id := range []uint64{m.root, m.freelist} {
		if id < 2 || id >= m.pages {
			return meta{}, damaged("it refers to page %d of %d", id, m.pages)
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
		return damaged("it is truncated at %d bytes", offset+int64(n))
	}
	return err
}

// page is a leaf or a branch of a tree.
type page struct {
	id    uint64
	leaf  bool
	count int
	data  []byte // with its overflow
}

func (p page) header(i int) []byte { return p.data[pageHeader+i*pageElement:][:pageElement] }

// bounds returns where the key and the value of an element are in data.
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

// search returns the last element whose key is not greater than key, or the first
// element if there is none, and whether its key is the same.
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

// parsePage verifies a page of a file with so many pages, or with id 0 a page in the
// value of a bucket. It must be as bbolt writes it: its elements follow one another, in
// the order of their keys, and it is no longer than they need.
func parsePage(id uint64, data []byte, size int, pages uint64) (page, error) {
	bad := func(what string) (page, error) { return page{}, damaged("page %d: %s", id, what) }
	e := binary.NativeEndian
	if len(data) < pageHeader {
		return bad("is too short")
	}
	p := page{id: id, count: int(e.Uint16(data[10:])), data: data}
	switch flags := e.Uint16(data[8:]); {
	case e.Uint64(data) != id:
		return bad("has the number of another page")
	case flags == flagLeaf:
		p.leaf = true
	case flags != flagBranch || id == 0:
		return bad("is neither a leaf nor a branch")
	case p.count == 0:
		return bad("is an empty branch")
	}
	offset := uint64(pageHeader + p.count*pageElement) //nolint:gosec // count is 16 bits
	if offset > uint64(len(data)) {
		return bad("has more elements than fit into it")
	}
	var last []byte
	for i := range p.count {
		key, value, end := p.bounds(i)
		if key != offset || value <= key || end > uint64(len(data)) {
			return bad("has an element outside of the page")
		}
		name := p.data[key:value]
		if i > 0 && bytes.Compare(last, name) >= 0 {
			return bad("has keys that are not in order")
		}
		last = name
		if p.leaf && e.Uint32(p.header(i)) > flagBucket {
			return bad("has an element of an unknown kind")
		}
		if !p.leaf && (p.child(i) < 2 || p.child(i) >= pages || p.child(i) == id) {
			return bad("refers to a page outside of the file")
		}
		offset = end
	}
	if id == 0 {
		if offset != uint64(len(data)) {
			return bad("is longer than its content")
		}
	} else if (offset+uint64(size)-1)/uint64(size)*uint64(size) != uint64(len(data)) { //nolint:gosec // size is positive
		return bad("has another length than its content")
	}
	return p, nil
}

// parseFreelist returns the numbers of the pages that are not in use.
func parseFreelist(id uint64, data []byte, pages uint64) ([]uint64, error) {
	e := binary.NativeEndian
	count, at := uint64(e.Uint16(data[10:])), pageHeader
	if count == 0xFFFF && len(data) >= at+8 {
		count, at = e.Uint64(data[at:]), at+8
	}
	if e.Uint64(data) != id || e.Uint16(data[8:]) != flagFreelist || count > uint64(len(data))/8-uint64(at)/8 {
		return nil, damaged("page %d: is not a list of free pages", id)
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
