package state

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// hangingDisk does not answer for some time. Readers stay in the call, as in read(2) from a
// disk that hangs.
type hangingDisk struct {
	io.ReaderAt

	mu   sync.Mutex
	gate chan struct{} // nil if the disk answers
	held int
}

func (d *hangingDisk) hang(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if on {
		d.gate = make(chan struct{})
		return
	}
	close(d.gate)
	d.gate = nil
}

func (d *hangingDisk) ReadAt(p []byte, offset int64) (int, error) {
	d.mu.Lock()
	gate := d.gate
	if gate != nil {
		d.held++
	}
	d.mu.Unlock()
	if gate != nil {
		<-gate
		d.mu.Lock()
		d.held--
		d.mu.Unlock()
	}
	return d.ReaderAt.ReadAt(p, offset)
}

// A disk that hangs blocks a bounded number of threads, and each caller for a bounded time.
// When it answers again, calls succeed, and no count is lost or made twice.
func TestDiskThatHangs(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f, err := OpenFile(FileConfig{Path: filepath.Join(dir, "state.db")})
		if err != nil {
			t.Fatal(err)
		}
		disk := &hangingDisk{ReaderAt: f.file}
		f.pages.file = disk
		later := time.Now().Add(24 * time.Hour)
		if n, err := f.Increment(t.Context(), "k", later); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		disk.hang(true)
		before := runtime.NumGoroutine()
		for range 3 {
			var callers sync.WaitGroup
			for i := range 400 {
				callers.Go(func() {
					began := time.Now()
					var err error
					switch i % 3 {
					case 0:
						_, err = f.Count(t.Context(), "k")
					case 1:
						_, err = f.Get(t.Context(), "k")
					default:
						_, err = f.Increment(t.Context(), fmt.Sprint("new", i), later)
					}
					if !errors.Is(err, errDiskSlow) {
						t.Errorf("the error is %v", err)
					}
					if waited := time.Since(began); waited > fileWait {
						t.Errorf("a call took %v", waited)
					}
				})
			}
			callers.Wait()
		}
		synctest.Wait()
		disk.mu.Lock()
		if disk.held > fileReads+1 {
			t.Errorf("%d threads are blocked", disk.held)
		}
		disk.mu.Unlock()
		if more := runtime.NumGoroutine() - before; more > fileReads+1 {
			t.Errorf("%d goroutines are blocked", more)
		}
		began := time.Now()
		if err := f.Close(); !errors.Is(err, errDiskSlow) || time.Since(began) > fileCloseWait {
			t.Errorf("Close = %v after %v", err, time.Since(began))
		}
		disk.hang(false)
		synctest.Wait()
		if err := f.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
		if f, err = OpenFile(FileConfig{Path: filepath.Join(dir, "state.db")}); err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if n, err := f.Increment(t.Context(), "k", later); n != 2 || err != nil {
			t.Errorf("Increment = %d, %v, want 2", n, err)
		}
	})
}

func TestDiskThatAnswersAgain(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f, err := OpenFile(FileConfig{Path: filepath.Join(dir, "state.db")})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		disk := &hangingDisk{ReaderAt: f.file}
		f.pages.file = disk
		later := time.Now().Add(24 * time.Hour)
		for n := range int64(3) {
			disk.hang(true)
			for range 5 {
				if _, err := f.Increment(t.Context(), "lost", later); !errors.Is(err, errDiskSlow) {
					t.Fatal(err)
				}
			}
			disk.hang(false)
			synctest.Wait()
			if got, err := f.Increment(t.Context(), "k", later); got != n+1 || err != nil {
				t.Fatalf("Increment = %d, %v, want %d", got, err, n+1)
			}
			// Of the calls that failed, the one that had begun was counted.
			if got, err := f.Count(t.Context(), "lost"); got > n+1 || err != nil {
				t.Errorf("Count of those that failed = %d, %v", got, err)
			}
		}
	})
}

// An error of the disk is returned and is not damage: later calls can succeed.
func TestDiskThatFails(t *testing.T) {
	f, err := OpenFile(FileConfig{Path: filepath.Join(t.TempDir(), "state.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	whole := f.pages.file
	later := time.Now().Add(24 * time.Hour)
	f.pages.file = failingDisk{}
	for range 3 {
		_, countErr := f.Count(t.Context(), "k")
		_, err := f.Increment(t.Context(), "k", later)
		for _, err := range []error{countErr, err, f.Put(t.Context(), "k", []byte("v"), later)} {
			if !errors.Is(err, errFailingDisk) || strings.Contains(err.Error(), "damaged") {
				t.Errorf("the error is %v", err)
			}
		}
	}
	f.pages.file = whole
	if n, err := f.Increment(t.Context(), "k", later); n != 1 || err != nil {
		t.Errorf("Increment = %d, %v", n, err)
	}
}

var errFailingDisk = errors.New("input/output error")

type failingDisk struct{}

func (failingDisk) ReadAt([]byte, int64) (int, error) { return 0, errFailingDisk }
