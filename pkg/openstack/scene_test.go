package openstack_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
)

const (
	web     = "64dfbbdf-552c-4ae7-9dab-666eade6030f" // of project workloads
	foreign = "286c18d7-66a1-4fce-8c37-0587dbcf0f8d" // of another
	unknown = "11111111-2222-3333-4444-555555555555"

	password = "correct-horse"
	secret   = "battery-staple" // of the application credential
)

var created = time.Date(2026, 11, 22, 7, 25, 1, 0, time.UTC)

// webInstance is web as an instance.
func webInstance(t *testing.T) attest.Instance {
	t.Helper()
	return attest.Instance{
		ID: attesttest.ID(t, web), Name: "web-1", ProjectID: "workloads-id", UserID: "user-id",
		Metadata: map[string]string{"role": "web"}, Phase: attest.PhaseRunning, State: "ACTIVE",
		ImageID: "44742495-68d3-4c10-8642-423ed054a9f2", Flavor: "m1.nano", Zone: "nova", Hostname: "web-1", Region: "RegionOne",
		Created: created, Launched: created.Add(4 * time.Second),
		Addresses: []attest.Address{
			{Network: "private", Addr: netip.MustParseAddr("10.20.0.11"), MAC: attest.MAC{0xfa, 0x16, 0x3e, 0x73, 0xce, 0x1b}},
			{Network: "private", Addr: netip.MustParseAddr("172.24.4.145"), MAC: attest.MAC{0xfa, 0x16, 0x3e, 0x73, 0xce, 0x1b}},
		},
	}
}

// startCloud returns a cloud with an admin, the least-rights account, a reader of project workloads, an admin of another
// domain, and two servers.
func startCloud(t *testing.T) *simulator.Cloud {
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
	for _, a := range []simulator.Account{
		{Name: "admin", ID: "admin-id", ProjectName: "admin", Roles: []string{"admin"}},
		{
			Name: "authenticator", ID: "authenticator-id", ProjectID: "service-id", ProjectName: "service",
			Roles:                   []string{"instance_reader", "reader"},
			ApplicationCredentialID: "credential-id", ApplicationCredentialName: "key", ApplicationCredentialSecret: secret,
		},
		{Name: "reader", ProjectID: "workloads-id", ProjectName: "workloads", Roles: []string{"reader"}},
		{
			Name: "abroad", DomainID: "abroad-id", DomainName: "Abroad", ProjectName: "abroad",
			ProjectDomainID: "abroad-id", ProjectDomainName: "Abroad", Roles: []string{"admin"},
		},
	} {
		a.Password = password
		cloud.AddAccount(a)
	}
	cloud.SetServer(webServer())
	cloud.SetServer(simulator.Server{
		ID: foreign, Name: "other-1", ProjectID: "other-id", UserID: "other-user", Flavor: "m1.nano",
		Created: created.Add(-time.Hour), Launched: created,
	})
	return cloud
}

func webServer() simulator.Server {
	return simulator.Server{
		ID: web, Name: "web-1", ProjectID: "workloads-id", UserID: "user-id",
		ImageID: "44742495-68d3-4c10-8642-423ed054a9f2", Flavor: "m1.nano", AvailabilityZone: "nova", Hostname: "web-1",
		Metadata: map[string]string{"role": "web"}, Created: created, Launched: created.Add(4 * time.Second),
		Addresses: []simulator.Address{
			{Network: "private", Addr: "10.20.0.11", MAC: "fa:16:3e:73:ce:1b"},
			{Network: "private", Addr: "172.24.4.145", MAC: "fa:16:3e:73:ce:1b", Type: "floating"},
		},
	}
}

// numbered adds server n and returns its ID.
func numbered(t *testing.T, cloud *simulator.Cloud, n int) attest.InstanceID {
	t.Helper()
	s := webServer()
	s.ID = fmt.Sprintf("00000000-0000-4000-8000-%012d", n)
	cloud.SetServer(s)
	return attesttest.ID(t, s.ID)
}

