package state

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const (
	// redisVersion is the version that this binary writes and reads.
	redisVersion = 1
	// redisMark is what the key of the mark holds, with the version after it.
	redisMark = "openstack-nova-authenticator state "

	redisWait    = time.Second // for Redis, unless the caller has less time
	redisConns   = 32
	redisPending = 256 // operations that may wait for Redis
	redisFresh   = time.Second
	// redisAnswer is the time left for an answer after Redis has waited for its
	// replicas. It may wait 100 ms longer than it should (hz 10).
	redisAnswer = 250 * time.Millisecond
	// redisSkew is how long Redis keeps an entry after it has expired: each server
	// judges that by its clock, and not by that of Redis.
	redisSkew = 2 * time.Minute
	// redisRetries is how often an Update is tried when other servers are faster.
	redisRetries = 1000

	redisScan       = 4 << 20 // keys, and pages, that a Scan reads at most
	maxPasswordFile = 4 << 10
	maxCAFile       = 1 << 20
)

// ErrNotInitialized means that a Redis is new or was flushed. Its counts, if it had any,
// are lost, so an operator must accept it.
var ErrNotInitialized = errors.New("this Redis does not hold our mark: it is new, or was flushed; `openstack-nova-authenticator keys init` accepts it")

var errRedisSlow = errors.New("does not answer in time")

// Redis is a Store in a Redis, which several servers may share.
type Redis struct {
	config RedisConfig
	where  string
	now    func() time.Time
	client *redis.Client
	slots  chan struct{}
	update chan struct{} // held by one Update at a time, so those of one process do not race

	mu      sync.Mutex
	closed  bool
	check   *redisCheck
	checker sync.WaitGroup
}

// do runs an operation once a slot is free, all within redisWait.
func (r *Redis) do(ctx context.Context, operation func(ctx context.Context) error) error {
	within, cancel := context.WithTimeout(ctx, redisWait)
	defer cancel()
	err := func() error {
		select {
		case r.slots <- struct{}{}:
			defer func() { <-r.slots }()
		case <-within.Done():
			return within.Err()
		}
		if err := r.suitable(within); err != nil {
			return err
		}
		return operation(within)
	}()
	return r.explain(ctx, err)
}

// redisTime rounds up, so that an entry does not expire before t. 0 means never.
func redisTime(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	ms := t.UnixMilli()
	if t.After(time.UnixMilli(ms)) {
		ms++
	}
	return ms
}

// Init writes our mark to a Redis that has none, which accepts it.
func (r *Redis) Init(ctx context.Context) error {
	return r.do(ctx, func(ctx context.Context) error {
		_, err := r.write(ctx, scriptInit, nil)
		return err
	})
}

