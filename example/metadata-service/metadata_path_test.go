package metadataservice_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
)

// metadataPath starts the HAProxy of a host whose OVS agent has the extension metadata_path: it signs for the instance that
// is at an address, adds no X-Forwarded-For, has no TLS, and passes on what the guest sends.
func (s *site) metadataPath(t *testing.T) (address string) {
	t.Helper()
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(instance))
	address = s.net + "21:8080"
	file := filepath.Join(s.dir, "metadata-path.cfg")
	text := fmt.Sprintf(`frontend host
    bind %[1]s
    mode http
    timeout client 20s
    acl here src %[2]s
    use_backend one if here
backend one
    mode http
    timeout connect 5s
    timeout server 20s
    http-request set-header X-Instance-ID %[3]s
    http-request set-header X-Tenant-ID %[4]s
    http-request set-header X-Instance-ID-Signature %[5]s
    server api %[6]s source %[7]s
`, address, s.net+"77", instance, project, hex.EncodeToString(mac.Sum(nil)), s.net+s.address, s.net+"21")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start(t, exec.Command("haproxy", "-db", "-f", file))
	awaittest.True(t, "the HAProxy of the host", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return address
}

// subject returns whom the token of an answer is for.
func subject(t *testing.T, answer string) string {
	t.Helper()
	_, body, _ := strings.Cut(answer, "\r\n\r\n")
	var granted struct{ Token string }
	var claims struct{ Sub string }
	if err := json.Unmarshal([]byte(body), &granted); err != nil || strings.Count(granted.Token, ".") != 2 {
		t.Fatalf("no token: %v %s", err, answer)
	}
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(granted.Token, ".")[1])
	if err == nil {
		err = json.Unmarshal(text, &claims)
	}
	if err != nil {
		t.Fatal(err)
	}
	return claims.Sub
}

// Neutron's extension metadata_path is refused: its requests have no address that anybody but the guest wrote. The audit
// log names it.
func TestMetadataPathIsRefused(t *testing.T) {
	needTools(t, "haproxy")
	const neighbor = "11111111-aaaa-4aaa-8aaa-000000000002"
	send := func(t *testing.T, s *site, address, request string) string {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(s.net + "77")}, Timeout: 10 * time.Second}
		c, err := d.DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = io.WriteString(c, request+" HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n")
		all, _ := io.ReadAll(c)
		return string(all)
	}
	guestWrites := func(headers ...string) string {
		return put + " HTTP/1.1\r\n" + strings.Join(headers, "\r\n") + "\r\nX-Rest:"
	}

	t.Run("without certificates", func(t *testing.T) {
		audit := filepath.Join(t.TempDir(), "audit.log")
		s := newSite(t, "direct.yml", "clientCAFile: agents-ca.pem", "", "certFile: metadata.pem", "", "keyFile: metadata-key.pem", "", "  tls:\n", "",
			"metadataService:\n", "audit: {output: "+audit+"}\nmetadataService:\n")
		s.cloud.SetServer(simulator.Server{
			ID: neighbor, Name: "db-1", ProjectID: project, UserID: "821a2eaac0724c069aa6a44bd7b91935", Created: time.Now(), Launched: time.Now(),
			Addresses: []simulator.Address{{Network: "private", Addr: "10.20.0.12"}},
		})
		host := s.metadataPath(t)
		refused := func(name, request, reason string) {
			t.Helper()
			got := send(t, s, host, request)
			if !strings.HasPrefix(got, "HTTP/1.1 403 ") || !strings.Contains(got, `{"error":"access_denied","request_id":"`) {
				t.Errorf("%s: %s", name, got)
			}
			_, id, _ := strings.Cut(got, `"request_id":"`)
			id, _, _ = strings.Cut(id, `"`)
			var line string
			awaittest.True(t, "the audit line", func() bool {
				log, _ := os.ReadFile(audit)
				for line = range strings.Lines(string(log)) {
					if strings.Contains(line, `"request_id":"`+id+`"`) {
						return true
					}
				}
				return false
			})
			if !strings.Contains(line, `"reason":"`+reason+`"`) {
				t.Errorf("%s: %s", name, line)
			}
		}
		refused("as the guest asks", put, "agent_unsupported")
		refused("for the roles", "GET /identity/roles", "agent_unsupported")
		refused("with headers of a signature", guestWrites("X-Instance-ID: "+neighbor, "X-Tenant-ID: other", "X-Instance-ID-Signature: 00"), "agent_unsupported")
		refused("with a neighbor's address", guestWrites("X-Forwarded-For: 10.20.0.12"), "address_mismatch")
		refused("with a neighbor's address and headers", guestWrites("X-Forwarded-For: 10.20.0.12", "X-Instance-ID: "+neighbor), "address_mismatch")
		refused("with two addresses", guestWrites("X-Forwarded-For: "+guest, "X-Forwarded-For: "+guest), "agent_claim_invalid")
		// The limit of what the guest's own word can do: its token is for itself, whatever else it writes.
		own := guestWrites("X-Forwarded-For: "+guest, "X-Instance-ID: "+neighbor, "X-Tenant-ID: other", "X-Instance-ID-Signature: 00")
		got := send(t, s, host, own)
		if sub := subject(t, got); sub != instance {
			t.Errorf("with its own address: %q, %s", sub, got)
		}
		if got := send(t, s, host, "GET /latest/meta-data/"); !strings.Contains(got, "nova: GET /latest/meta-data/ for "+instance) {
			t.Errorf("Nova's metadata: %s", got)
		}
	})
	// The extension has no TLS, so where an agent needs a certificate it cannot even connect, whatever the guest writes.
	t.Run("with certificates", func(t *testing.T) {
		s := newSite(t, "direct.yml")
		host := s.metadataPath(t)
		for _, request := range []string{put, guestWrites("X-Forwarded-For: " + guest), "GET /latest/meta-data/"} {
			if got := send(t, s, host, request); strings.HasPrefix(got, "HTTP/1.1 200 ") || strings.Contains(got, "request_id") {
				t.Errorf("%s: %s", request, got)
			}
		}
	})
}
