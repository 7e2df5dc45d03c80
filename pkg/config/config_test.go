package config_test

import (
	"crypto/elliptic"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring/keyringtest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen/listentest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

var update = flag.Bool("update", false, "write testdata/bad/*.want")

// auth and roles are all that a file must have.
const (
	auth = `
auth:
  signingKeyFile: signing-key.pem
  tokenIssuer: https://id.example.com
`
	roles = `
roles:
  web:
    projectID: 7e562c1a85814230b973a83db9534b02
`
)

// newDir makes a directory with the files that configurations name.
func newDir(t testing.TB) string {
	t.Helper()
	t.Setenv("RUNTIME_DIRECTORY", "")
	t.Setenv("STATE_DIRECTORY", "")
	dir := t.TempDir()
	for _, name := range []string{"signing-key.pem", "second-key.pem"} {
		write(t, filepath.Join(dir, name), keyringtest.PKCS8(t, keyringtest.EC(t, elliptic.P256())))
	}
	listentest.NewCertificate(t, "id.example.com").Write(t, filepath.Join(dir, "server.pem"), filepath.Join(dir, "server-key.pem"))
	write(t, filepath.Join(dir, "metadata.secret"), []byte("shared-secret\n"))
	write(t, filepath.Join(dir, "encryption.key"), []byte("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n"))
	return dir
}

func write(t testing.TB, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// load loads a file with this text, in a directory of newDir.
func load(t *testing.T, text string) (*config.Plan, error) {
	t.Helper()
	file := filepath.Join(newDir(t), "config.yml")
	write(t, file, []byte(text))
	return config.Load(file)
}

func mustLoad(t *testing.T, text string) *config.Plan {
	t.Helper()
	return must(t)(load(t, text))
}

func mustLoadFile(t *testing.T, file string) *config.Plan {
	t.Helper()
	return must(t)(config.Load(file))
}

func must(t *testing.T) func(*config.Plan, error) *config.Plan {
	return func(c *config.Plan, err error) *config.Plan {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
}

// texts returns the texts of problems or warnings, with replacements as of [strings.NewReplacer].
func texts(list []config.Problem, replace ...string) (all []string) {
	for _, p := range list {
		all = append(all, strings.NewReplacer(replace...).Replace(p.String()))
	}
	return all
}

// internals matches words of Go, which an operator does not know.
var internals = regexp.MustCompile(`yaml:|!!|unmarshal|reflect|strconv|netip|time\.|\[\]string|\b(int|bool|float64|string|struct|map\[)\b|%!`)

// Each file of testdata/bad is refused with the problems of its .want file.
func TestBadFilesAreRefused(t *testing.T) {
	bad, err := filepath.Abs("testdata/bad")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(bad, "*.yml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	t.Chdir(newDir(t)) // messages name files as the configuration does
	write(t, "not-pem.txt", []byte("This is no PEM.\n"))
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(strings.TrimSuffix(name, ".yml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			write(t, name, data)
			c, err := config.Load(name)
			var p *config.Problems
			if !errors.As(err, &p) {
				t.Fatalf("Load gives %v and the error %v, want *Problems", c, err)
			}
			if c != nil {
				t.Error("a refused file gives a configuration")
			}
			got := err.Error() + "\n"
			if word := internals.FindString(got); word != "" {
				t.Errorf("%q is not a word for operators:\n%s", word, got)
			}
			if !slices.IsSortedFunc(p.List, func(a, b config.Problem) int { return a.Line - b.Line }) {
				t.Errorf("not in the order of the lines:\n%s", got)
			}
			wantFile := strings.TrimSuffix(file, ".yml") + ".want"
			if *update {
				if err := os.WriteFile(wantFile, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(wantFile)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("the message differs (-want +got):\n%s", diff)
			}
		})
	}
}

// Content that is too long for testdata, or that a reader cannot see there.
func TestBadContentIsRefused(t *testing.T) {
	nested := func(open, end string, n int) string {
		return auth + roles + "    metadata:\n      role: " + strings.Repeat(open, n) + strings.Repeat(end, n) + "\n"
	}
	var bomb strings.Builder
	bomb.WriteString(auth + "roles:\n  web:\n    projectID: &many [a" + strings.Repeat(", a", 50_000) + "]\n    metadata:\n")
	for i := range 30_000 {
		fmt.Fprintf(&bomb, "      k%d: *many\n", i)
	}
	laughs := "a0: &a0 [a, a]\n"
	for i := 1; i < 60; i++ {
		laughs += fmt.Sprintf("a%d: &a%d [*a%d, *a%d]\n", i, i, i-1, i-1)
	}
	tests := []struct {
		name, text string
		want       []string
	}{
		{"longer than a file may be", auth + roles + strings.Repeat("#\n", 5<<19), []string{"is longer than 1048576 bytes"}},
		{"a list that aliases repeat 30000 times", bomb.String(), []string{"has more than 100000 values, counting what aliases repeat"}},
		{"aliases of aliases, 2^60 values", laughs + auth + "roles:\n  web:\n    projectID: *a59\n", append(
			unknown("a", 60),
			"roles.web.projectID[0]: is not a value (line 60)", "roles.web.projectID[1]: is not a value (line 60)",
		)},
		{"lists within lists, 1000 deep", nested("[", "]", 1000), []string{"roles.web.metadata.role[0]: is not a value (line 10)"}},
		{"mappings within mappings, 1000 deep", nested("{a: ", "}", 1000), []string{"roles.web.metadata.role: is not a value (line 10)"}},
		{"lists within lists, 100000 deep", nested("[", "]", 100_000), []string{"is not YAML: exceeded max depth of 10000 (line 10)"}},
		{"not UTF-8", auth + roles + "    userID: caf\xe9\n", []string{"is not YAML: incomplete UTF-8 octet sequence (line 9)"}},
		{"a key file", "-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n", []string{"is not a mapping of keys to values (line 1)"}},
		{"nothing but zero bytes", "\x00\x00\x00", []string{"is not YAML: control characters are not allowed (line 1)"}},
		{"line numbers with CRLF", strings.ReplaceAll(auth+roles+"    limit: x\n", "\n", "\r\n"), []string{`roles.web.limit: "x" is not a whole number (line 9)`}},
		{"line numbers behind a byte order mark", "\ufefflog: x\n" + auth + roles, []string{"log: is not a mapping of keys to values (line 1)"}},
		{"half a megabyte where a number belongs", auth + "  limit: " + strings.Repeat("9", 1<<19) + "\n" + roles, []string{"auth.limit: (not shown) is not a whole number (line 5)"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.text)
			var p *config.Problems
			if !errors.As(err, &p) {
				t.Fatalf("the error is a %T: %v", err, err)
			}
			if diff := cmp.Diff(tt.want, texts(p.List)); diff != "" {
				t.Errorf("the problems differ (-want +got):\n%s", diff)
			}
		})
	}
}

// unknown returns the problems of n unknown keys in n lines.
func unknown(key string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("%s%d: is not a known key (line %d)", key, i, i+1)
	}
	return all
}

func TestAFileThatCannotBeReadIsNamed(t *testing.T) {
	dir := newDir(t)
	for name, file := range map[string]string{"missing": filepath.Join(dir, "missing.yml"), "a directory": dir} {
		_, err := config.Load(file)
		var p *config.Problems
		if err == nil || errors.As(err, &p) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: the error is %v, want one of the file system that names the file", name, err)
		}
	}
}

// A file with the required keys alone gives the defaults.
func TestDefaults(t *testing.T) {
	c := mustLoad(t, auth+roles)
	want := config.Default()
	want.Auth.SigningKeyFile = c.Auth.SigningKeyFile
	want.State.Type = state.TypeMemory // for a file that names a signingKeyFile
	want.Auth.TokenIssuer = "https://id.example.com"
	want.Roles = map[string]config.Role{"web": {Rules: attest.Rules{ProjectID: []string{"7e562c1a85814230b973a83db9534b02"}}}}
	if diff := cmp.Diff(want, c.Config, netips); diff != "" {
		t.Errorf("a short file's configuration is not the default (-want +got):\n%s", diff)
	}
}

var netips = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

// A value is the text in the file, also where YAML could make a number or a date of it.
func TestValuesAreText(t *testing.T) {
	tests := []struct{ name, value, want string }{
		{"digits", "12345678901234567890123456789012", "12345678901234567890123456789012"},
		{"digits and an e", "1e10", "1e10"},
		{"more digits and an e", "12345678901234567890123456789e12", "12345678901234567890123456789e12"},
		{"a zero in front", "0123", "0123"},
		{"0o and 0x", "[0o17, 0x1F]", "0o17 0x1F"},
		{"underscores", "1_000", "1_000"},
		{"a decimal", "1.50", "1.50"},
		{"a base of 60", "12:30:45", "12:30:45"},
		{"a date", "2001-01-01", "2001-01-01"},
		{"yes", "yes", "yes"},
		{"on", "on", "on"},
		{"n", "n", "n"},
		{"true", "True", "True"},
		{"infinity", ".inf", ".inf"},
		{"null in quotes", `["null", '~', "Null"]`, "null ~ Null"},
		{"a number in quotes", `"3"`, "3"},
		{"a pattern in quotes", `"*"`, "*"},
		{"a pattern that begins with text", "web-*?", "web-*?"},
		{"escapes", `"\u00e9"`, "é"},
		{"a comment sign within", "a#b", "a#b"},
		{"a comment", "a #b", "a"},
		{"a colon", "a:b", "a:b"},
		{"a list of lines", "\n      - a\n      - b", "a b"},
		{"over two lines", "a\n      b", "a b"},
		{"a dollar", "${HOME}", "${HOME}"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, key := range []string{"projectID", "metadata"} {
				under, value := "", tt.value
				if key == "metadata" {
					under = "\n      k:"
					value = strings.ReplaceAll(value, "\n", "\n  ")
				}
				c := mustLoad(t, auth+"roles:\n  web:\n    "+key+":"+under+" "+value+"\n")
				got := c.Roles["web"].ProjectID
				if key == "metadata" {
					got = c.Roles["web"].Metadata["k"]
				}
				if got := strings.Join(got, " "); got != tt.want {
					t.Errorf("%s: %s is read as %q, want %q", key, tt.value, got, tt.want)
				}
			}
		})
	}
}

