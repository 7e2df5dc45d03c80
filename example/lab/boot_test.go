//go:build lab

package lab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
)

// machine is an instance with a system in it: systemd and cloud-init, as its image
// would have them.
type machine struct{ pid string }

// boot boots an instance, until the test ends.
func boot(t *testing.T, server string) machine {
	t.Helper()
	dir, err := os.MkdirTemp(workDir, "boot-") //nolint:usetesting // its name is the machine's
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd := exec.Command("./instance", server, "lib/boot", dir)
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	var failure error
	go func() {
		defer close(ended)
		failure = cmd.Wait()
	}()
	var m machine
	t.Cleanup(func() {
		if t.Failed() && m.pid != "" {
			log, _ := m.run("journalctl", "--no-pager", "-n", "50")
			t.Logf("the machine's journal:\n%s", log)
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	})
	awaittest.Within(t, time.Minute, "system in "+server, func() bool {
		select {
		case <-ended:
			t.Fatalf("boot: %v\n%s", failure, said.String())
		default:
		}
		pid, err := os.ReadFile(filepath.Join(dir, "pid"))
		if err != nil {
			return false
		}
		m.pid = strings.TrimSpace(string(pid))
		state, _ := m.run("systemctl", "is-system-running")
		return state == "running\n"
	})
	return m
}

// run runs a command there.
func (m machine) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "nsenter", append([]string{"--all", "--target", m.pid}, args...)...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, exit.Stderr)
	}
	return string(out), err
}

func (m machine) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := m.run(args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// read waits for a file of the machine's.
func (m machine) read(t *testing.T, file string) string {
	t.Helper()
	var text []byte
	awaittest.Within(t, 90*time.Second, file, func() (done bool) {
		var err error
		text, err = os.ReadFile(filepath.Join("/proc", m.pid, "root", file))
		return err == nil
	})
	return strings.TrimSpace(string(text))
}

// The user data of the example, in Nova, read by Debian's cloud-init, under
// systemd: the instance keeps a token of its own, and trusts our certificate.
func TestInstanceWithTheUserData(t *testing.T) {
	doors(t, "")
	agentOfOurs(t)
	start(t, config{cloud: "authenticator"})
	const vault = "https://vault.example.com"
	url := fmt.Sprintf("https://[%s]:%s", facts.Outside["v6"], outsidePort)
	userData, err := exec.Command("sh", "../instance/user-data.sh", "-r", "agent", "-a", vault, "-u", url, "-c", filepath.Join(workDir, "server.pem")).Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderrOf(err))
	}
	demo := login(t, "demo")
	id := demo.launch(t, servers.CreateOpts{Name: "from-user-data", UserData: userData})
	demo.await(t, id, "ACTIVE")
	deb, err := filepath.Glob(filepath.Join(cloudInitPackage(t), "cloud-init_*.deb"))
	if err != nil || len(deb) != 1 {
		t.Fatal(deb, err)
	}

	m := boot(t, id)
	script(t, "cp", deb[0], filepath.Join("/proc", m.pid, "root/run/cloud-init.deb"))
	m.must(t, "dpkg", "--unpack", "--force-depends", "/run/cloud-init.deb")
	// Of its modules those that the user data is for: the others set up what an
	// overlay on somebody else's files should not have, such as accounts.
	settings := `datasource_list: [OpenStack]
datasource: {OpenStack: {apply_network_config: false}}
network: {config: disabled}
cloud_init_modules: [write-files, ca-certs]
cloud_config_modules: [runcmd]
cloud_final_modules: [scripts-user]
`
	if err := os.WriteFile(filepath.Join("/proc", m.pid, "root/etc/cloud/cloud.cfg.d/99-lab.cfg"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	m.must(t, "cloud-init", "init")
	m.must(t, "cloud-init", "modules", "--mode", "config")
	m.must(t, "cloud-init", "modules", "--mode", "final")

	const file = "/run/instance-token/token"
	first := m.read(t, file)
	if sub := payload(t, first)["sub"]; sub != id {
		t.Errorf("the token is of %v", sub)
	}
	verify(t, first, vault)
	if got := m.must(t, "stat", "-c", "%a %U", filepath.Dir(file), file); got != "700 root\n600 root\n" {
		t.Errorf("who may read it: %s", got)
	}
	if got := m.must(t, "systemctl", "show", "instance-token.timer", "-p", "ActiveState,UnitFileState"); got != "ActiveState=active\nUnitFileState=enabled\n" {
		t.Errorf("the timer: %s", got)
	}
	m.must(t, "systemctl", "start", "instance-token.service")
	if again := m.read(t, file); payload(t, again)["jti"] == payload(t, first)["jti"] {
		t.Error("the token is not a new one")
	}
	if got := m.must(t, "systemctl", "show", "instance-token.timer", "-p", "NextElapseUSecMonotonic"); strings.Contains(got, "infinity") {
		t.Errorf("the timer's next time: %s", got)
	}

	// By the CA of the user data, and by nothing that was there before.
	near := m.must(t, "sh", "-ec", "export $(cat /etc/instance-token.conf); token.sh -r any -a '' -w address")
	if sub := payload(t, strings.TrimSpace(near))["sub"]; sub != id {
		t.Errorf("by address: the token is of %v", sub)
	}
	if out, err := exec.Command("./instance", id, "curl", "-sS", url+"/.well-known/jwks.json").CombinedOutput(); err == nil {
		t.Errorf("the certificate is trusted without it: %s", out)
	}
}
