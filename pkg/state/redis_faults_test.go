package state_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

// operations call each method of a store.
var operations = map[string]func(ctx context.Context, s state.Store) error{
	"Count": func(ctx context.Context, s state.Store) error { _, err := s.Count(ctx, "k"); return err },
	"Increment": func(ctx context.Context, s state.Store) error {
		_, err := s.Increment(ctx, "k", time.Now().Add(time.Hour))
		return err
	},
	"Get": func(ctx context.Context, s state.Store) error { _, err := s.Get(ctx, "k"); return err },
	"Update": func(ctx context.Context, s state.Store) error {
		return s.Update(ctx, "k", func(old []byte) ([]byte, error) { return append(old, 'x'), nil })
	},
	"Put":    func(ctx context.Context, s state.Store) error { return s.Put(ctx, "k", []byte("v"), time.Time{}) },
	"Forget": func(ctx context.Context, s state.Store) error { return s.Forget(ctx, "other") },
	"Scan": func(ctx context.Context, s state.Store) error {
		return s.Scan(ctx, "", func(state.Entry) bool { return true })
	},
}

var reading = map[string]bool{"Count": true, "Get": true, "Scan": true}

// During each fault of Redis, calls fail within seconds and do not accumulate. After it, they
// succeed again without a restart.
func TestRedisFaults(t *testing.T) {
	const primary = "is a replica, which is read-only: name the primary"
	for _, tt := range []struct {
		name  string
		want  string // in the error
		works string // methods that still succeed
		begin func(*statetest.Process)
		end   func(*statetest.Process)
	}{
		{
			name: "gone", want: "connection refused",
			begin: (*statetest.Process).Kill,
			end: func(p *statetest.Process) {
				p.Restart()
				p.Do("SET", "ona:mark", "openstack-nova-authenticator state 1") // it has no disk
			},
		},
		{
			name: "slow", want: "does not answer in time",
			begin: func(p *statetest.Process) { p.Signal(syscall.SIGSTOP) },
			end:   func(p *statetest.Process) { p.Signal(syscall.SIGCONT) },
		},
		{
			name: "full", want: "the store is full: its maxmemory is used up", works: "Count Get Scan Forget",
			begin: func(p *statetest.Process) { p.Do("CONFIG", "SET", "maxmemory", "1") },
			end:   func(p *statetest.Process) { p.Do("CONFIG", "SET", "maxmemory", "0") },
		},
		{
			name: "may evict", want: "maxmemory-policy is allkeys-lru: Redis may evict counts, after which instances can make their attempts again; set it to noeviction",
			begin: func(p *statetest.Process) {
				p.Do("CONFIG", "SET", "maxmemory", "1gb")
				p.Do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
			},
			end: func(p *statetest.Process) { p.Do("CONFIG", "SET", "maxmemory-policy", "noeviction") },
		},
		{
			name: "a replica", want: primary,
			begin: func(p *statetest.Process) { p.Do("REPLICAOF", "127.0.0.1", "1") },
			end:   func(p *statetest.Process) { p.Do("REPLICAOF", "NO", "ONE") },
		},
		{
			name: "too few replicas of its own", want: "has fewer replicas than its min-replicas-to-write", works: "Count Get Scan",
			begin: func(p *statetest.Process) { p.Do("CONFIG", "SET", "min-replicas-to-write", "1") },
			end:   func(p *statetest.Process) { p.Do("CONFIG", "SET", "min-replicas-to-write", "0") },
		},
		{
			name: "flushed", want: state.ErrNotInitialized.Error(),
			begin: func(p *statetest.Process) { p.Do("FLUSHALL") },
			end:   func(p *statetest.Process) { p.Do("SET", "ona:mark", "openstack-nova-authenticator state 1") },
		},
		{
			name: "a newer version's", want: "its state has version 2, and this binary reads up to version 1",
			begin: func(p *statetest.Process) { p.Do("SET", "ona:mark", "openstack-nova-authenticator state 2") },
			end:   func(p *statetest.Process) { p.Do("SET", "ona:mark", "openstack-nova-authenticator state 1") },
		},
		{
			name: "another program's", want: "another program has the key ona:mark; choose another redis.prefix",
			begin: func(p *statetest.Process) { p.Do("SET", "ona:mark", "x") },
			end:   func(p *statetest.Process) { p.Do("SET", "ona:mark", "openstack-nova-authenticator state 1") },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := statetest.StartRedis(t)
			r := initRedis(t, redisConfig(server))
			for name, call := range operations {
				if err := call(t.Context(), r); err != nil {
					t.Fatalf("%s before: %v", name, err)
				}
			}
			before := runtime.NumGoroutine()
			tt.begin(server)
			awaittest.Success(t, "is refused", func() error { // a check is valid for a second
				if operations["Increment"](t.Context(), r) == nil {
					return errors.New("Increment is answered")
				}
				return nil
			})
			var wg sync.WaitGroup
			began := time.Now()
			refused := func(name string) {
				// Some of many concurrent calls may get no slot in time.
				err := operations[name](t.Context(), r)
				if err == nil || !strings.HasPrefix(err.Error(), "redis "+server.Addr+": ") ||
					!strings.Contains(err.Error(), tt.want) && !strings.Contains(err.Error(), "does not answer in time") {
					t.Errorf("%s = %v, want an error that says %q", name, err, tt.want)
				}
			}
			for name := range operations {
				if strings.Contains(tt.works, name) {
					continue
				}
				for range 10 {
					wg.Go(func() { refused(name) })
				}
			}
			for range 300 { // more than redisPending
				wg.Go(func() { refused("Increment") })
			}
			wg.Wait()
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("the answers took %v", took)
			}
			awaittest.Success(t, "the error has the reason", func() error {
				if err := operations["Increment"](t.Context(), r); err == nil || !strings.Contains(err.Error(), tt.want) {
					return fmt.Errorf("Increment = %w", err)
				}
				return nil
			})
			for name := range strings.FieldsSeq(tt.works) {
				if err := operations[name](t.Context(), r); err != nil {
					t.Errorf("%s = %v", name, err)
				}
			}
			// No call is left in the background; go-redis may try to connect.
			awaittest.Success(t, "goroutines", func() error {
				if n := runtime.NumGoroutine(); n > before+10 {
					return fmt.Errorf("there are %d, and were %d", n, before)
				}
				return nil
			})
			tt.end(server)
			for name, call := range operations {
				if took := awaittest.Success(t, name+" after", func() error { return call(t.Context(), r) }); took > 4*time.Second {
					t.Errorf("%s works again after %v", name, took)
				}
			}
		})
	}
}

