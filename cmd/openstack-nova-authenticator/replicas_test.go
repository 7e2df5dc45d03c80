package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/admin"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

// site has a cloud and its replicas.
type site struct {
	env       []string // for the program
	dir       string
	issuer    string // the URL of the first replica
	cloud     *simulator.Cloud
	instances atomic.Int64
}

func newSite(t *testing.T) *site {
	t.Helper()
	startsProcesses(t)
	cloud, err := scriptCloud()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cloud.Close() })
	dir := t.TempDir()
	key := "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=" // only for this test
	if err := os.WriteFile(filepath.Join(dir, "encryption.key"), []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	return &site{dir: dir, cloud: cloud, env: append(os.Environ(),
		"OS_AUTH_URL="+cloud.AuthURL(), "OS_USERNAME=authenticator", "OS_PASSWORD=secret-word", "OS_PROJECT_NAME=service",
		"OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_DOMAIN_NAME=Default", "OS_CLOUD=", "OS_CACERT=",
	)}
}

// newInstance adds an instance, which has made no attempt.
func (s *site) newInstance() (id string) {
	id = fmt.Sprintf("22222222-aaaa-4aaa-8aaa-%012d", s.instances.Add(1))
	s.cloud.SetServer(simulator.Server{
		ID: id, Name: "web-1", Status: "ACTIVE", ProjectID: scriptProject, UserID: "821a2eaac0724c069aa6a44bd7b91935",
		Created: time.Now(), Launched: time.Now(), Flavor: "m1.small",
		Addresses: []simulator.Address{{Network: "private", Addr: "127.0.0.1", Type: "fixed"}},
	})
	return id
}

// replica is a process of the program.
type replica struct {
	site         *site
	program      string // "" for the program under test
	file         string // its configuration
	url, metrics string
	stderr       string
	cmd          *exec.Cmd
	ended        chan struct{}
}

// newReplica writes a configuration. state is its section state.
func (s *site) newReplica(t *testing.T, name string, limit int, state string) *replica {
	t.Helper()
	ports := freePorts(t, 2)
	r := &replica{
		site: s, file: filepath.Join(s.dir, name+".yml"), stderr: filepath.Join(s.dir, name+".err"),
		url: "http://127.0.0.1:" + ports[0], metrics: "http://127.0.0.1:" + ports[1],
	}
	if s.issuer == "" {
		s.issuer = r.url
	}
	config := fmt.Sprintf(`
listen: 127.0.0.1:%s
metrics: {listen: "127.0.0.1:%s"}
admin: {socket: %s.sock}
audit: {output: %s.audit}
auth: {tokenIssuer: "%s", limit: %d}
keys: {algorithm: ES256, maxAge: 1m, encryptionKeyFile: encryption.key}
throttle: {perAddress: {rate: 10000, burst: 10000}}
roles: {web: {projectID: %s}}
state: %s
`, ports[0], ports[1], name, name, s.issuer, limit, scriptProject, state)
	if err := os.WriteFile(r.file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.kill()
		if text, err := os.ReadFile(r.stderr); err == nil && t.Failed() {
			t.Logf("%s said:\n%s", name, text)
		}
	})
	return r
}

func (r *replica) binary() string {
	if r.program != "" {
		return r.program
	}
	return program
}

// start starts it and waits until it is ready.
func (r *replica) start(t *testing.T) {
	t.Helper()
	r.launch(t)
	r.ready(t)
}

