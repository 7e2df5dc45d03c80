package state_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

// childEnv makes a run of this test binary count in the file it names, until it
// is killed.
const childEnv = "STATE_TEST_COUNT_IN"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		countForEver(path)
	}
	os.Exit(m.Run()) //nolint:forbidigo // a TestMain has no other way to fail
}

func openFile(t *testing.T, path string) *state.File {
	t.Helper()
	f, err := state.OpenFile(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestFile(t *testing.T) {
	statetest.Run(t, func(t *testing.T, clock *statetest.Clock) state.Store {
		t.Helper()
		f, err := state.OpenFile(filepath.Join(t.TempDir(), "state.db"), clock.Now)
		if err != nil {
			t.Fatal(err)
		}
		return f
	})
}

func TestFileSurvivesARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	later := time.Now().Add(time.Hour)
	f := openFile(t, path)
	for range 3 {
		if _, err := f.Increment(t.Context(), "k", later); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Update(t.Context(), "v", func([]byte) ([]byte, error) { return []byte("value"), nil }); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %v, %v", info.Mode(), err)
	}
	f = openFile(t, path)
	if n, err := f.Count(t.Context(), "k"); n != 3 || err != nil {
		t.Errorf("Count after a restart = %d, %v, want 3", n, err)
	}
	if v, err := f.Get(t.Context(), "v"); string(v) != "value" || err != nil {
		t.Errorf("Get after a restart = %q, %v", v, err)
	}
}

// countForEver prints what each Increment answered, one a line.
func countForEver(path string) {
	f, err := state.OpenFile(path, nil)
	if err != nil {
		fmt.Fprintln(os.Stdout, err)
		os.Exit(1) //nolint:forbidigo // a program of its own
	}
	var mu sync.Mutex
	for i := range 8 {
		go func() {
			for {
				n, err := f.Increment(context.Background(), fmt.Sprint("k", i%2), time.Now().Add(time.Hour))
				mu.Lock()
				fmt.Fprintln(os.Stdout, i%2, n, err)
				mu.Unlock()
			}
		}()
	}
	select {}
}

// What was answered is never forgotten, whenever the process is killed.
func TestFileKeepsWhatItAnsweredWhenKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	highest := map[string]int64{}
	for round := range 5 {
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), childEnv+"="+path)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		// Answers that were printed before the kill have been read when the pipe ends.
		before, lines := map[string]int64{"0": highest["0"], "1": highest["1"]}, 0
		for scan := bufio.NewScanner(out); scan.Scan(); lines++ {
			var key string
			var n int64
			var problem string
			if _, err := fmt.Sscan(scan.Text(), &key, &n, &problem); err == nil {
				if problem != "<nil>" {
					t.Errorf("round %d: %s", round, scan.Text())
				}
				if n <= before[key] {
					t.Errorf("round %d: k%s was answered %d, and before the kill %d", round, key, n, before[key])
				}
				highest[key] = max(highest[key], n)
			}
			if lines == 100+37*round {
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = child.Wait()
		if lines < 100 {
			t.Fatalf("round %d ended after %d answers", round, lines)
		}
	}
	f := openFile(t, path)
	for key, n := range highest {
		if got, err := f.Count(t.Context(), "k"+key); got < n || err != nil {
			t.Errorf("k%s counts %d, %v; %d had been answered", key, got, err, n)
		}
	}
}

