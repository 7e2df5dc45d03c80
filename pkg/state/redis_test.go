package state_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

func redisConfig(p *statetest.Process) state.RedisConfig {
	return state.RedisConfig{Addresses: []string{p.Addr}, Prefix: "ona:"}
}

func openRedis(t testing.TB, c state.RedisConfig) *state.Redis {
	t.Helper()
	r, err := state.OpenRedis(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// initRedis opens one that has been accepted.
func initRedis(t testing.TB, c state.RedisConfig) *state.Redis {
	t.Helper()
	r := openRedis(t, c)
	awaittest.Success(t, "keys init", func() error { return r.Init(t.Context()) }) // a replica may be slow
	return r
}
func TestRedis(t *testing.T) {
	server := statetest.StartRedis(t)
	var n atomic.Int64
	statetest.Run(t, func(t *testing.T, clock *statetest.Clock) state.Store {
		c := redisConfig(server)
		c.Prefix = fmt.Sprintf(`o[n]a*?\%d:`, n.Add(1)) // nothing in it is a pattern
		c.Now = clock.Now
		r, err := state.OpenRedis(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Init(t.Context()); err != nil {
			t.Fatal(err)
		}
		return r
	})
}
