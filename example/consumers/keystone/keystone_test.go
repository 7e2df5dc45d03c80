// Package keystone_test exchanges our tokens at a real Keystone, behind a real
// Apache with either of its modules.
package keystone_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/example/consumers/consumertest"
)

const roles = `  keystone: {allowAnyInstance: true, audience: [keystone]}
  vault: {allowAnyInstance: true, audience: [https://vault.example.com]}
`

func TestKeystone(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: the test bed needs root")
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("SKIPPED: the test bed needs Debian")
	}
	for _, module := range []string{"oauth2", "openidc"} {
		t.Run("mod_"+module, func(t *testing.T) {
			i := consumertest.Start(t, "", roles)
			b := newBed(t, i, module)
			i.Move(b.env["PROJECT_ID"])
			good := i.Token(t, "keystone", "")
			b.accepts(t, good)
			bad := i.Bad(t, good)
			bad["for another audience, as the issuer made it"] = i.Token(t, "vault", "")
			for name, token := range bad {
				// Keystone would refuse some of them, too: Apache has to.
				if resp := b.post(t, token); resp.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
					t.Errorf("%s: not refused by Apache but %d, %v", name, resp.StatusCode, resp.Header)
				}
			}
			b.ends(t, i, good)
			b.unseen(t, i, module, good)
			b.unheard(t, i, good)
			b.takenBack(t, good)
			// One group a project: an instance of another one is known, and has no right.
			const other = "c0ffee00c0ffee00c0ffee00c0ffee00"
			i.Move(other)
			var moved string
			consumertest.Await(t, "a token of the other project", func() bool {
				moved = i.Token(t, "keystone", "")
				return consumertest.Claims(t, moved)["project_id"] == other
			})
			status, unscoped := b.federate(t, moved)
			if status != http.StatusCreated {
				t.Errorf("another project's instance: %d", status)
			}
			if _, err := b.scope(t.Context(), unscoped); err == nil {
				t.Error("another project's instance gets into the project")
			}
		})
	}
}

// bed is the test bed, as ./testbed-up says where it is.
type bed struct{ env map[string]string }

func newBed(t *testing.T, i *consumertest.Issuer, module string) *bed {
	t.Helper()
	dir, err := os.MkdirTemp("", "keystone-") //nolint:usetesting // for Apache's user, too
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, i.CA, 0o644); err != nil {
		t.Fatal(err)
	}
	env := []string{"DIR=" + dir, "PORT=" + consumertest.FreePort(t), "MODULE=" + module, "ISSUER=" + i.URL, "CA_FILE=" + ca}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		down := exec.CommandContext(ctx, "./testbed-down")
		down.Env = append(os.Environ(), env...)
		if out, err := down.CombinedOutput(); err != nil {
			t.Errorf("testbed-down: %v\n%s", err, out)
		}
		if t.Failed() {
			for _, log := range []string{"apache.log", "keystone.log"} {
				text, _ := os.ReadFile(filepath.Join(dir, "log", log))
				t.Logf("%s\n%s", log, text[max(0, len(text)-3000):])
			}
		}
		_ = os.RemoveAll(dir)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	up := exec.CommandContext(ctx, "./testbed-up")
	up.Env = append(os.Environ(), env...)
	var said strings.Builder
	up.Stderr = &said
	out, err := up.Output()
	if err != nil {
		t.Fatalf("testbed-up: %v\n%s%s", err, out, said.String())
	}
	b := &bed{env: map[string]string{}}
	for line := range strings.Lines(string(out)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			b.env[name] = value
		}
	}
	if b.env["PROJECT_ID"] == "" {
		t.Fatalf("testbed-up said %s", out)
	}
	return b
}

