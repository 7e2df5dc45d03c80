package server_test

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen/listentest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

const (
	vm     = "10.20.0.11"   // the instance
	other  = "203.0.113.7"  // some other machine
	proxy1 = "192.0.2.1"    // the load balancer that connects to us
	proxy2 = "192.0.2.2"    // one in front of it
	vm6    = "2001:db8::11" // the instance, if it speaks IPv6
	local6 = "fe80::11"     // the instance on its link
)

func prefixes(all ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range all {
		list = append(list, netip.MustParsePrefix(p))
	}
	return list
}

var (
	noProxy  = server.ProxyConfig{Via: server.ViaHeader}
	byHeader = server.ProxyConfig{Via: server.ViaHeader, Trusted: prefixes(proxy1+"/32", proxy2+"/32")}
	byProxy  = server.ProxyConfig{Via: server.ViaProtocol, Trusted: prefixes("127.0.0.2/32", "127.0.0.4/32")}
)

func forwardedFor(hops ...string) http.Header { return http.Header{"X-Forwarded-For": hops} }

// addressRows also seed the fuzz test.
var addressRows = []struct {
	name     string
	proxy    server.ProxyConfig
	peer     string
	header   http.Header
	instance string // the address of the instance that is asked for
	client   string // the client in the audit line
	granted  bool
}{
	{name: "the instance speaks for itself", peer: vm, instance: vm, client: vm, granted: true},
	{name: "another machine asks", peer: other, instance: vm, client: other},
	{name: "no proxy is trusted, and X-Forwarded-For names the instance", peer: other, header: forwardedFor(vm), instance: vm, client: other},
	{name: "no proxy is trusted, and a private address names the instance", peer: "10.9.9.9", header: forwardedFor(vm), instance: vm, client: "10.9.9.9"},
	{name: "no proxy is trusted, and a loopback address names the instance", peer: "127.0.0.1", header: forwardedFor(vm), instance: vm, client: "127.0.0.1"},
	{name: "no proxy is trusted, and a link-local address names the instance", peer: "fe80::9", header: forwardedFor(vm), instance: vm, client: "fe80::9"},
	{name: "X-Real-IP names the instance", peer: other, header: http.Header{"X-Real-Ip": {vm}}, instance: vm, client: other},
	{name: "Forwarded names the instance", peer: other, header: http.Header{"Forwarded": {"for=" + vm}}, instance: vm, client: other},
	{name: "True-Client-IP names the instance", peer: other, header: http.Header{"True-Client-Ip": {vm}}, instance: vm, client: other},
	{name: "the instance itself is not confused by a header", peer: vm, header: forwardedFor(other), instance: vm, client: vm, granted: true},
	{name: "a client beside the load balancer names the instance", proxy: byHeader, peer: "192.0.2.3", header: forwardedFor(vm), instance: vm, client: "192.0.2.3"},

	{name: "the load balancer names the instance", proxy: byHeader, peer: proxy1, header: forwardedFor(vm), instance: vm, client: vm, granted: true},
	{name: "the load balancer names another after what the client wrote", proxy: byHeader, peer: proxy1, header: forwardedFor(vm + ", " + other), instance: vm, client: other},
	{name: "the load balancer adds a line after the client's", proxy: byHeader, peer: proxy1, header: forwardedFor(vm, other), instance: vm, client: other},
	{name: "the client wrote another line before the load balancer's", proxy: byHeader, peer: proxy1, header: forwardedFor(other, vm), instance: vm, client: vm, granted: true},
	{name: "two load balancers in a row", proxy: byHeader, peer: proxy1, header: forwardedFor(vm + "," + proxy2), instance: vm, client: vm, granted: true},
	{name: "two load balancers in a row, and a client that wrote a header", proxy: byHeader, peer: proxy1, header: forwardedFor(vm + "," + other + "," + proxy2), instance: vm, client: other},
	{name: "a load balancer reached by IPv4 in IPv6", proxy: byHeader, peer: "::ffff:" + proxy1, header: forwardedFor(vm), instance: vm, client: vm, granted: true},
	{name: "the load balancer's X-Real-IP does not count", proxy: byHeader, peer: proxy1, header: http.Header{"X-Real-Ip": {vm}}, instance: vm, client: proxy1},
	{name: "space around a hop", proxy: byHeader, peer: proxy1, header: forwardedFor(other + " ,\t" + vm + " "), instance: vm, client: vm, granted: true},

	{name: "the load balancer wrote something that is not an address", proxy: byHeader, peer: proxy1, header: forwardedFor(vm + ", unknown"), instance: vm, client: proxy1},
	{name: "a word between the load balancers", proxy: byHeader, peer: proxy1, header: forwardedFor(vm + ", unknown, " + proxy2), instance: vm, client: proxy2},
	{name: "an empty hop at the end", proxy: byHeader, peer: proxy1, header: forwardedFor(vm + ", "), instance: vm, client: proxy1},
	{name: "an empty line at the end", proxy: byHeader, peer: proxy1, header: forwardedFor(vm, ""), instance: vm, client: proxy1},
	{name: "a hop with a port", proxy: byHeader, peer: proxy1, header: forwardedFor(vm + ":443"), instance: vm, client: proxy1},
	{name: "an IPv6 hop in brackets", proxy: byHeader, peer: proxy1, header: forwardedFor("[" + vm6 + "]"), instance: vm6, client: proxy1},
	{name: "a hop with zeros in front, octal to some", proxy: byHeader, peer: proxy1, header: forwardedFor("010.20.0.11"), instance: vm, client: proxy1},
	{name: "a hop that is a network", proxy: byHeader, peer: proxy1, header: forwardedFor(vm + "/32"), instance: vm, client: proxy1},
	{name: "a hop on a link", proxy: byHeader, peer: proxy1, header: forwardedFor(local6 + "%eth0"), instance: local6, client: local6},
	{name: "IPv4 in IPv6", proxy: byHeader, peer: proxy1, header: forwardedFor("::ffff:" + vm), instance: vm, client: vm, granted: true},
	{name: "IPv6 with all its zeros", proxy: byHeader, peer: proxy1, header: forwardedFor("2001:0DB8:0:0:0:0:0:0011"), instance: vm6, client: vm6, granted: true},

	{name: "the load balancer names no client, and an instance has its address", proxy: byHeader, peer: proxy1, instance: proxy1, client: proxy1},
	{name: "the header is empty, and an instance has the load balancer's address", proxy: byHeader, peer: proxy1, header: forwardedFor(""), instance: proxy1, client: proxy1},
	{name: "all hops are load balancers, and an instance has the address of one", proxy: byHeader, peer: proxy1, header: forwardedFor(proxy2), instance: proxy2, client: proxy2},
	{name: "the load balancer names itself, and an instance has its address", proxy: byHeader, peer: proxy1, header: forwardedFor(proxy1), instance: proxy1, client: proxy1},

	{name: "an IPv6 instance speaks for itself", peer: vm6, instance: vm6, client: vm6, granted: true},
	{name: "an IPv6 neighbor", peer: "2001:db8::12", instance: vm6, client: "2001:db8::12"},
	{name: "an IPv4 instance at an IPv6 socket", peer: "::ffff:" + vm, instance: vm, client: vm, granted: true},
	{name: "a link-local peer, whose address is not unique", peer: local6 + "%eth0", instance: local6, client: local6},
	{name: "the peer has no address", peer: "@", instance: vm, client: "invalid IP"},

	{name: "with the PROXY protocol the header is not read", proxy: byProxy, peer: "127.0.0.2", header: forwardedFor(vm), instance: vm, client: "127.0.0.2"},
	{name: "with the PROXY protocol a load balancer that names no client proves nothing", proxy: byProxy, peer: "127.0.0.2", instance: "127.0.0.2", client: "127.0.0.2"},
}

