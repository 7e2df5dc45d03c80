//go:build lab

// Package lab_test takes the authenticator, as a binary, through the front door
// of a real OpenStack, which ./up starts. See README.md.
package lab_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/example/lab/labtest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/admin"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
)

// outsidePort is where the authenticator listens beyond the projects' routers.
const outsidePort = "18775"

var (
	lab      labtest.Cloud
	stateDir string
	facts    demoFacts
	workDir  string // the binary, a key, a certificate
)

// demoFacts is demo.json, which ./up writes.
type demoFacts struct {
	Projects map[string]string      `json:"projects"`
	Images   map[string]string      `json:"images"`
	Flavors  map[string]string      `json:"flavors"`
	Outside  map[string]string      `json:"outside"`
	Servers  map[string]serverFacts `json:"servers"`
}

type serverFacts struct {
	ID         string            `json:"id"`
	ProjectID  string            `json:"project_id"`
	UserID     string            `json:"user_id"`
	NetworkID  string            `json:"network_id"`
	FixedIPs   map[string]string `json:"fixed_ips"` // v4, v6
	FloatingIP string            `json:"floating_ip"`
}

func TestMain(m *testing.M) {
	code, err := prepare(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
	}
	os.Exit(code) //nolint:forbidigo // a TestMain has no other way to fail
}

