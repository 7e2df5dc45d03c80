package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/admin"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){program: main})
}

// The cloud of each script has these instances. All but scriptElsewhere have the address of
// the scripts.
const (
	scriptProject   = "7e562c1a85814230b973a83db9534b02"
	scriptWeb       = "11111111-aaaa-4aaa-8aaa-000000000001"
	scriptElsewhere = "11111111-aaaa-4aaa-8aaa-000000000002"
	scriptBuilt     = "11111111-aaaa-4aaa-8aaa-000000000003" // a script launches it
	scriptNova      = "d0fd9128b4574898af1ba8f4e7836ede"
	scriptBoss      = "5a0dd42ae8eb4ce0bb3aa18cb9a5c70c"
)

// Each script of testdata/script starts the program, with a simulated cloud and its credentials
// in the environment.
func TestScripts(t *testing.T) {
	startsProcesses(t)
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			cloud, err := scriptCloud()
			if err != nil {
				return err
			}
			env.Defer(func() { _ = cloud.Close() })
			env.Values["cloud"] = cloud
			ports, err := awaittest.FreePorts(4)
			if err != nil {
				return err
			}
			env.Vars = append(env.Vars, "PORT1="+ports[0], "PORT2="+ports[1], "PORT3="+ports[2], "PORT4="+ports[3])
			metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, "nova was asked for %s", r.RequestURI)
			}))
			env.Defer(metadata.Close)
			mac := hmac.New(sha256.New, []byte("metadata-secret"))
			mac.Write([]byte(scriptWeb))
			env.Vars = append(env.Vars, "METADATA="+metadata.URL, "SIGNATURE="+hex.EncodeToString(mac.Sum(nil)))
			env.Vars = append(env.Vars,
				"OS_AUTH_URL="+cloud.AuthURL(), "OS_USERNAME=authenticator", "OS_PASSWORD=secret-word",
				"OS_PROJECT_NAME=service", "OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_DOMAIN_NAME=Default",
				"WEB="+scriptWeb, "ELSEWHERE="+scriptElsewhere, "BUILT="+scriptBuilt, "PROJECT="+scriptProject, "NOVA_ID="+scriptNova,
			)
			for _, name := range []string{"nova", "member"} {
				token, err := scriptToken(cloud, name)
				if err != nil {
					return err
				}
				env.Vars = append(env.Vars, strings.ToUpper(name)+"_TOKEN="+token)
			}
			return scriptKey(filepath.Join(env.WorkDir, "key.pem"))
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"http":     cmdHTTP,
			"ready":    cmdReady,
			"cloud":    cmdCloud,
			"expand":   cmdExpand,
			"eventual": cmdEventually,
			"capture":  cmdCapture,
			"sigterm":  func(ts *testscript.TestScript, _ bool, _ []string) { signalLast(ts, syscall.SIGTERM) },
			"sighup":   func(ts *testscript.TestScript, _ bool, _ []string) { signalLast(ts, syscall.SIGHUP) },
		},
	})
}

func scriptCloud() (*simulator.Cloud, error) {
	cloud, err := simulator.Start()
	if err != nil {
		return nil, err
	}
	for _, a := range []simulator.Account{
		{Name: "authenticator", Roles: []string{"reader", "instance_reader"}},
		{Name: "validator", Roles: []string{"reader", "instance_reader", "service"}},
		{Name: "nova", ID: scriptNova, Roles: []string{"service"}},
		{Name: "member", Roles: []string{"member"}},
		{Name: "boss", ID: scriptBoss, Roles: []string{"admin"}},
		{Name: "system", Roles: []string{"admin"}, Scope: simulator.ScopeSystem},
	} {
		a.Password, a.ProjectName = "secret-word", "service"
		cloud.AddAccount(a)
	}
	cloud.SetServer(simulator.Server{
		ID: scriptBuilt, Name: "built-1", Status: "BUILD", TaskState: "spawning", ProjectID: scriptProject, UserID: "821a2eaac0724c069aa6a44bd7b91935",
		Created: time.Now(), Flavor: "m1.small",
	})
	for id, addr := range map[string]string{scriptWeb: "127.0.0.1", scriptElsewhere: "10.20.0.12"} {
		cloud.SetServer(simulator.Server{
			ID: id, Name: "web-1", Status: "ACTIVE", ProjectID: scriptProject, UserID: "821a2eaac0724c069aa6a44bd7b91935",
			Metadata: map[string]string{"role": "web"}, Created: time.Now(), Launched: time.Now(), Flavor: "m1.small",
			Addresses: []simulator.Address{{Network: "private", Addr: addr, Type: "fixed"}},
		})
	}
	return cloud, nil
}

// scriptToken logs an account in at Keystone.
func scriptToken(cloud *simulator.Cloud, name string) (string, error) {
	resp, err := http.Post(cloud.AuthURL()+"/auth/tokens", "application/json", strings.NewReader(
		`{"auth":{"identity":{"methods":["password"],"password":{"user":{"name":"`+name+`","domain":{"id":"default"},"password":"secret-word"}}}}}`))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		return "", errors.New(resp.Status)
	}
	return resp.Header.Get("X-Subject-Token"), nil
}

func scriptKey(file string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// startsProcesses skips a test with -short.
func startsProcesses(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts processes")
	}
}

func freePorts(t testing.TB, n int) []string {
	t.Helper()
	ports, err := awaittest.FreePorts(n)
	if err != nil {
		t.Fatal(err)
	}
	return ports
}

