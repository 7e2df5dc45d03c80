package config

import (
	"bytes"
	"crypto/elliptic"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring/keyringtest"
)

// Parsing any content ends, always gives the same problems, at lines that exist, and never
// accepts a file without an issuer, a key and a role.
func FuzzParse(f *testing.F) {
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "signing-key.pem"), keyringtest.PKCS8(f, keyringtest.EC(f, elliptic.P256())), 0o600); err != nil {
		f.Fatal(err)
	}
	files, err := filepath.Glob("testdata/bad/*.yml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, "../../example/config.yml") {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(bytes.Replace(data, []byte("tls:"), []byte("#"), 1))
	}
	f.Add([]byte("auth: {signingKeyFile: signing-key.pem, tokenIssuer: 'https://id.example.com'}\nroles: {web: {projectID: &a [a, *a], metadata: {b: *a}}}\n"))
	f.Add([]byte("auth: {tokenIssuer: 'https://id.example.com'}\nroles: {web: {projectID: a}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.Contains(data, []byte("/dev")) || bytes.Contains(data, []byte("/proc")) {
			t.Skip("it could read a device as a key")
		}
		c, problems := parse(data, filepath.Join(dir, "config.yml"))
		again, same := parse(data, filepath.Join(dir, "config.yml"))
		if !slices.Equal(problems, same) {
			t.Errorf("the problems are\n%v\nand then\n%v", problems, same)
		}
		lines := bytes.Count(data, []byte("\n")) + bytes.Count(data, []byte("\r")) + bytes.Count(data, []byte("\u0085")) +
			bytes.Count(data, []byte("\u2028")) + bytes.Count(data, []byte("\u2029")) + 1
		utf16 := bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff"))
		for _, p := range problems {
			if p.Message == "" || p.Line < 0 || p.Line > lines && !utf16 {
				t.Errorf("a problem in line %d of %d: %q", p.Line, lines, p)
			}
		}
		if len(problems) > 0 {
			return
		}
		if len(c.Roles) == 0 || c.Auth.TokenIssuer == "" || c.Listen == "" || c.Auth.Period <= 0 || c.Auth.Limit <= 0 {
			t.Errorf("accepted: %+v", c)
		}
		if w := c.Warnings(); !slices.Equal(w, again.Warnings()) {
			t.Errorf("the warnings differ from one time to the next: %v", w)
		}
	})
}

func TestTheLongestLifeIsThatOfAnyRole(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 10 * time.Minute,
		"  db: {projectID: a, tokenExpiry: 30m}\n  dns: {projectID: a, tokenExpiry: 1m}\n": 30 * time.Minute,
	} {
		c, problems := parse([]byte("auth: {tokenIssuer: https://id.example.com}\nroles:\n  web: {projectID: a}\n"+text), filepath.Join(t.TempDir(), "config.yml"))
		if got := c.longestLife(); got != want || len(problems) > 0 {
			t.Errorf("the longest life is %v, want %v; %v", got, want, problems)
		}
	}
}
