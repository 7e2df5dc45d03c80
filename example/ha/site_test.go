package ha_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

const (
	program  = "openstack-nova-authenticator"
	service  = "id.example.com"
	project  = "7e562c1a85814230b973a83db9534b02" // in config.yml
	patience = 30 * time.Second
)

// The machines of the README, by the last byte of their addresses.
const (
	lb    = "lb"
	one   = "one"
	two   = "two"
	redis = "redis"
)

var lastByte = map[string]int{lb: 10, one: 11, two: 12, redis: 20}

// site is the example, set up as the README says. A machine is a folder and an
// address of 127.0.0.0/8.
type site struct {
	dir   string // the folder that is carried from machine to machine
	net   string // in place of 192.0.2.
	ports map[string]string
	bin   string
	ran   *runs
	cloud *simulator.Cloud

	units map[string]*unit // by machine, each of which runs one
	mu    sync.Mutex
	count int // of instances
}

func newSite(t *testing.T, bin string, ran *runs) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "ha-") //nolint:usetesting // t.TempDir is too long for a socket, whose path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	s := &site{dir: dir, bin: bin, ran: ran, ports: map[string]string{}, units: map[string]*unit{}}
	t.Cleanup(func() {
		for _, u := range s.units {
			u.kill()
		}
		if t.Failed() {
			s.dump(t)
		}
		_ = os.RemoveAll(dir)
	})
	s.net = fmt.Sprintf("127.%d.%d.", 1+random(t, 250), 1+random(t, 250))
	ports, err := awaittest.FreePorts(4, s.host(lb), s.host(redis), s.host(one), s.host(two))
	if err != nil {
		t.Fatal(err)
	}
	for i, port := range []string{"443", "18775", "18776", "6379"} {
		s.ports[port] = ports[i]
	}
	if s.cloud, err = simulator.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cloud.Close() })
	s.cloud.AddAccount(simulator.Account{
		Name: "authenticator", Password: "secret-word", DomainID: "default", DomainName: "Default",
		ProjectName: "service", ProjectDomainID: "default", ProjectDomainName: "Default",
		Roles: []string{"reader", "instance_reader"},
	})
	s.units[lb] = &unit{name: "haproxy", command: []string{"haproxy", "-db", "-f", s.root(lb) + "/etc/haproxy/haproxy.cfg"}, up: s.accepts(lb, "443")}
	s.units[redis] = &unit{
		name:    "redis-server",
		command: []string{"redis-server", s.root(redis) + "/etc/redis/redis.conf", "--supervised", "systemd", "--daemonize", "no"}, // as Debian's unit
		up:      s.redisAnswers,
	}
	for _, m := range []string{one, two} {
		s.units[m] = &unit{name: program, command: []string{bin, "-c", s.root(m) + "/etc/" + program + "/config.yml"}, env: s.replicaEnv(m)}
	}
	if err := os.Symlink(statetest.Dir(t), s.root(redis)); err != nil {
		t.Fatal(err)
	}
	for m, u := range s.units {
		u.out, u.err = filepath.Join(dir, m+".out"), filepath.Join(dir, m+".err")
		for _, sub := range []string{"etc/" + program, "etc/haproxy", "etc/redis", "var/lib/redis", "run/" + program, "bin"} {
			if err := os.MkdirAll(filepath.Join(s.root(m), sub), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.installExample(t)
	s.installShims(t)
	return s
}

func (s *site) root(machine string) string { return filepath.Join(s.dir, machine) }

func (s *site) host(machine string) string { return s.net + strconv.Itoa(lastByte[machine]) }

func (s *site) address(machine, port string) string { return s.host(machine) + ":" + s.ports[port] }

func (s *site) replicaEnv(machine string) []string {
	return []string{
		"RUNTIME_DIRECTORY=" + s.root(machine) + "/run/" + program,
		"OS_AUTH_URL=" + s.cloud.AuthURL(), "OS_USERNAME=authenticator", "OS_PASSWORD=secret-word", "OS_PROJECT_NAME=service",
		"OS_USER_DOMAIN_NAME=Default", "OS_PROJECT_DOMAIN_NAME=Default", "NO_PROXY=*",
	}
}

func random(t *testing.T, n int64) int64 {
	t.Helper()
	v, err := rand.Int(rand.Reader, big.NewInt(n))
	if err != nil {
		t.Fatal(err)
	}
	return v.Int64()
}

// substitutions are all that differs from the machines of the README: addresses,
// ports and folders, and what needs root or a system log.
func (s *site) substitutions(machine string) map[string]string {
	return map[string]string{
		"192.0.2.":                 s.net,
		":443":                     ":" + s.ports["443"],
		"https://" + service + "/": "https://" + service + ":" + s.ports["443"] + "/",
		"18775":                    s.ports["18775"],
		"18776":                    s.ports["18776"],
		"6379":                     s.ports["6379"],
		"/etc/":                    s.root(machine) + "/etc/",
		"/var/lib/redis":           s.root(machine) + "/var/lib/redis",
		"/dev/log":                 "stderr",
		rootOnlyInHAProxy:          "",
	}
}

const rootOnlyInHAProxy = "    chroot /var/lib/haproxy\n    user haproxy\n    group haproxy\n"

// installExample writes example/ha, with what is substituted, and makes a folder
// of it and of what else of example the README uses.
func (s *site) installExample(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(s.dir, "example/ha"), 0o700); err != nil {
		t.Fatal(err)
	}
	tryOut, err := filepath.Abs("../try-out.sh")
	if err == nil {
		err = os.Symlink(tryOut, filepath.Join(s.dir, "example/try-out.sh"))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		name, machine string
		what          []string
	}{
		{"haproxy.cfg", lb, []string{"192.0.2.", ":443", "18775", "18776", "/etc/", "/dev/log", rootOnlyInHAProxy}},
		{"haproxy-tcp.cfg", lb, []string{"192.0.2.", ":443", "18775", "18776", "/dev/log", rootOnlyInHAProxy}},
		{"redis.conf", redis, []string{"192.0.2.", "6379", "/etc/", "/var/lib/redis"}},
		{"users.acl", redis, nil},
		{"config.yml", one, []string{"192.0.2.", "18775", "18776", "6379"}},
	} {
		text, err := os.ReadFile(f.name)
		if err != nil {
			t.Fatal(err)
		}
		var pairs []string
		by := s.substitutions(f.machine)
		for _, what := range f.what {
			if !bytes.Contains(text, []byte(what)) {
				t.Errorf("%s does not contain %q", f.name, what)
			}
			pairs = append(pairs, what, by[what])
		}
		changed := strings.NewReplacer(pairs...).Replace(string(text))
		if err := os.WriteFile(filepath.Join(s.dir, "example/ha", f.name), []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// installShims makes what the commands of the README find first on a machine.
func (s *site) installShims(t *testing.T) {
	t.Helper()
	socket := filepath.Join(s.dir, "systemd")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	systemd := &http.Server{Handler: http.HandlerFunc(s.systemctl), ReadHeaderTimeout: patience}
	var serving sync.WaitGroup
	serving.Go(func() { _ = systemd.Serve(l) })
	t.Cleanup(func() {
		_ = systemd.Close()
		serving.Wait()
	})
	for m := range s.units {
		for name, script := range map[string]string{
			"systemctl": fmt.Sprintf(`exec curl -sS --fail-with-body --unix-socket '%s' --data "$*" http://systemd/%s`, socket, m),
			program: fmt.Sprintf("%s exec '%s' -c '%s' \"$@\"", strings.Join(quoted(s.replicaEnv(m)), " "),
				s.bin, s.root(m)+"/etc/"+program+"/config.yml"),
			"chown": "exit 0", // there are no such users here
			"chgrp": "exit 0",
		} {
			if err := os.WriteFile(filepath.Join(s.root(m), "bin", name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func quoted(env []string) []string {
	all := make([]string, len(env))
	for i, e := range env {
		name, value, _ := strings.Cut(e, "=")
		all[i] = name + "='" + value + "'"
	}
	return all
}

// systemctl answers the command of that name on a machine.
func (s *site) systemctl(w http.ResponseWriter, r *http.Request) {
	words, err := io.ReadAll(r.Body)
	if err == nil {
		err = s.manage(r.Context(), strings.TrimPrefix(r.URL.Path, "/"), string(words))
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func (s *site) manage(ctx context.Context, machine, words string) error {
	u := s.units[machine]
	if u == nil {
		return fmt.Errorf("there is no machine %q", machine)
	}
	action, ok := strings.CutSuffix(words, " "+u.name)
	if !ok {
		return fmt.Errorf("systemctl %s: %s has %s alone", words, machine, u.name)
	}
	switch action {
	case "enable --now", "start":
		return u.start(ctx)
	case "stop":
		return u.stop()
	case "restart":
		if err := u.stop(); err != nil {
			return err
		}
		return u.start(ctx)
	}
	return fmt.Errorf("systemctl %s: no such action here", words)
}

// unit is a process that systemd would look after.
type unit struct {
	name     string
	command  []string
	env      []string
	out, err string
	up       func() bool // for a unit that tells systemd when it is up

	mu      sync.Mutex
	running *exec.Cmd
	ended   chan struct{}
}

func (u *unit) start(ctx context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.running != nil {
		return nil
	}
	env := append(os.Environ(), u.env...)
	if u.name == program { // ExecStartPre of the unit
		check := exec.CommandContext(ctx, u.command[0], append([]string{"check"}, u.command[1:]...)...)
		check.Env = env
		if out, err := check.CombinedOutput(); err != nil {
			return fmt.Errorf("check: %w\n%s", err, out)
		}
	}
	cmd := exec.Command(u.command[0], u.command[1:]...)
	cmd.Env = env
	for name, to := range map[string]*io.Writer{u.out: &cmd.Stdout, u.err: &cmd.Stderr} {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		*to = f
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	u.running, u.ended = cmd, ended
	if u.up == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return awaittest.Poll(ctx, patience, func() error {
		select {
		case <-ended:
			cancel()
			return errors.New(u.name + " ended")
		default:
		}
		if !u.up() {
			return errors.New(u.name + " does not answer")
		}
		return nil
	})
}

// stop ends it in order, and fails if it does not.
func (u *unit) stop() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.running == nil {
		return nil
	}
	_ = u.running.Process.Signal(syscall.SIGTERM)
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	select {
	case <-u.ended:
	case <-deadline.C:
		return fmt.Errorf("%s did not end", u.name)
	}
	state := u.running.ProcessState
	u.running = nil
	if !state.Success() && u.name != "haproxy" { // its status is that of the signal
		return fmt.Errorf("%s ended with %v", u.name, state)
	}
	return nil
}

func (u *unit) kill() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.running == nil {
		return
	}
	_ = u.running.Process.Kill()
	<-u.ended
	u.running = nil
}

func (s *site) accepts(machine, port string) func() bool {
	return func() bool {
		c, err := net.DialTimeout("tcp", s.address(machine, port), time.Second)
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	}
}

// redisAnswers is false while it reads its file.
func (s *site) redisAnswers() bool {
	c, err := net.DialTimeout("tcp", s.address(redis, "6379"), time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	answer := make([]byte, 64)
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return false
	}
	if _, err := io.WriteString(c, "PING\r\n"); err != nil {
		return false
	}
	n, _ := c.Read(answer)
	return bytes.HasPrefix(answer[:n], []byte("-NOAUTH"))
}

// decision is a line of a replica's audit log.
type decision struct {
	Event    string `json:"msg"`
	Outcome  string `json:"outcome"`
	Reason   string `json:"reason"`
	Instance string `json:"instance_id"`
	Client   string `json:"client"`
}

func (s *site) decisions(t *testing.T, machine string) []decision {
	t.Helper()
	text, err := os.ReadFile(s.units[machine].out)
	if err != nil {
		t.Fatal(err)
	}
	var all []decision
	for line := range bytes.Lines(text) {
		var d decision
		if err := json.Unmarshal(line, &d); err == nil && d.Event == "decision" { // the last line may be half
			all = append(all, d)
		}
	}
	return all
}

// dump shows what the processes said.
func (s *site) dump(t *testing.T) {
	for m, u := range s.units {
		text, err := os.ReadFile(u.err)
		if m == redis {
			text, err = os.ReadFile(u.out)
		}
		if err != nil {
			continue
		}
		t.Logf("%s on %s said last:\n%s", u.name, m, text[max(0, len(text)-4000):])
		if out, err := os.ReadFile(u.out); err == nil {
			for line := range bytes.Lines(out) {
				if bytes.Contains(line, []byte(`"outcome":"failed"`)) {
					t.Logf("%s on %s failed: %s", u.name, m, line)
				}
			}
		}
	}
}

// instance is a server of the cloud, and speaks from its address.
type instance struct {
	id   string
	addr netip.Addr
}

// newInstance makes one. Addresses are used again: a throttle counts by them.
func (s *site) newInstance() instance {
	s.mu.Lock()
	s.count++
	n := s.count
	s.mu.Unlock()
	i := instance{
		id:   fmt.Sprintf("11111111-aaaa-4aaa-8aaa-%012d", n),
		addr: netip.MustParseAddr(s.net + strconv.Itoa(100+n%150)),
	}
	s.cloud.SetServer(simulator.Server{
		ID: i.id, Name: "web-" + strconv.Itoa(n), Status: "ACTIVE", ProjectID: project, UserID: "821a2eaac0724c069aa6a44bd7b91935",
		Created: time.Now(), Launched: time.Now(), Flavor: "m1.small",
		Addresses: []simulator.Address{{Network: "private", Addr: i.addr.String(), Type: "fixed"}},
	})
	return i
}
