package instance_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
)

const jwt = "aaa.bbb.ccc"

// world is what an instance can reach: a metadata service and a server, in one.
type world struct {
	*httptest.Server
	mu       sync.Mutex
	asked    []string
	statuses map[string]int // by path
	limit    int            // headers longer than this get 400; 0: none
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{}
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.mu.Lock()
		w.asked = append(w.asked, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", r.Method, r.RequestURI, r.Header.Get("Authorization"), body)))
		status := w.statuses[r.URL.Path]
		if length := len(r.Header.Get("X-Pad")); w.limit > 0 && length > w.limit {
			status = http.StatusBadRequest
		}
		w.mu.Unlock()
		if status != 0 {
			rw.WriteHeader(status)
			return
		}
		switch r.URL.Path {
		case "/":
		case "/identity/roles":
			_, _ = io.WriteString(rw, `{"roles":["web"]}`)
		case "/identity/token", "/auth":
			_, _ = io.WriteString(rw, jwt)
		case "/openstack/latest/vendor_data2.json":
			_, _ = io.WriteString(rw, `{"static": {"document": "x"}, "other": {"a": 1}, "instance_identity": {"expires_at": "z", "document": "d.o.c"}}`)
		case "/openstack/latest/meta_data.json":
			_, _ = io.WriteString(rw, `{"name": "web-1", "uuid": "11111111-aaaa-4aaa-8aaa-000000000001"}`)
		case "/v1/auth/jwt/login":
			_, _ = io.WriteString(rw, `{"auth": {"client_token": "hvs.x", "policies": ["a"]}}`)
		case "/v3/OS-FEDERATION/identity_providers/nova-authenticator/protocols/openid/auth":
			rw.Header().Set("X-Subject-Token", "unscoped")
			rw.WriteHeader(http.StatusCreated)
		case "/v3/auth/tokens":
			rw.Header().Set("X-Subject-Token", "scoped")
			rw.WriteHeader(http.StatusCreated)
		default:
			rw.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(w.Close)
	return w
}

// run runs a script in this world.
func (w *world) run(t *testing.T, env []string, script string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	return run(t, append([]string{"METADATA_URL=" + w.URL}, env...), script, args...)
}

// run runs a script with a plain shell, and gives its exit status.
func run(t *testing.T, env []string, script string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	shell := "sh"
	if dash, err := exec.LookPath("dash"); err == nil {
		shell = dash
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, shell, append([]string{script}, args...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "NO_PROXY=*", "TMPDIR=" + t.TempDir()}, env...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), said.String()
}

// answer has paths answer with a status alone.
func (w *world) answer(statuses map[string]int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.statuses = statuses
}

func (w *world) requests() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.asked)
}

