package audit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// The bounds of a [Stream].
const (
	// QueueLines is the maximum number of lines in each queue.
	QueueLines = 1024
	queueBytes = 1 << 20
	// Memory is how many bytes the queues of one output use at most, with what is stored
	// beside each line.
	Memory = classes * (queueBytes + QueueLines*256)
	// Wait is how long a caller waits for its line, and how long [Stream.Close] waits for
	// the queued lines.
	Wait = time.Second
)

var (
	errFull   = errors.New("too many lines wait to be written")
	errSlow   = errors.New("the output has accepted no line for too long")
	errClosed = errors.New("the log is closed")
)

// class selects the queue of a line. Lines of one class cannot fill the queue of another.
type class int

const (
	kept    class = iota // grants, acts of operators, decisions about proven callers
	denials              // decisions about unproven callers
	process              // the process log
	classes = iota
)

// Stream writes lines to one output. Callers do not wait for the output: lines are
// queued, and one goroutine writes them in order. A line that does not fit into its queue
// is dropped and counted. After losses, a line with their numbers is written as soon as
// the output accepts lines again.
//
// If the output accepts only a part of a line, that part is removed from a file that [Open]
// opened; in another output, the next write ends it with a newline.
type Stream struct {
	output output // of the writing goroutine alone
	text   bool   // the line about losses is in slog's text format

	mu      sync.Mutex
	wake    chan struct{}
	queues  [classes]queue
	lines   uint64
	current *line
	since   time.Time // when the write of current began
	failure error     // of the last write
	retry   bool
	lost    [classes]int // since the last line about losses
	total   [classes]uint64
	closed  bool

	done chan struct{}
}

type queue struct {
	lines []*line
	bytes int
}

// line is a line in a queue.
type line struct {
	text  []byte
	class class
	order uint64
	// written is called once, with the error of the write. If the caller gives up while
	// the line is being written, correction is written after it.
	written    func(error)
	correction []byte
	givenUp    bool
	ended      bool // the write has ended
}

// NewStream writes to out and does not close it. format is the format of the process log,
// "json" or "text".
func NewStream(out io.Writer, format string) *Stream {
	return newStream(output{Writer: out}, format)
}

func newStream(out output, format string) *Stream {
	s := &Stream{output: out, text: format == "text", wake: make(chan struct{}, 1), done: make(chan struct{})}
	go s.run()
	return s
}

// Write writes a line of the process log. It never blocks and never fails.
func (s *Stream) Write(text []byte) (int, error) {
	_ = s.add(&line{text: bytes.Clone(text), class: process})
	return len(text), nil
}

// Lost returns how many lines of the process log were lost.
func (s *Stream) Lost() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total[process]
}

// add queues a line.
func (s *Stream) add(l *line) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := &s.queues[l.class]
	switch {
	case s.closed:
		return errClosed
	case len(q.lines) >= QueueLines || q.bytes+len(l.text) > queueBytes:
		s.lose(l.class)
		return errFull
	}
	s.lines++
	l.order = s.lines
	q.lines = append(q.lines, l)
	q.bytes += len(l.text)
	s.nudge()
	return nil
}

// lose counts a line as lost. s.mu is held.
func (s *Stream) lose(c class) {
	s.lost[c]++
	s.total[c]++
}

func (s *Stream) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// giveUp removes a line that was not written in time. If the line is being written, its
// correction will follow. It returns false if the write has ended already: then there is
// no correction, and written gets the result of the write.
func (s *Stream) giveUp(l *line) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.ended {
		return false
	}
	q := &s.queues[l.class]
	if i := slices.Index(q.lines, l); i >= 0 {
		q.lines = slices.Delete(q.lines, i, i+1)
		q.bytes -= len(l.text)
		s.lose(l.class)
		return true
	}
	l.givenUp = true
	return true
}

// err returns why the output accepts no lines, nil if it does. After a failure it makes the
// stream try again.
func (s *Stream) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.current != nil && time.Since(s.since) >= Wait:
		return fmt.Errorf("%w: %v", errSlow, time.Since(s.since).Round(time.Second))
	case s.failure != nil:
		s.retry = true
		s.nudge()
	}
	return s.failure
}

func (s *Stream) run() {
	defer close(s.done)
	for {
		l, lost, ok := s.next()
		if !ok {
			return
		}
		var err error
		if lost != [classes]int{} {
			if err = s.output.write(s.losses(lost)); err == nil {
				lost = [classes]int{}
			}
		}
		if err == nil && l != nil {
			err = s.output.write(l.text)
		}
		s.finish(l, lost, err)
	}
}

// next waits for the oldest line. It also returns the losses to be reported before it. The
// line is nil if there are only losses; ok is false when the stream has ended.
func (s *Stream) next() (l *line, lost [classes]int, ok bool) {
	for {
		s.mu.Lock()
		var from *queue
		for i := range s.queues {
			if q := &s.queues[i]; len(q.lines) > 0 && (from == nil || q.lines[0].order < from.lines[0].order) {
				from = q
			}
		}
		if from != nil {
			l = from.lines[0]
			from.lines[0] = nil
			from.lines = from.lines[1:]
			from.bytes -= len(l.text)
		}
		if l != nil || s.retry && s.lost != [classes]int{} {
			lost, s.lost = s.lost, [classes]int{}
			s.retry = false
			s.current, s.since = cmp.Or(l, new(line)), time.Now()
			s.mu.Unlock()
			return l, lost, true
		}
		closed := s.closed
		s.mu.Unlock()
		if closed {
			return nil, lost, false
		}
		<-s.wake
	}
}

// finish records the result of a write. lost are the losses that could not be reported.
func (s *Stream) finish(l *line, lost [classes]int, err error) {
	s.mu.Lock()
	correct := false
	if l != nil {
		l.ended = true
		correct = l.givenUp && err == nil
	}
	s.mu.Unlock()
	if correct { // s.current is still set, so err notices if this write stalls
		err = s.output.write(l.correction)
	}
	s.mu.Lock()
	s.current, s.failure = nil, err
	for i := range lost {
		s.lost[i] += lost[i]
	}
	if err != nil && l != nil {
		s.lose(l.class)
	}
	s.mu.Unlock()
	if l != nil && l.written != nil {
		l.written(err)
	}
}

// losses returns the line about lost lines.
func (s *Stream) losses(lost [classes]int) []byte {
	var text bytes.Buffer
	var h slog.Handler = slog.NewJSONHandler(&text, nil)
	if s.text {
		h = slog.NewTextHandler(&text, nil)
	}
	r := slog.NewRecord(time.Now().UTC(), slog.LevelError, "lines of the log were lost", 0)
	r.AddAttrs(slog.Int("decisions", lost[kept]), slog.Int("denials", lost[denials]), slog.Int("log", lost[process]))
	_ = h.Handle(context.Background(), r) // a write to a buffer does not fail
	return text.Bytes()
}

// Close writes the queued lines, for at most [Wait], and closes a file that [Open] opened.
func (s *Stream) Close() error {
	s.mu.Lock()
	s.closed = true
	s.nudge()
	s.mu.Unlock()
	timeout := time.NewTimer(Wait)
	defer timeout.Stop()
	select {
	case <-s.done:
	case <-timeout.C:
		return errSlow
	}
	if s.output.file == nil {
		return nil
	}
	return s.output.file.Close()
}