func TestFileThatIsNotOurs(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.db")
	f := openFile(t, good)
	for i := range 500 {
		if err := f.Update(t.Context(), fmt.Sprint(i), func([]byte) ([]byte, error) { return bytes.Repeat([]byte("x"), 1000), nil }); err != nil {
			t.Fatal(err)
		}
	}
	_ = f.Close()
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	foreign := func(name string, fill func(*bolt.Tx) error) []byte {
		t.Helper()
		path := filepath.Join(dir, name)
		db, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(fill); err != nil {
			t.Fatal(err)
		}
		_ = db.Close()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	other := foreign("other.db", func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte("theirs"))
		return err
	})
	newer := foreign("newer.db", func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket([]byte("meta"))
		if err != nil {
			return err
		}
		return b.Put([]byte("version"), binary.BigEndian.AppendUint64(nil, 2))
	})
	for _, tt := range []struct {
		name string
		data []byte
		want string
	}{
		{"a text", []byte("this is no database\n"), "is not a state file, or is damaged"},
		{"a long text", bytes.Repeat([]byte("this is no database\n"), 1000), "is not a state file, or is damaged"},
		{"a file cut off in the middle", whole[:len(whole)/2], "is damaged"},
		{"a file cut off after its first page", whole[:4096], "is damaged"},
		{"a file cut off by a byte", whole[:100], "is not a state file, or is damaged"},
		{"another program's database", other, "is another program's database"},
		{"a newer binary's file", newer, "has version 2, and 1 is the newest that this binary knows"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			if err := os.WriteFile(path, tt.data, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := state.OpenFile(path, nil)
			if err == nil {
				_ = f.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("OpenFile = %v, want one that says %q", err, tt.want)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, tt.data) {
				t.Errorf("the file was changed, %v", err)
			}
		})
	}
}

// Wherever a file is cut off, it is refused, or nothing that it held is missing.
func TestFileThatIsCutOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	f := openFile(t, path)
	const values = 200
	for i := range values {
		if err := f.Update(t.Context(), fmt.Sprint(i), func([]byte) ([]byte, error) { return bytes.Repeat([]byte("x"), 500), nil }); err != nil {
			t.Fatal(err)
		}
	}
	_ = f.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for size := len(whole); size > 0; size -= 4096 {
		path := filepath.Join(t.TempDir(), "state.db") // bbolt keeps the lock of one it panicked about
		if err := os.WriteFile(path, whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := state.OpenFile(path, nil)
		if err != nil {
			refused++
			continue
		}
		for i := range values {
			if v, err := f.Get(t.Context(), fmt.Sprint(i)); len(v) != 500 || err != nil {
				t.Fatalf("cut off at %d of %d bytes it was opened, and value %d is %q, %v", size, len(whole), i, v, err)
			}
		}
		_ = f.Close()
	}
	if refused == 0 {
		t.Error("it was never refused")
	}
}

func TestFileIsOfOneProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	openFile(t, path)
	if _, err := state.OpenFile(path, nil); err == nil || !strings.Contains(err.Error(), "another process holds it") {
		t.Errorf("OpenFile of a file that is open = %v", err)
	}
}

func TestFileDoesNotGrowForEver(t *testing.T) {
	clock := statetest.NewClock()
	path := filepath.Join(t.TempDir(), "state.db")
	f, err := state.OpenFile(path, clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fill := func(round int) int64 {
		t.Helper()
		var wg sync.WaitGroup
		for i := range 2000 {
			wg.Go(func() {
				if _, err := f.Increment(t.Context(), fmt.Sprintf("attempts/%d/%d", round, i), clock.Now().Add(time.Minute)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		clock.Advance(2 * time.Minute)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	first := fill(0)
	for round := range 5 {
		if size := fill(round + 1); size > 3*first {
			t.Fatalf("after %d rounds the file has %d bytes, after one %d", round+2, size, first)
		}
	}
}

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "state.db")
	if s, err := state.Open(state.Config{Type: state.TypeFile, File: state.FileConfig{Path: path}}, nil); s != nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open in a folder that is not there = %v, %v", s, err)
	}
	s, err := state.Open(state.Config{Type: state.TypeMemory}, nil)
	if _, ok := s.(*state.Memory); !ok || err != nil {
		t.Errorf("Open of memory = %T, %v", s, err)
	}
	for want, c := range map[string]state.Config{
		"": {Type: "memory"},
		`type: "disk" is none of memory, file and redis`:    {Type: "disk"},
		"file.path: is empty; the path of a file is wanted": {Type: "file"},
	} {
		got := ""
		if err := c.Validate(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("Validate of %+v = %q, want %q", c, got, want)
		}
	}
}

func BenchmarkFileIncrement(b *testing.B) {
	f, err := state.OpenFile(filepath.Join(b.TempDir(), "state.db"), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	expires := time.Now().Add(time.Hour)
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := f.Increment(b.Context(), "k", expires); err != nil {
				b.Error(err)
			}
		}
	})
}
