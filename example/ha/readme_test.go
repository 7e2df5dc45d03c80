package ha_test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// block is a fenced block of commands in the README.
type block struct{ heading, text string }

// runs are the blocks of the README, and which of them were run.
type runs struct {
	blocks []block
	mu     sync.Mutex
	done   map[block]bool
}

func newRuns(t *testing.T) *runs {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	r := &runs{done: map[block]bool{}}
	var heading string
	for _, m := range regexp.MustCompile("(?ms)^## ([^\n]*)\n|^```sh\n(.*?)^```$").FindAllSubmatch(text, -1) {
		if len(m[1]) > 0 {
			heading = string(m[1])
			continue
		}
		r.blocks = append(r.blocks, block{heading, string(m[2])})
	}
	return r
}

// compare fails for each block that no test ran.
func (r *runs) compare(t *testing.T) {
	t.Helper()
	for _, b := range r.blocks {
		if !r.done[b] {
			t.Errorf("no test ran what the README says below %q:\n%s", b.heading, b.text)
		}
	}
}

// readme runs the one block below a heading that begins so, on a machine, as its
// root would, and gives what it printed.
func (s *site) readme(t *testing.T, machine, heading, begins string) string {
	t.Helper()
	var found []block
	for _, b := range s.ran.blocks {
		if b.heading == heading && strings.HasPrefix(b.text, begins) {
			found = append(found, b)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d blocks of the README below %q begin with %q", len(found), heading, begins)
	}
	s.ran.mu.Lock()
	s.ran.done[found[0]] = true
	s.ran.mu.Unlock()
	var pairs []string
	for what, by := range s.substitutions(machine) {
		pairs = append(pairs, what, by)
	}
	return s.sh(t, machine, strings.NewReplacer(pairs...).Replace(found[0].text))
}

// sh runs commands on a machine, in the folder that was carried there.
func (s *site) sh(t *testing.T, machine, commands string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", commands)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "PATH="+s.root(machine)+"/bin:"+os.Getenv("PATH")+":/usr/sbin", "NO_PROXY=*")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("on %s: %v\n%s\n%s", machine, err, commands, out)
	}
	return string(out)
}
