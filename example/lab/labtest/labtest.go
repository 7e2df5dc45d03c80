//go:build lab

// Package labtest is for tests that run on a cloud which example/lab/up has started: what differs between the clouds, and
// the way into the network namespace that some of them live in.
package labtest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// Cloud is one of the clouds of example/lab. $OPENSTACK_LAB names it, as for the scripts.
type Cloud struct {
	Name      string
	StateDir  string // its files: clouds.yaml, demo.json, run, etc, log, and bin with its commands python and openstack
	Namespace string // of the instances' outside
	// Own is set where all services listen in Namespace rather than on the machine's loopback.
	Own bool

	Agent        string   // Neutron's metadata agent, a service of example/lab/up
	NovaAPI      []string // the services with Nova's compute and metadata APIs
	Microversion string   // the newest of Nova
	// AgentLimits is set where the agent's haproxies have the limit of example/metadata-service/agent-limits.
	AgentLimits      bool
	MetadataOverIPv6 bool // the metadata service is at fe80::a9fe:a9fe, too
	NoAnswer         int  // what the agent answers when Nova's metadata API fails: it has a bare 500, or closes the connection
}

// Selected returns the cloud that $OPENSTACK_LAB and $OPENSTACK_STATE name, by default Zed's.
func Selected() (Cloud, error) {
	var c Cloud
	switch name := os.Getenv("OPENSTACK_LAB"); name {
	case "", "zed":
		c = Cloud{
			Name: "zed", StateDir: "/tmp/openstack-lab", Namespace: "oslab",
			Agent: "metadata-agent", NovaAPI: []string{"nova-api"}, Microversion: "2.93", NoAnswer: http.StatusInternalServerError,
		}
	case "2026.1":
		c = Cloud{
			Name: "2026.1", StateDir: "/tmp/openstack-lab-2026.1", Namespace: "oslab-2026.1", Own: true,
			Agent: "ovn-agent", NovaAPI: []string{"nova-api", "nova-metadata"}, Microversion: "2.103",
			AgentLimits: true, MetadataOverIPv6: true, NoAnswer: http.StatusServiceUnavailable,
		}
	default:
		return c, fmt.Errorf("OPENSTACK_LAB is %q; the clouds are zed and 2026.1", name)
	}
	if dir := os.Getenv("OPENSTACK_STATE"); dir != "" {
		c.StateDir = dir
	}
	if _, err := os.Stat(filepath.Join(c.StateDir, "demo.json")); err != nil {
		return c, fmt.Errorf("the lab is not up (run example/lab/up %s, as root): %w", c.Name, err)
	}
	return c, nil
}

// machineVariable has the number of a file of this process that is the network namespace of the machine.
const machineVariable = "ONA_LAB_MACHINE"

// Entered reports whether the process is where the services listen.
func (c Cloud) Entered() bool { return !c.Own || os.Getenv(machineVariable) != "" }

// Enter starts the test binary once more where the services listen, in place of this process. It returns only if that
// failed.
func (c Cloud) Enter() error {
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	machine, err := syscall.Open("/proc/self/ns/net", syscall.O_RDONLY, 0) // stays open
	if err != nil {
		return fmt.Errorf("/proc/self/ns/net: %w", err)
	}
	if err := os.Setenv(machineVariable, strconv.Itoa(machine)); err != nil {
		return err
	}
	args := append([]string{nsenter, "--net=/run/netns/" + c.Namespace, self}, os.Args[1:]...)
	return fmt.Errorf("%s: %w", nsenter, syscall.Exec(nsenter, args, os.Environ())) //nolint:gosec // itself
}

// AtMachine returns a command that runs in the machine's own network, for what needs a mirror of packages, or the cloud
// from outside.
func (c Cloud) AtMachine(ctx context.Context, command string, args ...string) *exec.Cmd {
	if machine := os.Getenv(machineVariable); c.Own && machine != "" {
		args = append([]string{fmt.Sprintf("--net=/proc/%d/fd/%s", os.Getpid(), machine), command}, args...)
		command = "nsenter"
	}
	return exec.CommandContext(ctx, command, args...) //nolint:gosec // of the tests
}
