package statetest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Process is a server that a test started, on a port of the loopback and with a
// folder of its own.
type Process struct {
	// Addr is the host:port where it listens.
	Addr string
	// Dir is its folder, where it keeps what it writes.
	Dir string

	tb   testing.TB
	path string
	args []string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// StartRedis runs the redis-server of this machine until the test ends. It writes
// nothing to its disk unless args (as --appendonly yes) say so. Without one the
// test is skipped, but fails if $CI is true.
func StartRedis(tb testing.TB, args ...string) *Process {
	tb.Helper()
	return start(tb, "redis-server", append([]string{"--save", "", "--appendonly", "no"}, args...))
}

// StartSentinel runs a redis-sentinel with these lines of configuration, as
// StartRedis does.
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
	path, err := exec.LookPath(program)
	if err != nil {
		if os.Getenv("CI") == "true" {
			tb.Fatalf("%s is not installed: %v", program, err)
		}
		tb.Skipf("%s is not installed: %v", program, err)
	}
	for range 5 { // somebody else may be faster to take the port
		p := &Process{Addr: FreeAddr(tb), Dir: Dir(tb), tb: tb, path: path, args: args}
		err = p.run()
		tb.Cleanup(p.Kill)
		if err == nil {
			return p
		}
	}
	tb.Fatal(err)
	return nil
}

// Dir is a folder that goes with the test, in memory where the system has such a
// place: a state that waits for its disk for more than a second or two is one that
// is away, and the disk of a machine that builds and tests can be that slow. A
// benchmark's folder is on the disk.
func Dir(tb testing.TB) string {
	tb.Helper()
	const memory = "/dev/shm"
	if _, ok := tb.(*testing.B); ok {
		return tb.TempDir()
	}
	dir, err := os.MkdirTemp(memory, "state-") //nolint:usetesting // that is on the disk
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// FreeAddr is a host:port of the loopback where nobody listens.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (p *Process) run() error {
	_, port, _ := net.SplitHostPort(p.Addr)
	output, err := os.OpenFile(filepath.Join(p.Dir, "output"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	args := p.args
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") { // the configuration comes first
		args = append(append([]string{args[0]}, p.where(port)...), args[1:]...)
	} else {
		args = append(p.where(port), args...)
	}
	p.cmd = exec.Command(p.path, args...) //nolint:noctx // Kill ends it
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = p.Dir, output, output
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.done = make(chan struct{})
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !p.answers() {
		select {
		case <-tick.C:
		case <-p.done:
			text, _ := os.ReadFile(output.Name())
			return fmt.Errorf("%s has ended: %s", p.path, text)
		case <-deadline:
			return fmt.Errorf("%s does not answer", p.path)
		}
	}
	return nil
}

func (p *Process) where(port string) []string {
	return []string{"--port", port, "--bind", "127.0.0.1", "--dir", p.Dir}
}

// answers says whether it is up; one that wants a password is.
func (p *Process) answers() bool {
	answer, err := p.do("PING")
	return err == nil && (strings.HasPrefix(answer, "+PONG") || strings.HasPrefix(answer, "-NOAUTH"))
}

// Do sends a command, and gives the first line of the
// answer; an answer that is an error fails the test.
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

// Signal sends it a signal, as SIGSTOP and SIGCONT.
func (p *Process) Signal(s syscall.Signal) {
	p.tb.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.tb.Fatal(err)
	}
}

// Kill ends it as kill -9 does, and waits for that.
func (p *Process) Kill() {
	if p.cmd.Process != nil {
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// Restart runs it again, after a Kill or instead of one, at the same port and in
// the same folder.
func (p *Process) Restart() {
	p.tb.Helper()
	p.Kill()
	if err := p.run(); err != nil {
		p.tb.Fatal(err)
	}
}
