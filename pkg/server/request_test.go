package server_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen/listentest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

const maxRequest = 8 << 10

func TestRequestsThatAreGranted(t *testing.T) {
	upper := strings.ToUpper(webID)
	for _, row := range []struct{ name, contentType, body string }{
		{"a form, as curl -d sends it", formType, "instance_id=" + webID + "&role=web"},
		{"a form in the other order", formType, "role=web&instance_id=" + webID},
		{"a form with its charset", formType + "; charset=UTF-8", webForm},
		{"a media type in capitals", "Application/X-WWW-Form-Urlencoded", webForm},
		{"a form with escapes", formType, "%69nstance_id=" + strings.ReplaceAll(webID, "-", "%2D") + "&role=w%65b"},
		{"a form with needless ampersands", formType, "&" + webForm + "&&"},
		{"an ID in capitals", formType, form("instance_id", upper, "role", "web")},
		{"a form that asks for JSON", formType, webForm + "&format=json"},
		{"JSON", jsonType, `{"instance_id": "` + webID + `", "role": "web"}`},
		{"JSON with space around it", jsonType, " \r\n\t{\"instance_id\":\"" + webID + "\",\"role\":\"web\"}\n"},
		{"JSON with escapes", jsonType, `{"instance_\u0069d":"` + webID + `","role":"\u0077eb"}`},
		{"a body as long as it may be", jsonType, pad(`{"instance_id":"`+webID+`","role":"web"}`, maxRequest)},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := newScene(t).open(t)
			got := send(t, clientFrom(t, home), http.MethodPost, "http://"+d.serve(t)+"/auth", row.contentType, strings.NewReader(row.body))
			got.granted(t)
			if ct, cc := got.header.Get("Content-Type"), got.header.Get("Cache-Control"); ct != jsonType || cc != "no-store" {
				t.Errorf("Content-Type %q, Cache-Control %q", ct, cc)
			}
			if line := d.audit.only(t, got); line["instance_id"] != webID || line["role"] != "web" || line["outcome"] != "granted" {
				t.Errorf("the audit line is %v", line)
			}
		})
	}
}

func TestTheTokenAlone(t *testing.T) {
	d := newScene(t).open(t)
	got := d.ask(t, home, webForm+"&format=token")
	if got.status != http.StatusOK || strings.Count(got.body, ".") != 2 || strings.TrimSpace(got.body) != got.body {
		t.Errorf("%d %q is not just a token", got.status, got.body)
	}
	if ct, cc := got.header.Get("Content-Type"), got.header.Get("Cache-Control"); ct != "text/plain; charset=utf-8" || cc != "no-store" {
		t.Errorf("Content-Type %q, Cache-Control %q", ct, cc)
	}
}

// The descriptions of errors.
var (
	badID   = "instance_id: " + "an instance ID is a UUID such as 1b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5a21"
	badRole = "role: " + "a role name is 1 to 64 of A-Z a-z 0-9 . _ - and not a single or double dot"
)

const (
	badShape    = "the body must be one JSON object whose values are strings"
	badFields   = "there are more than 16 fields"
	badForm     = "the body is not a form: a value must be percent-encoded"
	badEncoding = "the body is not UTF-8"
	badMedia    = "the body must be application/x-www-form-urlencoded or application/json"
	tooLong     = "the body is longer than 8192 bytes"
	inURL       = "parameters go into the body, not into the URL"
)

func manyFields(n int) string {
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, `,"%x":""`, i)
	}
	return text.String()
}

