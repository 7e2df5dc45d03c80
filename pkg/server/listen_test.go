package server_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

// newCertificate writes a certificate and its key.
func newCertificate(t testing.TB, name string) (files server.TLSConfig, cert *x509.Certificate) {
	t.Helper()
	dir := t.TempDir()
	files = server.TLSConfig{CertFile: filepath.Join(dir, "server.pem"), KeyFile: filepath.Join(dir, "server-key.pem")}
	return files, writeCertificate(t, files, name)
}

func writeCertificate(t testing.TB, files server.TLSConfig, name string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{files.CertFile: {Type: "CERTIFICATE", Bytes: der}, files.KeyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert
}

func TestListenReportsWhatIsInUse(t *testing.T) {
	d := newScene(t).open(t)
	l, err := server.Listen("127.0.0.1:0", server.TLSConfig{}, noProxy, d.logger)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := server.Listen(l.Addr().String(), server.TLSConfig{}, noProxy, d.logger); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("the error is %v", err)
	}
}

// A certificate that cannot be read is an error, and gives the port back.
func TestListenReportsABrokenCertificate(t *testing.T) {
	d := newScene(t).open(t)
	files, _ := newCertificate(t, "id.example.com")
	if err := os.WriteFile(files.KeyFile, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := server.Listen("127.0.0.1:0", server.TLSConfig{}, noProxy, d.logger)
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	if _, err := server.Listen(address, files, noProxy, d.logger); err == nil {
		t.Error("no error")
	}
	if l, err = server.Listen(address, server.TLSConfig{}, noProxy, d.logger); err != nil {
		t.Fatalf("the port is still taken: %v", err)
	}
	l.Close()
}

func TestTLS(t *testing.T) {
	s := newScene(t)
	var cert *x509.Certificate
	s.tls, cert = newCertificate(t, "id.example.com")
	s.window.Limit = 10
	address := s.open(t).serve(t)
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	client := func(change func(*http.Transport)) *http.Client {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "id.example.com"}, ForceAttemptHTTP2: true}
		change(tr)
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: 10 * time.Second}
	}
	for _, row := range []struct {
		name   string
		change func(*http.Transport)
		want   string // empty: refused
	}{
		{"HTTP/2", func(*http.Transport) {}, "HTTP/2.0 TLS 1.3"},
		{"HTTP/1.1", func(tr *http.Transport) {
			tr.ForceAttemptHTTP2 = false
			tr.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		}, "HTTP/1.1 TLS 1.3"},
		{"TLS 1.2", func(tr *http.Transport) { tr.TLSClientConfig.MaxVersion = tls.VersionTLS12 }, "HTTP/2.0 TLS 1.2"},
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
	t.Run("a header over HTTP/2 is bounded, too", func(t *testing.T) {
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

func TestCertificateIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files, _ := newCertificate(t, "first.example.com")
		d := newScene(t).open(t)
		get, err := server.WatchCertificate(files, d.logger)
		if err != nil {
			t.Fatal(err)
		}
		clock := time.Now().Add(time.Hour) // of the files: their times move with each step
		change := func(edit func()) {
			edit()
			clock = clock.Add(time.Second)
			for _, file := range []string{files.CertFile, files.KeyFile} {
				if err := os.Chtimes(file, clock, clock); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Fatal(err)
				}
			}
		}
		expect := func(name string) {
			t.Helper()
			cert, err := get(nil)
			if err != nil || cert.Leaf.Subject.CommonName != name {
				t.Errorf("the certificate is %s's (%v), want %s's", cert.Leaf.Subject.CommonName, err, name)
			}
		}
		<-time.After(server.CertificateAge)
		expect("first.example.com") // looked at, and as it was
		change(func() { writeCertificate(t, files, "second.example.com") })
		<-time.After(server.CertificateAge - time.Nanosecond)
		expect("first.example.com") // not looked at yet
		<-time.After(time.Nanosecond)
		expect("second.example.com")

		for name, damage := range map[string]func(){
			"is no certificate":   func() { must(t, os.WriteFile(files.CertFile, []byte("x"), 0o600)) },
			"belongs to no key":   func() { writeCertificate(t, files, "third.example.com"); otherKey(t, files) },
			"is gone":             func() { must(t, os.Remove(files.CertFile)) },
			"is there for a half": func() { must(t, os.Truncate(files.KeyFile, 20)) },
		} {
			writeCertificate(t, files, "second.example.com")
			change(damage)
			<-time.After(server.CertificateAge)
			expect("second.example.com")
			if !strings.Contains(d.log.String(), "the old one stays") {
				t.Errorf("a certificate that %s is not reported", name)
			}
		}
		change(func() { writeCertificate(t, files, "third.example.com") })
		<-time.After(server.CertificateAge)
		expect("third.example.com")
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// otherKey puts the key of another certificate beside this one.
func otherKey(t *testing.T, files server.TLSConfig) {
	t.Helper()
	others, _ := newCertificate(t, "x")
	must(t, os.Rename(others.KeyFile, files.KeyFile))
}

// pipes is a listener in memory, so that time can be made to pass.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

func newPipes() *pipes {
	closed := make(chan struct{})
	return &pipes{make(chan net.Conn), closed, sync.OnceFunc(func() { close(closed) })}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { p.close(); return nil }

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

func (p *pipes) dial(t *testing.T) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close() })
	p.conns <- theirs
	return ours
}

