package attest

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
)

// Rules say which instances may have a role. All rules that are set must hold.
// A rule holds when the value matches any of its patterns. A pattern covers the
// whole value; `*` stands for any run of characters, `?` for one; case counts.
type Rules struct {
	// ProjectID is the project that the instance belongs to. Only this and
	// UserID are out of the reach of other tenants of the cloud: Optional, but
	// a role with neither is open to whoever can create an instance.
	ProjectID []string `yaml:"projectID"`
	// UserID is the user who created the instance. Optional.
	UserID []string `yaml:"userID"`
	// Metadata is the instance's metadata, which the members of its project can
	// change at any time: key to patterns, a key that is not there does not
	// match. Optional.
	Metadata map[string][]string `yaml:"metadata"`
	// AllowAnyInstance says that a role without any rule is meant. Default: false.
	AllowAnyInstance bool `yaml:"allowAnyInstance"`
}

// ErrNoRule refuses a role that any instance of the cloud could have.
var ErrNoRule = errors.New("has no rule, so every instance of the cloud could have it; add projectID, userID or metadata, or say allowAnyInstance: true if that is meant")

// compiled is a rule set that can decide. Its zero value denies.
type compiled struct {
	rules []rule
	open  bool
}

type rule struct {
	reason Reason
	name   string
	wanted []string
	match  patterns
	value  func(Instance) (value string, known bool) // a value that is not known matches no pattern
}

// compile checks r and turns it into what can decide. The error joins one error
// for each problem, each beginning with the path of the rule.
func (r Rules) compile() (compiled, error) {
	c := compiled{}
	var problems []error
	add := func(reason Reason, name string, values []string, value func(Instance) (string, bool)) {
		match, err := compilePatterns(values)
		if err != nil {
			problems = append(problems, problem.At(name, err))
			return
		}
		c.rules = append(c.rules, rule{reason, name, values, match, value})
	}
	for _, r := range []struct {
		name   string
		values []string
	}{{"projectID", r.ProjectID}, {"userID", r.UserID}} {
		if slices.Contains(r.values, "") {
			problems = append(problems, problem.Errorf(r.name, "an empty value matches no instance; leave the rule out or give it a value"))
		}
	}
	if r.ProjectID != nil {
		add(RuleProjectID, "projectID", r.ProjectID, func(in Instance) (string, bool) { return in.ProjectID, in.ProjectID != "" })
	}
	if r.UserID != nil {
		add(RuleUserID, "userID", r.UserID, func(in Instance) (string, bool) { return in.UserID, in.UserID != "" })
	}
	for _, key := range slices.Sorted(maps.Keys(r.Metadata)) {
		add(RuleMetadata, "metadata."+key, r.Metadata[key], func(in Instance) (string, bool) {
			v, ok := in.Metadata[key]
			return v, ok
		})
	}
	if len(problems) == 0 && len(c.rules) == 0 {
		if !r.AllowAnyInstance {
			return compiled{}, ErrNoRule
		}
		c.open = true
	}
	if err := errors.Join(problems...); err != nil {
		return compiled{}, err
	}
	return c, nil
}

// allow is nil when every rule holds.
func (c compiled) allow(j *Judgment, in Instance) error {
	if len(c.rules) == 0 && !c.open {
		return denied(RoleUnknown, "the role was never compiled")
	}
	for _, r := range c.rules {
		value, ok := r.value(in)
		var err error
		switch {
		case !ok:
			err = denied(r.reason, "%s is not set", r.name)
		case !r.match.match(value):
			err = denied(r.reason, "%s is %q", r.name, value)
		}
		if j.failed(r.name, r.wanted, value, err) {
			return err
		}
	}
	return nil
}

type patterns []*regexp.Regexp

var errNoPattern = errors.New("an empty list matches nothing; leave the rule out or give it a value")

func compilePatterns(values []string) (patterns, error) {
	if len(values) == 0 {
		return nil, errNoPattern
	}
	compiled := make(patterns, len(values))
	for i, v := range values {
		// The whole value, newlines included: QuoteMeta leaves nothing of the
		// pattern to the expression but the two wildcards.
		quoted := strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(v))
		re, err := regexp.Compile(`(?s)\A(?:` + quoted + `)\z`)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", v, err)
		}
		compiled[i] = re
	}
	return compiled, nil
}

func (p patterns) match(value string) bool {
	return slices.ContainsFunc(p, func(re *regexp.Regexp) bool { return re.MatchString(value) })
}