func TestToken(t *testing.T) {
	const (
		put       = "/identity/token"
		vendor    = "/openstack/latest/vendor_data2.json"
		meta      = "/openstack/latest/meta_data.json"
		byService = "PUT /identity/token?format=token&role=web"
	)
	tests := []struct {
		name     string
		args     []string
		statuses map[string]int
		status   int
		asked    []string
	}{
		{"from the metadata service", []string{"-r", "web"}, nil, 0, []string{byService}},
		{"for an audience", []string{"-r", "web", "-a", "https://vault.example.com/a?b=c&d=e"}, nil, 0,
			[]string{byService + "&audience=https%3A%2F%2Fvault.example.com%2Fa%3Fb%3Dc%26d%3De"}},
		{"else with the document", []string{"-r", "web", "-u", "URL"}, map[string]int{put: 404}, 0,
			[]string{byService, "GET " + vendor, "POST /auth  role=web&format=token&document=d.o.c"}},
		{"else by address", []string{"-r", "web", "-u", "URL/", "-a", "x/y"}, map[string]int{put: 404, vendor: 404}, 0,
			[]string{byService + "&audience=x%2Fy", "GET " + vendor, "GET " + meta, "POST /auth  role=web&format=token&audience=x%2Fy&instance_id=11111111-aaaa-4aaa-8aaa-000000000001"}},
		{"in one way alone", []string{"-r", "web", "-u", "URL", "-w", "address"}, nil, 0,
			[]string{"GET " + meta, "POST /auth  role=web&format=token&instance_id=11111111-aaaa-4aaa-8aaa-000000000001"}},
		{"refused everywhere", []string{"-r", "web", "-u", "URL"}, map[string]int{put: 403, "/auth": 403}, 1, nil},
		{"not yet", []string{"-r", "web", "-u", "URL"}, map[string]int{put: 500, "/auth": 503}, 75, nil},
		{"too often", []string{"-r", "web", "-w", "metadata"}, map[string]int{put: 409}, 75, nil},
		{"without a role", nil, nil, 2, nil},
		{"an unknown way", []string{"-r", "web", "-w", "luck"}, nil, 2, nil},
		{"an unknown option", []string{"-x"}, nil, 2, nil},
		{"a word too many", []string{"-r", "web", "more"}, nil, 2, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.answer(tt.statuses)
			args := slices.Clone(tt.args)
			for i := range args {
				args[i] = strings.Replace(args[i], "URL", w.URL, 1)
			}
			status, out, said := w.run(t, nil, "token.sh", args...)
			if status != tt.status || (status == 0) != (out == jwt+"\n") {
				t.Errorf("status %d, %q, %q, want %d", status, out, said, tt.status)
			}
			if tt.asked != nil && strings.Join(w.requests(), "\n") != strings.Join(tt.asked, "\n") {
				t.Errorf("it asked\n%s\nwant\n%s", strings.Join(w.requests(), "\n"), strings.Join(tt.asked, "\n"))
			}
		})
	}
	t.Run("no server is there", func(t *testing.T) {
		w := newWorld(t)
		w.Close()
		if status, _, said := w.run(t, nil, "token.sh", "-r", "web"); status != 75 {
			t.Errorf("status %d, %s", status, said)
		}
	})
	t.Run("its help", func(t *testing.T) {
		if status, out, _ := newWorld(t).run(t, nil, "token.sh", "--help"); status != 0 || !strings.Contains(out, "-r ROLE") || strings.Contains(out, "umask") {
			t.Errorf("status %d: %s", status, out)
		}
	})
}

