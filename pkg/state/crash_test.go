package state_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

// counterEnv makes a run of this test binary a counter: another process.
const counterEnv = "STATE_TEST_COUNTER"

func TestMain(m *testing.M) {
	if text := os.Getenv(counterEnv); text != "" {
		var c counter
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			panic(err)
		}
		c.run()
		os.Exit(0) //nolint:forbidigo // a program of its own
	}
	if text := os.Getenv(damageEnv); text != "" {
		runDamages(text)
		os.Exit(0) //nolint:forbidigo // a program of its own
	}
	os.Exit(m.Run()) //nolint:forbidigo // a TestMain has no other way to fail
}

// counter is a process that counts, and says on stdout what it was answered.
type counter struct {
	Store   state.Config
	Callers int
	Calls   int // of each caller; 0: until it is killed
	// GiveBack has every second number given back and not said.
	GiveBack bool
}

// answered is a line of a counter.
type answered struct {
	key string // of a count; "value" for a value that was replaced
	n   int64
	err string // instead
}

const counterKeys = 2

// run counts with all callers, and replaces a value with one more.
func (c counter) run() {
	var mu sync.Mutex
	say := func(key string, n int64, err error) {
		problem := ""
		if err != nil {
			problem = err.Error()
			<-time.After(10 * time.Millisecond) // as nobody tries again at once
		}
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(os.Stdout, "%s %d %q\n", key, n, problem)
	}
	s, err := state.Open(c.Store)
	if err != nil {
		say("open", 0, err)
		return
	}
	ctx := context.Background()
	var wg sync.WaitGroup
	repeat := func(call func()) {
		wg.Go(func() {
			for i := 0; i < c.Calls || c.Calls == 0; i++ {
				call()
			}
		})
	}
	for i := range c.Callers {
		key, keep := fmt.Sprint("k", i%counterKeys), false
		repeat(func() {
			n, err := s.Increment(ctx, key, time.Now().Add(time.Hour))
			if keep = !keep; c.GiveBack && err == nil && !keep {
				if err = s.GiveBack(ctx, key, n); err == nil {
					return
				}
			}
			say(key, n, err)
		})
	}
	repeat(func() {
		var n int64
		err := s.Update(ctx, "value", func(old []byte) ([]byte, error) {
			n, _ = strconv.ParseInt(string(old), 10, 64)
			n++
			return strconv.AppendInt(nil, n, 10), nil
		})
		say("value", n, err)
	})
	wg.Wait()
	_ = s.Close()
}

// start runs it, and gives its lines until it has ended.
func (c counter) start(t *testing.T) (_ *exec.Cmd, lines <-chan answered) {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), counterEnv+"="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	all := make(chan answered)
	go func() {
		defer close(all)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			var a answered
			if _, err := fmt.Sscanf(scan.Text(), "%s %d %q", &a.key, &a.n, &a.err); err == nil { // the last may be half
				all <- a
			}
		}
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		for range all { // until it has ended
		}
	})
	return cmd, all
}

// Two processes that give every second number back keep none twice.
func TestTwoProcessesKeepNoNumberTwice(t *testing.T) {
	server := statetest.StartRedis(t)
	config := state.Config{Type: state.TypeRedis, Redis: redisConfig(server)}
	r := initRedis(t, config.Redis)
	kept := map[string]map[int64]bool{"k0": {}, "k1": {}, "value": {}}
	var outputs []<-chan answered
	for range 2 {
		_, lines := counter{Store: config, Callers: 20, Calls: 40, GiveBack: true}.start(t)
		outputs = append(outputs, lines)
	}
	for _, lines := range outputs {
		for a := range lines {
			if a.err != "" || kept[a.key][a.n] {
				t.Fatalf("%+v, and it was kept already: %t", a, kept[a.key][a.n])
			}
			kept[a.key][a.n] = true
		}
	}
	for _, key := range []string{"k0", "k1"} {
		if n, err := r.Count(t.Context(), key); n != 2*10*20 || n != int64(len(kept[key])) || err != nil {
			t.Errorf("%s counts %d, %v; %d are kept", key, n, err, len(kept[key]))
		}
	}
}

