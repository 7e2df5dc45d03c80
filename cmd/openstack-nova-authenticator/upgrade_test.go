package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state/statetest"
)

// formerRelease is the commit from which an upgrade must work.
const formerRelease = "65ed6e0"

// buildFormer builds the former release. It skips the test without its source.
func buildFormer(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("it builds the former release")
	}
	dir := t.TempDir()
	archive := exec.CommandContext(t.Context(), "git", "archive", "--format=tar", "-o", filepath.Join(dir, "source.tar"), formerRelease)
	archive.Dir = filepath.Join("..", "..")
	if out, err := archive.CombinedOutput(); err != nil {
		t.Skipf("the source of %s is missing: %v: %s", formerRelease, err, out)
	}
	binary := filepath.Join(dir, "former")
	for _, step := range [][]string{{"tar", "xf", "source.tar"}, {"go", "build", "-buildvcs=false", "-o", binary, "./cmd/" + program}} {
		cmd := exec.CommandContext(t.Context(), step[0], step[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", step, err, out)
		}
	}
	return binary
}

// During an upgrade as in example/ha, replicas of the former release see that they are too old,
// publish their keys, sign until maxAge is over, and destroy nothing.
func TestUpgradeOfReplicas(t *testing.T) {
	t.Parallel()
	former := buildFormer(t)
	server := statetest.StartRedis(t)
	s := newSite(t)
	shared := fmt.Sprintf(`{type: redis, redis: {addresses: ["%s"]}}`, server.Addr)
	one, two := s.newReplica(t, "one", 1000, shared), s.newReplica(t, "two", 1000, shared)
	one.program, two.program = former, former
	one.mustCommand(t, "keys", "init")
	one.start(t)
	two.start(t)
	kids := one.kids(t)
	denied := s.newInstance()
	two.mustCommand(t, "instances", "deny", denied, "--reason", "broken into")
	token := one.granted(t, s.newInstance())

	// The first replica is upgraded: it accepts nothing unconfirmed, and logs what to do.
	two.kill()
	two.program = ""
	two.launch(t)
	awaittest.Success(t, "it says what to do", func() error {
		if !strings.Contains(logged(t, two), "keys init --accept") {
			return errors.New("it does not")
		}
		return nil
	})
	if a, err := two.ask(t.Context(), s.newInstance()); err != nil || a.status != http.StatusServiceUnavailable {
		t.Errorf("before it is accepted: %+v, %v", a, err)
	}
	one.granted(t, s.newInstance())
	out, err := two.command(t, "keys", "init", "--accept")
	if err != nil || !strings.Contains(out, "The key set: generation 1, of release 65ed6e0.") {
		t.Fatalf("keys init --accept: %v\n%s", err, out)
	}
	two.verifies(t, two.granted(t, s.newInstance())) // at once
	if diff := cmp.Diff(kids, two.kids(t)); diff != "" {
		t.Errorf("the published keys (-former +this):\n%s", diff)
	}
	if a, err := two.ask(t.Context(), denied); err != nil || a.status != http.StatusForbidden {
		t.Errorf("denied before the upgrade: %+v, %v", a, err)
	}

	// The replica of the former release.
	awaittest.Success(t, "the former one has noticed", func() error {
		if !strings.Contains(logged(t, one), "written by a newer release") {
			return errors.New("it has not")
		}
		return nil
	})
	one.verifies(t, one.granted(t, s.newInstance()))
	if out, err := one.command(t, "keys", "init"); err == nil || !strings.Contains(out, "newer release") {
		t.Errorf("keys init of the former one: %v\n%s", err, out)
	}
	client := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer client.Close()
	began := time.Now()
	for stale := false; !stale; {
		a, err := one.ask(t.Context(), s.newInstance())
		if err != nil {
			t.Fatal(err)
		}
		stale = a.status == http.StatusServiceUnavailable
		if time.Since(began) > 5*time.Minute {
			t.Fatal("the former release still signs, long after maxAge")
		}
		<-time.After(time.Second)
	}
	if v := client.Get(t.Context(), "ona:v:keys").Val(); !strings.HasPrefix(v, "0 nova-authenticator-keys/2 sealed ") {
		t.Errorf("the key set in Redis is %.60q", v)
	}
	if diff := cmp.Diff(kids, one.kids(t)); diff != "" {
		t.Errorf("what the former one publishes:\n%s", diff)
	}
	two.granted(t, s.newInstance())

	// It is upgraded, too, and needs no operator.
	one.kill()
	one.program = ""
	one.start(t)
	one.verifies(t, one.granted(t, s.newInstance()))
	one.verifies(t, token)
	if a, err := one.ask(t.Context(), denied); err != nil || a.status != http.StatusForbidden {
		t.Errorf("denied before the upgrade, at the second: %+v, %v", a, err)
	}
}

// The former release refuses a state file of this one, so a downgrade lifts no denial.
func TestTheFormerReleaseRefusesAStateFile(t *testing.T) {
	t.Parallel()
	former := buildFormer(t)
	s := newSite(t)
	r := s.newReplica(t, "one", 3, "{type: file, file: {path: own.db}}")
	r.program = former
	r.start(t)
	kids := r.kids(t)
	denied := s.newInstance()
	r.mustCommand(t, "instances", "deny", denied)
	r.kill()
	before, err := os.ReadFile(filepath.Join(s.dir, "own.db"))
	if err != nil {
		t.Fatal(err)
	}

	r.program = ""
	r.start(t) // without an operator
	if diff := cmp.Diff(kids, r.kids(t)); diff != "" {
		t.Errorf("the published keys (-former +this):\n%s", diff)
	}
	if a, err := r.ask(t.Context(), denied); err != nil || a.status != http.StatusForbidden {
		t.Errorf("denied before the upgrade: %+v, %v", a, err)
	}
	r.kill()

	r.program = former
	if out, err := r.command(t, "keys", "list"); err == nil {
		t.Errorf("the former release reads it:\n%s", out)
	}
	// The former release reads the file of before, and this one does after state accept.
	if err := os.WriteFile(filepath.Join(s.dir, "own.db"), before, 0o600); err != nil {
		t.Fatal(err)
	}
	r.mustCommand(t, "keys", "list")
	r.program = ""
	if out, err := r.command(t, "keys", "list"); err == nil || !strings.Contains(out, "state accept") {
		t.Errorf("a state that went back: %v\n%s", err, out)
	}
	r.mustCommand(t, "state", "accept")
	r.start(t)
	if diff := cmp.Diff(kids, r.kids(t)); diff != "" {
		t.Errorf("the published keys, accepted (-former +this):\n%s", diff)
	}
}
