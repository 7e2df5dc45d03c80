package openstack_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
)

// Parts of a login.
const (
	byDefaultName = `{"methods":["password"],"password":{"user":{"name":"authenticator","domain":{"name":"Default"},"password":"correct-horse"}}}`
	byDefaultID   = `{"methods":["password"],"password":{"user":{"name":"authenticator","domain":{"id":"default"},"password":"correct-horse"}}}`
	byUserID      = `{"methods":["password"],"password":{"user":{"id":"authenticator-id","password":"correct-horse"}}}`
	byAbroadName  = `{"methods":["password"],"password":{"user":{"name":"abroad","domain":{"name":"Abroad"},"password":"correct-horse"}}}`
	byAbroadID    = `{"methods":["password"],"password":{"user":{"name":"abroad","domain":{"id":"abroad-id"},"password":"correct-horse"}}}`
	byCredential  = `{"methods":["application_credential"],"application_credential":{"id":"credential-id","secret":"battery-staple"}}`
	byKeyOfUser   = `{"methods":["application_credential"],"application_credential":{"name":"key","user":{"name":"authenticator","domain":{"id":"default"}},"secret":"battery-staple"}}`
	byKeyOfUserID = `{"methods":["application_credential"],"application_credential":{"name":"key","user":{"id":"authenticator-id"},"secret":"battery-staple"}}`

	inDefaultName = `{"project":{"name":"service","domain":{"name":"Default"}}}`
	inDefaultID   = `{"project":{"name":"service","domain":{"id":"default"}}}`
	inProjectID   = `{"project":{"id":"service-id"}}`
	inAbroadName  = `{"project":{"name":"abroad","domain":{"name":"Abroad"}}}`
	inAbroadID    = `{"project":{"name":"abroad","domain":{"id":"abroad-id"}}}`

	first = "RegionOne/public" // of the catalog, when nothing is asked for
)

// fill replaces @AUTH by the cloud's auth_url, @BASE by the same without a version, and @HERE by dir.
func fill(s string, f *front, dir string) string {
	return strings.NewReplacer("@AUTH", f.authURL(), "@BASE", f.URL+"/identity", "@HERE", dir).Replace(s)
}

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// with returns the variables of a login by password with changes. "-" removes a variable.
func with(changes ...string) map[string]string {
	env := as("authenticator", "service", "@AUTH")
	for i := 0; i < len(changes); i += 2 {
		if env[changes[i]] = changes[i+1]; changes[i+1] == "-" {
			delete(env, changes[i])
		}
	}
	return env
}

const shellOfAnotherCloud = "http://127.0.0.1:1/another"

// another returns the variables of another cloud's openrc.
func another(more ...string) map[string]string {
	env := map[string]string{
		"OS_AUTH_URL": shellOfAnotherCloud, "OS_USERNAME": "another", "OS_USER_ID": "another", "OS_PASSWORD": "another",
		"OS_PROJECT_NAME": "another", "OS_PROJECT_ID": "another", "OS_USER_DOMAIN_NAME": "another", "OS_PROJECT_DOMAIN_ID": "another",
		"OS_REGION_NAME": "RegionTwo", "OS_INTERFACE": "internal", "OS_AUTH_TYPE": "v3oidcpassword",
	}
	for i := 0; i < len(more); i += 2 {
		env[more[i]] = more[i+1]
	}
	return env
}

const (
	cloudsYAML = `
clouds:
  elsewhere:
    auth: {auth_url: "http://127.0.0.1:1/elsewhere", username: nobody, password: nothing}
  mine:
    region_name: RegionOne
    auth:
      auth_url: @AUTH
      username: authenticator
      password: correct-horse
      project_name: service
      user_domain_name: Default
      project_domain_name: Default
`
	withoutSecret = `
clouds:
  mine:
    auth: {auth_url: @AUTH, username: authenticator, project_name: service, user_domain_name: Default, project_domain_name: Default}
`
	secureYAML = `
clouds:
  mine: {auth: {password: correct-horse}}
`
)