// A Redis without our mark is refused until an operator accepts it.
func TestRedisWithoutOurMark(t *testing.T) {
	server := statetest.StartRedis(t)
	r := openRedis(t, redisConfig(server))
	increment := func() error {
		_, err := r.Increment(t.Context(), "k", time.Now().Add(time.Hour))
		return err
	}
	if err := increment(); !errors.Is(err, state.ErrNotInitialized) {
		t.Errorf("Increment in a new Redis = %v", err)
	}
	if err := r.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(increment(), r.Init(t.Context())); err != nil {
		t.Errorf("after Init: %v", err)
	}
	if n, err := r.Count(t.Context(), "k"); n != 1 || err != nil {
		t.Errorf("a second Init left the count at %d, %v", n, err)
	}
	server.Do("FLUSHDB")
	if err := increment(); !errors.Is(err, state.ErrNotInitialized) {
		t.Errorf("Increment after a flush = %v", err)
	}
	if err := r.Init(t.Context()); err != nil || increment() != nil {
		t.Errorf("after the second Init: %v", err)
	}
	server.Do("SET", "ona:mark", "openstack-nova-authenticator state 2")
	if err := r.Init(t.Context()); err == nil {
		t.Error("Init accepted the state of a newer binary")
	}
}

// Later versions read the entries of version 1.
func TestRedisOfVersion1(t *testing.T) {
	server := statetest.StartRedis(t)
	later := time.Now().Add(time.Hour).UnixMilli()
	server.Do("SET", "ona:mark", "openstack-nova-authenticator state 1")
	server.Do("SET", "ona:c:attempts/x", fmt.Sprint(later, " 2"))
	server.Do("SET", "ona:c:attempts/old", fmt.Sprint(time.Now().Add(-time.Second).UnixMilli(), " 9"))
	server.Do("SET", "ona:v:keys", "0 sealed words")
	r := openRedis(t, redisConfig(server))
	for key, want := range map[string]int64{"attempts/x": 2, "attempts/old": 0} {
		if n, err := r.Count(t.Context(), key); n != want || err != nil {
			t.Errorf("Count(%s) = %d, %v, want %d", key, n, err, want)
		}
	}
	if v, err := r.Get(t.Context(), "keys"); string(v) != "sealed words" || err != nil {
		t.Errorf("Get = %q, %v", v, err)
	}
}