// badForms and badJSON also seed the fuzz tests.
var badForms = []struct{ name, body, want string }{
	{"empty", "", badID},
	{"no role", "instance_id=" + webID, badRole},
	{"no ID", "role=web", badID},
	{"an empty role", "instance_id=" + webID + "&role=", badRole},
	{"an empty ID", "instance_id=&role=web", badID},
	{"names in capitals", "Instance_ID=" + webID + "&role=web", `unknown field "Instance_ID"; known are instance_id, role, audience, document, format`},
	{"the ID twice", webForm + "&instance_id=" + webID, `field "instance_id" is there 2 times`},
	{"the role twice", webForm + "&role=db", `field "role" is there 2 times`},
	{"the role twice, once in escapes", webForm + "&r%6Fle=db", `field "role" is there 2 times`},
	{"the format twice", webForm + "&format=token&format=token", `field "format" is there 2 times`},
	{"an unknown field", webForm + "&proof=none", `unknown field "proof"; known are instance_id, role, audience, document, format`},
	{"an unknown field with a line end", webForm + "&a%0Ab=1", `unknown field "a?b"; known are instance_id, role, audience, document, format`},
	{"an unknown field with a quote", webForm + `&a"<b=1`, `unknown field "a\"<b"; known are instance_id, role, audience, document, format`},
	{"a very long unknown field", webForm + "&" + strings.Repeat("x", 1000) + "=1", `unknown field "` + strings.Repeat("x", 64) + `"; known are instance_id, role, audience, document, format`},
	{"a field without a name", webForm + "&=1", `unknown field ""; known are instance_id, role, audience, document, format`},
	{"an array as PHP writes it", "instance_id[]=" + webID + "&role=web", `unknown field "instance_id[]"; known are instance_id, role, audience, document, format`},
	{"an ID that climbs to another path", form("instance_id", "../flavors", "role", "web"), badID},
	{"an ID of the right length that climbs", form("instance_id", "../../../../v3/auth/tokens/aaaaaaaaaa", "role", "web"), badID},
	{"an ID with a query", form("instance_id", webID+"?x=1", "role", "web"), badID},
	{"an ID with a fragment", form("instance_id", webID+"#", "role", "web"), badID},
	{"the path of Nova's list", "instance_id=detail&role=web", badID},
	{"an ID in braces", form("instance_id", "{"+webID+"}", "role", "web"), badID},
	{"an ID without dashes", "instance_id=" + strings.ReplaceAll(webID, "-", "") + "&role=web", badID},
	{"an ID as a URN", form("instance_id", "urn:uuid:"+webID, "role", "web"), badID},
	{"an ID with a line end", form("instance_id", webID+"\n", "role", "web"), badID},
	{"an ID with a space in front", form("instance_id", " "+webID, "role", "web"), badID},
	{"an ID with a NUL", form("instance_id", webID+"\x00", "role", "web"), badID},
	{"an ID with a letter beyond f", "instance_id=" + webID[:35] + "g&role=web", badID},
	{"an ID in letters that only look right", form("instance_id", "1b9c7a3е"+webID[9:], "role", "web"), badID},
	{"a role that climbs", form("instance_id", webID, "role", "../web"), badRole},
	{"the role ..", "instance_id=" + webID + "&role=..", badRole},
	{"a role with a slash", form("instance_id", webID, "role", "a/b"), badRole},
	{"a role with a line end", form("instance_id", webID, "role", "web\n"), badRole},
	{"a role with a space", form("instance_id", webID, "role", "web db"), badRole},
	{"a role of 65 letters", "instance_id=" + webID + "&role=" + strings.Repeat("a", 65), badRole},
	{"a role with half a character", "instance_id=" + webID + "&role=web%ff", badRole},
	{"both wrong", "instance_id=x&role=/", badID},
	{"an unknown format", webForm + "&format=xml", "format: is json or token"},
	{"an empty format", webForm + "&format=", "format: is json or token"},
	{"half an escape", webForm + "%2", badForm},
	{"a broken escape", "instance_id=" + webID + "&role=%zz", badForm},
	{"semicolons", "instance_id=" + webID + ";role=web", badForm},
	{"bytes that are not UTF-8", webForm + "\xff", badEncoding},
	{"an overlong encoding", webForm + "\xc0\xaf", badEncoding},
	{"JSON", `{"instance_id":"` + webID + `","role":"web"}`, `unknown field "{\"instance_id\":\"` + webID + `\",\"role\":\"we"; known are instance_id, role, audience, document, format`},
	{"four thousand fields", strings.Repeat("a&", 4_000), badFields},
	{"as many fields as are counted, and one", webForm + strings.Repeat("&a", 15), badFields},
}