func TestRoleNamesAreText(t *testing.T) {
	longest := strings.Repeat("a", 64)
	for _, name := range []string{"yes", "on", "123", "1e3", "null", "web.projectID", "...", "-", longest} {
		t.Run(name, func(t *testing.T) {
			c := mustLoad(t, auth+"roles: {\""+name+"\": {metadata: {null: a, 1: b, "+name+"x: c}}}\n")
			r, ok := c.Roles[name]
			if !ok {
				t.Fatalf("the roles are %v", c.Roles)
			}
			want := map[string][]string{"null": {"a"}, "1": {"b"}, name + "x": {"c"}}
			if diff := cmp.Diff(want, r.Metadata); diff != "" {
				t.Errorf("the metadata differs (-want +got):\n%s", diff)
			}
			if n, err := attest.ParseRoleName(name); err != nil || !c.RoleSet.Has(n) {
				t.Errorf("the role is not in the compiled set: %v", err)
			}
		})
	}
}

func TestOtherSpellingsOfAFileMeanTheSame(t *testing.T) {
	const plain = `
listen: 127.0.0.1:18775
proxy:
  trusted:
    - 192.0.2.10
    - 2001:db8::/64
auth:
  limit: 4
  period: 10m
  signingKeyFile: [signing-key.pem]
  tokenIssuer: https://id.example.com
throttle:
  perAddress:
    rate: 0.5
audit:
  required: true
roles:
  db:
    projectID: [a]
    limit: 4
  web:
    projectID: [a]
    limit: 4
`
	replace := strings.NewReplacer
	tests := map[string]string{
		"CRLF":                    strings.ReplaceAll(plain, "\n", "\r\n"),
		"a byte order mark":       "\ufeff" + plain,
		"markers of the document": "%YAML 1.1\n---" + plain + "...\n",
		"quoted numbers":          replace("limit: 4", `limit: "4"`, "10m", `'10m'`, "0.5", `"0.5"`, "true", `"true"`).Replace(plain),
		"quoted keys":             replace("listen", `"listen"`, "limit", `'limit'`).Replace(plain),
		"other durations":         replace("10m", "600s").Replace(plain),
		"a duration of units":     replace("10m", "9m60s").Replace(plain),
		"zeros in front":          replace("limit: 4", "limit: 04").Replace(plain),
		"an exponent":             replace("0.5", "5e-1").Replace(plain),
		"a value for a list":      replace("[a]", "a", "[signing-key.pem]", "signing-key.pem").Replace(plain),
		"networks in full":        replace("192.0.2.10", "192.0.2.10/32", "2001:db8::/64", "2001:0DB8:0::/64").Replace(plain),
		"an IPv4 address mapped":  replace("192.0.2.10", "::ffff:192.0.2.10").Replace(plain),
		"comments":                replace("\n", " # why\n").Replace(plain),
		"sections without keys":   plain + "tls:\nlog:\nmetrics: # listen: :18776\n",
		"defaults written out":    plain + "log: {level: info, format: json}\n",
		"an alias for a mapping":  replace("  db:", "  db: &role", "  web:\n    projectID: [a]\n    limit: 4\n", "  web: *role\n").Replace(plain),
		"an alias for a list":     strings.Replace(strings.ReplaceAll(plain, "[a]", "*projects"), "*projects", "&projects [a]", 1),
		"an alias for a value":    strings.Replace(strings.ReplaceAll(plain, "limit: 4", "limit: *most"), "*most", "&most 4", 1),
		"an alias in a list":      strings.Replace(strings.ReplaceAll(plain, "[a]", "[*project]"), "*project", "&project a", 1),
		"flow style":              "{" + "listen: 127.0.0.1:18775, proxy: {trusted: [192.0.2.10, '2001:db8::/64']}, auth: {limit: 4, period: 10m, signingKeyFile: signing-key.pem, tokenIssuer: 'https://id.example.com'}, throttle: {perAddress: {rate: 0.5}}, audit: {required: true}, roles: {db: {projectID: [a], limit: 4}, web: {projectID: [a], limit: 4}}}",
	}
	want := mustLoad(t, plain)
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			got := mustLoad(t, text)
			got.Auth.SigningKeyFile = want.Auth.SigningKeyFile // in another directory
			if diff := cmp.Diff(want.Config, got.Config, netips); diff != "" {
				t.Errorf("the configuration differs (-want +got):\n%s", diff)
			}
		})
	}
}

