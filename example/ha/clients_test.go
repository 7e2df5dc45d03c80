package ha_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
)

// inNamespace is set in the process that runs in a network namespace of its own,
// and names the folder with the program and its files.
const inNamespace = "HA_TEST_NAMESPACE"

// A client, or a network, that floods HAProxy leaves others served.
func TestClientsOfHAProxy(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	if dir := os.Getenv(inNamespace); dir != "" {
		for _, example := range []string{"haproxy.cfg", "haproxy-tcp.cfg"} {
			t.Run(example, func(t *testing.T) { testClients(t, dir, example) })
			t.Run(example+" below other defaults", func(t *testing.T) { testOtherDefaults(t, dir, example) })
		}
		return
	}
	needTools(t)
	for _, tool := range []string{"unshare", "ip", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("needs root, for a network namespace")
	}
	dir := t.TempDir()
	for _, command := range [][]string{
		{"go", "build", "-o", filepath.Join(dir, program), "../../cmd/" + program},
		{"sh", "../try-out.sh", dir, service},
	} {
		if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, out)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// The first addresses are of the machines; all others of these networks are local, too.
	const script = `ip link set lo up
for a in 10 11 12 31; do ip addr add 192.0.2.$a/32 dev lo; done
ip -6 addr add 2001:db8:0:ffff::10/128 dev lo nodad
echo '1024 65535' >/proc/sys/net/ipv4/ip_local_port_range
for n in 192.0.2.0/24 198.18.0.0/15; do ip route add local $n dev lo; done
ip -6 route add local 2001:db8::/32 dev lo
echo 1 >/proc/sys/net/ipv6/ip_nonlocal_bind
exec "$0" -test.run='^TestClientsOfHAProxy$' -test.v`
	cmd := exec.CommandContext(ctx, "unshare", "--net", "sh", "-euc", script, os.Args[0])
	cmd.Env = append(os.Environ(), inNamespace+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// front is HAProxy with one of the examples, and one replica.
type front struct {
	dir   string
	roots *x509.CertPool
	six   string // the address over IPv6
	audit string // the replica's file
}

// testOtherDefaults puts the sections below the defaults of other services: the
// client is named all the same, and nothing that it says of its address counts.
func testOtherDefaults(t *testing.T, dir, example string) {
	for name, options := range map[string]string{
		"the mode that looks at no request":       "    option forwardfor\n",
		"HTTP, and another name for the header":   "    mode http\n    option forwardfor header X-Client\n",
		"HTTP, and an exception for all networks": "    mode http\n    option forwardfor except 0.0.0.0/0 if-none\n    option http-no-delay\n",
	} {
		t.Run(name, func(t *testing.T) {
			f := newFront(t, dir, example, "defaults\n    log global\n    option redispatch\n    retries 3\n"+
				"    timeout http-request 10s\n    timeout connect 10s\n    timeout client 1m\n    timeout server 1m\n    balance source\n"+options)
			for _, from := range []string{"198.18.0.1", "2001:db8:0:7::1"} {
				at := "192.0.2.10:443"
				if strings.Contains(from, ":") {
					at = f.six
				}
				c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
					DialContext: f.dialer(from).DialContext, TLSClientConfig: &tls.Config{RootCAs: f.roots, ServerName: service}, DisableKeepAlives: true,
				}}
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+at+"/auth", strings.NewReader("role=web&instance_id=11111111-aaaa-4aaa-8aaa-000000000001"))
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				r.Header.Set("X-Forwarded-For", "10.20.0.11")
				resp, err := c.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				var text []byte
				awaittest.True(t, fmt.Sprintf("a line of the client %s (status %d)", from, resp.StatusCode), func() bool {
					text, _ = os.ReadFile(f.audit)
					return strings.Contains(string(text), fmt.Sprintf(`"client":%q`, from))
				})
				if strings.Contains(string(text), `"client":"10.20.0.11"`) {
					t.Errorf("the client's word on its address counts: %s", text)
				}
			}
		})
	}
}

