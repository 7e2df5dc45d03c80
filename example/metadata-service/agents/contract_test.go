//go:build agents

package agents_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/example/metadata-service/guestfuzz"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
)

const (
	hostLine  = "Host: 169.254.169.254\r\n"
	closeLine = "Connection: close\r\n"
)

// request is a whole request without a body.
func request(line string, headers ...string) string {
	return line + " HTTP/1.1\r\n" + hostLine + strings.Join(headers, "") + closeLine + "\r\n"
}

// must fails the test unless the answer arrived and is the guest's own.
func must(t *testing.T, a answer, err error) answer {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// wantToken checks an answer with a token in JSON, and returns its audience.
func (s *site) wantToken(t *testing.T, a answer) (audience []string) {
	t.Helper()
	var body struct {
		Token     string `json:"token"`
		ExpiresIn int    `json:"expires_in"`
	}
	s.wantBody(t, a, http.StatusOK, "application/json")
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || body.ExpiresIn <= 0 {
		t.Fatalf("%s: %v", a, err)
	}
	token, err := s.door.verifier.Verify(t.Context(), body.Token)
	if err != nil {
		t.Fatalf("%s: %v", a, err)
	}
	return token.Audience
}

// wantBody checks an answer of the door, which has a body and says how long it is.
func (s *site) wantBody(t *testing.T, a answer, status int, contentType string) {
	t.Helper()
	if a.status != status || a.body == "" || a.header.Get("Content-Length") != fmt.Sprint(len(a.body)) {
		t.Fatalf("%s, want %d with a body of a known length", a, status)
	}
	if got := a.header.Get("Content-Type"); got != contentType && (!s.wsgi || !strings.HasPrefix(got, contentType+";")) {
		t.Fatalf("%s, want %s", a, contentType)
	}
}

// wantError checks an answer of the door other than 200. The bodies of these do not pass agents of WSGI.
func (s *site) wantError(t *testing.T, a answer, status int, word string) {
	t.Helper()
	if s.wsgi {
		if a.status != status || a.body == "" {
			t.Fatalf("%s, want %d", a, status)
		}
		return
	}
	s.wantBody(t, a, status, "application/json")
	var body struct {
		Error      string `json:"error"`
		RequestID  string `json:"request_id"`
		RetryAfter int    `json:"retry_after"`
	}
	again := status == http.StatusConflict || status == http.StatusInternalServerError
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || body.Error != word || body.RequestID == "" || body.RetryAfter > 0 != again {
		t.Fatalf("%s, want %s: %v", a, word, err)
	}
}

// With the limit, each answer of the door arrives, and each request gets an answer for the guest that sent it.
func TestWithLimit(t *testing.T) {
	eachAgent(t, func(t *testing.T, r release, kind string) {
		s := newSite(t, r, kind, true, settings{})
		for _, w := range s.ways(s.web) {
			t.Run(w.Name, func(t *testing.T) {
				t.Run("answers", func(t *testing.T) { answers(t, s, w.Name) })
				t.Run("requests", func(t *testing.T) { requests(t, s, w.Name) })
				t.Run("headers", func(t *testing.T) { ownHeaders(t, s, w.Name) })
			})
		}
		t.Run("token.sh", func(t *testing.T) { tokenScript(t, s) })
		t.Run("two guests at once", func(t *testing.T) { atOnce(t, s) })
		t.Run("random requests", func(t *testing.T) { fuzz(t, s, shortFuzz) })
		t.Run("too many requests", func(t *testing.T) { tooMany(t, s) })
		t.Run("the cloud is away", func(t *testing.T) { cloudAway(t, s) })
	})
}

// way returns one of the guest's ways.
func (g *guest) way(name string) guestfuzz.Way {
	all := g.site.ways(g)
	return all[slices.IndexFunc(all, func(w guestfuzz.Way) bool { return w.Name == name })]
}

func answers(t *testing.T, s *site, name string) {
	for _, g := range []*guest{s.web, s.db} {
		w := g.way(name)
		ask := func(line string) answer {
			t.Helper()
			a, err := g.ask(w, request(line))
			return must(t, a, err)
		}
		if got := s.wantToken(t, ask("PUT /identity/token?role="+g.role)); !slices.Equal(got, []string{issuer + "/roles/" + g.role}) {
			t.Errorf("audience %q", got)
		}
		audience := "urn:example:a%2Fb?c=d&e=%zz+f="
		if got := s.wantToken(t, ask("PUT /identity/token?role="+roleForAll+"&audience="+url.QueryEscape(audience))); !slices.Equal(got, []string{audience}) {
			t.Errorf("audience %q, want %q", got, audience)
		}
		bare := ask("PUT /identity/token?format=token&role=" + g.role)
		s.wantBody(t, bare, http.StatusOK, "text/plain; charset=utf-8")
		if strings.TrimSpace(bare.body) != guestfuzz.JWT.FindString(bare.body) {
			t.Errorf("format=token: %s", bare)
		}
		roles := ask("GET /identity/roles")
		s.wantBody(t, roles, http.StatusOK, "application/json")
		var list struct{ Roles []string }
		if err := json.Unmarshal([]byte(roles.body), &list); err != nil || !slices.Equal(list.Roles, []string{roleForAll, g.role}) {
			t.Errorf("roles: %s: %v", roles, err)
		}
	}

	ask := func(line string) answer {
		t.Helper()
		a, err := s.web.ask(s.web.way(name), request(line))
		return must(t, a, err)
	}
	for _, line := range []string{
		"PUT /identity/token", "PUT /identity/token?role=", "PUT /identity/token?role=only-web&role=only-web", "PUT /identity/token?role=only-web&name=x",
		"PUT /identity/token?role=only-web&format=xml", "PUT /identity/token?role=%E4", "PUT /identity/roles", "GET /identity/roles?role=only-web",
		"GET /identity/token?role=only-web", "POST /identity/token?role=only-web", "DELETE /identity/token?role=only-web", "PATCH /identity/token?role=only-web",
		"OPTIONS /identity/token?role=only-web", "TRACE /identity/token?role=only-web", "MINT /identity/token?role=only-web",
	} {
		t.Run(line, func(t *testing.T) { s.wantError(t, ask(line), http.StatusBadRequest, "invalid_request") })
	}
	for _, line := range []string{"PUT /identity/token?role=only-db", "PUT /identity/token?role=unknown", "PUT /identity/token?role=only-web&audience=https://other.example.com"} {
		t.Run(line, func(t *testing.T) { s.wantError(t, ask(line), http.StatusForbidden, "access_denied") })
	}
	for _, line := range []string{"GET /identity/", "PUT /identity/none", "PUT /identity/token/?role=only-web", "PUT /Identity/token?role=only-web", "GET /identity%2Ftoken%2F"} {
		t.Run(line, func(t *testing.T) { s.wantError(t, ask(line), http.StatusNotFound, "invalid_request") })
	}
	// An answer to HEAD has no body, which agents since 2025.1 do not pass on.
	if a := ask("HEAD /identity/token?role=only-web"); a.status == http.StatusOK {
		t.Errorf("HEAD: %s", a)
	}

	// What is Nova's passes through.
	for _, line := range []string{"GET /latest/meta-data/?a=%20b&c", "POST /openstack/2013-10-17/password", "GET /long", "GET /none", "GET /slow"} {
		method, uri, _ := strings.Cut(line, " ")
		path, _, _ := strings.Cut(uri, "?")
		t.Run(line, func(t *testing.T) {
			a := ask(line)
			if path == "/none" {
				if a.status != http.StatusNotFound {
					t.Fatal(a)
				}
				return
			}
			s.wantBody(t, a, http.StatusOK, "application/json")
			var said fromNova
			if err := json.Unmarshal([]byte(a.body), &said); err != nil || said.Method != method || said.URI != uri || said.Project != s.web.project {
				t.Fatalf("%s: %v", a, err)
			}
			if path == "/long" && len(said.Text) != novaLongText {
				t.Fatalf("%d bytes", len(said.Text))
			}
		})
	}
}

// Two guests ask at once, and each gets what is its own.
func atOnce(t *testing.T, s *site) {
	const workers, each = 2, 10
	end := time.Now().Add(time.Minute)
	var wait sync.WaitGroup
	for _, g := range []*guest{s.web, s.db} {
		for _, w := range s.ways(g) {
			for range workers {
				wait.Go(func() {
					for range each {
						a, err := g.ask(w, request("PUT /identity/token?role="+g.role))
						for err == nil && a.status == http.StatusServiceUnavailable && time.Now().Before(end) {
							// haproxy's answer while the agent, which serves one request at a time, has a full queue.
							a, err = g.ask(w, request("PUT /identity/token?role="+g.role))
						}
						if err == nil && a.status != http.StatusOK {
							err = errors.New(a.String())
						}
						if err != nil {
							t.Errorf("%s, %s: %v", g.name, w.Name, err)
							return
						}
					}
				})
			}
		}
	}
	wait.Wait()
}

func tooMany(t *testing.T, s *site) {
	const burst = 3
	s.door.start(t, settings{burst: burst})
	w := s.web.way("network")
	for i := range burst + 2 {
		a, err := s.web.ask(w, request("PUT /identity/token?role=only-web"))
		must(t, a, err)
		if i < burst {
			s.wantToken(t, a)
		} else {
			s.wantError(t, a, http.StatusConflict, "slow_down")
		}
	}
	a, err := s.db.ask(s.db.way("network"), request("PUT /identity/token?role=only-db"))
	s.wantToken(t, must(t, a, err))
	s.door.start(t, settings{})
}

// The door answers by itself when the cloud does not, in time for the agent, and other guests do not wait for it.
func cloudAway(t *testing.T, s *site) {
	w := s.web.way("network")
	put := request("PUT /identity/token?role=only-web")
	for what, fault := range map[string]simulator.Fault{
		"fails":          {Status: http.StatusServiceUnavailable, Only: "/v2.1/servers"},
		"does not reply": {Hang: true, Only: "/v2.1/servers"},
	} {
		t.Run(what, func(t *testing.T) {
			s.door.start(t, settings{}) // no record is cached
			s.door.cloud.Fail("nova", fault)
			began := time.Now()
			a, err := s.web.ask(w, put)
			s.wantError(t, must(t, a, err), http.StatusInternalServerError, "temporarily_unavailable")
			if took := time.Since(began); took > 4*time.Second {
				t.Errorf("the answer took %v", took)
			}
			a, err = s.web.ask(w, request("GET /latest/meta-data/"))
			if must(t, a, err).status != http.StatusOK {
				t.Errorf("Nova's metadata: %s", a)
			}
			s.door.cloud.Fail("nova", simulator.Fault{})
			awaittest.True(t, "a token", func() bool {
				a, err = s.web.ask(w, put)
				return must(t, a, err).status == http.StatusOK
			})
		})
	}
}

// tokenScript runs the script for guests in the guest.
func (g *guest) tokenScript(t *testing.T, args ...string) (out string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "ip", append([]string{"netns", "exec", g.namespace, "sh", "../../instance/token.sh"}, args...)...)
	text, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

func tokenScript(t *testing.T, s *site) {
	interfaces := [][]string{{}}
	if s.ipv6 {
		interfaces = append(interfaces, []string{"-i", "eth0"})
	}
	for _, at := range interfaces {
		if out, status := s.web.tokenScript(t, append([]string{"--check"}, at...)...); status != 0 || !strings.Contains(out, "limit: in place") || !strings.Contains(out, "identity: answers (status 200)") {
			t.Errorf("token.sh --check %v: status %d\n%s", at, status, out)
		}
		out, status := s.db.tokenScript(t, append([]string{"-w", "metadata", "-r", "only-db", "-a", issuer + "/roles/only-db"}, at...)...)
		if status != 0 || strings.TrimSpace(out) != guestfuzz.JWT.FindString(out) {
			t.Errorf("token.sh %v: status %d\n%s", at, status, out)
		}
		if err := s.db.known().Check(out, true); err != nil {
			t.Error(err)
		}
	}
}

// Without the operator's statement no agent is believed, and boots go on.
func TestWithoutLimit(t *testing.T) {
	eachAgent(t, func(t *testing.T, r release, kind string) {
		if r.identified {
			t.Skip("agents of this release need no limit")
		}
		s := newSite(t, r, kind, false, settings{unstated: true})
		for _, g := range []*guest{s.web, s.db} {
			for _, w := range s.ways(g) {
				for _, line := range []string{"PUT /identity/token?role=" + g.role, "PUT /identity/token?role=" + roleForAll, "GET /identity/roles"} {
					a, err := g.ask(w, request(line))
					s.wantError(t, must(t, a, err), http.StatusForbidden, "access_denied")
				}
				a, err := g.ask(w, request("GET /latest/meta-data/"))
				if must(t, a, err).status != http.StatusOK {
					t.Errorf("Nova's metadata: %s", a)
				}
			}
		}
		if out, status := s.web.tokenScript(t, "--check"); status != 1 || !strings.Contains(out, "limit: missing") || !strings.Contains(out, "identity: answers and denies") {
			t.Errorf("token.sh --check: status %d\n%s", status, out)
		}
		if n := strings.Count(s.door.audited(t), `"reason":"agents_unlimited"`); n != 2*3*len(s.ways(s.web))+1 {
			t.Errorf("%d lines of the audit log have the reason agents_unlimited", n)
		}
	})
}