// cleanEnvironment removes the machine's own cloud configuration.
func cleanEnvironment(t *testing.T) {
	t.Helper()
	for _, line := range os.Environ() {
		if name, _, _ := strings.Cut(line, "="); strings.HasPrefix(name, "OS_") || name == "XDG_CONFIG_HOME" {
			t.Setenv(name, "") // so that it is restored
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("HOME", t.TempDir())
	t.Chdir(t.TempDir())
}

// as returns the variables of a login by password.
func as(user, project, authURL string) map[string]string {
	return map[string]string{"OS_AUTH_URL": authURL, "OS_USERNAME": user, "OS_PASSWORD": password, "OS_PROJECT_NAME": project}
}

func setenv(t *testing.T, env map[string]string) {
	t.Helper()
	for name, value := range env {
		t.Setenv(name, value)
	}
}

func config() openstack.Config {
	return openstack.Config{Lookup: openstack.LookupAuto, Timeout: 5 * time.Second, MaxConcurrent: 64}
}

// tryNew makes a client of a valid configuration.
func tryNew(t *testing.T, cfg openstack.Config, opts openstack.Options) (*openstack.Client, error) {
	t.Helper()
	plan, err := cfg.Plan()
	if err != nil {
		t.Fatal(err)
	}
	return openstack.New(plan, opts)
}

// newClient returns a client with the variables of env. It is closed at the end.
func newClient(t *testing.T, env map[string]string, cfg openstack.Config, opts openstack.Options) *openstack.Client {
	t.Helper()
	cleanEnvironment(t)
	setenv(t, env)
	c, err := tryNew(t, cfg, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// newAdmin returns a client that is logged in as an admin and uses show.
func newAdmin(t *testing.T, cloud *simulator.Cloud, opts openstack.Options) *openstack.Client {
	t.Helper()
	c := newClient(t, as("admin", "admin", cloud.AuthURL()), config(), opts)
	connect(t, c)
	return c
}

// newLister returns a client that is logged in with the least rights and uses list.
func newLister(t *testing.T, cloud *simulator.Cloud, opts openstack.Options) *openstack.Client {
	t.Helper()
	c := newClient(t, as("authenticator", "service", cloud.AuthURL()), config(), opts)
	if info := connect(t, c); info.Lookup != openstack.LookupList {
		t.Fatalf("the least-rights account must use list: %+v", info)
	}
	return c
}

// bothLookups makes a client for each way of the lookup.
var bothLookups = map[string]func(*testing.T, *simulator.Cloud, openstack.Options) *openstack.Client{"show": newAdmin, "list": newLister}

func connect(t *testing.T, c *openstack.Client) openstack.Info {
	t.Helper()
	info, err := c.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// unproven is the address of an unproven caller.
var unproven = netip.MustParseAddr("192.0.2.1")

// neighbor returns one of many addresses.
func neighbor(n int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}) }

func ask(t *testing.T, c *openstack.Client, id string) (attest.Instance, error) {
	t.Helper()
	return c.Instance(t.Context(), attesttest.ID(t, id), unproven)
}

func mustFind(t *testing.T, c *openstack.Client, id string) {
	t.Helper()
	if in, err := ask(t, c, id); err != nil || in.ID.String() != id {
		t.Fatalf("Instance(%s) = %s, %v", id, in.ID, err)
	}
}

// askProven and mustFindProven are ask and mustFind for a proven caller.
func askProven(t *testing.T, c *openstack.Client, id string) (attest.Instance, error) {
	t.Helper()
	return c.Instance(t.Context(), attesttest.ID(t, id), netip.Addr{})
}

func mustFindProven(t *testing.T, c *openstack.Client, id string) {
	t.Helper()
	if in, err := askProven(t, c, id); err != nil || in.ID.String() != id {
		t.Fatalf("Instance(%s) = %s, %v", id, in.ID, err)
	}
}

func sameInstance(a, b attest.Instance) string {
	return cmp.Diff(a, b, cmpopts.EquateComparable(attest.InstanceID{}, netip.Addr{}),
		cmpopts.SortSlices(func(a, b attest.Address) bool { return a.Addr.Less(b.Addr) }))
}

// checkBroken fails the test unless err is a failure, neither a denial nor a limit, without secrets.
func checkBroken(t *testing.T, err error) {
	t.Helper()
	if err == nil || errors.Is(err, attest.ErrNoInstance) || errors.Is(err, attest.ErrTooManyLookups) {
		t.Errorf("the error is %v, want a failure", err)
	}
	checkDiscreet(t, err)
}

// checkDiscreet fails the test if err has a secret in it.
func checkDiscreet(t *testing.T, err error) {
	t.Helper()
	for _, s := range []string{password, secret, "gAAAAA"} {
		if err != nil && strings.Contains(err.Error(), s) {
			t.Errorf("the error contains the secret %q: %v", s, err)
		}
	}
}

func isSetup(err error) bool {
	var setup *openstack.SetupError
	return errors.As(err, &setup)
}

const (
	tokens  = "/v3/auth/tokens"
	servers = "/v2.1/servers/"
)

func countLogins(cloud *simulator.Cloud) int  { return cloud.Count("keystone", http.MethodPost, tokens) }
func countChecks(cloud *simulator.Cloud) int  { return cloud.Count("keystone", http.MethodGet, tokens) }
func countLookups(cloud *simulator.Cloud) int { return cloud.Count("nova", http.MethodGet, servers) }

// front forwards to a cloud and records the logins. Its catalog has an endpoint of Nova for each of two regions and two
// interfaces, none of interface admin, so that a test sees which one is used.
type front struct {
	*httptest.Server
	cloud http.Handler

	mu      sync.Mutex
	instead func(w http.ResponseWriter, r *http.Request) bool
	logins  []string // bodies
}

// answerInstead makes answer the first to answer requests. It reports whether it did.
func (f *front) answerInstead(answer func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.instead = answer
}

func newFront(t *testing.T, cloud *simulator.Cloud) *front {
	t.Helper()
	f := prepareFront(t, cloud)
	f.Start()
	return f
}

// newTLSFront also returns the path of its authority's certificate.
func newTLSFront(t *testing.T, cloud *simulator.Cloud) (f *front, ca string) {
	t.Helper()
	f = prepareFront(t, cloud)
	f.StartTLS()
	ca = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return f, ca
}

func prepareFront(t *testing.T, cloud *simulator.Cloud) *front {
	t.Helper()
	f := &front{cloud: cloud.Handler()}
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	f.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(f.Close)
	return f
}

func (f *front) authURL() string { return f.URL + "/identity/v3" }

func (f *front) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	instead := f.instead
	f.mu.Unlock()
	if instead != nil && instead(w, r) {
		return
	}
	if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, tokens) {
		f.login(w, r)
		return
	}
	if parts := strings.SplitN(r.URL.Path, "/", 4); len(parts) == 4 && strings.HasPrefix(parts[1], "Region") {
		r = r.Clone(r.Context())
		r.URL.Path = "/" + parts[3]
	}
	f.cloud.ServeHTTP(w, r)
}

func (f *front) login(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	f.logins = append(f.logins, string(body))
	f.mu.Unlock()
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	f.cloud.ServeHTTP(answer, r)

	var token map[string]map[string]any
	if answer.Code == http.StatusCreated && json.Unmarshal(answer.Body.Bytes(), &token) == nil {
		token["token"]["catalog"] = f.catalog()
		answer.Body.Reset()
		_ = json.NewEncoder(answer.Body).Encode(token)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Subject-Token", answer.Header().Get("X-Subject-Token"))
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

func (f *front) catalog() any {
	type object = map[string]any
	var endpoints []object
	for _, region := range []string{"RegionOne", "RegionTwo"} {
		for _, face := range []string{"internal", "public"} {
			url := fmt.Sprintf("%s/%s/%s/compute/v2.1", f.URL, region, face)
			endpoints = append(endpoints, object{"interface": face, "region": region, "region_id": region, "url": url})
		}
	}
	return []object{{"type": "compute", "name": "nova", "endpoints": endpoints}}
}

// endpoint shortens a URL of the catalog to region and interface.
func (f *front) endpoint(url string) string {
	return strings.TrimSuffix(strings.TrimPrefix(url, f.URL+"/"), "/compute/v2.1/")
}

// lastLogin returns the last login.
func (f *front) lastLogin() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.logins) == 0 {
		return "{}"
	}
	return f.logins[len(f.logins)-1]
}

func parseJSON(t *testing.T, s string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v in %s", err, s)
	}
	return v
}

// calls records the calls of an observer.
type calls struct {
	mu  sync.Mutex
	all []string
}

func (c *calls) observe(service, outcome string, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, service+" "+outcome)
	if took < 0 {
		c.all = append(c.all, "a call that took "+took.String())
	}
}

// take returns the recorded calls and removes them.
func (c *calls) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.Clone(c.all)
	c.all = nil
	return all
}
