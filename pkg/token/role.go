package token

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
)

// RoleConfig says how the tokens of a role differ.
type RoleConfig struct {
	// TokenExpiry overrides auth's. Optional.
	TokenExpiry *time.Duration `yaml:"tokenExpiry"`
	// Subject is the `sub` claim: at most 255 printable ASCII characters, in which
	// ${instance_id}, ${project_id}, ${user_id}, ${role} and ${region} are replaced.
	// Default: ${instance_id}.
	Subject string `yaml:"subject"`
	// SharedSubject permits a subject without ${instance_id}, which several instances
	// share. Default: false.
	SharedSubject bool `yaml:"sharedSubject"`
	// Claims are additional claims about the instance: user_id, image_id, flavor,
	// availability_zone, region, hostname, address, created, launched_at, project_name,
	// project_domain_id, and metadata.KEY, which becomes metadata_KEY. A claim without a
	// value is omitted. Optional.
	Claims []string `yaml:"claims"`
	// InsecureUserValues permits any value that users of the cloud choose: names, host
	// names and metadata, which verifiers may split or use as a path. Default: false, which
	// omits values that do not match [A-Za-z0-9][A-Za-z0-9_.-]{0,62}.
	InsecureUserValues bool `yaml:"insecureUserValues"`
}

// projectNames looks up the names of projects.
type projectNames interface {
	// Project returns the name of a project and the ID of its domain. Every error is a
	// failure of the cloud, never a verdict.
	Project(ctx context.Context, id string) (name, domainID string, err error)
}

var errNoProjects = errors.New("a role needs the names of projects, and nothing looks them up")

// profile is a compiled RoleConfig.
type profile struct {
	expiry   time.Duration
	subject  []part
	claims   []claim
	insecure bool
	projects bool
}

// part is a part of a subject: a text or a variable.
type part struct {
	text     string
	variable func(attest.Identity) string
}

var variables = map[string]func(attest.Identity) string{
	"instance_id": func(i attest.Identity) string { return i.Instance().ID.String() },
	"project_id":  func(i attest.Identity) string { return i.Instance().ProjectID },
	"user_id":     func(i attest.Identity) string { return i.Instance().UserID },
	"role":        func(i attest.Identity) string { return i.Role().String() },
	"region":      func(i attest.Identity) string { return i.Instance().Region },
}

// claim is a claim that a role may add. One of value, moment and project is set.
type claim struct {
	name    string
	value   func(attest.Identity) string    // "" for none
	moment  func(attest.Identity) time.Time // zero for none
	project func(name, domainID string) string
	byUser  bool // users of the cloud choose the value
}

var knownClaims = map[string]claim{
	"user_id":           {value: variables["user_id"]},
	"image_id":          {value: func(i attest.Identity) string { return i.Instance().ImageID }},
	"flavor":            {value: func(i attest.Identity) string { return i.Instance().Flavor }},
	"availability_zone": {value: func(i attest.Identity) string { return i.Instance().Zone }},
	"region":            {value: variables["region"]},
	"hostname":          {value: func(i attest.Identity) string { return i.Instance().Hostname }, byUser: true},
	"address": {value: func(i attest.Identity) string {
		if !i.Address().IsValid() {
			return ""
		}
		return i.Address().String()
	}},
	"created":     {moment: func(i attest.Identity) time.Time { return i.Instance().Created }},
	"launched_at": {moment: func(i attest.Identity) time.Time { return i.Instance().Launched }},
	// The administrators of a domain choose the names of its projects.
	"project_name":      {project: func(name, _ string) string { return name }, byUser: true},
	"project_domain_id": {project: func(_, domainID string) string { return domainID }},
}

const metadataClaim = "metadata."

var (
	metadataKey = regexp.MustCompile(`\A[A-Za-z0-9_][A-Za-z0-9_-]{0,62}\z`)
	placeholder = regexp.MustCompile(`\$\{([^}]*)\}`)
	subjectText = regexp.MustCompile(`\A[!-~]*\z`)
)

// maxSubject is the limit of OpenID Connect (Core 1.0, section 2).
const maxSubject = 255

