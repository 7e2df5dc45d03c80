package server

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

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// The events, as the lines' msg.
const (
	eventDecision = "decision"
	eventAdmin    = "admin"
)

// AuditMemory is how many bytes the lines that wait to be written take at most.
const AuditMemory = auditQueue * auditLineMost

const (
	auditQueue    = 1024
	auditLineMost = 16 << 10    // an audience, with what JSON makes of it, is the longest field
	auditWait     = time.Second // how long a token waits for its line
)

var (
	errAuditSlow   = errors.New("the audit log takes no more lines")
	errAuditClosed = errors.New("the audit log is closed")
)

// AuditLog writes a line for each decision, and for each act of an operator. One goroutine writes, so that a
// stalled pipe or disk holds up no more than auditQueue lines and no request
// longer than auditWait.
type AuditLog struct {
	out      io.Writer
	closer   io.Closer
	required bool
	lines    chan auditLine
	done     chan struct{}

	mu     sync.RWMutex
	closed bool
}

type auditLine struct {
	text    []byte
	written func(error) // told how the write went
}

// OpenAuditLog opens what the configuration names; stdout is the process's.
func OpenAuditLog(c AuditConfig, stdout, stderr io.Writer) (*AuditLog, error) {
	a := &AuditLog{required: c.Required, lines: make(chan auditLine, auditQueue), done: make(chan struct{})}
	switch c.Output {
	case "stdout":
		a.out = stdout
	case "stderr":
		a.out = stderr
	default:
		f, err := os.OpenFile(c.Output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		a.out, a.closer = f, f
	}
	go a.write()
	return a, nil
}

func (a *AuditLog) write() {
	defer close(a.done)
	for line := range a.lines {
		_, err := a.out.Write(line.text)
		line.written(err)
	}
}

// record writes a line. Unless the log is required it does not wait for the
// line to be written; an error then says only that there was no room for it,
// and lost is told later if it could not be written.
func (a *AuditLog) record(ctx context.Context, at time.Time, event string, attrs []slog.Attr, lost func(error)) error {
	var text bytes.Buffer
	record := slog.NewRecord(at.UTC(), slog.LevelInfo, event, 0)
	record.AddAttrs(attrs...)
	if err := slog.NewJSONHandler(&text, &slog.HandlerOptions{ReplaceAttr: secret.Attr}).Handle(ctx, record); err != nil {
		return err
	}
	line := auditLine{text: text.Bytes()}
	if !a.required {
		line.written = func(err error) {
			if err != nil {
				lost(err)
			}
		}
		return a.enqueue(line, nil)
	}
	written := make(chan error, 1)
	line.written = func(err error) { written <- err }
	timeout := time.NewTimer(auditWait)
	defer timeout.Stop()
	if err := a.enqueue(line, timeout.C); err != nil {
		return err
	}
	select {
	case err := <-written:
		return err
	case <-timeout.C:
		return errAuditSlow
	}
}

// enqueue hands a line over, waiting for room until timeout; nil waits not at all.
func (a *AuditLog) enqueue(line auditLine, timeout <-chan time.Time) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.closed {
		return errAuditClosed
	}
	select {
	case a.lines <- line:
		return nil
	default:
	}
	if timeout == nil {
		return errAuditSlow
	}
	select {
	case a.lines <- line:
		return nil
	case <-timeout:
		return errAuditSlow
	}
}

// Close writes what was recorded, for at most auditWait.
func (a *AuditLog) Close() error {
	a.mu.Lock()
	if !a.closed {
		a.closed = true
		close(a.lines)
	}
	a.mu.Unlock()
	timeout := time.NewTimer(auditWait)
	defer timeout.Stop()
	select {
	case <-a.done:
	case <-timeout.C:
		return errAuditSlow
	}
	if a.closer != nil {
		return a.closer.Close()
	}
	return nil
}
