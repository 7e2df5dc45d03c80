package openstack_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

// askMany asks for all instances at once, each from another address.
func askMany(t *testing.T, c *openstack.Client, ids []attest.InstanceID) []error {
	t.Helper()
	errs := make([]error, len(ids))
	var asking sync.WaitGroup
	for i, id := range ids {
		asking.Go(func() { _, errs[i] = c.Instance(t.Context(), id, neighbor(i)) })
	}
	asking.Wait()
	return errs
}

func manyServers(t *testing.T, cloud *simulator.Cloud, n int) []attest.InstanceID {
	t.Helper()
	ids := make([]attest.InstanceID, n)
	for i := range ids {
		ids[i] = numbered(t, cloud, i)
	}
	return ids
}

func TestExpiredTokenIsRenewedOnce(t *testing.T) {
	for name, client := range bothLookups {
		t.Run(name, func(t *testing.T) {
			cloud, clock := startCloud(t), statetest.NewClock()
			cloud.SetNow(clock.Now)
			cloud.SetTokenLife(time.Hour)
			ids := manyServers(t, cloud, 100)
			c := client(t, cloud, openstack.Options{Now: clock.Now})
			for life := 1; life <= 3; life++ {
				for i, err := range askMany(t, c, ids) {
					if err != nil {
						t.Errorf("life %d, request %d: %v", life, i, err)
					}
				}
				if n := countLogins(cloud); n != life {
					t.Errorf("in the token's life %d there were %d logins", life, n)
				}
				clock.Advance(time.Hour)
			}
			// A renewal does not change the answer.
			if _, err := ask(t, c, unknown); !errors.Is(err, attest.ErrNoInstance) {
				t.Errorf("Instance of an unknown one with an expired token = %v, want ErrNoInstance", err)
			}
			clock.Advance(time.Hour)
			if err := c.Check(t.Context()); err != nil {
				t.Errorf("Check with an expired token = %v", err)
			}
		})
	}
}

func TestNovaThatRefusesEveryTokenCausesOneLoginASecond(t *testing.T) {
	cloud, clock := startCloud(t), statetest.NewClock()
	ids := manyServers(t, cloud, 10)
	c := newAdmin(t, cloud, openstack.Options{Now: clock.Now})
	cloud.Fail("nova", simulator.Fault{Unauthorized: true})
	const rounds, step = 20, 250 * time.Millisecond
	for range rounds {
		for _, err := range askMany(t, c, ids) {
			checkBroken(t, err)
			if isSetup(err) {
				t.Errorf("a login that succeeded is reported as refused: %v", err)
			}
		}
		clock.Advance(step)
	}
	if n, atMost := countLogins(cloud), 1+int(rounds*step/time.Second); n < 2 || n > atMost {
		t.Errorf("%d requests in %v made %d logins, want 2 to %d", rounds*len(ids), rounds*step, n, atMost)
	}
	cloud.Fail("nova", simulator.Fault{})
	for _, err := range askMany(t, c, ids) {
		if err != nil {
			t.Error(err)
		}
	}
}

// The pauses let Keystone unlock the account. Requests of instances do not shorten them.
func TestChangedPasswordIsRetriedWithGrowingPauses(t *testing.T) {
	cloud, clock := startCloud(t), statetest.NewClock()
	c := newAdmin(t, cloud, openstack.Options{Now: clock.Now})
	changed := simulator.Account{Name: "admin", ID: "admin-id", ProjectName: "admin", Roles: []string{"admin"}, Password: "another one"}
	cloud.AddAccount(changed)
	cloud.RevokeTokens()
	clock.Advance(time.Second)
	const hour, step = time.Hour, time.Second
	before := countLogins(cloud)
	for range hour / step {
		_, err := ask(t, c, web)
		checkBroken(t, err)
		if !isSetup(err) || !strings.Contains(err.Error(), "keystone refuses the login of admin") {
			t.Fatalf("Instance = %v, want a SetupError about the login", err)
		}
		clock.Advance(step)
	}
	// 10, 20, 40, ... seconds up to ten minutes, and up to a quarter more: 0, 10, 30, 70, 150, 310, 630, 1230, 1830, 2430, 3030.
	if n := countLogins(cloud) - before; n < 9 || n > 12 {
		t.Errorf("there were %d logins in an hour, want 9 to 12", n)
	}
	changed.Password = password
	cloud.AddAccount(changed)
	clock.Advance(13 * time.Minute)
	mustFind(t, c, web)

	// After a success the pauses start again with the shortest.
	changed.Password = "another one"
	cloud.AddAccount(changed)
	cloud.RevokeTokens()
	clock.Advance(3 * time.Second)
	if _, err := ask(t, c, web); !isSetup(err) {
		t.Fatal(err)
	}
	changed.Password = password
	cloud.AddAccount(changed)
	clock.Advance(13 * time.Second)
	mustFind(t, c, web)
}

