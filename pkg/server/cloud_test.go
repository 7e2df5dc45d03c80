package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen/listentest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

const (
	instanceAt = "127.0.0.2" // the address of the instance
	attackerAt = "127.0.0.3" // another machine
)

const cloudsFile = `clouds:
  test:
    auth:
      auth_url: %s
      username: authenticator
      password: secret
      project_name: service
      user_domain_name: Default
      project_domain_name: Default
`

// region is a whole installation: a cloud, its client, and the server.
type region struct {
	*testServer
	cloud  *simulator.Cloud
	server simulator.Server
	url    string

	mu    sync.Mutex
	ahead time.Duration
}

// pass makes the caches of the client older.
func (r *region) pass(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ahead += d
}

func (r *region) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Add(r.ahead)
}

func newRegion(t *testing.T, changes ...func(*scene)) *region {
	t.Helper()
	cloud, err := simulator.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cloud.Close(); err != nil {
			t.Error(err)
		}
	})
	cloud.AddAccount(simulator.Account{Name: "authenticator", Password: "secret", ProjectName: "service", Roles: []string{"reader", "instance_reader", "service"}})
	now := time.Now()
	r := &region{cloud: cloud, server: simulator.Server{
		ID: webID, Name: "web-1", ProjectID: project, UserID: user, Metadata: map[string]string{"role": "web"}, Flavor: "m1.small",
		Created: now, Launched: now, Addresses: []simulator.Address{{Network: "private", Addr: instanceAt}},
	}}
	cloud.SetServer(r.server)

	clouds := filepath.Join(t.TempDir(), "clouds.yaml")
	if err := os.WriteFile(clouds, []byte(strings.Replace(cloudsFile, "%s", cloud.AuthURL(), 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	plan, err := openstack.Config{Cloud: "test", CloudsFile: clouds, Lookup: openstack.LookupAuto, Timeout: 3 * time.Second, MaxConcurrent: 16}.Plan()
	if err != nil {
		t.Fatal(err)
	}
	client, err := openstack.New(plan, openstack.Options{Now: r.now, Callers: []string{novaUser}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)

	s := newScene(t)
	for _, change := range changes {
		change(s)
	}
	store := &state.Memory{}
	t.Cleanup(func() { _ = store.Close() })
	s.cloud, s.attempts, s.callers = client, store, client
	l, err := listen.Open(listenAt(t, "127.0.0.1:0"), listen.Options{TLS: s.tls})
	if err != nil {
		t.Fatal(err)
	}
	r.url = "http://" + l.Addr().String() + "/region-1"
	s.issuer = r.url
	r.testServer = s.open(t)
	run(t, r.logger, listen.Endpoint{Name: "instances", Listener: l, Handler: r.testServer})
	return r
}

// from requests a token from an address.
func (r *region) from(t *testing.T, address string) answer {
	t.Helper()
	return send(t, clientFrom(t, address), http.MethodPost, r.url+"/auth", formType, strings.NewReader(webForm))
}

func (r *region) refuses(t *testing.T, a answer, reason attest.Reason) {
	t.Helper()
	a.wants(t, http.StatusForbidden, "access_denied", "")
	if got := r.audit.only(t, a)["reason"]; got != string(reason) {
		t.Errorf("refused for %v, want %s", got, reason)
	}
}

// A verifier that is not ours needs only the issuer's URL.
func TestATokenIsVerifiedByOthers(t *testing.T) {
	r := newRegion(t)
	compact := r.from(t, instanceAt).granted(t)
	ctx := oidc.ClientContext(t.Context(), clientFrom(t, "127.0.0.1"))
	provider, err := oidc.NewProvider(ctx, r.url)
	if err != nil {
		t.Fatal(err)
	}
	audience := strings.TrimSuffix(r.url, "region-1") + "roles/web"
	verified, err := provider.Verifier(&oidc.Config{ClientID: audience}).Verify(ctx, compact)
	if err != nil {
		t.Fatal(err)
	}
	if verified.Subject != webID {
		t.Errorf("the subject is %s", verified.Subject)
	}
}

// Instance IDs are not secret. A client that knows one cannot use up the attempts of the
// instance.
func TestOtherClientsCannotUseUpAttempts(t *testing.T) {
	r := newRegion(t)
	for range 10 {
		r.refuses(t, r.from(t, attackerAt), attest.AddressMismatch)
	}
	for range 3 {
		r.from(t, instanceAt).granted(t)
	}
	r.refuses(t, r.from(t, instanceAt), attest.AttemptsExhausted)
	r.pass(time.Minute)
	r.refuses(t, r.from(t, instanceAt), attest.AttemptsExhausted)
}

// A user can set accessIPv4 and accessIPv6 of an instance.
func TestAddressesThatUsersSetDoNotCount(t *testing.T) {
	r := newRegion(t)
	r.server.AccessIPv4, r.server.AccessIPv6 = attackerAt, "::1"
	r.server.Metadata["accessIPv4"] = attackerAt
	r.server.Name = attackerAt
	r.cloud.SetServer(r.server)
	r.refuses(t, r.from(t, attackerAt), attest.AddressMismatch)
	r.from(t, instanceAt).granted(t)
}

func TestAFloatingAddressCounts(t *testing.T) {
	r := newRegion(t)
	r.server.Addresses = []simulator.Address{{Network: "private", Addr: vm}, {Network: "private", Addr: instanceAt, Type: "floating"}}
	r.cloud.SetServer(r.server)
	r.from(t, instanceAt).granted(t)
}

// A failure of Nova or Keystone spends no attempt, and requests succeed when it is over.
func TestAFailureOfTheCloudSpendsNoAttempt(t *testing.T) {
	for _, row := range []struct {
		name, service string
		fault         simulator.Fault
	}{
		{"Nova answers 500", "nova", simulator.Fault{Status: http.StatusInternalServerError, Only: "/v2.1/servers"}},
		{"Nova cuts the connection", "nova", simulator.Fault{Drop: true, Only: "/v2.1/servers"}},
		{"Nova answers with something else", "nova", simulator.Fault{Body: []byte(`{"servers":[{"id":"` + webID + `"}],"server":{"id":"` + webID + `"}}`), Only: "/v2.1/servers"}},
		{"a balancer answers 404", "nova", simulator.Fault{Status: http.StatusNotFound, Body: []byte("no such path"), ContentType: "text/plain", Only: "/v2.1/servers"}},
		{"Keystone answers 503", "keystone", simulator.Fault{Status: http.StatusServiceUnavailable}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRegion(t)
			r.cloud.Fail(row.service, row.fault)
			for range 5 {
				got := r.from(t, instanceAt)
				got.wants(t, http.StatusServiceUnavailable, "temporarily_unavailable", "")
				if reason := r.audit.only(t, got)["reason"]; reason != string(attest.CloudUnavailable) {
					t.Errorf("the reason is %v", reason)
				}
			}
			r.cloud.Fail(row.service, simulator.Fault{})
			r.pass(time.Minute)
			for range 3 {
				r.from(t, instanceAt).granted(t)
			}
			r.refuses(t, r.from(t, instanceAt), attest.AttemptsExhausted)
		})
	}
}

// The address of a deleted instance proves nothing.
func TestADeletedInstance(t *testing.T) {
	r := newRegion(t)
	r.from(t, instanceAt).granted(t)
	r.cloud.DeleteServer(webID)
	r.pass(2 * time.Hour) // a list without it may be a cell that is down, for an hour
	r.refuses(t, r.from(t, instanceAt), attest.InstanceUnknown)
}

// A client that hangs up while Nova is slow spends no attempt.
func TestHangingUpWhileNovaIsSlow(t *testing.T) {
	r := newRegion(t)
	r.from(t, attackerAt) // logs in
	r.pass(time.Minute)
	r.cloud.Fail("nova", simulator.Fault{Hang: true})
	before := r.cloud.Count("nova", http.MethodGet, "/v2.1/servers")
	conn := listentest.DialFrom(t, instanceAt, strings.TrimSuffix(strings.TrimPrefix(r.url, "http://"), "/region-1"))
	listentest.Send(t, conn, rawAuth(""))
	for deadline := time.Now().Add(10 * time.Second); r.cloud.Count("nova", http.MethodGet, "/v2.1/servers") == before; {
		if time.Now().After(deadline) {
			t.Fatal("Nova was not asked")
		}
		runtime.Gosched()
	}
	conn.Close()
	r.audit.await(t, 2)
	if line := r.audit.parsed(t)[1]; line["reason"] != "client_gone" {
		t.Errorf("the audit line is %v", line)
	}
	r.cloud.Fail("nova", simulator.Fault{})
	for range 3 {
		r.from(t, instanceAt).granted(t)
	}
}

// Only requests that can be granted cause calls to the cloud.
func TestCallsToTheCloud(t *testing.T) {
	r := newRegion(t, func(s *scene) { s.throttle = ratelimit.Rate{Rate: 1e-6, Burst: 9} })
	r.from(t, attackerAt) // logs in
	r.pass(time.Minute)
	for _, row := range []struct {
		name, from, path, contentType, body string
		want, calls                         int
	}{
		{"malformed: no instance ID", instanceAt, "/auth", formType, "role=web", http.StatusBadRequest, 0},
		{"malformed: another path for Nova", instanceAt, "/auth", formType, "instance_id=../flavors&role=web", http.StatusBadRequest, 0},
		{"malformed: a query for Nova", instanceAt, "/auth", formType, "instance_id=" + webID + "?x=1&role=web", http.StatusBadRequest, 0},
		{"another media type", instanceAt, "/auth", "text/plain", webForm, http.StatusUnsupportedMediaType, 0},
		{"too long", instanceAt, "/auth", formType, pad(webForm, maxRequest+1), http.StatusRequestEntityTooLarge, 0},
		{"another path", instanceAt, "/auth/", formType, webForm, http.StatusNotFound, 0},
		{"a role that is not configured", instanceAt, "/auth", formType, "instance_id=" + webID + "&role=db", http.StatusForbidden, 0},
		{"granted", instanceAt, "/auth", formType, webForm, http.StatusOK, 1},
		{"granted again: the cache is not for unproven clients", instanceAt, "/auth", formType, webForm, http.StatusOK, 1},
		{"an unknown instance", instanceAt, "/auth", formType, "instance_id=" + noID + "&role=web", http.StatusForbidden, 1},
		{"throttled", instanceAt, "/auth", formType, "instance_id=" + strings.Replace(noID, "4000", "4001", 1) + "&role=web", http.StatusTooManyRequests, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			before := len(r.cloud.Requests())
			got := send(t, clientFrom(t, row.from), http.MethodPost, r.url+row.path, row.contentType, strings.NewReader(row.body))
			if n := len(r.cloud.Requests()) - before; got.status != row.want || n != row.calls {
				t.Errorf("status %d and %d calls, want %d and %d", got.status, n, row.want, row.calls)
			}
		})
	}
}

// A hundred instances send requests when the account's token has just expired.
func TestOneLoginForAHundredInstances(t *testing.T) {
	r := newRegion(t)
	r.cloud.SetNow(r.now)
	r.cloud.SetTokenLife(time.Hour)
	r.from(t, attackerAt) // logs in
	r.pass(time.Hour)
	asks := make([]func() (*http.Response, error), 100)
	for i := range asks {
		in := r.server
		in.ID = fmt.Sprintf("1b9c7a3e-4f0d-4c63-9d0e-%012d", i)
		in.Addresses = []simulator.Address{{Network: "private", Addr: fmt.Sprintf("127.0.1.%d", i+1)}}
		r.cloud.SetServer(in)
		client := clientFrom(t, in.Addresses[0].Addr)
		asks[i] = func() (*http.Response, error) {
			return client.Post(r.url+"/auth", formType, strings.NewReader("instance_id="+in.ID+"&role=web"))
		}
	}
	logins, lookups := r.cloud.Count("keystone", http.MethodPost, ""), r.cloud.Count("nova", http.MethodGet, "/v2.1/servers")
	var asking sync.WaitGroup
	for i, ask := range asks {
		asking.Go(func() {
			resp, err := ask()
			if err != nil {
				t.Errorf("instance %d: %v", i, err)
				return
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("instance %d: status %d", i, resp.StatusCode)
			}
		})
	}
	asking.Wait()
	if n := r.cloud.Count("keystone", http.MethodPost, "") - logins; n != 1 {
		t.Errorf("there were %d logins", n)
	}
	// Requests with the expired token are sent twice.
	if n := r.cloud.Count("nova", http.MethodGet, "/v2.1/servers") - lookups; n > 2*len(asks) {
		t.Errorf("Nova was called %d times", n)
	}
}

// signIn adds an account and returns its token.
func (r *region) signIn(t *testing.T, a simulator.Account, method string) string {
	t.Helper()
	a.Password, a.ApplicationCredentialSecret = "secret", "secret"
	if a.ApplicationCredentialID == "" {
		a.ApplicationCredentialID = a.ID
	}
	r.cloud.AddAccount(a)
	identity := `"methods":["password"],"password":{"user":{"id":"` + a.ID + `","password":"secret"}}`
	if method == "application_credential" {
		identity = `"methods":["application_credential"],"application_credential":{"id":"` + a.ApplicationCredentialID + `","secret":"secret"}`
	}
	got := send(t, http.DefaultClient, http.MethodPost, r.cloud.AuthURL()+"/auth/tokens", jsonType, strings.NewReader(`{"auth":{"identity":{`+identity+`}}}`))
	if got.status != http.StatusCreated {
		t.Fatalf("signing in: %d %s", got.status, got.body)
	}
	return got.header.Get("X-Subject-Token")
}

// nova requests vendordata with a token.
func (r *region) nova(t *testing.T, from, token string) answer {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, strings.TrimSuffix(r.url, "/region-1")+"/vendordata", strings.NewReader(novaBody))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", jsonType)
	if token != "" {
		q.Header.Set("X-Auth-Token", token)
	}
	return sendRequest(t, clientFrom(t, from), q)
}

