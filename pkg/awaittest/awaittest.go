// Package awaittest lets tests wait for other goroutines and processes, and finds
// ports for them.
package awaittest

import (
	"context"
	"crypto/rand"
	"errors"
	"math/big"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"
)

const limit = 30 * time.Second

// True returns once done reports true, and fails the test after 30 seconds.
func True(t testing.TB, what string, done func() bool) {
	t.Helper()
	Within(t, limit, what, done)
}

// Within is True with another limit.
func Within(t testing.TB, limit time.Duration, what string, done func() bool) {
	t.Helper()
	if Poll(t.Context(), limit, func() error {
		if done() {
			return nil
		}
		return errNotYet
	}) != nil {
		t.Fatalf("waited %v: %s", limit, what)
	}
}

var errNotYet = errors.New("not yet")

// Success returns how long it took until call succeeded. It fails the test with
// the last error after 30 seconds.
func Success(t testing.TB, what string, call func() error) time.Duration {
	t.Helper()
	began := time.Now()
	if err := Poll(t.Context(), limit, call); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return time.Since(began)
}

// Poll makes calls until one succeeds. It returns the error of the last call after
// the limit, or when ctx ends.
func Poll(ctx context.Context, limit time.Duration, call func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := call()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// FreePorts returns different ports that are free at 127.0.0.1, or at all of the
// addresses. They are below the ports that the kernel gives to connections, so no
// connection takes one while a test has its server stopped.
func FreePorts(n int, addresses ...string) ([]string, error) {
	const first, count = 20000, 12000
	if len(addresses) == 0 {
		addresses = []string{"127.0.0.1"}
	}
	var ports []string
	for range 100 * n {
		random, err := rand.Int(rand.Reader, big.NewInt(count))
		if err != nil {
			return nil, err
		}
		port := strconv.FormatInt(first+random.Int64(), 10)
		if !slices.Contains(ports, port) && free(port, addresses) {
			ports = append(ports, port)
		}
		if len(ports) == n {
			return ports, nil
		}
	}
	return nil, errors.New("no port is free")
}

func free(port string, addresses []string) bool {
	for _, address := range addresses {
		l, err := net.Listen("tcp", net.JoinHostPort(address, port))
		if err != nil || l.Close() != nil {
			return false
		}
	}
	return true
}
