package listen_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen/listentest"
)

// open serves a handler on a listener until the test ends. Clients have addresses of the
// loopback network.
func open(t testing.TB, o listen.Options, h http.Handler) (address string, closed *counts) {
	t.Helper()
	closed = &counts{n: map[string]int{}}
	if o.Closed == nil {
		o.Closed = closed.add
	}
	if o.Log == nil {
		o.Log, _ = newLog()
	}
	l, err := listen.Open(parsed(t, listen.ParseAddress, "127.0.0.1:0"), o)
	if err != nil {
		t.Fatal(err)
	}
	run(t, listen.Endpoint{Name: "test", Listener: l, Handler: h})
	return l.Addr().String(), closed
}

type counts struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *counts) add(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n[why]++
}

func (c *counts) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprint(c.n)
}

// ask sends a request over a connection and returns the status line, or the error.
func ask(conn net.Conn) string {
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return "cut"
	}
	answer := make([]byte, 15)
	if _, err := io.ReadFull(conn, answer); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			return "cut"
		}
		return err.Error()
	}
	return string(answer)
}

const served = "HTTP/1.1 200 OK"

// A client that sends nothing does not keep out others, with any number of addresses of a
// network. While the attacker has all connections and opens more, others are served.
func TestOneNetworkCannotHoldAllConnections(t *testing.T) {
	for name, attacker := range map[string]func(i int) string{
		"one address":    func(int) string { return "127.9.0.9" },
		"one network":    func(i int) string { return fmt.Sprintf("127.9.0.%d", 1+i%250) },
		"fifty networks": func(i int) string { return fmt.Sprintf("127.9.%d.1", i%50) },
	} {
		for _, says := range []string{"", "GET / HTTP/1.1\r\nX: ", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"} {
			t.Run(fmt.Sprintf("%s, saying %.4q", name, says), func(t *testing.T) {
				h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					fmt.Fprint(w, "hello")
				})
				address, _ := open(t, listen.Options{Connections: 128}, h)
				for i := range 200 {
					listentest.Send(t, listentest.DialFrom(t, attacker(i), address), says)
				}
				for i := range 20 {
					if got := ask(listentest.DialFrom(t, "127.1.1.1", address)); got != served {
						t.Fatalf("client %d gets %s", i, got)
					}
					conn := listentest.DialFrom(t, attacker(i), address)
					_, _ = io.WriteString(conn, says) // the connection may be cut at once
				}
			})
		}
	}
}

// A connection whose request is being handled stays when the listener is full of connections
// that wait for their clients.
func TestRequestsInProgressAreNotCut(t *testing.T) {
	entered, release := make(chan struct{}, 100), make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		entered <- struct{}{}
		<-release
		fmt.Fprint(w, "hello")
	})
	address, _ := open(t, listen.Options{Connections: 128}, h)
	// More connections than any other network has.
	var busy []net.Conn
	for i := range 60 {
		conn := listentest.DialFrom(t, fmt.Sprintf("127.1.1.%d", 1+i), address)
		listentest.Send(t, conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		busy = append(busy, conn)
		<-entered
	}
	for i := range 300 {
		listentest.DialFrom(t, fmt.Sprintf("127.9.%d.1", i%50), address)
	}
	close(release)
	for i, conn := range busy {
		answer := make([]byte, len(served))
		if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != served {
			t.Fatalf("request %d was cut: %q, %v", i, answer, err)
		}
	}
}

