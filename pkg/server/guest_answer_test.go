package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen/listentest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

// claimed are the headers of an agent that asks for the instance.
const claimed = "Host: x\r\nX-Forwarded-For: " + home + "\r\nX-Instance-ID: " + webID + "\r\nX-Tenant-ID: " + project + "\r\nX-Instance-ID-Signature: %s\r\n"

// agentRequest is what an agent sends for a request line without its version. more has further
// headers, and the body.
func agentRequest(line, more string) string {
	if !strings.Contains(more, "\r\n\r\n") {
		more += "\r\n"
	}
	return line + " HTTP/1.1\r\n" + fmt.Sprintf(claimed, sign(webID, secret)) + "Connection: close\r\n" + more
}

// exchange sends a request and returns the answer, byte for byte. The server may answer before
// it has read all.
func exchange(t *testing.T, at, request string) string {
	t.Helper()
	conn := listentest.DialFrom(t, home, at)
	_, _ = io.WriteString(conn, request)
	all, err := io.ReadAll(conn)
	if err != nil && len(all) == 0 {
		t.Fatal(err)
	}
	return string(all)
}

// guestAnswer reads the bytes of an answer and fails the test unless all releases of the agent
// pass it on: they drop other statuses, answers without a body, chunks, and what is not ASCII.
func guestAnswer(t *testing.T, got string) (status int, body string) {
	t.Helper()
	head, body, _ := strings.Cut(got, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	if _, err := fmt.Sscanf(lines[0], "HTTP/1.1 %d ", &status); err != nil {
		t.Fatalf("no answer but %.200q", got)
	}
	if !slices.Contains([]int{200, 400, 403, 404, 409, 500}, status) {
		t.Errorf("status %d does not reach the guest", status)
	}
	header := map[string][]string{}
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		header[strings.ToLower(name)] = append(header[strings.ToLower(name)], value)
	}
	if want := []string{strconv.Itoa(len(body))}; !slices.Equal(header["content-length"], want) || body == "" || header["transfer-encoding"] != nil {
		t.Errorf("Content-Length is %q with %d bytes, Transfer-Encoding %q", header["content-length"], len(body), header["transfer-encoding"])
	}
	switch types := header["content-type"]; {
	case slices.Equal(types, []string{"application/json"}):
		if !json.Valid([]byte(body)) {
			t.Errorf("the body is not JSON: %q", body)
		}
	case status != 200 || !slices.Equal(types, []string{"text/plain; charset=utf-8"}):
		t.Errorf("Content-Type is %q", types)
	}
	if strings.ContainsFunc(got, func(r rune) bool { return r > '~' || r < ' ' && r != '\r' && r != '\n' }) {
		t.Errorf("the answer is not ASCII: %q", got)
	}
	if status == 403 && !regexp.MustCompile(`\A{"error":"access_denied","request_id":"[0-9a-f]{32}"}\n\z`).MatchString(body) {
		t.Errorf("a denial that can be told apart: %s", body)
	}
	for _, hidden := range []string{secret, sign(webID, secret), project, home, "127.0.0.1", "192.0.2."} {
		if strings.Contains(body, hidden) {
			t.Errorf("the guest learns %q: %s", hidden, body)
		}
	}
	return status, body
}

