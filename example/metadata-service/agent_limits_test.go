package metadataservice_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// requestLimit is the longest request that may reach an agent, with what haproxy adds: tune.bufsize.
const requestLimit = 4096

// neutronProxy is a haproxy as a metadata agent starts it, and the agent's socket behind it.
type neutronProxy struct {
	address  string
	requests chan []byte // up to the end of their headers
}

// startNeutronProxy starts haproxy by name, as `ip netns exec NAMESPACE haproxy -f FILE` does: PATH decides which one it is.
func startNeutronProxy(t *testing.T, path, limits string) *neutronProxy {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent-limits-") //nolint:usetesting // the name of t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "metadata_proxy"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	n := &neutronProxy{requests: make(chan []byte, 1)}
	go n.serve(l)

	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.address = free.Addr().String()
	_ = free.Close()
	if err := os.Mkdir(filepath.Join(dir, "ovn-metadata-proxy"), 0o750); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "ovn-metadata-proxy", "11111111-2222-4333-8444-555555555555.conf")
	// The options that count of what neutron/common/metadata.py writes.
	text := fmt.Sprintf(`global
    maxconn 1024
defaults
    mode http
    option http-server-close
    option forwardfor
    timeout http-request 30s
    timeout connect 30s
    timeout client 32s
    timeout server 32s
    timeout http-keep-alive 30s
listen listener
    bind %s
    server metadata %s
    http-request set-header X-Added-By-Neutron 11111111-2222-4333-8444-555555555555
`, n.address, l.Addr())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "env", "haproxy", "-db", "-f", config)
	cmd.Env = append(os.Environ(), "PATH="+path, "NEUTRON_HAPROXY_LIMITS="+limits)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() { stop(); <-ended })
	deadline := time.After(20 * time.Second)
	for {
		c, err := net.Dial("tcp", n.address)
		if err == nil {
			_ = c.Close()
			return n
		}
		select {
		case <-ended:
			t.Fatalf("haproxy ended: %s", said.Bytes())
		case <-deadline:
			t.Fatal("haproxy does not listen")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// serve notes each request and answers 200.
func (n *neutronProxy) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		var request []byte
		for r := bufio.NewReader(c); ; {
			line, err := r.ReadBytes('\n')
			request = append(request, line...)
			if err != nil || len(bytes.TrimSpace(line)) == 0 {
				break
			}
		}
		n.requests <- request
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
		_ = c.Close()
	}
}