var badJSON = []struct{ name, body, want string }{
	{"empty", "", badShape},
	{"an empty object", "{}", badID},
	{"no role", `{"instance_id":"` + webID + `"}`, badRole},
	{"a name in capitals", `{"INSTANCE_ID":"` + webID + `","role":"web"}`, `unknown field "INSTANCE_ID"; known are instance_id, role, audience, document, format`},
	{"an unknown field", `{"instance_id":"` + webID + `","role":"web","admin":"true"}`, `unknown field "admin"; known are instance_id, role, audience, document, format`},
	{"the role twice", `{"instance_id":"` + webID + `","role":"web","role":"web"}`, `field "role" is there twice`},
	{"the role twice, once in escapes", `{"instance_id":"` + webID + `","role":"web","\u0072ole":"db"}`, `field "role" is there twice`},
	{"a number", `{"instance_id":1,"role":"web"}`, badShape},
	{"null", `{"instance_id":null,"role":"web"}`, badShape},
	{"true", `{"instance_id":"` + webID + `","role":true}`, badShape},
	{"NaN", `{"instance_id":NaN,"role":"web"}`, badShape},
	{"a list", `{"instance_id":["` + webID + `"],"role":"web"}`, badShape},
	{"an object in the object", `{"instance_id":{"a":"b"},"role":"web"}`, badShape},
	{"a list of objects", `[{"instance_id":"` + webID + `","role":"web"}]`, badShape},
	{"a string", `"` + webID + `"`, badShape},
	{"null alone", "null", badShape},
	{"words after the object", `{"instance_id":"` + webID + `","role":"web"} and more`, badShape},
	{"a brace too many", `{"instance_id":"` + webID + `","role":"web"}}`, badShape},
	{"a second object", `{"instance_id":"` + webID + `","role":"web"}{"role":"db"}`, badShape},
	{"a second object that does not end", `{"instance_id":"` + webID + `","role":"web"}{`, badShape},
	{"a NUL after the object", `{"instance_id":"` + webID + `","role":"web"}` + "\x00", badShape},
	{"a comma too many", `{"instance_id":"` + webID + `","role":"web",}`, badShape},
	{"a comma in front", `{,"instance_id":"` + webID + `","role":"web"}`, badShape},
	{"no comma", `{"instance_id":"` + webID + `" "role":"web"}`, badShape},
	{"no colon", `{"instance_id" "` + webID + `","role":"web"}`, badShape},
	{"names without quotes", `{instance_id:"` + webID + `",role:"web"}`, badShape},
	{"single quotes", `{'instance_id':'` + webID + `','role':'web'}`, badShape},
	{"a comment", `{"instance_id":"` + webID + `",/**/"role":"web"}`, badShape},
	{"a number as a name", `{1:"` + webID + `","role":"web"}`, badShape},
	{"no end", `{"instance_id":"` + webID + `","role":"web"`, badShape},
	{"a string without an end", `{"instance_id":"` + webID, badShape},
	{"a line end in a string", "{\"instance_id\":\"" + webID + "\",\"role\":\"web\n\"}", badShape},
	{"half a character in escapes", `{"instance_id":"` + webID + `","role":"web\ud800"}`, badRole},
	{"a byte order mark", "\ufeff" + `{"instance_id":"` + webID + `","role":"web"}`, badShape},
	{"bytes that are not UTF-8", `{"instance_id":"` + webID + `","role":"web` + "\xff" + `"}`, badEncoding},
	{"8 KiB of [", strings.Repeat("[", maxRequest), badShape},
	{"8 KiB of [ as a value", `{"role":` + strings.Repeat("[", maxRequest-8), badShape},
	{"8 KiB of objects", strings.Repeat(`{"a":`, maxRequest/5), badShape},
	{"a thousand fields", `{"z":""` + manyFields(500) + `}`, badFields},
	{"a form", webForm, badShape},
}

