package listen_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen/listentest"
)

// newCertificate writes a certificate and its key.
func newCertificate(t testing.TB, name string) listen.TLSConfig {
	t.Helper()
	cert, key := listentest.NewCertificate(t, name).Files(t)
	return listen.TLSConfig{CertFile: cert, KeyFile: key}
}

func writeCertificate(t testing.TB, files listen.TLSConfig, name string) {
	t.Helper()
	listentest.NewCertificate(t, name).Write(t, files.CertFile, files.KeyFile)
}

func TestCertificateIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := newCertificate(t, "first.example.com")
		logger, log := newLog()
		cert, err := files.Load()
		if err != nil {
			t.Fatal(err)
		}
		clock := time.Now().Add(time.Hour) // the time of the files, which moves with each change
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
			if got := cert.CommonName(logger); got != name {
				t.Errorf("the certificate is for %s, want %s", got, name)
			}
		}
		<-time.After(listen.CertificateAge)
		expect("first.example.com") // looked at, and unchanged
		change(func() { writeCertificate(t, files, "second.example.com") })
		<-time.After(listen.CertificateAge - time.Nanosecond)
		expect("first.example.com") // not looked at yet
		<-time.After(time.Nanosecond)
		expect("second.example.com")

		for name, tt := range map[string]struct {
			damage func()
			want   string
		}{
			"is no certificate":   {func() { must(t, os.WriteFile(files.CertFile, []byte("x"), 0o600)) }, "certFile: " + files.CertFile + ": "},
			"belongs to no key":   {func() { must(t, os.Rename(newCertificate(t, "third.example.com").CertFile, files.CertFile)) }, "private key does not match"},
			"is gone":             {func() { must(t, os.Remove(files.CertFile)) }, "certFile: " + files.CertFile + ": no such file or directory: put the certificate and its chain there"},
			"has lost its key":    {func() { must(t, os.Remove(files.KeyFile)) }, "keyFile: " + files.KeyFile + ": no such file or directory: put the private key of the certificate there"},
			"is there for a half": {func() { must(t, os.Truncate(files.KeyFile, 20)) }, "keyFile " + files.KeyFile},
		} {
			writeCertificate(t, files, "second.example.com")
			change(func() {})
			<-time.After(listen.CertificateAge)
			expect("second.example.com")
			before := log.String()
			change(tt.damage)
			for range 5 {
				<-time.After(listen.CertificateAge)
				expect("second.example.com")
			}
			said := strings.TrimPrefix(log.String(), before)
			if strings.Count(said, "the old certificate stays") != 1 || !strings.Contains(said, tt.want) {
				t.Errorf("of a certificate that %s is said: %s; want it once, with %q", name, said, tt.want)
			}
		}
		change(func() { writeCertificate(t, files, "third.example.com") })
		<-time.After(listen.CertificateAge)
		expect("third.example.com")

		// The file is put back with its old time.
		before := log.String()
		must(t, os.Rename(files.CertFile, files.CertFile+".away"))
		<-time.After(listen.CertificateAge)
		expect("third.example.com")
		must(t, os.Rename(files.CertFile+".away", files.CertFile))
		<-time.After(listen.CertificateAge)
		expect("third.example.com")
		if said := strings.TrimPrefix(log.String(), before); !strings.Contains(said, "certificate read again") {
			t.Errorf("that the file is back is not said: %s", said)
		}
	})
}

// The error at start has the file and what belongs there.
func TestAMissingCertificateIsAnError(t *testing.T) {
	files := newCertificate(t, "first.example.com")
	must(t, os.Remove(files.CertFile))
	want := "certFile: " + files.CertFile + ": no such file or directory: put the certificate and its chain there (PEM), or correct the path"
	if _, err := files.Load(); err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
	must(t, os.Remove(files.KeyFile))
	if _, err := files.Load(); err == nil || !strings.Contains(err.Error(), "keyFile: "+files.KeyFile) || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want both files in it", err)
	}
	if _, err := listen.LoadCAs(files.CertFile); err == nil || err.Error() != files.CertFile+": no such file or directory: put the certificates of the CAs there (PEM), or correct the path" {
		t.Errorf("error %v", err)
	}
	if os.Geteuid() == 0 {
		return // root may read all files
	}
	must(t, os.WriteFile(files.CertFile, nil, 0))
	if _, err := listen.LoadCAs(files.CertFile); err == nil || !strings.Contains(err.Error(), files.CertFile+": permission denied: let the user of this server read the file") {
		t.Errorf("error %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
