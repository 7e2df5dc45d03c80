package listen_test

import (
	"os"
	"strings"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
)

func TestListenReportsWhatIsInUse(t *testing.T) {
	log, _ := newLog()
	l, err := listen.Open("127.0.0.1:0", listen.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := listen.Open(l.Addr().String(), listen.Options{Log: log}); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("the error is %v", err)
	}
}

// A certificate that cannot be read is an error, and gives the port back.
func TestListenReportsABrokenCertificate(t *testing.T) {
	log, _ := newLog()
	files := newCertificate(t, "id.example.com")
	if err := os.WriteFile(files.KeyFile, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := listen.Open("127.0.0.1:0", listen.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	if _, err := listen.Open(address, listen.Options{TLS: files, Log: log}); err == nil {
		t.Error("no error")
	}
	if l, err = listen.Open(address, listen.Options{Log: log}); err != nil {
		t.Fatalf("the port is still taken: %v", err)
	}
	l.Close()
}
