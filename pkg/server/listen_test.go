package server_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen/listentest"
)

func TestTLS(t *testing.T) {
	s := newScene(t)
	cert := listentest.NewCertificate(t, "id.example.com")
	s.tls = cert.Load(t)
	s.window.Limit = 10
	address := s.open(t).serve(t)
	client := func(change func(*http.Transport)) *http.Client {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: cert.Pool(), ServerName: "id.example.com"}, ForceAttemptHTTP2: true}
		change(tr)
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: 10 * time.Second}
	}
	for _, row := range []struct {
		name   string
		change func(*http.Transport)
		want   string // empty: refused
	}{
		{"a client that prefers HTTP/2", func(*http.Transport) {}, "HTTP/1.1 TLS 1.3"},
		{"a client that knows only HTTP/1.1", func(tr *http.Transport) {
			tr.ForceAttemptHTTP2 = false
			tr.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		}, "HTTP/1.1 TLS 1.3"},
		{"TLS 1.2", func(tr *http.Transport) { tr.TLSClientConfig.MaxVersion = tls.VersionTLS12 }, "HTTP/1.1 TLS 1.2"},
		{"TLS 1.1", func(tr *http.Transport) {
			tr.TLSClientConfig.MinVersion, tr.TLSClientConfig.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+address+"/auth", strings.NewReader(webForm))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", formType)
			resp, err := client(row.change).Do(r)
			if err != nil {
				if row.want != "" || !strings.Contains(err.Error(), "protocol version") {
					t.Error(err)
				}
				return
			}
			newAnswer(t, resp).granted(t)
			if got := resp.Proto + " " + tls.VersionName(resp.TLS.Version); got != row.want {
				t.Errorf("%s, want %q", got, row.want)
			}
		})
	}
	t.Run("a header is bounded", func(t *testing.T) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+address+"/auth", strings.NewReader(webForm))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X", strings.Repeat("a", 64<<10))
		resp, err := client(func(*http.Transport) {}).Do(r)
		if err != nil {
			return // cut off
		}
		if got := newAnswer(t, resp); got.status != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("status %d", got.status)
		}
	})
}

// lifetime drips into a connection, and returns the answer and how long the connection
// lived.
func lifetime(t *testing.T, conn net.Conn, drip string, every time.Duration) (string, time.Duration) {
	t.Helper()
	began := time.Now()
	var got []byte
	done := make(chan struct{})
	go func() {
		defer close(done)
		got, _ = io.ReadAll(conn)
	}()
	for drip != "" {
		if _, err := io.WriteString(conn, drip[:1]); err != nil {
			break
		}
		drip = drip[1:]
		<-time.After(every)
	}
	<-done
	return string(got), time.Since(began)
}

// A slow client is cut off at every stage.
func TestSlowClients(t *testing.T) {
	head := "POST /auth HTTP/1.1\r\nHost: x\r\nContent-Type: " + formType + "\r\nContent-Length: 1000\r\n\r\n"
	for _, row := range []struct {
		name   string
		at     string // sent at once
		drip   string // sent a byte a second
		want   string // how the answer begins
		within time.Duration
	}{
		{"a client that sends nothing", "", "", "", listen.ReadHeaderTimeout},
		{"a client that drips its headers", "POST /auth HTTP/1.1\r\nX: ", strings.Repeat("a", 1000), "", listen.ReadHeaderTimeout},
		{"a client that drips its body", head, strings.Repeat("a", 1000), "HTTP/1.1 400 ", listen.ReadTimeout},
		{"a client that sends no body", head, "", "HTTP/1.1 400 ", listen.ReadTimeout},
		{"a client that stays after its answer", rawKeepAlive(), "", "HTTP/1.1 403 ", listen.IdleTimeout},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, l := newScene(t).open(t), listentest.NewPipes()
				run(t, d.logger, listen.Endpoint{Name: "instances", Listener: l, Handler: d})
				conn := l.Dial(t)
				listentest.Send(t, conn, row.at)
				got, took := lifetime(t, conn, row.drip, time.Second)
				if took > row.within+time.Second || took < row.within-time.Second || !strings.HasPrefix(got, row.want) || (row.want == "" && got != "") {
					t.Errorf("cut off after %v with %q, want %v and %q", took, got, row.within, row.want)
				}
				if n := d.asked.Load(); n != 0 && !strings.Contains(row.at, webForm) {
					t.Errorf("the cloud was asked %d times", n)
				}
			})
		})
	}
}

func rawKeepAlive() string { return strings.Replace(rawAuth(""), "Connection: close\r\n", "", 1) }

func body(t *testing.T, conn net.Conn) string {
	t.Helper()
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return newAnswer(t, r).body
}

// If a listener cannot be opened, the error has its key.
func TestListenersThatCannotBeOpened(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	used := taken.Addr().String()
	for want, at := range map[string]struct{ instances, nova string }{
		"listen: listen tcp " + used:            {used, ""},
		"vendordata.listen: listen tcp " + used: {"127.0.0.1:0", used},
	} {
		s, _ := novaScene(t)
		s.nova.Listen = at.nova
		if _, err := s.open(t).Listen(listenAt(t, at.instances), nil); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("the error is %v, want %s", err, want)
		}
	}
}
