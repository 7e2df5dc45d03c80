package statetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
)

// Process is a server that a test started on a port of 127.0.0.1.
type Process struct {
	Addr string // host:port where it listens
	Dir  string // to which it writes its files

	tb   testing.TB
	path string
	args []string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// StartRedis runs redis-server until the test ends. It writes nothing to its disk unless
// args make it, as --appendonly yes does. If redis-server is not installed, the test is
// skipped, but fails if $CI is true. With -short the test is skipped.
func StartRedis(tb testing.TB, args ...string) *Process {
	tb.Helper()
	return start(tb, "redis-server", append([]string{"--save", "", "--appendonly", "no"}, args...))
}

// StartSentinel is StartRedis for redis-sentinel with these lines of configuration.
func StartSentinel(tb testing.TB, config ...string) *Process {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "sentinel.conf")
	if err := os.WriteFile(file, []byte(strings.Join(config, "\n")+"\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	return start(tb, "redis-sentinel", []string{file})
}

func start(tb testing.TB, program string, args []string) *Process {
	tb.Helper()
	if testing.Short() {
		tb.Skip("starts " + program)
	}
	path, err := exec.LookPath(program)
	if err != nil {
		if os.Getenv("CI") == "true" {
			tb.Fatal(err)
		}
		tb.Skip(err)
	}
	ports, err := awaittest.FreePorts(5)
	for _, port := range ports { // another program may take a port first
		p := &Process{Addr: "127.0.0.1:" + port, Dir: Dir(tb), tb: tb, path: path, args: args}
		err = p.run()
		tb.Cleanup(p.Kill)
		if err == nil {
			return p
		}
	}
	tb.Fatal(err)
	return nil
}

// Dir returns a folder that is removed after the test. It is in memory if possible,
// because a state fails if its disk needs more than two seconds, and the disk of a
// machine that runs tests can be that slow. The folder of a benchmark is on the disk.
func Dir(tb testing.TB) string {
	tb.Helper()
	const memory = "/dev/shm"
	if _, ok := tb.(*testing.B); ok {
		return tb.TempDir()
	}
	dir, err := os.MkdirTemp(memory, "state-") //nolint:usetesting // TempDir is on the disk
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (p *Process) run() error {
	_, port, _ := net.SplitHostPort(p.Addr)
	output, err := os.OpenFile(filepath.Join(p.Dir, "output"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	args := []string{"--port", port, "--bind", "127.0.0.1", "--dir", p.Dir}
	if len(p.args) > 0 && !strings.HasPrefix(p.args[0], "-") { // a configuration must come first
		args = slices.Concat(p.args[:1], args, p.args[1:])
	} else {
		args = append(args, p.args...)
	}
	p.cmd = exec.Command(p.path, args...) //nolint:noctx // Kill ends it
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = p.Dir, output, output
	if err := p.cmd.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	p.done = done
	go func() {
		_ = p.cmd.Wait()
		cancel()
		close(done)
	}()
	if err := awaittest.Poll(ctx, 20*time.Second, func() error {
		answer, err := p.do("PING")
		if err == nil && !strings.HasPrefix(answer, "+PONG") && !strings.HasPrefix(answer, "-NOAUTH") { // it may require a password
			err = errors.New(answer)
		}
		return err
	}); err != nil {
		text, _ := os.ReadFile(output.Name())
		return fmt.Errorf("%s does not answer: %w\n%s", p.path, err, text)
	}
	return nil
}

// Do sends a command and returns the first line of the answer. An error fails the test.
func (p *Process) Do(words ...string) string {
	p.tb.Helper()
	answer, err := p.do(words...)
	if err != nil || strings.HasPrefix(answer, "-") {
		p.tb.Fatalf("%s = %s, %v", strings.Join(words, " "), answer, err)
	}
	return answer
}

func (p *Process) do(words ...string) (string, error) {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(p.tb.Context(), "tcp", p.Addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	var command strings.Builder
	fmt.Fprintf(&command, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&command, "$%d\r\n%s\r\n", len(w), w)
	}
	if _, err := conn.Write([]byte(command.String())); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}

// Signal sends a signal, such as SIGSTOP and SIGCONT.
func (p *Process) Signal(s syscall.Signal) {
	p.tb.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.tb.Fatal(err)
	}
}

// Kill ends the server as kill -9 does, and waits until it has ended.
func (p *Process) Kill() {
	if p.cmd.Process != nil {
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// Restart kills the server and runs it again, at the same port and in the same folder.
func (p *Process) Restart() {
	p.tb.Helper()
	p.Kill()
	if err := p.run(); err != nil {
		p.tb.Fatal(err)
	}
}