// A malformed request causes no call to the cloud, spends no attempt, and is never our
// failure.
func TestBadRequests(t *testing.T) {
	d := newScene(t).open(t)
	base, client := "http://"+d.serve(t), clientFrom(t, home)
	var sent int
	check := func(name, target, contentType, body, description string, status int) {
		sent++
		t.Run(name, func(t *testing.T) {
			send(t, client, http.MethodPost, base+target, contentType, strings.NewReader(body)).wants(t, status, "invalid_request", description)
		})
	}
	for _, row := range badForms {
		check("form: "+row.name, "/auth", formType, row.body, row.want, http.StatusBadRequest)
	}
	for _, row := range badJSON {
		check("JSON: "+row.name, "/auth", jsonType, row.body, row.want, http.StatusBadRequest)
	}
	for _, row := range []struct{ name, contentType string }{
		{"no media type", ""},
		{"multipart", "multipart/form-data; boundary=x"},
		{"text", "text/plain"},
		{"almost a form", "application/x-www-form-urlencoded2"},
		{"almost JSON", "application/json+x"},
		{"two media types", "application/json, " + formType},
		{"a broken parameter", "application/json; charset"},
		{"XML", "application/xml"},
	} {
		check("media type: "+row.name, "/auth", row.contentType, webForm, badMedia, http.StatusUnsupportedMediaType)
	}
	for _, query := range []string{"?role=web", "?instance_id=" + webID + "&role=web", "?x", "?"} {
		check("query "+query+" with a good body", "/auth"+query, formType, webForm, inURL, http.StatusBadRequest)
		check("query "+query+" without a body", "/auth"+query, formType, "", inURL, http.StatusBadRequest)
	}
	check("one byte too long", "/auth", jsonType, pad(`{"instance_id":"`+webID+`","role":"web"}`, maxRequest+1), tooLong, http.StatusRequestEntityTooLarge)
	check("300 KiB", "/auth", formType, pad(webForm, 300<<10), tooLong, http.StatusRequestEntityTooLarge)

	d.untouched(t)
	if strings.Contains(d.log.String(), `"ERROR"`) {
		t.Errorf("a malformed request is logged as an error:\n%s", d.log)
	}
	var invalid int
	for _, role := range []string{"web", "unknown"} {
		var n int
		if err := json.Unmarshal([]byte(d.decisions(t, role, "invalid", "request_invalid")), &n); err != nil {
			t.Fatal(err)
		}
		invalid += n
	}
	if invalid != sent {
		t.Errorf("%d requests are counted as invalid, %d were sent", invalid, sent)
	}
	for _, line := range d.log.parsed(t) {
		if line["msg"] == "not judged" && line["client"] != home {
			t.Fatalf("a debug line has another client: %v", line)
		}
	}
}

// Without a Content-Length the body is measured as it comes.
func TestBodyOfUnknownLengthIsMeasured(t *testing.T) {
	d := newScene(t).open(t)
	target := "http://" + d.serve(t) + "/auth"
	body := pad(`{"instance_id":"`+webID+`","role":"web"}`, maxRequest+1)
	send(t, clientFrom(t, home), http.MethodPost, target, jsonType, io.MultiReader(strings.NewReader(body))).wants(t, http.StatusRequestEntityTooLarge, "invalid_request", tooLong)
	d.untouched(t)
	send(t, clientFrom(t, home), http.MethodPost, target, jsonType, io.MultiReader(strings.NewReader(body[:maxRequest]))).granted(t)
}

