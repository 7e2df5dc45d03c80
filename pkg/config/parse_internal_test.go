package config

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Whatever a file holds, reading it ends, says the same each time, names lines
// that there are, and accepts nothing without an issuer, a key and a role.
func FuzzParse(f *testing.F) {
	dir := f.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "signing-key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
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
			t.Skip("a key is read from wherever the file says")
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
