package attest

import (
	"errors"
	"math"
	"regexp"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
)

// ErrInvalidRoleName says that a string cannot be the name of a role.
var ErrInvalidRoleName = errors.New("a role name is 1 to 64 of A-Z a-z 0-9 . _ - and not a mere . or double dot")

var roleName = regexp.MustCompile(`\A[A-Za-z0-9._-]{1,64}\z`)

// RoleName is the name of a role as a request or the configuration spells it.
// The zero value is invalid.
type RoleName struct{ name string }

// ParseRoleName takes names that stay one segment of a URL: a role's default
// audience is the name resolved against the issuer (RFC 3986, section 5.2.4,
// would swallow `.` and `..`).
func ParseRoleName(s string) (RoleName, error) {
	if !roleName.MatchString(s) || s == "." || s == ".." {
		return RoleName{}, ErrInvalidRoleName
	}
	return RoleName{s}, nil
}

// String is the name, empty for the zero value.
func (n RoleName) String() string { return n.name }

// MarshalText implements [encoding.TextMarshaler].
func (n RoleName) MarshalText() ([]byte, error) { return []byte(n.name), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; see [ParseRoleName].
func (n *RoleName) UnmarshalText(text []byte) (err error) {
	*n, err = ParseRoleName(string(text))
	return err
}

// Since is the moment of an instance's life that opens its window.
type Since string

// The moments.
const (
	// SinceCreated is when Nova accepted the request for the instance. It never
	// moves.
	SinceCreated Since = "created"
	// SinceLaunched is when the instance was last put on a hypervisor. It moves
	// with rebuild, unshelve, rescue and resize, which an owner can ask for.
	SinceLaunched Since = "launched"
)

// MaxPeriod is the longest period of a window, and the longest time for which an
// instance is denied: every store can keep what ends then (state.MaxLife).
const MaxPeriod = 100 * 365 * 24 * time.Hour

// Window bounds when, and how often, an instance may ask.
type Window struct {
	// Limit is how many requests of one instance for one role are judged within
	// the window. Default: 3.
	Limit int `yaml:"limit"`
	// Period is how long the window stays open, as a Go duration of up to 876000h.
	// Default: 5m.
	Period time.Duration `yaml:"period"`
	// Since is what opens the window: created or launched. Default: created.
	Since Since `yaml:"since"`
}

// check returns a [problem.Problem] for each key. The window must suit the proofs.
func (w Window) check(g grant) error {
	var problems []error
	if w.Limit < 1 || w.Limit > math.MaxInt32 {
		problems = append(problems, problem.Errorf("limit", "%d is not in 1 to %d", w.Limit, math.MaxInt32))
	}
	switch {
	case w.Period < 0:
		problems = append(problems, problem.Errorf("period", "%v is negative", w.Period))
	case w.Period > MaxPeriod:
		problems = append(problems, problem.Errorf("period", "%v is longer than %v (100 years), and attempts are counted no longer than that", w.Period, MaxPeriod))
	case w.Period == 0 && g.needs(ProofAddress):
		problems = append(problems, problem.Errorf("period", "0 (no window) is not possible with the address proof: an address that has moved to another instance would go on proving"))
	}
	if w.Since != SinceCreated && w.Since != SinceLaunched {
		problems = append(problems, problem.Errorf("since", "%q is neither created nor launched", w.Since))
	}
	return errors.Join(problems...)
}

// Role is a compiled role. The zero value denies.
type Role struct {
	name   RoleName
	grant  grant
	window Window
	rules  compiled
}

// NewRole compiles a role. The error joins one error for each problem, each
// beginning with the key at fault where there is one.
func NewRole(name string, grant Grant, window Window, rules Rules) (Role, error) {
	n, nameErr := ParseRoleName(name)
	g, grantErr := grant.compile()
	c, rulesErr := rules.compile()
	if err := errors.Join(nameErr, grantErr, window.check(g), rulesErr); err != nil {
		return Role{}, err
	}
	return Role{n, g, window, c}, nil
}

// Policy is the set of roles, and the operator's word on the metadata agents. The
// zero value has no role and so denies.
type Policy struct {
	roles         map[RoleName]Role
	issuer        Issuer
	agentsLimited bool // see WithLimitedAgents
}

// NewPolicy collects the roles of an issuer by their names; of two with one name the
// last counts.
func NewPolicy(issuer Issuer, roles ...Role) Policy {
	p := Policy{issuer: issuer, roles: make(map[RoleName]Role, len(roles))}
	for _, r := range roles {
		p.roles[r.name] = r
	}
	return p
}

// Name returns the role's name, the zero value for the zero Role.
func (r Role) Name() RoleName { return r.name }

// WithLimitedAgents returns the policy with the operator's word that each metadata
// agent identifies the instance that asks it: it is of Neutron 2024.2 or older, or its
// haproxy limits the size of requests (example/metadata-service/agent-limits). Without
// it every proof that rests on an agent is denied with [AgentsUnlimited].
func (p Policy) WithLimitedAgents() Policy {
	p.agentsLimited = true
	return p
}

// believes reports whether a proof counts. What an agent says, and what it hands to
// an instance, counts only with the operator's word. Of address+document the address
// identifies the instance.
func (p Policy) believes(proof Proof) bool {
	return p.agentsLimited || proof != ProofMetadataService && proof != ProofDocument
}

// believed returns the offered proofs that count, and whether there are others. The
// error is a [*Denied] if none counts.
func (p Policy) believed(role Role, offered []Proof) (believed []Proof, others bool, err error) {
	for _, proof := range offered {
		if p.believes(proof) {
			believed = append(believed, proof)
		}
	}
	switch {
	case len(offered) == 0:
		err = denied(ProofNotAccepted, "the role takes %v", role.grant.proofs)
	case len(believed) == 0:
		err = errUnlimited()
	}
	return believed, len(believed) < len(offered), err
}

// role returns a role. The error is a [*Denied].
func (p Policy) role(name RoleName) (Role, error) {
	if r, ok := p.roles[name]; ok {
		return r, nil
	}
	return Role{}, denied(RoleUnknown, "no role %q is configured", name)
}

// errUnlimited is the denial of what rests on a metadata agent.
func errUnlimited() *Denied {
	return denied(AgentsUnlimited, "without metadataService.agentsLimitHeaders neither the metadata service nor vendordata identifies an instance: set it when each metadata agent is of Neutron 2024.2 or older, or has the limit of example/metadata-service/agent-limits")
}

// Has reports whether the policy knows the role.
func (p Policy) Has(name RoleName) bool { _, ok := p.roles[name]; return ok }