// Redis removes an expired entry, some time after it has expired by the slowest clock.
func TestRedisEntriesExpire(t *testing.T) {
	server := statetest.StartRedis(t)
	r := initRedis(t, redisConfig(server))
	if _, err := r.Increment(t.Context(), "k", time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := r.Put(t.Context(), "k", []byte("v"), time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	client := redisClient(t, server)
	for _, key := range []string{"ona:c:k", "ona:v:k"} {
		if left := client.PTTL(t.Context(), key).Val(); left < 2*time.Minute || left > 4*time.Minute {
			t.Errorf("Redis keeps %s for %v", key, left)
		}
	}
	if left := client.PTTL(t.Context(), "ona:mark").Val(); left != -1 {
		t.Errorf("Redis keeps the mark for %v", left)
	}
}

func redisClient(t testing.TB, p *statetest.Process) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: p.Addr})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// startReplica runs a replica of p, and waits until it has a write of p.
func startReplica(t testing.TB, p *statetest.Process) *statetest.Process {
	t.Helper()
	host, port, _ := net.SplitHostPort(p.Addr)
	replica := statetest.StartRedis(t, "--replicaof", host+" "+port)
	p.Do("CONFIG", "SET", "repl-diskless-sync-delay", "0")
	// A primary sends writes to a new replica only after its acknowledgment, which comes
	// once a second.
	conn := redisClient(t, p).Conn()
	defer conn.Close()
	awaittest.Success(t, "the replica has a write", func() error {
		if err := conn.Set(t.Context(), "warm", "up", 0).Err(); err != nil {
			return err
		}
		if n, err := conn.Wait(t.Context(), 1, 100*time.Millisecond).Result(); n != 1 || err != nil {
			return fmt.Errorf("%d replicas have it, %w", n, err)
		}
		return nil
	})
	return replica
}

func TestRedisWaitsForItsReplicas(t *testing.T) {
	server := statetest.StartRedis(t)
	c := redisConfig(server)
	c.WaitReplicas = 1
	r := openRedis(t, c)
	const few = "0 replicas have the write in time; waitReplicas is 1"
	if err := r.Init(t.Context()); err == nil || !strings.Contains(err.Error(), few) {
		t.Errorf("Init without a replica = %v", err)
	}
	replica := startReplica(t, server)
	if err := r.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, call := range operations {
		if err := call(t.Context(), r); err != nil {
			t.Errorf("%s = %v", name, err)
		}
	}
	replica.Signal(syscall.SIGSTOP)
	began := time.Now()
	for name, call := range operations {
		if err := call(t.Context(), r); reading[name] != (err == nil) || (err != nil && !strings.Contains(err.Error(), few)) {
			t.Errorf("%s while the replica is slow = %v", name, err)
		}
	}
	if took := time.Since(began); took > time.Duration(len(operations))*1200*time.Millisecond {
		t.Errorf("%d operations took %v", len(operations), took)
	}
	replica.Signal(syscall.SIGCONT)
	awaittest.Success(t, "the replica is back", func() error { return operations["Increment"](t.Context(), r) })
}

// documentedRights returns the rights of the ACL user in the manual and in the example.
func documentedRights(t *testing.T) string {
	t.Helper()
	manual, err := os.ReadFile("config.go")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("../../example/ha/users.acl")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^//\tACL SETUSER ona on >PASSWORD (.*)$`).FindSubmatch(manual)
	e := regexp.MustCompile(`(?m)^user ona on #ONA_SHA256 (.*)$`).FindSubmatch(example)
	if m == nil || e == nil || string(m[1]) != string(e[1]) {
		t.Fatalf("the rights in the manual are %q, in the example %q", m, e)
	}
	return string(m[1])
}