// Whatever happens, the guest gets one of six statuses and a body.
func TestAllAnswersReachTheGuest(t *testing.T) {
	fails := func(err error) func(*scene) {
		return func(s *scene) {
			s.cloud = cloudFunc(func(context.Context) (attest.Instance, error) { return attest.Instance{}, err })
		}
	}
	long := strings.Repeat("a", 5<<10)
	const put = "PUT " + webToken
	wrong := "X-Tenant-ID: other\r\n\r\n"
	for _, tt := range []struct {
		name    string
		edit    func(*scene)
		request string
		status  int
		word    string
	}{
		{"a token", nil, agentRequest(put, ""), 200, `"token"`},
		{"a bare token", nil, agentRequest(put+"&format=token", ""), 200, "."},
		{"a length of 0", nil, agentRequest(put, "Content-Length: 0\r\n"), 200, `"token"`},
		{"roles", nil, agentRequest("GET /identity/roles", ""), 200, `["web"]`},
		{"many roles", func(s *scene) {
			for i := range 200 {
				s.more = append(s.more, fmt.Sprintf("role-with-a-long-name-%d", i))
			}
		}, agentRequest("GET /identity/roles", ""), 200, "name-199"},

		{"no role", nil, agentRequest("PUT /identity/token", ""), 400, "invalid_request"},
		{"a field beyond ASCII", nil, agentRequest("PUT /identity/token?r%C3%B6le=web", ""), 400, "invalid_request"},
		{"a role beyond ASCII", nil, agentRequest("PUT /identity/token?role=%C3%B6%00%FF", ""), 400, "invalid_request"},
		{"an audience beyond ASCII", nil, agentRequest(put+"&audience=%C3%B6%00%FF", ""), 400, "invalid_request"},
		{"a format beyond ASCII", nil, agentRequest(put+"&format=%C3%B6", ""), 400, "invalid_request"},
		{"a field twice", nil, agentRequest(put+"&%22%0d%0a=1&%22%0d%0a=2", ""), 400, "invalid_request"},
		{"a broken query", nil, agentRequest("PUT /identity/token?role=%zz", ""), 400, "invalid_request"},
		{"many fields", nil, agentRequest(put+strings.Repeat("&a=b", 500), ""), 400, "invalid_request"},
		{"a long query", nil, agentRequest(put+"&audience="+long, ""), 400, "invalid_request"},
		{"a longer query", nil, agentRequest(put+"&audience="+long+long, ""), 400, "invalid_request"},
		{"a parameter for roles", nil, agentRequest("GET /identity/roles?role=web", ""), 400, "invalid_request"},
		{"GET", nil, agentRequest("GET "+webToken, ""), 400, "invalid_request"},
		{"POST", nil, agentRequest("POST "+webToken, "Content-Length: 0\r\n"), 400, "invalid_request"},
		{"a form", nil, agentRequest("POST /identity/token", "Content-Type: "+formType+"\r\nContent-Length: 8\r\n\r\nrole=web"), 400, "invalid_request"},
		{"an invented method", nil, agentRequest("FOO "+webToken, ""), 400, "invalid_request"},
		{"TRACE", nil, agentRequest("TRACE "+webToken, ""), 400, "invalid_request"},
		{"OPTIONS for all", nil, agentRequest("OPTIONS *", ""), 404, "invalid_request"},
		{"CONNECT", nil, agentRequest("CONNECT x:80", ""), 400, "invalid_request"},
		{"PUT for roles", nil, agentRequest("PUT /identity/roles", ""), 400, "invalid_request"},
		{"a body", nil, agentRequest(put, "Content-Length: 5\r\n\r\nhello"), 400, "invalid_request"},
		{"a large body", nil, agentRequest(put, "Content-Length: 1000000\r\n\r\n"+strings.Repeat("a", 1000)), 400, "invalid_request"},
		{"a body that does not come", nil, agentRequest(put, "Content-Length: 5\r\n"), 400, "invalid_request"},
		{"a body that does not come on a connection that stays", nil, strings.Replace(agentRequest(put, "Content-Length: 5\r\n"), "Connection: close\r\n", "", 1), 400, "invalid_request"},
		{"a request behind a body", nil, strings.Replace(agentRequest(put, "Content-Length: 5\r\n\r\nhello"), "Connection: close\r\n", "", 1) + agentRequest("GET /identity/roles", ""), 400, "invalid_request"},
		{"a body in chunks", nil, agentRequest(put, "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), 400, "invalid_request"},
		{"a broken chunk", nil, agentRequest(put, "Transfer-Encoding: chunked\r\n\r\nzz\r\n"), 400, "invalid_request"},
		{"an unknown encoding", nil, agentRequest(put, "Transfer-Encoding: x\r\n"), 400, "invalid_request"},
		{"an expectation", nil, agentRequest(put, "Expect: more\r\n"), 400, "invalid_request"},
		{"100-continue", nil, agentRequest(put, "Expect: 100-continue\r\nContent-Length: 5\r\n"), 400, "invalid_request"},
		{"long headers", nil, agentRequest(put, "X: "+strings.Repeat("a", 17<<10)+"\r\n"), 400, "invalid_request"},
		{"longer headers", nil, agentRequest(put, "X: "+strings.Repeat("a", 40<<10)+"\r\n"), 400, "invalid_request"},
		{"many headers", nil, agentRequest(put, strings.Repeat("a:b\r\n", 1000)), 400, "invalid_request"},
		{"a header that is none", nil, agentRequest(put, "a b\r\n"), 400, "invalid_request"},
		{"another version", nil, "GET / HTTP/3.0\r\nHost: x\r\n\r\n", 400, "invalid_request"},
		{"no host", nil, "GET / HTTP/1.1\r\n\r\n", 400, "invalid_request"},
		{"no HTTP", nil, "hello\r\n\r\n", 400, "invalid_request"},
		{"a broken path", nil, agentRequest("GET /%zz", ""), 400, "invalid_request"},
		{"a target that is no path", nil, agentRequest("PUT http://x"+webToken, ""), 400, "invalid_request"},

		{"a path like ours", nil, agentRequest("PUT //identity/token?role=web", ""), 404, "invalid_request"},
		{"our prefix", nil, agentRequest("GET /identity/", ""), 404, "invalid_request"},
		{"a path of Nova, without Nova", nil, agentRequest("GET /latest", ""), 404, "invalid_request"},

		{"no signature", nil, put + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 403, "access_denied"},
		{"two projects", nil, agentRequest(put, wrong), 403, "access_denied"},
		{"an unknown role", nil, agentRequest("PUT /identity/token?role=db", ""), 403, "access_denied"},
		{"another audience", nil, agentRequest(put+"&audience=vault", ""), 403, "access_denied"},
		{"an unknown instance", fails(attest.ErrNoInstance), agentRequest(put, ""), 403, "access_denied"},
		{"another address", func(s *scene) { s.instance.Addresses = addresses("127.0.0.2") }, agentRequest(put, ""), 403, "access_denied"},
		{"another project", func(s *scene) { s.instance.ProjectID = "other" }, agentRequest(put, ""), 403, "access_denied"},
		{"a rule", func(s *scene) { s.rules = attest.Rules{ProjectID: []string{"other"}} }, agentRequest(put, ""), 403, "access_denied"},
		{"stopped", func(s *scene) { s.instance.Phase = attest.PhaseInactive }, agentRequest(put, ""), 403, "access_denied"},
		{"stopped, and roles", func(s *scene) { s.instance.Phase = attest.PhaseInactive }, agentRequest("GET /identity/roles", ""), 403, "access_denied"},
		{"agents without a limit", func(s *scene) { s.unlimited = true }, agentRequest(put, ""), 403, "access_denied"},

		{"too many of the instance", func(s *scene) { s.instances = ratelimit.Rate{Rate: 0.001, Burst: 1} }, agentRequest(put, ""), 409, "slow_down"},
		{"too many of the agent", func(s *scene) { s.throttle = ratelimit.Rate{Rate: 0.001, Burst: 1} }, agentRequest(put, wrong), 409, "slow_down"},
		{"too many lookups", fails(attest.ErrTooManyLookups), agentRequest(put, ""), 409, "slow_down"},

		{"not yet", func(s *scene) {
			s.instance.Phase, s.instance.Launching, s.instance.Addresses = attest.PhaseSpawning, true, nil
		}, agentRequest(put, ""), 500, "temporarily_unavailable"},
		{"the cloud is away", fails(errors.New("away")), agentRequest(put, ""), 500, "temporarily_unavailable"},
		{"the cloud is away, and roles", fails(errors.New("away")), agentRequest("GET /identity/roles", ""), 500, "temporarily_unavailable"},
		{"the state is away", func(s *scene) { s.attempts = &attesttest.State{Err: errSecret} }, agentRequest(put, ""), 500, "temporarily_unavailable"},
		{"no key may sign", func(s *scene) { s.unusable = new(atomic.Bool); s.unusable.Store(true) }, agentRequest(put, ""), 500, "temporarily_unavailable"},
		{"the audit log is full", func(s *scene) { s.audit = noRoom{} }, agentRequest(put, ""), 500, "temporarily_unavailable"},
		{"a defect", func(s *scene) {
			s.cloud = cloudFunc(func(context.Context) (attest.Instance, error) { panic("a defect") })
		}, agentRequest(put, ""), 500, "server_error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			if tt.edit != nil {
				tt.edit(s)
			}
			h := newMetadataDoor(t, s, loopbackAgents(""))
			at := h.serveAgents(t)
			if tt.status == http.StatusConflict {
				exchange(t, at, tt.request)
			}
			began := time.Now()
			status, body := guestAnswer(t, exchange(t, at, tt.request))
			if status != tt.status || !strings.Contains(body, tt.word) {
				t.Errorf("%d %s, want %d with %s", status, body, tt.status, tt.word)
			}
			if took := time.Since(began); took > 3*time.Second { // the read deadline is 10 s
				t.Errorf("it took %v", took)
			}
			if again := tt.word == "slow_down" || tt.word == "temporarily_unavailable"; again != regexp.MustCompile(`"retry_after":[1-9][0-9]*,`).MatchString(body) {
				t.Errorf("when to ask again: %s", body)
			}
		})
	}
}

