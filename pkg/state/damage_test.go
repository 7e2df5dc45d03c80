package state_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

const damagePage = 1024 // small, so that there are many pages and trees of several levels

// dice rolls the same numbers each time for the same n.
type dice struct{ n, rolls int }

func (d *dice) roll(sides int) int {
	d.rolls++
	sum := sha256.Sum256(fmt.Append(nil, d.n, d.rolls))
	return int(binary.BigEndian.Uint32(sum[:]) % uint32(sides))
}

// damages are changes of a page of a file.
var damages = []struct {
	name string
	do   func(page []byte, id int, all []byte, r *dice)
}{
	{"a sector of zeroes", func(p []byte, _ int, _ []byte, _ *dice) { clear(p[:512]) }},
	{"zeroes in its second half", func(p []byte, _ int, _ []byte, _ *dice) { clear(p[512:]) }},
	{"random bytes", func(p []byte, _ int, _ []byte, r *dice) {
		for i := range p {
			p[i] = byte(r.roll(256))
		}
	}},
	{"a flipped bit", func(p []byte, _ int, _ []byte, r *dice) { p[r.roll(len(p))] ^= 1 << r.roll(8) }},
	{"another number", func(p []byte, id int, _ []byte, _ *dice) {
		binary.NativeEndian.PutUint64(p, uint64(id)^1)
	}},
	{"a branch that is a leaf, or the other way around", func(p []byte, _ int, _ []byte, _ *dice) { p[8] ^= 3 }},
	{"the most elements", func(p []byte, _ int, _ []byte, _ *dice) { p[10], p[11] = 0xFF, 0xFF }},
	{"one element less", func(p []byte, _ int, _ []byte, _ *dice) { p[10]-- }},
	{"no element", func(p []byte, _ int, _ []byte, _ *dice) { p[10], p[11] = 0, 0 }},
	{"an overflow of one page", func(p []byte, _ int, _ []byte, _ *dice) { p[12]++ }},
	{"an overflow of gigabytes", func(p []byte, _ int, _ []byte, _ *dice) {
		binary.NativeEndian.PutUint32(p[12:], 0x7FFFFFFF)
	}},
	{"a first key of gigabytes", func(p []byte, _ int, _ []byte, _ *dice) {
		binary.NativeEndian.PutUint32(p[24:], 0x7FFFFF00)
		binary.NativeEndian.PutUint32(p[20:], 0x7FFFFF00)
	}},
	{"children that are the page itself", func(p []byte, id int, _ []byte, _ *dice) {
		for i := range min(int(binary.NativeEndian.Uint16(p[10:])), len(p)/16-1) {
			binary.NativeEndian.PutUint64(p[16+16*i+8:], uint64(id))
		}
	}},
	{"the first child is the second", func(p []byte, _ int, _ []byte, _ *dice) { copy(p[24:32], p[40:48]) }},
	{"the page before it", func(p []byte, id int, all []byte, _ *dice) {
		copy(p, all[max(id-1, 0)*damagePage:])
	}},
	{"what a free page had, by its own number", func(p []byte, id int, all []byte, r *dice) {
		copy(p[8:], all[r.roll(len(all)/damagePage)*damagePage+8:][:damagePage-8])
	}},
}

// damageScene is a file and its contents.
type damageScene struct {
	data   []byte
	counts map[string]int64
	values map[string]string
	used   int // pages
}

func damageCount(i int) string { return fmt.Sprintf("attempts/%08d-0000-4000-8000/web/1", i) }

