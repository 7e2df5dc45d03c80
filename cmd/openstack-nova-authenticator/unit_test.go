package main

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const unitFile = "../../example/systemd/openstack-nova-authenticator.service"

func unit(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// systemd-analyze does not need a running systemd.
func TestUnitIsKnownToSystemd(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	self, err := os.Executable() // systemd looks for the program
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), filepath.Base(unitFile))
	text := strings.ReplaceAll(unit(t), "/usr/bin/"+program, self)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, analyze, "verify", file).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// The command lines of the unit are valid: only the configuration file is missing.
func TestCommandsOfTheUnit(t *testing.T) {
	lines := regexp.MustCompile(`(?m)^Exec\w+=/usr/bin/`+program+` (.*)$`).FindAllStringSubmatch(unit(t), -1)
	if len(lines) != 2 {
		t.Fatalf("the unit has the commands %q", lines)
	}
	missing := filepath.Join(t.TempDir(), "config.yml")
	for _, line := range lines {
		args := strings.Fields(strings.Replace(line[1], "/etc/"+program+"/config.yml", missing, 1))
		var said strings.Builder
		if code := run(t.Context(), args, io.Discard, &said); code != 1 || !strings.Contains(said.String(), missing+": no such file") {
			t.Errorf("%s: %d %s", line[1], code, said.String())
		}
	}
}
