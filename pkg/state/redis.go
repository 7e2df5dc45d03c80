package state

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const (
	// redisVersion is what this binary writes and reads, as fileVersion.
	redisVersion = 1
	// redisMark and the version are what the mark's key holds.
	redisMark = "openstack-nova-authenticator state "

	redisWait    = time.Second // for Redis, unless the caller has less time
	redisConns   = 32
	redisPending = 256 // operations that may wait for Redis
	redisFresh   = time.Second
	// redisAnswer is the part of the time that is left for an answer after Redis has
	// waited for its replicas, which it ends up to 100 ms late (hz 10).
	redisAnswer = 250 * time.Millisecond
	// redisSkew is how much longer than it counts an entry is kept: whether it has
	// expired is judged by the clock of each of us, not by Redis's.
	redisSkew = 2 * time.Minute
	// redisRetries is how often an Update is tried: each time another was faster.
	redisRetries = 1000

	redisScan       = 4 << 20 // keys that a Scan goes through, and pages
	maxPasswordFile = 4 << 10
	maxCAFile       = 1 << 20
)

// ErrNotInitialized says that a Redis is new, or was emptied: had it held counts,
// they are gone, and only a person can know whether that matters.
var ErrNotInitialized = errors.New("this Redis does not hold our mark: it is new, or was flushed; `openstack-nova-authenticator keys init` accepts it")

var errRedisSlow = errors.New("does not answer in time")

// Redis is a Store in a Redis that several processes may use together.
type Redis struct {
	config RedisConfig
	where  string
	now    func() time.Time
	client *redis.Client
	slots  chan struct{}
	update chan struct{} // held by one Update: those of one process need not race each other

	mu      sync.Mutex
	closed  bool
	check   *redisCheck
	checker sync.WaitGroup
}

// redisCheck is one look at the settings of Redis, which is over when done is closed.
type redisCheck struct {
	done chan struct{}
	at   time.Time
	err  error
}

// silence is for the whole process, as the logger of go-redis is: what goes wrong
// is in the errors that it gives, and its lines would be in no format of ours.
var silence = sync.OnceFunc(func() { redis.SetLogger(noLogger{}) })

type noLogger struct{}

func (noLogger) Printf(context.Context, string, ...any) {}

// OpenRedis reads the files that c names. It does not connect: a server starts
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
	// MaxRetries is off (-1): an Increment whose answer was lost may have counted,
	// and a second one would spend another attempt. DialerRetries are tries.
	// PipelinePoolSize -1: no second pool beside that of redisConns.
	o := &redis.FailoverOptions{
		MasterName: c.Sentinel, SentinelAddrs: c.Addresses,
		DB: c.DB, Dialer: dial, OnConnect: r.onConnect, CredentialsProviderContext: r.credentials,
		Protocol: 2, DisableIdentity: true,
		ContextTimeoutEnabled: true, DialTimeout: redisWait, ReadTimeout: redisWait, WriteTimeout: redisWait,
		MaxRetries: -1, DialerRetries: 1,
		PoolSize: redisConns, MaxActiveConns: redisConns, PoolTimeout: redisWait, PipelinePoolSize: -1,
	}
	if c.Sentinel != "" {
		// Asking a Sentinel that hangs, giving it up, and asking the others is one dial.
		o.DialTimeout = 3 * redisWait
		r.client = redis.NewFailoverClient(o)
		return r, nil
	}
	r.client = redis.NewClient(&redis.Options{
		Addr: c.Addresses[0],
		DB:   o.DB, Dialer: o.Dialer, OnConnect: o.OnConnect, CredentialsProviderContext: o.CredentialsProviderContext,
		Protocol: o.Protocol, DisableIdentity: o.DisableIdentity,
		ContextTimeoutEnabled: o.ContextTimeoutEnabled, DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout,
		MaxRetries: o.MaxRetries, DialerRetries: o.DialerRetries,
		PoolSize: o.PoolSize, MaxActiveConns: o.MaxActiveConns, PoolTimeout: o.PoolTimeout, PipelinePoolSize: o.PipelinePoolSize,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	return r, nil
}

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

// onConnect refuses a new connection to a Redis that does not suit us, as one may
// be that Sentinel has just promoted. Connections to Sentinels come here, too.
func (r *Redis) onConnect(ctx context.Context, conn *redis.Conn) error {
	info, err := conn.Info(ctx).Result()
	if redis.HasErrorPrefix(err, "NOAUTH") && r.config.Sentinel != "" && r.config.PasswordFile != "" {
		// Redis itself has our password already, so this is a Sentinel.
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
		return errors.New("the user may not call INFO (+info), which tells whether Redis may forget counts")
	}
	return err
}

// suits reads what INFO tells.
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
		return errors.New("INFO does not tell its role, maxmemory and maxmemory_policy")
	case field["role"] != "master":
		return errors.New("is a replica, which is read-only: the primary is wanted")
	case limit != "0" && policy != "noeviction":
		return fmt.Errorf("maxmemory-policy is %s: it may forget counts, which gives attempts back; set it to noeviction", policy)
	}
	return nil
}

