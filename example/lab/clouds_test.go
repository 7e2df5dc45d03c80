//go:build lab

package lab_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
)

// sdkScript prints what openstacksdk finds with the credentials of its environment.
const sdkScript = `
import json, openstack
cloud = openstack.connect()
print(json.dumps({"endpoint": cloud.compute.get_endpoint()}))
`

// signIn is a login at Keystone: what was asked, and what Keystone made of it.
type signIn struct {
	Asked   any
	User    any
	Project any
	Domain  any
	System  any
}

// logins stands before Keystone and keeps the last login.
type logins struct {
	*httptest.Server
	mu   sync.Mutex
	last signIn
}

func newLogins(t *testing.T) *logins {
	t.Helper()
	keystone, err := url.Parse("http://127.0.0.1:5000")
	if err != nil {
		t.Fatal(err)
	}
	l := &logins{}
	proxy := httputil.NewSingleHostReverseProxy(keystone)
	proxy.ModifyResponse = l.note
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/auth/tokens") {
			r = r.WithContext(context.WithValue(r.Context(), askedKey{}, body))
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(l.Close)
	return l
}

type askedKey struct{}

func (l *logins) note(resp *http.Response) error {
	asked, ok := resp.Request.Context().Value(askedKey{}).([]byte)
	if !ok {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	var answer struct {
		Token struct {
			User    map[string]any `json:"user"`
			Project any            `json:"project"`
			Domain  any            `json:"domain"`
			System  any            `json:"system"`
		} `json:"token"`
	}
	_ = json.Unmarshal(body, &answer)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = signIn{User: answer.Token.User["id"], Project: answer.Token.Project, Domain: answer.Token.Domain, System: answer.Token.System}
	_ = json.Unmarshal(asked, &l.last.Asked)
	return nil
}

func (l *logins) take() signIn {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := l.last
	l.last = signIn{}
	return last
}

// With the lab's openrc, and with its clouds of each scope, openstacksdk and we ask the
// real Keystone for the same token, and find the same Nova.
func TestSameAsOpenStackSDKAtKeystone(t *testing.T) {
	front := newLogins(t)
	throughFront := func(name string) string {
		text, err := os.ReadFile(filepath.Join(stateDir, name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(text), "http://127.0.0.1:5000", front.URL)
	}
	file := filepath.Join(t.TempDir(), "clouds.yaml")
	if err := os.WriteFile(file, []byte(throughFront("clouds.yaml")), 0o600); err != nil {
		t.Fatal(err)
	}
	openrc := map[string]string{}
	for _, line := range regexp.MustCompile(`(?m)^export (OS_\w+)='(.*)'$`).FindAllStringSubmatch(throughFront("openrc"), -1) {
		openrc[line[1]] = line[2]
	}
	rows := map[string]map[string]string{"openrc": openrc}
	for _, name := range []string{"admin", "system-admin", "domain-admin", "authenticator", "authenticator-appcred"} {
		rows[name] = map[string]string{"OS_CLIENT_CONFIG_FILE": file, "OS_CLOUD": name}
	}
	for name, env := range rows {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			sdk := exec.CommandContext(ctx, filepath.Join(stateDir, "bin/python"), "-W", "ignore", "-c", sdkScript)
			sdk.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
			for _, line := range os.Environ() {
				if variable, _, _ := strings.Cut(line, "="); strings.HasPrefix(variable, "OS_") {
					t.Setenv(variable, "")
				}
			}
			for variable, value := range env {
				sdk.Env = append(sdk.Env, variable+"="+value)
				t.Setenv(variable, value)
			}
			out, err := sdk.Output()
			if err != nil {
				t.Fatalf("openstacksdk: %v\n%s", err, stderrOf(err))
			}
			var theirs struct {
				Endpoint string `json:"endpoint"`
			}
			if err := json.Unmarshal(out, &theirs); err != nil {
				t.Fatalf("%v in %s", err, out)
			}
			want := front.take()
			if want.User == nil {
				t.Fatal("openstacksdk did not log in")
			}

			plan, err := openstack.Config{Lookup: openstack.LookupAuto, Timeout: 10 * time.Second, MaxConcurrent: 8}.Plan()
			if err != nil {
				t.Fatal(err)
			}
			c, err := openstack.New(plan, openstack.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			info, err := c.Connect(ctx)
			if err != nil {
				t.Fatalf("Connect: %v", err)
			}
			if diff := cmp.Diff(want, front.take()); diff != "" {
				t.Errorf("the login (-openstacksdk +ours):\n%s", diff)
			}
			if ours := strings.TrimSuffix(info.Endpoint, "/"); ours != strings.TrimSuffix(theirs.Endpoint, "/") {
				t.Errorf("Nova is at %s, and for openstacksdk at %s", ours, theirs.Endpoint)
			}
			t.Logf("sees instances %s; lacks %q", info.Scope, info.Lacks)
		})
	}
}