// accepts tries all three ways of the README.
func (b *bed) accepts(t *testing.T, token string) {
	t.Helper()
	project := b.env["PROJECT_ID"]

	out, err := consumertest.Run(t, time.Minute, "", append(b.noOther(), "OS_ACCESS_TOKEN="+token), "/usr/bin/python3", "-m", "openstackclient.shell",
		"--os-auth-type", "v3oidcaccesstoken", "--os-auth-url", b.env["OS_AUTH_URL"], "--os-identity-provider", b.env["IDENTITY_PROVIDER"],
		"--os-protocol", "openid", "--os-project-id", project, "token", "issue", "-f", "json")
	var issued struct {
		Project string `json:"project_id"`
		ID      string
	}
	_, object, _ := strings.Cut(out, "{") // Python may say something before
	if err != nil || json.Unmarshal([]byte("{"+object), &issued) != nil || issued.Project != project || issued.ID == "" {
		t.Errorf("openstack: %v\n%s", err, out)
	}

	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err = consumertest.Run(t, time.Minute, "", nil, "sh", "../../instance/keystone-token.sh", "-k", b.env["OS_AUTH_URL"], "-p", project, "-t", file)
	if err != nil || !strings.HasPrefix(out, "gAAAAA") {
		t.Errorf("keystone-token.sh: %v\n%s", err, out)
	}

	status, unscoped := b.federate(t, token)
	if status != http.StatusCreated {
		t.Fatalf("a good token: %d", status)
	}
	scoped, err := b.scope(t.Context(), unscoped)
	if err != nil || scoped != project {
		t.Errorf("gophercloud: %q, %v", scoped, err)
	}
}

func (b *bed) noOther() []string { return []string{"OS_CLOUD=", "NO_PROXY=*", "PYTHONWARNINGS=ignore"} }

// ends shows a token that is good, and then is over: what Apache knows of it does not outlive it.
func (b *bed) ends(t *testing.T, i *consumertest.Issuer, good string) {
	t.Helper()
	end := time.Now().Add(5 * time.Second)
	token := i.Forge(t, good, func(c jwt.MapClaims) { c["exp"] = end.Unix() })
	if status, _ := b.federate(t, token); status != http.StatusCreated {
		t.Errorf("a token before its end: %d", status)
	}
	over := time.NewTimer(time.Until(end.Add(time.Second)))
	defer over.Stop()
	<-over.C
	if status, _ := b.federate(t, token); status != http.StatusUnauthorized {
		t.Errorf("the same token a second after its end: %d", status)
	}
}

// unseen is what the README says that the modules do not look at. The issuer makes no such tokens.
func (b *bed) unseen(t *testing.T, i *consumertest.Issuer, module, good string) {
	t.Helper()
	later := time.Now().Add(time.Hour).Unix()
	for _, tt := range []struct {
		name            string
		edit            func(jwt.MapClaims)
		oauth2, openidc int
	}{
		{"no exp", func(c jwt.MapClaims) { delete(c, "exp") }, http.StatusUnauthorized, http.StatusCreated},
		{"no iat", func(c jwt.MapClaims) { delete(c, "iat") }, http.StatusUnauthorized, http.StatusCreated},
		{"made an hour from now", func(c jwt.MapClaims) { c["iat"], c["exp"] = later, later+600 }, http.StatusUnauthorized, http.StatusCreated},
		{"not good before an hour from now", func(c jwt.MapClaims) { c["nbf"], c["exp"] = later, later+600 }, http.StatusCreated, http.StatusCreated},
	} {
		want := map[string]int{"oauth2": tt.oauth2, "openidc": tt.openidc}[module]
		if status, _ := b.federate(t, i.Forge(t, good, tt.edit)); status != want {
			t.Errorf("%s: %d, and the README says %d", tt.name, status, want)
		}
	}
}

// unheard puts the claims into headers, which is where a client has its say, with no token, on paths where the module
// stands and on those where it does not.
func (b *bed) unheard(t *testing.T, i *consumertest.Issuer, good string) {
	t.Helper()
	header := http.Header{}
	for name, value := range consumertest.Claims(t, good) {
		text, isText := value.(string)
		if !isText {
			continue
		}
		for _, prefix := range []string{"OIDC-", "OIDC_", "HTTP_OIDC_", "HTTP-OIDC-"} {
			header.Set(prefix+name, text)
			header.Set(prefix+strings.ReplaceAll(name, "_", "-"), text)
		}
	}
	const path = "/OS-FEDERATION/identity_providers/nova-authenticator/protocols/openid/auth"
	base := strings.TrimSuffix(b.env["OS_AUTH_URL"], "/v3")
	for _, tt := range []struct{ name, path, body string }{
		{"the path", "/v3" + path, ""},
		{"two slashes", "//v3" + path, ""},
		{"two slashes within", "/v3" + strings.Replace(path, "/protocols", "//protocols", 1), ""},
		{"a slash more", "/v3" + path + "/", ""},
		{"escaped", "/v3" + strings.Replace(path, "openid", "open%69d", 1), ""},
		{"dots", "/v3/x/.." + path, ""},
		{"another provider", "/v3" + strings.Replace(path, "nova-authenticator", "other", 1), ""},
		{"another protocol", "/v3" + strings.Replace(path, "openid", "mapped", 1), ""},
		{"web sign-on", "/v3/auth/OS-FEDERATION/websso/openid?origin=" + i.URL, ""},
		{"web sign-on at the provider", "/v3/auth/OS-FEDERATION/identity_providers/nova-authenticator/protocols/openid/websso?origin=" + i.URL, ""},
		{"the method alone", "/v3/auth/tokens", `{"auth":{"identity":{"methods":["openid"],"openid":{"identity_provider":"nova-authenticator","protocol":"openid"}}}}`},
	} {
		status, answer, body := b.do(t, http.MethodPost, base+tt.path, tt.body, header)
		if status/100 != 4 || answer.Get("X-Subject-Token") != "" {
			t.Errorf("claims in headers, %s: %d %s", tt.name, status, body)
		}
	}
}

