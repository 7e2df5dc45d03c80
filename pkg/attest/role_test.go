package attest_test

import (
	"math"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
)

var roleNames = []struct {
	name, in string
	ok       bool
}{
	{"empty", "", false},
	{"65 letters", strings.Repeat("a", 65), false},
	{"the directory itself", ".", false},
	{"the directory above", "..", false},
	{"a slash", "a/b", false},
	{"a slash in front", "/a", false},
	{"a slash behind", "a/", false},
	{"a backslash", `a\b`, false},
	{"an escaped slash", "a%2fb", false},
	{"a colon, which would make it a scheme", "a:b", false},
	{"a query", "a?b", false},
	{"a fragment", "a#b", false},
	{"a space", "a b", false},
	{"a space in front", " web", false},
	{"a plus", "a+b", false},
	{"an asterisk", "*", false},
	{"a newline behind", "web\n", false},
	{"a newline in front", "\nweb", false},
	{"a NUL", "web\x00", false},
	{"a letter with an accent", "wéb", false},
	{"a letter that folds to k", "\u212a", false},
	{"what is no UTF-8", "web\xff", false},

	{"one letter", "a", true},
	{"64 letters", strings.Repeat("a", 64), true},
	{"all that is allowed", "AZaz09._-", true},
	{"three dots", "...", true},
	{"a dot in front", ".web", true},
	{"a dash in front", "-web", true},
	{"digits", "0", true},
}

func TestParseRoleName(t *testing.T) {
	for _, tt := range roleNames {
		t.Run(tt.name, func(t *testing.T) {
			n, err := attest.ParseRoleName(tt.in)
			if (err == nil) != tt.ok {
				t.Fatalf("ParseRoleName(%q) = error %v, want accepted %v", tt.in, err, tt.ok)
			}
			if tt.ok && n.String() != tt.in {
				t.Errorf("ParseRoleName(%q) = %q", tt.in, n)
			}
			if !tt.ok && (n != attest.RoleName{} || err == nil || !strings.HasPrefix(err.Error(), "a role name is ")) {
				t.Errorf("ParseRoleName(%q) = %q, %v, want an error and no name", tt.in, n, err)
			}
		})
	}
}

// A role's audience is its name resolved against the issuer: no name may lead
// to another role's audience, or out of the issuer.
func FuzzParseRoleName(f *testing.F) {
	for _, tt := range roleNames {
		f.Add(tt.in)
	}
	base, err := url.Parse("https://h/a")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := attest.ParseRoleName(s)
		if err != nil {
			return
		}
		u, err := base.Parse(n.String())
		if err != nil {
			t.Fatalf("%q is no relative reference: %v", s, err)
		}
		if got, want := u.String(), "https://h/"+s; got != want {
			t.Errorf("%q resolved against %s is %s, want %s", s, base, got, want)
		}
	})
}

func TestWindowProblems(t *testing.T) {
	good := attest.Window{Limit: 3, Period: 5 * time.Minute, Since: attest.SinceCreated}
	tests := []struct {
		name string
		edit func(*attest.Window)
		want []string // the keys at fault
	}{
		{"no attempt", func(w *attest.Window) { w.Limit = 0 }, []string{"limit: "}},
		{"fewer than no attempts", func(w *attest.Window) { w.Limit = -1 }, []string{"limit: "}},
		{"more attempts than a store can count", func(w *attest.Window) { w.Limit = math.MaxInt32 + 1 }, []string{"limit: "}},
		{"no window", func(w *attest.Window) { w.Period = 0 }, []string{"period: "}},
		{"a window that closes before it opens", func(w *attest.Window) { w.Period = -1 }, []string{"period: "}},
		{"a window that no store can keep", func(w *attest.Window) { w.Period = maxPeriod + 1 }, []string{"period: "}},
		{"the longest duration there is", func(w *attest.Window) { w.Period = math.MaxInt64 }, []string{"period: "}},
		{"no moment", func(w *attest.Window) { w.Since = "" }, []string{"since: "}},
		{"a moment in capitals", func(w *attest.Window) { w.Since = "Created" }, []string{"since: "}},
		{"nothing at all", func(w *attest.Window) { *w = attest.Window{} }, []string{"limit: ", "period: ", "since: "}},

		{"the default", func(*attest.Window) {}, nil},
		{"one attempt", func(w *attest.Window) { w.Limit = 1 }, nil},
		{"as many attempts as a store can count", func(w *attest.Window) { w.Limit = math.MaxInt32 }, nil},
		{"the shortest window", func(w *attest.Window) { w.Period = 1 }, nil},
		{"the longest window", func(w *attest.Window) { w.Period = maxPeriod }, nil},
		{"since the launch", func(w *attest.Window) { w.Since = attest.SinceLaunched }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := good
			tt.edit(&w)
			_, err := attest.NewRole("web", attest.Grant{}, w, attest.Rules{AllowAnyInstance: true})
			wantProblems(t, err, tt.want...)
		})
	}
}

// wantProblems fails the test unless err has one line for each of want, which
// begins with it.
func wantProblems(t *testing.T, err error, want ...string) {
	t.Helper()
	var got []string
	if err != nil {
		got = strings.Split(err.Error(), "\n")
	}
	if len(got) != len(want) {
		t.Fatalf("%d problems, want %d:\n%v", len(got), len(want), err)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("problem %q, want one that begins with %q", got[i], want[i])
		}
	}
}

func TestNewRoleReportsAllProblemsAtOnce(t *testing.T) {
	_, err := attest.NewRole("a/b", attest.Grant{}, attest.Window{Period: time.Minute, Since: "booted"}, attest.Rules{
		ProjectID: []string{}, UserID: []string{}, Metadata: map[string][]string{"b": nil, "a": {}, "c": {"fine"}},
	})
	wantProblems(t, err, "a role name is", "limit: ", "since: ", "projectID: ", "userID: ", "metadata.a: ", "metadata.b: ")
}

func TestPolicyKnowsWhatItWasGiven(t *testing.T) {
	s := newScene(t)
	web := newRole(t, "web", attest.Grant{}, s.window, s.rules)
	p := attest.NewPolicy(attesttest.Issuer(t, ""), web)
	for name, want := range map[string]bool{"web": true, "Web": false, "web2": false, "db": false} {
		if got := p.Has(roleName(t, name)); got != want {
			t.Errorf("Has(%q) = %v, want %v", name, got, want)
		}
	}
	if p.Has(attest.RoleName{}) {
		t.Error("the policy has a role without a name")
	}
}

func TestOfTwoRolesWithOneNameTheLastCounts(t *testing.T) {
	s := newScene(t)
	open := newRole(t, "web", attest.Grant{}, s.window, attest.Rules{AllowAnyInstance: true})
	shut := newRole(t, "web", attest.Grant{}, s.window, attest.Rules{ProjectID: []string{"of another"}})
	a := s.attestor(t)
	a.Policy = attest.NewPolicy(attesttest.Issuer(t, ""), open, shut)
	if _, err := a.Attest(t.Context(), s.request(t)); outcome(err) != no(attest.RuleProjectID) {
		t.Errorf("the last role denies, and Attest = %v", err)
	}
	a.Policy = attest.NewPolicy(attesttest.Issuer(t, ""), shut, open)
	if _, err := a.Attest(t.Context(), s.request(t)); err != nil {
		t.Errorf("the last role grants, and Attest = %v", err)
	}
}
