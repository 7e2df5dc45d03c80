package openstack_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

// compute is a host of Nova.
var compute = netip.MustParseAddr("192.0.2.40")

// novaToken logs in as Nova does for a vendordata service.
func novaToken(t *testing.T, cloud *simulator.Cloud) (token, userID string) {
	t.Helper()
	cloud.AddAccount(simulator.Account{Name: "nova-vendordata", ID: "nova-id", Password: password, ProjectName: "service", Roles: []string{"service"}})
	return signIn(t, cloud, "nova-vendordata", "service"), "nova-id"
}

func signIn(t *testing.T, cloud *simulator.Cloud, user, project string) string {
	t.Helper()
	body := fmt.Sprintf(`{"auth":{"identity":{"methods":["password"],"password":{"user":{"name":%q,"domain":{"id":"default"},"password":%q}}},`+
		`"scope":{"project":{"name":%q,"domain":{"id":"default"}}}}}`, user, password, project)
	resp, err := http.Post(cloud.AuthURL()+"/auth/tokens", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("signing in: %s", resp.Status)
	}
	return resp.Header.Get("X-Subject-Token")
}

func newValidator(t *testing.T, cloud *simulator.Cloud, opts openstack.Options) *openstack.Client {
	t.Helper()
	cloud.AddAccount(simulator.Account{Name: "validator", Password: password, ProjectName: "service", Roles: []string{"reader", "instance_reader", "service"}})
	opts.Callers = []string{"nova-id"}
	c := newClient(t, as("validator", "service", cloud.AuthURL()), config(), opts)
	connect(t, c)
	return c
}

func TestCaller(t *testing.T) {
	cloud, clock := startCloud(t), statetest.NewClock()
	cloud.SetNow(clock.Now)
	c := newValidator(t, cloud, openstack.Options{Now: clock.Now})
	token, nova := novaToken(t, cloud)
	before := countChecks(cloud)

	var asking sync.WaitGroup
	for range 50 {
		asking.Go(func() {
			if id, err := c.Caller(t.Context(), token, compute); err != nil || id != nova {
				t.Errorf("Caller = %q, %v", id, err)
			}
		})
	}
	asking.Wait()
	clock.Advance(59 * time.Second)
	if id, err := c.Caller(t.Context(), token, compute); err != nil || id != nova {
		t.Errorf("Caller = %q, %v", id, err)
	}
	if n := countChecks(cloud) - before; n != 1 {
		t.Errorf("Keystone was asked %d times, want 1", n)
	}
	cloud.RevokeTokens()
	clock.Advance(2 * time.Second)
	if id, err := c.Caller(t.Context(), token, compute); !isRejected(err) || id != "" {
		t.Errorf("a revoked token, a minute later: %q, %v", id, err)
	}
	// That Keystone rejected a token is cached, too.
	before = countChecks(cloud)
	for range 10 {
		if _, err := c.Caller(t.Context(), token, compute); !isRejected(err) {
			t.Error(err)
		}
	}
	if n := countChecks(cloud) - before; n != 0 {
		t.Errorf("Keystone was asked %d times more", n)
	}
	clock.Advance(11 * time.Second)
	if _, err := c.Caller(t.Context(), token, compute); !isRejected(err) || countChecks(cloud) == before {
		t.Errorf("after ten seconds: %v, %d calls", err, countChecks(cloud)-before)
	}
}

func TestExpiredTokenIsRejected(t *testing.T) {
	cloud, clock := startCloud(t), statetest.NewClock()
	cloud.SetNow(clock.Now)
	c := newValidator(t, cloud, openstack.Options{Now: clock.Now})
	cloud.SetTokenLife(20 * time.Second)
	token, _ := novaToken(t, cloud)
	if _, err := c.Caller(t.Context(), token, compute); err != nil {
		t.Fatal(err)
	}
	clock.Advance(20 * time.Second)
	if id, err := c.Caller(t.Context(), token, compute); !isRejected(err) {
		t.Errorf("an expired token: %q, %v", id, err)
	}
}