// suitable looks at the settings of Redis, unless somebody has within the last
// second. One looks for all who wait.
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
		// Not in the caller's time: one who leaves must not fail those who wait.
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

// do runs an operation in the time that there is, once a slot is free.
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

// explain says what is wrong in few words, and where.
func (r *Redis) explain(ctx context.Context, err error) error {
	var network *net.OpError
	var timeout interface{ Timeout() bool }
	switch {
	case err == nil:
		return nil
	case errors.Is(err, redis.ErrClosed), errors.Is(err, errClosed):
		return errClosed
	case ctx.Err() != nil:
		err = fmt.Errorf("%w (%w)", errRedisSlow, ctx.Err())
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, redis.ErrPoolTimeout):
		err = errRedisSlow
	case redis.HasErrorPrefix(err, "UNMARKED"):
		err = r.unmarked(err)
	case isCode(err, "OOM"):
		err = fmt.Errorf("%w: its maxmemory is used up", ErrFull)
	case isCode(err, "READONLY"):
		err = errors.New("is a replica, which is read-only: the primary is wanted")
	case isCode(err, "LOADING"):
		err = errors.New("is loading its data")
	case isCode(err, "MISCONF"):
		err = errors.New("cannot write to its disk, and takes no writes meanwhile (MISCONF)")
	case isCode(err, "NOREPLICAS"):
		err = errors.New("has fewer replicas than its min-replicas-to-write")
	case isCode(err, "NOAUTH"):
		err = errors.New("wants a password (NOAUTH); redis.passwordFile names the file")
	case isCode(err, "WRONGPASS"):
		err = errors.New("does not know this user and password (WRONGPASS)")
	case errors.As(err, new(redis.Error)):
		// An answer to a command that Redis does not know repeats it, password and all.
		text, _, _ := strings.Cut(err.Error(), ", with args")
		err = errors.New(text)
	case errors.As(err, &network) && !network.Timeout():
		err = fmt.Errorf("%s: %w", network.Op, network.Err)
	case errors.As(err, &timeout) && timeout.Timeout():
		err = errRedisSlow
	case errors.Is(err, io.EOF):
		err = errors.New("has closed the connection")
	case strings.Contains(err.Error(), "\n"): // of several Sentinels
		err = errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return fmt.Errorf("%s: %w", r.where, err)
}

// isCode looks into errors of scripts, too: a Redis before 7 puts its own words
// before those of the command that failed.
func isCode(err error, code string) bool {
	return redis.HasErrorPrefix(err, code) || errors.As(err, new(redis.Error)) && strings.Contains(err.Error(), " -"+code+" ")
}