func TestClientAddress(t *testing.T) {
	for _, row := range addressRows {
		t.Run(row.name, func(t *testing.T) {
			s := newScene(t)
			if row.proxy.Via != "" {
				s.proxy = row.proxy
			}
			s.instance.Addresses = addresses(row.instance)
			d := s.open(t)
			r := d.request(row.peer, webForm)
			for name, values := range row.header {
				r.Header[name] = values
			}
			got := d.do(t, r)
			if row.granted {
				got.granted(t)
			} else {
				got.wants(t, http.StatusForbidden, "access_denied", "")
			}
			line := d.audit.only(t, got)
			if line["client"] != row.client || line["peer"] != r.RemoteAddr {
				t.Errorf("the audit line has client %q and peer %q, want %q and %q", line["client"], line["peer"], row.client, r.RemoteAddr)
			}
			if !row.granted && line["reason"] != string(attest.AddressMismatch) {
				t.Errorf("the reason is %q", line["reason"])
			}
		})
	}
}

// The audit line says why the client of a load balancer is not known.
func TestTheAuditLineSaysWhyNoClientIsKnown(t *testing.T) {
	const alone = ` is not an IP address: a proxy must write the address alone`
	for _, row := range []struct {
		name   string
		proxy  server.ProxyConfig
		peer   string
		header http.Header
		why    string
	}{
		{"no header", byHeader, proxy1, nil, proxy1 + ", a trusted proxy that named no client: it sent no X-Forwarded-For"},
		{"an empty header", byHeader, proxy1, forwardedFor(""), proxy1 + `, a trusted proxy that named no client: "" in X-Forwarded-For` + alone},
		{"a word", byHeader, proxy1, forwardedFor(vm + ", unknown"), proxy1 + `, a trusted proxy that named no client: "unknown" in X-Forwarded-For` + alone},
		{"a word before another proxy", byHeader, proxy1, forwardedFor("unknown, " + proxy2), proxy2 + `, a trusted proxy that named no client: "unknown" in X-Forwarded-For` + alone},
		{"a port", byHeader, proxy1, forwardedFor(vm + ":443"), `"10.20.0.11:443" in X-Forwarded-For` + alone},
		{"brackets", byHeader, proxy1, forwardedFor("[" + vm6 + "]:443"), `"[2001:db8::11]:443" in X-Forwarded-For` + alone},
		{"a value that may be a secret", byHeader, proxy1, forwardedFor("gAAAAABk" + strings.Repeat("0", 40)), `(not shown) in X-Forwarded-For` + alone},
		{"a control character", byHeader, proxy1, forwardedFor("1\x1b2"), `(not shown) in X-Forwarded-For` + alone},
		{"8000 characters", byHeader, proxy1, forwardedFor(strings.Repeat("1.", 4000)), `(not shown) in X-Forwarded-For` + alone},
		{"proxies alone", byHeader, proxy1, forwardedFor(proxy2 + "," + proxy1), proxy2 + ", a trusted proxy that named no client: X-Forwarded-For has addresses of proxy.trusted alone"},
		{"a PROXY header without a client", byProxy, "127.0.0.2", forwardedFor(vm), "127.0.0.2, a trusted proxy that named no client: its PROXY header has none, or an address of proxy.trusted"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newScene(t)
			s.proxy = row.proxy
			d := s.open(t)
			r := d.request(row.peer, webForm)
			for name, values := range row.header {
				r.Header[name] = values
			}
			got := d.do(t, r)
			got.wants(t, http.StatusForbidden, "access_denied", "")
			detail := fmt.Sprint(d.audit.only(t, got)["detail"])
			if !strings.Contains(detail, row.why) || len(detail) > 400 {
				t.Errorf("the detail is %q, want %q in it", detail, row.why)
			}
		})
	}
}

