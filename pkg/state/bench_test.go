package state_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

// attemptKey is as long as the key of a real instance.
func attemptKey(n int64) string {
	return fmt.Sprintf("attempts/11111111-aaaa-4aaa-8aaa-%012d/web/1795395264", n)
}

// benchStore is a store and its size in bytes.
type benchStore struct {
	state.Store
	size func() int64
}

func benchFile(b *testing.B) benchStore {
	b.Helper()
	path := filepath.Join(b.TempDir(), "state.db")
	f, err := state.OpenFile(state.FileConfig{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.Close() })
	return benchStore{f, func() int64 {
		info, err := os.Stat(path)
		if err != nil {
			b.Fatal(err)
		}
		return info.Size()
	}}
}

func benchRedis(waitReplicas int, args ...string) func(b *testing.B) benchStore {
	return func(b *testing.B) benchStore {
		b.Helper()
		server := statetest.StartRedis(b, args...)
		c := redisConfig(server)
		if c.WaitReplicas = waitReplicas; waitReplicas > 0 {
			startReplica(b, server)
		}
		client := redisClient(b, server)
		return benchStore{initRedis(b, c), func() int64 {
			info := client.InfoMap(b.Context(), "memory").Item("Memory", "used_memory")
			n, err := strconv.ParseInt(info, 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}}
	}
}

// BenchmarkAttempts has 64 callers. Each attempt is the first one of an instance, so it also
// measures the size of a count.
func BenchmarkAttempts(b *testing.B) {
	for _, bb := range []struct {
		name string
		open func(*testing.B) benchStore
	}{
		{"memory", func(b *testing.B) benchStore {
			b.Helper()
			return benchStore{&state.Memory{}, func() int64 {
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				return int64(m.HeapAlloc)
			}}
		}},
		{"file", benchFile},
		{"redis", benchRedis(0, "--appendonly", "yes", "--appendfsync", "everysec")},
		{"redis, appendfsync always", benchRedis(0, "--appendonly", "yes", "--appendfsync", "always")},
		{"redis, waitReplicas 1", benchRedis(1, "--appendonly", "yes", "--appendfsync", "everysec")},
	} {
		b.Run(bb.name, func(b *testing.B) {
			s := bb.open(b)
			expires := time.Now().Add(time.Hour)
			var instances atomic.Int64
			before := s.size()
			b.SetParallelism(max(1, 64/runtime.GOMAXPROCS(0)))
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := s.Increment(b.Context(), attemptKey(instances.Add(1)), expires); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "attempts/s")
			b.ReportMetric(float64(s.size()-before)/float64(b.N), "bytes/instance")
			runtime.KeepAlive(s)
		})
	}
}

// BenchmarkRecovery measures the time from the end of a process to the next attempt that
// counts, with 50 000 counts.
func BenchmarkRecovery(b *testing.B) {
	fill := func(b *testing.B, s state.Store) {
		b.Helper()
		var next atomic.Int64
		var wg sync.WaitGroup
		for range 256 {
			wg.Go(func() {
				for i := next.Add(1); i <= 50_000; i = next.Add(1) {
					if _, err := s.Increment(b.Context(), attemptKey(i), time.Now().Add(time.Hour)); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	again := func(s state.Store) error {
		n, err := s.Increment(b.Context(), attemptKey(1), time.Now().Add(time.Hour))
		if err == nil && n < 2 {
			err = errors.New("the attempt is lost")
		}
		return err
	}
	b.Run("file, the process is killed", func(b *testing.B) {
		path := filepath.Join(b.TempDir(), "state.db")
		f, err := state.OpenFile(state.FileConfig{Path: path})
		if err != nil {
			b.Fatal(err)
		}
		fill(b, f)
		for b.Loop() {
			_ = f.Close() // writes nothing, as a kill
			if f, err = state.OpenFile(state.FileConfig{Path: path}); err == nil {
				err = again(f)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		_ = f.Close()
	})
	b.Run("redis is killed", func(b *testing.B) {
		server := statetest.StartRedis(b, "--appendonly", "yes", "--appendfsync", "always")
		r := initRedis(b, redisConfig(server))
		fill(b, r)
		for b.Loop() {
			server.Restart()
			awaittest.Success(b, "an attempt", func() error { return again(r) })
		}
	})
}
