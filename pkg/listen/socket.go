package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// SocketConnections is how many connections a Unix socket has.
const SocketConnections = 32

// Socket opens a Unix socket that only its owner can use. It replaces a socket of a process
// that died. A socket that another process serves is an error.
func Socket(at SocketPath) (net.Listener, error) {
	path := at.text
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if c, err := new(net.Dialer).DialContext(ctx, "unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("listen unix %s: another process serves it", path)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		// Linux gives the same error for a path that is not a socket. This must stay.
		info, err := os.Lstat(path)
		switch {
		case err != nil:
			return nil, err
		case info.Mode().Type() != os.ModeSocket:
			return nil, fmt.Errorf("listen unix %s: the file is not a socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	// With chmod after bind, other users could connect in between.
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	l := newListener(Options{Connections: SocketConnections, Trusted: func(netip.Addr) bool { return true }})
	var err error
	if l.Listener, err = net.Listen("unix", path); err != nil {
		return nil, err
	}
	return l, nil
}

type peerKey struct{}

// withPeerUser adds the user of the client of a Unix socket to ctx.
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

// PeerUser returns the ID of the user whose process made a request over a Unix socket. ok is
// false for other requests.
func PeerUser(ctx context.Context) (uid uint32, ok bool) {
	uid, ok = ctx.Value(peerKey{}).(uint32)
	return uid, ok
}

// SocketPath is the path of a Unix socket. The zero value is no socket.
type SocketPath struct{ text string }

// ParseSocket parses a path of at most 107 bytes (unix(7)), or "" for no socket.
func ParseSocket(path string) (SocketPath, error) {
	if path != "" && (!filepath.IsAbs(path) || len(path) > 107) {
		return SocketPath{}, fmt.Errorf("%q is not an absolute path of at most 107 bytes", path)
	}
	return SocketPath{path}, nil
}
