package main

import (
	"io"
	"log/slog"
	"os"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

func newLog(c *config.Plan, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: c.LogLevel, ReplaceAttr: secret.Attr}
	if c.Log.Format == "text" {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

// outputs are stdout and stderr. A write to them does not wait for the reader.
type outputs struct{ stdout, stderr *audit.Stream }

func newOutputs(format string, stdout, stderr io.Writer) outputs {
	o := outputs{stderr: audit.NewStream(stderr, format)}
	if o.stdout = o.stderr; !sameFile(stdout, stderr) {
		o.stdout = audit.NewStream(stdout, "json")
	}
	return o
}

// sameFile reports whether two outputs are the same file, as in a container: they must share
// a stream, or their lines would mix.
func sameFile(a, b io.Writer) bool {
	one, ok := a.(*os.File)
	other, also := b.(*os.File)
	if !ok || !also {
		return a == b
	}
	left, leftErr := one.Stat()
	right, rightErr := other.Stat()
	return leftErr == nil && rightErr == nil && os.SameFile(left, right)
}

// close writes queued lines, unless a reader is stalled.
func (o outputs) close() {
	_ = o.stdout.Close()
	if o.stderr != o.stdout {
		_ = o.stderr.Close()
	}
}
