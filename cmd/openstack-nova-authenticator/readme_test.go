package main

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const readme = "../../README.md"

// codeBlocks gives the fenced blocks of the README in a language.
func codeBlocks(t *testing.T, language string) []string {
	t.Helper()
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllSubmatch(text, -1) {
		blocks = append(blocks, string(m[1]))
	}
	return blocks
}

// Every command that the README shows is known to one of these tests.
func TestReadmeCommandsAreKnown(t *testing.T) {
	want := []string{
		"curl -X PUT 'http://169.254.169.254/identity/token?role=web&audience=https://vault.example.com'\n", // example/lab, in an instance
		"go run ./cmd/openstack-nova-authenticator demo\n",                                                  // TestReadmeDemo
		"go install github.com/openstack-nova-authenticator/openstack-nova-authenticator/cmd/openstack-nova-authenticator@latest\n",
		codeBlocks(t, "sh")[3], // cosign, which the release workflow runs
		"sh example/try-out.sh .\nopenstack-nova-authenticator check -c config.yml --online\nopenstack-nova-authenticator -c config.yml\n", // TestReadmeUsage
		"curl https://${HOST}/auth -d \"instance_id=${INSTANCE_ID}&role=${ROLE_NAME}\"\n",                                                  // TestReadmeUsage
		codeBlocks(t, "sh")[6], // TestReadmeOperation
		"go test ./...\n",      // .ci/run
	}
	if diff := cmp.Diff(want, codeBlocks(t, "sh")); diff != "" {
		t.Errorf("the README's commands (-tested +shown):\n%s", diff)
	}
}

// volatile is what differs from one run of the demo to the next.
var volatile = regexp.MustCompile(`eyJ[A-Za-z0-9_-]+|"expires_at":"[^"]+"|"request_id":"[0-9a-f]+"|"jti": "[A-Z0-9]+"|"(exp|iat|nbf)": [0-9]+|127\.0\.0\.1:[0-9]+`)

// The output that the README shows is the demo's, with parts left out.
func TestReadmeDemo(t *testing.T) {
	var out bytes.Buffer
	if err := demo(t.Context(), &out, true); err != nil {
		t.Fatal(err)
	}
	paragraphs := func(s string) []string {
		return strings.Split(strings.TrimSpace(volatile.ReplaceAllString(s, "~")), "\n\n")
	}
	printed := paragraphs(out.String())
	for _, shown := range paragraphs(codeBlocks(t, "text")[0]) {
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

// What the README tells to do, from an empty folder to a token.
func TestReadmeUsage(t *testing.T) {
	for _, tool := range []string{"openssl", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	script, err := filepath.Abs("../../example/try-out.sh")
	if err != nil {
		t.Fatal(err)
	}
	usage, config := codeBlocks(t, "sh")[5], codeBlocks(t, "yaml")[0]

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

	if out, err := exec.CommandContext(t.Context(), "sh", script, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	config += "listen: 127.0.0.1:" + port + "\nmetrics: {listen: \"\"}\n"
	if err := os.WriteFile("config.yml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, log bytes.Buffer
	if code := run(t.Context(), []string{"check", "-c", "config.yml", "--online", "--strict"}, &out, &log); code != 0 {
		t.Fatalf("check ended with %d\n%s%s", code, out.String(), log.String())
	}

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int)
	go func() { ended <- run(ctx, []string{"-c", "config.yml"}, &out, &log) }()
	client := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(strings.TrimSpace(usage), "curl ", "curl -sS --retry 20 --retry-connrefused --retry-delay 1 ", 1))
	client.Env = append(os.Environ(), "HOST=127.0.0.1:"+port, "INSTANCE_ID="+scriptWeb, "ROLE_NAME=web", "CURL_CA_BUNDLE=server.pem", "NO_PROXY=*")
	client.WaitDelay = time.Second
	var complaints bytes.Buffer // of the tries before the server listened, too
	client.Stderr = &complaints
	answer, err := client.Output()
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("serve ended with %d\n%s", code, log.String())
	}
	if err != nil || !strings.HasPrefix(string(answer), `{"token":"eyJ`) {
		t.Errorf("%v: %s\n%s\n%s", err, answer, complaints.String(), log.String())
	}
}

// The operator's commands, at a server that runs.
func TestReadmeOperation(t *testing.T) {
	t.Parallel()
	r := newSite(t).newReplica(t, "config", 3, "{type: file}")
	r.start(t)
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", codeBlocks(t, "sh")[6])
	cmd.Env, cmd.Dir = r.site.env, r.site.dir
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), " is denied until ") || !strings.Contains(string(out), "backup.db has ") {
		t.Errorf("%v\n%s", err, out)
	}
}

// Each test that SECURITY.md names is there.
func TestSecurityNamesTests(t *testing.T) {
	text, err := os.ReadFile("../../.github/SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	err = filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(source, -1) {
			known[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(string(text), -1)
	if len(named) < 20 {
		t.Errorf("it names %d tests", len(named))
	}
	for _, m := range named {
		if !known[m[1]] {
			t.Errorf("there is no %s", m[1])
		}
	}
}