func TestWrongPasswordIsRetriedWithGrowingPauses(t *testing.T) {
	cloud, clock := startCloud(t), statetest.NewClock()
	env := as("admin", "admin", cloud.AuthURL())
	env["OS_PASSWORD"] = "another one"
	c := newClient(t, env, config(), openstack.Options{Now: clock.Now})
	for range 60 * 60 {
		if _, err := ask(t, c, web); !isSetup(err) {
			t.Fatalf("Instance = %v, want a SetupError", err)
		}
		clock.Advance(time.Second)
	}
	if n := countLogins(cloud); n < 9 || n > 12 {
		t.Errorf("there were %d logins in an hour, want 9 to 12", n)
	}
}

func TestKeystoneFailsAtTheFirstLogin(t *testing.T) {
	for name, fault := range map[string]simulator.Fault{
		"drops connections":              {Drop: true},
		"does not answer":                {Hang: true},
		"answers 503":                    {Status: 503},
		"is a balancer's page":           {Status: 404, ContentType: "text/html", Body: []byte("<h1>Not Found</h1>")},
		"answers HTML":                   {Status: 201, ContentType: "text/html", Body: []byte("<h1>It works!</h1>")},
		"answers without an end":         {Endless: true},
		"answers with a token too large": {Status: 201, Body: []byte(`{"token":"` + strings.Repeat("x", 1<<20) + `"}`)},
	} {
		t.Run("it "+name, func(t *testing.T) {
			cloud, clock := startCloud(t), statetest.NewClock()
			cloud.Fail("keystone", fault)
			cfg := config()
			cfg.Timeout = 500 * time.Millisecond
			c := newClient(t, as("admin", "admin", cloud.AuthURL()), cfg, openstack.Options{Now: clock.Now})
			_, err := c.Connect(t.Context())
			checkBroken(t, err)
			if isSetup(err) {
				t.Errorf("Connect = %v: a retry can help", err)
			}
			// There is at most one login a second.
			tried := countLogins(cloud)
			for range 20 {
				_, err := ask(t, c, web)
				checkBroken(t, err)
				if err := c.Check(t.Context()); err == nil {
					t.Error("Check did not report it")
				}
			}
			if n := countLogins(cloud) - tried; n != 0 {
				t.Errorf("there were %d more logins within a second", n)
			}
			cloud.Fail("keystone", simulator.Fault{})
			clock.Advance(time.Second)
			mustFind(t, c, web)
			if err := c.Check(t.Context()); err != nil {
				t.Errorf("Check = %v", err)
			}
		})
	}
}

func TestNovaFailsAtTheFirstLogin(t *testing.T) {
	cloud, clock := startCloud(t), statetest.NewClock()
	cloud.Fail("nova", simulator.Fault{Status: 503})
	c := newClient(t, as("authenticator", "service", cloud.AuthURL()), config(), openstack.Options{Now: clock.Now})
	_, err := c.Connect(t.Context())
	checkBroken(t, err)
	if isSetup(err) {
		t.Errorf("Connect = %v: a retry can help", err)
	}
	cloud.Fail("nova", simulator.Fault{})
	clock.Advance(time.Second)
	mustFind(t, c, web)
}

// A renewal that failed because of Keystone is retried a second later.
func TestKeystoneFailsAtARenewal(t *testing.T) {
	cloud, clock := startCloud(t), statetest.NewClock()
	c := newAdmin(t, cloud, openstack.Options{Now: clock.Now})
	cloud.RevokeTokens()
	cloud.Fail("keystone", simulator.Fault{Status: 503})
	clock.Advance(time.Second)
	for range 20 {
		_, err := ask(t, c, web)
		checkBroken(t, err)
	}
	if n := countLogins(cloud); n != 2 {
		t.Errorf("there were %d logins, want the first and one for the renewal", n)
	}
	cloud.Fail("keystone", simulator.Fault{})
	clock.Advance(time.Second)
	mustFind(t, c, web)
}

