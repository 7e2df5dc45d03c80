package attest_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

var patterns = []struct {
	name, pattern, value string
	want                 bool
}{
	{"a letter more in front", "web", "aweb", false},
	{"a letter more behind", "web", "webs", false},
	{"a letter less", "web", "we", false},
	{"another case", "web", "Web", false},
	{"another case of the pattern", "WEB", "web", false},
	{"nothing", "web", "", false},
	{"a newline behind", "web", "web\n", false},
	{"a newline in front", "web", "\nweb", false},
	{"the value on a line of its own", "web", "a\nweb\nb", false},
	{"a space behind", "web", "web ", false},
	{"a NUL behind", "web", "web\x00", false},
	{"an asterisk behind, other start", "a*", "ba", false},
	{"an asterisk in front, other end", "*a", "ab", false},
	{"an asterisk within, too short", "ab*ba", "aba", false},
	{"a question mark stands for no character", "a?c", "ac", false},
	{"a question mark stands for two characters", "a?c", "abbc", false},
	{"a question mark for nothing", "?", "", false},
	{"anchors are letters", "^web$", "web", false},
	{"a dot is a dot", "a.c", "abc", false},
	{"a plus is a plus", "ab+", "abb", false},
	{"a bar is a bar", "web|db", "db", false},
	{"a bar is a bar, on its left", "web|db", "web", false},
	{"brackets are brackets", "[a-z]", "m", false},
	{"braces are braces", "a{2}", "aa", false},
	{"parentheses are parentheses", "(web)", "web", false},
	{"a flag is no flag", "(?i)web", "WEB", false},
	{"a class is no class", `\w`, "a", false},
	{"a quotation has no meaning", `\Qweb\E`, "web", false},
	{"an end of text has no meaning", `web\z`, "web", false},
	{"a backslash does not take an asterisk's meaning", `a\*`, "a*", false},
	{"a backslash does not take a question mark's meaning", `a\?`, "a?", false},
	{"the empty pattern", "", "a", false},
	{"the empty pattern and a newline", "", "\n", false},

	{"the value itself", "web", "web", true},
	{"nothing is nothing", "", "", true},
	{"anchors", "^web$", "^web$", true},
	{"metacharacters", `.+|[]{}()^$\d`, `.+|[]{}()^$\d`, true},
	{"an asterisk for nothing", "a*", "a", true},
	{"an asterisk behind", "a*", "abc", true},
	{"an asterisk in front", "*a", "cba", true},
	{"an asterisk alone", "*", "anything at all", true},
	{"an asterisk alone and nothing", "*", "", true},
	{"an asterisk for newlines", "a*z", "a\n\nz", true},
	{"an asterisk for an asterisk", "a*", "a*", true},
	{"two asterisks", "*b*", "abc", true},
	{"a question mark", "a?c", "abc", true},
	{"a question mark for a newline", "a?c", "a\nc", true},
	{"a question mark for one character of two bytes", "a?c", "aéc", true},
	{"a question mark and an asterisk: one or more", "?*", "a", true},
	{"a backslash and an asterisk", `a\*`, `a\bc`, true},
	{"a backslash and a question mark", `a\?`, `a\b`, true},
}

func TestPatterns(t *testing.T) {
	for _, tt := range patterns {
		t.Run(tt.name, func(t *testing.T) {
			if got := matches(t, tt.value, tt.pattern); got != tt.want {
				t.Errorf("pattern %q and value %q: match %v, want %v", tt.pattern, tt.value, got, tt.want)
			}
		})
	}
}

// matches asks for a role of which only one value of the metadata decides.
func matches(t *testing.T, value string, patterns ...string) bool {
	t.Helper()
	s := newScene(t)
	s.rules = attest.Rules{Metadata: map[string][]string{"key": patterns}}
	s.instance.Metadata = map[string]string{"key": value}
	switch got := s.ask(t); got {
	case granted:
		return true
	case no(attest.RuleMetadata):
		return false
	default:
		t.Fatalf("patterns %q and value %q: %s", patterns, value, got)
		return false
	}
}

