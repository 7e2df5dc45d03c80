//go:build agents

package agents_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2" //nolint:depguard // a seed repeats a run; nothing here is secret
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const shortFuzz = 3 * time.Second // of each agent, in TestWithLimit

// TestFuzz sends random requests of two guests at once, and checks each answer. AGENTS_FUZZ is the time for each release, of
// which each of its agents gets an equal part; AGENTS_SEED, which is printed, makes the same requests.
func TestFuzz(t *testing.T) {
	text := os.Getenv("AGENTS_FUZZ")
	if text == "" {
		t.Skip("AGENTS_FUZZ is not set; TestWithLimit has a short run")
	}
	all, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	eachAgent(t, func(t *testing.T, r release, kind string) {
		fuzz(t, newSite(t, r, kind, true, settings{}), all/time.Duration(len(kinds)))
	})
}

// counts are what was seen.
type counts struct{ connections, answers, tokens, refused, cut atomic.Int64 }

func fuzz(t *testing.T, s *site, each time.Duration) {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("AGENTS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("AGENTS_SEED=%d, for %v", seed, each)
	end := time.Now().Add(each)
	var seen counts
	var wait sync.WaitGroup
	for i, g := range []*guest{s.web, s.db, s.web} {
		wait.Go(func() {
			var key [32]byte
			binary.LittleEndian.PutUint64(key[:], seed)
			binary.LittleEndian.PutUint64(key[8:], uint64(i))
			f := &fuzzer{Rand: rand.New(rand.NewChaCha8(key)), guest: g, other: s.db, seen: &seen}
			if g == s.db {
				f.other = s.web
			}
			if err := g.inside(func() error { return f.run(end) }); err != nil {
				t.Errorf("AGENTS_SEED=%d, worker %d, %v", seed, i, err)
			}
		})
	}
	wait.Wait()
	t.Logf("%d connections, %d answers, of which %d have a token and %d are refusals of the door; %d were cut short by us",
		seen.connections.Load(), seen.answers.Load(), seen.tokens.Load(), seen.refused.Load(), seen.cut.Load())
	if seen.tokens.Load() == 0 || seen.refused.Load() == 0 && !s.wsgi {
		t.Error("the requests are of one sort only")
	}
}

// fuzzer makes the requests of one worker.
type fuzzer struct {
	*rand.Rand
	guest, other *guest
	seen         *counts
}

func (f *fuzzer) run(end time.Time) error {
	ways := f.guest.site.ways(f.guest)
	for n := 1; time.Now().Before(end); n++ {
		w := ways[f.IntN(len(ways))]
		if n%200 == 0 { // the agent works as before
			if err := f.still(w); err != nil {
				return fmt.Errorf("connection %d (%s): %w", n, w.name, err)
			}
		}
		sent, whole := f.conversation()
		if err := f.once(w, sent, whole); err != nil {
			return fmt.Errorf("connection %d (%s): %w\nsent: %q", n, w.name, err, sent)
		}
	}
	return nil
}

// still wants a token, within the time that a busy agent needs.
func (f *fuzzer) still(w way) error {
	var last error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
		c, err := dial(w)
		if err != nil {
			last = err
			continue
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		_, err = io.WriteString(c, request("PUT /identity/token?role="+f.guest.role))
		if err == nil {
			var got []answer
			if got, err = readAnswers(bufio.NewReader(c), []string{http.MethodPut}); err == nil {
				if err := f.guest.check(http.MethodPut, got[0]); err != nil {
					_ = c.Close()
					return err
				}
				if got[0].status != http.StatusOK {
					err = errors.New(got[0].String())
				}
			}
		}
		_ = c.Close()
		if err == nil {
			return nil
		}
		last = err
	}
	return fmt.Errorf("no token any more: %w", last)
}

// once sends a conversation in pieces, and checks all that comes back.
func (f *fuzzer) once(w way, sent string, whole bool) error {
	c, err := dial(w)
	if err != nil {
		return err
	}
	defer c.Close()
	f.seen.connections.Add(1)
	_ = c.SetDeadline(time.Now().Add(patience))
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
			f.seen.cut.Add(1)
		}
		if err != nil {
			break
		}
	}
	f.seen.tokens.Add(int64(len(jwt.FindAll(all, -1))))
	heads := statusLine.FindAllSubmatchIndex(all, -1)
	for i, at := range heads {
		end := len(all)
		if i+1 < len(heads) {
			end = heads[i+1][0]
		}
		f.seen.answers.Add(1)
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
func (f *fuzzer) one(status, rest, sent string) error {
	if strings.Contains(rest, `"request_id"`) {
		f.seen.refused.Add(1)
		if !slices.Contains([]string{"400", "403", "404", "409", "500"}, status) {
			return fmt.Errorf("the door answers %s", status)
		}
	}
	return f.guest.checkText(rest, strings.Contains(strings.ToUpper(sent), http.MethodPut))
}

var statusLine = regexp.MustCompile(`HTTP/1\.[01] (\d+)[^\r]*\r\n`)
