//go:build agents || lab

// Package guestfuzz is for tests of the metadata service: it sends random requests as a guest that would like to be another
// one, and checks each answer. It promises that a seed makes the same requests, and that nothing of another guest, and no
// token that was not asked for with PUT, stays unnoticed. It does not know how the guest is connected.
package guestfuzz

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2" //nolint:depguard // a seed repeats a run; nothing here is secret
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Patience is how long a guest waits for a connection, and for an answer.
const Patience = 20 * time.Second

// Guest is an instance as the cloud knows it.
type Guest struct {
	Name, ID, Project string
	Address           string
	Role              string // that no other guest may have
	ForAll            string // a role that each guest may have
	// Verify checks a token, and returns its subject and its project.
	Verify func(token string) (subject, project string, err error)
}

// Way is an address, with its port, at which a guest finds the metadata service.
type Way struct{ Name, Address string }

// Dial connects. Call it within [Inside].
func (w Way) Dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", w.Address)
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(Patience))
}

// Inside calls f in a network namespace of /run/netns. Sockets that f makes in its own goroutine are there for good.
func Inside(namespace string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// The first thread's namespace is the process's, as others see it. While this goroutine has it, f gets another.
			defer runtime.UnlockOSThread()
			done <- Inside(namespace, f)
			return
		}
		// The thread is never unlocked, so it ends with the goroutine: nothing else runs in the namespace.
		done <- func() error {
			file, err := os.Open("/run/netns/" + namespace)
			if err != nil {
				return err
			}
			defer file.Close()
			if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-done
}

// Counts are what was seen. Refusals are those of the authenticator that arrived whole.
type Counts struct{ Connections, Answers, Tokens, Refusals, Cut atomic.Int64 }

func (c *Counts) String() string {
	return fmt.Sprintf("%d connections, %d answers, of which %d have a token and %d are refusals of the authenticator; %d were cut short by us",
		c.Connections.Load(), c.Answers.Load(), c.Tokens.Load(), c.Refusals.Load(), c.Cut.Load())
}

// Fuzzer makes the requests of a worker.
type Fuzzer struct {
	*rand.Rand
	Guest, Other Guest
	Ways         []Way
	Seen         *Counts
}

// NewRand gives the numbers of a worker.
func NewRand(seed uint64, worker int) *rand.Rand {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	binary.LittleEndian.PutUint64(key[8:], uint64(worker)) //nolint:gosec // a small number
	return rand.New(rand.NewChaCha8(key))                  //nolint:gosec // as above
}

// Run sends until end, and returns the first fault with all that was sent. Call it within [Inside].
func (f *Fuzzer) Run(end time.Time) error {
	for n := 1; time.Now().Before(end); n++ {
		w := f.Ways[f.IntN(len(f.Ways))]
		if n%200 == 0 {
			if err := f.still(w); err != nil {
				return fmt.Errorf("connection %d (%s): %w", n, w.Name, err)
			}
		}
		sent, whole := f.conversation()
		if err := f.once(w, sent, whole); err != nil {
			return fmt.Errorf("connection %d (%s): %w\nsent: %q", n, w.Name, err, sent)
		}
	}
	return nil
}

// still wants a token, within the time that a busy agent needs.
func (f *Fuzzer) still(w Way) error {
	sent := "PUT /identity/token?role=" + f.Guest.Role + " HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n"
	var last error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
		c, err := w.Dial()
		if err != nil {
			last = err
			continue
		}
		var answer []byte
		if _, err = io.WriteString(c, sent); err == nil {
			answer, err = io.ReadAll(c)
		}
		_ = c.Close()
		if err := f.Guest.Check(string(answer), true); err != nil {
			return err
		}
		if JWT.Match(answer) {
			return nil
		}
		last = fmt.Errorf("%.300q %w", answer, err)
	}
	return fmt.Errorf("no token any more: %w", last)
}