// One place gives all answers their form, whatever a handler does.
func TestAnswerGuest(t *testing.T) {
	write := func(status int, contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			if status != 0 {
				w.WriteHeader(status)
			}
			_, _ = io.WriteString(w, body)
		}
	}
	text := "text/plain; charset=utf-8"
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		status int
		kind   string
		want   string // "" for the error of a defect
	}{
		{"JSON", write(0, jsonType, `{"a":1}`), 200, jsonType, `{"a":1}`},
		{"JSON with a charset", write(0, "application/json; charset=UTF-8", `{}`), 200, jsonType, `{}`},
		{"JSON beyond ASCII", write(0, jsonType, `{"\u00e4":"ä€😀`+"\xff"+`"}`), 200, jsonType, `{"\u00e4":"\u00e4\u20ac\ud83d\ude00\ufffd"}`},
		{"text", write(0, text, "a.b.c"), 200, text, "a.b.c"},
		{"text beyond ASCII", write(0, text, "ä.\xff"), 200, text, "?.?"},
		{"another type", write(0, "application/jwt", "a.b.c"), 200, text, "a.b.c"},
		{"no type", write(0, "", "a"), 200, text, "a"},
		{"a long text", write(0, text, strings.Repeat("a", 1<<16)), 200, text, strings.Repeat("a", 1<<16)},
		{"two statuses", func(w http.ResponseWriter, r *http.Request) {
			write(403, text, "a")(w, r)
			w.WriteHeader(http.StatusOK)
		}, 403, text, "a"},
		{"headers for chunks", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Transfer-Encoding", "chunked")
			w.Header().Set("Trailer", "X")
			w.Header().Set("Content-Length", "1")
			w.Header().Set("Content-Encoding", "gzip")
			write(0, text, "ab")(w, r)
		}, 200, text, "ab"},
		{"nothing", func(http.ResponseWriter, *http.Request) {}, 500, jsonType, ""},
		{"no body", write(200, text, ""), 500, jsonType, ""},
		{"no content", write(204, "", ""), 500, jsonType, ""},
		{"a defect", func(w http.ResponseWriter, r *http.Request) { write(200, text, "half a tok")(w, r); panic("a defect") }, 500, jsonType, ""},
		{"a cut answer", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 500, jsonType, ""},
		{"400", write(400, text, "a"), 400, text, "a"},
		{"401", write(401, text, "a"), 400, text, "a"},
		{"403", write(403, text, "a"), 403, text, "a"},
		{"404", write(404, text, "a"), 404, text, "a"},
		{"405", write(405, text, "a"), 400, text, "a"},
		{"409", write(409, text, "a"), 409, text, "a"},
		{"413", write(413, text, "a"), 400, text, "a"},
		{"429", write(429, text, "a"), 409, text, "a"},
		{"499", write(499, text, "a"), 400, text, "a"},
		{"500", write(500, text, "a"), 500, text, "a"},
		{"502", write(502, text, "a"), 500, text, "a"},
		{"503", write(503, text, "a"), 500, text, "a"},
		{"599", write(599, text, "a"), 500, text, "a"},
		{"201", write(201, text, "a"), 500, text, "a"},
		{"302", write(302, text, "a"), 500, text, "a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var defects []string
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				server.AnswerGuest(w, r, tt.answer, func(id string, _ any) { defects = append(defects, id) })
			}))
			defer s.Close()
			got := send(t, s.Client(), http.MethodGet, s.URL, "", nil)
			id := got.header.Get("X-Request-Id")
			want := tt.want
			if want == "" {
				want = `{"error":"server_error","request_id":"` + id + `"}` + "\n"
			}
			if got.status != tt.status || got.body != want || got.header.Get("Content-Type") != tt.kind || got.header.Get("Content-Length") != strconv.Itoa(len(want)) {
				t.Errorf("%d %q %v", got.status, got.body, got.header)
			}
			for _, name := range []string{"Transfer-Encoding", "Trailer", "Content-Encoding"} {
				if got.header.Get(name) != "" {
					t.Errorf("%s is %q", name, got.header.Get(name))
				}
			}
			if panics := tt.name == "a defect" || tt.name == "a cut answer"; panics != (len(defects) == 1 && defects[0] == id) {
				t.Errorf("the defects are %v", defects)
			}
		})
	}
}

