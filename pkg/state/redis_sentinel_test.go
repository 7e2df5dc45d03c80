package state_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

// site is a primary, its replica, and one Sentinel.
type site struct{ primary, replica, sentinel *statetest.Process }

func startSite(t *testing.T) site {
	t.Helper()
	primary := statetest.StartRedis(t)
	s := site{primary: primary, replica: startReplica(t, primary)}
	host, port, _ := net.SplitHostPort(primary.Addr)
	s.sentinel = statetest.StartSentinel(t,
		"sentinel monitor main "+host+" "+port+" 1",
		"sentinel down-after-milliseconds main 300",
		"sentinel failover-timeout main 2000",
	)
	client := redisClient(t, s.sentinel)
	awaittest.Success(t, "Sentinel knows the replica", func() error {
		info, err := client.Info(t.Context(), "sentinel").Result()
		if err == nil && !strings.Contains(info, "status=ok") || !strings.Contains(info, "slaves=1") {
			err = errors.New(info)
		}
		return err
	})
	return s
}

func (s site) config(waitReplicas int) state.RedisConfig {
	return state.RedisConfig{Addresses: []string{s.sentinel.Addr}, Sentinel: "main", Prefix: "ona:", WaitReplicas: waitReplicas}
}

// count increments until stop is closed. highest returns the highest number that was answered.
func count(t *testing.T, r *state.Redis, callers int, stop <-chan struct{}) (highest func() int64) {
	t.Helper()
	var mu sync.Mutex
	var most int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				n, err := r.Increment(t.Context(), "k", time.Now().Add(time.Hour))
				if err != nil {
					continue
				}
				mu.Lock()
				most = max(most, n)
				mu.Unlock()
			}
		})
	}
	return func() int64 {
		wg.Wait()
		return most
	}
}

// A failover loses what the replica did not have: all counts since it was disconnected.
// With waitReplicas, none of these were answered.
func TestSentinelFailover(t *testing.T) {
	after := func(t *testing.T, s site, r *state.Redis) (n int64) {
		t.Helper()
		took := awaittest.Success(t, "the replica is the primary", func() error {
			var err error
			n, err = r.Count(t.Context(), "k")
			return err
		})
		t.Logf("it is the primary %v after the kill", took.Round(10*time.Millisecond))
		_, err := r.Increment(t.Context(), "k", time.Now().Add(time.Hour))
		if few := err != nil && strings.Contains(err.Error(), "0 replicas have the write in time"); err != nil && !few {
			t.Errorf("Increment = %v", err) // few: with waitReplicas, the new primary has no replica yet
		}
		if role := s.replica.Do("ROLE"); role != "*3" { // a replica's answer has five parts
			t.Errorf("ROLE = %s", role)
		}
		return n
	}

	t.Run("under load", func(t *testing.T) {
		for _, waitReplicas := range []int{0, 1} {
			t.Run(fmt.Sprint("waitReplicas ", waitReplicas), func(t *testing.T) {
				t.Parallel()
				s := startSite(t)
				r := initRedis(t, s.config(waitReplicas))
				stop := make(chan struct{})
				highest := count(t, r, 16, stop)
				awaittest.Success(t, "there is a load", func() error {
					if n, err := r.Count(t.Context(), "k"); n < 1000 {
						return fmt.Errorf("%d, %w", n, err)
					}
					return nil
				})
				replica := redisClient(t, s.replica)
				awaittest.Success(t, "the replica counts along", func() error { return replica.Get(t.Context(), "ona:c:k").Err() })
				s.primary.Kill()
				close(stop)
				answered := highest()
				got := after(t, s, r)
				t.Logf("the primary was killed under load after %d answers, and %d of them are lost", answered, max(0, answered-got))
				if waitReplicas == 1 && got < answered {
					t.Errorf("%d were answered, but %d are counted", answered, got)
				}
			})
		}
	})

	t.Run("the replica is disconnected first", func(t *testing.T) {
		for _, waitReplicas := range []int{0, 1} {
			t.Run(fmt.Sprint("waitReplicas ", waitReplicas), func(t *testing.T) {
				t.Parallel()
				s := startSite(t)
				r := initRedis(t, s.config(waitReplicas))
				increment := func() (int64, error) { return r.Increment(t.Context(), "k", time.Now().Add(time.Hour)) }
				const before, since = 10, 100
				for range before {
					if _, err := increment(); err != nil {
						t.Fatal(err)
					}
				}
				awaittest.Success(t, "the replica has it", func() error {
					if raw := redisClient(t, s.replica).Get(t.Context(), "ona:c:k").Val(); !strings.HasSuffix(raw, fmt.Sprint(" ", before)) {
						return errors.New(raw)
					}
					return nil
				})
				s.replica.Do("REPLICAOF", "127.0.0.1", "1")
				answered := int64(before)
				for range since {
					n, err := increment()
					if err != nil {
						break
					}
					answered = n
				}
				if want := map[int]int64{0: before + since, 1: before}[waitReplicas]; answered != want {
					t.Errorf("%d were answered, want %d", answered, want)
				}
				s.primary.Kill()
				got := after(t, s, r)
				t.Logf("%d were answered, and %d of them are lost", answered, answered-got)
				if got != before {
					t.Errorf("after the failover %d are counted, want the %d that the replica had", got, before)
				}
			})
		}
	})
}
