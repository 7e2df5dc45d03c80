//go:build agents

package agents_test

import (
	"math/rand/v2" //nolint:depguard // a seed repeats a run; nothing here is secret
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/example/metadata-service/guestfuzz"
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
	var seen guestfuzz.Counts
	var wait sync.WaitGroup
	for i, g := range []*guest{s.web, s.db, s.web} {
		other := s.db
		if g == s.db {
			other = s.web
		}
		wait.Go(func() {
			f := &guestfuzz.Fuzzer{
				Rand: guestfuzz.NewRand(seed, i), Guest: g.known(), Other: other.known(), Ways: s.ways(g), Seen: &seen,
			}
			if err := guestfuzz.Inside(g.namespace, func() error { return f.Run(end) }); err != nil {
				t.Errorf("AGENTS_SEED=%d, worker %d, %v", seed, i, err)
			}
		})
	}
	wait.Wait()
	t.Log(&seen)
	if seen.Tokens.Load() == 0 || seen.Refusals.Load() == 0 && !s.wsgi {
		t.Error("the requests are of one sort only")
	}
}
