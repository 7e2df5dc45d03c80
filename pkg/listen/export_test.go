package listen

import (
	"context"
	"log/slog"
	"net"
	"os"
)

// For the tests, which are in another package.
const (
	DrainTimeout   = drainTimeout
	WriteTimeout   = writeTimeout
	MaxRequestLine = maxRequestLine
)

// UnlinkOnClose is [net.UnixListener.SetUnlinkOnClose].
func UnlinkOnClose(l net.Listener, unlink bool) {
	l.(*listener).Listener.(*net.UnixListener).SetUnlinkOnClose(unlink)
}

// CommonName returns the name in the certificate that a listener would use now.
func (c *Certificate) CommonName(log *slog.Logger) string { return c.get(log).Leaf.Subject.CommonName }

// Failing is a listener of which the first calls of Accept fail.
func Failing(ctx context.Context, with ...error) net.Listener {
	l := newListener(Options{})
	inner, err := (&net.ListenConfig{Control: smallBuffers}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	l.Listener = &failing{inner, with}
	return l
}

type failing struct {
	net.Listener
	with []error
}

func (f *failing) Accept() (net.Conn, error) {
	if len(f.with) > 0 {
		err := f.with[0]
		f.with = f.with[1:]
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", err)}
	}
	return f.Listener.Accept()
}
