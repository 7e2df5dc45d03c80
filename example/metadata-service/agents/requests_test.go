//go:build agents

package agents_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// The many forms of a request.
func requests(t *testing.T, s *site, name string) {
	g := s.web
	w := g.way(name)
	const put = "PUT /identity/token?role=only-web HTTP/1.1\r\n"
	length := func(n int) string { return fmt.Sprintf("Content-Length: %d\r\n", n) }
	granted, refused, missing := []int{200}, []int{400}, []int{404}
	either := []int{200, 400} // by how the request is cut into segments
	for _, row := range []struct {
		name   string
		status []int
		pieces []string
	}{
		{"Content-Length: 0", granted, []string{put + hostLine + length(0) + closeLine + "\r\n"}},
		{"HTTP/1.0", granted, []string{"PUT /identity/token?role=only-web HTTP/1.0\r\n\r\n"}},
		{"no Host", granted, []string{put + closeLine + "\r\n"}},
		{"lines end with LF", granted, []string{"PUT /identity/token?role=only-web HTTP/1.1\nHost: x\nConnection: close\n\n"}},
		{"headers in two segments", granted, []string{put + "Ho", "st: 169.254.169.254\r\n" + closeLine + "\r\n"}},
		{"Expect, without a body", granted, []string{put + hostLine + length(0) + "Expect: 100-continue\r\n" + closeLine + "\r\n"}},
		{"a body", refused, []string{put + hostLine + length(13) + closeLine + "\r\nrole=only-web"}},
		{"a body in a segment of its own", either, []string{put + hostLine + length(13) + closeLine + "\r\n", "role=only-web"}},
		{"Expect, with a body", either, []string{put + hostLine + length(13) + "Expect: 100-continue\r\n" + closeLine + "\r\n", "role=only-web"}},
		{"a body in chunks", either, []string{put + hostLine + "Transfer-Encoding: chunked\r\n" + closeLine + "\r\nd\r\nrole=only-web\r\n0\r\n\r\n"}},
		{"no chunks", either, []string{put + hostLine + "Transfer-Encoding: chunked\r\n" + closeLine + "\r\n0\r\n\r\n"}},
		{"a body that is a request", either, []string{"PUT /identity/token?role=only-web HTTP/1.1\r\n" + hostLine + length(len(request("PUT /identity/token?role=only-db"))) + closeLine + "\r\n" + request("PUT /identity/token?role=only-db")}},
		{"a method in lower case", granted, []string{request("put /identity/token?role=only-web")}}, // the agent makes it PUT
		{"an escaped letter", granted, []string{request("PUT /identity/%74oken?role=only-web")}},
		{"an escaped slash", granted, []string{request("PUT /identity%2Ftoken?role=only-web")}},
		{"a dot segment", granted, []string{request("PUT /latest/../identity/token?role=only-web")}},
		{"two slashes at the beginning", []int{200, 404}, []string{request("PUT //identity/token?role=only-web")}},
		{"two slashes within", missing, []string{request("PUT /identity//token?role=only-web")}},
		{"a path parameter", missing, []string{request("PUT /identity/token;v=1?role=only-web")}},
		{"an escaped NUL", missing, []string{request("PUT /identity/token%00?role=only-web")}},
		{"a fragment", refused, []string{request("PUT /identity/token?role=only-web#x")}},
		{"bytes beyond ASCII", refused, []string{request("PUT /identity/tok\xc3\xa9n?role=only-web")}},
		{"CONNECT", refused, []string{request("CONNECT /identity/token?role=only-web")}},
		{"a long query", granted, []string{request("PUT /identity/token?role=for-all&audience=https://v.example.com/" + strings.Repeat("a", 200))}},
		{"a query of 5 KB", refused, []string{request("PUT /identity/token?role=only-web&audience=" + strings.Repeat("a", 5000))}},
		{"headers of 5 KB", refused, []string{request("PUT /identity/token?role=only-web", "X-Pad: "+strings.Repeat("a", 5000)+"\r\n")}},
		{"headers of 5 KB, for roles", refused, []string{request("GET /identity/roles", "X-Pad: "+strings.Repeat("a", 5000)+"\r\n")}},
		{"headers of 5 KB, for Nova", refused, []string{request("GET /latest/meta-data/", "X-Pad: "+strings.Repeat("a", 5000)+"\r\n")}},
	} {
		t.Run(row.name, func(t *testing.T) {
			a, err := g.ask(w, row.pieces...)
			if must(t, a, err); !slices.Contains(row.status, a.status) {
				t.Errorf("%s, want %v", a, row.status)
			}
			if a.status == http.StatusOK {
				s.wantToken(t, a)
			}
		})
	}

	// The agents of WSGI make a path of it that is Nova's, the others leave scheme and host out.
	for _, host := range []string{"169.254.169.254", "id.example.com"} {
		t.Run("the absolute form, "+host, func(t *testing.T) {
			a, err := g.ask(w, request("PUT http://"+host+"/identity/token?role=only-web"))
			if must(t, a, err); !slices.Contains([]int{200, 400, 404}, a.status) {
				t.Error(a)
			}
		})
	}

	// One connection, several requests.
	kept := func(line string) string { return line + " HTTP/1.1\r\n" + hostLine + "\r\n" }
	lines := []string{"PUT /identity/token?role=only-web", "GET /latest/meta-data/", "GET /identity/roles", "PUT /identity/token?role=only-db", "PUT /identity/token?role=for-all"}
	pieces := make([]string, len(lines))
	methods := make([]string, len(lines))
	for i, line := range lines {
		methods[i], _, _ = strings.Cut(line, " ")
		pieces[i] = kept(line)
	}
	for what, sent := range map[string][]string{"keep-alive": pieces, "pipelined": {strings.Join(pieces, "")}} {
		t.Run(what, func(t *testing.T) {
			got, err := g.converse(w, methods, sent...)
			if err != nil {
				t.Fatal(err)
			}
			var status []int
			for i, a := range got {
				if err := g.check(methods[i], a); err != nil {
					t.Error(err)
				}
				status = append(status, a.status)
			}
			if !slices.Equal(status, []int{200, 200, 200, 403, 200}) {
				t.Errorf("%v", status)
			}
		})
	}
}