func TestCompressedBodyIsRefused(t *testing.T) {
	for _, coding := range []string{"gzip", "deflate", "br", "identity, gzip", "x"} {
		d := newScene(t).open(t)
		r := d.request(home, webForm)
		r.Header.Set("Content-Encoding", coding)
		d.do(t, r).wants(t, http.StatusUnsupportedMediaType, "invalid_request", "the body must not be compressed")
		d.untouched(t)
	}
	d := newScene(t).open(t)
	r := d.request(home, webForm)
	r.Header.Set("Content-Encoding", "identity")
	d.do(t, r).granted(t)
}

// An incomplete body is refused.
func TestBodyThatBreaksOff(t *testing.T) {
	d := newScene(t).open(t)
	conn := listentest.DialFrom(t, home, d.serve(t))
	listentest.Send(t, conn, strings.Replace(rawAuth(""), "Content-Length: ", "Content-Length: 1", 1))
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := readStatus(t, conn); got != http.StatusBadRequest {
		t.Errorf("status %d", got)
	}
	d.untouched(t)
}

func TestMethods(t *testing.T) {
	d := newScene(t).open(t)
	base, client := "http://"+d.serve(t), clientFrom(t, home)
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodTrace, "BREW"} {
		got := send(t, client, method, base+"/auth", formType, strings.NewReader(webForm))
		got.wants(t, http.StatusMethodNotAllowed, "invalid_request", "this path takes OPTIONS, POST")
		if allow := got.header.Get("Allow"); allow != "OPTIONS, POST" {
			t.Errorf("%s: Allow is %q", method, allow)
		}
	}
	if got := send(t, client, http.MethodHead, base+"/auth", "", nil); got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") != "OPTIONS, POST" || got.body != "" {
		t.Errorf("HEAD: %d, Allow %q, body %q", got.status, got.header.Get("Allow"), got.body)
	}
	// The answer to OPTIONS is that of RFC 9110, section 9.3.7. It does not allow a
	// browser to send requests from another site.
	got := send(t, client, http.MethodOptions, base+"/auth", "", nil)
	if got.status != http.StatusNoContent || got.header.Get("Allow") != "OPTIONS, POST" || got.body != "" || got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("OPTIONS: %+v", got)
	}
	d.untouched(t)
}

func TestUnknownPaths(t *testing.T) {
	d := newScene(t).open(t)
	base, client := "http://"+d.serve(t), clientFrom(t, home)
	for _, path := range []string{"/", "/auth/", "/Auth", "/auth/x", "//auth", "/auth%2F", "/./auth/../x", "/metrics", "/status", "/debug/pprof/", "/readyz", "/.well-known/", "/%00", "/%ff<script>", "/%61uth", "/auth;x", "/auth%00", "/auth%3Frole=web", "/x/../auth", "/auth\\"} {
		send(t, client, http.MethodPost, base+path, formType, strings.NewReader(webForm)).wants(t, http.StatusNotFound, "invalid_request", "there is nothing at this path")
	}
	d.untouched(t)
}

// net/http answers these before our handler sees them.
func TestRequestsThatAreNotHTTP(t *testing.T) {
	address := newScene(t).open(t).serve(t)
	for name, row := range map[string]struct {
		raw  string
		want int
	}{
		"headers that are far too long": {"POST /auth HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 64<<10) + "\r\n\r\n", http.StatusRequestHeaderFieldsTooLarge},
		"many headers":                  {"POST /auth HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: a\r\n", 10<<10) + "\r\n", http.StatusRequestHeaderFieldsTooLarge},
		"no request":                    {"\x16\x03\x01\r\n\r\n", http.StatusBadRequest},
		"no host":                       {"POST /auth HTTP/1.1\r\n\r\n", http.StatusBadRequest},
		"a header with a NUL":           {"POST /auth HTTP/1.1\r\nHost: x\r\nX: \x00\r\n\r\n", http.StatusBadRequest},
		"two lengths":                   {"POST /auth HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", http.StatusBadRequest},
		"a length below zero":           {"POST /auth HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", http.StatusBadRequest},
		"an unknown transfer coding":    {"POST /auth HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\n\r\n", http.StatusNotImplemented},
		"a path that escapes to broken": {"POST /%zz HTTP/1.1\r\nHost: x\r\n\r\n", http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			conn := listentest.DialFrom(t, home, address)
			listentest.Send(t, conn, row.raw)
			if got := readStatus(t, conn); got != row.want {
				t.Errorf("status %d, want %d", got, row.want)
			}
		})
	}
}

