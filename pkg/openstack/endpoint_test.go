package openstack_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
)

// wiretap accepts connections and records what it receives.
type wiretap struct {
	net.Listener
	mu   sync.Mutex
	seen bytes.Buffer
	done sync.WaitGroup
}

func newWiretap(t *testing.T) *wiretap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wiretap{Listener: l}
	w.done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.done.Go(func() {
				defer c.Close()
				part := make([]byte, 4096)
				for {
					n, err := c.Read(part)
					w.mu.Lock()
					w.seen.Write(part[:n])
					w.mu.Unlock()
					if n > 0 {
						_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
						return
					}
					if err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(w.close)
	return w
}

func (w *wiretap) close() {
	_ = w.Close()
	w.done.Wait()
}

func (w *wiretap) text() string {
	w.close()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen.String()
}

// tamper changes the bodies of a cloud's answers.
func (f *front) tamper(change func(r *http.Request, status int, body []byte) []byte) {
	f.answerInstead(func(w http.ResponseWriter, r *http.Request) bool {
		answer := httptest.NewRecorder()
		inner := &front{Server: f.Server, cloud: f.cloud}
		inner.serve(answer, r)
		for name, values := range answer.Header() {
			if name != "Content-Length" {
				w.Header()[name] = values
			}
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(change(r, answer.Code, answer.Body.Bytes()))
		return true
	})
}

// No password or token is sent to another scheme or host than those of the configuration and the catalog, whatever
// Keystone and Nova answer.
func TestNoSecretGoesElsewhere(t *testing.T) {
	links := func(to string) func(self string, body []byte) []byte {
		return func(self string, body []byte) []byte { return bytes.ReplaceAll(body, []byte(self), []byte(to)) }
	}
	for _, tt := range []struct {
		name    string
		address string // of Keystone, behind the front's
		works   bool
		answer  func(f *front, elsewhere string)
	}{
		{
			name: "Keystone's version document links to another scheme and host", address: "/identity", works: true,
			answer: func(f *front, elsewhere string) {
				f.tamper(func(r *http.Request, _ int, body []byte) []byte {
					if strings.HasSuffix(r.URL.Path, tokens) {
						return body
					}
					return links("http://"+elsewhere)(f.URL, body)
				})
			},
		},
		{
			name: "the same for an auth_url with a version", address: "/identity/v3", works: true,
			answer: func(f *front, elsewhere string) {
				f.tamper(func(r *http.Request, _ int, body []byte) []byte {
					if strings.HasSuffix(r.URL.Path, tokens) {
						return body
					}
					return links("http://"+elsewhere)(f.URL, body)
				})
			},
		},
		{
			name: "Keystone redirects the login", address: "/identity/v3",
			answer: func(f *front, elsewhere string) { redirect(f, http.MethodPost, "http://"+elsewhere) },
		},
		{
			name: "Keystone redirects its version document", address: "/identity",
			answer: func(f *front, elsewhere string) { redirect(f, http.MethodGet, "http://"+elsewhere) },
		},
		{
			name: "Nova redirects", address: "/identity/v3",
			answer: func(f *front, elsewhere string) {
				f.answerInstead(func(w http.ResponseWriter, r *http.Request) bool {
					if !strings.Contains(r.URL.Path, "/compute/") {
						return false
					}
					http.Redirect(w, r, "http://"+elsewhere+r.URL.Path, http.StatusTemporaryRedirect)
					return true
				})
			},
		},
		{
			name: "Nova's version document links elsewhere, from an endpoint without a version", address: "/identity/v3", works: true,
			answer: func(f *front, elsewhere string) {
				f.tamper(func(r *http.Request, _ int, body []byte) []byte {
					if strings.HasSuffix(r.URL.Path, tokens) {
						return bytes.ReplaceAll(body, []byte("/compute/v2.1"), []byte("/compute"))
					}
					return links("http://"+elsewhere)(f.URL, body)
				})
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, ca := newTLSFront(t, startCloud(t))
			tap := newWiretap(t)
			tt.answer(f, tap.Addr().String())
			env := as("authenticator", "service", f.URL+tt.address)
			env["OS_CACERT"] = ca
			c := newClient(t, env, config(), openstack.Options{Callers: []string{"unproven-id"}, ProjectNames: true})
			_, err := c.Connect(t.Context())
			if tt.works != (err == nil) {
				t.Errorf("Connect = %v, want it to work: %t", err, tt.works)
			}
			checkDiscreet(t, err)
			if tt.works {
				mustFind(t, c, web)
			}
			_, _ = c.Caller(t.Context(), "gAAAAAtoken-of-a-caller", unproven)
			_, _, _ = c.Project(t.Context(), "workloads-id")
			if seen := tap.text(); seen != "" {
				t.Errorf("the other host received:\n%s", seen)
			}
		})
	}
}

// redirect answers requests of a method at Keystone.
func redirect(f *front, method, to string) {
	f.answerInstead(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != method || !strings.HasPrefix(r.URL.Path, "/identity") {
			return false
		}
		http.Redirect(w, r, to+r.URL.Path, http.StatusPermanentRedirect)
		return true
	})
}

// A path that exists only behind a proxy is not used.
func TestVersionLinkThatDoesNotAnswerIsNotUsed(t *testing.T) {
	shape := shaped{identity: "/identity", compute: "/compute", endpoint: "/compute"}
	server := shape.start(t, startCloud(t))
	far := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		server.Config.Handler.ServeHTTP(answer, r)
		body := answer.Body.Bytes()
		if answer.Code != http.StatusCreated {
			for _, path := range []string{"/identity", "/compute"} {
				body = bytes.ReplaceAll(body, []byte("http://"+r.Host+path), []byte("http://"+r.Host+"/inside"+path))
			}
		}
		w.Header().Set("X-Subject-Token", answer.Header().Get("X-Subject-Token"))
		w.WriteHeader(answer.Code)
		_, _ = w.Write(body)
	}))
	defer far.Close()
	c := newClient(t, as("admin", "admin", far.URL+"/identity"), config(), openstack.Options{})
	if got, want := connect(t, c).Endpoint, far.URL+"/compute/v2.1/"; got != want {
		t.Errorf("Nova is at %s, want %s", got, want)
	}
	mustFind(t, c, web)
}