// unmarked says what is where our mark should be.
func (r *Redis) unmarked(err error) error {
	_, mark, _ := strings.Cut(err.Error(), "UNMARKED ")
	if mark == "" {
		return ErrNotInitialized
	}
	version, ours := strings.CutPrefix(mark, redisMark)
	if n, err := strconv.ParseUint(version, 10, 32); ours && err == nil {
		return fmt.Errorf("its state has version %d, and %d is the newest that this binary knows", n, redisVersion)
	}
	name, colon := strings.CutSuffix(r.config.Prefix, ":")
	if name = secret.Show(name); colon {
		name += ":"
	}
	return fmt.Errorf("another program has the key %smark; choose another redis.prefix", name)
}

// A script begins with a look at the mark, so that nothing comes between it and
// what follows: with the mark, counts went away.
func script(text string) *redis.Script {
	return redis.NewScript(`
local mark = redis.call('GET', KEYS[1])
if mark ~= ARGV[1] then
	return redis.error_reply('UNMARKED ' .. string.sub(mark or '', 1, 100))
end
` + text)
}

// An entry is a string that begins with its expiry in milliseconds, 0 for never,
// and a space; its number or its value follows. now is ours. Redis takes it away
// ARGV[3] milliseconds after it has expired. One that is longer than maxValue and
// an expiry is not handed out: others can write to Redis.
const scriptEntry = `
local now = tonumber(ARGV[2])
local function read(key)
	local raw = redis.call('GET', key)
	if not raw then return false end
	if #raw > 2097216 then error('an entry that is too long') end
	local space = string.find(raw, ' ', 1, true)
	local expires = space and tonumber(string.sub(raw, 1, space - 1))
	if not expires then error('an entry of another program') end
	if expires ~= 0 and expires <= now then return false end
	return string.sub(raw, space + 1), expires
end
local function write(key, data, expires)
	local raw = string.format('%.0f ', expires) .. data
	if expires == 0 then
		redis.call('SET', key, raw)
	else
		redis.call('SET', key, raw, 'PX', string.format('%.0f', expires - now + tonumber(ARGV[3])))
	end
end
`

// The data of a count is the highest number that is out, and after a space each
// those below it that are not, in their order; see count.
const scriptCount = `
local function count(data)
	local n, back = 0, {}
	for word in string.gmatch(data or '0', '%S+') do
		local number = tonumber(word)
		if not number then error('an entry of another program') end
		back[#back + 1] = number
	end
	n = table.remove(back, 1)
	if not n then error('an entry of another program') end
	return n, back
end
local function text(n, back)
	local words = {string.format('%.0f', n)}
	for _, b in ipairs(back) do words[#words + 1] = string.format('%.0f', b) end
	return table.concat(words, ' ')
end
`

