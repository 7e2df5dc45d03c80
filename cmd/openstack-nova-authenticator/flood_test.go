package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen/listentest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

// flooded is a server with the limits of the unit, and a proxy in front of it. All addresses
// are loopback addresses.
type flooded struct {
	t       *testing.T
	dir     string
	net     string // such as 127.20.30.
	pid     int
	group   string // the control group, "" for none
	max     int64  // MemoryMax
	cmd     *exec.Cmd
	entry   string // where instances connect to
	agents  string
	nova    string
	metrics string

	mu    sync.Mutex
	conns []net.Conn
}

// unitBytes reads a size of the unit, such as 512M or 400MiB.
func unitBytes(t *testing.T, setting string) int64 {
	t.Helper()
	m := regexp.MustCompile(`(?m)^(?:Environment=)?` + setting + `=(\d+)([KMG])(?:iB)?$`).FindStringSubmatch(unit(t))
	if m == nil {
		t.Fatalf("the unit has no %s", setting)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << map[string]int{"K": 10, "M": 20, "G": 30}[m[2]]
}

func newFlooded(t *testing.T, proxy string) *flooded {
	t.Helper()
	f := &flooded{t: t, dir: t.TempDir(), max: unitBytes(t, "MemoryMax")}
	f.net = fmt.Sprintf("127.%d.%d.", 1+os.Getpid()%100, 1+time.Now().Nanosecond()%250)
	ports := freePorts(t, 4)
	for i, to := range []*string{&f.entry, &f.agents, &f.nova, &f.metrics} {
		*to = f.net + "11:" + ports[i]
	}
	bin := filepath.Join(f.dir, program)
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cert := f.certificate()
	f.write("secret", "metadata-secret\n")
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "metadata")
	}))
	t.Cleanup(metadata.Close)
	trusted := ""
	switch proxy {
	case "haproxy.cfg":
		trusted = "proxy: {trusted: [" + f.net + "10], via: header}\n"
	case "haproxy-tcp.cfg":
		trusted = "proxy: {trusted: [" + f.net + "10], via: protocol}\n"
	}
	f.write("config.yml", "listen: "+f.entry+"\n"+trusted+`tls: {certFile: cert.pem, keyFile: key.pem}
auth: {tokenIssuer: "https://id.example.com"}
state: {type: file, file: {path: ./state.db}}
metrics: {listen: "`+f.metrics+`"}
audit: {output: ./audit.log}
vendordata: {listen: "`+f.nova+`", users: [`+scriptNova+`], from: [127.77.1.0/24]}
metadataService:
  listen: "`+f.agents+`"
  agents: [127.77.0.0/16]
  sharedSecretFile: [secret]
  nova: "`+metadata.URL+`"
roles: {web: {projectID: `+scriptProject+`}}
`)
	var stderr strings.Builder
	f.cmd = exec.Command(bin, "-c", filepath.Join(f.dir, "config.yml"))
	f.cmd.Env = append(os.Environ(), "GOMEMLIMIT="+strconv.FormatInt(unitBytes(t, "GOMEMLIMIT"), 10),
		"OS_AUTH_URL=http://127.0.0.1:1/v3", "OS_USERNAME=authenticator", "OS_PASSWORD=secret-word", "OS_PROJECT_NAME=service",
		"OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_DOMAIN_NAME=Default", "OS_CLOUD=", "OS_CACERT=")
	f.cmd.Stdout, f.cmd.Stderr = io.Discard, &stderr
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.pid = f.cmd.Process.Pid
	f.joinGroup()
	t.Cleanup(func() {
		for _, c := range f.conns {
			_ = c.Close()
		}
		_ = f.cmd.Process.Signal(syscall.SIGTERM)
		if err := f.cmd.Wait(); err != nil {
			t.Errorf("the server ended with %v:\n%s", err, stderr.String())
		}
		if f.group != "" {
			_ = os.Remove(f.group)
		}
	})
	if proxy != "" {
		f.front(proxy, cert)
	}
	for deadline := time.Now().Add(30 * time.Second); f.ask("127.66.1.1") != "200 OK"; {
		if time.Now().After(deadline) {
			t.Fatalf("the server does not answer but %s:\n%s", f.ask("127.66.1.1"), stderr.String())
		}
		<-time.After(50 * time.Millisecond)
	}
	return f
}

