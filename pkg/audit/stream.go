package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// The bounds of a [Stream].
const (
	// QueueLines and QueueBytes bound what waits to be written, of each class.
	QueueLines = 1024
	QueueBytes = 1 << 20
	// Classes is how many classes of lines have a queue of their own.
	Classes = 3
	// Memory is how many bytes the lines that wait for one output take at most, with what
	// is kept beside each.
	Memory = Classes * (QueueBytes + QueueLines*256)
	// Wait is how long a caller waits for its line, and how long [Stream.Close] waits
	// for those that are queued.
	Wait = time.Second
)

var (
	errFull   = errors.New("too many lines wait to be written")
	errSlow   = errors.New("the output has taken no line for too long")
	errClosed = errors.New("the log is closed")
)

// class says which queue a line waits in, and so what is dropped before what.
type class int

const (
	kept    class = iota // grants, operators' acts, decisions about proven callers
	denials              // decisions about callers that have proven nothing
	process              // the process log
)

// Stream writes lines to one output. Nobody waits for the output: lines are queued, one
// goroutine writes them in their order, and what does not fit into the queue of its
// class is dropped and counted. When lines were lost, a line says so as soon as the
// output takes lines again.
//
// A line is written whole. When the output takes a part of one, that part is taken back
// if the output is a file that Stream opened, and else ended with a newline, so that no
// other line continues it.
type Stream struct {
	out  io.Writer
	file *os.File // opened here; nil for another output
	text bool     // the line about losses is in slog's text format

	mu      sync.Mutex
	wake    chan struct{}
	queues  [Classes]queue
	lines   uint64
	current *line
	since   time.Time // current is being written
	failure error     // of the last write
	retry   bool
	lost    [Classes]int // since the last line about losses
	total   [Classes]uint64
	closed  bool

	torn bool // the output ends within a line; of the writing goroutine alone
	done chan struct{}
}

type queue struct {
	lines []*line
	bytes int
}

// line is one that waits.
type line struct {
	text  []byte
	class class
	order uint64
	// written is told how it went, once. A line that is given up and was being written
	// then is followed by correction, unless that failed.
	written    func(error)
	correction []byte
	givenUp    bool
	ended      bool // its write
}

// NewStream writes to out, which another part of the program owns. format is that of the
// process log, "json" or "text".
func NewStream(out io.Writer, format string) *Stream {
	s := &Stream{out: out, text: format == "text", wake: make(chan struct{}, 1), done: make(chan struct{})}
	go s.run()
	return s
}

// openFile appends to a file, which is its owner's alone when it is made. What a crash
// left of a line is ended.
func openFile(path string) (*Stream, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	s := &Stream{out: f, file: f, wake: make(chan struct{}, 1), done: make(chan struct{})}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, info.Size()-1); err != nil {
			_ = f.Close()
			return nil, err
		}
		s.torn = last[0] != '\n'
	}
	go s.run()
	return s, nil
}

// Process is where the process log writes its lines, one with each call. It never blocks
// and never fails.
func (s *Stream) Process() io.Writer { return processWriter{s} }

type processWriter struct{ s *Stream }

func (p processWriter) Write(text []byte) (int, error) {
	_ = p.s.add(&line{text: bytes.Clone(text), class: process})
	return len(text), nil
}

// Lost is how many lines of the process log were lost.
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
	case len(q.lines) >= QueueLines || q.bytes+len(l.text) > QueueBytes:
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

// giveUp takes a line back that was not written in time. One that is being written just
// now is followed by its correction. It returns false if the write has ended already:
// then the line is not corrected, and written is told how the write went.
func (s *Stream) giveUp(l *line) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.ended {
		return false
	}
	q := &s.queues[l.class]
	for i, other := range q.lines {
		if other == l {
			q.lines = append(q.lines[:i], q.lines[i+1:]...)
			q.bytes -= len(l.text)
			s.lose(l.class)
			return true
		}
	}
	l.givenUp = true
	return true
}

// Err is why the output takes no lines, nil if it does. After a failure it has the output
// tried again.
func (s *Stream) Err() error {
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
		if lost != [Classes]int{} {
			if err := s.write(s.losses(lost)); err != nil {
				s.finish(l, lost, err)
				continue
			}
		}
		if l == nil {
			s.finish(nil, [Classes]int{}, nil)
			continue
		}
		err := s.write(l.text)
		s.finish(l, [Classes]int{}, err)
	}
}

// next waits for the oldest line, and takes over what has to be said of losses. The line
// is nil if there are losses alone; ok is false at the end.
func (s *Stream) next() (l *line, lost [Classes]int, ok bool) {
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
		if l != nil || s.retry && s.lost != [Classes]int{} {
			lost, s.lost = s.lost, [Classes]int{}
			s.retry = false
			s.current, s.since = l, time.Now()
			if l == nil {
				s.current = &line{}
			}
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

// finish notes how a write went. lost are those that could not be told of.
func (s *Stream) finish(l *line, lost [Classes]int, err error) {
	s.mu.Lock()
	correct := false
	if l != nil {
		l.ended = true
		correct = l.givenUp && err == nil
	}
	s.mu.Unlock()
	if correct { // s.current is still set: a stall of this write is one of the output
		err = s.write(l.correction)
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

// write writes a line whole or, as far as the output lets it, not at all.
func (s *Stream) write(text []byte) error {
	if s.torn {
		if _, err := s.out.Write([]byte("\n")); err != nil {
			return err
		}
		s.torn = false
	}
	n, err := s.out.Write(text)
	if err == nil && n < len(text) {
		err = io.ErrShortWrite
	}
	if err == nil || n <= 0 {
		return err
	}
	s.torn = !s.takeBack(text[:n])
	return err
}

// takeBack cuts the part of a line off the end of the file, and reports whether that was
// done: not if the file ends with anything else, as when another process has written
// since, or the output is no file of ours.
func (s *Stream) takeBack(part []byte) bool {
	if s.file == nil {
		return false
	}
	n := int64(len(part))
	info, err := s.file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() < n {
		return false
	}
	end := make([]byte, n)
	if _, err := s.file.ReadAt(end, info.Size()-n); err != nil || !bytes.Equal(end, part) {
		return false
	}
	return s.file.Truncate(info.Size()-n) == nil
}

// losses is the line about lines that were lost.
func (s *Stream) losses(lost [Classes]int) []byte {
	var text bytes.Buffer
	var h slog.Handler = slog.NewJSONHandler(&text, nil)
	if s.text {
		h = slog.NewTextHandler(&text, nil)
	}
	r := slog.NewRecord(time.Now().UTC(), slog.LevelError, "lines of the log were lost", 0)
	r.AddAttrs(slog.Int("decisions", lost[kept]), slog.Int("denials", lost[denials]), slog.Int("log", lost[process]))
	_ = h.Handle(context.Background(), r) // a buffer takes all
	return text.Bytes()
}

// Close writes what is queued, for at most [Wait]. A file that was opened here is closed.
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
	if s.file != nil {
		return s.file.Close()
	}
	return nil
}
