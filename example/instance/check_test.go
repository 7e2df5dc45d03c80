package instance_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
)

// token.sh --check has a line for each thing that it looks at.
func TestCheck(t *testing.T) {
	const (
		answers = "metadata service: answers (status 200) at URL\n"
		inPlace = "limit: in place (5 KB of headers get status 400)\n"
		missing = "limit: missing (5 KB of headers get status %d); Neutron 2025.1 and later need it\n"
		door    = "identity: answers (status 200)\n"
	)
	for _, tt := range []struct {
		name     string
		statuses map[string]int
		limit    int
		status   int
		want     string
	}{
		{"all is well", nil, 3000, 0, answers + inPlace + door},
		{"no limit", nil, 0, 1, answers + fmt.Sprintf(missing, 200) + door},
		{"a limit that is too high", nil, 5000, 1, answers + fmt.Sprintf(missing, 200) + door},
		{"an agent that gives up on long requests", map[string]int{"/": 502}, 0, 1, "metadata service: answers (status 502) at URL\n" + fmt.Sprintf(missing, 502) + door},
		{"Nova is away", map[string]int{"/": 500}, 3000, 75, "metadata service: answers (status 500) at URL\n" + inPlace + door},
		{"400 for all", map[string]int{"/": 400}, 3000, 1,
			"metadata service: refuses a plain request (status 400) at URL\nlimit: unknown (5 KB of headers get status 400)\n" + door},
		{"too often for Neutron", map[string]int{"/": 429}, 0, 75, "metadata service: answers (status 429) at URL\nlimit: unknown (5 KB of headers get status 429)\n" + door},
		{"no authenticator", map[string]int{"/identity/roles": 404}, 3000, 1, answers + inPlace + "identity: not there (status 404)\n"},
		{"denied", map[string]int{"/identity/roles": 403}, 3000, 0, answers + inPlace + "identity: answers and denies (status 403); the audit log of the authenticator has the reason\n"},
		{"too often", map[string]int{"/identity/roles": 409}, 3000, 75, answers + inPlace + "identity: no answer now (status 409)\n"},
		{"not yet", map[string]int{"/identity/roles": 500}, 3000, 75, answers + inPlace + "identity: no answer now (status 500)\n"},
		{"not yet, and no limit", map[string]int{"/identity/roles": 500}, 0, 1, answers + fmt.Sprintf(missing, 200) + "identity: no answer now (status 500)\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.answer(tt.statuses)
			w.mu.Lock()
			w.limit = tt.limit
			w.mu.Unlock()
			status, out, said := w.run(t, nil, "token.sh", "--check")
			if want := strings.ReplaceAll(tt.want, "URL", w.URL); status != tt.status || out != want || said != "" {
				t.Errorf("status %d, %q\n%swant %d\n%s", status, said, out, tt.status, want)
			}
			for _, request := range w.requests() {
				if !strings.HasPrefix(request, "GET /") || strings.Contains(request, "token") {
					t.Errorf("it asked for %s", request)
				}
			}
		})
	}
	t.Run("nothing is there", func(t *testing.T) {
		w := newWorld(t)
		w.Close()
		const want = "metadata service: no answer\nlimit: unknown (5 KB of headers get status 000)\nidentity: no answer now (status 000)\n"
		if status, out, _ := w.run(t, nil, "token.sh", "--check"); status != 75 || out != want {
			t.Errorf("status %d\n%s", status, out)
		}
	})
	t.Run("an unknown option", func(t *testing.T) {
		if status, out, _ := newWorld(t).run(t, nil, "token.sh", "--check", "-x"); status != 2 || out != "" {
			t.Errorf("status %d, %s", status, out)
		}
	})
}

// The limit for operators is seen through a real HAProxy, and so is its lack.
func TestCheckSeesTheLimit(t *testing.T) {
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	if _, err := exec.LookPath("haproxy"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("haproxy is not installed")
		}
		t.Skip("haproxy is not installed")
	}
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	t.Cleanup(agent.Close)
	behind, err := url.Parse(agent.URL)
	if err != nil {
		t.Fatal(err)
	}
	for limits, want := range map[string]int{"../metadata-service/agent-limits/agent-limits.cfg": 0, "": 1} {
		ports, err := awaittest.FreePorts(1, "127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		at := "127.0.0.1:" + ports[0]
		file := filepath.Join(t.TempDir(), "haproxy.cfg")
		text := fmt.Sprintf("defaults\n mode http\n timeout client 9s\n timeout server 9s\n timeout connect 9s\nlisten l\n bind %s\n server agent %s\n", at, behind.Host)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"-db", "-f", file}
		if limits != "" {
			args = append([]string{"-f", limits}, args...)
		}
		ctx, stop := context.WithCancel(t.Context())
		cmd := exec.CommandContext(ctx, "haproxy", args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		awaittest.True(t, "HAProxy", func() bool {
			c, err := net.Dial("tcp", at)
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
		status, out, said := run(t, []string{"METADATA_URL=http://" + at}, "token.sh", "--check")
		if status != want {
			t.Errorf("with %q: status %d, want %d: %s%s", limits, status, want, out, said)
		}
		stop()
		_ = cmd.Wait()
	}
}
