// Package python_test verifies our tokens with PyJWT.
package python_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/example/consumers/consumertest"
)

func TestPyJWT(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("SKIPPED: python3 is not installed")
	}
	venv := filepath.Join(t.TempDir(), "venv")
	for _, command := range [][]string{{python, "-m", "venv", venv}, {filepath.Join(venv, "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"}} {
		if out, err := consumertest.Run(t, 3*time.Minute, "", nil, command...); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, out)
		}
	}
	version, _ := consumertest.Run(t, time.Minute, "", nil, filepath.Join(venv, "bin/python"), "-c", "import jwt; print(jwt.__version__)")
	t.Logf("PyJWT %s", strings.TrimSpace(version))
	consumertest.Verifies(t, func(i *consumertest.Issuer, token, audience string) (string, error) {
		return consumertest.Run(t, time.Minute, "", []string{"SSL_CERT_FILE=" + i.CAFile},
			"sh", "-c", `printf %s "$1" | "$2" verify.py "$3" "$4"`, "sh", token, filepath.Join(venv, "bin/python"), i.URL, audience)
	})
}