// Two processes, each with 64 callers, are given each number once.
func TestTwoProcessesAreGivenNoNumberTwice(t *testing.T) {
	const callers, calls = 64, 20
	server := statetest.StartRedis(t)
	config := state.Config{Type: state.TypeRedis, Redis: redisConfig(server)}
	initRedis(t, config.Redis)
	numbers := map[string][]int64{}
	var outputs []<-chan answered
	for range 2 {
		_, lines := counter{Store: config, Callers: callers, Calls: calls}.start(t)
		outputs = append(outputs, lines)
	}
	for _, lines := range outputs {
		for a := range lines {
			if a.err != "" {
				t.Fatal(a)
			}
			numbers[a.key] = append(numbers[a.key], a.n)
		}
	}
	for key, want := range map[string]int{"k0": callers * calls, "k1": callers * calls, "value": 2 * calls} {
		got := numbers[key]
		slices.Sort(got)
		if len(got) != want || got[0] != 1 || got[want-1] != int64(want) || len(slices.Compact(slices.Clone(got))) != want {
			t.Errorf("%s: %d numbers were given, from %d to %d, %d different ones; %d are wanted",
				key, len(got), got[0], got[len(got)-1], len(slices.Compact(slices.Clone(got))), want)
		}
	}
}

// What was answered is never forgotten, whenever the process is killed, or the
// Redis that it counts in: no number comes twice.
func TestWhatWasAnsweredSurvivesAKill(t *testing.T) {
	for _, tt := range []struct {
		name  string
		redis bool
		kill  bool // Redis, not the process
		back  bool // numbers are given back, too
	}{
		{"file", false, false, false},
		{"redis, the process is killed", true, false, false},
		{"redis is killed", true, true, false},
		{"file, and numbers are given back", false, false, true},
		{"redis is killed, and numbers are given back", true, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config := state.Config{Type: state.TypeFile, File: state.FileConfig{Path: filepath.Join(statetest.Dir(t), "state.db")}}
			var server *statetest.Process
			if tt.redis {
				server = statetest.StartRedis(t, "--appendonly", "yes", "--appendfsync", "always")
				config = state.Config{Type: state.TypeRedis, Redis: redisConfig(server)}
				initRedis(t, config.Redis)
			}
			seen := map[string]map[int64]bool{"k0": {}, "k1": {}, "value": {}}
			for round := range 6 {
				cmd, lines := counter{Store: config, Callers: 8, GiveBack: tt.back}.start(t)
				before, n, after := 100+37*round, 0, 0
				var killing sync.WaitGroup
				for a := range lines {
					n++
					switch {
					case a.err == "" && seen[a.key][a.n]:
						t.Fatalf("round %d: %s was answered %d for the second time", round, a.key, a.n)
					case a.err == "":
						seen[a.key][a.n] = true
					case n <= before || !tt.kill:
						t.Fatalf("round %d: %+v", round, a)
					case after == 0: // Redis has gone
						killing.Wait()
						server.Restart()
						after = n
					case n > after+5000: // some were said before
						t.Fatalf("round %d: Redis is back, and still %s", round, a.err)
					}
					if n == before { // not here: the counter has to go on meanwhile
						killing.Go(func() {
							if tt.kill {
								server.Kill()
							} else {
								_ = cmd.Process.Kill()
							}
						})
					}
					if after > 0 && a.err == "" && n > after+500 { // the counter has gone on
						_ = cmd.Process.Kill()
					}
				}
				killing.Wait()
				if n < before || (tt.kill && after == 0) {
					t.Fatalf("round %d ended after %d answers", round, n)
				}
			}
			s, err := state.Open(config)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			value, err := s.Get(t.Context(), "value")
			wrote := highest(seen["value"])
			if n, _ := strconv.ParseInt(string(value), 10, 64); n < wrote || n == 0 || err != nil {
				t.Errorf("the value is %q, %v; %d had been written", value, err, wrote)
			}
			for _, key := range []string{"k0", "k1"} {
				if tt.back {
					for range 50 { // none that was answered and not given back
						if n, err := s.Increment(t.Context(), key, time.Now().Add(time.Hour)); err != nil || seen[key][n] {
							t.Errorf("%s was answered %d for the second time, %v", key, n, err)
						}
					}
					continue
				}
				if n, err := s.Count(t.Context(), key); n < highest(seen[key]) || n == 0 || err != nil {
					t.Errorf("%s counts %d, %v; %d had been answered", key, n, err, highest(seen[key]))
				}
			}
		})
	}
}

func highest(seen map[int64]bool) int64 { return slices.Max(slices.Collect(maps.Keys(seen))) }