// What a guest says about itself does not count.
func ownHeaders(t *testing.T, s *site, name string) {
	g, other := s.web, s.db
	w := g.way(name)
	for _, row := range []struct {
		refusal bool // may be refused
		headers string
	}{
		{false, "X-Instance-ID: " + other.device + "\r\n"},
		{false, "X-Tenant-ID: " + other.project + "\r\n"},
		{false, "X-Instance-ID: " + other.device + "\r\nX-Tenant-ID: " + other.project + "\r\nX-Instance-ID-Signature: " + strings.Repeat("0", 64) + "\r\n"},
		{false, "X-Metadata-Provider: " + networkID + "\r\nX-Metadata-Provider-Signature: 00\r\n"},
		{false, "Forwarded: for=" + other.v4 + "\r\n"},
		{false, "X-Real-IP: " + other.v4 + "\r\n"},
		{false, "Authorization: Bearer x\r\nCookie: a=b\r\nX-Auth-Token: x\r\n"},
		{false, "Host: id.example.com\r\n"},
		{false, "Connection: X-Instance-ID, X-Tenant-ID\r\n"},
		{true, "X-Forwarded-For: " + other.v4 + "\r\n"},
		{true, "X-Forwarded-For: " + g.v4 + "\r\n"},
		{true, "X-Forwarded-For:\r\n"},
		{true, "X-OVN-Network-ID: " + networkID + "\r\n"},
		{true, "X-Neutron-Network-ID: " + networkID + "\r\n"},
		{true, "X-Neutron-Router-ID: " + routerID + "\r\n"},
	} {
		t.Run(strings.ReplaceAll(strings.TrimSpace(row.headers), "\r\n", ", "), func(t *testing.T) {
			for _, line := range []string{"PUT /identity/token?role=for-all", "GET /identity/roles", "GET /latest/meta-data/"} {
				host := hostLine
				if strings.HasPrefix(row.headers, "Host:") {
					host = ""
				}
				a, err := g.ask(w, line+" HTTP/1.1\r\n"+host+row.headers+closeLine+"\r\n")
				must(t, a, err)
				if a.status != http.StatusOK && !(row.refusal && slices.Contains([]int{400, 403, 404, 500, 502}, a.status)) {
					t.Errorf("%s: %s", line, a)
				}
			}
		})
	}
}