var (
	scriptGet = script(scriptEntry + `
return {(read(KEYS[2]))}
`)
	scriptIncrement = script(scriptEntry + scriptCount + `
local data, expires = read(KEYS[2])
local n, back = count(data)
expires = math.max(expires or 0, tonumber(ARGV[4]))
local got = table.remove(back, 1)
if not got then
	n = n + 1
	got = n
end
write(KEYS[2], text(n, back), expires)
return got
`)
	// 4: the number, 5: how many of them are kept.
	scriptGiveBack = script(scriptEntry + scriptCount + `
local data, expires = read(KEYS[2])
local n, back = count(data)
local got = tonumber(ARGV[4])
if got < 1 or got > n then return 0 end
for _, b in ipairs(back) do
	if b == got then return 0 end
end
if got < n then
	if #back >= tonumber(ARGV[5]) then return 0 end
	back[#back + 1] = got
	table.sort(back)
else
	n = n - 1
	while back[#back] == n and n > 0 do
		table.remove(back)
		n = n - 1
	end
end
if n == 0 then
	redis.call('DEL', KEYS[2])
else
	write(KEYS[2], text(n, back), expires)
end
return 1
`)
	// 4: expiry, 5: 1 for a value and 0 for none, 6: the value; and for an Update
	// 7 and 8: what the old one must be, as 5 and 6.
	scriptPut = script(scriptEntry + `
if ARGV[7] then
	local old = read(KEYS[2])
	if (old and '1' or '0') ~= ARGV[7] or (old or '') ~= ARGV[8] then return 0 end
end
if ARGV[5] == '0' then
	redis.call('DEL', KEYS[2])
else
	write(KEYS[2], ARGV[6], tonumber(ARGV[4]))
end
return 1
`)
	scriptForget = script(`
return redis.call('DEL', KEYS[2], KEYS[3])
`)
	// 2: cursor, 3: pattern. What is no string is not ours.
	scriptScan = script(`
local page = redis.call('SCAN', ARGV[2], 'MATCH', ARGV[3], 'COUNT', 1000)
local found, size = {page[1]}, 0
for _, key in ipairs(page[2]) do
	local raw = redis.pcall('GET', key)
	if type(raw) == 'string' then
		size = size + #key + #raw
		if size > 4194304 then return redis.error_reply('ERR entries that are too long') end
		found[#found + 1] = key
		found[#found + 1] = raw
	end
end
return found
`)
	scriptInit = redis.NewScript(`
local mark = redis.call('GET', KEYS[1])
if not mark then
	mark = ARGV[1]
	redis.call('SET', KEYS[1], mark)
end
if mark ~= ARGV[1] then
	return redis.error_reply('UNMARKED ' .. string.sub(mark, 1, 100))
end
return 1
`)
)

// run calls a script by its hash, or with its text if Redis does not have it yet.
func (r *Redis) run(ctx context.Context, s *redis.Script, keys []string, args ...any) (any, error) {
	keys, args = r.marked(keys, args)
	return s.Run(ctx, r.client, keys, args...).Result()
}

// write is run for a script that writes, and waits for the replicas. WAIT is for
// what its own connection wrote, and so is sent along.
func (r *Redis) write(ctx context.Context, s *redis.Script, keys []string, args ...any) (any, error) {
	if r.config.WaitReplicas == 0 {
		return r.run(ctx, s, keys, args...)
	}
	keys, args = r.marked(keys, args)
	deadline, _ := ctx.Deadline()
	patience := max(time.Until(deadline)-redisAnswer, time.Millisecond) // 0 would be for ever
	// With its text: a hash that Redis does not know would have WAIT wait in vain.
	pipe := r.client.Pipeline()
	result := s.Eval(ctx, pipe, keys, args...)
	replicas := redis.NewIntCmd(ctx, "WAIT", r.config.WaitReplicas, patience.Milliseconds())
	_ = pipe.Process(ctx, replicas) // queues it
	_, _ = pipe.Exec(ctx)           // each has its own error
	value, err := result.Result()
	if err != nil {
		return nil, err
	}
	if n, err := replicas.Result(); err != nil {
		return nil, err
	} else if n < int64(r.config.WaitReplicas) {
		return nil, fmt.Errorf("%d replicas have the write in time, and %d are wanted", n, r.config.WaitReplicas)
	}
	return value, nil
}

func (r *Redis) marked(keys []string, args []any) ([]string, []any) {
	return append([]string{r.config.Prefix + "mark"}, keys...),
		append([]any{redisMark + strconv.Itoa(redisVersion)}, args...)
}

func (r *Redis) countKey(key string) string { return r.config.Prefix + "c:" + key }
func (r *Redis) valueKey(key string) string { return r.config.Prefix + "v:" + key }

// redisTime is never before t: what is counted ends when it says, not before.
func redisTime(t time.Time) int64 {
	ms := t.UnixMilli()
	if t.After(time.UnixMilli(ms)) {
		ms++
	}
	return ms
}

// Init accepts a Redis that does not hold our mark. One that does is left as it is.
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
			return errors.New("an entry that should be a count is none")
		}
		n = c.used()
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// parseRedisCount reads what scriptCount wrote.
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

