//go:build !linux

package listen

import "net"

// unixPeer is for Linux alone: elsewhere the demo runs, and no service.
func unixPeer(*net.UnixConn) (uid uint32, ok bool) { return 0, false }
