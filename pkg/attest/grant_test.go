package attest_test

import (
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

func TestParseAudience(t *testing.T) {
	for in, ok := range map[string]bool{
		"": false, " ": false, "a b": false, "a\nb": false, "a\x00": false, `a"b`: false, `a\b`: false, "ä": false, "a\x7f": false,
		strings.Repeat("a", 256): false,
		strings.Repeat("a", 255): true, "vault": true, "https://vault.example.com": true, "api://AzureADTokenExchange": true, "sts.amazonaws.com": true,
	} {
		a, err := attest.ParseAudience(in)
		if (err == nil) != ok || (ok && a.String() != in) || (!ok && a != attest.Audience{}) {
			t.Errorf("ParseAudience(%q) = %q, %v", in, a, err)
		}
	}
}

func TestGrantThatIsWrong(t *testing.T) {
	s := newScene(t)
	for want, g := range map[string]attest.Grant{
		"proof: is an empty list":          {Proof: []attest.Proof{}},
		`proof: "vendordata" is not`:       {Proof: []attest.Proof{"vendordata"}},
		`proof: "document+address" is not`: {Proof: []attest.Proof{"document+address"}},
		`proof: "" is not`:                 {Proof: []attest.Proof{""}},
		`proof: "address" is there twice`:  {Proof: []attest.Proof{"address", "document", "address"}},
		"audience: is an empty list":       {Audience: []string{}},
		`audience: "a b": an audience is`:  {Audience: []string{"a b"}},
		`audience: "a" is there twice`:     {Audience: []string{"a", "b", "a"}},
	} {
		if _, err := attest.NewRole("web", g, s.window, s.rules); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("NewRole with %+v = %v, want %s", g, err, want)
		}
	}
}

// No window is for proofs alone that have an end of their own.
func TestNoWindow(t *testing.T) {
	w := newScene(t).window
	w.Period = 0
	for _, tt := range []struct {
		proofs []attest.Proof
		ok     bool
	}{
		{nil, false}, {[]attest.Proof{"address"}, false}, {[]attest.Proof{"document", "address"}, false}, {[]attest.Proof{"address+document"}, false},
		{[]attest.Proof{"document"}, true}, {[]attest.Proof{"metadataService", "document"}, true},
	} {
		if _, err := attest.NewRole("web", attest.Grant{Proof: tt.proofs}, w, attest.Rules{AllowAnyInstance: true}); (err == nil) != tt.ok {
			t.Errorf("a period of 0 with %v: %v", tt.proofs, err)
		}
	}
}

// reserved are audiences that only their own role may name, of the
// issuer https://id.example.com/region-1.
var reserved = []string{
	"https://id.example.com/region-1", "https://id.example.com/region-1/", "https://id.example.com/region-1/x", "HTTPS://ID.EXAMPLE.COM/Region-1",
	"https://id.example.com./region-1", "https://id.example.com:443/region-1", "http://id.example.com/region-1", "//id.example.com/region-1", "id.example.com/region-1",
	"https://id.example.com/x/../region-1", "https://user@id.example.com/region-1/x", "https://id.example.com/%72egion-1", "https://id.example.com/region-2", "https://id.example.com:8443", "https://id.example.com//region-1",
	"https://id.example.com/roles/db", "https://id.example.com/roles/web2", "https://id.example.com/roles", "https://id.example.com/ROLES/db",
	"https://id.example.com/region-1/%zz", "https://db.example.com", "https://db.example.com/", "HTTPS://DB.example.com",
	"https://db.example.com:443", "http://db.example.com", "http://db.example.com:80/", "https://db.example.com.", "https://db.example.com./", "https://db.example.com/.", "https://db.example.com/x/..", "https://db.example.com//",
	"https://%64b.example.com", "https://%2564b.example.com", "https://DB.EXAMPLE.COM:0443/", "https://user@db.example.com", "https://db.example.com?", "https://db.example.com#x", "https:db.example.com", "https:///db.example.com", "//db.example.com", "//DB.example.com/",
	"https://id.example%2ecom", "id%2Eexample.com", "x;https://db.example.com", "vault;keystone", "vault,keystone", "https://id%252eexample.com/", "https://db.example.com:",
}

// misspelled are URLs that have another, normal, spelling: a verifier may take the two for one.
var misspelled = []string{
	"HTTPS://vault.example.org", "https://Vault.example.org", "https://vault.example.org:443", "http://vault.example.org:80/x", "https://vault.example.org:", "https://vault.example.org:08200",
	"https://vault.example.org.", "https://vault.example.org/a/../b", "https://vault.example.org/./", "https://vault.example.org//a", "https://vault.example.org/%61", "https://vault.example.org/%2f",
	"https://vault.example.org/%c3%a4", "https://vault.example.org/%", "https://vault.example.org?", "https://vault.example.org/#", "https://vault.example.org/x#y", "https://u@vault.example.org", "https://@vault.example.org",
	"https:vault.example.org", "https:/vault.example.org", "https:///vault.example.org", "https://", "http:", "https://.vault.example.org", "https://vault..example.org", "https://v%61ult.example.org",
	"https://127.1", "https://0x7f.0.0.1", "https://2130706433", "https://127.0.0.01", "https://[0:0:0:0:0:0:0:2]", "https://[::ffff:192.0.2.1]", "https://[FE80::1]", "https://[fe80::1%25eth0]",
}