func withNova(s *scene) {
	s.nova = server.VendordataConfig{Users: []string{novaUser}, DocumentExpiry: 5 * time.Minute}
	s.grant.Proof = []attest.Proof{attest.ProofDocument}
}

const novaHost = "127.0.0.40"

// Only tokens of a user in vendordata.users get documents.
func TestWhoMayAskForDocuments(t *testing.T) {
	r := newRegion(t, withNova)
	r.cloud.SetNow(r.now)
	vendordata := simulator.Account{ID: novaUser, Name: "nova-vendordata", ProjectName: "service", Roles: []string{"service"}}
	expired := r.signIn(t, vendordata, "password")
	r.pass(2 * time.Hour)
	abroad := vendordata
	abroad.ID, abroad.DomainID, abroad.DomainName = strings.Repeat("a", 32), "other", "Other"
	federated := vendordata
	federated.ID, federated.DomainID = strings.Repeat("b", 64), "Federated"
	tests := []struct {
		name, token string
		status      int
		reason      attest.Reason
	}{
		{"the user", r.signIn(t, vendordata, "password"), 200, "granted"},
		{"the user by an application credential", r.signIn(t, vendordata, "application_credential"), 200, "granted"},
		{"expired", expired, 401, attest.CallerUnknown},
		{"a member of the project", r.signIn(t, simulator.Account{ID: strings.Repeat("c", 32), Name: "member", ProjectID: project, ProjectName: "web", Roles: []string{"member"}}, "password"), 403, "caller_denied"},
		{"an admin", r.signIn(t, simulator.Account{ID: strings.Repeat("d", 32), Name: "admin", ProjectName: "admin", Roles: []string{"admin", "service"}}, "password"), 403, "caller_denied"},
		{"the same name in another domain", r.signIn(t, abroad, "password"), 403, "caller_denied"},
		{"the same name from federation", r.signIn(t, federated, "password"), 403, "caller_denied"},
		{"garbage", "garbage", 401, attest.CallerUnknown},
		{"garbage that looks right", "gAAAAA" + strings.Repeat("B", 177), 401, attest.CallerUnknown},
		{"none", "", 401, attest.CallerUnknown},
	}
	for _, tt := range tests {
		got := r.nova(t, novaHost, tt.token)
		if got.status != tt.status || strings.Contains(got.body, `"document":`) != (tt.status == http.StatusOK) {
			t.Errorf("%s: %d %s, want %d", tt.name, got.status, got.body, tt.status)
		}
		if reason := r.audit.only(t, got)["reason"]; reason != string(tt.reason) {
			t.Errorf("%s: the reason is %v, want %s", tt.name, reason, tt.reason)
		}
	}
}