// launch starts it.
func (r *replica) launch(t *testing.T) {
	t.Helper()
	stderr, err := os.OpenFile(r.stderr, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	r.cmd = exec.Command(r.binary(), "-c", r.file)
	r.cmd.Env, r.cmd.Stderr = r.site.env, stderr
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.ended = make(chan struct{})
	go func() {
		defer close(r.ended)
		_ = r.cmd.Wait()
	}()
}

func (r *replica) ready(t *testing.T) {
	t.Helper()
	awaittest.Success(t, "the replica is ready", func() error {
		resp, err := http.Get(r.metrics + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
}

// kill sends SIGKILL.
func (r *replica) kill() {
	if r.cmd != nil {
		_ = r.cmd.Process.Kill()
		<-r.ended
	}
}

// command runs a command with its configuration.
func (r *replica) command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), r.binary(), append(args, "-c", r.file)...)
	cmd.Env = r.site.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (r *replica) mustCommand(t *testing.T, args ...string) {
	t.Helper()
	if out, err := r.command(t, args...); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// answer is an answer of POST /auth.
type answer struct {
	status int
	retry  string
	Error  string `json:"error"`
	Token  string `json:"token"`
}

func (r *replica) ask(ctx context.Context, instance string) (a answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	form := url.Values{"instance_id": {instance}, "role": {"web"}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/auth", strings.NewReader(form))
	if err != nil {
		return a, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	a.status, a.retry = resp.StatusCode, resp.Header.Get("Retry-After")
	return a, json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&a)
}

// granted returns a token for an instance that has attempts left.
func (r *replica) granted(t *testing.T, instance string) string {
	t.Helper()
	a, err := r.ask(t.Context(), instance)
	if err != nil || a.status != http.StatusOK {
		t.Fatalf("%+v, %v", a, err)
	}
	return a.Token
}

// kids returns the IDs of the published keys.
func (r *replica) kids(t *testing.T) []string {
	t.Helper()
	resp, err := http.Get(r.url + "/.well-known/jwks.json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var set struct {
		Keys []struct {
			KeyID string `json:"kid"`
		} `json:"keys"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&set); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", resp.Status, err)
	}
	var all []string
	for _, k := range set.Keys {
		all = append(all, k.KeyID)
	}
	slices.Sort(all)
	return all
}

// verifies checks a token with a verifier that we did not write. It fetches the keys.
func (r *replica) verifies(t *testing.T, compact string) {
	t.Helper()
	provider, err := oidc.NewProvider(t.Context(), r.site.issuer)
	if err == nil {
		_, err = provider.Verifier(&oidc.Config{SkipClientIDCheck: true, SupportedSigningAlgs: []string{oidc.ES256}}).Verify(t.Context(), compact)
	}
	if err != nil {
		t.Errorf("an issued token is rejected: %v", err)
	}
}

func (r *replica) goroutines(t *testing.T) int {
	t.Helper()
	socket := strings.TrimSuffix(r.file, ".yml") + ".sock"
	resp, err := admin.NewClient(socket).Get("http://admin/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	m := regexp.MustCompile(`^goroutine profile: total ([0-9]+)`).FindSubmatch(text)
	if err != nil || m == nil {
		t.Fatalf("%.100q, %v", text, err)
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n
}

// startShared starts two replicas with one Redis.
func startShared(t *testing.T, limit int, args ...string) (redis *statetest.Process, one, two *replica) {
	t.Helper()
	redis = statetest.StartRedis(t, args...)
	s := newSite(t)
	shared := fmt.Sprintf(`{type: redis, redis: {addresses: ["%s"]}}`, redis.Addr)
	one, two = s.newReplica(t, "one", limit, shared), s.newReplica(t, "two", limit, shared)
	one.mustCommand(t, "keys", "init")
	one.start(t)
	two.start(t)
	return redis, one, two
}

// Replicas count the attempts of an instance together, and share the denial list.
func TestReplicasShareTheLimit(t *testing.T) {
	t.Parallel()
	const limit = 20
	_, one, two := startShared(t, limit)
	for range 3 {
		instance := one.site.newInstance()
		var granted, refused atomic.Int64
		var clients sync.WaitGroup
		for i := range 16 {
			clients.Go(func() {
				for range 5 {
					a, err := []*replica{one, two}[i%2].ask(t.Context(), instance)
					switch {
					case err != nil:
						t.Error(err)
					case a.status == http.StatusOK && a.Token != "":
						granted.Add(1)
					case a.status == http.StatusForbidden:
						refused.Add(1)
					default:
						t.Errorf("%+v", a)
					}
				}
			})
		}
		clients.Wait()
		if granted.Load() != limit || refused.Load() != 16*5-limit {
			t.Errorf("%d attempts were granted and %d refused, with a limit of %d", granted.Load(), refused.Load(), limit)
		}
	}
	if diff := cmp.Diff(one.kids(t), two.kids(t)); diff != "" {
		t.Errorf("the keys of one and two (-one +two):\n%s", diff)
	}

	instance := one.site.newInstance()
	two.granted(t, instance)
	one.mustCommand(t, "instances", "deny", instance)
	if a, err := two.ask(t.Context(), instance); a.status != http.StatusForbidden || err != nil {
		t.Errorf("an instance that one denied gets from two %+v, %v", a, err)
	}
	two.mustCommand(t, "instances", "allow", instance)
	one.granted(t, instance)
}

// With each fault of Redis the replicas soon answer 503. They serve the key set, and issued
// tokens stay valid. After the fault they issue tokens again without a restart.
func TestReplicasOutliveFaultsOfRedis(t *testing.T) {
	t.Parallel()
	redis, one, two := startShared(t, 3, "--appendonly", "yes", "--appendfsync", "always")
	out := one.granted(t, one.site.newInstance())
	kids := one.kids(t)
	for _, tt := range []struct {
		name       string
		begin, end func()
	}{
		{"gone", redis.Kill, redis.Restart},
		{"slow", func() { redis.Signal(syscall.SIGSTOP) }, func() { redis.Signal(syscall.SIGCONT) }},
		{"full", func() { redis.Do("CONFIG", "SET", "maxmemory", "1") }, func() { redis.Do("CONFIG", "SET", "maxmemory", "0") }},
		{"read-only", func() { redis.Do("REPLICAOF", "127.0.0.1", "1") }, func() { redis.Do("REPLICAOF", "NO", "ONE") }},
		{"evicting", func() {
			redis.Do("CONFIG", "SET", "maxmemory", "1gb")
			redis.Do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
		}, func() { redis.Do("CONFIG", "SET", "maxmemory-policy", "noeviction") }},
		{"flushed", func() { redis.Do("FLUSHALL") }, func() { one.mustCommand(t, "keys", "init") }},
	} {
		before := one.goroutines(t)
		tt.begin()
		awaittest.Success(t, tt.name+" is noticed", func() error { // a check of Redis counts for a second
			if a, err := one.ask(t.Context(), one.site.newInstance()); err != nil || a.status == http.StatusOK {
				return fmt.Errorf("%+v, %w", a, err)
			}
			return nil
		})
		instance := one.site.newInstance()
		var clients sync.WaitGroup
		began := time.Now()
		for range 200 {
			clients.Go(func() {
				a, err := one.ask(t.Context(), instance)
				wait, _ := strconv.Atoi(a.retry)
				if err != nil || a.status != http.StatusServiceUnavailable || a.Error != "temporarily_unavailable" || a.Token != "" || wait < 1 {
					t.Errorf("%s: %+v, Retry-After %q, %v", tt.name, a, a.retry, err)
				}
			})
		}
		clients.Wait()
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("%s: the answers took %v", tt.name, took)
		}
		if diff := cmp.Diff(kids, two.kids(t)); diff != "" {
			t.Errorf("%s: the published keys have changed (-was +is):\n%s", tt.name, diff)
		}
		one.verifies(t, out)
		http.DefaultClient.CloseIdleConnections()
		awaittest.Success(t, tt.name+": goroutines", func() error {
			if n := one.goroutines(t); n > before+20 {
				return fmt.Errorf("there are %d, and were %d", n, before)
			}
			return nil
		})
		tt.end()
		for _, r := range []*replica{one, two} {
			if took := awaittest.Success(t, tt.name+" is over", func() error {
				if a, err := r.ask(t.Context(), one.site.newInstance()); err != nil || a.status != http.StatusOK {
					return fmt.Errorf("%+v, %w", a, err)
				}
				return nil
			}); took > 10*time.Second {
				t.Errorf("%s: tokens again after %v", tt.name, took)
			}
		}
		if diff := cmp.Diff(kids, one.kids(t)); diff != "" {
			t.Errorf("after %s: the published keys have changed (-was +is):\n%s", tt.name, diff)
		}
		one.verifies(t, out)
	}
}

// A writer of Redis without the encryption key cannot read, add or restore a key. Replicas
// write a deleted key set back.
func TestAWriterOfRedisHasNoKeys(t *testing.T) {
	t.Parallel()
	server, one, two := startShared(t, 100)
	client := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer client.Close()
	const key = "ona:v:keys"
	get := func() string { return client.Get(t.Context(), key).Val() }
	set := func(value string) {
		t.Helper()
		if err := client.Set(t.Context(), key, value, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	published := func(want []string) {
		t.Helper()
		for _, r := range []*replica{one, two} {
			if diff := cmp.Diff(want, r.kids(t)); diff != "" {
				t.Errorf("the published keys (-want +got):\n%s", diff)
			}
		}
	}
	first, firstKids := get(), one.kids(t)
	if !strings.HasPrefix(first, "0 nova-authenticator-keys/2 sealed ") || strings.Contains(first, `"private"`) {
		t.Errorf("the key set in Redis is %.60q...", first)
	}

	// The key set is deleted: a replica writes it back.
	if err := client.Del(t.Context(), key).Err(); err != nil {
		t.Fatal(err)
	}
	awaittest.Success(t, "the key set is back", func() error {
		if get() == "" {
			return errors.New("it is not there")
		}
		return nil
	})
	published(firstKids)

	// A key is revoked, and the key set of before is restored.
	out := one.granted(t, one.site.newInstance())
	signer := keyID(t, out)
	one.mustCommand(t, "keys", "revoke", signer)
	awaittest.Success(t, "both have noticed", func() error {
		if slices.Contains(one.kids(t), signer) || slices.Contains(two.kids(t), signer) {
			return errors.New("it is published")
		}
		return nil
	})
	second := one.kids(t)
	set(first)
	awaittest.Success(t, "the newer key set is written back", func() error {
		published(second)
		if get() == first {
			return errors.New("the old one is there")
		}
		return nil
	})

	// A key set for the same issuer, sealed with another key; and one that is not sealed.
	other := newSite(t)
	other.issuer = one.site.issuer
	if err := os.WriteFile(filepath.Join(other.dir, "encryption.key"), []byte(strings.Repeat("QUJD", 10)+"QUI="), 0o600); err != nil {
		t.Fatal(err)
	}
	outsider := other.newReplica(t, "outsider", 3, fmt.Sprintf(`{type: redis, redis: {addresses: ["%s"], prefix: "other:"}}`, server.Addr))
	outsider.mustCommand(t, "keys", "init")
	sealed := client.Get(t.Context(), "other:v:keys").Val()
	if !strings.HasPrefix(sealed, "0 nova-authenticator-keys/2 sealed ") {
		t.Fatalf("the other key set is %q", sealed)
	}
	for _, foreign := range []string{sealed, "0 nova-authenticator-keys/1 plain {}", "0 nova-authenticator-keys/2 plain {}"} {
		said := len(logged(t, one))
		set(foreign)
		awaittest.Success(t, "it is noticed", func() error {
			published(second)
			if !strings.Contains(logged(t, one)[said:], "key set could not be brought up to date") {
				return errors.New("nothing is logged")
			}
			return nil
		})
		two.granted(t, two.site.newInstance()) // with the key that it holds
		one.mustCommand(t, "keys", "init")
		published(second)
		if get() == foreign {
			t.Error("keys init did not replace it")
		}
	}
}

func logged(t *testing.T, r *replica) string {
	t.Helper()
	text, err := os.ReadFile(r.stderr)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// keyID returns the kid of a token.
func keyID(t *testing.T, compact string) string {
	t.Helper()
	head, _, _ := strings.Cut(compact, ".")
	data, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		t.Fatal(err)
	}
	var header struct {
		KeyID string `json:"kid"`
	}
	if err := json.Unmarshal(data, &header); err != nil || header.KeyID == "" {
		t.Fatalf("%s, %v", data, err)
	}
	return header.KeyID
}

// SIGKILL at any time resets no attempts and loses no key.
func TestAKilledServerLosesNothing(t *testing.T) {
	for _, kind := range []string{"file", "redis"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			const limit, kills, clients = 400, 5, 8
			s := newSite(t)
			state := "{type: file}"
			if kind == "redis" {
				state = fmt.Sprintf(`{type: redis, redis: {addresses: ["%s"]}}`, statetest.StartRedis(t).Addr)
			}
			r := s.newReplica(t, "one", limit, state)
			if kind == "redis" {
				r.mustCommand(t, "keys", "init")
			}
			r.start(t)
			instance := s.newInstance()
			out, kids := r.granted(t, instance), r.kids(t)
			granted := 1
			for round := range kills + 1 {
				answers := make(chan answer)
				var load sync.WaitGroup
				for range clients {
					load.Go(func() {
						for {
							a, err := r.ask(t.Context(), instance)
							if err != nil {
								return // it was killed
							}
							answers <- a
							if a.status != http.StatusOK {
								return
							}
						}
					})
				}
				go func() {
					load.Wait()
					close(answers)
				}()
				began := granted
				for a := range answers {
					switch a.status {
					case http.StatusOK:
						granted++
					case http.StatusForbidden:
						if round < kills {
							t.Errorf("round %d: refused after %d of %d", round, granted, limit)
						}
					default:
						t.Errorf("round %d: %+v", round, a)
					}
					if round < kills && granted == began+20+7*round {
						_ = r.cmd.Process.Kill()
					}
				}
				if round < kills {
					<-r.ended
					r.start(t)
				}
			}
			// An attempt without an answer is spent.
			if granted > limit || granted < limit-kills*clients {
				t.Errorf("%d were granted with a limit of %d and %d kills under the load of %d", granted, limit, kills, clients)
			}
			if diff := cmp.Diff(kids, r.kids(t)); diff != "" {
				t.Errorf("the published keys have changed (-was +is):\n%s", diff)
			}
			r.verifies(t, out)
		})
	}
}

// While the state file cannot be written, as on a full disk, the answer is 503. setrlimit(2)
// makes writes fail without another disk.
func TestAServerOutlivesAFullDisk(t *testing.T) {
	t.Parallel()
	prlimit, err := exec.LookPath("prlimit")
	if err != nil {
		t.Skip("prlimit (util-linux) is not installed")
	}
	s := newSite(t)
	r := s.newReplica(t, "one", 3, "{type: file}")
	r.start(t)
	out, kids := r.granted(t, s.newInstance()), r.kids(t)
	limit := func(bytes string) {
		t.Helper()
		if text, err := exec.CommandContext(t.Context(), prlimit, "--pid", strconv.Itoa(r.cmd.Process.Pid), "--fsize="+bytes+":").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	}
	for range 2 {
		instance := s.newInstance()
		limit("1")
		for range 5 {
			a, err := r.ask(t.Context(), instance)
			if wait, _ := strconv.Atoi(a.retry); err != nil || a.status != http.StatusServiceUnavailable || a.Error != "temporarily_unavailable" || a.Token != "" || wait < 1 {
				t.Errorf("%+v, Retry-After %q, %v", a, a.retry, err)
			}
		}
		if diff := cmp.Diff(kids, r.kids(t)); diff != "" {
			t.Errorf("the published keys have changed (-was +is):\n%s", diff)
		}
		r.verifies(t, out)
		limit("unlimited")
		r.granted(t, instance)
	}
}

// check reads the files for Redis, and connects to it with --online.
func TestCheckOfRedis(t *testing.T) {
	t.Parallel()
	server := statetest.StartRedis(t)
	s := newSite(t)
	r := s.newReplica(t, "one", 3, fmt.Sprintf(`{type: redis, redis: {addresses: ["%s"]}}`, server.Addr))
	says := func(r *replica, ok bool, want string, args ...string) {
		t.Helper()
		if out, err := r.command(t, append([]string{"check"}, args...)...); (err == nil) != ok || !strings.Contains(out, want) {
			t.Errorf("check %v, %v, says\n%swant %q", args, err, out, want)
		}
	}
	says(r, true, "one.yml: ok\n")
	says(r, false, "one.yml: error: state: redis "+server.Addr+": this Redis does not hold our mark", "--online")
	r.mustCommand(t, "keys", "init")
	says(r, true, "one.yml: ok\n", "--online")
	server.Do("REPLICAOF", "127.0.0.1", "1")
	says(r, false, "is a replica, which is read-only", "--online")
	server.Kill()
	says(r, false, "connection refused", "--online")
	says(r, true, "one.yml: ok\n")

	bad := s.newReplica(t, "bad", 3, `{type: redis, redis: {passwordFile: none.secret, caFile: encryption.key}}`)
	says(bad, false, "none.secret: no such file or directory")
}

// A writer of Redis without the encryption key lifts no denial and restores no key, at running
// replicas and at starting ones.
func TestAWriterOfRedisLiftsNoDenial(t *testing.T) {
	t.Parallel()
	server, one, two := startShared(t, 1000)
	client := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer client.Close()
	const denials, keys = "ona:v:denials", "ona:v:keys"
	get := func(key string) string { return client.Get(t.Context(), key).Val() }
	set := func(key, value string) {
		t.Helper()
		if err := client.Set(t.Context(), key, value, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	denied, other := one.site.newInstance(), one.site.newInstance()
	old, oldKeys := get(denials), get(keys)
	if strings.Contains(old, other) || !strings.HasPrefix(old, "0 nova-authenticator-denials/2 sealed ") {
		t.Errorf("the list in Redis is %.80q", old)
	}
	one.mustCommand(t, "instances", "deny", denied)
	refused := func(when string, statuses ...int) {
		t.Helper()
		for _, r := range []*replica{one, two} {
			a, err := r.ask(t.Context(), denied)
			if err != nil || !slices.Contains(statuses, a.status) {
				t.Errorf("%s: %+v, %v; want one of %v", when, a, err, statuses)
			}
		}
	}
	refused("denied", http.StatusForbidden)
	if err := client.Del(t.Context(), denials).Err(); err != nil {
		t.Fatal(err)
	}
	refused("the list was deleted", http.StatusForbidden)
	set(denials, old)
	refused("the list of before", http.StatusForbidden)
	if now := get(denials); now == old || now == "" {
		t.Errorf("the newest list is not back: %.80q", now)
	}
	for _, value := range []string{"garbage", "0 garbage", get(keys), "0 nova-authenticator-denials/2 plain {}", "0 " + strings.Repeat("x", 8<<20)} {
		set(denials, value)
		refused(fmt.Sprintf("%.40q", value), http.StatusServiceUnavailable)
		if value != "garbage" && len(value) < 1<<20 { // it is our entry, or may be
			one.mustCommand(t, "keys", "init")
		} else if err := client.Del(t.Context(), denials).Err(); err != nil {
			t.Fatal(err)
		}
		refused("written back over it", http.StatusForbidden)
		one.granted(t, other)
	}

	// All servers are down, and the values of before are restored.
	signer := keyID(t, one.granted(t, other))
	one.mustCommand(t, "keys", "revoke", signer)
	newest, newestKeys := get(denials), get(keys)
	one.kill()
	two.kill()
	set(denials, old)
	set(keys, oldKeys)
	one.launch(t)
	two.launch(t)
	for _, r := range []*replica{one, two} {
		awaittest.Success(t, "it refuses the old key set", func() error {
			if !strings.Contains(logged(t, r), "is older than what this server has seen") {
				return errors.New("it does not say so")
			}
			return nil
		})
		if a, err := r.ask(t.Context(), other); err != nil || a.status != http.StatusServiceUnavailable {
			t.Errorf("with the old key set: %+v, %v", a, err)
		}
	}
	refused("with the old list", http.StatusServiceUnavailable)
	set(denials, newest)
	set(keys, newestKeys)
	one.ready(t)
	two.ready(t)
	awaittest.Success(t, "tokens again", func() error {
		for _, r := range []*replica{one, two} {
			if a, err := r.ask(t.Context(), other); err != nil || a.status != http.StatusOK {
				return fmt.Errorf("%+v, %w", a, err)
			}
		}
		return nil
	})
	refused("with the newest list", http.StatusForbidden)
	if slices.Contains(one.kids(t), signer) || slices.Contains(two.kids(t), signer) {
		t.Error("the revoked key is published")
	}
}