func (f *flooded) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// certificate writes a certificate for id.example.com, which all parts use.
func (f *flooded) certificate() (combined string) {
	f.t.Helper()
	cert := listentest.NewCertificate(f.t, "id.example.com", func(c *x509.Certificate) { c.IsCA = true })
	cert.Write(f.t, filepath.Join(f.dir, "cert.pem"), filepath.Join(f.dir, "key.pem"))
	f.write("id.pem", string(cert.CertPEM)+string(cert.KeyPEM))
	return filepath.Join(f.dir, "id.pem")
}

// front starts HAProxy with a configuration of example/ha in front of the server.
func (f *flooded) front(example, cert string) {
	f.t.Helper()
	text, err := os.ReadFile("../../example/ha/" + example)
	if err != nil {
		f.t.Fatal(err)
	}
	port := freePorts(f.t, 1)[0]
	edited := regexp.MustCompile(`(?m)^\s*(chroot|user|group|log) .*$`).ReplaceAllString(string(text), "")
	edited = regexp.MustCompile(`(?m)^\s*server two .*$`).ReplaceAllString(edited, "")
	_, at, _ := strings.Cut(f.entry, ":")
	_, operator, _ := strings.Cut(f.metrics, ":")
	edited = strings.NewReplacer(
		"192.0.2.10:443", f.net+"10:"+port, "192.0.2.11:18775", f.net+"11:"+at, "check port 18776", "check port "+operator,
		"192.0.2.10", f.net+"10", "192.0.2.11", f.net+"11", "/etc/haproxy/id.pem", cert, "/etc/haproxy/ca.pem", filepath.Join(f.dir, "cert.pem"),
	).Replace(edited)
	f.write("haproxy.cfg", edited)
	var said strings.Builder
	cmd := exec.Command("haproxy", "-db", "-f", filepath.Join(f.dir, "haproxy.cfg"))
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if f.t.Failed() {
			f.t.Logf("haproxy: %s", said.String())
		}
	})
	f.entry = f.net + "10:" + port
}

// joinGroup limits the memory of the server as the unit does (cgroups(7), version 1), if this
// host allows it.
func (f *flooded) joinGroup() {
	group := filepath.Join("/sys/fs/cgroup/memory", fmt.Sprintf("%s-test-%d", program, f.pid))
	if os.Geteuid() != 0 || os.Mkdir(group, 0o700) != nil {
		return
	}
	limit := os.WriteFile(filepath.Join(group, "memory.limit_in_bytes"), []byte(strconv.FormatInt(f.max, 10)), 0o600)
	join := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(f.pid)), 0o600)
	if limit != nil || join != nil {
		_ = os.Remove(group)
		return
	}
	f.group = group
}

// peak returns the maximum of the server's memory.
func (f *flooded) peak() int64 {
	f.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.pid))
	if err != nil {
		f.t.Fatalf("the server has ended: %v", err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		f.t.Fatal("the server was killed")
	}
	n, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		f.t.Fatal(err)
	}
	return n << 10
}

func dialer(from string) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
}

var anyServer = &tls.Config{InsecureSkipVerify: true}

// ask reads the key set over a new connection from another address.
func (f *flooded) ask(from string) string {
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: dialer(from).DialContext, DisableKeepAlives: true, TLSClientConfig: anyServer}}
	return status(c.Get("https://" + f.entry + "/.well-known/jwks.json"))
}

// askAgents asks for metadata as an agent.
func (f *flooded) askAgents(from string) string {
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: dialer(from).DialContext, DisableKeepAlives: true}}
	return status(c.Get("http://" + f.agents + "/latest/meta-data/"))
}

func status(resp *http.Response, err error) string {
	if err != nil {
		return err.Error()
	}
	_ = resp.Body.Close()
	return resp.Status
}