// takenBack takes the role from the group, gives it again, and looks at a Keystone token that was held all the time.
func (b *bed) takenBack(t *testing.T, good string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	project := b.env["PROJECT_ID"]
	held, err := consumertest.Run(t, time.Minute, "", nil, "sh", "../../instance/keystone-token.sh", "-k", b.env["OS_AUTH_URL"], "-p", project, "-t", file)
	if err != nil {
		t.Fatal(err)
	}
	admin := http.Header{"X-Auth-Token": {b.env["ADMIN_TOKEN"]}}
	id := func(of, query string) string {
		t.Helper()
		var found map[string]json.RawMessage
		var all []struct{ ID string }
		status, _, body := b.do(t, http.MethodGet, b.env["OS_AUTH_URL"]+"/"+of+"?name="+query, "", admin)
		if status != http.StatusOK || json.Unmarshal([]byte(body), &found) != nil || json.Unmarshal(found[of], &all) != nil || len(all) != 1 {
			t.Fatalf("%s %s: %d %s", of, query, status, body)
		}
		return all[0].ID
	}
	assignment := b.env["OS_AUTH_URL"] + "/projects/" + project + "/groups/" + id("groups", "instances-"+project) + "/roles/" + id("roles", "member")
	own := http.Header{"X-Auth-Token": {strings.TrimSpace(held)}, "X-Subject-Token": {strings.TrimSpace(held)}}
	if status, _, body := b.do(t, http.MethodGet, b.env["OS_AUTH_URL"]+"/auth/tokens", "", own); status != http.StatusOK {
		t.Errorf("a Keystone token: %d %s", status, body)
	}
	if status, _, body := b.do(t, http.MethodDelete, assignment, "", admin); status != http.StatusNoContent {
		t.Fatalf("take the role: %d %s", status, body)
	}
	if status, _, body := b.do(t, http.MethodGet, b.env["OS_AUTH_URL"]+"/auth/tokens", "", own); status/100 != 4 {
		t.Errorf("a Keystone token whose role was taken: %d %s", status, body)
	}
	if status, _, body := b.do(t, http.MethodPut, assignment, "", admin); status != http.StatusNoContent {
		t.Fatalf("give the role: %d %s", status, body)
	}
}

func (b *bed) do(t *testing.T, method, target, body string, header http.Header) (status int, answer http.Header, said string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		r.Header[name] = values
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	read, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(read)
}

// federate is the first of the two requests.
func (b *bed) federate(t *testing.T, token string) (status int, unscoped string) {
	t.Helper()
	resp := b.post(t, token)
	return resp.StatusCode, resp.Header.Get("X-Subject-Token")
}

// post sends it; the body of the answer is closed.
func (b *bed) post(t *testing.T, token string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		b.env["OS_AUTH_URL"]+"/OS-FEDERATION/identity_providers/"+b.env["IDENTITY_PROVIDER"]+"/protocols/openid/auth", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp
}

// scope is the second, by gophercloud, and gives the project of the outcome.
func (b *bed) scope(ctx context.Context, unscoped string) (project string, err error) {
	provider, err := openstack.AuthenticatedClient(ctx, gophercloud.AuthOptions{
		IdentityEndpoint: b.env["OS_AUTH_URL"], TokenID: unscoped, Scope: &gophercloud.AuthScope{ProjectID: b.env["PROJECT_ID"]},
	})
	if err != nil {
		return "", err
	}
	p, err := provider.GetAuthResult().(tokens.CreateResult).ExtractProject()
	if err != nil {
		return "", err
	}
	return p.ID, nil
}
