package listen_test

import (
	"os"
	"strings"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
)

func TestAPortInUseIsAnError(t *testing.T) {
	log, _ := newLog()
	l, err := listen.Open(parsed(t, listen.ParseAddress, "127.0.0.1:0"), listen.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := listen.Open(parsed(t, listen.ParseAddress, l.Addr().String()), listen.Options{Log: log}); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("the error is %v", err)
	}
}

// A certificate is read before a listener takes its port.
func TestABrokenCertificateIsAnError(t *testing.T) {
	files := newCertificate(t, "id.example.com")
	if err := os.WriteFile(files.KeyFile, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := files.Load(); err == nil || c != nil {
		t.Errorf("Load = %v, %v", c, err)
	}
}

func TestConfiguration(t *testing.T) {
	long := "/" + strings.Repeat("a", 107)
	load := func(c listen.TLSConfig) error {
		_, err := c.Load()
		return err
	}
	address := func(text string) error {
		_, err := listen.ParseAddress(text)
		return err
	}
	socket := func(path string) error {
		_, err := listen.ParseSocket(path)
		return err
	}
	for _, row := range []struct {
		name string
		err  error
		want string // empty: valid
	}{
		{"any address", address("0.0.0.0:18775"), ""},
		{"any IPv6 address", address("[::]:18775"), ""},
		{"any address, in short", address(":18775"), ""},
		{"localhost", address("localhost:18775"), ""},
		{"a free port", address("127.0.0.1:0"), ""},
		{"no port", address("0.0.0.0"), `"0.0.0.0" is not an address such as 0.0.0.0:18775`},
		{"an IPv6 address without brackets", address("::1:18775x"), `"::1:18775x" is not an address such as 0.0.0.0:18775`},
		{"a host name", address("example.com:1"), `"example.com:1": "example.com" is not an IP address`},
		{"a port too high", address(":65536"), `":65536": "65536" is not a port`},
		{"a port with a name", address(":http"), `":http": "http" is not a port`},

		{"no socket", socket(""), ""},
		{"a socket", socket("/run/x/admin.sock"), ""},
		{"a path as long as it may be", socket(long[:107]), ""},
		{"a path too long", socket(long), `"` + long + `" is not an absolute path of at most 107 bytes`},
		{"a relative path", socket("admin.sock"), `"admin.sock" is not an absolute path of at most 107 bytes`},

		{"plain HTTP", load(listen.TLSConfig{}), ""},
		{"a certificate without a key", load(listen.TLSConfig{CertFile: "a"}), "certFile: goes with keyFile; one of them is missing"},
		{"a key without a certificate", load(listen.TLSConfig{KeyFile: "b"}), "certFile: goes with keyFile; one of them is missing"},
	} {
		if row.err == nil && row.want != "" || row.err != nil && row.err.Error() != row.want {
			t.Errorf("%s: %v, want %q", row.name, row.err, row.want)
		}
	}
}

func parsed[T any](t testing.TB, parse func(string) (T, error), text string) T {
	t.Helper()
	v, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