// wellSpelled are in their normal form, or no http(s) URL.
var wellSpelled = []string{
	"https://vault.example.org", "https://vault.example.org/", "https://vault.example.org:8200/v1/x", "http://192.0.2.7:8200", "https://[2001:db8::1]:8200/", "https://vault.example.org/%C3%A4?x=%26",
	"api://AzureADTokenExchange", "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q", "sts.amazonaws.com", "urn:example:Vault", "Vault", "spiffe://example.org/x", "https.example.org", "https://xn--mnchen-3ya.example.org",
}

func TestSpellingOfAudiences(t *testing.T) {
	ask := func(grant attest.Grant, wanted string) (string, error) {
		s := newScene(t)
		s.grant, s.audience = grant, wanted
		j, err := s.attestor(t).Attest(t.Context(), s.request(t))
		return j.Identity.Audience().String(), err
	}
	for _, wanted := range misspelled {
		if got, err := ask(attest.Grant{AnyAudience: true}, wanted); outcome(err) != no(attest.AudienceDenied) {
			t.Errorf("any audience, %s: %q, %s", wanted, got, outcome(err))
		}
	}
	for _, wanted := range wellSpelled {
		if got, err := ask(attest.Grant{AnyAudience: true}, wanted); err != nil || got != wanted {
			t.Errorf("any audience, %s: %q, %v", wanted, got, err)
		}
	}
	// What is listed is the operator's, byte for byte.
	for _, listed := range append(append([]string{"a;b", "a,b"}, misspelled...), wellSpelled...) {
		if got, err := ask(attest.Grant{Audience: []string{"other", listed}}, listed); err != nil || got != listed {
			t.Errorf("listed, %s: %q, %v", listed, got, err)
		}
		if got, err := ask(attest.Grant{Audience: []string{"other", listed}}, listed+"/"); outcome(err) != no(attest.AudienceDenied) {
			t.Errorf("listed, %s/: %q, %v", listed, got, err)
		}
	}
}

// No spelling of an audience that is another role's is granted, also where that role lists an odd one.
func FuzzAudience(f *testing.F) {
	for _, list := range [][]string{reserved, misspelled, wellSpelled} {
		for _, name := range list {
			f.Add(name)
		}
	}
	f.Fuzz(func(t *testing.T, wanted string) {
		a, err := attest.ParseAudience(wanted)
		if err != nil {
			return
		}
		s := newScene(t)
		s.grant.AnyAudience = true
		at, r := s.attestor(t), s.request(t)
		r.Audience = a
		j, err := at.Attest(t.Context(), r)
		if err != nil {
			return
		}
		u, err := url.Parse(j.Identity.Audience().String())
		if err != nil || u.Scheme != "https" && u.Scheme != "http" {
			return
		}
		if host := strings.ToLower(u.Hostname()); host == "db.example.com" && (u.Port() == "" || u.Port() == "80" || u.Port() == "443") && u.RawQuery == "" && strings.Trim(path.Clean("/"+u.Path), "/") == "" || host == "id.example.com" {
			t.Errorf("%q was granted", wanted)
		}
		if u.String() != j.Identity.Audience().String() {
			t.Errorf("%q was granted, which net/url writes %q", wanted, u)
		}
	})
}

func TestAudiences(t *testing.T) {
	grant := func(open bool, names ...string) attest.Grant { return attest.Grant{Audience: names, AnyAudience: open} }
	const own = "https://id.example.com/roles/web"
	type row struct {
		name   string
		grant  attest.Grant
		wanted string
		want   string // "-" for a denial
	}
	tests := []row{
		{"none is wanted, none is listed", grant(false), "", own},
		{"the role's own by its name", grant(false), own, own},
		{"any, when none is listed", grant(false), "vault", "-"},
		{"none is wanted: the first", grant(false, "vault", "k8s"), "", "vault"},
		{"one of those listed", grant(false, "vault", "k8s"), "k8s", "k8s"},
		{"one that is not listed", grant(false, "vault", "k8s"), "keycloak", "-"},
		{"one listed, in capitals", grant(false, "vault"), "Vault", "-"},
		{"the role's own, but others are listed", grant(false, "vault"), own, "-"},
		{"any", grant(true), "https://other.example.com/x", "https://other.example.com/x"},
		{"any, and none is wanted", grant(true), "", own},
		{"any, and the role's own", grant(true, "vault"), own, own},
		{"any, beside those listed", grant(true, "vault"), "keycloak", "keycloak"},
		{"any, on a host beside the issuer's", grant(true), "https://id2.example.com/region-1", "https://id2.example.com/region-1"},
	}
	for _, r := range reserved {
		tests = append(tests, row{"any, but not " + r, grant(true), r, "-"})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			s.grant, s.audience = tt.grant, tt.wanted
			j, err := s.attestor(t).Attest(t.Context(), s.request(t))
			if tt.want == "-" {
				if outcome(err) != no(attest.AudienceDenied) {
					t.Errorf("%s, want a denial", outcome(err))
				}
				return
			}
			if err != nil || j.Identity.Audience().String() != tt.want || j.Identity.DefaultAudience() != (tt.want == own) {
				t.Errorf("%q, %v, want %q", j.Identity.Audience(), err, tt.want)
			}
		})
	}
}

// Without the issuer's URL nothing can be told apart, so nothing is granted.
func TestAnyAudienceNeedsTheIssuer(t *testing.T) {
	s := newScene(t)
	s.grant.AnyAudience, s.audience = true, "vault"
	a := s.attestor(t)
	a.Policy = attest.NewPolicy(attest.Issuer{}, newRole(t, "web", s.grant, s.window, s.rules))
	if _, err := a.Attest(t.Context(), s.request(t)); outcome(err) != no(attest.AudienceDenied) {
		t.Error(outcome(err))
	}
}
