package audit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
)

// output accepts as much as a test wants.
type output struct {
	mu    sync.Mutex
	text  bytes.Buffer
	takes func(n int) (int, error) // of a write of n bytes; nil accepts all
	stall chan struct{}            // a write waits for it, unless it is nil
}

func (o *output) Write(p []byte) (int, error) {
	if o.stall != nil {
		<-o.stall
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := len(p), error(nil)
	if o.takes != nil {
		n, err = o.takes(len(p))
	}
	o.text.Write(p[:n])
	return n, err
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func event(name string, proven bool) audit.Event {
	return audit.Event{Time: time.Now(), Name: name, Proven: proven, Attrs: []slog.Attr{slog.String("request_id", name)}}
}

func open(t *testing.T, c audit.Config, stdout *audit.Stream) *audit.Log {
	t.Helper()
	l, err := audit.Open(c, stdout, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// names returns the messages of all lines, "torn" for one that is not whole.
func names(t *testing.T, text string) []string {
	t.Helper()
	var all []string
	for line := range strings.Lines(text) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil || !strings.HasSuffix(line, "\n") {
			all = append(all, "torn")
			continue
		}
		all = append(all, fmt.Sprint(m["msg"]))
	}
	return all
}

// Denials of unproven callers take no room from grants. Losses are reported once lines are
// written again.
func TestDenialsAreDroppedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &output{stall: make(chan struct{})}
		s := audit.NewStream(out, "json")
		l := open(t, audit.Config{Output: "stdout"}, s)
		lost := 0
		for i := range 3 * audit.QueueLines {
			if l.Record(event("denial", false), func(error) {}) != nil {
				lost++
			}
			if i == 0 {
				synctest.Wait() // until this line stalls: all losses come after it, in one report
			}
		}
		for range audit.QueueLines {
			if err := l.Record(event("grant", true), func(error) {}); err != nil {
				t.Fatalf("a grant: %v", err)
			}
		}
		slog.New(slog.NewJSONHandler(s, nil)).Info("log")
		if lost < 2*audit.QueueLines-1 {
			t.Errorf("%d denials were lost", lost)
		}
		close(out.stall)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for _, name := range names(t, out.String()) {
			count[name]++
		}
		if count["grant"] != audit.QueueLines || count["log"] != 1 || count["denial"]+lost != 3*audit.QueueLines || count["lines of the log were lost"] == 0 || count["torn"] != 0 {
			t.Errorf("lines: %v, lost %d", count, lost)
		}
		if !strings.Contains(out.String(), fmt.Sprintf(`"denials":%d`, lost)) {
			t.Error("the log does not report how many denials were lost")
		}
	})
}

// A queue is also bounded in bytes, and long texts are clipped.
func TestTheBytesOfAQueueAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &output{stall: make(chan struct{})}
		s := audit.NewStream(out, "json")
		l := open(t, audit.Config{Output: "stdout"}, s)
		long := audit.Event{Name: "long", Attrs: []slog.Attr{slog.String("detail", strings.Repeat("x", 1<<20))}}
		taken := 0
		for range audit.QueueLines {
			if l.Record(long, func(error) {}) == nil {
				taken++
			}
		}
		if taken > 1<<20/2048+1 || taken < 100 {
			t.Errorf("%d long lines were queued", taken)
		}
		close(out.stall)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if n := len(names(t, out.String())); n < taken {
			t.Errorf("%d lines were written, not %d", n, taken)
		}
	})
}