func TestAnyPatternOfARuleSuffices(t *testing.T) {
	for value, want := range map[string]bool{"web": true, "db-1": true, "": true, "db": false, "web,db-1": false} {
		if got := matches(t, value, "web", "db-*", ""); got != want {
			t.Errorf("value %q: match %v, want %v", value, got, want)
		}
	}
}

// A pattern without wildcards matches itself and nothing else; one that is
// quoted by an asterisk on either side is a substring.
func FuzzPattern(f *testing.F) {
	for _, tt := range patterns {
		f.Add(tt.pattern, tt.value)
	}
	f.Fuzz(func(t *testing.T, pattern, value string) {
		if !utf8.ValidString(value) {
			t.Skip("the cloud's answers are JSON, which has no such values")
		}
		if !utf8.ValidString(pattern) {
			s := newScene(t)
			if _, err := attest.NewRole(s.role, attest.Grant{}, s.window, attest.Rules{UserID: []string{pattern}}); err == nil {
				t.Errorf("the pattern %q is no UTF-8 and was taken", pattern)
			}
			return
		}
		if strings.ContainsAny(pattern, "*?") {
			matches(t, value, pattern) // must not fail
			return
		}
		if got, want := matches(t, value, pattern), pattern == value; got != want {
			t.Errorf("pattern %q and value %q: match %v, want %v", pattern, value, got, want)
		}
		if !matches(t, pattern, pattern) {
			t.Errorf("pattern %q does not match itself", pattern)
		}
		if got, want := matches(t, value, "*"+pattern+"*"), strings.Contains(value, pattern); got != want {
			t.Errorf("pattern %q and value %q: match %v, want %v", "*"+pattern+"*", value, got, want)
		}
	})
}