// The file has the keys and values of the original tool's example.
func TestAFileOfTheOriginalToolLoads(t *testing.T) {
	c := mustLoad(t, `
listen: 0.0.0.0:18775
tls:
  certFile: server.pem
  keyFile: server-key.pem
auth:
  limit: 3
  period: 600s
  signingKeyFile: signing-key.pem
  tokenIssuer: https://127.0.0.1:18775
  tokenExpiry: 60s
roles:
  web:
    projectID: 7e562c1a-8581-4230-b973-a83db9534b02
    userID: 821a2eaa-c072-4c06-9aa6-a44bd7b91935
    metadata:
      role: web
`)
	if diff := cmp.Diff([]string{
		`roles.web.projectID: "7e562c1a-8581-4230-b973-a83db9534b02" does not have the form of Keystone's IDs of projects (32 hexadecimal digits in lower case): no instance meets the rule, unless the project was created with an ID of another form; print the ID with: openstack project show 7e562c1a85814230b973a83db9534b02 -f value -c id (line 14)`,
		`roles.web.userID: "821a2eaa-c072-4c06-9aa6-a44bd7b91935" does not have the form of Keystone's IDs of users (32 hexadecimal digits in lower case, or 64 for a user of LDAP): no instance meets the rule, unless the user was created with an ID of another form; print the ID with: openstack user show 821a2eaac0724c069aa6a44bd7b91935 -f value -c id (line 15)`,
	}, texts(c.Warnings())); diff != "" {
		t.Errorf("the warnings differ (-want +got):\n%s", diff)
	}
	want := attest.Rules{
		ProjectID: []string{"7e562c1a-8581-4230-b973-a83db9534b02"},
		UserID:    []string{"821a2eaa-c072-4c06-9aa6-a44bd7b91935"},
		Metadata:  map[string][]string{"role": {"web"}},
	}
	if diff := cmp.Diff(want, c.Roles["web"].Rules); diff != "" {
		t.Errorf("the rules differ (-want +got):\n%s", diff)
	}
	if c.Auth.Limit != 3 || c.Auth.Period != 10*time.Minute || c.Auth.Since != attest.SinceCreated || c.Auth.TokenExpiry != time.Minute {
		t.Errorf("auth is %+v", c.Auth)
	}
	if _, err := token.NewIssuer(c.Tokens, c.SigningKeys, nil); err != nil {
		t.Errorf("the keys were not read: %v", err)
	}
}

