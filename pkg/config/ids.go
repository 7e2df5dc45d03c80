package config

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// keystoneKind is a kind of object to which Keystone gives an ID.
type keystoneKind struct {
	name    string // as in `openstack NAME show`
	lengths []int  // of its IDs, which are hexadecimal digits in lower case
	digits  string // the lengths in words
}

// unlikelyIDs warns of IDs in a role's rules that do not have the form of Keystone's IDs:
// no instance meets a rule with a name in place of an ID. Other forms are possible, for
// example for projects that were copied from another system.
func (c *Plan) unlikelyIDs(role string, r attest.Rules, warn func(path, format string, args ...any)) {
	for _, rule := range []struct {
		key      string
		patterns []string
		kind     keystoneKind
	}{
		// Keystone's IDs are uuid4().hex. The ID of a user of LDAP is a SHA-256 in hexadecimal.
		{"projectID", r.ProjectID, keystoneKind{"project", []int{32}, "32 hexadecimal digits in lower case"}},
		{"userID", r.UserID, keystoneKind{"user", []int{32, 64}, "32 hexadecimal digits in lower case, or 64 for a user of LDAP"}},
	} {
		for i, pattern := range rule.patterns {
			if rule.kind.makes(pattern) {
				continue
			}
			path := role + "." + rule.key
			if at := fmt.Sprintf("%s[%d]", path, i); c.decoder.lines[at] > 0 {
				path = at // written as a list
			}
			warn(path, "%s does not have the form of Keystone's IDs of %[2]ss (%[3]s): no instance meets the rule, unless the %[2]s was created with an ID of another form; print the ID with: openstack %[2]s show %[4]s -f value -c id",
				secret.Quote(pattern), rule.kind.name, rule.kind.digits, argument(pattern))
		}
	}
}

// makes reports whether an ID of this kind can match the pattern.
func (k keystoneKind) makes(pattern string) bool {
	literal := strings.ReplaceAll(pattern, "*", "")
	if strings.Trim(literal, "0123456789abcdef?") != "" {
		return false
	}
	for _, n := range k.lengths {
		if len(literal) == n || len(literal) < n && literal != pattern {
			return true
		}
	}
	return false
}

var (
	dashed    = regexp.MustCompile(`\A[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\z`)
	plainName = regexp.MustCompile(`\A[A-Za-z0-9_.@][A-Za-z0-9_.@-]*\z`)
	quotable  = regexp.MustCompile(`\A[A-Za-z0-9_.@][A-Za-z0-9_.@$ -]*\z`)
)

// argument returns the value as an argument for a shell: an ID as Keystone writes it, a
// name, or NAME if the value is neither or may be a secret.
func argument(value string) string {
	switch {
	case dashed.MatchString(value):
		return strings.ToLower(strings.ReplaceAll(value, "-", ""))
	case !secret.Shown(value):
	case plainName.MatchString(value):
		return value
	case quotable.MatchString(value):
		return "'" + value + "'"
	}
	return "NAME"
}
