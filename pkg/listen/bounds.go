package listen

import "syscall"

// The connections of a listener, unless Options say otherwise.
const (
	MaxConnections = 2048
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

// What a connection makes the process hold at most, in bytes, apart from bodies and
// from what handlers keep.
const (
	// ConnectionMemory is of Go. With TLS, some 75 KiB were measured for a request
	// with all headers that it may have and a body that is held back.
	ConnectionMemory = stacks + handshake + tlsBuffers + httpBuffers + targets + MaxHeaders + headerSlack + MaxHeaderLines*headerLine
	// KernelMemory is of the kernel, for a socket.
	KernelMemory = 2*(receiveBuffer+sendBuffer) + 4<<10

	stacks      = 16 << 10 // of the goroutine that serves, and the one that reads ahead
	handshake   = 12 << 10 // keys, transcript and certificate
	tlsBuffers  = 2 * maxGap
	httpBuffers = 4<<10 + 4<<10 + 2<<10 // read, write, chunk
	targets     = 2 * MaxRequestLine    // further copies
	headerLine  = 136                   // of a line in net/http's map, in addition to its bytes
)

// enoughDescriptors is how many file descriptors the process needs for all
// connections of all listeners, those to Nova, and its own files.
const enoughDescriptors = 8192

// affordable is how many of the connections that are wanted there are descriptors
// for: if there are few, clients must not take those that calls to the cloud and the
// state need.
func affordable(wanted int, files uint64) int {
	if files >= enoughDescriptors {
		return wanted
	}
	return max(1, wanted*int(files)/enoughDescriptors)
}

// descriptors is how many file descriptors the process may have. Go has raised its
// limit to what the system allows.
func descriptors() uint64 {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return enoughDescriptors
	}
	return limit.Cur
}

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
