package listen

import "syscall"

const (
	// MaxConnections is how many connections a listener has by default.
	MaxConnections = 2048
	// One address may have 1/partOfOne of them, which is enough for the verifiers behind
	// a NAT.
	partOfOne = 8
)

// The buffers of a socket in the kernel, in bytes. They count as memory of the service. The
// kernel doubles them for its bookkeeping (socket(7)).
const (
	receiveBuffer = 16 << 10
	sendBuffer    = 16 << 10
)

// The most memory of a connection, in bytes, without bodies and what handlers hold.
const (
	// ConnectionMemory is in Go. With TLS, some 75 KiB were measured for a request
	// with the most headers and a body that the client does not send.
	ConnectionMemory = stacks + handshake + tlsBuffers + httpBuffers + targets + MaxHeaders + headerSlack + MaxHeaderLines*headerLine
	// KernelMemory is in the kernel.
	KernelMemory = 2*(receiveBuffer+sendBuffer) + 4<<10

	stacks      = 16 << 10 // of the goroutines that serve and read ahead
	handshake   = 12 << 10 // keys, transcript and certificate
	tlsBuffers  = 2 * maxGap
	httpBuffers = 4<<10 + 4<<10 + 2<<10 // read, write, chunk
	targets     = 2 * maxRequestLine    // further copies
	headerLine  = 136                   // for a line in net/http's map, beside its bytes
)

// enoughDescriptors is how many file descriptors the process needs for the connections of
// all listeners, those to Nova, and its files.
const enoughDescriptors = 8192

// affordable returns for how many of the wanted connections there are descriptors. Clients
// must not take the descriptors that calls to the cloud and the state need.
func affordable(wanted int, files uint64) int {
	if files >= enoughDescriptors {
		return wanted
	}
	return max(1, wanted*int(files)/enoughDescriptors)
}

// descriptors returns how many file descriptors the process may have. Go has raised the
// limit to what the system allows.
func descriptors() uint64 {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return enoughDescriptors
	}
	return limit.Cur
}

// smallBuffers makes the connections of a listener inherit small buffers, because requests
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