func TestRules(t *testing.T) {
	project, user := []string{"p1"}, []string{"u1"}
	web := map[string][]string{"role": {"web", "db"}}
	both := map[string][]string{"role": {"web"}, "env": {"prod*"}}
	tests := []struct {
		name  string
		rules attest.Rules
		edit  func(*attest.Instance)
		want  string
	}{
		{"another project", attest.Rules{ProjectID: project}, func(in *attest.Instance) { in.ProjectID = "p2" }, no(attest.RuleProjectID)},
		{"the project's ID as user", attest.Rules{ProjectID: project}, func(in *attest.Instance) { in.ProjectID, in.UserID = "u1", "p1" }, no(attest.RuleProjectID)},
		{"another user", attest.Rules{UserID: user}, func(in *attest.Instance) { in.UserID = "u2" }, no(attest.RuleUserID)},
		{"the right project, another user", attest.Rules{ProjectID: project, UserID: user}, func(in *attest.Instance) { in.UserID = "u2" }, no(attest.RuleUserID)},
		{"the right user, another project", attest.Rules{ProjectID: project, UserID: user}, func(in *attest.Instance) { in.ProjectID = "p2" }, no(attest.RuleProjectID)},
		{"another value in the metadata", attest.Rules{Metadata: web}, func(in *attest.Instance) { in.Metadata["role"] = "mail" }, no(attest.RuleMetadata)},
		{"the value under another key", attest.Rules{Metadata: web}, func(in *attest.Instance) { in.Metadata = map[string]string{"Role": "web"} }, no(attest.RuleMetadata)},
		{"no metadata", attest.Rules{Metadata: web}, func(in *attest.Instance) { in.Metadata = nil }, no(attest.RuleMetadata)},
		{"one of two keys", attest.Rules{Metadata: both}, func(in *attest.Instance) { delete(in.Metadata, "env") }, no(attest.RuleMetadata)},
		{"the other of two keys", attest.Rules{Metadata: both}, func(in *attest.Instance) { delete(in.Metadata, "role") }, no(attest.RuleMetadata)},
		{"a key that is not there is not an empty one", attest.Rules{Metadata: map[string][]string{"absent": {""}}}, nil, no(attest.RuleMetadata)},
		{"a key that is not there, any value", attest.Rules{Metadata: map[string][]string{"absent": {"*"}}}, nil, no(attest.RuleMetadata)},
		{"a project that is not known, any project", attest.Rules{ProjectID: []string{"*"}}, func(in *attest.Instance) { in.ProjectID = "" }, no(attest.RuleProjectID)},
		{"a user that is not known, any user", attest.Rules{UserID: []string{"*"}}, func(in *attest.Instance) { in.UserID = "" }, no(attest.RuleUserID)},
		{"allowAnyInstance does not undo a rule", attest.Rules{ProjectID: project, AllowAnyInstance: true}, func(in *attest.Instance) { in.ProjectID = "p2" }, no(attest.RuleProjectID)},
		{"all hold but the metadata", attest.Rules{ProjectID: project, UserID: user, Metadata: web}, func(in *attest.Instance) { in.Metadata["role"] = "webs" }, no(attest.RuleMetadata)},

		{"the project", attest.Rules{ProjectID: project}, nil, granted},
		{"the user", attest.Rules{UserID: user}, nil, granted},
		{"the metadata", attest.Rules{Metadata: both}, nil, granted},
		{"a key that is there and empty", attest.Rules{Metadata: map[string][]string{"empty": {""}}}, nil, granted},
		{"all hold", attest.Rules{ProjectID: project, UserID: user, Metadata: web}, nil, granted},
		{"no rule, and that is meant", attest.Rules{AllowAnyInstance: true}, nil, granted},
		{"no rule in an empty map, and that is meant", attest.Rules{Metadata: map[string][]string{}, AllowAnyInstance: true}, nil, granted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			s.rules = tt.rules
			s.instance.ProjectID, s.instance.UserID = "p1", "u1"
			s.instance.Metadata = map[string]string{"role": "web", "env": "production", "empty": ""}
			if tt.edit != nil {
				tt.edit(&s.instance)
			}
			if got := s.ask(t); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

func TestRulesThatAreRefused(t *testing.T) {
	tests := []struct {
		name  string
		rules attest.Rules
		want  []string
	}{
		{"an empty list", attest.Rules{ProjectID: []string{}}, []string{"projectID: "}},
		{"an empty list beside a rule", attest.Rules{ProjectID: []string{"p1"}, UserID: []string{}}, []string{"userID: "}},
		{"an empty list and allowAnyInstance", attest.Rules{UserID: []string{}, AllowAnyInstance: true}, []string{"userID: "}},
		{"an empty list of metadata", attest.Rules{Metadata: map[string][]string{"role": {}}}, []string{"metadata.role: "}},
		{"a list of metadata that was left blank", attest.Rules{Metadata: map[string][]string{"role": nil}}, []string{"metadata.role: "}},
		{"an empty project", attest.Rules{ProjectID: []string{""}}, []string{"projectID: "}},
		{"an empty user among others", attest.Rules{UserID: []string{"u1", ""}}, []string{"userID: "}},
		{"both empty, in their order", attest.Rules{UserID: []string{""}, ProjectID: []string{""}}, []string{"projectID: ", "userID: "}},
		{"what is no UTF-8", attest.Rules{UserID: []string{"\xff"}}, []string{"userID: "}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := attest.NewRole("web", attest.Grant{}, newScene(t).window, tt.rules)
			wantProblems(t, err, tt.want...)
		})
	}
}

func TestARoleWithoutARuleIsRefused(t *testing.T) {
	for name, rules := range map[string]attest.Rules{
		"nothing":               {},
		"an empty metadata map": {Metadata: map[string][]string{}},
	} {
		if _, err := attest.NewRole("web", attest.Grant{}, newScene(t).window, rules); err == nil || !strings.HasPrefix(err.Error(), "has no rule") {
			t.Errorf("%s: error %v, want one that says so", name, err)
		}
	}
}

func TestARoleKeepsItsRulesWhenTheConfigurationChanges(t *testing.T) {
	s := newScene(t)
	config := attest.Rules{ProjectID: []string{"of another"}, Metadata: map[string][]string{"role": {"none"}}}
	s.rules = config
	a := s.attestor(t)
	config.ProjectID[0] = "*"
	config.Metadata["role"][0] = "*"
	delete(config.Metadata, "role")
	if _, err := a.Attest(t.Context(), s.request(t)); outcome(err) != no(attest.RuleProjectID) {
		t.Errorf("Attest = %v, want a denial by the rules that were compiled", err)
	}
}