// newFront starts an example, below other defaults than its own unless that is "".
func newFront(t *testing.T, dir, example, defaults string) *front {
	t.Helper()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	f := &front{dir: dir, roots: x509.NewCertPool(), six: "[2001:db8:0:ffff::10]:443", audit: filepath.Join(t.TempDir(), "audit.jsonl")}
	certificate := read(filepath.Join(dir, "server.pem"))
	f.roots.AppendCertsFromPEM([]byte(certificate))
	write("ca.pem", certificate)
	write("id.pem", certificate+read(filepath.Join(dir, "server-key.pem")))
	via := "header"
	if example == "haproxy-tcp.cfg" {
		via = "protocol"
	}
	config := write(via+".yml", `listen: 192.0.2.11:18775
tls: {certFile: server.pem, keyFile: server-key.pem}
proxy: {trusted: [192.0.2.10], via: `+via+`}
auth: {signingKeyFile: signing-key.pem, tokenIssuer: "https://`+service+`"}
state: {type: memory}
metrics: {listen: "192.0.2.11:18776"}
audit: {output: "`+f.audit+`"}
roles: {web: {projectID: `+project+`}}
`)
	server := exec.Command(filepath.Join(dir, program), "-c", config)
	server.Env = append(os.Environ(), "OS_AUTH_URL=http://127.0.0.1:1/v3", "OS_USERNAME=authenticator", "OS_PASSWORD=secret-word", "OS_PROJECT_NAME=service",
		"OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_DOMAIN_NAME=Default", "OS_CLOUD=")
	background(t, server)
	text := strings.NewReplacer(rootOnlyInHAProxy, "", "/dev/log", "127.0.0.1:9", "/etc/haproxy/", dir+"/").Replace(read(example))
	if defaults != "" {
		text = regexp.MustCompile(`(?ms)^defaults\n.*?\n\n`).ReplaceAllString(text, defaults+"\n")
	}
	text = regexp.MustCompile(`(?m)^    bind 192\.0\.2\.10(:443.*)$`).ReplaceAllString(text, "$0\n    bind [2001:db8:0:ffff::10]$1")
	background(t, exec.Command("haproxy", "-db", "-f", write("front-"+example, text)))
	awaittest.True(t, "the replica behind HAProxy", func() bool {
		resp, err := f.get("192.0.2.77", "192.0.2.10:443")
		return err == nil && resp == http.StatusOK
	})
	return f
}

// background runs a process until the test ends.
func background(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said\n%s", cmd.Path, said.String())
		}
	})
}

func (f *front) dialer(from string) *net.Dialer {
	return &net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
}

// get reads the key set, over a connection of its own.
func (f *front) get(from, at string) (int, error) {
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return f.dialer(from).DialContext(ctx, network, at)
		},
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: f.roots},
	}}
	resp, err := client.Get("https://" + service + "/.well-known/jwks.json")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// flood opens connections from n addresses and says nothing on them. One that is
// closed is opened anew.
type flood struct {
	tried, open atomic.Int64 // connections
	stop        func()
}

func (f *front) flood(at string, connections, sources int, from func(i int) string) *flood {
	ctx, cancel := context.WithCancel(context.Background())
	a := &flood{}
	var all sync.WaitGroup
	a.stop = sync.OnceFunc(func() { cancel(); all.Wait() })
	for i := range connections {
		all.Go(func() {
			pause := time.NewTicker(time.Second)
			defer pause.Stop()
			for ctx.Err() == nil {
				dialer := f.dialer(from(i % sources))
				dialer.Timeout = 2 * time.Second
				c, err := dialer.DialContext(ctx, "tcp", at)
				a.tried.Add(1)
				if err == nil {
					a.open.Add(1)
					end := context.AfterFunc(ctx, func() { _ = c.Close() })
					_, _ = io.Copy(io.Discard, c)
					end()
					_ = c.Close()
					a.open.Add(-1)
				}
				select {
				case <-pause.C:
				case <-ctx.Done():
				}
			}
		})
	}
	return a
}