// Count implements [Store].
func (r *Redis) Count(ctx context.Context, key string) (n int64, err error) {
	err = r.do(ctx, func(ctx context.Context) error {
		data, err := r.get(ctx, r.countKey(key))
		if err != nil || data == nil {
			return err
		}
		c, ok := parseRedisCount(string(data))
		if !ok {
			return errors.New("the entry of a count cannot be read")
		}
		n = c.used()
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// parseRedisCount reads what scriptCount writes.
func parseRedisCount(data string) (c count, ok bool) {
	for i, word := range strings.Fields(data) {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil || n < 1 || (i > 0 && n >= c.n) {
			return count{}, false
		}
		if i == 0 {
			c.n = n
		} else {
			c.back = append(c.back, n)
		}
	}
	return c, c.n > 0 && slices.IsSorted(c.back) && int64(len(c.back)) < c.n
}

// Increment implements [Store]. If it fails, it may have counted.
func (r *Redis) Increment(ctx context.Context, key string, expires time.Time) (n int64, err error) {
	now := r.now()
	if err := checkExpiry(expires, now); err != nil {
		return 0, err
	}
	err = r.do(ctx, func(ctx context.Context) error {
		result, err := r.write(ctx, scriptIncrement, []string{r.countKey(key)}, now.UnixMilli(), redisSkew.Milliseconds(), redisTime(expires))
		if err != nil {
			return err
		}
		var ok bool
		if n, ok = result.(int64); !ok || n < 1 {
			return fmt.Errorf("answered %v for a count", result)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// GiveBack implements [Store].
func (r *Redis) GiveBack(ctx context.Context, key string, n int64) error {
	return r.do(ctx, func(ctx context.Context) error {
		_, err := r.write(ctx, scriptGiveBack, []string{r.countKey(key)}, r.now().UnixMilli(), redisSkew.Milliseconds(), n, maxGivenBack)
		return err
	})
}

// get returns the data of an entry, nil if there is none.
func (r *Redis) get(ctx context.Context, key string) ([]byte, error) {
	result, err := r.run(ctx, scriptGet, []string{key}, r.now().UnixMilli(), redisSkew.Milliseconds())
	if err != nil {
		return nil, err
	}
	if found, ok := result.([]any); ok && len(found) == 1 {
		switch data := found[0].(type) {
		case nil:
			return nil, nil
		case string:
			return []byte(data), nil
		}
	}
	return nil, fmt.Errorf("answered %T for an entry", result)
}

// Get implements [Store].
func (r *Redis) Get(ctx context.Context, key string) (value []byte, err error) {
	err = r.do(ctx, func(ctx context.Context) error {
		value, err = r.get(ctx, r.valueKey(key))
		return err
	})
	return value, err
}

// put reports whether it set the value. With old, it does so only if that is still the
// value.
func (r *Redis) put(ctx context.Context, key string, value []byte, expires time.Time, old ...any) (bool, error) {
	has, data := present(value)
	args := append([]any{r.now().UnixMilli(), redisSkew.Milliseconds(), redisTime(expires), has, data}, old...)
	result, err := r.write(ctx, scriptPut, []string{r.valueKey(key)}, args...)
	return result == int64(1), err
}

func present(value []byte) (has int, data []byte) {
	if value == nil {
		return 0, []byte{}
	}
	return 1, value
}

// Update implements [Store]. If it fails, it may have replaced the value.
func (r *Redis) Update(ctx context.Context, key string, change func(old []byte) ([]byte, error)) error {
	ctx, cancel := context.WithTimeout(ctx, redisWait)
	defer cancel()
	select {
	case r.update <- struct{}{}:
		defer func() { <-r.update }()
	case <-ctx.Done():
		return r.explain(ctx, ctx.Err())
	}
	var refused error // of change, which the caller gets unchanged
	err := r.do(ctx, func(ctx context.Context) error {
		for try := range redisRetries {
			old, err := r.get(ctx, r.valueKey(key))
			if err != nil {
				return err
			}
			has, data := present(old)
			before := append([]byte{}, data...) // change may modify old
			value, err := change(old)
			if err != nil {
				refused = err
				return err
			}
			if err := checkValue(value); err != nil {
				refused = err
				return err
			}
			if done, err := r.put(ctx, key, value, time.Time{}, has, before); done || err != nil {
				return err
			}
			select {
			case <-time.After(jitter(min(time.Millisecond<<min(try, 6), 50*time.Millisecond))):
			case <-ctx.Done():
				return fmt.Errorf("other servers change %s all the time: %w", key, ctx.Err())
			}
		}
		return fmt.Errorf("other servers change %s all the time", key)
	})
	if refused != nil {
		return refused
	}
	return err
}

func jitter(limit time.Duration) time.Duration {
	var b [8]byte
	_, _ = rand.Read(b[:])                                              // never fails
	return time.Duration(binary.BigEndian.Uint64(b[:]) % uint64(limit)) //nolint:gosec // less than limit
}

// Put implements [Store]. If it fails, it may have set the value.
func (r *Redis) Put(ctx context.Context, key string, value []byte, expires time.Time) error {
	if err := checkValue(value); err != nil {
		return err
	}
	if err := checkLasting(expires, r.now()); err != nil {
		return err
	}
	return r.do(ctx, func(ctx context.Context) error {
		_, err := r.put(ctx, key, value, expires)
		return err
	})
}

// Forget implements [Store].
func (r *Redis) Forget(ctx context.Context, key string) error {
	return r.do(ctx, func(ctx context.Context) error {
		_, err := r.write(ctx, scriptForget, []string{r.countKey(key), r.valueKey(key)})
		return err
	})
}

var globEscape = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)

// Scan implements [Store]. It reads the whole database, a thousand keys at a time. Each
// page has the time of one operation.
func (r *Redis) Scan(ctx context.Context, prefix string, visit func(Entry) bool) error {
	pattern := globEscape.Replace(r.config.Prefix) + "[cv]:" + globEscape.Replace(prefix) + "*"
	seen := map[string]bool{} // Redis may return a key twice
	for cursor, pages := "0", 0; ; pages++ {
		if pages > redisScan {
			return r.explain(ctx, fmt.Errorf("has more than %d pages of keys", redisScan))
		}
		var page []any
		if err := r.do(ctx, func(ctx context.Context) error {
			result, err := r.run(ctx, scriptScan, nil, cursor, pattern)
			page, _ = result.([]any)
			if err == nil && len(page)%2 != 1 {
				err = fmt.Errorf("answered %T for a page", result)
			}
			return err
		}); err != nil {
			return err
		}
		now := r.now()
		for i := 1; i < len(page); i += 2 {
			key, _ := page[i].(string)
			raw, _ := page[i+1].(string)
			if seen[key] {
				continue
			}
			seen[key] = true
			if e, ok := parseRedisEntry(strings.TrimPrefix(key, r.config.Prefix), raw); ok && !expired(e.Expires, now) && !visit(e) {
				return nil
			}
		}
		next, _ := page[0].(string)
		if next == "0" {
			return nil
		}
		if _, err := strconv.ParseUint(next, 10, 64); err != nil || next == cursor || len(seen) > redisScan {
			return r.explain(ctx, fmt.Errorf("answered %q for the next of %d keys", secret.Clip(next, 100), len(seen)))
		}
		cursor = next
	}
}

// parseRedisEntry reads what scriptEntry writes. name is c: or v: and the key.
func parseRedisEntry(name, raw string) (e Entry, ok bool) {
	kind, key, _ := strings.Cut(name, ":")
	expires, data, _ := strings.Cut(raw, " ")
	ms, err := strconv.ParseInt(expires, 10, 64)
	if err != nil {
		return e, false
	}
	e.Key = key
	if ms != 0 {
		e.Expires = time.UnixMilli(ms)
	}
	if kind == "v" {
		e.Value = []byte(data)
		return e, true
	}
	c, ok := parseRedisCount(data)
	e.Count = c.used()
	return e, ok
}

// Close implements [Store].
func (r *Redis) Close() error {
	r.mu.Lock()
	again := r.closed
	r.closed = true
	r.mu.Unlock()
	if again {
		return nil
	}
	err := r.client.Close()
	r.checker.Wait()
	return err
}
