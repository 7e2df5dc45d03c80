package state

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func TestAnswers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		stream string
		good   bool
	}{
		{"nothing", "", true},
		{"a status, a number, an error", "+OK\r\n:1\r\n-ERR x\r\n", true},
		{"a string with line ends in it", "$6\r\n*9\r\n$9\r\n:1\r\n", true},
		{"no string and no array", "$-1\r\n*-1\r\n", true},
		{"an empty string, and an empty array", "$0\r\n\r\n*0\r\n", true},
		{"arrays in arrays", "*2\r\n*2\r\n$1\r\na\r\n:1\r\n*0\r\n+OK\r\n", true},
		{"RESP3", "%1\r\n+a\r\n_\r\n#t\r\n~1\r\n,1.5\r\n=7\r\ntxt:abc\r\n", true},
		{"many answers", strings.Repeat("*2\r\n$3\r\nabc\r\n:1\r\n", 1<<16), true},
		{"many long answers", strings.Repeat("$1048576\r\n"+strings.Repeat("x", 1<<20)+"\r\n", 20), true},

		{"a string of gigabytes", "$9000000000\r\n", false},
		{"a string of half a gigabyte", "$500000000\r\n", false},
		{"a string of -2 bytes", "$-2\r\n", false},
		{"a string whose length is not a number", "$a\r\n", false},
		{"a string without a length", "$\r\n", false},
		{"an array of a billion", "*999999999\r\n", false},
		{"an array of -2 elements", "*-2\r\n", false},
		{"a map of a million", "%1000000\r\n", false},
		{"an attribute of a million", "|1000000\r\n", false},
		{"arrays without end", strings.Repeat("*1\r\n", 1000), false},
		{"arrays without end, after other elements", strings.Repeat("*2\r\n:1\r\n", 1000), false},
		{"an array of long strings", "*100\r\n" + strings.Repeat("$1048576\r\n"+strings.Repeat("x", 1<<20)+"\r\n", 20), false},
		{"a line without end", strings.Repeat("x", maxAnswerLine+1), false},
		{"a web page", "HTTP/1.1 400 Bad Request\r\n\r\n", false},
		{"an empty line", "\r\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, step := range []int{1, 7, 4096} {
				if step == 1 && len(tt.stream) > 1<<21 {
					continue
				}
				var a answers
				var err error
				for rest := tt.stream; rest != "" && err == nil; {
					n := min(step, len(rest))
					err = a.add([]byte(rest[:n]))
					rest = rest[n:]
				}
				if (err == nil) != tt.good || (err != nil && !errors.Is(err, errAnswer)) {
					t.Errorf("in steps of %d: %v", step, err)
				}
				if err == nil && tt.stream != "" && (len(a.open) > 0 || a.bulk > 0 || a.total > 0) {
					t.Errorf("in steps of %d it has not ended: %+v", step, a)
				}
			}
		})
	}
}

// After any answer of a Redis, calls return in time, and the process does not crash.
func TestRedisThatAnswersAnything(t *testing.T) {
	for _, answer := range []string{
		"$9000000000000000000\r\n", "$2147483647\r\n", "$-7\r\nx\r\n", "*999999999999\r\n", "*2147483647\r\n", "*-5\r\n",
		strings.Repeat("*1\r\n", 1<<20), "%-1\r\n", "+\r\n", "\r\n", "\n", ":x\r\n", ":999999999999999999999999\r\n", "HTTP/1.1 400 Bad Request\r\n\r\n",
		"*0\r\n", "*1\r\n*0\r\n", "*1\r\n:5\r\n", "*1\r\n$3\r\nabc\r\n", "*3\r\n$1\r\n0\r\n:1\r\n:2\r\n", "*1\r\n$-1\r\n", ":-1\r\n", ":0\r\n", "$-1\r\n", "$1\r\nx\r\n",
		"-\r\n", "-ERR\r\n", "-NOSCRIPT x\r\n", "_\r\n", "#t\r\n", "(123456789012345678901234567890\r\n", "|1\r\n+a\r\n+b\r\n:1\r\n", ">2\r\n+a\r\n+b\r\n", "\x00\xff\x16\x03\x01\x00",
	} {
		t.Run(answer[:min(len(answer), 30)], func(t *testing.T) {
			t.Parallel()
			if testing.Short() && !strings.HasSuffix(answer, "\n") {
				t.Skip("each call waits a second for the end of the answer")
			}
			reached := make(chan struct{}, 1000)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go answerWith(c, answer, reached)
				}
			}()
			r, err := OpenRedis(RedisConfig{Addresses: []string{l.Addr().String()}, Prefix: "ona:"})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			later := time.Now().Add(time.Hour)
			for range 2 {
				if n, err := r.Increment(t.Context(), "k", later); err == nil && n < 1 {
					t.Errorf("Increment = %d", n)
				}
				if n, err := r.Count(t.Context(), "k"); err == nil && n < 0 {
					t.Errorf("Count = %d", n)
				}
				_, _ = r.Get(t.Context(), "k")
				_ = r.Put(t.Context(), "k", []byte("v"), later)
				_ = r.GiveBack(t.Context(), "k", 1)
				_ = r.Update(t.Context(), "k", func([]byte) ([]byte, error) { return []byte("v"), nil })
				_ = r.Forget(t.Context(), "k")
				_ = r.Scan(t.Context(), "", func(Entry) bool { return true })
			}
			if len(reached) == 0 {
				t.Error("the answer was never sent")
			}
		})
	}
}

// answerWith is a Redis that gives one answer to all commands after the greeting.
func answerWith(c net.Conn, answer string, reached chan<- struct{}) {
	defer c.Close()
	const info = "# Server\r\nredis_mode:standalone\r\nrole:master\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n"
	in := bufio.NewReader(c)
	for {
		var words int
		if _, err := fmt.Fscanf(in, "*%d\r\n", &words); err != nil {
			return
		}
		var command string
		for i := range words {
			var length int
			if _, err := fmt.Fscanf(in, "$%d\r\n", &length); err != nil {
				return
			}
			word := make([]byte, length+2)
			if _, err := io.ReadFull(in, word); err != nil {
				return
			}
			if i == 0 {
				command = strings.ToLower(string(word[:length]))
			}
		}
		say := answer
		switch command {
		case "hello":
			say = "-ERR unknown command\r\n"
		case "info":
			say = fmt.Sprintf("$%d\r\n%s\r\n", len(info), info)
		case "select", "client":
			say = "+OK\r\n"
		default:
			select {
			case reached <- struct{}{}:
			default:
			}
		}
		if _, err := io.WriteString(c, say); err != nil {
			return
		}
	}
}
