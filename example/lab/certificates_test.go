//go:build lab

package lab_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
)

// certificates makes a CA, one for HAProxy or us on an address, and an agent's,
// with openssl, as an operator does.
const certificates = `
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 1 -subj /CN=ca -keyout ca-key.pem -out agents-ca.pem 2>/dev/null
sign() { # NAME EXTENSION...
    name=$1; shift
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj "/CN=$name" -keyout "$name-key.pem" -out "$name.csr" 2>/dev/null
    printf '%s\n' "$@" >"$name.ext"
    openssl x509 -req -in "$name.csr" -CA agents-ca.pem -CAkey ca-key.pem -days 1 -extfile "$name.ext" -out "$name.pem" 2>/dev/null
}
sign metadata "subjectAltName = IP:$1, IP:$2" 'extendedKeyUsage = serverAuth'
sign metadata-agent 'extendedKeyUsage = clientAuth'
cp agents-ca.pem metadata-ca.pem
cp metadata.pem both.pem; cat metadata-key.pem >>both.pem
`

// Neutron's agent with the lines of metadata_agent.ini: what Neutron makes of a
// client certificate comes through HAProxy with the path rule, and to us directly.
func TestAgentWithACertificate(t *testing.T) {
	const haproxyAddr, directAddr = "127.0.0.10", "127.0.0.11"
	dir := t.TempDir()
	made := exec.CommandContext(t.Context(), "sh", "-euc", certificates, "certificates", haproxyAddr, directAddr)
	made.Dir = dir
	if out, err := made.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	example := func(name string, pairs ...string) string {
		text, err := os.ReadFile("../metadata-service/" + name)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(strings.NewReplacer(pairs...).Replace(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	agent := []string{"= SECRET", "= " + labSecret, "/etc/neutron/", dir + "/"}
	wanted := func(t *testing.T, a *authenticator) {
		t.Helper()
		awaittest.Within(t, time.Minute, "identity", func() bool {
			status, _ := guest(t, "db-1", "-X", "PUT", putToken)
			return status == http.StatusOK
		})
		for _, name := range []string{"web-1", "twin-1"} {
			status, body := guest(t, name, "-X", "PUT", putToken+"&format=token")
			if status != http.StatusOK || payload(t, body)["sub"] != facts.Servers[name].ID {
				t.Errorf("%s: %d %s\n%s", name, status, body, a.read("audit.log"))
			}
			if status, body := guest(t, name, metadataURL+"/openstack/latest/meta_data.json"); status != http.StatusOK || !strings.Contains(body, facts.Servers[name].ID) {
				t.Errorf("Nova's metadata of %s: %d %s", name, status, body)
			}
		}
	}

	t.Run("at HAProxy", func(t *testing.T) {
		a := behindHAProxy(t, example("haproxy.cfg", "192.0.2.10:8775", haproxyAddr+":8777", "src 192.0.2.21 192.0.2.22 192.0.2.23", "src 127.0.0.1", "/etc/haproxy/metadata.pem", dir+"/both.pem",
			"/etc/haproxy/", dir+"/", "/dev/log", "stderr", "192.0.2.11:18778", agentsAddr, "192.0.2.12:18778", "127.0.0.1:1", "192.0.2.11:8775", novaAddr,
			"    server two 192.0.2.12:8775 check\n", ""))
		leadAgent(t, "METADATA_HOST="+haproxyAddr, "METADATA_CONF="+example("metadata_agent.ini", append(agent, "192.0.2.10", haproxyAddr, "8775", "8777")...))
		wanted(t, a)
	})
	t.Run("at us", func(t *testing.T) {
		a := doorsBut(t, "  listen: "+agentsAddr+"\n", "  listen: "+directAddr+":8776\n  tls: {certFile: "+dir+"/metadata.pem, keyFile: "+dir+"/metadata-key.pem, clientCAFile: "+dir+"/agents-ca.pem}\n")
		leadAgent(t, "METADATA_CONF="+example("metadata_agent.ini", append(agent, "192.0.2.10", directAddr, "8775", "8776")...))
		wanted(t, a)
	})
	t.Run("without one", func(t *testing.T) {
		a := doorsBut(t, "  listen: "+agentsAddr+"\n", "  listen: "+directAddr+":8776\n  tls: {certFile: "+dir+"/metadata.pem, keyFile: "+dir+"/metadata-key.pem, clientCAFile: "+dir+"/agents-ca.pem}\n")
		leadAgent(t, "METADATA_CONF="+example("metadata_agent.ini", append(agent, "192.0.2.10", directAddr, "8775", "8776", "nova_client_cert", "# nova_client_cert", "nova_client_priv_key", "# nova_client_priv_key")...))
		awaittest.Within(t, time.Minute, "its refusal", func() bool {
			_, _ = guest(t, "db-1", "-X", "PUT", putToken)
			return strings.Contains(a.read("audit.log"), "agent_unknown")
		})
		for _, args := range [][]string{{"-X", "PUT", putToken}, {metadataURL + "/latest/meta-data/"}} {
			if status, body := guest(t, "db-1", args...); status == http.StatusOK {
				t.Errorf("%v: %d %s", args, status, body)
			}
		}
	})
}