// noRoom takes no line of the audit log.
type noRoom struct{}

func (noRoom) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// A peer that is not an agent gets the same denial as an instance, and so does one that asks
// before the server can judge.
func TestAnswersOutsideOfADecisionReachTheGuest(t *testing.T) {
	h := newMetadataDoor(t, newScene(t), func(c *server.MetadataServiceConfig) {
		c.Agents, c.Proxies = prefixes(agentAddr+"/32"), prefixes("127.0.0.1/32")
	})
	at := h.serveAgents(t)
	from := func(peer string) string {
		var b bytes.Buffer
		p := &proxyproto.Header{Version: 2, Command: proxyproto.PROXY, TransportProtocol: proxyproto.TCPv4,
			SourceAddr: &net.TCPAddr{IP: net.ParseIP(peer), Port: 4711}, DestinationAddr: &net.TCPAddr{IP: net.ParseIP("192.0.2.5"), Port: 8775}}
		_, _ = p.WriteTo(&b)
		return b.String()
	}
	for _, line := range []string{"PUT " + webToken, "GET /latest", "GET /identity", "PUT http://x/"} {
		if status, body := guestAnswer(t, exchange(t, at, from("192.0.2.31")+agentRequest(line, ""))); status != 403 {
			t.Errorf("%s of another peer: %d %s", line, status, body)
		}
	}
	h.handler.Attach(nil)
	for _, line := range []string{"PUT " + webToken, "GET /identity/roles", "POST /identity/token"} {
		status, body := guestAnswer(t, exchange(t, at, from(agentAddr)+agentRequest(line, "")))
		if status != 500 || !strings.Contains(body, `"temporarily_unavailable"`) || !strings.Contains(body, `"retry_after":`) {
			t.Errorf("%s before there is a server: %d %s", line, status, body)
		}
	}
	if status, body := guestAnswer(t, exchange(t, at, from("192.0.2.31")+agentRequest("PUT "+webToken, ""))); status != 403 {
		t.Errorf("another peer before there is a server: %d %s", status, body)
	}
}

