package admin_test

import (
	"context"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/admin"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring/keyringtest"
)

const getStatus admin.Route[admin.Status] = "GET /status"

// agrees makes a request and fails the test unless the route's type holds exactly what the
// answer has.
func agrees[Answer any](t *testing.T, c *http.Client, to admin.Route[Answer], in admin.Input) Answer {
	t.Helper()
	var v Answer
	body, err := to.Call(t.Context(), c, in)
	if err != nil {
		t.Fatalf("%s: %v", to, err)
	}
	defer body.Close()
	raw, err := io.ReadAll(body)
	if err != nil {
		t.Fatalf("%s: %v", to, err)
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%s: %v", to, err)
	}
	again, err := json.Marshal(v)
	if err != nil || string(again)+"\n" != string(raw) {
		t.Errorf("%s answers\n%s, of which the client knows\n%s, %v", to, raw, again, err)
	}
	return v
}

func TestClientAndHandlerAgree(t *testing.T) {
	s := newScene(t)
	c, one := s.serve(t), admin.Input{ID: s.instance.String()}
	if v := agrees(t, c, getStatus, admin.Input{}); v != status {
		t.Errorf("the status is %+v", v)
	}
	if v := agrees(t, c, admin.ListInstances, admin.Input{}); len(v.Instances) != 1 || len(v.Instances[0].Attempts) != 1 {
		t.Errorf("the instances are %+v", v)
	}
	if v := agrees(t, c, admin.ResetInstance, one); v.Windows != 1 {
		t.Errorf("%d windows were reset", v.Windows)
	}
	deny, err := json.Marshal(admin.Deny{For: "1h", Reason: "seen in a botnet"})
	if err != nil {
		t.Fatal(err)
	}
	if v := agrees(t, c, admin.DenyInstance, admin.Input{ID: one.ID, Body: deny}); v.Instance != s.instance || v.Reason != "seen in a botnet" || v.Until.IsZero() {
		t.Errorf("the denial is %+v", v)
	}
	if v := agrees(t, c, admin.ShowInstance, one); v.Instance != s.instance || v.Denial == nil {
		t.Errorf("the instance is %+v", v)
	}
	agrees(t, c, admin.AllowInstance, one)
	if v := agrees(t, c, admin.ShowInstance, one); v.Denial != nil {
		t.Errorf("the instance that is allowed again is %+v", v)
	}

	imported := agrees(t, c, admin.ImportKey, admin.Input{Body: keyringtest.PKCS8(t, keyringtest.EC(t, elliptic.P256()))})
	keys := agrees(t, c, admin.ListKeys, admin.Input{}).Keys
	if len(keys) != 2 || keys[1] != imported {
		t.Fatalf("%+v was imported; the keys are %+v", imported, keys)
	}
	agrees(t, c, admin.RevokeKey, admin.Input{ID: keys[0].KeyID})
	keys = agrees(t, c, admin.ListKeys, admin.Input{}).Keys
	if keys[0].KeyID != imported.KeyID {
		t.Errorf("after the current key was revoked the keys are %+v", keys)
	}
	s.ahead.Store(int64(20 * time.Minute)) // verifiers know the next key
	if v := agrees(t, c, admin.RotateKeys, admin.Input{}); v.KeyID != keys[1].KeyID {
		t.Errorf("after a rotation %+v signs, not %+v", v, keys[1])
	}
	if v := agrees(t, c, admin.InitKeys, admin.Input{}); len(v.Accepted) != 2 {
		t.Errorf("accepted: %+v", v)
	}
	s.lines(t)
	agrees(t, c, admin.InitKeys, admin.Input{Accept: true})
	if line := s.lines(t); !strings.Contains(line, `"accept":true`) {
		t.Errorf("the audit line of init with accept is %s", line)
	}
}