// hold opens connections from many addresses, writes to each, and keeps them open.
func (f *flooded) hold(n int, address string, from func(i int) string, secure bool, says func(net.Conn)) (held int64) {
	var all sync.WaitGroup
	var open atomic.Int64
	next := make(chan int)
	for range 64 {
		all.Go(func() {
			for i := range next {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				c, err := dialer(from(i)).DialContext(ctx, "tcp", address)
				cancel()
				if err != nil {
					continue
				}
				if secure {
					c = tls.Client(c, anyServer)
				}
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				says(c)
				open.Add(1)
				f.mu.Lock()
				f.conns = append(f.conns, c)
				f.mu.Unlock()
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
	return open.Load()
}

// floodRequest has as many headers as allowed, and its body lacks the last byte.
func floodRequest(method, path string, body int) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s HTTP/1.1\r\nHost: id.example.com\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n", method, path, body)
	lines := listen.MaxHeaderLines - 3
	for i := range lines {
		fmt.Fprintf(&text, "x%d: %s\r\n", i, strings.Repeat("a", (listen.MaxHeaders-40*listen.MaxHeaderLines)/lines))
	}
	return text.String() + "\r\n" + strings.Repeat("a", body-1)
}

// In a real flood, with the memory of the unit, the server survives and serves other clients.
func TestTheServerSurvivesAFlood(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes 20 seconds a case")
	}
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("there is no /proc to measure with")
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	for _, proxy := range []string{"", "haproxy.cfg", "haproxy-tcp.cfg"} {
		t.Run("through "+proxy, func(t *testing.T) {
			if proxy != "" {
				if files.Cur < 10_000 {
					t.Skipf("HAProxy with the example's maxconn needs more than %d descriptors", files.Cur)
				}
				if _, err := exec.LookPath("haproxy"); err != nil {
					t.Skip("haproxy is not installed")
				}
			}
			most := min(server.Connections+300, int(files.Cur/8)) // half of the descriptors, in all
			if proxy != "" {
				most /= 2
			}
			f := newFlooded(t, proxy)
			if f.group == "" {
				t.Log("there is no control group for memory; the server's memory is only measured")
			}
			attackers := func(i int) string { return fmt.Sprintf("127.99.%d.%d", i%40, 1+i%200) }
			agents := func(i int) string { return fmt.Sprintf("127.77.%d.%d", 2+i%40, 1+i%200) }
			novas := func(i int) string { return fmt.Sprintf("127.77.1.%d", 1+i%200) }
			say := func(text string) func(net.Conn) {
				return func(c net.Conn) { _, _ = io.WriteString(c, text) }
			}
			check := func(phase string) {
				t.Helper()
				// Another instance and an agent are served. On a busy host HAProxy may miss a
				// health check.
				for _, served := range []struct {
					who string
					ask func() string
				}{
					{"a client elsewhere", func() string { return f.ask("127.66.1.1") }},
					{"an agent", func() string { return f.askAgents("127.77.0.1") }},
				} {
					got := served.ask()
					for range 5 {
						if got == "200 OK" {
							break
						}
						<-time.After(time.Second)
						got = served.ask()
					}
					if got != "200 OK" {
						t.Errorf("%s: %s gets %s", phase, served.who, got)
					}
				}
				peak := f.peak()
				t.Logf("%s: %d MiB at most so far, of %d", phase, peak>>20, f.max>>20)
				if peak > f.max {
					t.Errorf("%s: the server had %d bytes, and the unit gives it %d", phase, peak, f.max)
				}
			}
			held := f.hold(most, f.entry, attackers, true, say(floodRequest("POST", "/auth", 8<<10)))
			check(fmt.Sprintf("%d requests whose bodies are held back", held))
			held = f.hold(most, f.entry, attackers, false, say("\x16\x03\x01\x40\x00\x01\x00\xff\xfc"+strings.Repeat("a", 16380)))
			check(fmt.Sprintf("%d handshakes without end", held))
			held = f.hold(most/2, f.entry, attackers, true, say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
			check(fmt.Sprintf("%d prefaces of HTTP/2", held))
			held = f.hold(most/2, f.entry, attackers, true, say(strings.Repeat("GET /.well-known/jwks.json HTTP/1.1\r\nHost: id.example.com\r\n\r\n", 200)))
			check(fmt.Sprintf("%d clients that do not read", held))
			if proxy != "" {
				return // HAProxy is not in front of the other listeners
			}
			held = f.hold(min(server.VendordataConnections+100, most/2), f.nova, novas, true, say(floodRequest("POST", "/vendordata", 1<<20)[:40<<10]))
			held += f.hold(min(server.AgentConnections+100, most/2), f.agents, agents, false, say(floodRequest("POST", "/openstack/latest/password", 1<<20)[:60<<10]))
			check(fmt.Sprintf("%d bodies at the other listeners", held))
		})
	}
}
