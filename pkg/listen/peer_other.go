//go:build !linux

package listen

import "net"

// unixPeer works only on Linux. Elsewhere the demo runs, but not the service.
func unixPeer(*net.UnixConn) (uid uint32, ok bool) { return 0, false }
