//go:build agents

package agents_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/example/metadata-service/guestfuzz"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
)

const (
	networkID = "11111111-2222-4333-8444-555555555555"
	routerID  = "11111111-2222-4333-8444-666666666666"
	secret    = "secret-of-the-agents"
)

// port is a row of what OVN or neutron-server knows.
type port struct {
	ID        string   `json:"id"`
	Network   string   `json:"network"`
	Device    string   `json:"device"`
	Owner     string   `json:"owner"`
	Project   string   `json:"project"`
	MAC       string   `json:"mac"`
	Addresses []string `json:"addresses"`
}

// site is a network with an agent and its haproxy, and two guests.
type site struct {
	release
	kind      string
	dir       string
	namespace string // where haproxy is
	door      *door
	web, db   *guest
	ipv6      bool // haproxy listens on fe80::a9fe:a9fe, too
	log       *os.File
}

// ways returns the addresses of a guest's metadata service, each with a haproxy of another configuration or another address
// family behind it.
func (s *site) ways(g *guest) []guestfuzz.Way {
	all := []guestfuzz.Way{{Name: "network", Address: "169.254.169.254:80"}}
	if s.ipv6 {
		all = append(all, guestfuzz.Way{Name: "ipv6", Address: fmt.Sprintf("[fe80::a9fe:a9fe%%%d]:80", g.index)})
	}
	if s.kind == "plain" {
		// In a router's namespace port 80 is redirected to this one.
		all = append(all, guestfuzz.Way{Name: "router", Address: "169.254.169.254:9697"})
	}
	return all
}

var sites atomic.Int32

// newSite starts all of it. With limit, haproxy has the limit of agent-limits, installed as an operator does.
func newSite(t *testing.T, r release, kind string, limit bool, settings settings) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "agents-") //nolint:usetesting // the name of t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	prefix := fmt.Sprintf("ona-agents-%d-%d-", os.Getpid(), sites.Add(1))
	s := &site{release: r, kind: kind, dir: dir, namespace: prefix + "md"}
	s.web = &guest{name: "web", device: "aaaaaaaa-1111-4000-8000-000000000001", project: strings.Repeat("a1", 16), role: "only-web", mac: "fa:16:3e:00:00:04", v4: "10.40.0.4"}
	s.db = &guest{name: "db", device: "bbbbbbbb-2222-4000-8000-000000000002", project: strings.Repeat("b2", 16), role: "only-db", mac: "fa:16:3e:00:00:12", v4: "10.40.0.18"}

	s.addNamespace(t, s.namespace)
	s.ip(t, "-n", s.namespace, "link", "add", "metadata", "type", "bridge")
	s.ip(t, "-n", s.namespace, "link", "set", "metadata", "up")
	s.ip(t, "-n", s.namespace, "addr", "add", "169.254.169.254/32", "dev", "metadata")
	s.ip(t, "-n", s.namespace, "addr", "add", "10.40.0.2/24", "dev", "metadata")
	s.ipv6 = kind != "ovn" || r.name != "zed" // the OVN agent has it since 2023.1
	if s.ipv6 {
		s.ip(t, "-n", s.namespace, "addr", "add", "fe80::a9fe:a9fe/64", "dev", "metadata", "nodad")
	}
	for _, g := range []*guest{s.web, s.db} {
		g.site, g.namespace = s, prefix+g.name
		s.plug(t, g)
	}
	s.door = newDoor(t, dir, s.web, s.db)
	s.door.start(t, settings)
	s.startAgent(t, limit)
	return s
}

func (s *site) ip(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, append([]string{"ip"}, args...)...)
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (s *site) addNamespace(t *testing.T, name string) {
	t.Helper()
	s.ip(t, "netns", "add", name)
	t.Cleanup(func() { removeNamespace(name) })
	s.ip(t, "-n", name, "link", "set", "lo", "up")
}

// plug connects a guest's namespace with the network.
func (s *site) plug(t *testing.T, g *guest) {
	t.Helper()
	s.addNamespace(t, g.namespace)
	s.ip(t, "-n", s.namespace, "link", "add", g.name, "type", "veth", "peer", "name", "eth0", "address", g.mac, "netns", g.namespace)
	s.ip(t, "-n", s.namespace, "link", "set", g.name, "master", "metadata", "up")
	s.ip(t, "-n", g.namespace, "link", "set", "eth0", "addrgenmode", "eui64", "up")
	s.ip(t, "-n", g.namespace, "addr", "add", g.v4+"/24", "dev", "eth0")
	s.ip(t, "-n", g.namespace, "route", "add", "169.254.169.254", "via", "10.40.0.2")
	index, _, _ := strings.Cut(s.ip(t, "-n", g.namespace, "-o", "link", "show", "eth0"), ":")
	var err error
	if g.index, err = strconv.Atoi(index); err != nil {
		t.Fatal(err)
	}
}