func TestLoginContinuesWhenACallerLeaves(t *testing.T) {
	for _, renewal := range []bool{false, true} {
		t.Run(map[bool]string{false: "the first", true: "a renewal"}[renewal], func(t *testing.T) {
			cloud, clock := startCloud(t), statetest.NewClock()
			c := newClient(t, as("admin", "admin", cloud.AuthURL()), config(), openstack.Options{Now: clock.Now})
			if renewal {
				connect(t, c)
				cloud.RevokeTokens()
				clock.Advance(time.Second)
			}
			before := countLogins(cloud)
			held := make(chan struct{})
			cloud.Fail("keystone", simulator.Fault{Delay: held})

			leaving, leave := context.WithCancel(t.Context())
			left, stayed := make(chan error, 1), make(chan error, 1)
			go func() {
				_, err := c.Instance(leaving, attesttest.ID(t, web), unproven)
				left <- err
			}()
			awaittest.True(t, "the login", func() bool { return countLogins(cloud) == before+1 })
			go func() {
				_, err := c.Instance(t.Context(), attesttest.ID(t, foreign), unproven)
				stayed <- err
			}()
			awaittest.True(t, "the other caller", func() bool { return c.InFlight() == 2 })
			leave()
			if err := <-left; !errors.Is(err, context.Canceled) {
				t.Errorf("the caller that left got %v", err)
			}
			close(held)
			if err := <-stayed; err != nil {
				t.Errorf("the other caller got %v", err)
			}
			if n := countLogins(cloud) - before; n != 1 {
				t.Errorf("there were %d logins, want 1", n)
			}
		})
	}
}

func TestOneCallAnswersAHundredCallers(t *testing.T) {
	cloud := startCloud(t)
	c := newAdmin(t, cloud, openstack.Options{})
	before := countLookups(cloud)
	held := make(chan struct{})
	cloud.Fail("nova", simulator.Fault{Delay: held, Only: servers})
	first, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := c.Instance(first, attesttest.ID(t, web), unproven)
		left <- err
	}()
	awaittest.True(t, "the call", func() bool { return countLookups(cloud) == before+1 })
	var asking sync.WaitGroup
	for i := range 100 {
		asking.Go(func() {
			// They are proven callers, so that a late one finds the cached answer.
			if _, err := askProven(t, c, web); err != nil {
				t.Errorf("caller %d got %v", i, err)
			}
		})
	}
	// The first caller may leave before or after the others came.
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller that left got %v", err)
	}
	close(held)
	asking.Wait()
	if n := countLookups(cloud) - before; n > 2 {
		t.Errorf("Nova was called %d times for one instance", n)
	}
}

// The request to Nova ends, too.
func TestCallIsCanceledWhenItsLastCallerLeaves(t *testing.T) {
	f := newFront(t, startCloud(t))
	arrived, gone := make(chan struct{}, 1), make(chan struct{})
	c := newClient(t, as("admin", "admin", f.authURL()), config(), openstack.Options{})
	connect(t, c)
	f.answerInstead(func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, servers) {
			return false
		}
		arrived <- struct{}{}
		<-r.Context().Done()
		close(gone)
		return true
	})
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := c.Instance(ctx, attesttest.ID(t, web), unproven)
		done <- err
	}()
	<-arrived
	f.answerInstead(nil)
	leave()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Instance = %v, want context.Canceled", err)
	}
	select {
	case <-gone:
	case <-time.After(4 * time.Second): // less than the timeout
		t.Error("the request to Nova still runs")
	}
	mustFind(t, c, web)
}

