// Package kubernetes_test has the API server's own code judge our tokens.
package kubernetes_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/example/consumers/consumertest"
)

type staticCA []byte

func (c staticCA) CurrentCABundleContent() []byte { return c }

// load reads the file as kube-apiserver does, strictly.
func load(t *testing.T, replace ...string) *apiserver.AuthenticationConfiguration {
	t.Helper()
	data, err := os.ReadFile("authentication.yaml")
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	install.Install(scheme)
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDecoder()
	object, err := runtime.Decode(decoder, []byte(strings.NewReplacer(replace...).Replace(string(data))))
	if err != nil {
		t.Fatal(err)
	}
	return object.(*apiserver.AuthenticationConfiguration)
}

func TestKubernetes(t *testing.T) {
	i := consumertest.Start(t, "", `  node: {projectID: `+consumertest.Project+`, audience: [https://kubernetes.example.com]}
  long: {projectID: `+consumertest.Project+`, audience: [https://kubernetes.example.com], tokenExpiry: 16m}
  elsewhere: {allowAnyInstance: true}
`)
	config := load(t, "url: https://id.example.com", "url: "+i.URL)
	compiler := authenticationcel.NewCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if errs := validation.ValidateAuthenticationConfiguration(compiler, config, nil); len(errs) > 0 {
		t.Fatalf("the API server refuses the file: %v", errs)
	}
	judge, err := oidc.New(t.Context(), oidc.Options{
		JWTAuthenticator: config.JWT[0], CAContentProvider: staticCA(i.CA), Client: nil,
		SupportedSigningAlgs: []string{"RS256", "ES256"},
	})
	if err != nil {
		t.Fatal(err)
	}
	good := i.Token(t, "node", "")
	consumertest.Await(t, "the API server's keys", func() bool {
		_, ok, _ := judge.AuthenticateToken(t.Context(), good)
		return ok
	})
	resp, ok, err := judge.AuthenticateToken(t.Context(), good)
	if err != nil || !ok {
		t.Fatalf("a good token: %v", err)
	}
	check(t, resp)
	bad := i.Bad(t, good)
	bad["that lives longer than the file allows"] = i.Token(t, "long", "")
	bad["for another audience"] = i.Token(t, "elsewhere", "")
	bad["of another project"] = i.Forge(t, good, func(c jwt.MapClaims) { c["project_id"] = "c0ffee00c0ffee00c0ffee00c0ffee00" })
	for name, token := range bad {
		if resp, ok, _ := judge.AuthenticateToken(t.Context(), token); ok {
			t.Errorf("%s is accepted: %+v", name, resp.User)
		}
	}
	if _, ok, _ := judge.AuthenticateToken(t.Context(), good); !ok {
		t.Error("the good one is refused after the bad ones")
	}
}

func check(t *testing.T, resp *authenticator.Response) {
	t.Helper()
	u := resp.User
	if u.GetName() != "openstack:instance:"+consumertest.Instance || u.GetUID() != consumertest.Instance {
		t.Errorf("the user is %q, %q", u.GetName(), u.GetUID())
	}
	if want := []string{"openstack:project:" + consumertest.Project, "openstack:role:node"}; !slices.Equal(u.GetGroups(), want) {
		t.Errorf("the groups are %q", u.GetGroups())
	}
	if jti := u.GetExtra()["id.example.com/jti"]; len(jti) != 1 || jti[0] == "" {
		t.Errorf("the extra is %v", u.GetExtra())
	}
}