// All routes are served. Those that change something write one audit line, also if the
// request fails.
func TestRoutesAreServedAndRecorded(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "route.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := newScene(t)
	h, n := admin.NewHandler(s.Options), 0
	ast.Inspect(file, func(node ast.Node) bool {
		spec, ok := node.(*ast.ValueSpec)
		if !ok {
			return true
		}
		n++
		pattern, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		method, path, _ := strings.Cut(pattern, " ")
		for _, id := range []string{s.instance.String(), "x"} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(method, strings.NewReplacer("{id}", id, "{kid}", id).Replace(path), nil))
			if w.Code == http.StatusNotFound || w.Code == http.StatusMethodNotAllowed {
				t.Errorf("%s is not served: %d", pattern, w.Code)
			}
			want := 0
			if method == http.MethodPost {
				want = 1
			}
			if lines := s.lines(t); strings.Count(lines, "\n") != want || strings.Count(lines, `"msg":"admin"`) != want {
				t.Errorf("%s for %s has the audit lines %q, want %d", pattern, id, lines, want)
			}
		}
		return true
	})
	if n != 12 {
		t.Errorf("there are %d routes", n)
	}
}

func TestProfiles(t *testing.T) {
	c := newScene(t).serve(t)
	for path, want := range map[string]string{
		"/debug/pprof/":                  "full goroutine stack dump",
		"/debug/pprof/goroutine?debug=1": "goroutine profile:",
		"/debug/pprof/cmdline":           filepath.Base(os.Args[0]),
		"/debug/pprof/symbol":            "num_symbols",
	} {
		if resp, body := send(t, c, http.MethodGet, path, ""); resp.StatusCode != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %.100q", path, resp.StatusCode, body)
		}
	}
}

func TestSaveState(t *testing.T) {
	s := newScene(t)
	var fails error
	s.Save = func(_ context.Context, w io.Writer) error {
		if fails != nil && strings.HasPrefix(fails.Error(), "at once") {
			return fails
		}
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			return err
		}
		return fails
	}
	c := s.serve(t)
	save := func() (n int, err error) {
		t.Helper()
		body, err := admin.SaveState.Call(t.Context(), c, admin.Input{})
		if err != nil {
			return 0, err
		}
		defer body.Close()
		data, err := io.ReadAll(body)
		return len(data), err
	}
	if n, err := save(); n != 1<<20 || err != nil {
		t.Errorf("a copy has %d bytes: %v", n, err)
	}
	fails = errors.New("at once: the disk is gone")
	if _, err := save(); err == nil || err.Error() != fails.Error() {
		t.Errorf("a copy that fails at once: %v, want %v", err, fails)
	}
	fails = errors.New("in the middle: the disk is gone")
	if n, err := save(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a copy that breaks off looks complete, with %d bytes: %v", n, err)
	}
}

// A lost audit line does not undo the operator's action.
func TestLostAuditLine(t *testing.T) {
	s := newScene(t)
	if err := s.stream.Close(); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	admin.NewHandler(s.Options).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/keys/init", nil))
	if log := s.log.String(); w.Code != http.StatusOK || !strings.Contains(log, `"audit line lost"`) || !strings.Contains(log, `"action":"keys init"`) {
		t.Errorf("the answer is %d %s; the log is %s", w.Code, w.Body, log)
	}
}

func TestClientErrors(t *testing.T) {
	call := func(socket string) error {
		body, err := getStatus.Call(t.Context(), admin.NewClient(socket), admin.Input{})
		if err == nil {
			_ = body.Close()
		}
		return err
	}
	path := filepath.Join(t.TempDir(), "admin.sock")
	if err := call(path); !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "admin socket: dial unix ") {
		t.Errorf("without a socket: %v", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	text := "404 page not found"
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, text, http.StatusNotFound) }))
	s.Listener = l
	s.Start()
	for _, text = range []string{"404 page not found", "{}"} {
		if err := call(path); err == nil || err.Error() != "admin socket: the server answers 404 Not Found: is it of another version?" {
			t.Errorf("an answer of %s: %v", text, err)
		}
	}
	s.Close()
	if err := call(path); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("without a server: %v", err)
	}
}

// An ID stays one part of the path, whatever it contains.
func TestIDsAreEscaped(t *testing.T) {
	c := newScene(t).serve(t)
	for _, kid := range []string{"a/b?c#d", "%2e%2e", "{kid}", "a b"} {
		_, err := admin.RevokeKey.Call(t.Context(), c, admin.Input{ID: kid})
		if err == nil || !strings.Contains(err.Error(), "there is no key "+strconv.Quote(kid)) {
			t.Errorf("%q: %v", kid, err)
		}
	}
}
