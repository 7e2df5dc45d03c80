package attest

import (
	"errors"
	"math"
	"regexp"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
)

var errInvalidRoleName = errors.New("a role name is 1 to 64 of A-Z a-z 0-9 . _ - and not a single or double dot")

var roleName = regexp.MustCompile(`\A[A-Za-z0-9._-]{1,64}\z`)

// RoleName is the name of a role. The zero value is invalid.
type RoleName struct{ name string }

// ParseRoleName takes names that are one segment of a URL, as a role's default audience is
// the name resolved against the issuer. RFC 3986, section 5.2.4, removes `.` and `..`.
func ParseRoleName(s string) (RoleName, error) {
	if !roleName.MatchString(s) || s == "." || s == ".." {
		return RoleName{}, errInvalidRoleName
	}
	return RoleName{s}, nil
}

// String returns the name, "" for the zero value.
func (n RoleName) String() string { return n.name }

// MarshalText implements [encoding.TextMarshaler].
func (n RoleName) MarshalText() ([]byte, error) { return []byte(n.name), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; see [ParseRoleName].
func (n *RoleName) UnmarshalText(text []byte) (err error) {
	*n, err = ParseRoleName(string(text))
	return err
}

// Since names the time that opens an instance's window.
type Since string

const (
	// SinceCreated is the time at which Nova accepted the request for the instance. It
	// does not change.
	SinceCreated Since = "created"
	// SinceLaunched is the time at which the instance was last started on a hypervisor. It
	// changes with rebuild, unshelve, rescue and resize, which the owner can request.
	SinceLaunched Since = "launched"
)

// maxPeriod is the longest window and the longest denial: every store can keep an entry
// for this long (state.MaxLife).
const maxPeriod = 100 * 365 * 24 * time.Hour

// Window bounds when, and how often, an instance may ask.
type Window struct {
	// Limit is the number of attempts that an instance has for a role within the window.
	// Default: 3.
	Limit int `yaml:"limit"`
	// Period is the length of the window, as a Go duration of up to 876000h. Default: 5m.
	Period time.Duration `yaml:"period"`
	// Since is the time that opens the window: created or launched. Default: created.
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
	case w.Period > maxPeriod:
		problems = append(problems, problem.Errorf("period", "%v is longer than %v (100 years), and attempts are counted no longer than that", w.Period, maxPeriod))
	case w.Period == 0 && g.needs(ProofAddress):
		problems = append(problems, problem.Errorf("period", "0 (no window) is not possible with the address proof: an address would still prove an identity after it moved to another instance"))
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

// NewRole compiles a role. The error has a [problem.Problem] for each key at fault.
func NewRole(name string, grant Grant, window Window, rules Rules) (Role, error) {
	n, nameErr := ParseRoleName(name)
	g, grantErr := grant.compile()
	c, rulesErr := rules.compile()
	if err := errors.Join(nameErr, grantErr, window.check(g), rulesErr); err != nil {
		return Role{}, err
	}
	return Role{n, g, window, c}, nil
}

// Policy is the set of roles, and what the operator says about the metadata agents. The
// zero value has no role, and denies.
type Policy struct {
	roles         map[RoleName]Role
	issuer        Issuer
	agentsLimited bool // see WithLimitedAgents
}

// NewPolicy returns the policy of an issuer. Of two roles with one name the last counts.
func NewPolicy(issuer Issuer, roles ...Role) Policy {
	p := Policy{issuer: issuer, roles: make(map[RoleName]Role, len(roles))}
	for _, r := range roles {
		p.roles[r.name] = r
	}
	return p
}

// Name returns the role's name, the zero value for the zero Role.
func (r Role) Name() RoleName { return r.name }

// WithLimitedAgents returns the policy with the operator's statement that each metadata
// agent identifies the instance that asks it: the agent is of Neutron 2024.2 or older, or
// its haproxy limits the size of requests (example/metadata-service/agent-limits). Without
// the statement each proof that depends on an agent is denied with [AgentsUnlimited].
func (p Policy) WithLimitedAgents() Policy {
	p.agentsLimited = true
	return p
}

// believes reports whether a proof counts. What an agent says, and what it gives to a
// guest, counts only with the operator's statement. In address+document the address
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

// errUnlimited is the denial of a proof that depends on a metadata agent.
func errUnlimited() *Denied {
	return denied(AgentsUnlimited, "without metadataService.agentsLimitHeaders neither the metadata service nor vendordata identifies an instance: set it when each metadata agent is of Neutron 2024.2 or older, or has the limit of example/metadata-service/agent-limits")
}

// Has reports whether the policy has the role.
func (p Policy) Has(name RoleName) bool { _, ok := p.roles[name]; return ok }