func TestInvalidTokensNeitherOverloadKeystoneNorEvictValidOnes(t *testing.T) {
	cloud, clock := startCloud(t), statetest.NewClock()
	c := newValidator(t, cloud, openstack.Options{Now: clock.Now})
	token, nova := novaToken(t, cloud)
	if _, err := c.Caller(t.Context(), token, compute); err != nil {
		t.Fatal(err)
	}
	before := countChecks(cloud)
	var asking sync.WaitGroup
	var unknown, busy atomic.Int64
	for i := range 10_000 {
		asking.Go(func() {
			switch id, err := c.Caller(t.Context(), fmt.Sprintf("gAAAAA%d", i), compute); {
			case id != "" || err == nil:
				t.Errorf("an invalid token has the owner %q", id)
			case isRejected(err):
				unknown.Add(1)
			default:
				busy.Add(1)
			}
		})
	}
	asking.Wait()
	if n := countChecks(cloud) - before; n > 20 {
		t.Errorf("Keystone was asked %d times about 10,000 tokens", n)
	}
	if unknown.Load()+busy.Load() != 10_000 || unknown.Load() > 20 {
		t.Errorf("%d were rejected, %d were refused by the limit", unknown.Load(), busy.Load())
	}
	before = countChecks(cloud)
	if id, err := c.Caller(t.Context(), token, compute); err != nil || id != nova || countChecks(cloud) != before {
		t.Errorf("the valid token: %q, %v", id, err)
	}
}

