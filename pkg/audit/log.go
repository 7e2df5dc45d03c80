// Package audit writes the audit log, and keeps all that writes logs from waiting for who
// reads them.
//
// A line is written for each decision and for each act of an operator ([Log]). It and the
// lines of the process log go through a [Stream], which queues a bounded number of them
// and writes in a goroutine of its own: a reader that stalls, a pipe that is closed or a
// disk that is full holds up no decision, no connection and no shutdown. What is lost is
// counted, and said in the log. Grants, operators' acts and decisions about callers that
// have proven who they are have a queue of their own, which denials of others cannot
// fill.
//
// It does not promise that each line is written: only [Log.RecordAndWait] does, which an
// operator asks for with audit.required.
package audit

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// Config says where the line of each decision goes.
type Config struct {
	// Output is stdout, stderr or the path of a file, which is appended to.
	// Default: stdout.
	Output string `yaml:"output"`
	// Required refuses a token whose line could not be written. Default: false.
	Required bool `yaml:"required"`
}

// Validate reports every problem, each beginning with its key.
func (c Config) Validate() error {
	if c.Output == "" {
		return problem.Errorf("output", "is empty; stdout, stderr or the path of a file is wanted")
	}
	return nil
}

// maxValue is how much of a text a line has, in bytes.
const maxValue = 2 << 10

// Log is the audit log.
type Log struct {
	stream   *Stream
	own      bool
	required bool
}

// Open opens what the configuration names; stdout and stderr are the process's.
func Open(c Config, stdout, stderr *Stream) (*Log, error) {
	l := &Log{required: c.Required}
	switch c.Output {
	case "stdout":
		l.stream = stdout
	case "stderr":
		l.stream = stderr
	default:
		var err error
		if l.stream, err = openFile(c.Output); err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		l.own = true
	}
	return l, nil
}

// Required reports whether a token needs its line.
func (l *Log) Required() bool { return l.required }

// Err is why lines cannot be written, nil if they can.
func (l *Log) Err() error { return l.stream.Err() }

// Event is what a line is about.
type Event struct {
	Time  time.Time
	Name  string // the line's msg
	Attrs []slog.Attr
	// Proven is true for a decision about a caller that has proven who it is, for a grant
	// and for an operator's act. Lines of others are dropped before these are.
	Proven bool
}

// Record queues a line. The error says that it is lost already; lost is told later if it
// could not be written.
func (l *Log) Record(e Event, lost func(error)) error {
	text, err := render(e)
	if err != nil {
		return err
	}
	return l.stream.add(&line{text: text, class: e.class(), written: func(err error) {
		if err != nil {
			lost(err)
		}
	}})
}

// RecordAndWait returns when the line is written, or after [Wait] with an error. The line
// is then not written any more, or is followed by withdrawn if that could not be helped.
func (l *Log) RecordAndWait(e, withdrawn Event) error {
	text, err := render(e)
	if err != nil {
		return err
	}
	correction, err := render(withdrawn)
	if err != nil {
		return err
	}
	written := make(chan error, 1)
	waits := &line{text: text, class: e.class(), correction: correction, written: func(err error) { written <- err }}
	if err := l.stream.add(waits); err != nil {
		return err
	}
	timeout := time.NewTimer(Wait)
	defer timeout.Stop()
	select {
	case err := <-written:
		return err
	case <-timeout.C:
		if !l.stream.giveUp(waits) {
			return <-written // the write has ended, and the line stays
		}
		return errSlow
	}
}

func (e Event) class() class {
	if e.Proven {
		return kept
	}
	return denials
}

// Close writes what was recorded, for at most [Wait].
func (l *Log) Close() error {
	if l.own {
		return l.stream.Close()
	}
	return nil
}

// render makes one line of JSON. Long texts are cut: a line must fit into the queue.
func render(e Event) ([]byte, error) {
	var text bytes.Buffer
	record := slog.NewRecord(e.Time.UTC(), slog.LevelInfo, e.Name, 0)
	for _, a := range e.Attrs {
		if s := a.Value; s.Kind() == slog.KindString && len(s.String()) > maxValue {
			a = slog.String(a.Key, fmt.Sprintf("%s... (%d bytes)", s.String()[:maxValue], len(s.String())))
		}
		record.AddAttrs(a)
	}
	if err := slog.NewJSONHandler(&text, &slog.HandlerOptions{ReplaceAttr: secret.Attr}).Handle(context.Background(), record); err != nil {
		return nil, err
	}
	return text.Bytes(), nil
}
