// Package audit writes the audit log, and the process log, without blocking their callers.
//
// There is a line for each decision and for each act of an operator ([Log]). These lines
// and those of the process log go to a [Stream], which has bounded queues and writes in one
// goroutine, so a stalled reader, a closed pipe or a full disk blocks no request and no
// shutdown. Lost lines are counted and reported in the log. Grants, acts of operators and
// decisions about proven callers have a queue that denials of others cannot fill.
//
// It does not promise that every line is written. [Log.RecordAndWait] reports whether it
// was; audit.required makes the server use it.
package audit

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// Config says where the line of each decision goes.
type Config struct {
	// Output is stdout, stderr or the path of a file, to which lines are appended.
	// Default: stdout.
	Output string `yaml:"output"`
	// Required refuses a token if its line could not be written. Default: false.
	Required bool `yaml:"required"`
}

// maxValue is the maximum length of a text in a line, in bytes.
const maxValue = 2 << 10

// Log is the audit log.
type Log struct {
	stream   *Stream
	own      bool // Close closes the stream
	required bool
}

// Open opens the output that the configuration names, which may be one of the process's.
func Open(c Config, stdout, stderr *Stream) (*Log, error) {
	l := &Log{required: c.Required}
	switch c.Output {
	case "stdout":
		l.stream = stdout
	case "stderr":
		l.stream = stderr
	default:
		file, err := openFile(c.Output)
		if err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		l.stream, l.own = newStream(file, "json"), true
	}
	return l, nil
}

// Required reports whether a token is refused if its line could not be written.
func (l *Log) Required() bool { return l.required }

// Err returns why lines cannot be written, nil if they can.
func (l *Log) Err() error { return l.stream.err() }

// Event is the content of a line.
type Event struct {
	Time  time.Time
	Name  string // msg of the line
	Attrs []slog.Attr
	// Proven is true for a grant, an act of an operator, and a decision about a caller
	// that has proven who it is. Other lines are dropped first.
	Proven bool
}

// Record queues a line. It returns an error if the line is lost already. If the line
// cannot be written later, lost is called.
func (l *Log) Record(e Event, lost func(error)) error {
	queued, err := newLine(e)
	if err != nil {
		return err
	}
	queued.written = func(err error) {
		if err != nil {
			lost(err)
		}
	}
	return l.stream.add(queued)
}

// RecordAndWait returns when the line is written, or with an error after [Wait] or when ctx
// ends. After an error, the line is not written; if its write had begun, withdrawn is
// written after it.
func (l *Log) RecordAndWait(ctx context.Context, e, withdrawn Event) error {
	queued, err := newLine(e)
	if err != nil {
		return err
	}
	correction, err := newLine(withdrawn)
	if err != nil {
		return err
	}
	written := make(chan error, 1)
	queued.correction, queued.written = correction.text, func(err error) { written <- err }
	if err := l.stream.add(queued); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, Wait)
	defer cancel()
	select {
	case err := <-written:
		return err
	case <-ctx.Done():
		if !l.stream.giveUp(queued) {
			return <-written // the write has ended
		}
		return errSlow
	}
}

// Close writes the queued lines, for at most [Wait].
func (l *Log) Close() error {
	if l.own {
		return l.stream.Close()
	}
	return nil
}

// newLine renders a line of JSON. It clips long texts, so that a line fits into the queue.
func newLine(e Event) (*line, error) {
	var text bytes.Buffer
	record := slog.NewRecord(e.Time.UTC(), slog.LevelInfo, e.Name, 0)
	for _, a := range e.Attrs {
		if s := a.Value; s.Kind() == slog.KindString && len(s.String()) > maxValue {
			a = slog.String(a.Key, fmt.Sprintf("%s (%d bytes)", secret.Clip(s.String(), maxValue), len(s.String())))
		}
		record.AddAttrs(a)
	}
	if err := slog.NewJSONHandler(&text, &slog.HandlerOptions{ReplaceAttr: secret.Attr}).Handle(context.Background(), record); err != nil {
		return nil, err
	}
	if e.Proven {
		return &line{text: text.Bytes(), class: kept}, nil
	}
	return &line{text: text.Bytes(), class: denials}, nil
}
