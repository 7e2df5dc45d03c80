package state

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Each call that writes removes two expired entries, and no more.
func TestEachWriteRemovesTwoExpiredEntries(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	memory := &Memory{Size: 1000, Now: clock}
	file, err := OpenFile(FileConfig{Path: filepath.Join(t.TempDir(), "state.db"), Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	for _, tt := range []struct {
		name  string
		store Store
		kept  func() int
	}{
		{"memory", memory, func() int { return len(memory.counts) + len(memory.values) }},
		{"file", file, func() (n int) {
			if err := file.db.View(func(tx *bolt.Tx) error {
				n = int(tx.Bucket(bucketCounts).Sequence() + tx.Bucket(bucketValues).Sequence())
				if all := tx.Bucket(bucketExpiry).Stats().KeyN; all != n {
					t.Errorf("%d have an expiry, and %d are counted", all, n)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			return n
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := context.Background()
			for i := range 50 {
				if _, err := tt.store.Increment(ctx, fmt.Sprint(i), now.Add(time.Second)); err != nil {
					t.Fatal(err)
				}
				if err := tt.store.Put(ctx, fmt.Sprint(i), []byte("v"), now.Add(time.Second)); err != nil {
					t.Fatal(err)
				}
			}
			now = now.Add(time.Minute)
			for want := 99; want > 1; want-- { // two are removed, one is added
				if _, err := tt.store.Increment(ctx, fmt.Sprint("new", want), now.Add(time.Hour)); err != nil {
					t.Fatal(err)
				}
				if got := tt.kept(); got != max(want, 100-want) {
					t.Fatalf("%d are kept, want %d", got, want)
				}
			}
		})
	}
}
