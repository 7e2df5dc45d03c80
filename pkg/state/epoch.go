package state

import (
	"context"
	"encoding/binary"
	"sync/atomic"
)

var keyEpoch = []byte("epoch")

// Epoch counts how often [File.Advance] was called in the life of the file, and so
// tells a copy from the file that it was made of, which has gone on since.
func (f *File) Epoch(ctx context.Context) (uint64, error) {
	return read(ctx, f, func(s *snapshot) (uint64, error) {
		data, err := s.entry(bucketMeta, keyEpoch)
		return epochOf(data), err
	})
}

// Advance raises the epoch to at least one more than seen, and gives it. It is on
// the disk then.
func (f *File) Advance(ctx context.Context, seen uint64) (uint64, error) {
	var epoch atomic.Uint64 // of the last try
	err := f.change(ctx, func(t *fileTx) error {
		data, err := t.get(bucketMeta, keyEpoch)
		if err != nil {
			return err
		}
		epoch.Store(max(epochOf(data), seen) + 1)
		return t.put(bucketMeta, keyEpoch, binary.BigEndian.AppendUint64(nil, epoch.Load()))
	})
	if err != nil {
		return 0, err
	}
	return epoch.Load(), nil
}

func epochOf(data []byte) uint64 {
	if len(data) == 8 {
		return binary.BigEndian.Uint64(data)
	}
	return 0
}
