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

// RoleConfig says what differs in the tokens of one role.
type RoleConfig struct {
	// TokenExpiry overrides auth's. Optional.
	TokenExpiry *time.Duration `yaml:"tokenExpiry"`
	// Subject is the `sub` claim, in which ${instance_id}, ${project_id},
	// ${user_id}, ${role} and ${region} stand for the instance's. At most 255
	// printable ASCII characters. Default: ${instance_id}.
	Subject string `yaml:"subject"`
	// SharedSubject says that a subject without ${instance_id}, which several
	// instances have together, is meant. Default: false.
	SharedSubject bool `yaml:"sharedSubject"`
	// Claims are more of what the cloud knows of the instance: user_id, image_id,
	// flavor, availability_zone, region, hostname, address, created, launched_at,
	// project_name, project_domain_id, and metadata.KEY, which becomes
	// metadata_KEY. What the instance does not have is left out. Optional.
	Claims []string `yaml:"claims"`
	// InsecureUserValues lets users of the cloud write what they like into the
	// token: names, host names and metadata that verifiers may split or take for
	// a path. Default: false, which leaves values out that do not match
	// [A-Za-z0-9][A-Za-z0-9_.-]{0,62}.
	InsecureUserValues bool `yaml:"insecureUserValues"`
}

// Projects tells what projects are called.
type Projects interface {
	// Project is the name of a project and the ID of its domain. Every error is a
	// failure of the cloud, never a verdict.
	Project(ctx context.Context, id string) (name, domainID string, err error)
}

var errNoProjects = errors.New("a role wants claims about projects, and nothing gives them")

// profile is a compiled RoleConfig.
type profile struct {
	expiry   time.Duration
	subject  []part
	claims   []claim
	insecure bool
	projects bool
}

// part of a subject is a text, or what a variable gives.
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

// claim is one that a role may ask for. One of value, moment and project is set.
type claim struct {
	name string
	// value gives a text, "" for none.
	value func(attest.Identity) string
	// moment gives a time, zero for none.
	moment func(attest.Identity) time.Time
	// project gives what Keystone knows of the project.
	project func(name, domainID string) string
	// byUser is true of what users of the cloud choose.
	byUser bool
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
	// Whoever administers a domain of the cloud chooses the names of its projects.
	"project_name":      {project: func(name, _ string) string { return name }, byUser: true},
	"project_domain_id": {project: func(_, domainID string) string { return domainID }},
}

const metadataClaim = "metadata."

var (
	metadataKey = regexp.MustCompile(`\A[A-Za-z0-9_][A-Za-z0-9_-]{0,62}\z`)
	placeholder = regexp.MustCompile(`\$\{([^}]*)\}`)
	subjectText = regexp.MustCompile(`\A[!-~]*\z`)
)

// maxSubject is OpenID Connect's (Core 1.0, section 2).
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
		add("subject", "%q is the same for several instances, as it has no ${instance_id}; say sharedSubject: true if that is meant", subject)
	}
	for i, name := range c.Claims {
		found, ok := knownClaims[name]
		if key, metadata := strings.CutPrefix(name, metadataClaim); metadata && metadataKey.MatchString(key) {
			found, ok = claim{value: func(i attest.Identity) string { return i.Instance().Metadata[key] }, byUser: true}, true
		}
		found.name = strings.Replace(name, metadataClaim, "metadata_", 1)
		switch {
		case !ok:
			add("claims", "%q is none of %s and metadata.KEY", name, strings.Join(optionalClaims(), ", "))
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
			return nil, fmt.Errorf("${%s} is none of ${instance_id}, ${project_id}, ${user_id}, ${role} and ${region}", name)
		}
		text(rest[:m[0]])
		parts = append(parts, part{variable: variable})
		rest = rest[m[1]:]
	}
	text(rest)
	for _, p := range parts {
		if !subjectText.MatchString(p.text) || strings.Contains(p.text, "${") {
			return nil, fmt.Errorf("%q is not printable ASCII without spaces, or has a ${ that nothing closes", template)
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
			return "", errors.New("the subject needs what the cloud does not tell of the instance")
		}
		sub.WriteString(value)
	}
	if sub.Len() > maxSubject {
		return "", fmt.Errorf("the subject has %d characters, more than %d", sub.Len(), maxSubject)
	}
	return sub.String(), nil
}

// add writes the role's claims.
func (p profile) add(ctx context.Context, id attest.Identity, projects Projects, to map[string]any) error {
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

// set writes a claim unless it has no value, or one that users chose and that
// verifiers could misread.
func (p profile) set(to map[string]any, c claim, value string) {
	if value != "" && (!c.byUser || p.insecure || userValue.MatchString(value)) {
		to[c.name] = value
	}
}
