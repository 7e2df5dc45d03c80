package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// A caller that gives up just after the write of its line has ended must get the result
// of the write: the log has a grant without a correction, so the caller gets its token.
func TestGiveUpAfterTheWrite(t *testing.T) {
	var out bytes.Buffer
	s := NewStream(&out, "json")
	written := make(chan error, 1)
	l := &line{text: []byte("grant\n"), correction: []byte("withdrawn\n"), written: func(err error) { written <- err }}
	if err := s.add(l); err != nil {
		t.Fatal(err)
	}
	err := <-written
	if s.giveUp(l) {
		t.Errorf("giveUp took back a line whose write had ended with %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if out.String() != "grant\n" {
		t.Errorf("the log has %q", out.String())
	}
}

// writer calls a function for each write.
type writer func(text []byte) (int, error)

func (w writer) Write(text []byte) (int, error) { return w(text) }

// If the write of a correction stalls or fails, Err reports it.
func TestErrReportsACorrectionThatIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		s := NewStream(writer(func(text []byte) (int, error) {
			<-goOn
			if bytes.HasPrefix(text, []byte("withdrawn")) {
				return 0, errors.New("no space left on device")
			}
			return len(text), nil
		}), "json")
		l := &line{text: []byte("grant\n"), correction: []byte("withdrawn\n")}
		if err := s.add(l); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !s.giveUp(l) {
			t.Fatal("a line that is being written was not given up")
		}
		goOn <- struct{}{}
		synctest.Wait()
		<-time.After(2 * Wait)
		if err := s.err(); !errors.Is(err, errSlow) {
			t.Errorf("err() = %v while the correction stalls, want %v", err, errSlow)
		}
		close(goOn)
		synctest.Wait()
		if err := s.err(); err == nil {
			t.Error("err() = nil after the correction could not be written")
		}
		_ = s.Close()
	})
}

// takeBack does not remove what another process has appended after a torn line.
func TestTakeBackAfterAnotherProcess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.log")
	const torn, others = `{"msg":"torn`, "of another\n"
	content := "before\n" + torn + "x\n" + others + "\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	o := &output{Writer: f, file: f}
	if o.takeBack([]byte(torn)) {
		t.Error("takeBack removed something")
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != content {
		t.Errorf("the file has %q (%v)", got, err)
	}
}