func TestAllSigningKeysArePublished(t *testing.T) {
	c := mustLoad(t, strings.Replace(auth, "signing-key.pem", "[second-key.pem, signing-key.pem]", 1)+roles)
	i, err := token.NewIssuer(c.Tokens, c.SigningKeys, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(i.JWKS().Body), `"kid"`); n != 2 {
		t.Errorf("%d keys are published, want 2", n)
	}
}

func TestPathsAreRelativeToTheFile(t *testing.T) {
	const text = `
tls: {certFile: server.pem, keyFile: ./server-key.pem}
auth:
  signingKeyFile: [signing-key.pem, ABSOLUTE/second-key.pem]
  tokenIssuer: https://id.example.com
openstack: {cloudsFile: ../clouds.yaml}
audit: {output: log/audit.json}
admin: {socket: admin.sock}
` + roles
	dir, other := newDir(t), newDir(t)
	file := filepath.Join(dir, "config.yml")
	write(t, file, []byte(strings.ReplaceAll(text, "ABSOLUTE", other)))
	t.Chdir(other)
	relative, err := filepath.Rel(other, file)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{file, relative} {
		c := mustLoadFile(t, file)
		want := map[string]string{
			c.TLS.CertFile:           filepath.Join(dir, "server.pem"),
			c.TLS.KeyFile:            filepath.Join(dir, "server-key.pem"),
			c.Auth.SigningKeyFile[0]: filepath.Join(dir, "signing-key.pem"),
			c.Auth.SigningKeyFile[1]: filepath.Join(other, "second-key.pem"),
			c.OpenStack.CloudsFile:   filepath.Join(filepath.Dir(dir), "clouds.yaml"),
			c.Audit.Output:           filepath.Join(dir, "log/audit.json"),
			c.Admin.Socket:           filepath.Join(dir, "admin.sock"),
		}
		for got, want := range want {
			if abs, err := filepath.Abs(got); err != nil || abs != want {
				t.Errorf("a path of %s is %s, want %s", file, got, want)
			}
		}
		if !filepath.IsAbs(c.Admin.Socket) {
			t.Errorf("the socket is %s, want an absolute path", c.Admin.Socket)
		}
	}
}

func TestStdoutAndStderrAreNotPaths(t *testing.T) {
	for _, output := range []string{"stdout", "stderr"} {
		if c := mustLoad(t, auth+roles+"audit: {output: "+output+"}\n"); c.Audit.Output != output {
			t.Errorf("the output %s is %s", output, c.Audit.Output)
		}
	}
}

// systemd names the directories of the admin socket and of the state. The file of what the
// server has seen is never in Redis.
func TestPathsInTheDirectoriesOfSystemd(t *testing.T) {
	const redis = "keys: {encryptionKeyFile: encryption.key}\nstate: {type: redis}\n"
	socket := func(c *config.Plan) string { return c.Admin.Socket }
	stateFile := func(c *config.Plan) string { return c.State.File.Path }
	seenFile := (*config.Plan).SeenFile
	for _, tt := range []struct {
		name, variable, directory, text string
		path                            func(*config.Plan) string
		want                            string
	}{
		{"socket: neither", "RUNTIME", "", `admin: {socket: ""}`, socket, ""},
		{"socket: from systemd", "RUNTIME", "/run/ona", `admin: {socket: ""}`, socket, "/run/ona/admin.sock"},
		{"socket: from systemd, with a second directory", "RUNTIME", "/run/ona:/run/other", `admin: {socket: ""}`, socket, "/run/ona/admin.sock"},
		{"socket: from the file", "RUNTIME", "", "admin: {socket: /run/admin.sock}", socket, "/run/admin.sock"},
		{"socket: from the file rather than systemd", "RUNTIME", "/run/ona", "admin: {socket: /run/admin.sock}", socket, "/run/admin.sock"},

		{"state: beside the file", "STATE", "", "state: {type: file}", stateFile, "DIR/state.db"},
		{"state: another path", "STATE", "", "state: {type: file, file: {path: data/ona.db}}", stateFile, "DIR/data/ona.db"},
		{"state: in systemd's", "STATE", "/var/lib/ona", "state: {type: file}", stateFile, "/var/lib/ona/state.db"},
		{"state: in the first of systemd's", "STATE", "/var/lib/ona:/var/lib/other", "state: {type: file}", stateFile, "/var/lib/ona/state.db"},
		{"state: an absolute path rather than systemd's", "STATE", "/var/lib/ona", "state: {type: file, file: {path: /srv/ona.db}}", stateFile, "/srv/ona.db"},
		{"state: memory has no path", "STATE", "/var/lib/ona", "state: {type: memory}", stateFile, "state.db"},

		{"seen: beside the state file", "STATE", "", "state: {type: file}", seenFile, "DIR/state.db.seen"},
		{"seen: beside the state file in systemd's", "STATE", "/var/lib/ona", "state: {type: file}", seenFile, "/var/lib/ona/state.db.seen"},
		{"seen: with Redis, beside the configuration", "STATE", "", redis, seenFile, "DIR/state.seen"},
		{"seen: with Redis, in systemd's", "STATE", "/var/lib/ona:/var/lib/other", redis, seenFile, "/var/lib/ona/state.seen"},
		{"seen: not with memory", "STATE", "/var/lib/ona", "state: {type: memory}", seenFile, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := newDir(t)
			file := filepath.Join(dir, "config.yml")
			write(t, file, []byte(auth+roles+tt.text+"\n"))
			t.Setenv(tt.variable+"_DIRECTORY", tt.directory)
			if got, want := tt.path(mustLoadFile(t, file)), strings.Replace(tt.want, "DIR", dir, 1); got != want {
				t.Errorf("the path is %q, want %q", got, want)
			}
		})
	}
}