// ask sends a request and gives the status and, for 200, what the agent's socket was given.
func (n *neutronProxy) ask(t *testing.T, request string) (status int, arrived []byte) {
	t.Helper()
	c, err := net.Dial("tcp", n.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	// haproxy may answer and close before it has read all.
	if _, err := io.WriteString(c, request); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Logf("write: %v", err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatalf("a request of %d bytes: %v", len(request), err)
	}
	status, err = strconv.Atoi(strings.Fields(line)[1])
	if err != nil {
		t.Fatal(err)
	}
	if status == 200 {
		arrived = <-n.requests
	}
	return status, arrived
}

const requestLine = "GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\n"

// limitedPath has the wrapper in front of all else.
func limitedPath(t *testing.T) (path, limits string) {
	t.Helper()
	here, err := filepath.Abs("agent-limits")
	if err != nil {
		t.Fatal(err)
	}
	return here + ":" + os.Getenv("PATH"), filepath.Join(here, "agent-limits.cfg")
}

// Whatever the guest sends, no request beyond the limit reaches the agent.
func TestAgentLimits(t *testing.T) {
	needTools(t, "haproxy", "env")
	path, limits := limitedPath(t)
	n := startNeutronProxy(t, path, limits)
	check := func(request string) int {
		status, arrived := n.ask(t, request)
		switch {
		case status == 400:
		case status != 200:
			t.Errorf("a request of %d bytes: %d", len(request), status)
		case len(arrived) > requestLimit || !bytes.HasSuffix(arrived, []byte("\r\n\r\n")):
			t.Errorf("a request of %d bytes reaches the agent with %d", len(request), len(arrived))
		}
		return status
	}
	pad := func(n int) string { return requestLine + "X-Pad: " + strings.Repeat("a", n) + "\r\n\r\n" }

	for what, request := range map[string]string{
		"an ordinary one": requestLine + "\r\n",
		"a token":         "PUT /identity/token?role=web&audience=https://vault.example.com HTTP/1.1\r\nHost: 169.254.169.254\r\nContent-Length: 0\r\n\r\n",
		"a query of 2.7 KB": "PUT /identity/token?role=web&audience=" + strings.Repeat("a", 2700) +
			" HTTP/1.1\r\nHost: 169.254.169.254\r\nContent-Length: 0\r\n\r\n",
	} {
		if status := check(request); status != 200 {
			t.Errorf("%s: %d", what, status)
		}
	}
	for what, request := range map[string]string{
		"a header of 5000 bytes":  pad(5000),
		"a header of 3072 bytes":  pad(3072),
		"a header of 20000 bytes": pad(20000),
		"a query of 3500 bytes":   "GET /?" + strings.Repeat("a", 3500) + " HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
		"many short headers":      requestLine + strings.Repeat("A: b\r\n", 800) + "\r\n",
	} {
		if status := check(request); status != 400 {
			t.Errorf("%s: %d, want 400", what, status)
		}
	}
	// Around the limit each length, and elsewhere any: one header, and many.
	for size := 2900; size < 3100; size++ {
		check(pad(size))
	}
	for end := 0; end < 6000; end += 61 {
		for _, length := range []int{0, 1, 7, 40, 300, 1500} {
			request := requestLine
			for i := 0; len(request) < end; i++ {
				request += "H" + strconv.Itoa(i) + ": " + strings.Repeat("v", length) + "\r\n"
			}
			check(request + "\r\n")
		}
	}
}

// Without the limit haproxy passes a longer request on: the test above sees a difference.
func TestAgentLimitsAreNeeded(t *testing.T) {
	needTools(t, "haproxy", "env")
	n := startNeutronProxy(t, os.Getenv("PATH"), "")
	status, arrived := n.ask(t, requestLine+"X-Pad: "+strings.Repeat("a", 5000)+"\r\n\r\n")
	if status != 200 || len(arrived) <= requestLimit {
		t.Errorf("without the limit a request of 5 KB gets %d and reaches the agent with %d bytes", status, len(arrived))
	}
}

// A haproxy of an agent does not start without its limit; another one is left alone.
func TestAgentLimitsWrapper(t *testing.T) {
	needTools(t, "haproxy", "env")
	path, limits := limitedPath(t)
	dir := t.TempDir()
	for _, name := range []string{"ns-metadata-proxy", "elsewhere"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	run := func(path, limits string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "/usr/bin/env", append([]string{"haproxy"}, args...)...)
		cmd.Env = append(os.Environ(), "PATH="+path, "NEUTRON_HAPROXY_LIMITS="+limits)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	const good = "defaults\n mode http\n timeout client 1s\n timeout server 1s\n timeout connect 1s\nlisten l\n bind 127.0.0.1:1\n"
	agents, others := write("ns-metadata-proxy/1.conf", good), write("elsewhere/1.conf", good)

	if out, err := run(path, limits, "-c", "-f", agents); err != nil {
		t.Errorf("with the limit: %v\n%s", err, out)
	}
	if out, err := run(path, filepath.Join(dir, "missing.cfg"), "-c", "-f", agents); err == nil || !strings.Contains(out, "missing.cfg can be read") {
		t.Errorf("without the file of the limit: %v\n%s", err, out)
	}
	// Of several files the first that can be read counts.
	if out, err := run(path, filepath.Join(dir, "missing.cfg")+":"+limits, "-c", "-f", agents); err != nil {
		t.Errorf("with the limit in the second place: %v\n%s", err, out)
	}
	if out, err := run(path, filepath.Join(dir, "missing.cfg")+":"+dir+"/none.cfg", "-c", "-f", agents); err == nil || !strings.Contains(out, "none.cfg can be read") {
		t.Errorf("without the file of the limit in two places: %v\n%s", err, out)
	}
	if out, err := run(path, filepath.Join(dir, "missing.cfg"), "-c", "-f", others); err != nil {
		t.Errorf("another configuration: %v\n%s", err, out)
	}
	// The next haproxy in PATH, such as Kolla's own wrapper, gets the limit first and then what the agent said.
	next := filepath.Join(dir, "bin")
	if err := os.Mkdir(next, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(next, "haproxy"), []byte("#!/bin/sh\necho \"next: $*\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	wrapper, _, _ := strings.Cut(path, ":")
	if out, err := run(wrapper+":"+next+":"+os.Getenv("PATH"), limits, "-f", agents); err != nil || out != "next: -f "+limits+" -f "+agents+"\n" {
		t.Errorf("the next haproxy: %v\n%s", err, out)
	}
	if out, err := run(wrapper+":"+wrapper+":"+next+":"+os.Getenv("PATH"), limits, "-v"); err != nil || out != "next: -v\n" {
		t.Errorf("the wrapper twice in PATH: %v\n%s", err, out)
	}
}