// tryLogin makes a client with variables, files and the texts of a configuration, all filled for f. It also returns the
// directory of the files.
func tryLogin(t *testing.T, f *front, env, files map[string]string, cfg openstack.Config) (c *openstack.Client, dir string, err error) {
	t.Helper()
	cleanEnvironment(t)
	if dir, err = os.Getwd(); err != nil {
		t.Fatal(err)
	}
	env, files = maps.Clone(env), maps.Clone(files)
	for _, m := range []map[string]string{env, files} {
		for key, value := range m {
			m[key] = fill(value, f, dir)
		}
	}
	setenv(t, env)
	writeFiles(t, dir, files)
	cfg.CloudsFile = fill(cfg.CloudsFile, f, dir)
	cfg.Lookup, cfg.Timeout, cfg.MaxConcurrent = config().Lookup, config().Timeout, config().MaxConcurrent
	c, err = tryNew(t, cfg, openstack.Options{})
	return c, dir, err
}

func TestLogin(t *testing.T) {
	for _, test := range []struct {
		name     string
		env      map[string]string
		files    map[string]string
		cfg      openstack.Config
		identity string
		scope    string // empty: none may be sent
		endpoint string
	}{
		{
			name: "the openrc that kolla-ansible writes",
			env: map[string]string{
				"OS_PROJECT_DOMAIN_NAME": "Default", "OS_USER_DOMAIN_NAME": "Default",
				"OS_PROJECT_NAME": "service", "OS_TENANT_NAME": "service", "OS_USERNAME": "authenticator", "OS_PASSWORD": password,
				"OS_AUTH_URL": "@AUTH", "OS_INTERFACE": "internal", "OS_ENDPOINT_TYPE": "internalURL", "OS_IDENTITY_API_VERSION": "3",
				"OS_REGION_NAME": "RegionOne", "OS_AUTH_PLUGIN": "password",
			},
			identity: byDefaultName, scope: inDefaultName, endpoint: "RegionOne/internal",
		},
		{name: "without a domain, the domain with the ID default is used", env: with(), identity: byDefaultID, scope: inDefaultID, endpoint: first},
		{name: "an auth_url without a version is asked for one", env: with("OS_AUTH_URL", "@BASE"), identity: byDefaultID, scope: inDefaultID, endpoint: first},
		{name: "an auth_url may end in a slash", env: with("OS_AUTH_URL", "@AUTH/"), identity: byDefaultID, scope: inDefaultID, endpoint: first},
		{name: "a user ID needs no domain", env: with("OS_USERNAME", "-", "OS_USER_ID", "authenticator-id"), identity: byUserID, scope: inDefaultID, endpoint: first},
		{
			name:     "a user ID beside a user name and domain wins",
			env:      with("OS_USER_ID", "authenticator-id", "OS_USER_DOMAIN_NAME", "Default"),
			identity: byUserID, scope: inDefaultID, endpoint: first,
		},
		{
			name:     "a project ID beside a project name and domain wins",
			env:      with("OS_PROJECT_ID", "service-id", "OS_PROJECT_DOMAIN_NAME", "Default"),
			identity: byDefaultID, scope: inProjectID, endpoint: first,
		},
		{
			name:     "the old names of variables, before Keystone v3",
			env:      with("OS_PROJECT_NAME", "-", "OS_TENANT_ID", "service-id", "OS_ENDPOINT_TYPE", "internalURL"),
			identity: byDefaultID, scope: inProjectID, endpoint: "RegionOne/internal",
		},
		{
			name:     "domains by name",
			env:      with("OS_USERNAME", "abroad", "OS_PROJECT_NAME", "abroad", "OS_USER_DOMAIN_NAME", "Abroad", "OS_PROJECT_DOMAIN_NAME", "Abroad"),
			identity: byAbroadName, scope: inAbroadName, endpoint: first,
		},
		{
			name:     "domains by ID",
			env:      with("OS_USERNAME", "abroad", "OS_PROJECT_NAME", "abroad", "OS_USER_DOMAIN_ID", "abroad-id", "OS_PROJECT_DOMAIN_ID", "abroad-id"),
			identity: byAbroadID, scope: inAbroadID, endpoint: first,
		},
		{
			name: "a domain's ID beside its name wins",
			env: with("OS_USERNAME", "abroad", "OS_PROJECT_NAME", "abroad", "OS_USER_DOMAIN_ID", "abroad-id", "OS_PROJECT_DOMAIN_ID", "abroad-id",
				"OS_USER_DOMAIN_NAME", "Abroad", "OS_PROJECT_DOMAIN_NAME", "Abroad"),
			identity: byAbroadID, scope: inAbroadID, endpoint: first,
		},
		{
			name:     "OS_DEFAULT_DOMAIN is an ID and stands for both domains",
			env:      with("OS_USERNAME", "abroad", "OS_PROJECT_NAME", "abroad", "OS_DEFAULT_DOMAIN", "abroad-id"),
			identity: byAbroadID, scope: inAbroadID, endpoint: first,
		},
		{
			name: "OS_DEFAULT_DOMAIN gives way to a domain that is named",
			env: with("OS_USERNAME", "abroad", "OS_PROJECT_NAME", "abroad", "OS_DEFAULT_DOMAIN", "default",
				"OS_USER_DOMAIN_NAME", "Abroad", "OS_PROJECT_DOMAIN_NAME", "Abroad"),
			identity: byAbroadName, scope: inAbroadName, endpoint: first,
		},
		{
			name:     "an application credential by ID",
			env:      map[string]string{"OS_AUTH_URL": "@AUTH", "OS_AUTH_TYPE": "v3applicationcredential", "OS_APPLICATION_CREDENTIAL_ID": "credential-id", "OS_APPLICATION_CREDENTIAL_SECRET": secret},
			identity: byCredential, endpoint: first,
		},
		{
			name:     "a password wins over an application credential, as with openstack",
			env:      with("OS_APPLICATION_CREDENTIAL_ID", "credential-id", "OS_APPLICATION_CREDENTIAL_SECRET", secret),
			identity: byDefaultID, scope: inDefaultID, endpoint: first,
		},
		{
			name: "OS_AUTH_TYPE chooses the application credential, which may not carry a scope",
			env: with("OS_APPLICATION_CREDENTIAL_ID", "credential-id", "OS_APPLICATION_CREDENTIAL_SECRET", secret,
				"OS_AUTH_TYPE", "v3applicationcredential"),
			identity: byCredential, endpoint: first,
		},
		{
			name: "an application credential by name and user",
			env: map[string]string{
				"OS_AUTH_URL": "@AUTH", "OS_USERNAME": "authenticator",
				"OS_APPLICATION_CREDENTIAL_NAME": "key", "OS_APPLICATION_CREDENTIAL_SECRET": secret,
			},
			identity: byKeyOfUser, endpoint: first,
		},
		{
			name: "an application credential by name and user ID",
			env: map[string]string{
				"OS_AUTH_URL": "@AUTH", "OS_USER_ID": "authenticator-id", "OS_USER_DOMAIN_NAME": "Default", "OS_PROJECT_NAME": "service",
				"OS_APPLICATION_CREDENTIAL_NAME": "key", "OS_APPLICATION_CREDENTIAL_SECRET": secret,
			},
			identity: byKeyOfUserID, endpoint: first,
		},
		{name: "OS_REGION_NAME chooses the region", env: with("OS_REGION_NAME", "RegionTwo"), identity: byDefaultID, scope: inDefaultID, endpoint: "RegionTwo/public"},
		{
			name:     "the configuration's region and interface win over the variables",
			env:      with("OS_REGION_NAME", "RegionOne", "OS_INTERFACE", "public"),
			cfg:      openstack.Config{Region: "RegionTwo", Interface: "internal"},
			identity: byDefaultID, scope: inDefaultID, endpoint: "RegionTwo/internal",
		},
		{
			name:     "OS_CLOUD names a cloud of clouds.yaml in the working directory",
			env:      map[string]string{"OS_CLOUD": "mine"},
			files:    map[string]string{"clouds.yaml": cloudsYAML},
			identity: byDefaultName, scope: inDefaultName, endpoint: first,
		},
		{
			name:     "clouds.yaml below ~/.config",
			env:      map[string]string{"OS_CLOUD": "mine", "HOME": "@HERE/home"},
			files:    map[string]string{"home/.config/openstack/clouds.yaml": cloudsYAML},
			identity: byDefaultName, scope: inDefaultName, endpoint: first,
		},
		{
			name:     "the configuration's cloud wins over OS_CLOUD",
			env:      map[string]string{"OS_CLOUD": "elsewhere"},
			cfg:      openstack.Config{Cloud: "mine"},
			files:    map[string]string{"clouds.yaml": cloudsYAML},
			identity: byDefaultName, scope: inDefaultName, endpoint: first,
		},
		{
			name:     "the password comes from secure.yaml beside clouds.yaml",
			cfg:      openstack.Config{Cloud: "mine"},
			files:    map[string]string{"clouds.yaml": withoutSecret, "secure.yaml": secureYAML},
			identity: byDefaultName, scope: inDefaultName, endpoint: first,
		},
		{
			name:     "cloudsFile, with its secure.yaml, wins over OS_CLIENT_CONFIG_FILE and the working directory",
			env:      map[string]string{"OS_CLIENT_CONFIG_FILE": "@HERE/nowhere.yaml"},
			cfg:      openstack.Config{Cloud: "mine", CloudsFile: "@HERE/etc/clouds.yaml"},
			files:    map[string]string{"etc/clouds.yaml": withoutSecret, "etc/secure.yaml": secureYAML, "clouds.yaml": "clouds: {}"},
			identity: byDefaultName, scope: inDefaultName, endpoint: first,
		},
		{
			name:     "OS_CLIENT_CONFIG_FILE wins over the working directory",
			env:      map[string]string{"OS_CLIENT_CONFIG_FILE": "@HERE/etc/my.yaml", "OS_CLOUD": "mine"},
			files:    map[string]string{"etc/my.yaml": cloudsYAML, "clouds.yaml": "clouds: {}"},
			identity: byDefaultName, scope: inDefaultName, endpoint: first,
		},
		{
			name:     "a named cloud wins over another cloud's variables: user, project, domain, region, interface",
			env:      another(),
			cfg:      openstack.Config{Cloud: "mine"},
			files:    map[string]string{"clouds.yaml": cloudsYAML},
			identity: byDefaultName, scope: inDefaultName, endpoint: first,
		},
		{
			name:     "OS_CLOUD wins over another cloud's variables, too",
			env:      another("OS_CLOUD", "mine"),
			files:    map[string]string{"clouds.yaml": cloudsYAML},
			identity: byDefaultName, scope: inDefaultName, endpoint: first,
		},
		{
			name:     "a named cloud without a region leaves it to OS_REGION_NAME",
			env:      map[string]string{"OS_CLOUD": "mine", "OS_REGION_NAME": "RegionTwo"},
			files:    map[string]string{"clouds.yaml": withoutSecret, "secure.yaml": secureYAML},
			identity: byDefaultName, scope: inDefaultName, endpoint: "RegionTwo/public",
		},
		{
			name:  "the configuration's region and interface win over the named cloud's",
			cfg:   openstack.Config{Cloud: "mine", Region: "RegionTwo", Interface: "internal"},
			files: map[string]string{"clouds.yaml": cloudsYAML}, identity: byDefaultName, scope: inDefaultName, endpoint: "RegionTwo/internal",
		},
		{
			name: "an application credential of clouds.yaml, with a stale token and a password beside it",
			cfg:  openstack.Config{Cloud: "mine"},
			files: map[string]string{"clouds.yaml": `
clouds:
  mine:
    interface: internal
    auth_type: v3applicationcredential
    auth:
      auth_url: @AUTH
      application_credential_id: credential-id
      application_credential_secret: battery-staple
      token: gAAAAAstale
      username: authenticator
      password: wrong
      project_name: service
`},
			identity: byCredential, endpoint: "RegionOne/internal",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFront(t, startCloud(t))
			c, _, err := tryLogin(t, f, test.env, test.files, test.cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			info, err := c.Connect(t.Context())
			if err != nil {
				t.Fatalf("%v; the login was %s", err, f.lastLogin())
			}
			want := `{"auth":{"identity":` + test.identity
			if test.scope != "" {
				want += `,"scope":` + test.scope
			}
			if diff := cmp.Diff(parseJSON(t, want+`}}`), parseJSON(t, f.lastLogin())); diff != "" {
				t.Errorf("the login (-want +got):\n%s", diff)
			}
			if got := f.endpoint(info.Endpoint); got != test.endpoint {
				t.Errorf("Nova's endpoint is that of %s, want %s", got, test.endpoint)
			}
			for _, told := range []string{password, secret} {
				if strings.Contains(info.Account, told) {
					t.Errorf("the account is described as %q", info.Account)
				}
			}
			mustFind(t, c, foreign)
		})
	}
}

