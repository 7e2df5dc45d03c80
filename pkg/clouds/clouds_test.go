package clouds_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/clouds"
)

// write makes files in a new folder, which becomes the working directory.
func write(t *testing.T, files map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

const login = "auth_url: https://keystone.example.com/v3, username: reader, password: correct-horse, project_name: service"

// mustRead returns the cloud of a clouds.yaml with one entry.
func mustRead(t *testing.T, entry string, environ ...string) *clouds.Cloud {
	t.Helper()
	write(t, map[string]string{"clouds.yaml": "clouds:\n  mine: " + entry + "\n"})
	c, err := clouds.Read(clouds.Query{Cloud: "mine"}, append(environ, "HOME=/nowhere"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A password is sent as it is written, even if PyYAML reads another type.
func TestPasswordIsTakenAsWritten(t *testing.T) {
	for _, tt := range []struct {
		written, want string
		warned        bool
	}{
		{"correct-horse", "correct-horse", false},
		{"'0123'", "0123", false},
		{`"yes"`, "yes", false},
		{"0123", "0123", true},
		{"0o17", "0o17", false},
		{"0x1F", "0x1F", true},
		{"1_000", "1_000", true},
		{"12345", "12345", false},
		{"-5", "-5", false},
		{"+5", "+5", true},
		{"00", "00", true},
		{"12345678901234567890123", "12345678901234567890123", false},
		{"yes", "yes", true},
		{"No", "No", true},
		{"on", "on", true},
		{"true", "true", true},
		{"1.50", "1.50", true},
		{"1.5", "1.5", false},
		{"1e5", "1e5", false},
		{"1.0e+5", "1.0e+5", true},
		{"12:30:45", "12:30:45", true},
		{"2026-11-27", "2026-11-27", true},
		{".5", ".5", true},
		{".inf", ".inf", true},
		{"y", "y", false},
		{"!!str yes", "yes", false},
	} {
		t.Run(tt.written, func(t *testing.T) {
			c := mustRead(t, "\n    auth:\n      auth_url: https://keystone.example.com/v3\n      username: reader\n      password: "+tt.written)
			if c.Password != tt.want {
				t.Errorf("the password is %q, want %q", c.Password, tt.want)
			}
			all := strings.Join(c.Warnings, "\n")
			if got := strings.Contains(all, "clouds.mine.auth.password (line 6 of clouds.yaml): PyYAML reads this value as a"); got != tt.warned {
				t.Errorf("warned: %v, want %v: %s", got, tt.warned, all)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	for _, tt := range []struct {
		name, entry string
		environ     []string
		want        string // "" for no warning
	}{
		{name: "no warning", entry: "{auth: {" + login + "}}"},
		{name: "keys without effect here", entry: "{image_api_version: 2, volume_endpoint_override: http://x, networks: [], has_network: false, floating_ip_source: None, auth: {" + login + "}}"},
		{name: "a misspelled region", entry: "{regoin_name: x, region_nam: x, auth: {" + login + "}}", want: "clouds.mine.region_nam (line 2 of clouds.yaml): this key is unknown and not used"},
		{name: "a proxy", entry: "{http_proxy: http://x, auth: {" + login + "}}", want: "clouds.mine.http_proxy (line 2 of clouds.yaml): this key is unknown"},
		{name: "any key in auth", entry: "{auth: {user_agent: x, " + login + "}}", want: "clouds.mine.auth.user_agent (line 2 of clouds.yaml): this key is unknown"},
		{name: "a token", entry: "{auth: {token: x, " + login + "}}", want: "clouds.mine.auth.token"},
		{name: "an unknown profile", entry: "{profile: pilot, auth: {" + login + "}}", want: `there is no vendor profile "pilot"`},
		{name: "a profile by URL", entry: "{profile: 'https://cloud.example.com', auth: {" + login + "}}", want: "a profile that is a URL is not fetched"},
		{name: "a deprecated profile", entry: "{profile: fuga, auth: {" + login + "}}", want: "deprecated"},
		{name: "Keystone v2", entry: "{identity_api_version: 2, auth: {" + login + "}}", want: "clouds.mine.identity_api_version (line 2 of clouds.yaml): is not used"},
		{name: "Keystone v3", entry: "{identity_api_version: 3.0, auth: {" + login + "}}"},
		{name: "a CA without verification", entry: "{verify: false, cacert: ca.pem, auth: {" + login + "}}", want: "cacert is not used"},
		{name: "insecure: 1", entry: "{insecure: 1, auth: {" + login + "}}", want: "is not true, so that certificates are verified"},
		{name: "OS_CACERT beside a named cloud", entry: "{auth: {" + login + "}}", environ: []string{"OS_CACERT=ca.pem"}, want: "OS_CACERT is not read with a named cloud"},
		{name: "OS_CACERT beside a named cloud's own", entry: "{cacert: own.pem, auth: {" + login + "}}", environ: []string{"OS_CACERT=ca.pem"}},
		{name: "OS_CLIENT_CONFIG_FILE that does not exist", entry: "{auth: {" + login + "}}", environ: []string{"OS_CLIENT_CONFIG_FILE=/nowhere/clouds.yaml"}, want: "OS_CLIENT_CONFIG_FILE: the file cannot be used: /nowhere/clouds.yaml"},
		{name: "two ways to log in", entry: "{auth_type: password, auth: {application_credential_id: x, application_credential_secret: y, " + login + "}}", want: "the application credential is not used"},
		{name: "an application credential beside a password", entry: "{auth: {application_credential_id: x, application_credential_secret: y, " + login + "}}", want: "the application credential is not used, because there is a password: set auth_type to v3applicationcredential"},
		{name: "a password beside an application credential", entry: "{auth_type: v3applicationcredential, auth: {application_credential_id: x, application_credential_secret: y, " + login + "}}", want: "the password is not used"},
		{name: "auth_type with a dash", entry: "{auth-type: v3password, auth: {" + login + "}}", want: "clouds.mine.auth-type (line 2 of clouds.yaml): this key is unknown and not used"},
		{name: "endpoint_type with a dash", entry: "{endpoint-type: internal, auth: {" + login + "}}", want: "clouds.mine.endpoint-type (line 2 of clouds.yaml): this key is unknown and not used"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := mustRead(t, tt.entry, tt.environ...)
			all := strings.Join(c.Warnings, "\n")
			if tt.want == "" && all != "" || !strings.Contains(all, tt.want) {
				t.Errorf("the warnings are %q, want %q", all, tt.want)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name, entry string
		want        []string
	}{
		{"an auth_type of another kind", "{auth_type: v3oidcpassword, auth: {" + login + "}}", []string{"clouds.mine.auth_type (line 2 of clouds.yaml)", `"v3oidcpassword" is not supported`}},
		{"the older name of auth_type", "{auth_plugin: v3token, auth: {" + login + "}}", []string{"clouds.mine.auth_plugin", `"v3token" is not supported`}},
		{"no authentication", "{auth_type: none, auth: {" + login + "}}", []string{`"none" is not supported`}},
		{"another auth_type with a dash", "{auth-type: v3token, auth: {" + login + "}}", []string{`"v3token" is not supported`}},
		{"verify: false in quotes", "{verify: 'false', auth: {" + login + "}}", []string{"clouds.mine.verify", "is a text, not false"}},
		{"several scopes", "{auth: {system_scope: all, " + login + "}}", []string{"several", "project, system"}},
		{"another system scope", "{auth: {auth_url: 'http://x', username: u, password: p, system_scope: some}}", []string{"auth.system_scope", "all"}},
		{"a region that is not listed", "{regions: [one, two], auth: {" + login + "}}", []string{`region "three" is not one of the cloud's: one, two`}},
		{"a region without a name", "{regions: [{values: {}}], auth: {" + login + "}}", []string{"regions[0]", "no name"}},
		{"an unknown interface", "{interface: intern, auth: {" + login + "}}", []string{"clouds.mine.interface", `"intern" is not one of public, internal, admin`}},
		{"a closed cloud", "{profile: betacloud, auth: {" + login + "}}", []string{"clouds.mine.profile", "betacloud", "ended"}},
		{"a key in braces that does not exist", "{auth: {auth_url: 'https://{zone}.example.com', username: u, password: p}}", []string{"clouds.mine.auth.auth_url", "no key zone"}},
		{"auth that is not a mapping", "{auth: word}", []string{"clouds.mine.auth", "not a mapping"}},
		{"a password that is a list", "{auth: {auth_url: 'http://x', username: u, password: [p]}}", []string{"clouds.mine.auth.password", "is not text"}},
		{"no values", "", []string{`cloud "mine"`, "no values"}},
		{"auth_type password without a password", "{auth_type: password, auth: {auth_url: 'http://x', username: u, application_credential_id: x, application_credential_secret: y}}", []string{"no password", "auth_type to v3applicationcredential"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			write(t, map[string]string{"clouds.yaml": "clouds:\n  mine: " + tt.entry + "\n"})
			q := clouds.Query{Cloud: "mine"}
			if strings.Contains(tt.name, "not listed") {
				q.Region = "three"
			}
			_, err := clouds.Read(q, []string{"HOME=/nowhere"})
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("the error is %v, want %q in it", err, want)
				}
			}
		})
	}
}

func TestErrorNamesTheFilesThatWereTried(t *testing.T) {
	write(t, map[string]string{"home/.config/openstack/clouds.yaml": "clouds: {mine", "xdg/openstack/clouds.json": "{"})
	_, err := clouds.Read(clouds.Query{Cloud: "mine"}, []string{"HOME=" + os.Getenv("PWD") + "/home", "XDG_CONFIG_DIRS=" + os.Getenv("PWD") + "/xdg"})
	for _, want := range []string{"tried clouds.yaml, clouds.yml, clouds.json", "home/.config/openstack/clouds.yaml: yaml: line 1", "xdg/openstack/clouds.json: is not JSON", "/etc/openstack/clouds.yaml"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %q in it", err, want)
		}
	}
	write(t, map[string]string{"clouds.yaml": "clouds: {a: {}, b: {}}"})
	_, err = clouds.Read(clouds.Query{Cloud: "mine"}, []string{"HOME=/nowhere"})
	if want := `cloud "mine": not found in clouds.yaml, which has a, b`; err == nil || err.Error() != want {
		t.Errorf("the error is %v, want %q", err, want)
	}
}

func TestHomeOfTheAccountIsUsedWithoutHOME(t *testing.T) {
	write(t, map[string]string{"clouds.yaml": "clouds: {mine: {auth: {" + login + "}, cacert: ~/ca.pem}}"})
	c, err := clouds.Read(clouds.Query{Cloud: "mine"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(c.CACert) || filepath.Base(c.CACert) != "ca.pem" {
		t.Errorf("cacert is %q", c.CACert)
	}
}

// For root, a file that another user may have written is not trusted.
func TestFileOfAnotherUserIsSkipped(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	const text = "clouds: {mine: {auth: {" + login + "}}}"
	write(t, map[string]string{"clouds.yaml": text, "home/.config/openstack/clouds.yaml": strings.Replace(text, "reader", "own", 1)})
	if err := os.Chown("clouds.yaml", 12345, 12345); err != nil {
		t.Fatal(err)
	}
	c, err := clouds.Read(clouds.Query{Cloud: "mine"}, []string{"HOME=" + os.Getenv("PWD") + "/home"})
	if err != nil || c.User.Name != "own" {
		t.Fatalf("%v, %+v", err, c)
	}
	if all := strings.Join(c.Warnings, "\n"); !strings.Contains(all, "skipped: clouds.yaml belongs to the user with the ID 12345") {
		t.Errorf("the warnings are %q", all)
	}
	if _, err := clouds.Read(clouds.Query{Cloud: "mine", File: "clouds.yaml"}, nil); err == nil {
		t.Error("a file that the query names was read")
	}
}

func TestMergeKeysAndAliases(t *testing.T) {
	write(t, map[string]string{"clouds.yaml": `
common: &common
  auth: &auth {auth_url: "https://keystone.example.com/v3", username: reader, password: other}
  region_name: one
clouds:
  mine:
    <<: *common
    region_name: two
    auth:
      <<: [*auth, {project_name: service}]
      password: correct-horse
`})
	c, err := clouds.Read(clouds.Query{}, []string{"HOME=/nowhere"})
	if err != nil {
		t.Fatal(err)
	}
	want := &clouds.Cloud{
		Source: `cloud "mine" of clouds.yaml`, AuthURL: "https://keystone.example.com/v3",
		User: clouds.Name{Name: "reader", Domain: clouds.Domain{ID: "default"}}, Password: "correct-horse",
		Scope:  clouds.Scope{Project: clouds.Name{Name: "service", Domain: clouds.Domain{ID: "default"}}},
		Region: "two", Interfaces: []string{"public"}, Compute: clouds.Service{Type: "compute"},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestHugeFilesAreRefused(t *testing.T) {
	bomb := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += string(c) + ": &" + string(c) + " [" + strings.TrimSuffix(strings.Repeat("*"+string(c-1)+", ", 10), ", ") + "]\n"
	}
	for name, text := range map[string]string{
		"aliases": bomb, "itself": "clouds: &a {mine: *a}", "too long": strings.Repeat("#", 1<<20+1), "deep": strings.Repeat("[", 5000),
	} {
		write(t, map[string]string{"clouds.yaml": text})
		if _, err := clouds.Read(clouds.Query{Cloud: "mine", File: "clouds.yaml"}, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add("clouds: {mine: {auth: {" + login + "}, regions: [{name: x, values: {auth: {password: tr0Ub4dor}}}], <<: {verify: no}}}")
	f.Add("clouds:\n  mine:\n    auth: &a\n      password: 0123\n    <<: *a\n    interface: [internal, public]\n")
	f.Add("clouds: {mine: {profile: citycloud, auth: {username: x, password: y}}}")
	f.Fuzz(func(t *testing.T, text string) {
		name := filepath.Join(t.TempDir(), "clouds.yaml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := clouds.Read(clouds.Query{Cloud: "mine", File: name}, []string{"HOME=/nowhere"})
		if err == nil && (c.AuthURL == "" || c.Password == "" && c.ApplicationCredential.Secret == "" || len(c.Interfaces) == 0) {
			t.Errorf("%q gave the incomplete cloud %+v", text, c)
		}
	})
}
