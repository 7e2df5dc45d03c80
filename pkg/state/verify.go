package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
)

// verifier verifies a whole file.
type verifier struct {
	*snapshot
	used  []bool
	index uint64 // sum of the hashes of all entries that expire, minus that of the index
	seed  maphash.Seed
}

// verify verifies every page of a file that is not being written to, and stores the
// checksums: each page must be whole and used once, each entry that expires must be in
// the index, and the numbers of entries must be right. A file without buckets is valid.
func verify(file io.ReaderAt, size int64) (m meta, s *sums, err error) {
	if m, err = readMeta(file); err != nil {
		return m, nil, err
	}
	if uint64(size) < m.pages*uint64(m.pageSize) || m.pages > uint64(size) { //nolint:gosec // neither is negative
		return m, nil, damaged("it is truncated at %d of its %d pages", size/int64(m.pageSize), m.pages)
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

// file verifies the buckets.
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
		return fmt.Errorf("has version %d, and this binary reads up to version %d", version, fileVersion)
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
			return damaged("there are %d %s instead of %d", entries, name, t.sequence)
		}
	}
	if v.index != 0 {
		return damaged("the index of expiry does not match the entries")
	}
	return nil
}

func (v *verifier) entry(bucket, key, value []byte) error {
	switch bucket[0] {
	case bucketMeta[0]:
		return nil
	case bucketExpiry[0]:
		if len(key) < 9 || len(value) != 0 {
			return damaged("a key in the index of expiry has %d bytes", len(key))
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

// tree verifies all pages of a bucket.
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

// page verifies a page. Its keys must be at least low and, unless high is nil, below
// high.
func (v *verifier) page(id uint64, low, high []byte, depth int, visit func(key, value []byte) error) error {
	if depth > maxTreeDepth {
		return damaged("page %d is deeper than a tree can be", id)
	}
	defer v.forget(id, len(v.buffers))
	p, err := v.load(id)
	if err != nil {
		return err
	}
	if err := v.use(id, len(p.data)); err != nil {
		return err
	}
	if p.count == 0 {
		return damaged("page %d is empty", id)
	}
	if bytes.Compare(p.key(0), low) < 0 || (high != nil && bytes.Compare(p.key(p.count-1), high) >= 0) {
		return damaged("page %d has keys of another page", id)
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

// notOurs adds to the error of a damaged file that it may not be a state file at all.
func notOurs(file io.ReaderAt, err error) error {
	if !IsFile(file) && errors.As(err, new(*damage)) {
		return fmt.Errorf("is not a state file, or %w", err)
	}
	return err
}

// IsFile reports whether a file begins as a state file does, damaged or not.
func IsFile(file io.ReaderAt) bool {
	var page [2 * minPageSize]byte
	_, err := file.ReadAt(page[:], 0)
	_, ok := parseMeta(page[:])
	return err == nil && ok
}

// VerifyFile fails if a copy of a state file is damaged in any page, or is another file.
func VerifyFile(copied *os.File) error {
	info, err := copied.Stat()
	if err == nil {
		_, _, err = verify(copied, info.Size())
	}
	if err != nil {
		return fmt.Errorf("state file %s: %w", copied.Name(), notOurs(copied, err))
	}
	return nil
}
