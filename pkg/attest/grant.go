package attest

import (
	"errors"
	"slices"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
)

// maxAudience is the longest audience of a token, in bytes.
const maxAudience = 255

var errInvalidAudience = errors.New(`an audience is 1 to 255 printable ASCII characters other than space, " and \`)

// Audience is the audience of a token (RFC 7519, section 4.1.3). The zero value is
// invalid.
type Audience struct{ name string }

// ParseAudience takes printable ASCII that verifiers and logs can take without escaping.
func ParseAudience(s string) (Audience, error) {
	if s == "" || len(s) > maxAudience || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
		return Audience{}, errInvalidAudience
	}
	return Audience{s}, nil
}

// String returns the audience, "" for the zero value.
func (a Audience) String() string { return a.name }

// Grant says how an instance proves its identity for a role, and the audiences of its
// tokens. The zero value is the address proof and the role's default audience.
type Grant struct {
	// Proof is how an instance proves its identity: address, document, metadataService or
	// address+document, which needs both. One proof of a list is enough. Default:
	// auth.proof.
	Proof []Proof `yaml:"proof"`
	// Audience lists the audiences of the role's tokens. A request names one of them, or
	// gets the first. Default: roles/<role>, resolved against the issuer.
	Audience []string `yaml:"audience"`
	// AnyAudience lets a request name any audience, except one that contains the issuer's
	// host (as the issuer and the default audiences of all roles do), one of another role,
	// one with a ; or a comma, and an http(s) URL that is not in its normal form. Default:
	// false.
	AnyAudience bool `yaml:"anyAudience"`
}

// grant is a compiled Grant. The zero value accepts no proof.
type grant struct {
	proofs      []Proof
	audiences   []Audience
	anyAudience bool
}

// compile returns a [problem.Problem] for each key.
func (g Grant) compile() (grant, error) {
	var problems []error
	list := g.Proof
	if list != nil && len(list) == 0 {
		problems = append(problems, problem.Errorf("proof", "is an empty list, so that nothing proves an identity; remove it or give it a value"))
	}
	for i, p := range list {
		if !slices.Contains(knownProofs, p) {
			problems = append(problems, problem.Errorf("proof", "%q is not address, document, metadataService or address+document", p))
		} else if slices.Contains(list[:i], p) {
			problems = append(problems, problem.Errorf("proof", "%q is there twice", p))
		}
	}
	if g.Audience != nil && len(g.Audience) == 0 {
		problems = append(problems, problem.Errorf("audience", "is an empty list, so that there is no audience; remove it or give it a value"))
	}
	c := grant{proofs: g.Proof, anyAudience: g.AnyAudience}
	if len(c.proofs) == 0 {
		c.proofs = []Proof{ProofAddress}
	}
	for i, name := range g.Audience {
		a, err := ParseAudience(name)
		switch {
		case err != nil:
			problems = append(problems, problem.Errorf("audience", "%q: %w", name, err))
		case slices.Contains(g.Audience[:i], name):
			problems = append(problems, problem.Errorf("audience", "%q is there twice", name))
		}
		c.audiences = append(c.audiences, a)
	}
	return c, errors.Join(problems...)
}

// needs reports whether p is a proof of the grant, or a part of one.
func (g grant) needs(p Proof) bool {
	return slices.ContainsFunc(g.proofs, func(q Proof) bool { return slices.Contains(q.parts(), p) })
}

// offered returns the proofs that e has.
func (g grant) offered(e Evidence) []Proof {
	var offered []Proof
	for _, p := range g.proofs {
		if !slices.ContainsFunc(p.parts(), func(part Proof) bool { return !e.offers(part) }) {
			offered = append(offered, p)
		}
	}
	return offered
}

// audience returns the audience of a token of the role, and whether it is the role's
// default because the role lists none. If wanted is the zero value the audience is the
// first of the role.
func (p Policy) audience(r Role, wanted Audience) (a Audience, byDefault bool, err error) {
	listed, usual := r.grant.audiences, p.issuer.audienceOf(r.name)
	if wanted == (Audience{}) {
		if wanted = usual; len(listed) > 0 {
			wanted = listed[0]
		}
	}
	switch {
	case slices.Contains(listed, wanted):
		return wanted, false, nil
	case wanted == usual && (len(listed) == 0 || r.grant.anyAudience) && !p.issuer.IsZero():
		return wanted, true, nil
	}
	return wanted, false, p.checkFree(r, wanted)
}

// checkFree returns nil if the role may have an audience that it does not list.
func (p Policy) checkFree(r Role, wanted Audience) error {
	switch {
	case !r.grant.anyAudience:
		return denied(AudienceDenied, "the role has no audience %q", wanted)
	case p.Reserved(wanted):
		return denied(AudienceDenied, "audience %q is the issuer's or another role's", wanted)
	}
	if err := checkSpelling(wanted.name); err != nil {
		return denied(AudienceDenied, "audience %q: %v", wanted, err)
	}
	return nil
}

// Reserved reports whether a request must not name an audience freely: it is one that a
// role lists, or contains the issuer's host, as the issuer and the default audiences of
// all roles do. The comparison ignores more differences than verifiers do, some of which
// fold case, remove a slash, or normalize.
func (p Policy) Reserved(a Audience) bool {
	if p.issuer.IsZero() || p.issuer.namedIn(a) {
		return true
	}
	name := loosely(a.name)
	for _, r := range p.roles {
		if slices.ContainsFunc(r.grant.audiences, func(b Audience) bool { return name == loosely(b.name) }) {
			return true
		}
	}
	return false
}