func newDamageScene(dir string) (*damageScene, error) {
	path := filepath.Join(dir, "good.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: damagePage})
	if err != nil {
		return nil, err
	}
	if err := db.Close(); err != nil {
		return nil, err
	}
	s := &damageScene{counts: map[string]int64{}, values: map[string]string{}}
	f, err := state.OpenFile(state.FileConfig{Path: path})
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	ends := time.Now().Add(24 * time.Hour)
	var mu sync.Mutex
	var wg sync.WaitGroup
	var all []error
	for i := range 220 {
		wg.Go(func() {
			n, err := f.Increment(ctx, damageCount(i), ends.Add(time.Duration(i)*time.Second))
			mu.Lock()
			defer mu.Unlock()
			s.counts[damageCount(i)] = n
			all = append(all, err)
		})
	}
	wg.Wait()
	for i := range 40 { // some are so long that their pages overflow
		key, value := fmt.Sprint("denied/", i), strings.Repeat(fmt.Sprint(i, " "), 10*(i%5)*(i%5)+1)
		s.values[key] = value
		all = append(all, f.Put(ctx, key, []byte(value), ends))
		if i%3 == 0 {
			delete(s.values, key)
			all = append(all, f.Forget(ctx, key))
		}
	}
	if err := errors.Join(append(all, f.Close())...); err != nil {
		return nil, err
	}
	if s.data, err = os.ReadFile(path); err != nil {
		return nil, err
	}
	s.used = int(max(binary.NativeEndian.Uint64(s.data[16+40:]), binary.NativeEndian.Uint64(s.data[damagePage+16+40:])))
	return s, nil
}

// damaged returns a damaged copy of a file.
func damaged(n int, whole []byte) (name string, page int, data []byte) {
	d := damages[n%len(damages)]
	page = n / len(damages)
	data = bytes.Clone(whole)
	d.do(data[page*damagePage:][:damagePage], page, whole, &dice{n: n})
	return d.name, page, data
}

// work calls all methods of a store. It returns the first error of the store, or a
// wrongAnswer if an answer is wrong.
func (s *damageScene) work(f *state.File) (problem error) {
	ctx := context.Background()
	note := func(err error) bool {
		if err != nil && problem == nil {
			problem = err
		}
		return err != nil
	}
	wrong := func(format string, args ...any) error { return wrongAnswer(fmt.Sprintf(format, args...)) }
	for key, want := range s.counts {
		if n, err := f.Count(ctx, key); !note(err) && n != want {
			return wrong("Count(%s) = %d", key, n)
		}
	}
	for key, want := range s.values {
		if v, err := f.Get(ctx, key); !note(err) && string(v) != want {
			return wrong("Get(%s) = %.50q", key, v)
		}
	}
	seen := 0
	if err := f.Scan(ctx, "", func(e state.Entry) bool {
		if e.Value == nil && e.Count == s.counts[e.Key] || e.Value != nil && string(e.Value) == s.values[e.Key] {
			seen++
		}
		return true
	}); !note(err) && seen != len(s.counts)+len(s.values) {
		return wrong("Scan showed %d", seen)
	}
	note(f.Save(io.Discard))
	var mu sync.Mutex
	var wg sync.WaitGroup
	var answer error
	for i := range 40 {
		key := damageCount(i * 11) // half of them are new
		wg.Go(func() {
			n, err := f.Increment(ctx, key, time.Now().Add(25*time.Hour))
			mu.Lock()
			defer mu.Unlock()
			if !note(err) && n != s.counts[key]+1 {
				answer = wrong("Increment(%s) = %d", key, n)
			}
		})
	}
	wg.Wait()
	note(f.GiveBack(ctx, damageCount(0), 2))
	for key := range s.values {
		note(f.Update(ctx, key, func(old []byte) ([]byte, error) {
			if string(old) != s.values[key] {
				answer = wrong("Update(%s) of %.50q", key, old)
			}
			return append(old, '.'), nil
		}))
		note(f.Put(ctx, key, []byte("v"), time.Now().Add(time.Hour)))
		note(f.Forget(ctx, key))
	}
	if answer != nil {
		return answer
	}
	if problem != nil { // every later call must fail
		if _, err := f.Increment(ctx, "k", time.Now().Add(time.Hour)); err == nil {
			return wrong("Increment after %v was answered", problem)
		}
	}
	return problem
}

// step is how many pages a test advances at a time.
func step() int {
	if testing.Short() {
		return 10
	}
	return 1
}

type wrongAnswer string

func (w wrongAnswer) Error() string { return string(w) }

// damageEnv makes this test binary work on damaged files. It contains the folder, "open" to
// damage a file while it is open, the first case, and the step between cases.
const damageEnv = "STATE_TEST_DAMAGE"

func runDamages(text string) {
	var dir, mode string
	var from, step int
	if _, err := fmt.Sscan(text, &dir, &mode, &from, &step); err != nil {
		panic(err)
	}
	s, err := newDamageScene(dir)
	if err != nil {
		panic(err)
	}
	path := filepath.Join(dir, "bad.db")
	for n := from; n < s.used*len(damages); n += step {
		fmt.Fprintf(os.Stdout, "%d page %d, %s:\n", n, n/len(damages), damages[n%len(damages)].name)
		result := "not noticed"
		if err := s.try(path, mode, func(data []byte) []byte {
			_, _, bad := damaged(n, data)
			return bad
		}); err != nil {
			result = strings.ReplaceAll(err.Error(), "\n", "; ")
			if errors.As(err, new(wrongAnswer)) {
				result = "WRONG " + result
			} else if !strings.Contains(result, "is damaged: ") || !strings.Contains(result, "restore a copy") {
				result = "UNCLEAR " + result
			}
		}
		fmt.Fprintln(os.Stdout, "=", result)
	}
	fmt.Fprintln(os.Stdout, "end")
}

// try damages a file before it is opened, or after that if mode is open.
func (s *damageScene) try(path, mode string, damage func([]byte) []byte) error {
	data := s.data
	if mode != "open" {
		data = damage(data)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	f, err := state.OpenFile(state.FileConfig{Path: path})
	if err != nil {
		return err
	}
	if mode == "open" {
		if err := damageInPlace(path, damage); err != nil {
			return err
		}
	}
	err = s.work(f)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

func damageInPlace(path string, damage func([]byte) []byte) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	data, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	for at, bad := 0, damage(data); at < len(data); at += damagePage {
		if page := bad[at:min(at+damagePage, len(data))]; !bytes.Equal(page, data[at:][:len(page)]) {
			if _, err := file.WriteAt(page, int64(at)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Damage of any page, before a file is opened or while it is open, leads to an error that
// says what to do, and never to a crash, a call that hangs, or a wrong answer.
func TestDamageOfAnyPageIsAnError(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	for _, mode := range []string{"start", "open"} {
		for half := range 2 {
			t.Run(fmt.Sprint(mode, half), func(t *testing.T) {
				t.Parallel()
				step := 5 // odd, so that each page gets other damages; FuzzDamagedFile has the rest
				if raceDetector {
					step = 15
				}
				from, noticed, tried := half, 0, 0
				for again := true; again; {
					var last string
					again = false
					lines, end := damageRun(t, fmt.Sprintf("%s %s %d %d", statetest.Dir(t), mode, from, step))
					for _, line := range lines {
						result, isResult := strings.CutPrefix(line, "= ")
						switch {
						case line == "end":
							last = ""
						case !isResult:
							last = line
							tried++
						case strings.HasPrefix(result, "WRONG"), strings.HasPrefix(result, "UNCLEAR"):
							t.Errorf("%s %s", last, result)
						case result != "not noticed":
							noticed++
						}
					}
					if end != nil {
						t.Errorf("%s the process ended: %v", last, end)
						if _, err := fmt.Sscan(last, &from); err == nil {
							from, again = from+step, true
						}
					}
				}
				t.Logf("%d damages, %d of them noticed", tried, noticed)
				if noticed < tried/2 {
					t.Errorf("only %d of %d damages were noticed", noticed, tried)
				}
			})
		}
	}
}

// damageRun runs a process and returns its lines.
func damageRun(t *testing.T, env string) (lines []string, end error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), damageEnv+"="+env, "GOTRACEBACK=single")
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	end = cmd.Run()
	for scan := bufio.NewScanner(&out); scan.Scan(); {
		lines = append(lines, scan.Text())
	}
	if end != nil {
		end = fmt.Errorf("%w\n%.2000s", end, problems.String())
	}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok && usage.Maxrss > 700<<10 {
		t.Errorf("the process needed %d MB", usage.Maxrss>>10)
	}
	return lines, end
}

// If a file is truncated while it is open, calls fail, though access to its memory faults.
func TestFileThatIsTruncatedWhileOpen(t *testing.T) {
	s, err := newDamageScene(statetest.Dir(t))
	if err != nil {
		t.Fatal(err)
	}
	for pages := 0; pages < s.used; pages += step() {
		path := filepath.Join(statetest.Dir(t), "state.db")
		if err := os.WriteFile(path, s.data, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := state.OpenFile(state.FileConfig{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, int64(pages*damagePage)); err != nil {
			t.Fatal(err)
		}
		if err := s.work(f); err == nil || errors.As(err, new(wrongAnswer)) || !strings.Contains(err.Error(), "restore a copy") {
			t.Errorf("truncated at %d of %d pages: %v", pages, s.used, err)
		}
		if err := f.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
		// The lock is released: a copy can replace the file.
		if err := os.WriteFile(path, s.data, 0o600); err != nil {
			t.Fatal(err)
		}
		if f, err = state.OpenFile(state.FileConfig{Path: path}); err != nil {
			t.Fatal(err)
		}
		if err := s.work(f); err != nil {
			t.Error(err)
		}
		_ = f.Close()
	}
}

// OpenFile does not write to a damaged file.
func TestADamagedFileIsNotWrittenTo(t *testing.T) {
	s, err := newDamageScene(statetest.Dir(t))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(statetest.Dir(t), "state.db")
	for n := 0; n < s.used*len(damages); n += 41 {
		name, page, data := damaged(n, s.data)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := state.OpenFile(state.FileConfig{Path: path})
		if err == nil {
			_ = f.Close()
			continue
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, data) {
			t.Errorf("page %d, %s: the file was changed, %v", page, name, err)
		}
	}
}

// FuzzDamagedFile overwrites any bytes of a file, before it is opened or while it is open.
func FuzzDamagedFile(f *testing.F) {
	dir := f.TempDir()
	s, err := newDamageScene(dir)
	if err != nil {
		f.Fatal(err)
	}
	for page := 0; page < s.used; page += step() {
		f.Add(page*damagePage+page%64, []byte{1, 2, 3}, page%2 == 0)
	}
	f.Fuzz(func(t *testing.T, at int, bad []byte, open bool) {
		if at < 0 || at >= len(s.data) {
			t.Skip()
		}
		mode := "start"
		if open {
			mode = "open"
		}
		if err := s.try(filepath.Join(t.TempDir(), "state.db"), mode, func(data []byte) []byte {
			data = bytes.Clone(data)
			copy(data[at:], bad)
			return data
		}); errors.As(err, new(wrongAnswer)) {
			t.Error(err)
		}
	})
}