// echo's RealIP must not read these headers, either.
func TestEchoBelievesNoHeader(t *testing.T) {
	d := newScene(t).open(t)
	d.Echo().GET("/whoami", func(c echo.Context) error { return c.String(http.StatusOK, c.RealIP()) })
	for _, header := range []string{"X-Forwarded-For", "X-Real-Ip", "Forwarded", "True-Client-Ip"} {
		for _, peer := range []string{other, "10.0.0.9", "127.0.0.1"} {
			r := httptest.NewRequest(http.MethodGet, "/whoami", nil)
			r.RemoteAddr = peer + ":4711"
			r.Header.Set(header, vm)
			if got := d.do(t, r).body; got != peer {
				t.Errorf("%s from %s makes the client %s", header, peer, got)
			}
		}
	}
}

// The hops to the left of those that load balancers wrote are the client's, and must not
// matter.
func FuzzClientAddress(f *testing.F) {
	for _, row := range addressRows {
		f.Add(vm, strings.Join(row.header.Values("X-Forwarded-For"), ","))
		f.Add("unknown", strings.Join(row.header.Values("X-Forwarded-For"), ","))
	}
	proxy := parse(f, byHeader)
	request := func(peer string, lines ...string) *http.Request {
		return &http.Request{RemoteAddr: peer + ":4711", Header: forwardedFor(lines...)}
	}
	f.Fuzz(func(t *testing.T, front, header string) {
		if got, want := proxy.Evidence(request(other, front, header)), attest.FromAddress(netip.MustParseAddr(other)); got != want {
			t.Fatalf("an untrusted peer's header makes it %v", got)
		}
		want := proxy.Evidence(request(proxy1, header))
		if onlyProxies(header) {
			if want != attest.FromIntermediary(want.Addr(), server.NoClient) {
				t.Fatalf("%q names only load balancers, and is evidence of %v", header, want)
			}
			return
		}
		for _, lines := range [][]string{{front + "," + header}, {front, header}, {front, "", header}} {
			if got := proxy.Evidence(request(proxy1, lines...)); got != want {
				t.Fatalf("%q in front of %q makes %v of %v", front, header, got, want)
			}
		}
	})
}