func testClients(t *testing.T, dir, example string) {
	f := newFront(t, dir, example, "")
	const four = "192.0.2.10:443"
	for _, tt := range []struct {
		name                 string
		at                   string
		connections, sources int
		from                 func(i int) string
		victim               string // of another network
		most                 int64  // connections that HAProxy lets the flood have
	}{
		{"one address", four, 9000, 1, func(int) string { return "198.18.0.66" }, "198.19.0.77", 256},
		{"one address, and a client of its network", four, 9000, 1, func(int) string { return "198.18.200.66" }, "198.18.200.77", 256},
		{"fifty addresses", four, 9000, 50, func(i int) string { return fmt.Sprintf("198.18.%d.66", i) }, "198.19.0.77", 3584},
		{"a /64", f.six, 5000, 90, func(i int) string { return fmt.Sprintf("2001:db8:0:1::%x", i+1) }, "2001:db8:0:2::1", 2048},
		{"a /48", f.six, 5000, 900, func(i int) string { return fmt.Sprintf("2001:db8:1:%x::%x", i%90, i+1) }, "2001:db8:2::1", 3700},
		{"a /48, and a client of IPv4", f.six, 5000, 900, func(i int) string { return fmt.Sprintf("2001:db8:9:%x::%x", i%90, i+1) }, "", 3700},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := f.flood(tt.at, tt.connections, tt.sources, tt.from)
			t.Cleanup(a.stop)
			awaittest.True(t, "the flood", func() bool { return a.tried.Load() >= int64(tt.connections) })
			at, victim := tt.at, tt.victim
			if victim == "" {
				at, victim = four, "198.19.0.77"
			}
			for range 10 {
				if got, err := f.get(victim, at); err != nil || got != http.StatusOK {
					t.Errorf("somebody else: %d, %v", got, err)
				}
			}
			// Of Nova's hosts, many connections at once.
			if tt.at == four {
				var hosts sync.WaitGroup
				for range 20 {
					hosts.Go(func() {
						if got, err := f.get("192.0.2.31", four); err != nil || got != http.StatusOK {
							t.Errorf("a host of Nova: %d, %v", got, err)
						}
					})
				}
				hosts.Wait()
			}
			// A connection that HAProxy is about to close may still count.
			awaittest.True(t, fmt.Sprintf("at most %d connections of the flood", tt.most), func() bool { return a.open.Load() <= tt.most })
			t.Logf("%d tried, %d open", a.tried.Load(), a.open.Load())
		})
	}
	t.Run("no HTTP/2", func(t *testing.T) { f.testHTTP1(t) })
	t.Run("idle", func(t *testing.T) { f.testIdle(t, example) })
	if example == "haproxy.cfg" {
		t.Run("often", func(t *testing.T) { f.testOften(t) })
	}
}

// Neither by ALPN nor by its preface is HTTP/2 spoken.
func (f *front) testHTTP1(t *testing.T) {
	for _, protocols := range [][]string{{"h2", "http/1.1"}, nil} {
		d := &tls.Dialer{NetDialer: f.dialer("198.18.0.1"), Config: &tls.Config{RootCAs: f.roots, ServerName: service, NextProtos: protocols}}
		c, err := d.DialContext(t.Context(), "tcp", "192.0.2.10:443")
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if got := c.(*tls.Conn).ConnectionState().NegotiatedProtocol; got == "h2" {
			t.Error("h2 was agreed on")
		}
		_, _ = io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		got, _ := io.ReadAll(c)
		if len(got) > 0 && !bytes.HasPrefix(got, []byte("HTTP/1.")) {
			t.Errorf("its preface is answered with %q", got)
		}
		_ = c.Close()
	}
}

// A connection on which nothing is said ends by itself.
func (f *front) testIdle(t *testing.T, example string) {
	var all sync.WaitGroup
	for name, send := range map[string]string{
		"nothing": "", "half a handshake": "\x16\x03\x01\x02\x00\x01", "no handshake": "GET / HTTP/1.1\r\n",
	} {
		c, err := f.dialer("198.18.0.1").DialContext(t.Context(), "tcp", "192.0.2.10:443")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, send)
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		all.Go(func() {
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: %s is still open", example, name)
			}
			_ = c.Close()
		})
	}
	all.Wait()
}

// Where HAProxy knows HTTP it says that there were too many requests, and serves
// the key set and other clients.
func (f *front) testOften(t *testing.T) {
	const from = "198.18.0.99"
	client := func(from string) *http.Client {
		c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return f.dialer(from).DialContext(ctx, network, "192.0.2.10:443")
			},
			TLSClientConfig: &tls.Config{RootCAs: f.roots},
		}}
		t.Cleanup(c.CloseIdleConnections)
		return c
	}
	get := func(c *http.Client, path string) (int, string, http.Header) {
		resp, err := c.Get("https://" + service + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body), resp.Header
	}
	attacker, other := client(from), client("198.18.0.98")
	var limited bool
	for range 3000 {
		status, body, header := get(attacker, "/no-such-path")
		if status == http.StatusTooManyRequests && body == `{"error":"slow_down"}` {
			limited = true
			if header.Get("Retry-After") == "" || header.Get("Content-Type") != "application/json" {
				t.Errorf("%v", header)
			}
			break
		}
	}
	if !limited {
		t.Skip("this machine is too slow for more than 1000 requests in 10 seconds")
	}
	if status, body, _ := get(attacker, "/.well-known/jwks.json"); status != http.StatusOK {
		t.Errorf("the key set: %d %s", status, body)
	}
	if status, _, _ := get(other, "/no-such-path"); status != http.StatusNotFound {
		t.Errorf("another client: %d", status)
	}
}