func TestLoginErrors(t *testing.T) {
	for _, test := range []struct {
		name  string
		env   map[string]string
		files map[string]string
		cfg   openstack.Config
		atNew bool // New returns the error
		want  []string
	}{
		{name: "no credentials at all", atNew: true, want: []string{"no credentials", "openstack.cloud", "OS_CLOUD", "OS_AUTH_URL"}},
		{name: "credentials, and no OS_AUTH_URL", env: with("OS_AUTH_URL", "-"), atNew: true, want: []string{"no credentials", "OS_AUTH_URL"}},
		{name: "no password", env: with("OS_PASSWORD", "-"), atNew: true, want: []string{"the OS_* variables", "password"}},
		{name: "neither user nor user ID", env: with("OS_USERNAME", "-"), atNew: true, want: []string{"the OS_* variables", "OS_USERNAME or OS_USER_ID"}},
		{
			name:  "an application credential without its secret",
			env:   map[string]string{"OS_AUTH_URL": "@AUTH", "OS_APPLICATION_CREDENTIAL_ID": "credential-id", "OS_PASSWORD": password},
			atNew: true, want: []string{"the OS_* variables", "OS_APPLICATION_CREDENTIAL_SECRET"},
		},
		{
			name:  "an application credential's name without a user",
			env:   map[string]string{"OS_AUTH_URL": "@AUTH", "OS_APPLICATION_CREDENTIAL_NAME": "key", "OS_APPLICATION_CREDENTIAL_SECRET": secret},
			atNew: true, want: []string{"the OS_* variables", "OS_USERNAME"},
		},
		{
			name:  "a way to log in that is not supported",
			env:   with("OS_AUTH_TYPE", "v3oidcpassword"),
			atNew: true, want: []string{`OS_AUTH_TYPE: the auth_type "v3oidcpassword" is not supported`, "password, v3password or v3applicationcredential"},
		},
		{name: "an unknown interface is not replaced by public", env: with("OS_INTERFACE", "intern"), atNew: true, want: []string{"OS_INTERFACE", `"intern"`, "public, internal, admin"}},
		{name: "a missing file of authorities", env: with("OS_CACERT", "@HERE/ca.pem"), atNew: true, want: []string{"ca.pem", "no such file"}},
		{
			name:  "a cloud that clouds.yaml does not have",
			cfg:   openstack.Config{Cloud: "yours"},
			files: map[string]string{"clouds.yaml": cloudsYAML},
			atNew: true, want: []string{`cloud "yours"`, "not found"},
		},
		{
			name:  "a cloud without an auth section",
			cfg:   openstack.Config{Cloud: "mine"},
			files: map[string]string{"clouds.yaml": "clouds: {mine: {region_name: RegionOne}}"},
			atNew: true, want: []string{`cloud "mine"`, "no auth_url"},
		},
		{
			name:  "a cloud without an auth_url",
			cfg:   openstack.Config{Cloud: "mine"},
			files: map[string]string{"clouds.yaml": "clouds: {mine: {auth: {username: authenticator, password: correct-horse}}}"},
			atNew: true, want: []string{`cloud "mine"`, "auth_url"},
		},
		{
			name:  "a cloud with only a token, which cannot be renewed",
			cfg:   openstack.Config{Cloud: "mine"},
			files: map[string]string{"clouds.yaml": "clouds: {mine: {auth_type: token, auth: {auth_url: @AUTH, token: gAAAAAstale, project_name: service}}}"},
			atNew: true, want: []string{`cloud "mine"`, "password"},
		},
		{name: "no clouds.yaml", cfg: openstack.Config{Cloud: "mine", CloudsFile: "@HERE/clouds.yaml"}, atNew: true, want: []string{`cloud "mine"`, "@HERE/clouds.yaml"}},
		{name: "a clouds.yaml that is not YAML", cfg: openstack.Config{Cloud: "mine"}, files: map[string]string{"clouds.yaml": "clouds: {mine"}, atNew: true, want: []string{`cloud "mine"`, "yaml"}},
		{name: "a wrong password", env: with("OS_PASSWORD", password+"!"), want: []string{"keystone refuses the login of authenticator", "the OS_* variables"}},
		{name: "a wrong domain", env: with("OS_USER_DOMAIN_NAME", "Abroad"), want: []string{"keystone refuses the login of authenticator"}},
		{name: "a project in which the account has no role", env: with("OS_PROJECT_NAME", "workloads"), want: []string{"keystone refuses the login of authenticator", "project"}},
		{
			name: "a wrong secret of an application credential",
			env:  map[string]string{"OS_AUTH_URL": "@AUTH", "OS_APPLICATION_CREDENTIAL_ID": "credential-id", "OS_APPLICATION_CREDENTIAL_SECRET": secret + "!"},
			want: []string{"keystone refuses the login of application credential credential-id"},
		},
		{
			name: "an application credential that was deleted",
			env:  map[string]string{"OS_AUTH_URL": "@AUTH", "OS_APPLICATION_CREDENTIAL_ID": "gone-id", "OS_APPLICATION_CREDENTIAL_SECRET": secret},
			want: []string{"keystone knows no application credential gone-id"},
		},
		{name: "a region that does not exist", env: with("OS_REGION_NAME", "RegionThree"), want: []string{"no public endpoint of type compute in region RegionThree", "RegionOne, RegionTwo"}},
		{
			name: "an interface that the catalog does not have",
			cfg:  openstack.Config{Interface: "admin"},
			env:  with("OS_INTERFACE", "public"),
			want: []string{"no admin endpoint of type compute", "internal, public"},
		},
		{name: "a file of authorities without a certificate", env: with("OS_CACERT", "@HERE/ca.pem"), files: map[string]string{"ca.pem": "none"}, atNew: true, want: []string{"cacert", "has no certificate in PEM"}},
		{name: "a missing client certificate", env: with("OS_CERT", "@HERE/client.pem"), atNew: true, want: []string{"cert: ", "no such file"}},
		{name: "a missing key", env: with("OS_CERT", "@HERE/client.pem", "OS_KEY", "@HERE/client.key"), files: map[string]string{"client.pem": "none"}, atNew: true, want: []string{"key: ", "no such file"}},
		{name: "a client certificate that is not PEM", env: with("OS_CERT", "@HERE/client.pem"), files: map[string]string{"client.pem": "none"}, atNew: true, want: []string{"cert: "}},
		{name: "an auth_url that is not a URL", env: with("OS_AUTH_URL", "127.0.0.1:5000/v3"), atNew: true, want: []string{"auth_url", `"127.0.0.1:5000/v3"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFront(t, startCloud(t))
			c, dir, err := tryLogin(t, f, test.env, test.files, test.cfg)
			if test.atNew != (err != nil) {
				t.Fatalf("New gave the error %v, want one: %t", err, test.atNew)
			}
			if err == nil {
				defer c.Close()
				if _, err = c.Connect(t.Context()); !isSetup(err) {
					t.Errorf("Connect gave %v, want a SetupError", err)
				}
			}
			checkBroken(t, err)
			for _, want := range test.want {
				if want = fill(want, f, dir); err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("the error %q does not contain %q", err, want)
				}
			}
		})
	}
}

func TestPrivateAuthority(t *testing.T) {
	cloud := startCloud(t)
	f, ca := newTLSFront(t, cloud)

	t.Run("an unknown authority is refused before a password is sent", func(t *testing.T) {
		c := newClient(t, as("authenticator", "service", f.authURL()), config(), openstack.Options{})
		_, err := c.Connect(t.Context())
		if !isSetup(err) || !strings.Contains(err.Error(), "OS_CACERT") || !strings.Contains(err.Error(), "cacert of clouds.yaml") {
			t.Errorf("Connect = %v, want a SetupError that names OS_CACERT", err)
		}
		checkBroken(t, err)
		if f.lastLogin() != "{}" {
			t.Error("a login was sent to an untrusted server")
		}
	})
	t.Run("an authority in OS_CACERT", func(t *testing.T) {
		env := as("authenticator", "service", f.authURL())
		env["OS_CACERT"] = ca
		c := newClient(t, env, config(), openstack.Options{})
		connect(t, c)
		in, err := ask(t, c, web)
		if err != nil {
			t.Fatal(err)
		}
		if diff := sameInstance(webInstance(t), in); diff != "" {
			t.Errorf("the instance (-want +got):\n%s", diff)
		}
	})
	t.Run("an authority in cacert of clouds.yaml", func(t *testing.T) {
		cleanEnvironment(t)
		writeFiles(t, ".", map[string]string{"clouds.yaml": strings.Replace(fill(cloudsYAML, f, ""), "region_name: RegionOne", "cacert: "+ca, 1)})
		cfg := config()
		cfg.Cloud = "mine"
		c, err := tryNew(t, cfg, openstack.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		mustFind(t, c, web)
	})
	t.Run("OS_CACERT is not read with a named cloud", func(t *testing.T) {
		cleanEnvironment(t)
		writeFiles(t, ".", map[string]string{"clouds.yaml": fill(cloudsYAML, f, "")})
		c := newFrom(t, map[string]string{"OS_CLOUD": "mine", "OS_CACERT": ca})
		if _, err := c.Connect(t.Context()); !isSetup(err) {
			t.Errorf("Connect = %v, want a SetupError", err)
		}
		if got := strings.Join(c.Warnings(), "\n"); !strings.Contains(got, "OS_CACERT is not read with a named cloud") {
			t.Errorf("the warnings are %q", got)
		}
		if c.Unverified() {
			t.Error("Unverified is true")
		}
	})
	t.Run("verify: false in clouds.yaml", func(t *testing.T) {
		cleanEnvironment(t)
		writeFiles(t, ".", map[string]string{"clouds.yaml": strings.Replace(fill(cloudsYAML, f, ""), "region_name: RegionOne", "verify: false", 1)})
		c := newFrom(t, map[string]string{"OS_CLOUD": "mine"})
		mustFind(t, c, web)
		if !c.Unverified() {
			t.Error("Unverified is false")
		}
	})
}

// newFrom returns a client of the current environment with more variables.
func newFrom(t *testing.T, env map[string]string) *openstack.Client {
	t.Helper()
	setenv(t, env)
	c, err := tryNew(t, config(), openstack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// A cloud may require the client certificate of OS_CERT and OS_KEY.
func TestClientCertificate(t *testing.T) {
	cloud := startCloud(t)
	f := prepareFront(t, cloud)
	f.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	f.StartTLS()
	key, err := x509.MarshalPKCS8PrivateKey(f.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cleanEnvironment(t)
	writeFiles(t, ".", map[string]string{
		"cert.pem": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})),
		"key.pem":  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
	})
	setenv(t, as("authenticator", "service", f.authURL()))
	_, err = newFrom(t, map[string]string{"OS_CACERT": "cert.pem"}).Connect(t.Context())
	checkBroken(t, err)
	mustFind(t, newFrom(t, map[string]string{"OS_CERT": "cert.pem", "OS_KEY": "key.pem"}), web)
}
