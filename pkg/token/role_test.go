package token_test

import (
	"context"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring/keyringtest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

var allClaims = []string{
	"user_id", "image_id", "flavor", "availability_zone", "region", "hostname", "address", "created", "launched_at", "project_name", "project_domain_id",
}

// names is a cloud whose projects all have one name.
type names struct {
	name string
	err  error
}

func (n names) Project(context.Context, string) (name, domainID string, err error) {
	if n.name == "" {
		n.name = "shop"
	}
	return n.name, "default", n.err
}

// newIssuerOf is one whose role web is configured so.
func newIssuerOf(t *testing.T, c token.RoleConfig, projects interface {
	Project(context.Context, string) (string, string, error)
},
) *token.Issuer {
	t.Helper()
	i, err := token.NewIssuer(plan(t, issuerURL, map[string]token.RoleConfig{"web": c}), load(t, keyringtest.EC(t, elliptic.P256())), projects)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// fullInstance is one of which the cloud tells all that it can.
func fullInstance(t *testing.T) attest.Instance {
	t.Helper()
	in := attesttest.Instance(t)
	in.ImageID, in.Flavor, in.Zone, in.Hostname, in.Region = "44742495-68d3-4c10-8642-423ed054a9f2", "m1.small", "nova", "web-1", "RegionOne"
	in.Metadata = map[string]string{"env": "prod", "path": "../x", "list": "a;b", "long": strings.Repeat("x", 64)}
	return in
}

func TestClaims(t *testing.T) {
	in, born := fullInstance(t), time.Now().Truncate(time.Second)
	in.Created, in.Launched = born, born.Add(time.Second)
	number := func(at time.Time) json.Number { return json.Number(strconv.FormatInt(at.Unix(), 10)) }
	all := map[string]any{
		"user_id": in.UserID, "image_id": in.ImageID, "flavor": "m1.small", "availability_zone": "nova", "region": "RegionOne",
		"hostname": "web-1", "address": attesttest.Addr.String(), "created": number(in.Created), "launched_at": number(in.Launched),
		"project_name": "shop", "project_domain_id": "default",
	}
	user := append([]string{"metadata.env", "metadata.path", "metadata.list", "metadata.long", "metadata.none"}, "hostname", "project_name")
	tests := []struct {
		name     string
		config   token.RoleConfig
		projects names
		edit     func(*attest.Instance)
		want     map[string]any // beside those that every token has
	}{
		{"none", token.RoleConfig{}, names{}, nil, map[string]any{}},
		{"all", token.RoleConfig{Claims: allClaims}, names{}, nil, all},
		{"what verifiers could misread is left out", token.RoleConfig{Claims: user}, names{name: "the shop"}, func(in *attest.Instance) { in.Hostname = "-rf" },
			map[string]any{"metadata_env": "prod"}},
		{"unless the role says otherwise", token.RoleConfig{Claims: user, InsecureUserValues: true}, names{name: "the shop"}, func(in *attest.Instance) { in.Hostname = "-rf" },
			map[string]any{
				"metadata_env": "prod", "metadata_path": "../x", "metadata_list": "a;b", "metadata_long": strings.Repeat("x", 64),
				"hostname": "-rf", "project_name": "the shop",
			}},
		{"what the instance does not have", token.RoleConfig{Claims: allClaims}, names{}, func(in *attest.Instance) {
			*in = attest.Instance{ID: in.ID, ProjectID: in.ProjectID, UserID: "u", Phase: attest.PhaseRunning, Created: in.Created, Addresses: in.Addresses}
		}, map[string]any{
			"user_id": "u", "address": attesttest.Addr.String(), "created": number(in.Created), "project_name": "shop", "project_domain_id": "default",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := fullInstance(t)
			in.Created, in.Launched = born, born.Add(time.Second)
			if tt.edit != nil {
				tt.edit(&in)
			}
			_, claims := parts(t, issue(t, newIssuerOf(t, tt.config, tt.projects), attesttest.Identity(t, in, "web")).Compact)
			for _, name := range []string{"iss", "sub", "aud", "jti", "iat", "nbf", "exp", "instance_id", "project_id", "role", "amr"} {
				if claims[name] == nil {
					t.Errorf("there is no %s", name)
				}
				delete(claims, name)
			}
			delete(claims, "instance_name")
			if diff := cmp.Diff(tt.want, claims); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestNamesOfUsersAreLeftOut(t *testing.T) {
	for name, want := range map[string]any{"web-1": "web-1", "a;b": nil, "": nil} {
		in := attesttest.Instance(t)
		in.Name = name
		_, claims := parts(t, issue(t, newIssuerOf(t, token.RoleConfig{}, nil), attesttest.Identity(t, in, "web")).Compact)
		if claims["instance_name"] != want {
			t.Errorf("%q became %v, want %v", name, claims["instance_name"], want)
		}
	}
	in := attesttest.Instance(t)
	in.Name = "a;b"
	_, claims := parts(t, issue(t, newIssuerOf(t, token.RoleConfig{InsecureUserValues: true}, nil), attesttest.Identity(t, in, "web")).Compact)
	if claims["instance_name"] != "a;b" {
		t.Errorf("it became %v", claims["instance_name"])
	}
}

func TestSubject(t *testing.T) {
	in := fullInstance(t)
	for template, want := range map[string]string{
		"":               in.ID.String(),
		"${instance_id}": in.ID.String(),
		"project/${project_id}/instance/${instance_id}":              "project/" + in.ProjectID + "/instance/" + in.ID.String(),
		"${region}:${role}:${user_id}:${instance_id}":                "RegionOne:web:" + in.UserID + ":" + in.ID.String(),
		"$instance_id{${instance_id}}":                               "$instance_id{" + in.ID.String() + "}",
		"${instance_id}${instance_id}" + strings.Repeat("x", 255-72): in.ID.String() + in.ID.String() + strings.Repeat("x", 255-72),
	} {
		_, claims := parts(t, issue(t, newIssuerOf(t, token.RoleConfig{Subject: template}, nil), attesttest.Identity(t, in, "web")).Compact)
		if claims["sub"] != want {
			t.Errorf("%q gave %v, want %s", template, claims["sub"], want)
		}
	}
	_, claims := parts(t, issue(t, newIssuerOf(t, token.RoleConfig{Subject: "role:${role}", SharedSubject: true}, nil), attesttest.Identity(t, in, "web")).Compact)
	if claims["sub"] != "role:web" {
		t.Errorf("the shared subject is %v", claims["sub"])
	}
	for _, template := range []string{"${region}/${instance_id}", "${instance_id}" + strings.Repeat("x", 255-35)} {
		in.Region = ""
		if tok, err := newIssuerOf(t, token.RoleConfig{Subject: template}, nil).Issue(t.Context(), attesttest.Identity(t, in, "web")); err == nil || tok.Compact != "" {
			t.Errorf("%q: a token was signed, %v", template, err)
		}
	}
}

func TestRoleConfigThatIsWrong(t *testing.T) {
	for want, c := range map[string]token.RoleConfig{
		"tokenExpiry: 1s is not in":                   {TokenExpiry: new(time.Second)},
		`subject: "fixed" is the same for several`:    {Subject: "fixed"},
		"subject: ${name} is not":                     {Subject: "${name}/${instance_id}"},
		"subject: ${} is not":                         {Subject: "${}${instance_id}"},
		"subject: \"${instance_id}${role\" is not":    {Subject: "${instance_id}${role"},
		"subject: \"a ${instance_id}\" is not":        {Subject: "a ${instance_id}"},
		"subject: \"ä${instance_id}\" is not":         {Subject: "ä${instance_id}"},
		`claims: "name" is not address, availability`: {Claims: []string{"name"}},
		`claims: "sub" is not`:                        {Claims: []string{"sub"}},
		`claims: "metadata." is not`:                  {Claims: []string{"metadata."}},
		`claims: "metadata.a.b" is not`:               {Claims: []string{"metadata.a.b"}},
		`claims: "metadata_env" is not`:               {Claims: []string{"metadata_env"}},
		`claims: "created" is there twice`:            {Claims: []string{"created", "created"}},
	} {
		p := plan(t, issuerURL, nil)
		if err := p.Add(attesttest.Role(t, "db"), c); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("Add = %v, want %s", err, want)
		}
		name, err := attest.ParseRoleName("db")
		if err != nil || p.Policy().Has(name) {
			t.Errorf("a role with %s was added, %v", want, err)
		}
	}
	if err := plan(t, issuerURL, nil).Add(attesttest.Role(t, "db"), token.RoleConfig{Claims: allClaims, Subject: "${instance_id}"}); err != nil {
		t.Error(err)
	}
}

func TestNamesOfProjectsThatCannotBeRead(t *testing.T) {
	i := newIssuerOf(t, token.RoleConfig{Claims: []string{"project_name"}}, names{err: errors.New("keystone is away")})
	if tok, err := i.Issue(t.Context(), attesttest.Identity(t, attesttest.Instance(t), "web")); err == nil || tok.Compact != "" {
		t.Errorf("a token was signed without the name of its project: %v", err)
	}
	p := plan(t, issuerURL, map[string]token.RoleConfig{"web": {Claims: []string{"project_domain_id"}}})
	if _, err := token.NewIssuer(p, load(t, keyringtest.EC(t, elliptic.P256())), nil); err == nil {
		t.Error("there is an issuer without a source for the names of projects")
	}
}

func TestAudience(t *testing.T) {
	for _, tt := range []struct {
		grant  attest.Grant
		wanted string
		want   any
	}{
		{attest.Grant{}, "", []any{issuerURL + "/roles/web"}},
		{attest.Grant{}, issuerURL + "/roles/web", []any{issuerURL + "/roles/web"}},
		{attest.Grant{Audience: []string{"vault", "k8s"}}, "", "vault"},
		{attest.Grant{Audience: []string{"vault", "k8s"}}, "k8s", "k8s"},
		{attest.Grant{AnyAudience: true}, "https://other.example.com", "https://other.example.com"},
	} {
		id := attesttest.IdentityFor(t, attesttest.Instance(t), "web", tt.grant, tt.wanted, issuerURL)
		_, claims := parts(t, issue(t, newIssuerOf(t, token.RoleConfig{}, nil), id).Compact)
		if diff := cmp.Diff(tt.want, claims["aud"]); diff != "" {
			t.Errorf("%+v, %q: aud (-want +got):\n%s", tt.grant, tt.wanted, diff)
		}
	}
}