// shaped is a cloud with other paths of Keystone and Nova, and other endpoints in its catalog.
type shaped struct {
	identity, compute string // prefixes
	endpoint          string // of the catalog, after the server's URL
	rootless          bool   // the roots have no documents
}

func (s shaped) start(t *testing.T, cloud *simulator.Cloud) *httptest.Server {
	t.Helper()
	inner := cloud.Handler()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, answer := r.URL.Path, httptest.NewRecorder()
		if rest, ok := strings.CutPrefix(path, s.identity); ok && strings.HasPrefix(rest+"/", "/") {
			path = "/identity" + rest
		} else if rest, ok := strings.CutPrefix(path, s.compute); ok && strings.HasPrefix(rest+"/", "/") {
			path = "/compute" + rest
		} else {
			http.NotFound(w, r)
			return
		}
		if s.rootless && (strings.TrimSuffix(path, "/") == "/identity" || strings.TrimSuffix(path, "/") == "/compute") {
			http.NotFound(w, r)
			return
		}
		// Nova accepts the project's ID after the version.
		path = strings.Replace(path, "/v2.1/"+projectHex, "/v2.1", 1)
		moved := r.Clone(r.Context())
		moved.URL.Path = path
		inner.ServeHTTP(answer, moved)
		body := answer.Body.Bytes()
		var token map[string]map[string]any
		if answer.Code == http.StatusCreated && json.Unmarshal(body, &token) == nil {
			token["token"]["catalog"] = []any{map[string]any{"type": "compute", "endpoints": []any{
				map[string]any{"interface": "public", "region": "RegionOne", "region_id": "RegionOne", "url": "http://" + r.Host + s.endpoint},
			}}}
			body, _ = json.Marshal(token)
		}
		root := "http://" + r.Host
		body = bytes.ReplaceAll(body, []byte(root+"/identity"), []byte(root+s.identity))
		body = bytes.ReplaceAll(body, []byte(root+"/compute"), []byte(root+s.compute))
		for _, name := range []string{"Content-Type", "X-Subject-Token"} {
			w.Header().Set(name, answer.Header().Get(name))
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(body)
	}))
	t.Cleanup(server.Close)
	return server
}

const projectHex = "11111111111111111111111111111111"

