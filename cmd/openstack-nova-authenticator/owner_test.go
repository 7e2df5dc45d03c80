package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const (
	otherUser = 65534 // a user of this host
	sudoer    = 65533 // another, who may call sudo
)

// Root refuses a configuration that another user could have written: it could make root write
// where that user cannot.
func TestRootRefusesConfigurationsOfOtherUsers(t *testing.T) {
	startsProcesses(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root, to act as several users")
	}
	const inOwnFolder = "auth: {tokenIssuer: https://id.example.com}\nroles: {web: {projectID: a}}\nadmin: {socket: ./admin.sock}\naudit: {output: ./victim}\n"
	chown := func(t *testing.T, uid int, paths ...string) {
		for _, path := range paths {
			if err := os.Lchown(path, uid, uid); err != nil {
				t.Fatal(err)
			}
		}
	}
	chmod := func(t *testing.T, path string, mode os.FileMode) {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	link := func(t *testing.T, from, to string) {
		if err := os.Symlink(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name string
		edit func(t *testing.T, dir string)
		env  string
		want string // in the message, "" if the command works
	}{
		{"all is root's", func(*testing.T, string) {}, "", ""},
		{"a configuration of another user", func(t *testing.T, dir string) { chown(t, otherUser, dir+"/config.yml") }, "", "config.yml belongs to the user with the ID 65534"},
		{"a configuration of the user who called sudo", func(t *testing.T, dir string) { chown(t, sudoer, dir, dir+"/config.yml") }, "SUDO_UID=65533", ""},
		{"a configuration of another user than the one who called sudo", func(t *testing.T, dir string) { chown(t, otherUser, dir+"/config.yml") }, "SUDO_UID=65533", "config.yml belongs to the user with the ID 65534"},
		{"a nonsense SUDO_UID", func(t *testing.T, dir string) { chown(t, otherUser, dir+"/config.yml") }, "SUDO_UID=65534x", "config.yml belongs to"},
		{"root's configuration that all can write", func(t *testing.T, dir string) { chmod(t, dir+"/config.yml", 0o666) }, "", "config.yml can be changed by every user"},
		{"root's configuration in another user's folder", func(t *testing.T, dir string) { chown(t, otherUser, dir) }, "", "belongs to the user with the ID 65534"},
		{"root's configuration in a folder that all can write to", func(t *testing.T, dir string) { chmod(t, dir, 0o777|os.ModeSticky) }, "", "which every user of this host can write to"},
		{"a link to root's configuration in another user's folder", func(t *testing.T, dir string) {
			// Relative paths in it would be in the other user's folder.
			if err := os.Mkdir(dir+"/etc", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(dir+"/config.yml", dir+"/etc/config.yml"); err != nil {
				t.Fatal(err)
			}
			link(t, "etc/config.yml", dir+"/config.yml")
			chown(t, otherUser, dir)
		}, "", "belongs to the user with the ID 65534"},
		{"a folder below one of another user", func(t *testing.T, dir string) { chown(t, otherUser, filepath.Dir(dir)) }, "", "belongs to the user with the ID 65534"},
		{"a folder below one that all can write to", func(t *testing.T, dir string) { chmod(t, filepath.Dir(dir), 0o777) }, "", "which every user of this host can write to"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parent := filepath.Join(t.TempDir(), "a")
			dir := filepath.Join(parent, "b")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(dir+"/config.yml", []byte(inOwnFolder+"state: {type: file, file: {path: ./state.db}}\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			tt.edit(t, dir)
			for _, args := range [][]string{{"instances", "list"}, {"check"}, {}} {
				if len(args) == 0 && tt.want == "" {
					continue // the server would run
				}
				cmd := exec.CommandContext(t.Context(), program, args...)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "SUDO_UID=", tt.env, "OS_AUTH_URL=http://127.0.0.1:1/v3", "OS_USERNAME=a", "OS_PASSWORD=b", "OS_PROJECT_NAME=c")
				out, err := cmd.CombinedOutput()
				switch {
				case tt.want != "" && (err == nil || !strings.Contains(string(out), tt.want)):
					t.Errorf("%v: %v, want %q:\n%s", args, err, tt.want, out)
				case tt.want == "" && args[0] == "check" && err != nil:
					t.Errorf("%v: %v:\n%s", args, err, out)
				case tt.want == "" && strings.Contains(string(out), "does not act on"):
					t.Errorf("%v is refused:\n%s", args, out)
				}
				if _, err := os.Lstat(dir + "/victim"); err == nil && tt.want != "" {
					t.Errorf("%v wrote a file that another user's configuration names", args)
				}
			}
			// Other users may use their own files.
			cmd := exec.CommandContext(t.Context(), program, "check")
			cmd.Dir = dir
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUser, Gid: otherUser}}
			cmd.Env = append(os.Environ(), "OS_AUTH_URL=http://127.0.0.1:1/v3", "OS_USERNAME=a", "OS_PASSWORD=b", "OS_PROJECT_NAME=c")
			if out, _ := cmd.CombinedOutput(); strings.Contains(string(out), "does not act on") {
				t.Errorf("another user is refused:\n%s", out)
			}
		})
	}
}

func TestRootRefusesSocketsOfOtherUsers(t *testing.T) {
	startsProcesses(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root, to act as several users")
	}
	for _, tt := range []struct {
		name           string
		folder, socket int // the owners
		mode           os.FileMode
		sudo           string
		want           string
	}{
		{"root's", 0, 0, 0o755, "", ""},
		{"the service's, as systemd makes it", otherUser, otherUser, 0o755, "", ""},
		{"root's in the service's folder", otherUser, 0, 0o755, "", ""},
		{"of the user who called sudo", 0, sudoer, 0o755, "65533", ""},
		{"another user's in root's folder", 0, otherUser, 0o755, "", "belongs to the user with the ID 65534"},
		{"another user's in the service's folder", sudoer, otherUser, 0o755, "", "belongs to the user with the ID 65534"},
		{"root's in a folder that all can write to", 0, 0, 0o777, "", "which every user of this host can write to"},
		{"root's in a folder as /tmp is", 0, 0, 0o777 | os.ModeSticky, "", "which every user of this host can write to"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			run := filepath.Join(dir, "run")
			if err := os.Mkdir(run, 0o755); err != nil {
				t.Fatal(err)
			}
			config := filepath.Join(dir, "config.yml")
			if err := os.WriteFile(config, []byte("auth: {tokenIssuer: https://id.example.com}\nroles: {web: {projectID: a}}\nadmin: {socket: ./run/admin.sock}\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("unix", filepath.Join(run, "admin.sock"))
			if err != nil {
				t.Fatal(err)
			}
			asked := make(chan struct{}, 10)
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				asked <- struct{}{}
				_, _ = io.WriteString(w, `{"instances": []}`)
			})}
			go func() { _ = server.Serve(l) }()
			t.Cleanup(func() { _ = server.Close() })
			if err := os.Chown(filepath.Join(run, "admin.sock"), tt.socket, tt.socket); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(run, tt.folder, tt.folder); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(run, tt.mode); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), program, "-c", config, "instances", "list")
			cmd.Env = append(os.Environ(), "SUDO_UID="+tt.sudo)
			out, err := cmd.CombinedOutput()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(string(out), tt.want)) {
				t.Errorf("%v, want %q:\n%s", err, tt.want, out)
			}
			if got := len(asked) > 0; got != (tt.want == "") {
				t.Errorf("the server was asked: %v", got)
			}
		})
	}
}
