//go:build agents

package agents_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// guest is an instance: a namespace, and what the cloud knows of it.
type guest struct {
	site      *site
	name      string
	namespace string
	device    string // the instance's ID
	project   string
	role      string // that no other guest may have
	mac       string
	v4        string
	index     int // of its interface
}

// answer is an answer as a guest reads it.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) String() string { return fmt.Sprintf("%d %v %.300q", a.status, a.header, a.body) }

const patience = 20 * time.Second

// inside calls f in the guest's namespace. Sockets that f makes in its own goroutine are there for good.
func (g *guest) inside(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// The first thread's namespace is the process's, as others see it. While this goroutine has it, f gets another.
			defer runtime.UnlockOSThread()
			done <- g.inside(f)
			return
		}
		// The thread is never unlocked, so it ends with the goroutine: nothing else runs in the namespace.
		done <- func() error {
			namespace, err := os.Open("/run/netns/" + g.namespace)
			if err != nil {
				return err
			}
			defer namespace.Close()
			if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-done
}

// dial connects; only within inside.
func dial(w way) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return new(net.Dialer).DialContext(ctx, "tcp", w.address)
}

// converse sends pieces of bytes, each in a segment of its own, and reads one answer for each method.
func (g *guest) converse(w way, methods []string, pieces ...string) ([]answer, error) {
	var c net.Conn
	if err := g.inside(func() (err error) {
		c, err = dial(w)
		return err
	}); err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	for i, piece := range pieces {
		if i > 0 {
			<-time.After(50 * time.Millisecond) // haproxy has read the piece before
		}
		// haproxy may have answered and closed.
		if _, err := io.WriteString(c, piece); err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
			return nil, err
		}
	}
	return readAnswers(bufio.NewReader(c), methods)
}

// readAnswers reads the answers to requests with these methods. Interim answers are left out.
func readAnswers(r *bufio.Reader, methods []string) (answers []answer, err error) {
	for len(answers) < len(methods) {
		method := methods[len(answers)]
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return answers, fmt.Errorf("answer %d: %w", len(answers)+1, err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return answers, fmt.Errorf("the body of answer %d (%d, %.200q): %w", len(answers)+1, resp.StatusCode, body, err)
		}
		if resp.StatusCode >= 200 {
			answers = append(answers, answer{resp.StatusCode, resp.Header, string(body)})
		}
	}
	return answers, nil
}

// ask sends a whole request, or pieces of one, and checks what must hold for each answer.
func (g *guest) ask(w way, pieces ...string) (answer, error) {
	method, _, _ := strings.Cut(pieces[0], " ")
	got, err := g.converse(w, []string{method}, pieces...)
	if err != nil {
		return answer{}, err
	}
	return got[0], g.check(strings.ToUpper(method), got[0])
}