func (c RoleConfig) compile(expiry time.Duration) (profile, error) {
	p := profile{expiry: expiry, insecure: c.InsecureUserValues}
	var problems []error
	add := func(path, format string, args ...any) {
		problems = append(problems, problem.Errorf(path, format, args...))
	}
	if c.TokenExpiry != nil {
		p.expiry = *c.TokenExpiry
		if err := checkRange(p.expiry, minExpiry, maxExpiry); err != nil {
			problems = append(problems, problem.At("tokenExpiry", err))
		}
	}
	subject := c.Subject
	if subject == "" {
		subject = "${instance_id}"
	}
	var err error
	if p.subject, err = parseSubject(subject); err != nil {
		problems = append(problems, problem.At("subject", err))
	} else if !strings.Contains(subject, "${instance_id}") && !c.SharedSubject {
		add("subject", "%q is the same for several instances, as it has no ${instance_id}; set sharedSubject: true to permit this", subject)
	}
	for i, name := range c.Claims {
		found, ok := knownClaims[name]
		if key, metadata := strings.CutPrefix(name, metadataClaim); metadata && metadataKey.MatchString(key) {
			found, ok = claim{value: func(i attest.Identity) string { return i.Instance().Metadata[key] }, byUser: true}, true
		}
		found.name = strings.Replace(name, metadataClaim, "metadata_", 1)
		switch {
		case !ok:
			add("claims", "%q is not %s or metadata.KEY", name, strings.Join(optionalClaims(), ", "))
		case slices.Contains(c.Claims[:i], name):
			add("claims", "%q is there twice", name)
		}
		p.claims = append(p.claims, found)
		p.projects = p.projects || found.project != nil
	}
	return p, errors.Join(problems...)
}

func optionalClaims() []string {
	var names []string
	for name := range knownClaims {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func parseSubject(template string) ([]part, error) {
	var parts []part
	text := func(s string) {
		if s != "" {
			parts = append(parts, part{text: s})
		}
	}
	rest := template
	for m := placeholder.FindStringSubmatchIndex(rest); m != nil; m = placeholder.FindStringSubmatchIndex(rest) {
		name := rest[m[2]:m[3]]
		variable, ok := variables[name]
		if !ok {
			return nil, fmt.Errorf("${%s} is not ${instance_id}, ${project_id}, ${user_id}, ${role} or ${region}", name)
		}
		text(rest[:m[0]])
		parts = append(parts, part{variable: variable})
		rest = rest[m[1]:]
	}
	text(rest)
	for _, p := range parts {
		if !subjectText.MatchString(p.text) || strings.Contains(p.text, "${") {
			return nil, fmt.Errorf("%q is not printable ASCII without spaces, or has a ${ without a }", template)
		}
	}
	return parts, nil
}

func (p profile) sub(id attest.Identity) (string, error) {
	var sub strings.Builder
	for _, part := range p.subject {
		sub.WriteString(part.text)
		if part.variable == nil {
			continue
		}
		value := part.variable(id)
		if value == "" {
			return "", errors.New("the subject needs a value that the instance does not have")
		}
		sub.WriteString(value)
	}
	if sub.Len() > maxSubject {
		return "", fmt.Errorf("the subject has %d characters, more than %d", sub.Len(), maxSubject)
	}
	return sub.String(), nil
}

// add writes the role's claims.
func (p profile) add(ctx context.Context, id attest.Identity, projects projectNames, to map[string]any) error {
	var name, domainID string
	if p.projects {
		if projects == nil {
			return errNoProjects
		}
		var err error
		if name, domainID, err = projects.Project(ctx, id.Instance().ProjectID); err != nil {
			return err
		}
	}
	for _, c := range p.claims {
		var value string
		switch {
		case c.moment != nil:
			if at := c.moment(id); !at.IsZero() {
				to[c.name] = at.Unix()
			}
			continue
		case c.project != nil:
			value = c.project(name, domainID)
		default:
			value = c.value(id)
		}
		p.set(to, c, value)
	}
	return nil
}

// set writes a claim, unless it has no value or one of a user that verifiers could
// misread.
func (p profile) set(to map[string]any, c claim, value string) {
	if value != "" && (!c.byUser || p.insecure || userValue.MatchString(value)) {
		to[c.name] = value
	}
}
