//go:build agents

// Package agents_test puts Neutron's own metadata agents, of several releases and each with the haproxy that it configures
// and starts, between guests in network namespaces and the authenticator's binary. See README.md.
package agents_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/venvtest"
)

// release is a release of OpenStack. locks/NAME.txt has its Neutron.
type release struct {
	name string
	// wsgi agents pass the body of 200 on alone, and read requests to their end.
	wsgi bool
	// identified: the agent identifies an instance without the limit.
	identified bool
}

var releases = []release{
	{name: "zed", wsgi: true, identified: true},
	{name: "2024.2", wsgi: true, identified: true},
	{name: "2025.1"},
	{name: "2025.2"},
	{name: "2026.1"},
	{name: "2026.2"},
}

// kinds are the agents of OVN and of all other drivers.
var kinds = []string{"ovn", "plain"}

var (
	workDir string // the binary
	pythons = map[string]string{}
)

// AGENTS names the releases to run, separated by commas. All by default.
func chosen() ([]release, error) {
	names := os.Getenv("AGENTS")
	if names == "" {
		return releases, nil
	}
	var found []release
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(releases, func(r release) bool { return r.name == name })
		if i < 0 {
			return nil, fmt.Errorf("AGENTS: %q is not a release", name)
		}
		found = append(found, releases[i])
	}
	return found, nil
}

func TestMain(m *testing.M) {
	code, err := prepare(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "agents:", err)
	}
	os.Exit(code) //nolint:forbidigo // a TestMain has no other way to fail
}

func prepare(m *testing.M) (int, error) {
	if os.Getuid() != 0 {
		return 1, fmt.Errorf("the tests need root, for network namespaces")
	}
	removeLeftovers()
	wanted, err := chosen()
	if err != nil {
		return 1, err
	}
	if workDir, err = os.MkdirTemp("", "agents-"); err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(workDir) }()
	build := exec.Command("go", "build", "-race", "-o", authenticator(), "../../../cmd/openstack-nova-authenticator")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("%s: %w\n%s", strings.Join(build.Args, " "), err, out)
	}
	var installs errgroup.Group
	installs.SetLimit(2)
	var mu sync.Mutex
	for _, r := range wanted {
		installs.Go(func() error {
			python, err := venvtest.Python(context.Background(), filepath.Join("locks", r.name+".txt"), "neutron")
			if err != nil {
				return fmt.Errorf("neutron of %s: %w", r.name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			pythons[r.name] = python
			return nil
		})
	}
	if err := installs.Wait(); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

func authenticator() string { return filepath.Join(workDir, "openstack-nova-authenticator") }

// eachAgent runs a test for each chosen release and kind.
func eachAgent(t *testing.T, test func(t *testing.T, r release, kind string)) {
	t.Helper()
	wanted, err := chosen()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range wanted {
		for _, kind := range kinds {
			t.Run(r.name+"/"+kind, func(t *testing.T) { test(t, r, kind) })
		}
	}
}
