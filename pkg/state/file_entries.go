package state

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"time"

	bolt "go.etcd.io/bbolt"
)

// fileTx is a transaction that writes. It verifies pages before bbolt uses them.
type fileTx struct {
	f   *File
	tx  *bolt.Tx
	old *snapshot // before the transaction

	counted []byte // the last key of a count whose pages were verified
}

// prepare creates the buckets and writes the version.
func (t *fileTx) prepare() error {
	if _, _, err := t.old.find(bucketMeta); err != nil { // loads the page
		return err
	}
	for _, name := range [][]byte{bucketMeta, bucketCounts, bucketExpiry, bucketValues} {
		if _, err := t.tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return t.put(bucketMeta, keyVersion, binary.BigEndian.AppendUint64(nil, fileVersion))
}

// look verifies the pages that bbolt uses for a key. If the key may be deleted, it also
// verifies the pages beside them.
func (t *fileTx) look(bucket, key []byte, deletes bool) (*bolt.Bucket, error) {
	count := bucket[0] == bucketCounts[0]
	if again := count && !deletes && key != nil && bytes.Equal(t.counted, key); !again {
		tree, ok, err := t.old.find(bucket)
		if err == nil && ok {
			_, err = t.old.descend(tree, key, deletes)
		}
		if err != nil {
			return nil, err
		}
	}
	if count {
		t.counted = key
	}
	if b := t.tx.Bucket(bucket); b != nil {
		return b, nil
	}
	return nil, damaged("it has no bucket %s", bucket)
}

func (t *fileTx) get(bucket, key []byte) ([]byte, error) {
	b, err := t.look(bucket, key, false)
	if err != nil {
		return nil, err
	}
	return b.Get(key), nil
}

func (t *fileTx) put(bucket, key, value []byte) error {
	b, err := t.look(bucket, key, false)
	if err != nil {
		return err
	}
	return b.Put(key, value)
}

func (t *fileTx) delete(bucket, key []byte) error {
	b, err := t.look(bucket, key, true)
	if err != nil {
		return err
	}
	return b.Delete(key)
}

// first returns the first key of a bucket, nil if there is none.
func (t *fileTx) first(bucket []byte) ([]byte, error) {
	b, err := t.look(bucket, nil, false)
	if err != nil {
		return nil, err
	}
	key, _ := b.Cursor().First()
	return key, nil
}

// entries returns how many entries a bucket has, after adding to the number.
func (t *fileTx) entries(bucket []byte, add int) (uint64, error) {
	tree, ok, err := t.old.find(bucket)
	if err == nil && ok && tree.root != 0 {
		_, err = t.old.load(tree.root)
	}
	if err != nil {
		return 0, err
	}
	b := t.tx.Bucket(bucket)
	if b == nil {
		return 0, damaged("it has no bucket %s", bucket)
	}
	if add == 0 {
		return b.Sequence(), nil
	}
	n := int64(b.Sequence()) + int64(add) //nolint:gosec // far from its bounds
	if n < 0 {
		return 0, damaged("it has more %s than it should", bucket)
	}
	return uint64(n), b.SetSequence(uint64(n))
}

func (t *fileTx) increment(key []byte, expires time.Time) (int64, error) {
	now := t.f.now()
	if !now.Before(expires) {
		return 0, refused(errExpired)
	}
	if err := t.sweep(now); err != nil {
		return 0, err
	}
	data, err := t.get(bucketCounts, key)
	if err != nil {
		return 0, err
	}
	c, err := decodeCount(key, data)
	if err != nil {
		return 0, err
	}
	if data == nil {
		n, err := t.entries(bucketCounts, 0)
		if err != nil {
			return 0, err
		}
		if n >= t.f.size {
			return 0, refused(ErrFull)
		}
		if _, err := t.entries(bucketCounts, 1); err != nil {
			return 0, err
		}
	} else {
		if err := t.delete(bucketExpiry, expiryKey(c.expires, bucketCounts, key)); err != nil {
			return 0, err
		}
		if expired(c.expires, now) {
			c = fileCount{}
		}
	}
	n := c.take()
	if expires.After(c.expires) {
		c.expires = expires
	}
	if err := t.put(bucketExpiry, expiryKey(c.expires, bucketCounts, key), nil); err != nil {
		return 0, err
	}
	return n, t.put(bucketCounts, key, c.encode(key))
}

// sweep removes up to two expired entries; see [Memory.sweep].
func (t *fileTx) sweep(now time.Time) error {
	for range 2 {
		first, err := t.first(bucketExpiry)
		if err != nil {
			return err
		}
		if len(first) < 9 || now.Before(decodeTime(first)) {
			return nil
		}
		bucket, key := bucketCounts, bytes.Clone(first[9:])
		if first[8] == bucketValues[0] {
			bucket = bucketValues
		}
		if err := t.remove(bucket, key); err != nil {
			return err
		}
	}
	return nil
}

// remove removes a count or a value and its key in the index.
func (t *fileTx) remove(bucket, key []byte) error {
	data, err := t.get(bucket, key)
	if err != nil || data == nil {
		return err
	}
	e, err := decodeEntry(bucket, key, data)
	if err != nil {
		return err
	}
	if !e.Expires.IsZero() {
		if err := t.delete(bucketExpiry, expiryKey(e.Expires, bucket, key)); err != nil {
			return err
		}
	}
	if err := t.delete(bucket, key); err != nil {
		return err
	}
	_, err = t.entries(bucket, -1)
	return err
}

// value returns the value of a key, nil if there is none or if it has expired.
func (t *fileTx) value(key []byte) ([]byte, error) {
	data, err := t.get(bucketValues, key)
	if err != nil {
		return nil, err
	}
	v, err := decodeValue(key, data)
	return v.at(t.f.now()), err
}

func (t *fileTx) set(key []byte, v fileValue) error {
	if err := checkValue(v.data); err != nil {
		return refused(err)
	}
	if err := t.sweep(t.f.now()); err != nil {
		return err
	}
	old, err := t.get(bucketValues, key)
	if err != nil {
		return err
	}
	n, err := t.entries(bucketValues, 0)
	if err != nil {
		return err
	}
	if old == nil && v.data != nil && n >= maxValues {
		return refused(ErrFull)
	}
	if err := t.remove(bucketValues, key); err != nil || v.data == nil {
		return err
	}
	if _, err := t.entries(bucketValues, 1); err != nil {
		return err
	}
	if !v.expires.IsZero() {
		if err := t.put(bucketExpiry, expiryKey(v.expires, bucketValues, key), nil); err != nil {
			return err
		}
	}
	return t.put(bucketValues, key, v.encode(key))
}

type fileCount struct {
	count

	expires time.Time
}

func (c fileCount) encode(key []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(c.n))        //nolint:gosec // read back as it was written
	b = binary.BigEndian.AppendUint64(b, encodeTime(c.expires)) // the same form as in expiry
	for _, n := range c.back {
		b = binary.BigEndian.AppendUint64(b, uint64(n)) //nolint:gosec // as above
	}
	return binary.BigEndian.AppendUint32(b, entrySum(key, b))
}

