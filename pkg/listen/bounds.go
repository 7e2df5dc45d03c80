package listen

import "syscall"

// The connections of a listener, unless Options say otherwise.
const (
	MaxConnections = 4096
	// partOfOne: one address may have this part of a listener's connections, so many
	// that the verifiers behind a NAT can keep theirs open for a while.
	partOfOne = 8
)

// Bytes of a socket's buffers in the kernel, which count towards the memory of the
// service. The kernel takes twice as much for its own bookkeeping (socket(7)).
const (
	receiveBuffer = 16 << 10
	sendBuffer    = 16 << 10
)

// smallBuffers has the connections of a listener inherit small buffers: requests
// and answers are small.
func smallBuffers(_, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, receiveBuffer)
		if failed == nil {
			failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, sendBuffer)
		}
	})
	if err != nil {
		return err
	}
	return failed
}
