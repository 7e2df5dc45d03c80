package state_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

func openFile(t *testing.T, path string) *state.File {
	t.Helper()
	f, err := state.OpenFile(state.FileConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestFile(t *testing.T) {
	statetest.Run(t, func(t *testing.T, clock *statetest.Clock) state.Store {
		t.Helper()
		f, err := state.OpenFile(state.FileConfig{Path: filepath.Join(statetest.Dir(t), "state.db"), Now: clock.Now})
		if err != nil {
			t.Fatal(err)
		}
		return f
	})
}

func TestFileSurvivesARestart(t *testing.T) {
	path := filepath.Join(statetest.Dir(t), "state.db")
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

func TestFileThatIsForeignOrDamaged(t *testing.T) {
	dir := statetest.Dir(t)
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
		return b.Put([]byte("version"), binary.BigEndian.AppendUint64(nil, 3))
	})
	for _, tt := range []struct {
		name string
		data []byte
		want string
	}{
		{"a text", []byte("this is no database\n"), "is not a state file, or is damaged"},
		{"a long text", bytes.Repeat([]byte("this is no database\n"), 1000), "is not a state file, or is damaged"},
		{"a file truncated in the middle", whole[:len(whole)/2], "is damaged"},
		{"a file truncated after its first page", whole[:4096], "is damaged"},
		{"a file truncated within its first page", whole[:100], "is not a state file, or is damaged"},
		{"another program's database", other, "is another program's database"},
		{"a newer binary's file", newer, "has version 3, and this binary reads up to version 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(statetest.Dir(t), "state.db")
			if err := os.WriteFile(path, tt.data, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := state.OpenFile(state.FileConfig{Path: path})
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

// A truncated file is refused, unless it contains all values.
func TestFileThatIsTruncated(t *testing.T) {
	path := filepath.Join(statetest.Dir(t), "state.db")
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
		path := filepath.Join(statetest.Dir(t), "state.db") // bbolt keeps the lock after a panic
		if err := os.WriteFile(path, whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := state.OpenFile(state.FileConfig{Path: path})
		if err != nil {
			refused++
			continue
		}
		for i := range values {
			if v, err := f.Get(t.Context(), fmt.Sprint(i)); len(v) != 500 || err != nil {
				t.Fatalf("truncated at %d of %d bytes it was opened, and value %d is %q, %v", size, len(whole), i, v, err)
			}
		}
		_ = f.Close()
	}
	if refused == 0 {
		t.Error("it was never refused")
	}
}

func TestFileIsLocked(t *testing.T) {
	path := filepath.Join(statetest.Dir(t), "state.db")
	openFile(t, path)
	if _, err := state.OpenFile(state.FileConfig{Path: path}); err == nil || !strings.Contains(err.Error(), "another process holds it") {
		t.Errorf("OpenFile of a file that is open = %v", err)
	}
}

func TestFileReusesItsPages(t *testing.T) {
	clock := statetest.NewClock()
	path := filepath.Join(statetest.Dir(t), "state.db")
	f, err := state.OpenFile(state.FileConfig{Path: path, Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fill := func(round int) int64 {
		t.Helper()
		var wg sync.WaitGroup
		for caller := range 100 { // more callers may wait too long on a busy machine
			wg.Go(func() {
				for i := range 20 {
					if _, err := f.Increment(t.Context(), fmt.Sprintf("attempts/%d/%d/%d", round, caller, i), clock.Now().Add(time.Minute)); err != nil {
						t.Error(err)
					}
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

// On a full disk calls fail, no count is lost, and calls succeed when there is room again.
func TestFileOnAFullDisk(t *testing.T) {
	dir := smallDisk(t)
	path, rest := filepath.Join(dir, "state.db"), filepath.Join(dir, "rest")
	f := openFile(t, path)
	later := time.Now().Add(time.Hour)
	var next atomic.Int64
	var mu sync.Mutex
	var counted []string
	fill := func() error { // until a call fails
		var wg sync.WaitGroup
		var failed atomic.Pointer[error]
		for range 64 {
			wg.Go(func() {
				for failed.Load() == nil {
					key := fmt.Sprint("attempts/", next.Add(1))
					n, err := f.Increment(t.Context(), key, later)
					if err != nil {
						failed.Store(&err)
						return
					}
					if n != 1 {
						t.Errorf("the first attempt of %s has number %d", key, n)
					}
					mu.Lock()
					counted = append(counted, key)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		return *failed.Load()
	}
	if err := os.WriteFile(rest, make([]byte, 512<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := fill(); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("Increment on a full disk = %v", err)
		}
	}
	full := len(counted)
	if err := os.Remove(rest); err != nil {
		t.Fatal(err)
	}
	if err := fill(); !errors.Is(err, syscall.ENOSPC) || len(counted) < full+100 {
		t.Errorf("%d were counted on the full disk, and %d with room, %v", full, len(counted), err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = openFile(t, path)
	for _, key := range counted {
		if n, err := f.Count(t.Context(), key); n != 1 || err != nil {
			t.Fatalf("Count(%s) of %d = %d, %v", key, len(counted), n, err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}

	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := state.OpenFile(state.FileConfig{Path: path}); !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), "state file "+path+": ") {
		t.Errorf("OpenFile on a read-only disk = %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, whole) {
		t.Errorf("the file was changed, %v", err)
	}
}

// smallDisk returns a file system of 1 MiB that exists until the test ends.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("this user cannot mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Files of version 1 and of version 2 can be read.
func TestFileOfVersion(t *testing.T) {
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprint(version), func(t *testing.T) { testFileOfVersion(t, version) })
	}
}

func testFileOfVersion(t *testing.T, version int) {
	t.Helper()
	packed, err := os.Open(fmt.Sprintf("testdata/state-%d.db.gz", version))
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	unpacked, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(statetest.Dir(t), "state.db")
	write(t, path, string(data))
	f := openFile(t, path)
	for key, want := range map[string]int64{"attempts/x": 2, "attempts/old": 0} {
		if n, err := f.Count(t.Context(), key); n != want || err != nil {
			t.Errorf("Count(%s) = %d, %v, want %d", key, n, err, want)
		}
	}
	for key, want := range map[string]string{"keys": "sealed words", "denied/x": "until 2100"} {
		if v, err := f.Get(t.Context(), key); string(v) != want || err != nil {
			t.Errorf("Get(%s) = %q, %v, want %q", key, v, err, want)
		}
	}
	if version < 2 {
		return
	}
	if n, err := f.Increment(t.Context(), "attempts/back", time.Now().Add(time.Hour)); n != 2 || err != nil {
		t.Errorf("Increment of a count of which 2 was given back = %d, %v", n, err)
	}
	if epoch, err := f.Epoch(t.Context()); epoch != 7 || err != nil {
		t.Errorf("Epoch = %d, %v", epoch, err)
	}
}

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "state.db")
	if s, err := openStore(state.Config{Type: state.TypeFile, File: state.FileConfig{Path: path}}); s != nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open in a folder that does not exist = %v, %v", s, err)
	}
	s, err := openStore(state.Config{Type: state.TypeMemory})
	if _, ok := s.(*state.Memory); !ok || err != nil {
		t.Errorf("Open of memory = %T, %v", s, err)
	}
	if s, err := (state.Plan{}).Open(); s != nil || err == nil {
		t.Errorf("Open of the zero Plan = %v, %v", s, err)
	}
	for want, c := range map[string]state.Config{
		"": {Type: "memory"},
		`type: "disk" is not memory, file or redis`:         {Type: "disk"},
		"file.path: is empty; set it to the path of a file": {Type: "file"},
	} {
		got := ""
		if _, err := c.Parse(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("Parse of %+v = %q, want %q", c, got, want)
		}
	}
}

func openStore(c state.Config) (state.Store, error) {
	p, err := c.Parse()
	if err != nil {
		return nil, err
	}
	return p.Open()
}

// A file contains signing keys: it is created with mode 0600, and refused if other users
// can read or write it.
func TestFileModes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		mode  os.FileMode
		empty bool
		want  os.FileMode // 0 if the file is refused
	}{
		{"an empty file of another program, for all to read", 0o644, true, 0o600},
		{"an empty file, for all to write", 0o666, true, 0o600},
		{"for its owner", 0o600, false, 0o600},
		{"for its group to read", 0o640, false, 0o640},
		{"for all to read", 0o644, false, 0},
		{"for all to write", 0o602, false, 0},
		{"for its group to write", 0o660, false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(statetest.Dir(t), "state.db")
			if !tt.empty {
				if err := openFile(t, path).Close(); err != nil {
					t.Fatal(err)
				}
			} else {
				write(t, path, "")
			}
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			checked := state.CheckFile(path)
			f, err := state.OpenFile(state.FileConfig{Path: path})
			if tt.want == 0 {
				if err == nil || !strings.Contains(err.Error(), "chmod 0600") || !strings.Contains(err.Error(), "revoke") {
					t.Fatalf("OpenFile = %v", err)
				}
				if checked == nil || checked.Error() != err.Error() {
					t.Errorf("CheckFile = %v, OpenFile %v", checked, err)
				}
				return
			}
			if err != nil || checked != nil {
				t.Fatalf("OpenFile = %v, CheckFile = %v", err, checked)
			}
			defer f.Close()
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != tt.want {
				t.Errorf("the mode is %v, %v, want %v", info.Mode(), err, tt.want)
			}
		})
	}
	if err := state.CheckFile(filepath.Join(t.TempDir(), "state.db")); err != nil {
		t.Errorf("CheckFile of a missing file = %v", err)
	}
}

// A pipe or a folder is refused at once.
func TestPipeAndFolderAreRefused(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, pipe} {
		if _, err := state.OpenFile(state.FileConfig{Path: path}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("OpenFile(%s) = %v", path, err)
		}
	}
}
