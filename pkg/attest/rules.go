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

// Rules say which instances may have a role. All rules that are set must hold. A rule
// holds if the value matches one of its patterns. A pattern matches the whole value; `*`
// stands for any characters, `?` for one; case counts.
type Rules struct {
	// ProjectID is the project of the instance. Optional; but other tenants of the cloud
	// can meet all rules other than this and UserID, so a role with neither is open to
	// every user who can create an instance.
	ProjectID []string `yaml:"projectID"`
	// UserID is the user that created the instance. Optional.
	UserID []string `yaml:"userID"`
	// Metadata maps keys of the instance's metadata to patterns. A missing key does not
	// match. The members of the project can change metadata at any time. Optional.
	Metadata map[string][]string `yaml:"metadata"`
	// AllowAnyInstance permits a role without any rule. Default: false.
	AllowAnyInstance bool `yaml:"allowAnyInstance"`
}

var errNoRule = errors.New("has no rule, so every instance of the cloud could have it; add projectID, userID or metadata, or say allowAnyInstance: true if that is meant")

// compiled is compiled Rules. The zero value denies.
type compiled struct {
	rules []rule
	open  bool
}

type rule struct {
	reason Reason
	name   string
	wanted []string
	match  []*regexp.Regexp
	value  func(Instance) (value string, known bool) // an unknown value matches no pattern
}

// compile returns a [problem.Problem] for each rule at fault.
func (r Rules) compile() (compiled, error) {
	c := compiled{open: r.AllowAnyInstance}
	var problems []error
	add := func(reason Reason, name string, values []string, value func(Instance) (string, bool)) {
		match, err := compilePatterns(values)
		problems = append(problems, problem.At(name, err))
		c.rules = append(c.rules, rule{reason, name, values, match, value})
	}
	for _, id := range []struct {
		reason Reason
		name   string
		values []string
		of     func(Instance) string
	}{
		{RuleProjectID, "projectID", r.ProjectID, func(in Instance) string { return in.ProjectID }},
		{RuleUserID, "userID", r.UserID, func(in Instance) string { return in.UserID }},
	} {
		if slices.Contains(id.values, "") {
			problems = append(problems, problem.Errorf(id.name, "an empty value matches no instance; remove the rule or give it a value"))
		}
		if id.values != nil {
			add(id.reason, id.name, id.values, func(in Instance) (string, bool) { return id.of(in), id.of(in) != "" })
		}
	}
	for _, key := range slices.Sorted(maps.Keys(r.Metadata)) {
		add(RuleMetadata, "metadata."+key, r.Metadata[key], func(in Instance) (string, bool) {
			v, ok := in.Metadata[key]
			return v, ok
		})
	}
	if err := errors.Join(problems...); err != nil {
		return compiled{}, err
	}
	if len(c.rules) == 0 && !c.open {
		return compiled{}, errNoRule
	}
	return c, nil
}

// allow returns nil if every rule holds.
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
		case !slices.ContainsFunc(r.match, func(re *regexp.Regexp) bool { return re.MatchString(value) }):
			err = denied(r.reason, "%s is %q", r.name, value)
		}
		if j.failed(r.name, r.wanted, value, err) {
			return err
		}
	}
	return nil
}

func compilePatterns(values []string) ([]*regexp.Regexp, error) {
	if len(values) == 0 {
		return nil, errors.New("is an empty list, which matches nothing; remove the rule or give it a value")
	}
	compiled := make([]*regexp.Regexp, len(values))
	for i, v := range values {
		// (?s): the value may contain a newline. QuoteMeta escapes all but the two wildcards.
		quoted := strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(v))
		re, err := regexp.Compile(`(?s)\A(?:` + quoted + `)\z`)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", v, err)
		}
		compiled[i] = re
	}
	return compiled, nil
}