// The ID in an answer is ours. The client's ID is only in the log, where it must not look
// like anything else.
func TestRequestID(t *testing.T) {
	for _, row := range []struct{ name, sent, logged string }{
		{"a plain one", "deploy-7", "deploy-7"},
		{"none", "", ""},
		{"one of ours", strings.Repeat("a", 32), strings.Repeat("a", 32)},
		{"a second line", "x\r\n{\"outcome\":\"granted\"}", "x??{\"outcome\":\"granted\"}"},
		{"control characters", "\x1b[31m\x00\t\x7f", "?[31m???"},
		{"not ASCII", "\u202eabc\xff", "???abc?"},
		{"10 KB", strings.Repeat("x", 10<<10), strings.Repeat("x", 64)},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := newScene(t).open(t)
			r := d.request(other, webForm)
			r.Header["X-Request-Id"] = []string{row.sent}
			got := d.do(t, r)
			got.wants(t, http.StatusForbidden, "access_denied", "")
			if got.header.Get("X-Request-Id") == row.sent || len(got.header.Values("X-Request-Id")) != 1 {
				t.Errorf("the answer's request IDs are %q", got.header.Values("X-Request-Id"))
			}
			if logged, _ := d.audit.only(t, got)["client_request_id"].(string); logged != row.logged {
				t.Errorf("the audit line has %q, want %q", logged, row.logged)
			}
			if n := strings.Count(d.audit.String(), "\n"); n != 1 {
				t.Errorf("there are %d audit lines", n)
			}
		})
	}
}

func TestRequestIDsDiffer(t *testing.T) {
	d := newScene(t).open(t)
	seen := map[string]bool{}
	for range 100 {
		id := d.ask(t, other, webForm).header.Get("X-Request-Id")
		if !ourID.MatchString(id) || seen[id] {
			t.Fatalf("%q is not a new request ID", id)
		}
		seen[id] = true
	}
}