func TestCallerWhenKeystoneFails(t *testing.T) {
	cloud, clock := startCloud(t), statetest.NewClock()
	cloud.SetNow(clock.Now)
	c := newValidator(t, cloud, openstack.Options{Now: clock.Now})
	token, nova := novaToken(t, cloud)
	for name, f := range map[string]simulator.Fault{
		"an error":                 {Status: 500},
		"a balancer's 404":         {Status: 404, Body: []byte("<html>")},
		"not JSON":                 {Body: []byte("<html>")},
		"no token":                 {Body: []byte("{}")},
		"no user":                  {Body: []byte(`{"token":{"expires_at":"2036-01-01T00:00:00Z","user":{}}}`)},
		"a token without an end":   {Body: []byte(`{"token":{"user":{"id":"nova-id"}}}`)},
		"a token that has ended":   {Body: []byte(`{"token":{"expires_at":"2016-01-01T00:00:00Z","user":{"id":"nova-id"}}}`)},
		"the right was taken away": {Status: 403, Body: []byte(`{"error":{"code":403}}`)},
	} {
		f.Only = tokens
		cloud.Fail("keystone", f)
		clock.Advance(10 * time.Second) // these checks count as failed, too
		id, err := c.Caller(t.Context(), token, compute)
		if id != "" || err == nil || isRejected(err) != (name == "a token that has ended") {
			t.Errorf("%s: %q, %v", name, id, err)
		}
	}
	cloud.Fail("keystone", simulator.Fault{})
	clock.Advance(10 * time.Second)
	if id, err := c.Caller(t.Context(), token, compute); err != nil || id != nova {
		t.Errorf("after the failures: %q, %v", id, err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Caller(gone, "another", compute); !errors.Is(err, context.Canceled) {
		t.Errorf("after the caller left, the error is %v", err)
	}
}

func TestSlowKeystoneDelaysNoLookup(t *testing.T) {
	cloud := startCloud(t)
	c := newValidator(t, cloud, openstack.Options{})
	cloud.Fail("keystone", simulator.Fault{Hang: true, Only: tokens})
	var asking sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for i := range 100 {
		asking.Go(func() { _, _ = c.Caller(ctx, fmt.Sprintf("gAAAAA%d", i), compute) })
	}
	if _, err := ask(t, c, web); err != nil {
		t.Error(err)
	}
	cancel()
	asking.Wait()
	cloud.Fail("keystone", simulator.Fault{})
}

func TestCallerNeedsTheRightToValidateTokens(t *testing.T) {
	cloud := startCloud(t)
	c := newClient(t, as("authenticator", "service", cloud.AuthURL()), config(), openstack.Options{Callers: []string{"nova-id"}})
	connect(t, c)
	token, _ := novaToken(t, cloud)
	if _, err := c.Caller(t.Context(), token, compute); err == nil || !strings.Contains(err.Error(), "identity:validate_token") || isRejected(err) {
		t.Errorf("Caller = %v, want the missing right", err)
	}
	// Keystone looks for the token before it checks its policy, so a 404 does not prove the right.
	cloud.Fail("keystone", simulator.Fault{Only: tokens, Status: 404, Body: []byte(`{"error":{"code":404}}`)})
	if _, err := c.Caller(t.Context(), "invalid", compute); !isRejected(err) {
		t.Errorf("Caller of an invalid token = %v", err)
	}
	if len(c.Refused()) != 1 {
		t.Error("after an invalid token the right is no longer reported as missing")
	}
}

// flood sends this many invalid tokens from these addresses.
func flood(t *testing.T, c *openstack.Client, tokens int, from ...netip.Addr) {
	t.Helper()
	var asking sync.WaitGroup
	run := rand.Text()
	for i := range tokens {
		asking.Go(func() {
			if id, err := c.Caller(t.Context(), fmt.Sprintf("gAAAAA%s%d", run, i), from[i%len(from)]); id != "" || err == nil {
				t.Errorf("an invalid token has the owner %q, %v", id, err)
			}
		})
	}
	asking.Wait()
}

func somewhere(n int) (all []netip.Addr) {
	for i := range n {
		all = append(all, neighbor(i))
	}
	return all
}

// Each host with nova-compute, and each worker of the metadata API, has its own token.
func TestValidTokensOfManyHostsAreNotLimited(t *testing.T) {
	cloud, clock := startCloud(t), statetest.NewClock()
	c := newValidator(t, cloud, openstack.Options{Now: clock.Now})
	_, nova := novaToken(t, cloud)
	const hosts = 200
	all := make([]string, hosts)
	for i := range all {
		all[i] = signIn(t, cloud, "nova-vendordata", "service")
	}
	before := countChecks(cloud)
	for range 3 { // after a minute a token is checked again
		var asking sync.WaitGroup
		for i, token := range all {
			asking.Go(func() {
				if id, err := c.Caller(t.Context(), token, neighbor(i)); err != nil || id != nova {
					t.Errorf("host %d: %q, %v", i, id, err)
				}
			})
		}
		asking.Wait()
		clock.Advance(time.Minute)
	}
	if n := countChecks(cloud) - before; n != 3*hosts {
		t.Errorf("Keystone was asked %d times, want %d", n, 3*hosts)
	}
}

func TestValidTokensAreAcceptedDuringAFloodOfInvalidOnes(t *testing.T) {
	cloud, clock := startCloud(t), statetest.NewClock()
	c := newValidator(t, cloud, openstack.Options{Now: clock.Now})
	token, nova := novaToken(t, cloud)
	accepted := func(what, token string, from netip.Addr) {
		t.Helper()
		if id, err := c.Caller(t.Context(), token, from); err != nil || id != nova {
			t.Errorf("%s: %q, %v", what, id, err)
		}
	}
	flood(t, c, 300, neighbor(1))
	accepted("an unknown host, while one address sends invalid tokens", token, compute)
	clock.Advance(time.Minute)
	flood(t, c, 300, somewhere(500)...)
	accepted("the same token, after a minute", token, compute)
	accepted("a new token of a host that was seen", signIn(t, cloud, "nova-vendordata", "service"), compute)
	clock.Advance(30 * time.Second)
	accepted("a cached token", token, compute)
}

// One IPv6 subnet, or many addresses, cannot use up the limit of a host of Nova that has not sent a token yet.
func TestUnprovenClientsDoNotUseUpTheLimitOfNova(t *testing.T) {
	subnet := make([]netip.Addr, 100)
	for i := range subnet {
		subnet[i] = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i)})
	}
	for name, from := range map[string][]netip.Addr{"a /64": subnet, "many IPv4 addresses": somewhere(300)} {
		t.Run(name, func(t *testing.T) {
			cloud, clock := startCloud(t), statetest.NewClock()
			c := newValidator(t, cloud, openstack.Options{Now: clock.Now})
			token, nova := novaToken(t, cloud)
			for i := range 2000 {
				_, _ = c.Caller(t.Context(), fmt.Sprintf("gAAAAA%d", i), from[i%len(from)])
			}
			if id, err := c.Caller(t.Context(), token, compute); err != nil || id != nova {
				t.Errorf("a host of Nova: %q, %v", id, err)
			}
			if name != "a /64" {
				return
			}
			before := countChecks(cloud)
			for i := range subnet {
				subnet[i] = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: 1, 15: byte(i)})
			}
			flood(t, c, 100, subnet...)
			if n := countChecks(cloud) - before; n != 0 {
				t.Errorf("after a /64 reached its limit, Keystone was asked %d times for other addresses of it", n)
			}
		})
	}
}