// Nova sends five requests for one config drive, while it builds the instance.
func TestACallForAConfigDrive(t *testing.T) {
	r := newRegion(t, withNova)
	built := r.server
	built.Status, built.TaskState, built.Launched, built.Addresses = "BUILD", "spawning", time.Time{}, nil
	r.cloud.SetServer(built)
	token := r.signIn(t, simulator.Account{ID: novaUser, Name: "nova-vendordata", ProjectName: "service"}, "password")
	r.nova(t, novaHost, token) // logs in
	r.pass(time.Minute)
	lookups, checks := r.cloud.Count("nova", http.MethodGet, "/v2.1/servers"), r.cloud.Count("keystone", http.MethodGet, "/v3/auth/tokens")
	var document struct{ Document string }
	for range 5 {
		got := r.nova(t, novaHost, token)
		if err := json.Unmarshal([]byte(got.body), &document); err != nil || got.status != http.StatusOK {
			t.Fatalf("%d %s", got.status, got.body)
		}
	}
	if l, c := r.cloud.Count("nova", http.MethodGet, "/v2.1/servers")-lookups, r.cloud.Count("keystone", http.MethodGet, "/v3/auth/tokens")-checks; l != 1 || c != 1 {
		t.Errorf("Nova was asked %d times and Keystone %d, want once each", l, c)
	}
	ask := func() answer {
		t.Helper()
		return send(t, clientFrom(t, attackerAt), http.MethodPost, r.url+"/auth", formType, strings.NewReader(form("role", "web", "document", document.Document)))
	}
	r.pass(5 * time.Second)
	ask().wants(t, http.StatusServiceUnavailable, "temporarily_unavailable", "")
	built.Status, built.TaskState, built.Launched = "ACTIVE", "", time.Now().Add(10*time.Second)
	r.cloud.SetServer(built)
	r.pass(5 * time.Second)
	ask().granted(t)
	built.Launched = time.Now().Add(20 * time.Second) // rebuilt, which looks like a first launch within two minutes
	built.ImageID = "44742495-68d3-4c10-8642-423ed054a9f2"
	r.cloud.SetServer(built)
	r.pass(5 * time.Second)
	r.refuses(t, ask(), attest.DocumentVoid) // because of its image
}
