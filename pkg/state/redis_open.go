package state

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// silence turns off the logger of go-redis, which is one for the whole process and
// writes in another format. Its errors contain the same information.
var silence = sync.OnceFunc(func() { redis.SetLogger(noLogger{}) })

type noLogger struct{}

func (noLogger) Printf(context.Context, string, ...any) {}

// OpenRedis reads the files that c names. It does not connect: a server can start
// without its Redis.
func OpenRedis(c RedisConfig) (*Redis, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	silence()
	r := &Redis{
		config: c,
		where:  "redis " + c.Addresses[0],
		now:    orTimeNow(c.Now),
		slots:  make(chan struct{}, redisPending),
		update: make(chan struct{}, 1),
	}
	if c.Sentinel != "" {
		r.where = fmt.Sprintf("redis %s of the Sentinels %s", secret.Show(c.Sentinel), strings.Join(c.Addresses, ", "))
	}
	if _, _, err := r.credentials(context.Background()); err != nil {
		return nil, fmt.Errorf("redis.passwordFile: %w", err)
	}
	dial, err := redisDialer(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("redis.caFile: %w", err)
	}
	// No retries (-1): an Increment whose answer was lost may have counted, and a second
	// one would spend another attempt. No second pool of connections for pipelines (-1).
	// DialerRetries includes the first dial.
	o := &redis.UniversalOptions{
		MasterName: c.Sentinel, Addrs: c.Addresses,
		DB: c.DB, Dialer: dial, OnConnect: r.onConnect, CredentialsProviderContext: r.credentials,
		Protocol: 2, DisableIdentity: true,
		ContextTimeoutEnabled: true, DialTimeout: redisWait, ReadTimeout: redisWait, WriteTimeout: redisWait,
		MaxRetries: -1, DialerRetries: 1,
		PoolSize: redisConns, MaxActiveConns: redisConns, PoolTimeout: redisWait, PipelinePoolSize: -1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if c.Sentinel != "" {
		// One dial includes waiting for a Sentinel that hangs and asking the others.
		o.DialTimeout = 3 * redisWait
		r.client = redis.NewFailoverClient(o.Failover())
	} else {
		r.client = redis.NewClient(o.Simple())
	}
	return r, nil
}

// redisDialer returns a dialer that speaks TLS if there is a CA file.
func redisDialer(caFile string) (func(ctx context.Context, network, addr string) (net.Conn, error), error) {
	plain := &net.Dialer{
		Timeout:         redisWait,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	if caFile == "" {
		return func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := plain.DialContext(ctx, network, addr)
			if tcp, ok := conn.(*net.TCPConn); ok {
				return &boundedTCP{TCPConn: tcp}, nil
			}
			return conn, err
		}, nil
	}
	pem, err := secret.ReadFile(caFile, maxCAFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, secret.FileError(caFile, errors.New("holds no certificate (PEM)"))
	}
	secure := &tls.Dialer{NetDialer: plain, Config: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := secure.DialContext(ctx, network, addr)
		if c, ok := conn.(*tls.Conn); ok {
			return &boundedTLS{Conn: c}, nil
		}
		return conn, err
	}, nil
}

// credentials is called for each new connection.
func (r *Redis) credentials(context.Context) (username, password string, err error) {
	if r.config.PasswordFile == "" {
		return "", "", nil
	}
	b, err := secret.ReadFile(r.config.PasswordFile, maxPasswordFile)
	if err != nil {
		return "", "", err
	}
	password = strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if password == "" {
		return "", "", secret.FileError(r.config.PasswordFile, errors.New("is empty"))
	}
	return r.config.Username, password, nil
}

// redisCheck is one check of the settings of Redis. It has ended when done is closed.
type redisCheck struct {
	done chan struct{}
	at   time.Time
	err  error
}

// onConnect refuses a new connection to a Redis with unsuitable settings, such as one
// that Sentinel has just made the primary. It is also called for Sentinels.
func (r *Redis) onConnect(ctx context.Context, conn *redis.Conn) error {
	info, err := conn.Info(ctx).Result()
	if redis.HasErrorPrefix(err, "NOAUTH") && r.config.Sentinel != "" && r.config.PasswordFile != "" {
		// Redis itself already got our password, so this is a Sentinel.
		username, password, err := r.credentials(ctx)
		if err != nil {
			return err
		}
		if username == "" {
			return conn.Auth(ctx, password).Err()
		}
		return conn.AuthACL(ctx, username, password).Err()
	}
	if err != nil {
		return infoError(err)
	}
	return suits(info)
}

func infoError(err error) error {
	if redis.HasErrorPrefix(err, "NOPERM") {
		return errors.New("the user may not call INFO (+info), which shows whether Redis may evict counts")
	}
	return err
}

// suits judges the answer to INFO.
func suits(info string) error {
	field := map[string]string{}
	for line := range strings.SplitSeq(info, "\r\n") {
		if name, value, ok := strings.Cut(line, ":"); ok {
			field[name] = value
		}
	}
	switch limit, policy := field["maxmemory"], field["maxmemory_policy"]; {
	case field["redis_mode"] == "sentinel":
		return nil
	case field["redis_mode"] == "cluster":
		return errors.New("is a Redis Cluster, which is not supported")
	case field["loading"] == "1":
		return errors.New("is loading its data")
	case limit == "" || policy == "" || field["role"] == "":
		return errors.New("INFO does not contain role, maxmemory and maxmemory_policy")
	case field["role"] != "master":
		return errors.New("is a replica, which is read-only: name the primary")
	case limit != "0" && policy != "noeviction":
		return fmt.Errorf("maxmemory-policy is %s: Redis may evict counts, after which instances can make their attempts again; set it to noeviction", policy)
	}
	return nil
}

// suitable checks the settings of Redis, unless they were checked within the last
// second. Concurrent calls share one check.
func (r *Redis) suitable(ctx context.Context) error {
	r.mu.Lock()
	c := r.check
	stale := c == nil
	if !stale {
		select {
		case <-c.done:
			stale = c.err != nil || time.Since(c.at) >= redisFresh
		default:
		}
	}
	if stale {
		if r.closed {
			r.mu.Unlock()
			return errClosed
		}
		c = &redisCheck{done: make(chan struct{}), at: time.Now()}
		r.check = c
		// Not with the caller's context: its end must not fail the other callers.
		ctx := context.WithoutCancel(ctx)
		r.checker.Go(func() {
			defer close(c.done)
			ctx, cancel := context.WithTimeout(ctx, redisWait)
			defer cancel()
			info, err := r.client.Info(ctx).Result()
			if err == nil {
				err = suits(info)
			}
			c.err = infoError(err)
		})
	}
	r.mu.Unlock()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}
