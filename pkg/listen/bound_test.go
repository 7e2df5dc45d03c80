package listen_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
)

// Whoever opens connections and says nothing has so many and no more, and leaves
// room for others.
func TestConnectionsAreBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	balancer := netip.MustParseAddr("127.0.0.9")
	l = listen.Bound(l, 7, 3, func(a netip.Addr) bool { return a == balancer })
	accepted := make(chan net.Conn, 100)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			// So that a client can tell that it was taken.
			_, _ = io.WriteString(c, "!")
			accepted <- c
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	open := func(from string, want bool) {
		t.Helper()
		conn := dialFrom(t, from, l.Addr().String())
		_, err := io.ReadFull(conn, make([]byte, 1))
		if cut := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET); (err == nil) != want || cut == want {
			t.Errorf("a connection from %s: %v, want it taken: %t", from, err, want)
		}
	}
	for range 3 {
		open("127.0.0.2", true)
	}
	for range 5 {
		open("127.0.0.2", false)
	}
	open("127.0.0.3", true)
	ours := <-accepted
	for range 2 {
		_ = ours.Close() // the second time gives nothing back
	}
	open("127.0.0.2", true)
	open("127.0.0.2", false)
	for range 3 {
		open(balancer.String(), true)
	}
	open(balancer.String(), false) // all are open
	open("127.0.0.4", false)
	_ = (<-accepted).Close()
	open(balancer.String(), true) // more than others may have
	open("127.0.0.4", false)
}