// startAgent starts the agent, which starts haproxy, and waits until both guests have Nova's metadata.
func (s *site) startAgent(t *testing.T, limit bool) {
	t.Helper()
	config := fmt.Sprintf("[DEFAULT]\nstate_path = %[1]s\nmetadata_proxy_socket = %[1]s/metadata_proxy\nnova_metadata_host = 127.0.0.1\n"+
		"nova_metadata_port = %[2]s\nmetadata_proxy_shared_secret = %[3]s\n[AGENT]\nroot_helper = env\n", s.dir, s.door.agents, secret)
	table := []port{{ID: "router", Network: networkID, Device: routerID, Owner: "network:router_interface", MAC: "fa:16:3e:00:00:01", Addresses: []string{"10.40.0.1"}}}
	for _, g := range []*guest{s.web, s.db} {
		table = append(table, port{ID: g.name, Network: networkID, Device: g.device, Owner: "compute:nova", Project: g.project, MAC: g.mac, Addresses: []string{g.v4}})
	}
	facts := map[string]any{"namespace": s.namespace, "interface": "", "network": networkID, "router": routerID, "ports": table}
	if s.ipv6 {
		facts["interface"] = "metadata"
	}
	text, err := json.Marshal(facts)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(s.dir, "neutron.conf"), config)
	write(t, filepath.Join(s.dir, "site.json"), string(text))

	path, limits := os.Getenv("PATH")+":/usr/sbin", ""
	if limit {
		bin := filepath.Join(s.dir, "sbin")
		limits = filepath.Join(s.dir, "agent-limits.cfg")
		run(t, "install", "-D", "-m", "0755", "../agent-limits/haproxy", filepath.Join(bin, "haproxy"))
		run(t, "install", "-m", "0644", "../agent-limits/agent-limits.cfg", limits)
		path = bin + ":" + path
	}
	if s.log, err = os.Create(filepath.Join(s.dir, "agent.log")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("timeout", bounded(t, pythons[s.name], "agent.py", s.kind, filepath.Join(s.dir, "neutron.conf"), filepath.Join(s.dir, "site.json"))...)
	cmd.Env = append(os.Environ(), "PATH="+path, "NEUTRON_HAPROXY_LIMITS="+limits, "PYTHONDONTWRITEBYTECODE=")
	cmd.Stdout, cmd.Stderr = s.log, s.log
	ended := startProcess(t, cmd)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the agent's log ends with:\n%s", tail(s.log.Name()))
		}
	})
	for _, g := range []*guest{s.web, s.db} {
		for _, w := range s.ways(g) {
			awaittest.Within(t, time.Minute, fmt.Sprintf("Nova's metadata for %s (%s)", g.name, w.Name), func() bool {
				select {
				case <-ended:
					t.Fatalf("the agent ended")
				default:
				}
				got, err := g.ask(w, "GET /latest/meta-data/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
				return err == nil && got.status == 200
			})
		}
	}
	s.wantLimit(t, limit)
}

// wantLimit reads from the command lines of haproxy whether it has the limit.
func (s *site) wantLimit(t *testing.T, limit bool) {
	t.Helper()
	found := 0
	for _, pid := range strings.Fields(s.ip(t, "netns", "pids", s.namespace)) {
		line, err := os.ReadFile("/proc/" + pid + "/cmdline")
		if err != nil || !bytes.Contains(line, []byte("-metadata-proxy/")) {
			continue
		}
		found++
		if bytes.Contains(line, []byte("agent-limits.cfg")) != limit {
			t.Fatalf("the limit is wanted: %v; haproxy runs as %q", limit, line)
		}
	}
	if want := map[string]int{"ovn": 1, "plain": 2}[s.kind]; found != want {
		t.Fatalf("%d processes of haproxy, want %d", found, want)
	}
}

// bounded returns the arguments of timeout(1): nothing outlives a test that was killed by much.
func bounded(t *testing.T, args ...string) []string {
	t.Helper()
	limit := time.Hour
	if end, ok := t.Deadline(); ok {
		limit = time.Until(end) + 10*time.Second
	}
	return append([]string{"--kill-after=5", strconv.Itoa(int(limit.Seconds()))}, args...)
}

// startProcess starts a process group and ends it with the test.
func startProcess(t *testing.T, cmd *exec.Cmd) (ended chan struct{}) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended = make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() { endProcess(cmd, ended) })
	return ended
}

func endProcess(cmd *exec.Cmd, ended chan struct{}) {
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	<-ended
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func tail(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-1500):])
}

// removeNamespace ends what runs in a namespace of ours, and removes it.
func removeNamespace(name string) {
	pids, _ := exec.Command("ip", "netns", "pids", name).Output()
	for _, field := range strings.Fields(string(pids)) {
		if pid, err := strconv.Atoi(field); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	_ = exec.Command("ip", "netns", "del", name).Run()
}

// removeLeftovers removes the namespaces of tests that were killed.
func removeLeftovers() {
	list, _ := exec.Command("ip", "netns", "list").Output()
	for _, m := range regexp.MustCompile(`(?m)^(ona-agents-(\d+)-\S+)`).FindAllStringSubmatch(string(list), -1) {
		if pid, err := strconv.Atoi(m[2]); err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			removeNamespace(m[1])
		}
	}
}
