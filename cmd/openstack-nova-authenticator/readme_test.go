package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// block returns the fenced block of a document that begins with a text.
func block(t *testing.T, document, begins string) string {
	t.Helper()
	text, err := os.ReadFile("../../" + document)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?ms)^```[a-z]+\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		if strings.HasPrefix(m[1], begins) {
			return m[1]
		}
	}
	t.Fatalf("%s has no block that begins with %q", document, begins)
	return ""
}

// volatile matches values that differ between runs of the demo.
var volatile = regexp.MustCompile(`eyJ[A-Za-z0-9_-]+|"expires_at":"[^"]+"|"request_id":"[0-9a-f]+"|"jti": "[A-Z0-9]+"|"(exp|iat|nbf)": [0-9]+|127\.0\.0\.1:[0-9]+`)

// The README shows parts of the demo's output.
func TestReadmeDemo(t *testing.T) {
	var out bytes.Buffer
	if err := demo(t.Context(), &out, true); err != nil {
		t.Fatal(err)
	}
	paragraphs := func(s string) []string {
		return strings.Split(strings.TrimSpace(volatile.ReplaceAllString(s, "~")), "\n\n")
	}
	printed := paragraphs(out.String())
	for _, shown := range paragraphs(block(t, "README.md", "1. ")) {
		found := false
		for i, p := range printed {
			if p == shown {
				printed, found = printed[i+1:], true
				break
			}
		}
		if !found {
			t.Errorf("the demo does not print, in this order:\n%s", shown)
		}
	}
}

// The commands of the README and of docs/api.md lead from an empty folder to a token.
func TestReadmeUsage(t *testing.T) {
	for _, tool := range []string{"openssl", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	example, err := filepath.Abs("../../example")
	if err != nil {
		t.Fatal(err)
	}
	commands := strings.Split(strings.TrimSpace(block(t, "README.md", "sh example/try-out.sh")), "\n")
	if len(commands) != 3 {
		t.Fatalf("want the script, check and the server: %q", commands)
	}
	config := block(t, "README.md", "tls: ")
	clients := map[string]string{
		block(t, "README.md", "curl https://"):   `{"token":"eyJ`,
		block(t, "docs/api.md", "curl https://"): "eyJ",
	}

	cloud, err := scriptCloud()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cloud.Close() }()
	t.Chdir(t.TempDir())
	for name, value := range map[string]string{
		"OS_AUTH_URL": cloud.AuthURL(), "OS_USERNAME": "authenticator", "OS_PASSWORD": "secret-word", "OS_PROJECT_NAME": "service",
		"OS_USER_DOMAIN_NAME": "Default", "OS_PROJECT_DOMAIN_NAME": "Default", "OS_CLOUD": "", "OS_CACERT": "",
	} {
		t.Setenv(name, value)
	}

	script := strings.Replace(commands[0], "example", example, 1)
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	port := freePorts(t, 1)[0]
	config += "listen: 127.0.0.1:" + port + "\nmetrics: {listen: \"\"}\n"
	if err := os.WriteFile("config.yml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, log bytes.Buffer
	if code := run(t.Context(), append(strings.Fields(commands[1])[1:], "--strict"), &out, &log); code != 0 {
		t.Fatalf("check ended with %d\n%s%s", code, out.String(), log.String())
	}

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int)
	go func() { ended <- run(ctx, strings.Fields(commands[2])[1:], &out, &log) }()
	for usage, want := range clients {
		client := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(usage, "curl ", "curl -sS --retry 20 --retry-connrefused --retry-delay 1 ", 1))
		client.Env = append(os.Environ(), "HOST=127.0.0.1:"+port, "INSTANCE_ID="+scriptWeb, "ROLE_NAME=web", "CURL_CA_BUNDLE=server.pem", "NO_PROXY=*")
		client.WaitDelay = time.Second
		var complaints bytes.Buffer // also of attempts before the server listens
		client.Stderr = &complaints
		answer, err := client.Output()
		if err != nil || !strings.HasPrefix(string(answer), want) {
			t.Errorf("%s%v: %s\n%s", usage, err, answer, complaints.String())
		}
	}
	cancel()
	if code := <-ended; code != 0 || t.Failed() {
		t.Errorf("serve ended with %d\n%s", code, log.String())
	}
}

// The commands of docs/operations.md work with a running server.
func TestOperatorsCommands(t *testing.T) {
	t.Parallel()
	r := newSite(t).newReplica(t, "config", 3, "{type: file}")
	r.start(t)
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", block(t, "docs/operations.md", "openstack-nova-authenticator instances list"))
	cmd.Env, cmd.Dir = r.site.env, r.site.dir
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), " is denied until ") || !strings.Contains(string(out), "backup.db has ") {
		t.Errorf("%v\n%s", err, out)
	}
}

// Each of our commands and flags in a document exists.
func TestDocumentsNameCommandsThatExist(t *testing.T) {
	documents, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile("(?m)(?:(?:^|`)" + program + " |`((?:check|demo|instances|keys|state) ))([a-z-][^`\n]*)")
	seen := 0
	for _, document := range append(documents, "../../README.md") {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range command.FindAllStringSubmatch(string(text), -1) {
			seen++
			cmd, rest, err := newRootCommand(io.Discard, io.Discard).Find(strings.Fields(m[1] + strings.ReplaceAll(m[2], "'", "")))
			if err == nil {
				err = cmd.ParseFlags(rest)
			}
			if err == nil && cmd.HasSubCommands() && cmd.HasParent() {
				err = fmt.Errorf("%q is not complete", cmd.CommandPath())
			}
			if err != nil {
				t.Errorf("%s: %s: %v", document, strings.Trim(m[0], "`"), err)
			}
		}
	}
	if seen < 20 {
		t.Errorf("the documents name %d commands", seen)
	}
}