// http METHOD URL [BODY [HEADER...]]: prints the status and the body. A URL that begins with
// unix:SOCKET: uses that socket.
func cmdHTTP(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: http METHOD URL [BODY [HEADER...]]")
	}
	url, client := args[1], &http.Client{Timeout: 10 * time.Second}
	if rest, ok := strings.CutPrefix(url, "unix:"); ok {
		socket, path, _ := strings.Cut(rest, ":")
		url = "http://socket" + path
		client = admin.NewClient(ts.MkAbs(socket))
	}
	var body io.Reader
	if len(args) > 2 {
		body = strings.NewReader(args[2])
	}
	req, err := http.NewRequestWithContext(context.Background(), args[0], url, body)
	ts.Check(err)
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, h := range args[min(3, len(args)):] {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := client.Do(req)
	if neg {
		if err == nil {
			ts.Fatalf("%s answered %s", url, resp.Status)
		}
		return
	}
	ts.Check(err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%d\n%s\n", resp.StatusCode, answer)
}

// ready URL: waits for the answer 200; with ! for another one or none.
func cmdReady(ts *testscript.TestScript, neg bool, args []string) {
	failure := "no answer from " + args[0]
	if neg {
		failure = args[0] + " still answers 200"
	}
	poll(ts, failure, func() bool {
		resp, err := http.Get(args[0])
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return (resp.StatusCode == http.StatusOK) != neg
	})
}

// eventual FILE TEXT: waits until the file contains the text.
func cmdEventually(ts *testscript.TestScript, _ bool, args []string) {
	poll(ts, fmt.Sprintf("%s never contained %q", args[0], args[1]), func() bool {
		data, err := os.ReadFile(ts.MkAbs(args[0]))
		return err == nil && strings.Contains(string(data), args[1])
	})
}

// signalLast sends a signal to the process that started last.
func signalLast(ts *testscript.TestScript, s os.Signal) {
	running := ts.BackgroundCmds()
	ts.Check(running[len(running)-1].Process.Signal(s))
}

func poll(ts *testscript.TestScript, failure string, done func() bool) {
	if err := awaittest.Poll(context.Background(), 20*time.Second, func() error {
		if done() {
			return nil
		}
		return errors.New(failure)
	}); err != nil {
		ts.Fatalf("%v", err)
	}
}

// capture VARIABLE PATTERN: sets the variable to the group of the pattern in stdout.
func cmdCapture(ts *testscript.TestScript, _ bool, args []string) {
	found := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) != 2 {
		ts.Fatalf("stdout has no %s:\n%s", args[1], ts.ReadFile("stdout"))
	}
	ts.Setenv(args[0], found[1])
}

// cloud down | hang | up: Nova and Keystone answer 503, nothing, or normally.
// cloud allow | refuse: changes rights. cloud launch: launches scriptBuilt.
func cmdCloud(ts *testscript.TestScript, _ bool, args []string) {
	cloud := ts.Value("cloud").(*simulator.Cloud)
	if args[0] == "launch" {
		cloud.SetServer(simulator.Server{
			ID: scriptBuilt, Name: "built-1", ProjectID: scriptProject, UserID: "821a2eaac0724c069aa6a44bd7b91935",
			Created: time.Now(), Launched: time.Now(), Flavor: "m1.small",
		})
		return
	}
	fault := simulator.Fault{}
	switch args[0] {
	case "allow": // the rights that the names of roles suggest
		cloud.SetPolicy(simulator.Policy{GetAllTenants: true, AllowAllFilters: true})
		cloud.AddAccount(simulator.Account{Name: "authenticator", Password: "secret-word", ProjectName: "service", Roles: []string{"reader", "instance_reader", "project_reader"}})
		cloud.AddAccount(simulator.Account{Name: "tenant", ProjectID: scriptProject, ProjectName: "shop"})
		return
	case "refuse":
		cloud.SetPolicy(simulator.Policy{AdminIsNoAdmin: true})
		return
	case "down":
		fault.Status = http.StatusServiceUnavailable
	case "hang":
		fault.Hang = true
	}
	cloud.Fail("nova", fault)
	cloud.Fail("keystone", fault)
}

// expand FILE: replaces variables of the script in the file.
func cmdExpand(ts *testscript.TestScript, _ bool, args []string) {
	file := ts.MkAbs(args[0])
	data, err := os.ReadFile(file)
	ts.Check(err)
	ts.Check(os.WriteFile(file, []byte(os.Expand(string(data), ts.Getenv)), 0o600))
}

func TestTheDemoShowsEachReason(t *testing.T) {
	var out bytes.Buffer
	if err := demo(t.Context(), &out, true); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"address_mismatch", "window_closed", "rule_metadata", "instance_unknown", "role_unknown", "attempts_exhausted", "cloud_unavailable", "go-oidc accepts it"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the tour does not show %q", want)
		}
	}
}

func TestTheDemoFailsIfAnAnswerIsMissing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := demo(ctx, io.Discard, true); !errors.Is(err, context.Canceled) {
		t.Errorf("demo with a context that has ended = %v", err)
	}
	tour := tour{out: io.Discard, audit: &auditTail{}, client: http.DefaultClient, base: "http://127.0.0.1:1"}
	if err := tour.run(t.Context()); err == nil {
		t.Error("a tour without a server passed")
	}
}