// lifetime drips into a connection and gives what came back, and when it ended.
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

// Whoever is slow is cut off, at every stage.
func TestSlowClients(t *testing.T) {
	head := "POST /auth HTTP/1.1\r\nHost: x\r\nContent-Type: " + formType + "\r\nContent-Length: 1000\r\n\r\n"
	for _, row := range []struct {
		name   string
		at     string // sent at once
		drip   string // sent a byte a second
		want   string // how the answer begins
		within time.Duration
	}{
		{"one that says nothing", "", "", "", server.ReadHeaderTimeout},
		{"one that drips its headers", "POST /auth HTTP/1.1\r\nX: ", strings.Repeat("a", 1000), "", server.ReadHeaderTimeout},
		{"one that drips its body", head, strings.Repeat("a", 1000), "HTTP/1.1 400 ", server.ReadTimeout},
		{"one that sends no body", head, "", "HTTP/1.1 400 ", server.ReadTimeout},
		{"one that stays after its answer", rawKeepAlive(), "", "HTTP/1.1 403 ", server.IdleTimeout},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, l := newScene(t).open(t), newPipes()
				run(t, d.logger, server.Endpoint{Name: "instances", Listener: l, Handler: d})
				conn := l.dial(t)
				write(t, conn, row.at)
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

// Whoever reads no answer holds up the handler no longer than the time-out.
func TestClientsThatDoNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, done := newPipes(), make(chan time.Duration, 1)
		h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			began := time.Now()
			_, _ = w.Write(make([]byte, 1<<20))
			done <- time.Since(began)
		})
		run(t, newScene(t).open(t).logger, server.Endpoint{Name: "instances", Listener: l, Handler: h})
		write(t, l.dial(t), "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if took := <-done; took != server.WriteTimeout {
			t.Errorf("the handler was held up for %v, want %v", took, server.WriteTimeout)
		}
	})
}

// The time-outs are for the client: what is done for it may take longer than the
// request took to come in. A CPU profile takes 30 seconds.
func TestALongHandlerIsNotCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipes()
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			select {
			case <-r.Context().Done():
				fmt.Fprint(w, "cut short")
			case <-time.After(30 * time.Second):
				fmt.Fprint(w, "complete")
			}
		})
		run(t, newScene(t).open(t).logger, server.Endpoint{Name: "admin", Listener: l, Handler: h})
		for _, request := range []string{
			"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
			"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
		} {
			conn := l.dial(t)
			write(t, conn, request)
			if got := body(t, conn); got != "complete" {
				t.Errorf("%.4s is %s", request, got)
			}
		}
	})
}

func body(t *testing.T, conn net.Conn) string {
	t.Helper()
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return newAnswer(t, r).body
}

func TestServeFinishesWhatIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, release := newPipes(), make(chan struct{})
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-release
			fmt.Fprint(w, r.Context().Err())
		})
		// Whatever ends the context, it is no failure.
		ctx, stop := context.WithCancelCause(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- server.Serve(ctx, newScene(t).open(t).logger, server.Endpoint{Name: "instances", Listener: l, Handler: h})
		}()
		conn := l.dial(t)
		write(t, conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		synctest.Wait()
		stop(errors.New("enough"))
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("Serve did not wait for the request: %v", err)
		case <-l.closed:
		default:
			t.Error("new connections are still accepted")
		}
		close(release)
		if got := body(t, conn); got != "<nil>" {
			t.Errorf("the request in flight is answered %q", got)
		}
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

func TestServeDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, d := newPipes(), newScene(t).open(t)
		h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- server.Serve(ctx, d.logger, server.Endpoint{Name: "instances", Listener: l, Handler: h})
		}()
		write(t, l.dial(t), "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		synctest.Wait()
		stop()
		began := time.Now()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if took := time.Since(began); took != server.DrainTimeout {
			t.Errorf("Serve ended after %v, want %v", took, server.DrainTimeout)
		}
		if !strings.Contains(d.log.String(), "requests were cut off") {
			t.Errorf("the log does not say that requests were cut off:\n%s", d.log)
		}
	})
}

func TestServeEndsWithTheFirstFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, good, bad := newScene(t).open(t), newPipes(), newPipes()
		ended := make(chan error, 1)
		go func() {
			ended <- server.Serve(t.Context(), d.logger,
				server.Endpoint{Name: "instances", Listener: good, Handler: d}, server.Endpoint{Name: "metrics", Listener: bad, Handler: d.operator})
		}()
		synctest.Wait()
		_ = bad.Close() // as if the socket broke
		if err := <-ended; !errors.Is(err, net.ErrClosed) || !strings.HasPrefix(err.Error(), "metrics: ") {
			t.Errorf("Serve: %v", err)
		}
		select {
		case <-good.closed:
		default:
			t.Error("the other endpoint still listens")
		}
	})
}

func TestServeAfterTheEnd(t *testing.T) {
	d, l := newScene(t).open(t), newPipes()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := server.Serve(ctx, d.logger, server.Endpoint{Name: "instances", Listener: l, Handler: d}); err != nil {
		t.Errorf("Serve: %v", err)
	}
	<-l.closed
}
