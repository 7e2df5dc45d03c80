// Package node_test verifies our tokens with jose, on Node.js.
package node_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/example/consumers/consumertest"
)

func TestJose(t *testing.T) {
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: %s is not installed", tool)
		}
	}
	dir := t.TempDir()
	for _, name := range []string{"package.json", "verify.mjs"} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := consumertest.Run(t, 3*time.Minute, dir, nil, "npm", "install", "--silent", "--no-audit", "--no-fund"); err != nil {
		t.Fatalf("npm: %v\n%s", err, out)
	}
	version, _ := consumertest.Run(t, time.Minute, dir, nil, "node", "-p", "process.version + ', jose ' + JSON.parse(fs.readFileSync('node_modules/jose/package.json')).version")
	t.Logf("Node.js %s", strings.TrimSpace(version))
	consumertest.Verifies(t, func(i *consumertest.Issuer, token, audience string) (string, error) {
		return consumertest.Run(t, time.Minute, dir, []string{"NODE_EXTRA_CA_CERTS=" + i.CAFile, "NODE_NO_WARNINGS=1"},
			"sh", "-c", `printf %s "$1" | node verify.mjs "$2" "$3"`, "sh", token, i.URL, audience)
	})
}