// The proxy's own errors reach the guest, too.
func TestAnswersInPlaceOfNovasReachTheGuest(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	says := make(chan string, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, <-says)
			_ = c.Close()
		}
	}()
	h := newMetadataDoor(t, newScene(t), loopbackAgents("http://"+l.Addr().String()))
	at := h.serveAgents(t)
	for name, answer := range map[string]string{
		"nothing": "", "no HTTP": "hello\r\n", "half a header": "HTTP/1.1 200 OK\r\nContent-Le", "a long header": "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 64<<10) + "\r\n\r\n",
		"a broken length": "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
	} {
		says <- answer
		if status, body := guestAnswer(t, exchange(t, at, agentRequest("GET /latest", ""))); status != 500 || !strings.Contains(body, `"temporarily_unavailable"`) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	_ = l.Close()
	for _, request := range []string{
		agentRequest("GET /latest", ""),
		agentRequest("POST /openstack/latest/password", "Content-Length: 5\r\n"),
		agentRequest("GET /latest", "Upgrade: \x80\r\nConnection: upgrade\r\n"),
	} {
		if status, body := guestAnswer(t, exchange(t, at, request)); status != 500 || !strings.Contains(body, `"temporarily_unavailable"`) {
			t.Errorf("nova is away: %d %s", status, body)
		}
	}
}