// Tokens of tenants are valid, but count like invalid ones.
func TestTokensOfTenantsAreLimited(t *testing.T) {
	cloud, clock := startCloud(t), statetest.NewClock()
	c := newValidator(t, cloud, openstack.Options{Now: clock.Now})
	token, nova := novaToken(t, cloud)
	withTenant(t, cloud)
	cloud.AddAccount(simulator.Account{Name: "member", ID: "member-id", Password: password, ProjectName: "shop", Roles: []string{"member"}})
	if _, err := c.Caller(t.Context(), token, compute); err != nil {
		t.Fatal(err)
	}
	before := countChecks(cloud)
	var told int
	for range 200 {
		switch id, err := c.Caller(t.Context(), signIn(t, cloud, "member", "shop"), neighbor(1)); {
		case err == nil && id == "member-id":
			told++
		case err == nil || !isThrottled(err):
			t.Errorf("%q, %v", id, err)
		}
	}
	if n := countChecks(cloud) - before; n > 5 || told != n {
		t.Errorf("Keystone was asked %d times, and %d tokens were accepted", n, told)
	}
	clock.Advance(59 * time.Second)
	before = countChecks(cloud)
	if id, err := c.Caller(t.Context(), token, compute); err != nil || id != nova || countChecks(cloud) != before {
		t.Errorf("Nova's: %q, %v", id, err)
	}
}

// Keystone and Nova may be on one host, whose number of connections is limited.
func TestSlowKeystoneTakesNoConnectionFromNova(t *testing.T) {
	cloud := startCloud(t)
	cloud.AddAccount(simulator.Account{Name: "validator", Password: password, ProjectName: "service", Roles: []string{"reader", "instance_reader", "service"}})
	cfg := config()
	cfg.MaxConcurrent = 1
	c := newClient(t, as("validator", "service", cloud.AuthURL()), cfg, openstack.Options{Callers: []string{"nova-id"}})
	connect(t, c)
	cloud.Fail("keystone", simulator.Fault{Hang: true, Only: tokens})
	before := countChecks(cloud)
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	for i := range 20 {
		asking.Go(func() { _, _ = c.Caller(ctx, fmt.Sprintf("gAAAAA%d", i), neighbor(i)) })
	}
	awaittest.True(t, "the checks", func() bool { return countChecks(cloud) >= before+2 })
	if _, err := ask(t, c, web); err != nil {
		t.Error(err)
	}
	cancel()
	asking.Wait()
	cloud.Fail("keystone", simulator.Fault{})
}

func isRejected(err error) bool {
	var denied *attest.Denied
	return errors.As(err, &denied) && denied.Reason == attest.CallerUnknown
}

func isThrottled(err error) bool {
	var failure *attest.Failure
	return errors.As(err, &failure) && failure.Reason == attest.ThrottledCallers
}