func TestEndpoints(t *testing.T) {
	for _, tt := range []struct {
		name    string
		shape   shaped
		authURL string // behind the server's URL
		want    string // Nova's endpoint
		err     string
	}{
		{"with a version", shaped{"/identity", "/compute", "/compute/v2.1", false}, "/identity/v3", "/compute/v2.1/", ""},
		{"with a version and a slash", shaped{"/identity", "/compute", "/compute/v2.1/", false}, "/identity/v3/", "/compute/v2.1/", ""},
		{"without a version", shaped{"/identity", "/compute", "/compute", false}, "/identity", "/compute/v2.1/", ""},
		{"without a version, with slashes", shaped{"/identity", "/compute", "/compute//", false}, "/identity//", "/compute/v2.1/", ""},
		{"with the project", shaped{"/identity", "/compute", "/compute/v2.1/" + projectHex, false}, "/identity/v3", "/compute/v2.1/" + projectHex + "/", ""},
		{"with the project and no version", shaped{"/identity", "/compute", "/compute/" + projectHex, false}, "/identity/v3", "/compute/v2.1/", ""},
		{"a v and a digit earlier in the path", shaped{"/dev1/identity", "/dev1/compute", "/dev1/compute/v2.1", false}, "/dev1/identity", "/dev1/compute/v2.1/", ""},
		{"a version of something else earlier in the path", shaped{"/v1/identity", "/v1/compute", "/v1/compute", false}, "/v1/identity/v3", "/v1/compute/v2.1/", ""},
		{"a name that begins as a version", shaped{"/v3cloud/id", "/v2cloud", "/v2cloud", false}, "/v3cloud/id", "/v2cloud/v2.1/", ""},
		{"roots without documents", shaped{"/identity", "/compute", "/compute", true}, "/identity", "/compute/v2.1/", ""},
		{"Keystone's old API in auth_url", shaped{"/identity", "/compute", "/compute/v2.1", false}, "/identity/v2.0", "/compute/v2.1/", ""},
		{"Nova's legacy API", shaped{"/identity", "/compute", "/compute/v2", false}, "/identity/v3", "", "/compute/v2/ is nova's legacy v2 API"},
		{"Nova's legacy API with the project", shaped{"/identity", "/compute", "/compute/v2/" + projectHex, false}, "/identity/v3", "", "/compute/v2.1/ (openstack endpoint set --url)"},
		{"another version", shaped{"/identity", "/compute", "/compute/v1.1", false}, "/identity/v3", "", "its path says v1.1"},
		{"nothing", shaped{"/identity", "/compute", "/nothing/v2.1", false}, "/identity/v3", "", "there is no nova at"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := tt.shape.start(t, startCloud(t))
			c := newClient(t, as("admin", "admin", server.URL+tt.authURL), config(), openstack.Options{ProjectNames: true})
			info, err := c.Connect(t.Context())
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("Connect = %v, want %q in it", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimPrefix(info.Endpoint, server.URL); got != tt.want {
				t.Errorf("Nova is at %s, want %s", got, tt.want)
			}
			mustFind(t, c, web)
			if _, _, err := c.Project(t.Context(), "workloads-id"); err != nil {
				t.Errorf("Project = %v", err)
			}
		})
	}
}

func TestLoginWithoutScope(t *testing.T) {
	f := newFront(t, startCloud(t))
	f.tamper(func(r *http.Request, status int, body []byte) []byte {
		var token map[string]map[string]any
		if status != http.StatusCreated || json.Unmarshal(body, &token) != nil {
			return body
		}
		for _, key := range []string{"project", "roles", "catalog"} {
			delete(token["token"], key)
		}
		body, _ = json.Marshal(token)
		return body
	})
	env := as("authenticator", "service", f.authURL())
	_, err := newClient(t, env, config(), openstack.Options{}).Connect(t.Context())
	if want := "has no scope"; !isSetup(err) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "OS_PROJECT_NAME") {
		t.Errorf("Connect = %v, want a SetupError with %q", err, want)
	}
}

// The configuration's endpoints are used instead of the catalog's.
func TestEndpointOverrides(t *testing.T) {
	f := newFront(t, startCloud(t))
	for name, want := range map[string]string{"OS_COMPUTE_ENDPOINT_OVERRIDE": "RegionTwo/internal", "OS_COMPUTE_ENDPOINT": "RegionTwo/internal"} {
		env := as("authenticator", "service", f.authURL())
		env[name] = fmt.Sprintf("%s/%s/compute/v2.1", f.URL, want)
		c := newClient(t, env, config(), openstack.Options{})
		if got := f.endpoint(connect(t, c).Endpoint); got != want {
			t.Errorf("with %s Nova is at %s, want %s", name, got, want)
		}
	}
	env := as("authenticator", "service", f.authURL())
	env["OS_IDENTITY_ENDPOINT_OVERRIDE"] = f.URL + "/RegionTwo/internal/identity/v3"
	var asked []string
	f.answerInstead(func(_ http.ResponseWriter, r *http.Request) bool {
		asked = append(asked, r.Method+" "+r.URL.Path)
		return false
	})
	c := newClient(t, env, config(), openstack.Options{ProjectNames: true})
	connect(t, c)
	if all := strings.Join(asked, "\n"); !strings.Contains(all, "POST /identity/v3/auth/tokens") || !strings.Contains(all, "GET /RegionTwo/internal/identity/v3/projects/") {
		t.Errorf("the requests were\n%s", all)
	}
}

func TestNovaRootWithoutV21(t *testing.T) {
	for body, want := range map[string]string{
		`{"versions":[{"id":"v2.0"},{"id":"v3.0"}]}`: "it has the versions v2.0, v3.0",
		`{"versions":"none"}`:                        "it answers without a version",
		`{}`:                                         "it answers without a version",
	} {
		f := newFront(t, startCloud(t))
		f.answerInstead(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/compute/" {
				return false
			}
			_, _ = io.WriteString(w, body)
			return true
		})
		env := as("admin", "admin", f.authURL())
		env["OS_COMPUTE_ENDPOINT_OVERRIDE"] = f.URL + "/compute"
		if _, err := newClient(t, env, config(), openstack.Options{}).Connect(t.Context()); !isSetup(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("for %s Connect = %v, want a SetupError with %q", body, err, want)
		}
	}
}