// A reader of the file finds a whole token, and only its owner can read it.
func TestTokenInAFile(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "token")
	env := []string{"ROLE=web", "WAYS=metadata"}
	for range 2 {
		if status, out, said := w.run(t, env, "token.sh", "-o", file); status != 0 || out != "" {
			t.Fatalf("status %d, %q, %s", status, out, said)
		}
		data, err := os.ReadFile(file)
		info, statErr := os.Stat(file)
		if err != nil || statErr != nil || string(data) != jwt+"\n" || info.Mode().Perm() != 0o600 {
			t.Errorf("%q, mode %v, %v", data, info.Mode(), err)
		}
	}
	w.answer(map[string]int{"/identity/token": 403})
	if status, _, _ := w.run(t, env, "token.sh", "-o", file); status != 1 {
		t.Errorf("status %d", status)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != jwt+"\n" {
		t.Errorf("a refusal took the last one away: %q, %v", data, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("it leaves %v, %v", left, err)
	}
}

// Nothing of the environment leads a request elsewhere: behind a proxy is the
// metadata service of another machine, which would give its own identity.
func TestProxiesAreIgnored(t *testing.T) {
	proxied := make(chan string, 100)
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		proxied <- r.Method + " " + r.RequestURI
		rw.Header().Set("X-Subject-Token", "of-the-proxy")
		_, _ = io.WriteString(rw, "aaa.of-the-proxy.ccc")
	}))
	t.Cleanup(proxy.Close)
	w := newWorld(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	for name, text := range map[string]string{"token": jwt + "\n", ".curlrc": "proxy = \"" + proxy.URL + "\"\nlocation\nnoproxy = \"\"\ninsecure\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var variables []string
	for _, name := range []string{"http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		variables = append(variables, name+"="+proxy.URL)
	}
	variables = append(variables, "no_proxy=", "NO_PROXY=")
	for name, env := range map[string][]string{
		"variables":           variables,
		"no_proxy elsewhere":  append(slices.Clone(variables), "no_proxy=example.com", "NO_PROXY=example.com"),
		"HOME/.curlrc":        {"HOME=" + dir, "NO_PROXY=", "no_proxy="},
		"CURL_HOME/.curlrc":   {"CURL_HOME=" + dir, "NO_PROXY=", "no_proxy="},
		".curlrc and a proxy": append(slices.Clone(variables), "HOME="+dir, "CURL_HOME="+dir),
	} {
		t.Run(name, func(t *testing.T) {
			for _, tt := range []struct {
				want string
				args []string
			}{
				{jwt, []string{"token.sh", "-r", "web", "-w", "metadata"}},
				{jwt, []string{"token.sh", "-r", "web", "-w", "document", "-u", w.URL}},
				{jwt, []string{"token.sh", "-r", "web", "-w", "address", "-u", w.URL}},
				{"hvs.x", []string{"vault-login.sh", "-a", w.URL, "-r", "web", "-t", file}},
				{"scoped", []string{"keystone-token.sh", "-k", w.URL + "/v3", "-p", "project", "-t", file}},
			} {
				if status, out, said := w.run(t, env, tt.args[0], tt.args[1:]...); status != 0 || out != tt.want+"\n" {
					t.Errorf("%v: status %d, %q, %q", tt.args, status, out, said)
				}
			}
			select {
			case got := <-proxied:
				t.Errorf("the proxy was asked: %s", got)
			default:
			}
		})
	}
}

// Redirects lead to what somebody else names.
func TestRedirectsAreNotFollowed(t *testing.T) {
	elsewhere := make(chan string, 100)
	other := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		elsewhere <- r.Method + " " + r.RequestURI
		rw.Header().Set("X-Subject-Token", "elsewhere")
		_, _ = io.WriteString(rw, jwt)
	}))
	t.Cleanup(other.Close)
	redirecting := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, other.URL, http.StatusTemporaryRedirect)
	}))
	t.Cleanup(redirecting.Close)
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	if err := errors.Join(os.WriteFile(file, []byte(jwt+"\n"), 0o600), os.WriteFile(filepath.Join(dir, ".curlrc"), []byte("location\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"token.sh", "-r", "web", "-u", redirecting.URL},
		{"vault-login.sh", "-a", redirecting.URL, "-r", "web", "-t", file},
		{"keystone-token.sh", "-k", redirecting.URL, "-p", "project", "-t", file},
	} {
		if status, out, _ := run(t, []string{"METADATA_URL=" + redirecting.URL, "HOME=" + dir}, args[0], args[1:]...); status == 0 || out != "" {
			t.Errorf("%s: status %d, %q", args[0], status, out)
		}
	}
	select {
	case got := <-elsewhere:
		t.Errorf("a redirect was followed: %s", got)
	default:
	}
}

// What could be an option of curl, a file, several URLs or more than one value is
// refused before anything is asked.
func TestOddValues(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	file, odd := filepath.Join(dir, "token"), filepath.Join(dir, "odd")
	if err := errors.Join(os.WriteFile(file, []byte(jwt+"\n"), 0o600), os.WriteFile(odd, []byte(`a"`+"\nurl = \"http://192.0.2.1/\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		env, args []string
	}{
		{nil, []string{"token.sh", "-r", "web", "-u", "-K/etc/passwd"}},
		{nil, []string{"token.sh", "-r", "web", "-u", "file:///etc/passwd"}},
		{nil, []string{"token.sh", "-r", "web", "-u", "id.example.com"}},
		{nil, []string{"token.sh", "-r", "web", "-u", "https://{a,b}.example.com"}},
		{nil, []string{"token.sh", "-r", "web", "-u", "https://a.example.com\nhttps://b.example.com"}},
		{nil, []string{"token.sh", "-r", "w b"}},
		{nil, []string{"token.sh", "-r", "w\u00e9b"}},
		{nil, []string{"token.sh", "-r", "web", "-a", "a\nb"}},
		{[]string{"METADATA_URL=-Kx"}, []string{"token.sh", "-r", "web"}},
		{[]string{"METADATA_URL=file:///etc"}, []string{"token.sh", "-r", "web"}},
		{[]string{"TARGET=.*"}, []string{"token.sh", "-r", "web"}},
		{nil, []string{"vault-login.sh", "-a", "-K/etc/passwd", "-r", "web", "-t", file}},
		{nil, []string{"vault-login.sh", "-a", "file:///etc", "-r", "web", "-t", file}},
		{nil, []string{"vault-login.sh", "-a", w.URL, "-r", `web","x":"y`, "-t", file}},
		{nil, []string{"vault-login.sh", "-a", w.URL, "-r", "web", "-m", "jwt/login?x=#", "-t", file}},
		{nil, []string{"vault-login.sh", "-a", w.URL, "-r", "web", "-t", odd}},
		{nil, []string{"vault-login.sh", "-a", w.URL, "-r", "web", "-t", "/none"}},
		{nil, []string{"keystone-token.sh", "-k", "-K/etc/passwd", "-p", "project", "-t", file}},
		{nil, []string{"keystone-token.sh", "-k", w.URL + "/v3", "-p", `p"}},"x":{`, "-t", file}},
		{nil, []string{"keystone-token.sh", "-k", w.URL + "/v3", "-p", "project", "-i", "../x", "-t", file}},
		{nil, []string{"keystone-token.sh", "-k", w.URL + "/v3", "-p", "project", "-t", odd}},
	} {
		env := append([]string{"METADATA_URL=" + w.URL}, tt.env...)
		if status, out, said := run(t, env, tt.args[0], tt.args[1:]...); (status != 2 && status != 1) || out != "" || said == "" {
			t.Errorf("%q: status %d, %q, %q", tt.args, status, out, said)
		}
	}
	if got := w.requests(); len(got) > 0 {
		t.Errorf("they asked %q", got)
	}
}

// What another user of the machine can do in the directory of the file gets him no
// token, and no file of his choice is written.
func TestTokenFileOfOthers(t *testing.T) {
	env := []string{"ROLE=web", "WAYS=metadata"}
	for _, tt := range []struct {
		name   string
		make   func(dir, file string) error
		status int
	}{
		{"the old name of the temporary file is a link", func(dir, file string) error {
			return errors.Join(os.Symlink(dir+"/victim", file+".new"), os.Symlink(dir+"/victim", file+".new.1"))
		}, 0},
		{"the file is a link to another", func(dir, file string) error { return os.Symlink(dir+"/victim", file) }, 0},
		{"the file is a link to a directory", func(dir, file string) error { return os.Symlink(dir+"/elsewhere", file) }, 2},
		{"the file is a directory", func(_, file string) error { return os.Mkdir(file, 0o700) }, 2},
		{"all can write to the directory", func(_, file string) error { return os.Chmod(filepath.Dir(file), 0o777) }, 2},
		{"as in /tmp", func(_, file string) error { return os.Chmod(filepath.Dir(file), 0o777|os.ModeSticky) }, 2},
		{"a group can write to the directory", func(_, file string) error { return os.Chmod(filepath.Dir(file), 0o770) }, 2},
		{"it belongs to another user", func(_, file string) error {
			if os.Getuid() != 0 {
				return os.Chmod(filepath.Dir(file), 0o777)
			}
			return os.Chown(filepath.Dir(file), 65534, 65534)
		}, 2},
		{"a link to such a directory", func(dir, file string) error {
			at := filepath.Dir(file)
			return errors.Join(os.Mkdir(dir+"/open", 0o700), os.Chmod(dir+"/open", 0o777), os.Remove(at), os.Symlink(dir+"/open", at))
		}, 2},
		{"there is no directory", func(_, file string) error { return os.Remove(filepath.Dir(file)) }, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			dir := t.TempDir()
			file := filepath.Join(dir, "run", "token")
			if err := errors.Join(os.WriteFile(dir+"/victim", []byte("victim"), 0o644), os.Mkdir(dir+"/elsewhere", 0o700), os.Mkdir(filepath.Dir(file), 0o700), tt.make(dir, file)); err != nil {
				t.Fatal(err)
			}
			status, out, said := w.run(t, env, "token.sh", "-o", file)
			if status != tt.status || out != "" {
				t.Errorf("status %d, %q, %s", status, out, said)
			}
			if data, err := os.ReadFile(dir + "/victim"); err != nil || string(data) != "victim" {
				t.Errorf("another file was written: %q, %v", data, err)
			}
			if left, err := os.ReadDir(dir + "/elsewhere"); err != nil || len(left) > 0 {
				t.Errorf("another directory was written to: %v, %v", left, err)
			}
			if tt.status != 0 {
				if got := w.requests(); len(got) > 0 {
					t.Errorf("it asked for a token that it cannot write: %q", got)
				}
				return
			}
			info, err := os.Lstat(file)
			if data, _ := os.ReadFile(file); err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o600 || string(data) != jwt+"\n" {
				t.Errorf("%v, %v, %q", info, err, data)
			}
			if left, _ := filepath.Glob(filepath.Dir(file) + "/.token*"); len(left) > 0 {
				t.Errorf("it leaves %v", left)
			}
		})
	}
	t.Run("a name that looks like an option", func(t *testing.T) {
		w := newWorld(t)
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		script, err := filepath.Abs("token.sh")
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "sh", script, "-o", "-rf", "-r", "web", "-w", "metadata")
		cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "METADATA_URL=" + w.URL}
		out, err := cmd.CombinedOutput()
		if data, readErr := os.ReadFile(filepath.Join(dir, "-rf")); err != nil || readErr != nil || string(data) != jwt+"\n" {
			t.Errorf("%v, %v, %s, %q", err, readErr, out, data)
		}
	})
}