// Increment implements [Store]. One that fails may have counted.
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

// get is the data of an entry, nil if there is none.
func (r *Redis) get(ctx context.Context, key string) ([]byte, error) {
	result, err := r.run(ctx, scriptGet, []string{key}, r.now().UnixMilli(), redisSkew.Milliseconds())
	if err != nil {
		return nil, err
	}
	found, ok := result.([]any)
	if !ok || len(found) != 1 {
		return nil, fmt.Errorf("answered %T for an entry", result)
	}
	if found[0] == nil {
		return nil, nil
	}
	data, ok := found[0].(string)
	if !ok {
		return nil, fmt.Errorf("answered %T for an entry", found[0])
	}
	return []byte(data), nil
}

// Get implements [Store].
func (r *Redis) Get(ctx context.Context, key string) (value []byte, err error) {
	err = r.do(ctx, func(ctx context.Context) error {
		value, err = r.get(ctx, r.valueKey(key))
		return err
	})
	return value, err
}

// put gives whether it did: with old, it does only if that is the value still.
func (r *Redis) put(ctx context.Context, key string, value []byte, expires int64, old ...any) (bool, error) {
	has, data := present(value)
	args := append([]any{r.now().UnixMilli(), redisSkew.Milliseconds(), expires, has, data}, old...)
	result, err := r.write(ctx, scriptPut, []string{r.valueKey(key)}, args...)
	return result == int64(1), err
}

func present(value []byte) (has int, data []byte) {
	if value == nil {
		return 0, []byte{}
	}
	return 1, value
}

// Update implements [Store]. One that fails may have replaced the value.
func (r *Redis) Update(ctx context.Context, key string, change func(old []byte) ([]byte, error)) error {
	ctx, cancel := context.WithTimeout(ctx, redisWait)
	defer cancel()
	select {
	case r.update <- struct{}{}:
		defer func() { <-r.update }()
	case <-ctx.Done():
		return r.explain(ctx, ctx.Err())
	}
	var refused error // of change: what it says is for the caller as it is
	err := r.do(ctx, func(ctx context.Context) error {
		for try := range redisRetries {
			old, err := r.get(ctx, r.valueKey(key))
			if err != nil {
				return err
			}
			has, data := present(old)
			before := append([]byte{}, data...) // old is change's to write in
			value, err := change(old)
			if err != nil {
				refused = err
				return err
			}
			if err := checkValue(value); err != nil {
				refused = err
				return err
			}
			if done, err := r.put(ctx, key, value, 0, has, before); done || err != nil {
				return err
			}
			select {
			case <-time.After(jitter(min(time.Millisecond<<min(try, 6), 50*time.Millisecond))):
			case <-ctx.Done():
				return fmt.Errorf("others change %s all the time: %w", key, ctx.Err())
			}
		}
		return fmt.Errorf("others change %s all the time", key)
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

// Put implements [Store]. One that fails may have set the value.
func (r *Redis) Put(ctx context.Context, key string, value []byte, expires time.Time) error {
	if err := checkValue(value); err != nil {
		return err
	}
	var ms int64
	if !expires.IsZero() {
		if err := checkExpiry(expires, r.now()); err != nil {
			return err
		}
		ms = redisTime(expires)
	}
	return r.do(ctx, func(ctx context.Context) error {
		_, err := r.put(ctx, key, value, ms)
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

// Scan implements [Store]. It goes through the whole database, a thousand keys at
// a time, each in the time of one operation.
func (r *Redis) Scan(ctx context.Context, prefix string, visit func(Entry) bool) error {
	pattern := globEscape.Replace(r.config.Prefix) + "[cv]:" + globEscape.Replace(prefix) + "*"
	seen := map[string]bool{} // Redis may show a key twice
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

// parseRedisEntry reads what scriptEntry wrote, at c: or v: and its key.
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