// The connections of an address are bounded. The oldest one that waits for its client makes
// room for the next, unless all are busy.
func TestConnectionsOfAnAddress(t *testing.T) {
	entered, release := make(chan struct{}, 100), make(chan struct{})
	h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-release
	})
	balancer := netip.MustParseAddr("127.0.0.9")
	address, closed := open(t, listen.Options{
		Connections: 64, // an address may have 8
		Trusted:     func(a netip.Addr) bool { return a == balancer },
	}, h)
	silent := listentest.DialFrom(t, "127.0.0.2", address)
	for range 8 {
		listentest.Send(t, listentest.DialFrom(t, "127.0.0.2", address), "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		<-entered
	}
	if _, err := silent.Read(make([]byte, 1)); err == nil {
		t.Error("the silent one is kept")
	}
	if got := ask(listentest.DialFrom(t, "127.0.0.2", address)); got != "cut" {
		t.Errorf("one more of the address gets %s", got)
	}
	for range 20 {
		listentest.Send(t, listentest.DialFrom(t, balancer.String(), address), "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		<-entered
	}
	if got := closed.String(); got != "map[address:2]" {
		t.Errorf("closed are %s", got)
	}
	close(release)
}

// Most connections are reserved for preferred peers, and some for all others.
func TestPreferredPeers(t *testing.T) {
	nova := netip.MustParsePrefix("127.5.0.0/16")
	o := listen.Options{Connections: 64, Preferred: nova.Contains}
	t.Run("others cannot take theirs", func(t *testing.T) {
		address, _ := open(t, o, hello)
		var ours []net.Conn
		for i := range 40 {
			ours = append(ours, listentest.DialFrom(t, fmt.Sprintf("127.5.0.%d", 1+i), address))
		}
		for i := range 200 {
			listentest.DialFrom(t, fmt.Sprintf("127.9.%d.1", i), address)
		}
		for i, conn := range ours {
			if got := ask(conn); got != served {
				t.Fatalf("connection %d gets %s", i, got)
			}
		}
	})
	t.Run("they cannot take all", func(t *testing.T) {
		address, _ := open(t, o, hello)
		for i := range 200 {
			listentest.DialFrom(t, fmt.Sprintf("127.5.%d.1", i), address)
		}
		if got := ask(listentest.DialFrom(t, "127.1.1.1", address)); got != served {
			t.Errorf("another client gets %s", got)
		}
	})
}

// The client that a load balancer names is counted.
func TestClientsOfAProxyAreCounted(t *testing.T) {
	balancer := netip.MustParseAddr("127.0.0.9")
	is := func(a netip.Addr) bool { return a == balancer }
	address, _ := open(t, listen.Options{Connections: 64, Trusted: is, Proxies: is}, hello)
	through := func(client string) net.Conn {
		conn := listentest.DialFrom(t, balancer.String(), address)
		listentest.Send(t, conn, "PROXY TCP4 "+client+" 192.0.2.1 1 2\r\n")
		return conn
	}
	for range 100 {
		conn := through("203.0.113.66")
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nX: ") // and nothing else; the server may have closed it
	}
	for range 20 {
		if got := ask(through("203.0.113.77")); got != served {
			t.Fatalf("another client of the balancer gets %s", got)
		}
	}
	last := through("203.0.113.66") // the attacker has only its share
	if got := ask(last); got != served && got != "cut" {
		t.Errorf("the attacker gets %s", got)
	}
}

// The number of header lines is bounded, also of short ones, because each costs more memory
// than it has bytes.
func TestHeadersAreBounded(t *testing.T) {
	for name, tls := range map[string]*listen.Certificate{"plain": nil, "TLS": listentest.NewCertificate(t, "id.example.com").Load(t)} {
		t.Run(name, func(t *testing.T) {
			address, _ := open(t, listen.Options{TLS: tls}, hello)
			dial := func() net.Conn {
				conn := listentest.DialFrom(t, "127.0.0.1", address)
				if tls != nil {
					return clientTLS(conn)
				}
				return conn
			}
			for _, row := range []struct{ name, says, want string }{
				{"as many lines as may be", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("a:b\r\n", listen.MaxHeaderLines-1) + "\r\n", "HTTP/1.1 200 "},
				{"one more", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("a:b\r\n", listen.MaxHeaderLines) + "\r\n", "HTTP/1.1 431 "},
				{"many more, without an end", "GET / HTTP/1.1\nHost: x\n" + strings.Repeat("a:\n", 1000), "HTTP/1.1 431 "},
				{"one that is too long, without an end", "GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 30<<10), "HTTP/1.1 431 "},
				{"a long target, without an end", "GET /" + strings.Repeat("a", 30<<10), "HTTP/1.1 431 "},
				{"a target as long as may be", "GET /" + strings.Repeat("a", listen.MaxRequestLine-14) + " HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 "},
				{"one byte more", "GET /" + strings.Repeat("a", listen.MaxRequestLine-13) + " HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 431 "},
				{"lines before the request", strings.Repeat("\r\n", 40<<10), "HTTP/1.1 4"},
				{"a body of many lines", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n" + strings.Repeat("\n", 4000), "HTTP/1.1 200 "},
			} {
				conn := dial()
				_, _ = io.WriteString(conn, row.says) // the server may close before the end
				answer := make([]byte, len(row.want))
				_, err := io.ReadFull(conn, answer)
				if string(answer) != row.want {
					t.Errorf("%s: %q, %v, want %q", row.name, answer, err, row.want)
				}
				conn.Close()
			}
		})
	}
}

// The headers of a pipelined request are counted, too.
func TestHeadersOfTheNextRequestAreBounded(t *testing.T) {
	address, _ := open(t, listen.Options{}, hello)
	conn := listentest.DialFrom(t, "127.0.0.1", address)
	listentest.Send(t, conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n"+strings.Repeat("a:\n", 1000))
	began := time.Now()
	all, _ := io.ReadAll(conn)
	if n := strings.Count(string(all), "HTTP/1.1 "); n != 1 {
		t.Errorf("%d answers:\n%s", n, all)
	}
	if took := time.Since(began); took >= listen.ReadHeaderTimeout {
		t.Errorf("the connection ended after %v", took)
	}
	for _, requests := range []int{2, 5} { // some clients pipeline a few
		conn := listentest.DialFrom(t, "127.0.0.1", address)
		listentest.Send(t, conn, strings.Repeat("GET / HTTP/1.1\r\nHost: x\r\n\r\n", requests-1)+"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		all, err := io.ReadAll(conn)
		if n := strings.Count(string(all), served); n != requests || err != nil {
			t.Errorf("%d of %d requests are answered (%v)", n, requests, err)
		}
	}
}

// TLS messages without a request are bounded during the handshake and after it.
func TestHandshakesAreBounded(t *testing.T) {
	address, _ := open(t, listen.Options{TLS: listentest.NewCertificate(t, "id.example.com").Load(t)}, hello)
	conn := listentest.DialFrom(t, "127.0.0.1", address)
	// A ClientHello with a length of 65,532 bytes, in records of 16 KiB (RFC 8446,
	// sections 4 and 5.1).
	record := func(first bool) string {
		payload := make([]byte, 16<<10)
		if first {
			copy(payload, "\x01\x00\xff\xfc")
		}
		return "\x16\x03\x01\x40\x00" + string(payload)
	}
	sent := 0
	for i := range 3 {
		n, err := io.WriteString(conn, record(i == 0))
		sent += n
		if err != nil {
			break
		}
	}
	began := time.Now()
	_, err := io.ReadAll(conn)
	if took := time.Since(began); took >= listen.ReadHeaderTimeout {
		t.Errorf("the connection ended after %v (%v), with %d bytes sent", took, err, sent)
	}
}

// A lack of file descriptors does not end the service.
func TestAcceptContinuesAfterFailures(t *testing.T) {
	failing := listen.Failing(t.Context(), syscall.EMFILE, syscall.ENOBUFS, syscall.ECONNABORTED, syscall.EPROTO)
	run(t, listen.Endpoint{Name: "test", Listener: failing, Handler: hello})
	if got := ask(listentest.DialFrom(t, "127.0.0.1", failing.Addr().String())); got != served {
		t.Errorf("after the errors a client gets %s", got)
	}
}

// A refused peer does not delay others, even if the record of the refusal blocks.
func TestRefusalsDoNotBlockAccept(t *testing.T) {
	stuck := make(chan struct{})
	t.Cleanup(func() { close(stuck) })
	address, closed := open(t, listen.Options{
		Admit: func(a netip.Addr) error {
			if a == netip.MustParseAddr("127.0.0.66") {
				return errors.New("not listed")
			}
			return nil
		},
		Refused: func(string, error) { <-stuck },
	}, hello)
	for range 500 {
		listentest.DialFrom(t, "127.0.0.66", address)
	}
	if got := ask(listentest.DialFrom(t, "127.0.0.1", address)); got != served {
		t.Errorf("behind them a client gets %s", got)
	}
	if got := closed.String(); got != "map[unknown:500]" {
		t.Errorf("closed are %s", got)
	}
}

// The server does not speak HTTP/2, with which a client could hold many times the memory.
func TestHTTP2IsOff(t *testing.T) {
	address, _ := open(t, listen.Options{TLS: listentest.NewCertificate(t, "id.example.com").Load(t)}, hello)
	conn := tls.Client(listentest.DialFrom(t, "127.0.0.1", address), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	if err := conn.Handshake(); err != nil || conn.ConnectionState().NegotiatedProtocol != "http/1.1" {
		t.Errorf("%q is negotiated, %v", conn.ConnectionState().NegotiatedProtocol, err)
	}
	only := tls.Client(listentest.DialFrom(t, "127.0.0.1", address), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err := only.Handshake(); err == nil {
		t.Error("a client that speaks nothing else is not refused")
	}
	plain, _ := open(t, listen.Options{}, hello)
	for name, says := range map[string]string{
		"prior knowledge": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"an upgrade":      "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
	} {
		conn := listentest.DialFrom(t, "127.0.0.1", plain)
		listentest.Send(t, conn, says)
		answer, _ := io.ReadAll(conn)
		if !strings.HasPrefix(string(answer), "HTTP/1.1 ") || strings.HasPrefix(string(answer), "HTTP/1.1 101") {
			t.Errorf("%s: %q", name, answer)
		}
	}
}

// A client that has proven the possession of its certificate keeps its connection.
func TestClientsWithCertificatesArePreferred(t *testing.T) {
	own := listentest.NewCertificate(t, "agent")
	cas, err := listen.LoadCAs(own.File(t))
	if err != nil {
		t.Fatal(err)
	}
	address, _ := open(t, listen.Options{Connections: 64, TLS: listentest.NewCertificate(t, "door").Load(t), ClientCAs: cas}, hello)
	with := func(from string) *tls.Conn {
		// TLS 1.2: the server has seen the client's signature when Handshake returns.
		return tls.Client(listentest.DialFrom(t, from, address), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{own.TLS()}})
	}
	var agents []*tls.Conn
	for i := range 40 {
		conn := with(fmt.Sprintf("127.5.0.%d", 1+i))
		if got := ask(conn); got != served {
			t.Fatalf("an agent gets %s", got)
		}
		agents = append(agents, conn)
	}
	for i := range 200 {
		listentest.DialFrom(t, fmt.Sprintf("127.9.%d.1", i), address)
	}
	for i, conn := range agents {
		listentest.Send(t, conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		// The rest of the first answer, and the second answer.
		if rest, err := io.ReadAll(conn); !strings.Contains(string(rest), served) {
			t.Fatalf("agent %d was cut: %q, %v", i, rest, err)
		}
	}
	if got := ask(with("127.5.1.1")); got != served {
		t.Errorf("another agent gets %s", got)
	}
}