// HEAD has no body, so agents since 2025.1 answer 502 in place of any status but 200. So
// HEAD must never get 200 at the path of a token.
func TestHeadGetsNoToken(t *testing.T) {
	at := newMetadataDoor(t, newScene(t), loopbackAgents("")).serveAgents(t)
	for _, target := range []string{webToken, "/identity/roles", "/identity/"} {
		got := exchange(t, at, agentRequest("HEAD "+target, ""))
		if head, body, _ := strings.Cut(got, "\r\n\r\n"); !strings.HasPrefix(head, "HTTP/1.1 40") || body != "" || !strings.Contains(head, "\r\nContent-Length: ") {
			t.Errorf("%s: %q", target, got)
		}
	}
}

// Requests in flight are answered when the server stops.
func TestAnswersOfAServerThatStops(t *testing.T) {
	s, asked, answer := newScene(t), make(chan struct{}), make(chan struct{})
	s.cloud = cloudFunc(func(context.Context) (attest.Instance, error) {
		close(asked)
		<-answer
		return attest.Instance{}, errors.New("the server is stopping")
	})
	h := newMetadataDoor(t, s, loopbackAgents(""))
	e, err := h.handler.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- listen.Serve(ctx, h.logger, e) }()
	conn := listentest.DialFrom(t, home, e.Listener.Addr().String())
	listentest.Send(t, conn, agentRequest("PUT "+webToken, ""))
	<-asked
	stop()
	awaittest.True(t, "the listener is closed", func() bool {
		c, err := net.Dial("tcp", e.Listener.Addr().String())
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	close(answer)
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if status, body := guestAnswer(t, string(all)); status != 500 {
		t.Errorf("%d %s", status, body)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Whatever bytes a guest makes an agent send, each answer reaches the guest, and no claim that
// is not signed gets a token.
func FuzzBytesToTheAgentsListener(f *testing.F) {
	h := newMetadataDoor(f, newScene(f), func(c *server.MetadataServiceConfig) { c.Agents = prefixes("127.0.0.0/8") })
	at := h.serveAgents(f)
	var calls atomic.Uint32
	for _, seed := range []string{
		agentRequest("PUT "+webToken, ""), agentRequest("GET /identity/roles", ""), agentRequest("PUT "+webToken, "Content-Length: 5\r\n\r\nhello"),
		agentRequest("PUT "+webToken, "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n"), agentRequest("POST /latest", "Expect: 100-continue\r\nContent-Length: 5\r\n"),
		"GET /latest HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\nHost: x\n\n", "\r\n\r\nGET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET /identity/../identity HTTP/1.1\r\nHost: x\r\n\r\nPUT /identity/token?role=%ff HTTP/1.1\r\nHost: x\r\n\r\n", "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", "GET / HTTP/1.1\r\nHost: \x00\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, request []byte) {
		if bytes.Contains(request, []byte("HEAD")) {
			return // its answer has no body
		}
		n := calls.Add(1) // one address has too few ports
		conn := listentest.DialFrom(t, fmt.Sprintf("127.1.%d.%d", n>>8%250, 1+n%250), at)
		_, _ = conn.Write(request)
		_ = conn.(*net.TCPConn).CloseWrite()
		all, _ := io.ReadAll(conn)
		for r := bufio.NewReader(bytes.NewReader(all)); ; {
			began := len(all) - r.Buffered()
			if _, err := r.Peek(1); err != nil {
				return
			}
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("%q is answered with %q from byte %d", request, all, began)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || len(body) == 0 || resp.ContentLength != int64(len(body)) || len(resp.TransferEncoding) > 0 || !slices.Contains([]int{200, 400, 403, 404, 409, 500}, resp.StatusCode) ||
				bytes.ContainsFunc(body, func(r rune) bool { return r > '~' }) {
				t.Fatalf("%q is answered with %q, %v", request, all, err)
			}
			if kind := resp.Header.Get("Content-Type"); kind != jsonType && kind != "text/plain; charset=utf-8" {
				t.Fatalf("%q is answered with %q", request, all)
			}
			if resp.StatusCode == 200 && !bytes.Contains(bytes.ToLower(request), []byte(sign(webID, secret))) {
				t.Fatalf("%q gets %q", request, all)
			}
		}
	})
}