func FuzzParseForm(f *testing.F) {
	f.Add([]byte(webForm))
	for _, row := range badForms {
		f.Add([]byte(row.body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		fields, err := server.ParseForm(body)
		if err != nil {
			refuses(t, err)
			return
		}
		values := url.Values{}
		for name, value := range fields {
			values.Set(name, value)
		}
		again, err := server.ParseForm([]byte(values.Encode()))
		if diff := cmp.Diff(fields, again); err != nil || diff != "" {
			t.Errorf("the fields, written and read again (error %v):\n%s", err, diff)
		}
		if n := bytes.Count(body, []byte("&")) + 1; len(fields) > n {
			t.Errorf("%d fields of %d pairs", len(fields), n)
		}
	})
}

func FuzzParseJSON(f *testing.F) {
	f.Add([]byte(`{"instance_id":"` + webID + `","role":"web"}`))
	for _, row := range badJSON {
		f.Add([]byte(row.body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		fields, err := server.ParseJSON(body)
		if err != nil {
			refuses(t, err)
			return
		}
		// encoding/json reads the same fields.
		var theirs map[string]string
		if err := json.Unmarshal(body, &theirs); err != nil || theirs == nil || !maps.Equal(fields, theirs) {
			t.Errorf("%q is %v to us, and to encoding/json %v, %v", body, fields, theirs, err)
		}
		text, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := server.ParseJSON(text); err != nil || !maps.Equal(fields, again) {
			t.Errorf("%v, written and read again, is %v, %v", fields, again, err)
		}
	})
}

// refuses checks an error of a parser, which the client gets.
func refuses(t *testing.T, err error) {
	t.Helper()
	var bad *server.BadRequest
	if !errors.As(err, &bad) {
		t.Fatalf("%v (%T) is not a bad request", err, err)
	}
	for _, c := range bad.Error() {
		if c < ' ' || c > '~' {
			t.Errorf("%q gets to the client", bad.Error())
		}
	}
	if !utf8.ValidString(bad.Error()) || len(bad.Error()) > 512 {
		t.Errorf("%q gets to the client", bad.Error())
	}
}

// pad gives s with spaces to a length.
func pad(s string, length int) string { return s + strings.Repeat(" ", length-len(s)) }

// A host in the request target changes nothing.
func TestAbsoluteForm(t *testing.T) {
	d := newScene(t).open(t)
	conn := listentest.DialFrom(t, home, d.serve(t))
	listentest.Send(t, conn, strings.Replace(rawAuth(""), "POST /auth ", "POST http://other.example/auth ", 1))
	if got := readStatus(t, conn); got != http.StatusOK {
		t.Errorf("status %d", got)
	}
}

// A client with Expect: 100-continue sends its body, unless the headers are enough to
// refuse the request.
func TestExpectContinue(t *testing.T) {
	for _, row := range []struct {
		name, old, now string
		want           []int
	}{
		{"a good request", "", "", []int{http.StatusContinue, http.StatusOK}},
		{"another media type", formType, "text/plain", []int{http.StatusUnsupportedMediaType}},
		{"a query", "/auth", "/auth?x=1", []int{http.StatusBadRequest}},
		{"another method", "POST", "PUT", []int{http.StatusMethodNotAllowed}},
		{"a body that is too long", "Content-Length: ", "Content-Length: 1000", []int{http.StatusRequestEntityTooLarge}},
		{"another expectation", "100-continue", "200-ok", []int{http.StatusExpectationFailed}},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := newScene(t).open(t)
			conn := listentest.DialFrom(t, home, d.serve(t))
			head, form, _ := strings.Cut(rawAuth("Expect: 100-continue\r\n"), "\r\n\r\n")
			listentest.Send(t, conn, strings.Replace(head, row.old, row.now, 1)+"\r\n\r\n")
			r := bufio.NewReader(conn)
			for i, want := range row.want {
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if resp.StatusCode != want {
					t.Fatalf("answer %d is %d, want %d", i+1, resp.StatusCode, want)
				}
				if want == http.StatusContinue {
					listentest.Send(t, conn, form)
				}
			}
		})
	}
}

func TestLongHeaders(t *testing.T) {
	s := newScene(t)
	s.tls = listentest.NewCertificate(t, "id.example.com").Load(t)
	d := s.open(t)
	base := "https://" + d.serve(t)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true,
	}}
	t.Cleanup(client.CloseIdleConnections)
	for name, header := range map[string]http.Header{
		"one long value":               {"X": {strings.Repeat("a", 17<<10)}},
		"one value that is far longer": {"X": {strings.Repeat("a", 60<<10)}},
		"many short values":            {"X": slices.Repeat([]string{"a"}, 600)},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{"/auth", jwks, "/none"} {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+path, strings.NewReader(webForm))
				if err != nil {
					t.Fatal(err)
				}
				r.Header = header.Clone()
				r.Header.Set("Content-Type", formType)
				sendRequest(t, client, r).wants(t, http.StatusRequestHeaderFieldsTooLarge, "invalid_request", "the headers are longer than 16384 bytes or have more than 128 lines")
			}
		})
	}
	d.untouched(t)
}