// A file of the original tool, which has no state, must work without a place for one.
func TestDefaultOfTheStateType(t *testing.T) {
	managed := "auth: {tokenIssuer: https://id.example.com}\n"
	for _, tt := range []struct{ name, text, want string }{
		{"managed keys", managed, state.TypeFile},
		{"a signing key", auth, state.TypeMemory},
		{"a signing key, and a state without a type", auth + "state: {file: {path: other.db}}\n", state.TypeMemory},
		{"a signing key, and a type", auth + "state: {type: file}\n", state.TypeFile},
		{"managed keys in memory", managed + "state: {type: memory}\n", state.TypeMemory},
		{"redis", managed + "keys: {encryptionKeyFile: encryption.key}\nstate: {type: redis}\n", state.TypeRedis},
		{"redis without managed keys", auth + "keys: {encryptionKeyFile: encryption.key}\nstate: {type: redis}\n", state.TypeRedis},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if c := mustLoad(t, tt.text+roles); c.State.Type != tt.want {
				t.Errorf("the state is in %s, want %s", c.State.Type, tt.want)
			}
		})
	}
}

func TestSettingsOfRedis(t *testing.T) {
	dir := newDir(t)
	write(t, filepath.Join(dir, "password"), []byte("word\n"))
	file := filepath.Join(dir, "config.yml")
	write(t, file, []byte(`auth: {tokenIssuer: https://id.example.com}
keys: {encryptionKeyFile: encryption.key}
state: {type: redis, redis: {addresses: 192.0.2.20:6379, passwordFile: password, caFile: ca.pem}}
`+roles))
	c := mustLoadFile(t, file)
	want := state.RedisConfig{Addresses: []string{"192.0.2.20:6379"}, Prefix: "ona:", PasswordFile: filepath.Join(dir, "password"), CAFile: filepath.Join(dir, "ca.pem")}
	if diff := cmp.Diff(want, c.State.Redis); diff != "" {
		t.Errorf("redis (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{filepath.Join(dir, "encryption.key")}, c.Keys.EncryptionKeyFile); diff != "" {
		t.Errorf("the encryption key (-want +got):\n%s", diff)
	}
}

func TestMetricsCanBeOff(t *testing.T) {
	if c := mustLoad(t, auth+roles+"metrics: {listen: \"\"}\n"); c.Metrics.Listen != "" {
		t.Errorf("metrics.listen is %q, want none", c.Metrics.Listen)
	}
}

func TestTheHashIsOfTheContent(t *testing.T) {
	text := auth + roles
	a, b, c := mustLoad(t, text), mustLoad(t, text), mustLoad(t, text+"#\n")
	if !regexp.MustCompile(`^[0-9a-f]{12}$`).MatchString(a.Hash) {
		t.Errorf("the hash is %q, want 12 hexadecimal digits", a.Hash)
	}
	if a.Hash != b.Hash {
		t.Errorf("the same file has the hashes %s and %s", a.Hash, b.Hash)
	}
	if a.Hash == c.Hash {
		t.Errorf("two files have the hash %s", a.Hash)
	}
}

func TestTokensOfRoles(t *testing.T) {
	c := mustLoad(t, auth+roles+`    tokenExpiry: 2m
    audience: https://vault.example.com
    subject: project/${project_id}/instance/${instance_id}
    claims: [image_id, metadata.env]
  db: {userID: a}
`)
	want := map[string]token.RoleConfig{
		"web": {TokenExpiry: new(2 * time.Minute), Subject: "project/${project_id}/instance/${instance_id}", Claims: []string{"image_id", "metadata.env"}},
		"db":  {},
	}
	got := map[string]token.RoleConfig{}
	for name, r := range c.Roles {
		got[name] = r.RoleConfig
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if c.Tokens.NeedsProjects() {
		t.Error("names of projects are wanted")
	}
	if c := mustLoad(t, auth+roles+"    claims: project_name\n"); !c.Tokens.NeedsProjects() {
		t.Error("names of projects are not wanted")
	}
	if diff := cmp.Diff([]string{"https://vault.example.com"}, c.Roles["web"].Audience); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWarningsOfNamesInPlaceOfIDs(t *testing.T) {
	const (
		id      = "7e562c1a85814230b973a83db9534b02"
		project = " does not have the form of Keystone's IDs of projects (32 hexadecimal digits in lower case): no instance meets the rule, unless the project was created with an ID of another form; print the ID with: openstack project show "
		user    = " does not have the form of Keystone's IDs of users (32 hexadecimal digits in lower case, or 64 for a user of LDAP): no instance meets the rule, unless the user was created with an ID of another form; print the ID with: openstack user show "
		end     = " -f value -c id"
	)
	for _, tt := range []struct{ name, key, value, want string }{
		{"an ID", "projectID", id, ""},
		{"an ID of digits alone, as a text", "projectID", `"` + strings.Repeat("1", 32) + `"`, ""},
		{"two IDs", "projectID", "[" + id + ", c0ffee00c0ffee00c0ffee00c0ffee00]", ""},
		{"a user of LDAP", "userID", id + id, ""},
		{"a pattern that an ID can match", "projectID", "'7e56*'", ""},
		{"a pattern with both ends", "projectID", "'7e56*02'", ""},
		{"a pattern of the length of an ID", "userID", "'7" + strings.Repeat("?", 31) + "'", ""},
		{"a pattern of the length of LDAP's", "userID", "'7" + strings.Repeat("?", 63) + "'", ""},

		{"a name", "projectID", "my-project", `.projectID: "my-project"` + project + "my-project" + end},
		{"a name of hexadecimal letters", "projectID", "cafe", `.projectID: "cafe"` + project + "cafe" + end},
		{"a name with a space", "projectID", "my project", `.projectID: "my project"` + project + "'my project'" + end},
		{"a name that is an option", "projectID", "-h", `.projectID: "-h"` + project + "NAME" + end},
		{"a name with a quote", "projectID", `"a'b"`, `.projectID: "a'b"` + project + "NAME" + end},
		{"the second of a list", "projectID", "[" + id + ", web]", `.projectID[1]: "web"` + project + "web" + end},
		{"a user's name", "userID", "nova", `.userID: "nova"` + user + "nova" + end},
		{"a UUID with dashes", "userID", "7e562c1a-8581-4230-b973-a83db9534b02", `.userID: "7e562c1a-8581-4230-b973-a83db9534b02"` + user + id + end},
		{"a UUID with dashes in upper case", "projectID", "7E562C1A-8581-4230-B973-A83DB9534B02", `.projectID: "7E562C1A-8581-4230-B973-A83DB9534B02"` + project + id + end},
		{"upper case", "projectID", strings.ToUpper(id), `.projectID: (not shown)` + project + "NAME" + end},
		{"a digit less", "projectID", id[1:], `.projectID: (not shown)` + project + "NAME" + end},
		{"a digit more", "userID", id + "0", `.userID: (not shown)` + user + "NAME" + end},
		{"a project with the length of a user of LDAP", "projectID", id + id, `.projectID: (not shown)` + project + "NAME" + end},
		{"a pattern of names", "projectID", "'web-*'", `.projectID: "web-*"` + project + "NAME" + end},
		{"a pattern of too many digits", "projectID", "'" + id + "*0'", `.projectID: (not shown)` + project + "NAME" + end},
		{"the domain's word", "projectID", "default", `.projectID: "default"` + project + "default" + end},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := mustLoad(t, "listen: 127.0.0.1:1\n"+auth+"roles:\n  web:\n    "+tt.key+": "+tt.value+"\n")
			var want []string
			if tt.want != "" {
				want = []string{"roles.web" + tt.want + " (line 8)"}
			}
			if diff := cmp.Diff(want, texts(c.Warnings())); diff != "" {
				t.Errorf("the warnings differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	const (
		tls    = "tls: {certFile: server.pem, keyFile: server-key.pem}\n"
		plain  = "listen: 0.0.0.0:18775 serves plain HTTP, so others on the network can read tokens; set tls, or proxy.trusted if a load balancer terminates TLS"
		door   = "metadataService:\n  listen: 192.0.2.5:8775\n  sharedSecretFile: metadata.secret\n"
		noCA   = "metadataService.tls: has no clientCAFile, so a host that takes an agent's address is accepted as that agent, and can capture signatures, which never expire; set clientCAFile"
		open   = "requires no project and no user: everyone who can create an instance in any project can meet its other rules; set projectID or userID"
		unless = ", unless metadataService.agentsLimitHeaders is true: set it if each metadata agent is of Neutron 2024.2 or older, or has the limit of example/metadata-service/agent-limits"
		short  = "is empty, so requests above 8 KiB are refused: instances with longer user data get no vendordata"

		stated    = "metadataService: {agentsLimitHeaders: true}\n"
		unlimited = " is denied (agents_unlimited)" + unless
	)
	issuer := func(s string) string { return strings.Replace(auth, "https://id.example.com", s, 1) }
	tests := []struct {
		name, text string
		modes      map[string]os.FileMode
		want       []string
	}{
		{"nothing", tls + auth + roles, nil, nil},

		{"plain HTTP by default", auth + roles, nil, []string{plain}},
		{"plain HTTP as written", "\nlisten: 0.0.0.0:18775\n" + auth + roles, nil, []string{plain + " (line 2)"}},
		{"plain HTTP on all addresses", "listen: :80\n" + auth + roles, nil, []string{strings.Replace(plain, "0.0.0.0:18775", ":80", 1) + " (line 1)"}},
		{"plain HTTP on loopback", "listen: 127.0.0.1:18775\n" + auth + roles, nil, nil},
		{"plain HTTP on another address of loopback", "listen: 127.1.2.3:18775\n" + auth + roles, nil, nil},
		{"plain HTTP on loopback, IPv6", "listen: \"[::1]:18775\"\n" + auth + roles, nil, nil},
		{"plain HTTP on localhost", "listen: localhost:18775\n" + auth + roles, nil, nil},
		{"plain HTTP behind a load balancer", "proxy: {trusted: 192.0.2.10}\n" + auth + roles, nil, nil},

		{"issuer without TLS", tls + issuer("http://id.example.com") + roles, nil, []string{"auth.tokenIssuer: http://id.example.com is not https: an attacker on the network can give verifiers other keys, and most verifiers reject it (line 5)"}},
		{"issuer with a slash behind", tls + issuer("https://id.example.com/") + roles, nil, []string{"auth.tokenIssuer: https://id.example.com/ ends in a slash: verifiers compare byte for byte, and some remove it (line 5)"}},
		{"issuer with a path", tls + issuer("https://id.example.com/east") + roles, nil, nil},

		{"signing key that all can read", tls + auth + roles, map[string]os.FileMode{"signing-key.pem": 0o644}, []string{"auth.signingKeyFile: every user of this host can read DIR/signing-key.pem (mode 0644), and then sign any token; correct that with: chmod o= DIR/signing-key.pem (line 4)"}},
		{"second signing key that all can read", tls + strings.Replace(auth, "signing-key.pem", "[signing-key.pem, second-key.pem]", 1) + roles, map[string]os.FileMode{"second-key.pem": 0o604}, []string{"auth.signingKeyFile: every user of this host can read DIR/second-key.pem (mode 0604), and then sign any token; correct that with: chmod o= DIR/second-key.pem (line 4)"}},
		{"signing key that the group of the service can read", tls + auth + roles, map[string]os.FileMode{"signing-key.pem": 0o640}, nil},
		{"signing key that the group can write", tls + auth + roles, map[string]os.FileMode{"signing-key.pem": 0o660}, []string{"auth.signingKeyFile: the group of DIR/signing-key.pem can change it (mode 0660); correct that with: chmod g-w DIR/signing-key.pem (line 4)"}},
		{"key of the certificate that all can read", "\n" + tls + auth + roles, map[string]os.FileMode{"server-key.pem": 0o644}, []string{"tls.keyFile: every user of this host can read DIR/server-key.pem (mode 0644), and then impersonate this server; correct that with: chmod o= DIR/server-key.pem (line 2)"}},
		{"keys that their owner and group can read", tls + auth + roles, map[string]os.FileMode{"signing-key.pem": 0o400, "server-key.pem": 0o640}, nil},
		{"certificate that all can read", tls + auth + roles, map[string]os.FileMode{"server.pem": 0o644}, nil},

		{"token life above an hour", tls + auth + "  tokenExpiry: 61m\n" + roles, nil, []string{"auth.tokenExpiry: 1h1m0s is long: a token cannot be revoked, and is valid until it expires (line 6)"}},
		{"token life of an hour", tls + auth + "  tokenExpiry: 1h\n" + roles, nil, nil},
		{"token life of a role above an hour", tls + auth + roles + "    tokenExpiry: 24h\n", nil, []string{"roles.web.tokenExpiry: 24h0m0s is long: a token cannot be revoked, and is valid until it expires (line 10)"}},
		{"audience that verifiers split", tls + auth + roles + "    audience: a;b\n", nil, []string{"roles.web.audience: a;b has a ; or a comma: verifiers that split it there, as Keystone's mapping does, see several audiences; choose another name (line 10)"}},
		{"own keys in memory", tls + "auth: {tokenIssuer: \"https://id.example.com\"}\nstate: {type: memory}\n" + roles, nil, []string{"state.type: with memory a restart loses the signing keys, and verifiers then reject all issued tokens; use file or redis (line 3)"}},
		{"token life of a role of an hour", tls + auth + roles + "    tokenExpiry: 1h\n", nil, nil},

		{"wide network of load balancers", "proxy:\n  trusted:\n    - 192.0.2.10\n    - 10.0.0.0/15\n" + auth + roles, nil, []string{"proxy.trusted[1]: 10.0.0.0/15 is a wide network: every host in it can claim the address of any instance; list the load balancers (line 4)"}},
		{"wide network alone, without brackets", "proxy:\n  trusted: 10.0.0.0/8\n" + auth + roles, nil, []string{"proxy.trusted[0]: 10.0.0.0/8 is a wide network: every host in it can claim the address of any instance; list the load balancers (line 2)"}},
		{"narrow networks", "proxy: {trusted: [10.0.0.0/16, '2001:db8::/112', '2001:db8::1']}\n" + auth + roles, nil, nil},

		{"agents without certificates", tls + auth + roles + door + "  agents: 192.0.2.1\n", nil, []string{noCA + " (line 10)"}},
		{"a wide network of agents, and of proxies", tls + auth + roles + door + "  agents: [192.0.2.1, 10.0.0.0/8]\n  proxies: ['fd00::/16']\n", nil, []string{
			noCA + " (line 10)",
			"metadataService.agents[1]: 10.0.0.0/8 is a wide network: every host in it can replay a captured signature, and so get the tokens of that instance; list the hosts (line 13)",
			"metadataService.proxies[0]: fd00::/16 is a wide network: every host in it can replay a captured signature, and so get the tokens of that instance; list the hosts (line 14)",
		}},
		{"shared secret that all can read", tls + auth + roles + door + "  agents: 192.0.2.1\n", map[string]os.FileMode{"metadata.secret": 0o644}, []string{
			noCA + " (line 10)",
			"metadataService.sharedSecretFile: every user of this host can read DIR/metadata.secret (mode 0644), and then get the tokens of any instance; correct that with: chmod o= DIR/metadata.secret (line 12)",
		}},
		{"a door that is closed, for a role that needs it", tls + stated + auth + roles + "    proof: metadataService\n", nil, []string{"metadataService.listen: is empty, and a role accepts only the proof metadataService: no instance can get that role; set it (line 2)"}},
		{"documents that Nova does not get", tls + stated + auth + roles + "    proof: document\n", nil, []string{"vendordata.users: is empty, so Nova gets no documents, and a role accepts no other proof: no instance can get that role; set it"}},
		{"documents or an address", tls + stated + auth + roles + "    proof: [document, address]\n", nil, nil},
		{"the metadata service in a list, without the statement on the agents", tls + auth + roles + "    proof: [metadataService, address]\n", nil, []string{"roles.web.proof: the proof metadataService" + unlimited + " (line 10)"}},
		{"a document in a list, without the statement on the agents", tls + "metadataService: {agentsLimitHeaders: false}\n" + auth + roles + "    proof: [address, document]\n", nil, []string{"roles.web.proof: the proof document" + unlimited + " (line 11)"}},
		{"proofs of auth, without the statement on the agents", tls + auth + "  proof: [metadataService, document, address]\n" + roles, nil, []string{
			"auth.proof: the proof metadataService" + unlimited + " (line 6)",
			"auth.proof: the proof document" + unlimited + " (line 6)",
		}},
		{"proofs of auth that no role has", tls + auth + "  proof: [document, address]\n" + roles + "    proof: address\n", nil, nil},
		{"a document and the address, without the statement on the agents", tls + auth + roles + "    proof: [address+document, address]\n", nil, nil},
		{"tokens for Nova, without the statement on the agents", tls + "vendordata: {users: d0fd9128b4574898af1ba8f4e7836ede, from: 192.0.2.11, audience: vault}\n" + auth + roles, nil, []string{"vendordata.audience: Nova's requests are denied (agents_unlimited), and no instance gets vendordata of this server" + unless + " (line 2)"}},
		{"Nova's door, closed", tls + "vendordata: {from: 192.0.2.11}\n" + auth + roles, nil, []string{"vendordata: has no users, so the door is closed and its other settings have no effect; set users (line 2)"}},
		{"Nova's door, open to all", tls + "vendordata: {users: d0fd9128b4574898af1ba8f4e7836ede}\n" + auth + roles, nil, []string{"vendordata.from: " + short + ", and instances can make the server send requests to Keystone; list the hosts with nova-api and nova-compute (line 2)"}},
		{"Nova's door, elsewhere", tls + "vendordata: {users: d0fd9128b4574898af1ba8f4e7836ede, listen: '192.0.2.5:18777'}\n" + auth + roles, nil, []string{"vendordata.from: " + short + "; list the hosts with nova-api and nova-compute (line 2)"}},
		{"Nova's door, without TLS", "listen: 127.0.0.1:1\nvendordata: {users: d0fd9128b4574898af1ba8f4e7836ede, from: 192.0.2.11, listen: '192.0.2.5:18777'}\n" + auth + roles, nil, []string{"vendordata.listen: 192.0.2.5:18777 serves plain HTTP, so others on the network can read Nova's token and all documents; set tls (line 2)"}},
		{"Nova's door, without TLS, on loopback", "listen: 127.0.0.1:1\nvendordata: {users: d0fd9128b4574898af1ba8f4e7836ede, from: 192.0.2.11, listen: '127.0.0.1:18777'}\n" + auth + roles, nil, nil},

		{"any audience, beside those of every instance", tls + stated + "vendordata: {users: d0fd9128b4574898af1ba8f4e7836ede, from: 192.0.2.11, audience: vault}\n" + auth + roles + "    anyAudience: true\n", nil, []string{"roles.web.anyAudience: allows vendordata.audience, for which every instance gets a token without a role: verifiers of that audience must check the claim role (line 12)"}},
		{"any audience, and Nova's door closed", tls + auth + roles + "    anyAudience: true\n", nil, nil},

		{"role by metadata alone", tls + auth + "roles:\n  web:\n    metadata: {role: web}\n", nil, []string{"roles.web: " + open + " (line 7)"}},
		{"role for all", tls + auth + "roles:\n  web: {allowAnyInstance: true}\n", nil, []string{"roles.web: " + open + " (line 7)"}},
		{"role of any project", tls + auth + "roles:\n  web: {projectID: '*'}\n", nil, []string{"roles.web: " + open + " (line 7)"}},
		{"role of any project, in other words", tls + auth + "roles:\n  web: {projectID: '?*'}\n", nil, []string{"roles.web: " + open + " (line 7)"}},
		{"role of one project or any", tls + auth + "roles:\n  web: {projectID: ['a*', '*']}\n", nil, []string{"roles.web: " + open + " (line 7)"}},
		{"role of any project, but one user", tls + auth + "roles:\n  web: {projectID: '*', userID: 821a2eaac0724c069aa6a44bd7b91935}\n", nil, nil},
		{"role of some projects", tls + auth + "roles:\n  web: {projectID: ['a*', 'b*']}\n", nil, nil},
		{"role of a user", tls + auth + "roles:\n  web: {userID: 821a2eaac0724c069aa6a44bd7b91935}\n", nil, nil},

		{"several, in the order of their lines", "roles:\n  web: {allowAnyInstance: true}\n" + issuer("http://id.example.com") + "  tokenExpiry: 2h\nlisten: :80\n", nil, []string{
			"roles.web: " + open + " (line 2)",
			"auth.tokenIssuer: http://id.example.com is not https: an attacker on the network can give verifiers other keys, and most verifiers reject it (line 6)",
			"auth.tokenExpiry: 2h0m0s is long: a token cannot be revoked, and is valid until it expires (line 7)",
			strings.Replace(plain, "0.0.0.0:18775", ":80", 1) + " (line 8)",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := newDir(t)
			for name, mode := range tt.modes {
				if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
					t.Fatal(err)
				}
			}
			file := filepath.Join(dir, "config.yml")
			write(t, file, []byte(tt.text))
			if diff := cmp.Diff(tt.want, texts(mustLoadFile(t, file).Warnings(), dir, "DIR")); diff != "" {
				t.Errorf("the warnings differ (-want +got):\n%s", diff)
			}
		})
	}
}