// decodeCount reads a count, also of version 1, which has no checksum. For nil it returns
// the zero value.
func decodeCount(key, b []byte) (c fileCount, err error) {
	if b == nil {
		return c, nil
	}
	at := len(b)
	switch {
	case at == 16:
	case at >= 20 && at%8 == 4 && binary.BigEndian.Uint32(b[at-4:]) == entrySum(key, b[:at-4]):
		at -= 4
	default:
		return c, damaged("the count of %.100q cannot be read", key)
	}
	c.n, c.expires = int64(binary.BigEndian.Uint64(b)), decodeTime(b[8:]) //nolint:gosec // as it was written
	for i := 16; i < at; i += 8 {
		c.back = append(c.back, int64(binary.BigEndian.Uint64(b[i:]))) //nolint:gosec // as it was written
	}
	if c.n < 1 {
		return c, damaged("the count of %.100q is %d", key, c.n)
	}
	return c, nil
}

// entrySum returns the checksum of an entry and its key.
func entrySum(key, entry []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, entry)
}

func encodeTime(t time.Time) uint64 { return uint64(t.UnixNano()) }

func decodeTime(b []byte) time.Time {
	return time.Unix(0, int64(binary.BigEndian.Uint64(b))) //nolint:gosec // as it was written
}

func expiryKey(expires time.Time, bucket, key []byte) []byte {
	b := append(binary.BigEndian.AppendUint64(nil, encodeTime(expires)), bucket[0])
	return append(b, key...)
}

type fileValue struct {
	data    []byte    // nil means no value
	expires time.Time // zero means never
}

// valueHasSum is a bit in the expiry of a value that has a checksum (not in version 1).
const valueHasSum = 1 << 63

func (v fileValue) encode(key []byte) []byte {
	var expires uint64
	if !v.expires.IsZero() {
		expires = encodeTime(v.expires)
	}
	b := binary.BigEndian.AppendUint64(nil, expires|valueHasSum)
	sum := crc32.Update(entrySum(key, b), castagnoli, v.data)
	return append(binary.BigEndian.AppendUint32(b, sum), v.data...)
}

// decodeValue reads a value and copies its bytes. For nil it returns the zero value.
func decodeValue(key, b []byte) (v fileValue, err error) {
	if b == nil {
		return v, nil
	}
	if len(b) < 8 {
		return v, damaged("the value of %.100q cannot be read", key)
	}
	expires, data := binary.BigEndian.Uint64(b), b[8:]
	if expires&valueHasSum != 0 {
		if len(data) < 4 || binary.BigEndian.Uint32(data) != crc32.Update(entrySum(key, b[:8]), castagnoli, data[4:]) {
			return v, damaged("the value of %.100q cannot be read", key)
		}
		expires, data = expires&^valueHasSum, data[4:]
	}
	v.data = append([]byte{}, data...)
	if expires != 0 {
		v.expires = time.Unix(0, int64(expires)) //nolint:gosec // as it was written
	}
	return v, nil
}

// decodeEntry reads a count or a value.
func decodeEntry(bucket, key, b []byte) (Entry, error) {
	if bucket[0] == bucketCounts[0] {
		c, err := decodeCount(key, b)
		return Entry{string(key), c.used(), nil, c.expires}, err
	}
	v, err := decodeValue(key, b)
	return Entry{string(key), 0, v.data, v.expires}, err
}

// at returns the value, nil if it has expired.
func (v fileValue) at(now time.Time) []byte {
	if expired(v.expires, now) {
		return nil
	}
	return v.data
}