// The unit hands on no proxy, even if the file with its settings names one.
func TestUnitUnsetsProxies(t *testing.T) {
	text, err := os.ReadFile("instance-token.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "CURL_HOME"} {
		if !strings.Contains(string(text), "UnsetEnvironment=") || !strings.Contains(string(text), " "+name+" ") && !strings.Contains(string(text), "="+name+" ") {
			t.Errorf("%s is not unset", name)
		}
	}
}

func TestLogins(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(jwt+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, out, said := w.run(t, nil, "vault-login.sh", "-a", w.URL, "-r", "web", "-t", file); status != 0 || out != "hvs.x\n" {
		t.Errorf("Vault: status %d, %q, %s", status, out, said)
	}
	if status, out, said := w.run(t, nil, "keystone-token.sh", "-k", w.URL+"/v3", "-p", "project", "-t", file); status != 0 || out != "scoped\n" {
		t.Errorf("Keystone: status %d, %q, %s", status, out, said)
	}
	want := []string{
		`POST /v1/auth/jwt/login  {"role":"web","jwt":"` + jwt + `"}`,
		"POST /v3/OS-FEDERATION/identity_providers/nova-authenticator/protocols/openid/auth Bearer " + jwt,
		`POST /v3/auth/tokens  {"auth":{"identity":{"methods":["token"],"token":{"id":"unscoped"}},"scope":{"project":{"id":"project"}}}}`,
	}
	if got := w.requests(); !slices.Equal(got, want) {
		t.Errorf("they asked\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	w.answer(map[string]int{"/v1/auth/jwt/login": 400, "/v3/OS-FEDERATION/identity_providers/nova-authenticator/protocols/openid/auth": 401})
	for _, args := range [][]string{{"vault-login.sh", "-a", w.URL, "-r", "web", "-t", file}, {"keystone-token.sh", "-k", w.URL + "/v3", "-p", "p", "-t", file}} {
		if status, out, _ := w.run(t, nil, args[0], args[1:]...); status == 0 || out != "" {
			t.Errorf("%s, refused: status %d, %q", args[0], status, out)
		}
	}
}

// Vault and Keystone behind a CA of their own.
func TestLoginsOverTLS(t *testing.T) {
	w := newWorld(t)
	s := httptest.NewTLSServer(w.Config.Handler)
	t.Cleanup(s.Close)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // handshakes that fail are meant to
	dir := t.TempDir()
	file, ca := filepath.Join(dir, "token"), filepath.Join(dir, "ca.pem")
	if err := errors.Join(os.WriteFile(file, []byte(jwt+"\n"), 0o600),
		os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600)); err != nil {
		t.Fatal(err)
	}
	for variable, args := range map[string][]string{
		"VAULT_CACERT": {"vault-login.sh", "-a", s.URL, "-r", "web", "-t", file}, "OS_CACERT": {"keystone-token.sh", "-k", s.URL + "/v3", "-p", "project", "-t", file},
	} {
		if status, out, said := run(t, nil, args[0], append(args[1:], "-c", ca)...); status != 0 || out == "" {
			t.Errorf("%s: status %d, %s", args[0], status, said)
		}
		if status, out, said := run(t, []string{variable + "=" + ca}, args[0], args[1:]...); status != 0 || out == "" {
			t.Errorf("%s with %s: status %d, %s", args[0], variable, status, said)
		}
		if status, out, _ := run(t, nil, args[0], args[1:]...); status == 0 || out != "" {
			t.Errorf("%s takes a certificate without a known CA: status %d, %q", args[0], status, out)
		}
		if status, out, _ := run(t, nil, args[0], "--help"); status != 0 || !strings.Contains(out, "-c CAFILE") || strings.Contains(out, "umask") {
			t.Errorf("%s --help: status %d: %s", args[0], status, out)
		}
		if status, out, _ := run(t, nil, args[0], "-x"); status != 2 || out != "" {
			t.Errorf("%s -x: status %d: %s", args[0], status, out)
		}
	}
}

func TestUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	dir := t.TempDir()
	for _, name := range []string{"instance-token.service", "instance-token.timer"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.ReplaceAll(string(text), "/usr/local/bin/token.sh", "/bin/true")
		if err := os.WriteFile(filepath.Join(dir, name), []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", filepath.Join(dir, "instance-token.service"), filepath.Join(dir, "instance-token.timer"))
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "instance-token") {
		t.Errorf("%v\n%s", err, out)
	}
}

// The user data holds the files that are here, and what was asked for.
func TestUserData(t *testing.T) {
	type cloud struct {
		CA struct{ Trusted []string } `yaml:"ca_certs"`

		Files []struct{ Path, Content string } `yaml:"write_files"`
		Run   [][]string                       `yaml:"runcmd"`
	}
	read := func(args ...string) (c cloud) {
		t.Helper()
		status, out, said := run(t, nil, "user-data.sh", args...)
		if status != 0 || !strings.HasPrefix(out, "#cloud-config\n") || regexp.MustCompile(`(?m)^ *<[^>]*>$`).MatchString(out) {
			t.Errorf("status %d: %s\n%s", status, said, out)
		}
		if err := yaml.Unmarshal([]byte(out), &c); err != nil || len(c.Files) != 4 || len(c.Run) != 2 {
			t.Fatalf("%+v, %v", c, err)
		}
		for _, f := range c.Files[1:] {
			text, err := os.ReadFile(filepath.Base(f.Path))
			if err != nil || f.Content != string(text) {
				t.Errorf("%s is not what is here (%v): %s", f.Path, err, f.Content)
			}
		}
		return c
	}
	if c := read(); c.Files[0].Content != "ROLE=web\n" || len(c.CA.Trusted) != 0 {
		t.Errorf("%+v", c)
	}
	ca := filepath.Join(t.TempDir(), "a ca.pem")
	const certificates = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
	if err := os.WriteFile(ca, []byte(certificates), 0o600); err != nil {
		t.Fatal(err)
	}
	if c := read("-i", "ens3", "-d", "/dev/disk/by-label/config-2"); c.Files[0].Content != "ROLE=web\nINTERFACE=ens3\nCONFIG_DRIVE=/dev/disk/by-label/config-2\n" {
		t.Errorf("%+v", c.Files[0])
	}
	c := read("-r", "db", "-a", "https://vault.example.com/x?y=1&z=%20", "-u", "https://[fd24::1]:18775", "-c", ca)
	if want := "ROLE=db\nAUDIENCE=https://vault.example.com/x?y=1&z=%20\nURL=https://[fd24::1]:18775\n"; c.Files[0].Content != want {
		t.Errorf("%s: %q", c.Files[0].Path, c.Files[0].Content)
	}
	if len(c.CA.Trusted) != 1 || c.CA.Trusted[0] != certificates {
		t.Errorf("trusted: %q", c.CA.Trusted)
	}
	key := filepath.Join(t.TempDir(), "both.pem")
	if err := os.WriteFile(key, []byte(certificates+"-----BEGIN PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-r", ""}, {"-r", "a b"}, {"-a", "a\nURL=http://elsewhere.example.com"}, {"-u", `"`}, {"-c", "/dev/null"}, {"-c", "/none"}, {"-c", key}, {"-i", "a b"}, {"-i", "eth0\nURL=x"}, {"-d", "config-2"}, {"-d", "/a b"}, {"-x"}, {"more"}} {
		if status, out, said := run(t, nil, "user-data.sh", args...); status != 2 || out != "" || said == "" {
			t.Errorf("%q: status %d, %q, %q", args, status, out, said)
		}
	}
	if status, out, _ := run(t, nil, "user-data.sh", "--help"); status != 0 || !strings.Contains(out, "-c CAFILE") || strings.Contains(out, "set -u") {
		t.Errorf("--help: status %d: %s", status, out)
	}
}
