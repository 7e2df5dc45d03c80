package state

import (
	"context"
	"encoding/binary"

	bolt "go.etcd.io/bbolt"
)

var keyEpoch = []byte("epoch")

// Epoch counts how often [File.Advance] was called in the life of the file, and so
// tells a copy from the file that it was made of, which has gone on since.
func (f *File) Epoch(ctx context.Context) (uint64, error) {
	result := make(chan uint64, 1)
	err := f.wait(ctx, func() error {
		return f.db.View(func(tx *bolt.Tx) error {
			result <- epochOf(tx)
			return nil
		})
	})
	if err != nil {
		return 0, err
	}
	return <-result, nil
}

// Advance raises the epoch to at least one more than seen, and gives it. It is on
// the disk then.
func (f *File) Advance(ctx context.Context, seen uint64) (uint64, error) {
	result := make(chan uint64, 1)
	err := f.wait(ctx, func() error {
		var epoch uint64
		err := f.db.Update(func(tx *bolt.Tx) error {
			epoch = max(epochOf(tx), seen) + 1
			return tx.Bucket(bucketMeta).Put(keyEpoch, binary.BigEndian.AppendUint64(nil, epoch))
		})
		result <- epoch
		return err
	})
	if err != nil {
		return 0, err
	}
	return <-result, nil
}

func epochOf(tx *bolt.Tx) uint64 {
	if b := tx.Bucket(bucketMeta).Get(keyEpoch); len(b) == 8 {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}
