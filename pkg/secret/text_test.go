package secret_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// check compares the results of a function with those wanted.
func check[T comparable](t *testing.T, of func(string) T, want map[string]T) {
	t.Helper()
	for text, want := range want {
		if got := of(text); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestShown(t *testing.T) {
	check(t, secret.Shown, map[string]bool{
		// What operators write by mistake.
		"three": true, "10 minutes": true, "5": true, "64.5": true, "0x10": true, "1e3": true, "EdDSA": true, "loud": true,
		"0.0.0.0": true, "0.0.0.0:18775": true, "[::]:18775": true, "192.0.2.0/24": true, "id.example.com:18775": true,
		"https://id.example.com/region/one": true, "http://127.0.0.1:8775": true, "RegionThree": true, "v3oidcpassword": true,
		"alice@example.com": true, "${instance}": false, "web-*": true, "metadataServices": true, "": true, "a b": true,
		"7e562c1a-8581-4230-b973-a83db9534b02": true,
		"1h30m":                                true, "90 sec": true, "1d": true, "99,5": true, "db-1.example.com": true, "node01.region-one.example.com:6379": true,
		// What they paste in the wrong place.
		"hunter2MARKs3cret": false,
		"9Kx7Qm2Zp4L":       false, "4ca5f5f4b1": false, "k9x2q.7w8e3": false, "8c1f0a7e2b3d.example.com": false, "4716220958371645": false,
		"https://hooks.example.com/services/T0K3nXyZ12": false,
		"Tr0ub4dor&3":                                                      false,
		"pw:MARK.x/9@host":                                                 false,
		"the-metadata-proxy-secret-MARK":                                   false,
		"correct horse battery staple":                                     false,
		"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=":                     false,
		"4ca5f5f4b1f04f0b8f7e4c3a2b1d0e9f":                                 false,
		"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08": false,
		"gAAAAABmMARK-k3yWq0uJr8Vn":                                        false,
		"-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----":     false,
		"https://user:word@id.example.com":                                 false,
		"https://id.example.com/?token=word":                               false,
		"https://id.example.com/9f86d081884c7d659a2feaa0c55ad015":          false,
		"a\nb": false,
	})
}

func TestText(t *testing.T) {
	check(t, secret.Text, map[string]string{
		"dial https://id.example.com/v3: refused":                          "dial https://id.example.com/v3: refused",
		"Get https://me:MARK@id.example.com/v3: refused":                   "Get https://(not shown)@id.example.com/v3: refused",
		"redis://:MARK@192.0.2.1:6379":                                     "redis://(not shown)@192.0.2.1:6379",
		"open /etc/ona/https:/me:MARK@h: no such file":                     "open /etc/ona/https:/(not shown)@h: no such file",
		"http://me:MA@RK/MARK@proxy:3128 and more":                         "http://(not shown)@proxy:3128 and more",
		`unknown field "eyJhbGciOiJIUzI1NiIsInR5cCI6"`:                     `unknown field "(not shown)"`,
		"Could not find token: gAAAAABmMARKk3yWq0uJr8Vn=.":                 "Could not find token: (not shown).",
		"alice@example.com logs in":                                        "alice@example.com logs in",
		"a -----BEGIN PRIVATE KEY-----\nMARK\n-----END PRIVATE KEY----- b": "a (not shown) b",
		`a -----BEGIN EC PRIVATE KEY-----\nMARK`:                           "a (not shown)",
	})
}

func TestValues(t *testing.T) {
	check(t, secret.Values, map[string]string{
		`"three" is not a whole number`:                            `"three" is not a whole number`,
		`"hunter2MARKs3cret" is not a whole number`:                `(not shown) is not a whole number`,
		`parse "https://h:MARK\"x": invalid port ":MARK\"x"`:       `parse (not shown): invalid port (not shown)`,
		`"https://me:MARK@id.example.com" has a user`:              `"https://(not shown)@id.example.com" has a user`,
		"a name (`openstack user show -f value`) can be \"taken\"": "a name (`openstack user show -f value`) can be \"taken\"",
	})
}

func TestIsPath(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "gAAAAABmMARKk3yWq0uJr8Vn"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	check(t, func(value string) bool { return secret.IsPath(value, dir) }, map[string]bool{
		"gAAAAABmMARKk3yWq0uJr8Vn":         true, // it exists
		"missing.pem":                      true,
		"other/missing.pem":                true,
		"keys/missing":                     true,
		"./missing":                        true,
		filepath.Join(dir, "none"):         true,
		".":                                true,
		"":                                 false,
		"missing":                          false,
		"the-metadata-proxy-shared-secret": false,
		"/none":                            false,
		"other/none":                       false,
		"gAAAAABmMARKk3yWq0uJr8VN.pem":     false,
		"gAAAAABmMARKk3yWq0uJr8VN/x.pem":   false,
		"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=":                 false,
		"MDEyMzQ1Njc4OWFiY2Rl/jAxMjM0NTY3ODlhYmNkZWY=":                 false,
		"/DEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=":                 false,
		"-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----": false,
		"redis://:MARK@192.0.2.1/x.pem":                                false,
		"./a\nb":                                                       false,
		"./a\x00b":                                                     false,
		"./" + strings.Repeat("a/", 4000):                              false,
	})
}

// A file is read up to a limit. An error has its path once, unless the path may be a secret.
func TestReadFile(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("four.key", []byte("four"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := secret.ReadFile("four.key", 4); err != nil || string(b) != "four" {
		t.Errorf("ReadFile = %q, %v", b, err)
	}
	for path, want := range map[string]string{
		"four.key":    "four.key: is longer than 3 bytes",
		"none.key":    "none.key: no such file or directory",
		".":           ".: is a directory",
		"hunter2MARK": "(not shown) should be the path of a file: no such file or directory",
	} {
		if _, err := secret.ReadFile(path, 3); err == nil || err.Error() != want {
			t.Errorf("ReadFile(%q) = %v, want %s", path, err, want)
		}
	}
}

func TestClip(t *testing.T) {
	check(t, func(text string) string { return secret.Clip(text, 4) }, map[string]string{
		"":           "",
		"four":       "four",
		"fours":      "four...",
		"b\xffd":     "b?d",
		"cut\u00e9x": "cut?...",
	})
}

func TestPrintable(t *testing.T) {
	check(t, secret.Printable, map[string]string{
		"":                       "",
		"a name, \"quoted\"~":    "a name, \"quoted\"~",
		"two\nlines\x1b[2J\x7f":  "two?lines?[2J?",
		"caf\u00e9":              "caf??",
		strings.Repeat("x", 64):  strings.Repeat("x", 64),
		strings.Repeat("x", 65):  strings.Repeat("x", 64),
		strings.Repeat("é", 100): strings.Repeat("?", 64),
	})
}