func onlyProxies(header string) bool {
	for hop := range strings.SplitSeq(header, ",") {
		addr, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			return false
		}
		if a := attest.Canonical(addr).String(); a != proxy1 && a != proxy2 {
			return false
		}
	}
	return true
}

// proxyV2 is a header of the PROXY protocol's version 2 (its section 2.2).
func proxyV2(command, family byte, body ...byte) string {
	head := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x20|command, family)
	head = binary.BigEndian.AppendUint16(head, uint16(len(body)))
	return string(append(head, body...))
}

// endpoints returns the address block of a connection from an address.
func endpoints(source, destination string) []byte {
	b := append(netip.MustParseAddr(source).AsSlice(), netip.MustParseAddr(destination).AsSlice()...)
	return append(b, 0x12, 0x67, 0x49, 0x57)
}

const (
	v2Local, v2Proxy                 = 0, 1
	v2Unspec, v2TCP4, v2TCP6, v2Unix = 0x00, 0x11, 0x21, 0x31
)

func TestProxyProtocol(t *testing.T) {
	const trusted, second, untrusted = "127.0.0.2", "127.0.0.4", "127.0.0.3"
	v1 := func(family, source, destination string) string {
		return fmt.Sprintf("PROXY %s %s %s 4711 18775\r\n", family, source, destination)
	}
	const cutOff, denied, ok = 0, http.StatusForbidden, http.StatusOK
	for _, row := range []struct {
		name     string
		peer     string
		preamble string
		header   string
		instance string
		want     int
		client   string // in the audit line, if there is one
	}{
		{name: "version 1 names the instance", peer: trusted, preamble: v1("TCP4", vm, "192.0.2.10"), instance: vm, want: ok, client: vm},
		{name: "version 1 names an IPv6 instance", peer: trusted, preamble: v1("TCP6", vm6, "2001:db8::1"), instance: vm6, want: ok, client: vm6},
		{name: "version 2 names the instance", peer: trusted, preamble: proxyV2(v2Proxy, v2TCP4, endpoints(vm, "192.0.2.10")...), instance: vm, want: ok, client: vm},
		{name: "version 2 names an IPv6 instance", peer: trusted, preamble: proxyV2(v2Proxy, v2TCP6, endpoints(vm6, "2001:db8::1")...), instance: vm6, want: ok, client: vm6},
		{name: "version 2 names an IPv4 instance in IPv6", peer: trusted, preamble: proxyV2(v2Proxy, v2TCP6, endpoints("::ffff:"+vm, "::ffff:192.0.2.10")...), instance: vm, want: ok, client: vm},
		{name: "version 1 names another", peer: trusted, preamble: v1("TCP4", other, "192.0.2.10"), instance: vm, want: denied, client: other},
		{name: "version 2 names another", peer: trusted, preamble: proxyV2(v2Proxy, v2TCP4, endpoints(other, vm)...), instance: vm, want: denied, client: other},
		{name: "the client adds X-Forwarded-For", peer: trusted, preamble: v1("TCP4", other, "192.0.2.10"), header: "X-Forwarded-For: " + vm + "\r\n", instance: vm, want: denied, client: other},
		{name: "the client adds a second header", peer: trusted, preamble: v1("TCP4", other, "192.0.2.10") + v1("TCP4", vm, "192.0.2.10"), instance: vm, want: http.StatusBadRequest},

		{name: "plain HTTP from the load balancer", peer: trusted, instance: trusted, want: cutOff},
		{name: "plain HTTP with X-Forwarded-For from the load balancer", peer: trusted, header: "X-Forwarded-For: " + vm + "\r\n", instance: vm, want: cutOff},
		{name: "version 1 with a broken address", peer: trusted, preamble: v1("TCP4", "10.20.0.256", "192.0.2.10"), instance: vm, want: cutOff},
		{name: "version 1 with an IPv6 address called TCP4", peer: trusted, preamble: v1("TCP4", vm6, "192.0.2.10"), instance: vm6, want: cutOff},
		{name: "version 2 with an address block that is too short", peer: trusted, preamble: proxyV2(v2Proxy, v2TCP4, endpoints(vm, "192.0.2.10")[:8]...), instance: vm, want: cutOff},
		{name: "version 2 with a command that does not exist", peer: trusted, preamble: proxyV2(7, v2TCP4, endpoints(vm, "192.0.2.10")...), instance: vm, want: cutOff},
		{name: "version 2 with a family that does not exist", peer: trusted, preamble: proxyV2(v2Proxy, 0x13, endpoints(vm, "192.0.2.10")...), instance: vm, want: cutOff},
		{name: "version 2 without a family", peer: trusted, preamble: proxyV2(v2Proxy, v2Unspec), instance: trusted, want: cutOff},

		{name: "version 2 LOCAL, and an instance has the load balancer's address", peer: trusted, preamble: proxyV2(v2Local, v2Unspec), instance: trusted, want: denied, client: trusted},
		{name: "version 2 LOCAL with an address block", peer: trusted, preamble: proxyV2(v2Local, v2TCP4, endpoints(vm, "192.0.2.10")...), instance: vm, want: denied, client: trusted},
		{name: "version 1 UNKNOWN with addresses", peer: trusted, preamble: "PROXY UNKNOWN " + vm + " 192.0.2.10 4711 18775\r\n", instance: vm, want: denied, client: trusted},
		{name: "version 2 over a Unix socket", peer: trusted, preamble: proxyV2(v2Proxy, v2Unix, make([]byte, 216)...), instance: vm, want: denied, client: "invalid IP"},
		{name: "a load balancer names itself", peer: trusted, preamble: v1("TCP4", trusted, "192.0.2.10"), instance: trusted, want: denied, client: trusted},
		{name: "a load balancer names another load balancer", peer: trusted, preamble: v1("TCP4", second, "192.0.2.10"), instance: second, want: denied, client: second},

		{name: "an untrusted peer names the instance in version 1", peer: untrusted, preamble: v1("TCP4", vm, "192.0.2.10"), instance: vm, want: http.StatusBadRequest},
		{name: "an untrusted peer names the instance in version 2", peer: untrusted, preamble: proxyV2(v2Proxy, v2TCP4, endpoints(vm, "192.0.2.10")...), instance: vm, want: http.StatusBadRequest},
		{name: "an untrusted peer adds X-Forwarded-For", peer: untrusted, header: "X-Forwarded-For: " + vm + "\r\n", instance: vm, want: denied, client: untrusted},
		{name: "an instance speaks for itself, beside the load balancer", peer: untrusted, instance: untrusted, want: ok, client: untrusted},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.proxy = byProxy
			s.instance.Addresses = addresses(row.instance)
			d := s.open(t)
			conn := listentest.DialFrom(t, row.peer, d.serve(t))
			listentest.Send(t, conn, row.preamble+rawAuth(row.header))
			got := readStatus(t, conn)
			if got != row.want {
				t.Errorf("status %d, want %d", got, row.want)
			}
			if row.client == "" {
				d.untouched(t)
				return
			}
			all := d.audit.parsed(t)
			if len(all) != 1 || all[0]["client"] != row.client {
				t.Errorf("the audit lines are %v, want one with client %s", all, row.client)
			}
		})
	}
}

// Load balancers send their header in front of the TLS handshake.
func TestProxyProtocolWithTLS(t *testing.T) {
	s := newScene(t)
	s.proxy = byProxy
	s.tls = listentest.NewCertificate(t, "id.example.com").Load(t)
	s.instance.Addresses = addresses(vm)
	conn := listentest.DialFrom(t, "127.0.0.2", s.open(t).serve(t))
	listentest.Send(t, conn, "PROXY TCP4 "+vm+" 192.0.2.10 4711 18775\r\n")
	secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	listentest.Send(t, secure, rawAuth(""))
	if got := readStatus(t, secure); got != http.StatusOK {
		t.Errorf("status %d", got)
	}
}

func rawAuth(header string) string {
	return "POST /auth HTTP/1.1\r\nHost: id.example.com\r\nContent-Type: " + formType + "\r\n" + header +
		fmt.Sprintf("Connection: close\r\nContent-Length: %d\r\n\r\n%s", len(webForm), webForm)
}

// readStatus returns the status of the answer, 0 if the connection ends without one.
func readStatus(t testing.TB, conn net.Conn) int {
	t.Helper()
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return 0
	case err != nil:
		t.Fatal(err)
	}
	defer r.Body.Close()
	return r.StatusCode
}
