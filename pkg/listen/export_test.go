package listen

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"os"
)

// UnlinkOnClose is as that of [net.UnixListener].
func UnlinkOnClose(l net.Listener, unlink bool) {
	l.(*listener).Listener.(*net.UnixListener).SetUnlinkOnClose(unlink)
}

// WatchCertificate gives the certificate as a listener would.
func WatchCertificate(files TLSConfig, log *slog.Logger) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	c, err := tlsConfig(files, log)
	if err != nil {
		return nil, err
	}
	return c.GetCertificate, nil
}

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