// once sends a conversation in pieces, and checks all that comes back.
func (f *Fuzzer) once(w Way, sent string, whole bool) error {
	c, err := w.Dial()
	if err != nil {
		return err
	}
	defer c.Close()
	f.Seen.Connections.Add(1)
	for rest := sent; rest != ""; {
		n := len(rest)
		if f.chance(10) {
			n = 1 + f.IntN(n)
		}
		if _, err := io.WriteString(c, rest[:n]); err != nil {
			break // haproxy has refused the request and closed the connection
		}
		if rest = rest[n:]; rest != "" && f.chance(50) {
			<-time.After(time.Duration(f.IntN(20)) * time.Millisecond)
		}
	}
	// haproxy waits half a minute for the rest of a request that is not whole.
	idle := 300 * time.Millisecond
	if whole {
		idle = 3 * time.Second
	}
	var all []byte
	for buffer := make([]byte, 32<<10); ; {
		_ = c.SetReadDeadline(time.Now().Add(idle))
		n, err := c.Read(buffer)
		all = append(all, buffer[:n]...)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			f.Seen.Cut.Add(1)
		}
		if err != nil {
			break
		}
	}
	f.Seen.Tokens.Add(int64(len(JWT.FindAll(all, -1))))
	heads := statusLine.FindAllSubmatchIndex(all, -1)
	for i, at := range heads {
		end := len(all)
		if i+1 < len(heads) {
			end = heads[i+1][0]
		}
		f.Seen.Answers.Add(1)
		if err := f.one(string(all[at[2]:at[3]]), string(all[at[1]:end]), sent); err != nil {
			return fmt.Errorf("%w: %.4000q", err, all)
		}
	}
	if len(heads) == 0 && len(all) > 0 {
		return fmt.Errorf("no answer: %.4000q", all)
	}
	return nil
}

// one checks what follows the status line of an answer.
func (f *Fuzzer) one(status, rest, sent string) error {
	if strings.Contains(rest, `"request_id"`) {
		f.Seen.Refusals.Add(1)
		if !slices.Contains([]string{"400", "403", "404", "409", "500"}, status) {
			return fmt.Errorf("the authenticator answers %s", status)
		}
	}
	return f.Guest.Check(rest, strings.Contains(strings.ToUpper(sent), http.MethodPut))
}

// JWT matches a token in an answer.
var JWT = regexp.MustCompile(`eyJ[\w-]+\.[\w-]+\.[\w-]+`)

var (
	statusLine = regexp.MustCompile(`HTTP/1\.[01] (\d+)[^\r]*\r\n`)
	uuid       = regexp.MustCompile(`"uuid": ?"([^"]*)"`)
	hasRoles   = regexp.MustCompile(`"roles":(\[[^\]]*\])`)
	vendordata = regexp.MustCompile(`"document": ?"`)
)

// Check returns what must never be in an answer to this guest: something of another guest, or a token that was not asked
// for. Nova's own answers are known by the field uuid; vendordata has tokens without being asked.
func (g Guest) Check(text string, mayHaveToken bool) error {
	for _, token := range JWT.FindAllString(text, -1) {
		subject, project, err := g.Verify(token)
		if err != nil {
			return fmt.Errorf("a token that is not valid: %w", err)
		}
		if subject != g.ID || project != g.Project {
			return fmt.Errorf("%s has a token of %s in %s", g.Name, subject, project)
		}
		if !mayHaveToken && !vendordata.MatchString(text) {
			return errors.New("a token that was not asked for")
		}
	}
	for _, m := range uuid.FindAllStringSubmatch(text, -1) {
		if m[1] != g.ID {
			return fmt.Errorf("%s has the metadata of %s", g.Name, m[1])
		}
	}
	for _, m := range hasRoles.FindAllStringSubmatch(text, -1) {
		var roles []string
		if err := json.Unmarshal([]byte(m[1]), &roles); err != nil || !slices.Equal(roles, []string{g.ForAll, g.Role}) {
			return fmt.Errorf("%s has the roles %s", g.Name, m[1])
		}
	}
	return nil
}
