package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// Socket opens a Unix socket that its owner alone can use. One that a process left
// behind when it died is replaced; one that another process serves is an error.
func Socket(path string) (net.Listener, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if c, err := new(net.Dialer).DialContext(ctx, "unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("listen unix %s: another process serves it", path)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		// Linux gives the same error for a path that is not a socket; that is not
		// ours to remove.
		info, err := os.Lstat(path)
		switch {
		case err != nil:
			return nil, err
		case info.Mode().Type() != os.ModeSocket:
			return nil, fmt.Errorf("listen unix %s: there is something that is not a socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	// Between bind and chmod anyone could connect.
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	l := newListener(Options{Connections: SocketConnections, Trusted: func(netip.Addr) bool { return true }})
	var err error
	if l.Listener, err = net.Listen("unix", path); err != nil {
		return nil, err
	}
	return l, nil
}

// SocketConnections is how many connections a Unix socket has.
const SocketConnections = 32

type peerKey struct{}

// withPeerUser notes who is at the other end of a Unix socket.
func withPeerUser(ctx context.Context, c net.Conn) context.Context {
	f, ok := c.(*front)
	if !ok {
		return ctx
	}
	if u, ok := f.raw.Conn.(*net.UnixConn); ok {
		if uid, ok := unixPeer(u); ok {
			return context.WithValue(ctx, peerKey{}, uid)
		}
	}
	return ctx
}

// PeerUser returns the ID of the user at the other end of the Unix socket from
// which a request came; ok is false if it came from elsewhere.
func PeerUser(ctx context.Context) (uid uint32, ok bool) {
	uid, ok = ctx.Value(peerKey{}).(uint32)
	return uid, ok
}