func TestFloodOfOneAddress(t *testing.T) {
	cloud := startCloud(t)
	ids := manyServers(t, cloud, 10)
	c := newAdmin(t, cloud, openstack.Options{})
	before := countLookups(cloud)
	held := make(chan struct{})
	cloud.Fail("nova", simulator.Fault{Delay: held, Only: servers})
	var asking sync.WaitGroup
	find := func(n int, caller int) {
		asking.Go(func() {
			if _, err := c.Instance(t.Context(), ids[n], neighbor(caller)); err != nil {
				t.Errorf("instance %d, caller %d: %v", n, caller, err)
			}
		})
	}
	for n := range 8 {
		find(n, 1)
	}
	awaittest.True(t, "eight calls", func() bool { return countLookups(cloud) == before+8 })
	if _, err := c.Instance(t.Context(), ids[8], neighbor(1)); !errors.Is(err, attest.ErrTooManyLookups) {
		t.Errorf("one more lookup of one address = %v, want ErrTooManyLookups", err)
	}
	find(9, 2)
	awaittest.True(t, "another's call", func() bool { return countLookups(cloud) == before+9 })
	find(9, 1) // joins the call in flight
	close(held)
	asking.Wait()
	if n := countLookups(cloud) - before; n != 9 {
		t.Errorf("Nova was called %d times, want 9", n)
	}
	if _, err := c.Instance(t.Context(), ids[8], neighbor(1)); err != nil {
		t.Errorf("after the others, Instance = %v", err)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	for _, test := range []struct {
		name    string
		connect bool
		service string
		arrived func(cloud *simulator.Cloud, lookups int) bool
	}{
		{"while a login is under way", false, "keystone", func(cloud *simulator.Cloud, _ int) bool { return countLogins(cloud) == 1 }},
		{"while lookups are under way, and others wait", true, "nova", func(_ *simulator.Cloud, lookups int) bool { return lookups == 2 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			cloud := startCloud(t)
			ids := manyServers(t, cloud, 20)
			before := runtime.NumGoroutine()
			cfg := config()
			cfg.Timeout, cfg.MaxConcurrent = 30*time.Second, 2
			c := newClient(t, as("admin", "admin", cloud.AuthURL()), cfg, openstack.Options{})
			if test.connect {
				connect(t, c)
			}
			asked := countLookups(cloud)
			cloud.Fail(test.service, simulator.Fault{Hang: true})
			answered := make(chan []error)
			go func() { answered <- askMany(t, c, ids) }()
			awaittest.True(t, "the lookups", func() bool { return c.InFlight() == len(ids) && test.arrived(cloud, countLookups(cloud)-asked) })

			began := time.Now()
			c.Close()
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("Close took %v", took)
			}
			if ours := running(); ours != "" {
				t.Errorf("after Close these goroutines run:\n%s", ours)
			}
			for _, err := range <-answered {
				checkBroken(t, err)
			}
			if n := c.InFlight(); n != 0 {
				t.Errorf("after Close, %d lookups are in flight", n)
			}
			_, err := ask(t, c, foreign)
			checkBroken(t, err)
			_, err = c.Connect(t.Context())
			if !test.connect {
				checkBroken(t, err)
			}
			c.Close() // a second Close has no effect
			// The connections, and the simulator's ends of them.
			awaittest.True(t, fmt.Sprintf("for the %d goroutines of before", before), func() bool { return runtime.NumGoroutine() <= before })
		})
	}
}

func TestCloseWaitsForALoginWithoutCallers(t *testing.T) {
	cloud := startCloud(t)
	asked, release := make(chan struct{}), make(chan struct{})
	var ended atomic.Bool
	observe := func(string, string, time.Duration) {
		close(asked)
		<-release
		ended.Store(true)
	}
	cloud.Fail("keystone", simulator.Fault{Status: 503})
	c := newClient(t, as("admin", "admin", cloud.AuthURL()), config(), openstack.Options{Observe: observe})
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := c.Connect(ctx)
		left <- err
	}()
	<-asked
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller that left got %v", err)
	}
	time.AfterFunc(50*time.Millisecond, func() { close(release) })
	c.Close()
	if !ended.Load() {
		t.Error("Close did not wait for the login")
	}
}

// running returns the stacks of the client's own goroutines.
func running() string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	var ours []string
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		begun := strings.Contains(stack, "pkg/openstack.(*lookups).fly(") || strings.Contains(stack, "pkg/openstack.(*Client).login(")
		if begun {
			ours = append(ours, stack)
		}
	}
	return strings.Join(ours, "\n\n")
}