func TestRedisUserNeedsExactlyTheDocumentedRights(t *testing.T) {
	rights := documentedRights(t)
	server := statetest.StartRedis(t)
	replica := startReplica(t, server)
	defer replica.Kill()
	file := filepath.Join(t.TempDir(), "password")
	write(t, file, "first\n")
	c := redisConfig(server)
	c.Username, c.PasswordFile, c.WaitReplicas = "ona", file, 1
	try := func(rights string) error {
		server.Do(append([]string{"ACL", "SETUSER", "ona", "reset", "on", ">first"}, strings.Fields(rights)...)...)
		server.Do("FLUSHALL")
		server.Do("SCRIPT", "FLUSH")
		r := openRedis(t, c)
		err := r.Init(t.Context())
		for name, call := range operations {
			if e := call(t.Context(), r); e != nil {
				err = errors.Join(err, fmt.Errorf("%s: %w", name, e))
			}
		}
		return err
	}
	// A busy replica may need longer than a caller waits.
	awaittest.Success(t, "with "+rights, func() error { return try(rights) })
	for i, right := range strings.Fields(rights) { // each right is needed
		if strings.HasPrefix(right, "+") || strings.HasPrefix(right, "~") {
			if err := try(strings.Join(slices.Delete(strings.Fields(rights), i, i+1), " ")); err == nil {
				t.Errorf("%s is not needed", right)
			}
		}
	}

	server.Do(append([]string{"ACL", "SETUSER", "ona", "reset", "on", ">first"}, strings.Fields(rights)...)...)
	user := redis.NewClient(&redis.Options{Addr: server.Addr, Username: "ona", Password: "first", Protocol: 2})
	defer user.Close()
	for _, command := range [][]any{{"GET", "other"}, {"FLUSHALL"}, {"CONFIG", "GET", "*"}, {"KEYS", "*"}, {"EVAL", "return redis.call('GET', 'other')", 0}} {
		if err := user.Do(t.Context(), command...).Err(); err == nil || errors.Is(err, redis.Nil) {
			t.Errorf("the user may call %v", command)
		}
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRedisPasswordIsChangedWithoutARestart(t *testing.T) {
	server := statetest.StartRedis(t)
	rights := strings.Fields(documentedRights(t))
	server.Do(append([]string{"ACL", "SETUSER", "ona", "on", ">first"}, rights...)...)
	file := filepath.Join(t.TempDir(), "password")
	write(t, file, "first\n")
	c := redisConfig(server)
	c.Username, c.PasswordFile = "ona", file
	r := initRedis(t, c)

	server.Do("ACL", "SETUSER", "ona", ">second")
	write(t, file, "second\n")
	server.Do("ACL", "SETUSER", "ona", "<first")
	server.Do("CLIENT", "KILL", "USER", "ona")
	awaittest.Success(t, "with the second password", func() error { return operations["Increment"](t.Context(), r) })

	write(t, file, "wrong-word\n")
	server.Do("CLIENT", "KILL", "USER", "ona")
	var err error
	awaittest.Success(t, "a wrong password is refused", func() error {
		if err = operations["Increment"](t.Context(), r); err == nil || !strings.Contains(err.Error(), "WRONGPASS") {
			return fmt.Errorf("Increment = %w", err)
		}
		return nil
	})
	if want := "rejected the user or the password (WRONGPASS)"; !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "wrong-word") {
		t.Errorf("Increment = %v, want %q", err, want)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := state.OpenRedis(c); err == nil || !strings.Contains(err.Error(), "redis.passwordFile: ") {
		t.Errorf("OpenRedis without its password = %v", err)
	}
	write(t, file, "second")
	awaittest.Success(t, "with the right password again", func() error { return operations["Increment"](t.Context(), r) })
}

func TestRedisWithTLS(t *testing.T) {
	dir := t.TempDir()
	ca := newCertificate(t, dir, "ca", nil)
	newCertificate(t, dir, "redis", ca)
	newCertificate(t, dir, "other", nil)
	file := func(name string) string { return filepath.Join(dir, name) }
	ports, err := awaittest.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	statetest.StartRedis(t, "--tls-port", ports[0], "--tls-cert-file", file("redis.pem"), "--tls-key-file", file("redis-key.pem"), "--tls-auth-clients", "no")
	c := state.RedisConfig{Addresses: []string{"127.0.0.1:" + ports[0]}, Prefix: "ona:", CAFile: file("ca.pem")}
	r := initRedis(t, c)
	for name, call := range operations {
		if err := call(t.Context(), r); err != nil {
			t.Errorf("%s = %v", name, err)
		}
	}
	c.CAFile = file("other.pem")
	if err := operations["Count"](t.Context(), openRedis(t, c)); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("with a certificate of another authority: %v", err)
	}
	c.CAFile = ""
	if err := operations["Count"](t.Context(), openRedis(t, c)); err == nil {
		t.Error("Count without TLS gave no error")
	}
	for name, want := range map[string]string{file("none.pem"): "no such file", file("redis-key.pem"): "holds no certificate"} {
		c.CAFile = name
		if _, err := state.OpenRedis(c); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "redis.caFile: ") {
			t.Errorf("OpenRedis = %v, want one that says %q", err, want)
		}
	}
}

type certificate struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

// newCertificate writes NAME.pem and NAME-key.pem, signed by parent or itself.
func newCertificate(t *testing.T, dir, name string, parent *certificate) *certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: parent == nil, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	c := &certificate{template, key}
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.Certificate, key.Public(), parent.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, name+".pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, filepath.Join(dir, name+"-key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	return c
}
