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

// counterEnv makes this test binary run a counter, in another process.
const counterEnv = "STATE_TEST_COUNTER"

func TestMain(m *testing.M) {
	if text := os.Getenv(counterEnv); text != "" {
		var c counter
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			panic(err)
		}
		c.run()
		os.Exit(0) //nolint:forbidigo // it is not a test
	}
	if text := os.Getenv(damageEnv); text != "" {
		runDamages(text)
		os.Exit(0) //nolint:forbidigo // it is not a test
	}
	os.Exit(m.Run()) //nolint:forbidigo // TestMain cannot fail in another way
}

// counter is a process that counts and prints the answers.
type counter struct {
	Store    state.Config
	Callers  int
	Calls    int  // of each caller; 0 means until the process is killed
	GiveBack bool // give every second number back, and do not print it
}

// answered is a line of a counter.
type answered struct {
	key string // of a count; "value" for a value that was replaced
	n   int64
	err string // if there is no answer
}

const counterKeys = 2

// run counts with all callers, and one more caller replaces a value.
func (c counter) run() {
	var mu sync.Mutex
	say := func(key string, n int64, err error) {
		problem := ""
		if err != nil {
			problem = err.Error()
			<-time.After(10 * time.Millisecond) // callers do not try again at once
		}
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(os.Stdout, "%s %d %q\n", key, n, problem)
	}
	s, err := openStore(c.Store)
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

// start runs the process and returns its lines.
func (c counter) start(t *testing.T) (_ *exec.Cmd, lines <-chan answered) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a process")
	}
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
			if _, err := fmt.Sscanf(scan.Text(), "%s %d %q", &a.key, &a.n, &a.err); err == nil { // the last line may be torn
				all <- a
			}
		}
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		for range all { // until the process has ended
		}
	})
	return cmd, all
}

// startTwo runs two counters and calls each with their lines.
func startTwo(t *testing.T, c counter, each func(answered)) {
	t.Helper()
	_, one := c.start(t)
	_, two := c.start(t)
	for _, lines := range []<-chan answered{one, two} {
		for a := range lines {
			if a.err != "" {
				t.Fatal(a)
			}
			each(a)
		}
	}
}

// Two processes that give every second number back never keep the same number.
func TestTwoProcessesKeepDifferentNumbers(t *testing.T) {
	server := statetest.StartRedis(t)
	config := state.Config{Type: state.TypeRedis, Redis: redisConfig(server)}
	r := initRedis(t, config.Redis)
	kept := map[string]map[int64]bool{"k0": {}, "k1": {}, "value": {}}
	startTwo(t, counter{Store: config, Callers: 20, Calls: 40, GiveBack: true}, func(a answered) {
		if kept[a.key][a.n] {
			t.Fatalf("%+v was kept already", a)
		}
		kept[a.key][a.n] = true
	})
	for _, key := range []string{"k0", "k1"} {
		if n, err := r.Count(t.Context(), key); n != 2*10*20 || n != int64(len(kept[key])) || err != nil {
			t.Errorf("%s counts %d, %v; %d are kept", key, n, err, len(kept[key]))
		}
	}
}

// Two processes with 64 callers each never get the same number.
func TestTwoProcessesGetDifferentNumbers(t *testing.T) {
	const callers, calls = 64, 20
	server := statetest.StartRedis(t)
	config := state.Config{Type: state.TypeRedis, Redis: redisConfig(server)}
	initRedis(t, config.Redis)
	numbers := map[string][]int64{}
	startTwo(t, counter{Store: config, Callers: callers, Calls: calls}, func(a answered) { numbers[a.key] = append(numbers[a.key], a.n) })
	for key, want := range map[string]int{"k0": callers * calls, "k1": callers * calls, "value": 2 * calls} {
		got := numbers[key]
		slices.Sort(got)
		if len(got) != want || got[0] != 1 || got[want-1] != int64(want) || len(slices.Compact(slices.Clone(got))) != want {
			t.Errorf("%s: got %d numbers, from %d to %d, %d different ones; want %d",
				key, len(got), got[0], got[len(got)-1], len(slices.Compact(slices.Clone(got))), want)
		}
	}
}

// An answered call is not lost when the process or its Redis is killed: no number is
// returned twice.
func TestAnsweredCallsSurviveAKill(t *testing.T) {
	for _, tt := range []struct {
		name  string
		redis bool
		kill  bool // Redis, not the process
		back  bool // numbers are also given back
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
					case after == 0: // Redis was killed
						killing.Wait()
						server.Restart()
						after = n
					case n > after+5000: // some lines are from before
						t.Fatalf("round %d: Redis is back, but: %s", round, a.err)
					}
					if n == before { // in a goroutine, as the counter must go on
						killing.Go(func() {
							if tt.kill {
								server.Kill()
							} else {
								_ = cmd.Process.Kill()
							}
						})
					}
					if after > 0 && a.err == "" && n > after+500 { // the counter has recovered
						_ = cmd.Process.Kill()
					}
				}
				killing.Wait()
				if n < before || (tt.kill && after == 0) {
					t.Fatalf("round %d ended after %d answers", round, n)
				}
			}
			s, err := openStore(config)
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
					for range 50 { // no number that was kept
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