// A line that was not written in time is removed, or followed by its correction.
func TestALineThatIsLateIsWithdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &output{stall: make(chan struct{})}
		s := audit.NewStream(out, "json")
		l := open(t, audit.Config{Output: "stdout"}, s)
		began := time.Now()
		for _, name := range []string{"being written", "queued"} {
			if err := l.RecordAndWait(t.Context(), event(name, true), event("withdrawn", true)); err == nil {
				t.Error("RecordAndWait of a line that was not written gave no error")
			}
		}
		if took := time.Since(began); took != 2*audit.Wait {
			t.Errorf("both took %v", took)
		}
		if err := l.Err(); err == nil {
			t.Error("Err of a stalled output = nil")
		}
		close(out.stall)
		if err := l.RecordAndWait(t.Context(), event("in time", true), event("withdrawn", true)); err != nil {
			t.Error(err)
		}
		if err := l.Err(); err != nil {
			t.Errorf("Err of an output that accepts lines again: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(names(t, out.String()), ", ")
		if got != "being written, withdrawn, lines of the log were lost, in time" {
			t.Errorf("the lines are: %s", got)
		}
	})
}

func TestCloseOfAStalledOutputEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &output{stall: make(chan struct{})}
		s := audit.NewStream(out, "text")
		logger := slog.New(slog.NewTextHandler(s, nil))
		for range 2 * audit.QueueLines {
			logger.Info("a line")
		}
		began := time.Now()
		if err := s.Close(); err == nil || time.Since(began) != audit.Wait {
			t.Errorf("Close = %v after %v", err, time.Since(began))
		}
		if s.Lost() < audit.QueueLines-1 {
			t.Errorf("%d lines of the process log are counted as lost", s.Lost())
		}
		if err := open(t, audit.Config{Output: "stdout"}, s).Record(event("late", true), func(error) {}); err == nil {
			t.Error("a closed log accepts a line")
		}
		close(out.stall)
	})
}

// If an output accepts a part of a line, no other line continues it.
func TestNoLineContinuesATornLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &output{}
		left := 200
		out.takes = func(n int) (int, error) {
			if n <= left {
				left -= n
				return n, nil
			}
			took := left
			left = 0
			return took, syscall.ENOSPC
		}
		s := audit.NewStream(out, "json")
		l := open(t, audit.Config{Output: "stdout"}, s)
		for i := range 5 {
			_ = l.RecordAndWait(t.Context(), event(fmt.Sprint("line ", i), true), event("withdrawn", true))
		}
		if err := l.Err(); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Err = %v", err)
		}
		synctest.Wait()
		out.mu.Lock()
		left = 1 << 20 // there is room again
		out.mu.Unlock()
		if err := l.Err(); err == nil {
			t.Error("Err = nil, but nothing was written since")
		}
		synctest.Wait()
		if err := l.Err(); err != nil {
			t.Errorf("the output was not tried again: %v", err)
		}
		if err := l.RecordAndWait(t.Context(), event("after", true), event("withdrawn", true)); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		got := names(t, out.String())
		if got[len(got)-1] != "after" || got[len(got)-2] != "lines of the log were lost" || strings.Count(strings.Join(got, " "), "torn") != 1 {
			t.Errorf("the lines are %q", got)
		}
	})
}

// The part of a line that a crash left in a file is ended.
func TestATornLineInAFileIsEnded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(file, []byte("{\"msg\":\"before\"}\n{\"msg\":\"a cra"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l := open(t, audit.Config{Output: file, Required: true}, nil)
		if err := errors.Join(l.RecordAndWait(t.Context(), event("line", true), event("withdrawn", true)), l.Close()); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(names(t, string(data)), ", "); got != "before, torn, line, line" {
		t.Errorf("the lines are: %s", got)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file is %v (%v)", info.Mode(), err)
	}
	if _, err := audit.Open(audit.Config{Output: filepath.Join(t.TempDir(), "no", "audit.log")}, nil, nil); err == nil {
		t.Error("a file in a folder that does not exist was opened")
	}
}

// On a disk that becomes full within a line, the file keeps only whole lines.
func TestAFullDisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, audit.Config{Output: file}, nil)
	// A limit on the size of files ends a write as a full disk does.
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1536, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		_ = l.RecordAndWait(t.Context(), event(fmt.Sprint("line ", i), true), event("withdrawn", true))
	}
	_ = l.Close()
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	all := names(t, string(data))
	if len(data) < 1000 || len(all) < 5 || slices.Contains(all, "torn") {
		t.Errorf("%d bytes, lines %q", len(data), all)
	}
}