func prepare(m *testing.M) (int, error) {
	var err error
	if lab, err = labtest.Selected(); err != nil {
		return 1, err
	}
	// The binary is built before the namespace of a cloud is entered, where no module can be fetched.
	const workVariable = "ONA_LAB_WORK"
	if workDir = os.Getenv(workVariable); workDir == "" {
		if workDir, err = os.MkdirTemp("", "lab-test-"); err != nil {
			return 1, err
		}
		if err := os.Setenv(workVariable, workDir); err != nil {
			return 1, err
		}
	}
	defer func() { _ = os.RemoveAll(workDir) }()
	if _, err := os.Stat(binary()); err != nil {
		if out, err := exec.Command("go", "build", "-race", "-o", binary(), "../../cmd/openstack-nova-authenticator").CombinedOutput(); err != nil {
			return 1, fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	if !lab.Entered() {
		return 1, lab.Enter()
	}

	stateDir = lab.StateDir
	data, err := os.ReadFile(filepath.Join(stateDir, "demo.json"))
	if err != nil {
		return 1, err
	}
	if err := json.Unmarshal(data, &facts); err != nil {
		return 1, fmt.Errorf("demo.json: %w", err)
	}
	if err := os.Setenv("PATH", filepath.Join(stateDir, "bin")+":"+os.Getenv("PATH")); err != nil {
		return 1, err
	}
	if out, err := exec.Command("sh", "../try-out.sh", workDir, facts.Outside["v4"], facts.Outside["v6"], "127.0.0.1").CombinedOutput(); err != nil {
		return 1, fmt.Errorf("try-out.sh: %w\n%s", err, out)
	}
	// A test that stops a service could not plug an instance in.
	for name := range facts.Servers {
		if out, err := exec.Command("./instance", name).CombinedOutput(); err != nil {
			return 1, fmt.Errorf("instance %s: %w\n%s", name, err, out)
		}
	}
	return m.Run(), nil
}

func binary() string { return filepath.Join(workDir, "openstack-nova-authenticator") }

// authenticator is a running one.
type authenticator struct {
	dir    string
	socket string
	cmd    *exec.Cmd
	ended  chan error
}

// config is what differs from one authenticator to the next.
type config struct {
	cloud  string // of clouds.yaml
	file   string // default: the lab's clouds.yaml
	lookup string // default: auto
	listen string // default: all addresses, both families
	extra  string // more YAML
	here   bool   // in the machine's namespace, not outside
	whole  string // instead of all of the above but here
}

func (c config) yaml() string {
	if c.whole != "" {
		return c.whole
	}
	if c.lookup == "" {
		c.lookup = "auto"
	}
	if c.listen == "" {
		c.listen = "[::]:" + outsidePort
	}
	if c.file == "" {
		c.file = filepath.Join(stateDir, "clouds.yaml")
	}
	return fmt.Sprintf(`listen: "%s"
tls: {certFile: %[2]s/server.pem, keyFile: %[2]s/server-key.pem}
auth:
  limit: 1000
  period: 720h
  signingKeyFile: %[2]s/signing-key.pem
  tokenIssuer: https://%[3]s:%[4]s
openstack:
  cloud: %[5]s
  cloudsFile: %[6]s
  lookup: %[7]s
  timeout: 10s
metrics: {listen: ""}
admin: {socket: admin.sock}
audit: {output: audit.log, required: true}
log: {format: text}
throttle: {perAddress: {rate: 1000, burst: 1000}}
roles:
  any: {allowAnyInstance: true}
  web: {projectID: %[8]s, metadata: {role: web}}
  few: {allowAnyInstance: true, limit: 2}
  launched: {allowAnyInstance: true, since: launched, limit: 1}
  young: {allowAnyInstance: true, period: 1s}
%[9]s`, c.listen, workDir, facts.Outside["v4"], outsidePort, c.cloud, c.file, c.lookup, facts.Projects["workloads"], c.extra)
}

// start starts an authenticator and waits until it serves.
func start(t *testing.T, c config) *authenticator {
	t.Helper()
	a := launch(t, c)
	client := a.admin()
	awaittest.Within(t, 60*time.Second, "the authenticator", func() bool {
		select {
		case err := <-a.ended:
			t.Fatalf("the authenticator ended: %v\n%s", err, a.log())
		default:
		}
		resp, err := client.Get("http://admin/status")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return a
}

// launch starts an authenticator and ends it with the test.
func launch(t *testing.T, c config) *authenticator {
	t.Helper()
	dir, err := os.MkdirTemp(workDir, "run-") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	a := &authenticator{dir: dir, socket: filepath.Join(dir, "admin.sock"), ended: make(chan error, 1)}
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, []byte(c.yaml()), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{binary(), "-c", file}
	if !c.here {
		args = append([]string{"ip", "netns", "exec", lab.Namespace}, args...)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	a.cmd = exec.Command(args[0], args[1:]...)
	a.cmd.Stderr = log
	a.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "OS_") })
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { a.ended <- a.cmd.Wait() }()
	t.Cleanup(func() {
		a.stop()
		_ = log.Close()
		if t.Failed() {
			t.Logf("the authenticator's log:\n%s\nits audit log:\n%s", a.log(), a.read("audit.log"))
		}
	})
	return a
}

// wantLacking waits until an authenticator says which right its account lacks. It goes on.
func (a *authenticator) wantLacking(t *testing.T, words ...string) {
	t.Helper()
	for _, want := range words {
		awaittest.Within(t, time.Minute, "the log to name "+want, func() bool { return strings.Contains(a.log(), want) })
	}
	select {
	case err := <-a.ended:
		a.ended <- err
		t.Errorf("it ended: %v", err)
	default:
	}
}

func (a *authenticator) stop() {
	_ = a.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-a.ended:
		a.ended <- err
	case <-time.After(20 * time.Second):
		_ = a.cmd.Process.Kill()
	}
}

func (a *authenticator) admin() *http.Client { return admin.NewClient(a.socket) }

func (a *authenticator) log() string { return a.read("log") }

func (a *authenticator) read(name string) string {
	data, err := os.ReadFile(filepath.Join(a.dir, name))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// answer is what an instance was told, with what the operator was.
type answer struct {
	Status int
	Reason string
	Detail string
	Client string
	Token  string
}

// audit finds the line of a request.
func (a *authenticator) audit(t *testing.T, id string) (reason, detail, client string) {
	t.Helper()
	awaittest.Within(t, 10*time.Second, "the audit line of "+id, func() bool {
		for line := range strings.Lines(a.read("audit.log")) {
			if !strings.Contains(line, id) {
				continue
			}
			var l struct{ Reason, Detail, Client string }
			if json.Unmarshal([]byte(line), &l) == nil {
				reason, detail, client = l.Reason, l.Detail, l.Client
				return true
			}
		}
		return false
	})
	return reason, detail, client
}

// audited waits for a text in the audit log: the line of a denial is written after
// its answer.
func (a *authenticator) audited(t *testing.T, text string) {
	t.Helper()
	awaittest.Within(t, 10*time.Second, "audit line with "+text, func() bool { return strings.Contains(a.read("audit.log"), text) })
}

// auditOf returns the audit line of the one request that ask makes.
func (a *authenticator) auditOf(t *testing.T, ask func()) (line string) {
	t.Helper()
	lines := func() []string { return slices.Collect(strings.Lines(a.read("audit.log"))) }
	before := len(lines())
	ask()
	awaittest.Within(t, 10*time.Second, "audit line of the request", func() bool {
		now := lines()
		if len(now) <= before || !strings.HasSuffix(now[before], "\n") {
			return false
		}
		line = now[before]
		return true
	})
	return line
}

// named gives the ID of a server of the demo: ./instance finds a plugged-in server by ID without the API.
func named(server string) string {
	if s, ok := facts.Servers[server]; ok {
		return s.ID
	}
	return server
}

// ask posts from inside a server (name or ID) to an address of the
// authenticator, for an instance in a role.
func (a *authenticator) ask(t *testing.T, from, to, instance, role string) answer {
	t.Helper()
	return a.curl(t, []string{"./instance", named(from)}, to, instance, role)
}

func (a *authenticator) curl(t *testing.T, prefix []string, to, instance, role string) answer {
	t.Helper()
	url := "https://" + net.JoinHostPort(to, outsidePort) + "/auth"
	args := append(slices.Clone(prefix), "curl", "-sS", "-m", "30", "--cacert", filepath.Join(workDir, "server.pem"),
		"-D", "-", url, "-d", "instance_id="+instance+"&role="+role)
	cmd := exec.Command(args[0], args[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	head, body, _ := strings.Cut(strings.ReplaceAll(string(out), "\r", ""), "\n\n")
	var got answer
	var version string
	if _, err := fmt.Sscanf(head, "HTTP/%s %d", &version, &got.Status); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var id string
	for line := range strings.Lines(head) {
		if v, ok := strings.CutPrefix(strings.ToLower(line), "x-request-id: "); ok {
			id = strings.TrimSpace(v)
		}
	}
	var granted struct{ Token string }
	if err := json.Unmarshal([]byte(body), &granted); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got.Token = granted.Token
	if (got.Status == http.StatusOK) != (got.Token != "") {
		t.Errorf("status %d with token %q", got.Status, got.Token)
	}
	got.Reason, got.Detail, got.Client = a.audit(t, id)
	return got
}

// want fails unless the answer has that status and reason.
func (got answer) want(t *testing.T, status int, reason string) {
	t.Helper()
	if got.Status != status || got.Reason != reason {
		t.Errorf("status %d, %s (%s), client %s; want %d, %s", got.Status, got.Reason, got.Detail, got.Client, status, reason)
	}
}

// sign is what the metadata agent says to be believed.
func sign(id string) string {
	mac := hmac.New(sha256.New, []byte(labSecret))
	mac.Write([]byte(id))
	return hex.EncodeToString(mac.Sum(nil))
}

// script runs one of the lab's own commands.
func script(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// down stops services of the lab.
func down(t *testing.T, services ...string) {
	t.Helper()
	script(t, append([]string{"./down"}, services...)...)
}

// up starts what is down, with settings such as METADATA_PORT=8776.
func up(t *testing.T, settings ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	cmd := lab.AtMachine(ctx, "./up")
	cmd.Env = append(os.Environ(), settings...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("up: %v\n%s", err, out)
	}
}
