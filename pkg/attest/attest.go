package attest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// The errors of [Instances] that are not failures of the cloud.
var (
	ErrNoInstance     = errors.New("the cloud has no such instance")
	ErrTooManyLookups = errors.New("the client's address has too many lookups in flight")
)

// clockSkew is how far the cloud's clock may be ahead of this server's.
const clockSkew = time.Minute

// Instances looks instances up in the cloud.
type Instances interface {
	// Instance returns the record of an instance, at most some seconds old. The lookup
	// counts against the limit of the client's address, which is the zero value for a
	// client that a document or an agent identified. The lookup of such a client goes on
	// when ctx reaches its deadline, and the record is kept for a retry with a deadline; it
	// may be older then. The error is [ErrNoInstance], [ErrTooManyLookups], or any other if
	// the cloud gave no usable answer.
	Instance(ctx context.Context, id InstanceID, client netip.Addr) (Instance, error)
}

// State holds the counts of attempts. Its errors are failures, not verdicts.
type State interface {
	// Count returns the count of key, 0 if there is none.
	Count(ctx context.Context, key string) (int64, error)
	// Increment adds one to the count of key and returns a number that no other call
	// returns, unless it is given back. The count ends at expires. After an error the
	// count may have changed or not.
	Increment(ctx context.Context, key string, expires time.Time) (int64, error)
	// GiveBack takes back a number of Increment, whose next call returns it.
	GiveBack(ctx context.Context, key string, n int64) error
}

// Request asks for an instance to be identified in a role.
type Request struct {
	Instance InstanceID
	Role     RoleName
	Audience Audience // of the token; the zero value is the first of the role
	Evidence Evidence
}

// Identity is a proven instance in a role. Only [Attestor.Attest] makes one; the zero
// value is invalid.
type Identity struct {
	instance  Instance
	role      RoleName
	audience  Audience
	byDefault bool // the audience is the role's default
	addr      netip.Addr
	proofs    []Proof
	spent     []attempt
}

// IsZero reports whether i is the invalid zero value.
func (i Identity) IsZero() bool { return i.instance.ID.IsZero() || i.role == RoleName{} }

// Instance returns the record that was judged.
func (i Identity) Instance() Instance { return i.instance }

// Role returns the role that was granted.
func (i Identity) Role() RoleName { return i.role }

// Audience returns the audience of the token, never the zero value.
func (i Identity) Audience() Audience { return i.audience }

// DefaultAudience reports whether the audience is roles/<role> resolved against the
// issuer, because the role lists none.
func (i Identity) DefaultAudience() bool { return i.byDefault }

// Address returns the address of the instance from which the request came, the zero
// value if it came from none.
func (i Identity) Address() netip.Addr { return i.addr }

// Proofs returns the proofs that held.
func (i Identity) Proofs() []Proof { return i.proofs }

// Attempt returns the number of this attempt, from 1; 0 if attempts are not counted.
func (i Identity) Attempt() (n int64) {
	for _, a := range i.spent {
		n = max(n, a.n)
	}
	return n
}

// Attestor judges requests. Its fields are set once, before its first use.
type Attestor struct {
	Policy    Policy
	Instances Instances
	State     State
	Denials   Denials // nil grants nothing
	// Now is the clock. Optional, nil means time.Now.
	Now func() time.Time
}

// Attest judges a request. The error is a [*Denied] for a verdict, a [*NotYet] for an
// instance that is changing, and a [*Failure] when nothing was decided.
func (a *Attestor) Attest(ctx context.Context, r Request) (j Judgment, err error) {
	role, err := a.Policy.role(r.Role)
	if j.failed("role", "a role of the configuration", r.Role, err) {
		return j, err
	}
	offered := role.grant.offered(r.Evidence)
	believed, others, err := a.Policy.believed(role, offered)
	if j.failed("proof", role.grant.proofs, offered, err) {
		return j, err
	}
	audience, byDefault, err := a.Policy.audience(role, r.Audience)
	if j.failed("audience", role.grant.audiences, audience, err) {
		return j, err
	}
	in, err := a.lookup(ctx, r.Instance, r.Evidence)
	if j.failed("instance", r.Instance, in.ID, err) {
		return j, err
	}
	j.Instance = in
	proven, err := a.prove(&j, role, believed, in, r.Evidence)
	if others && isVerdict(err) {
		err = errUnlimited() // another of the proofs could have held
		j.failed("proof", role.grant.proofs, offered, err)
	}
	if err != nil {
		return j, err
	}
	spent, err := a.admit(ctx, &j, role, proven.counters)
	if err != nil {
		return j, err
	}
	j.Identity = Identity{instance: in, role: role.name, audience: audience, byDefault: byDefault, proofs: proven.proofs, spent: spent}
	if r.Evidence.isAt(in) {
		j.Identity.addr = r.Evidence.addr
	}
	return j, nil
}

// lookup asks the cloud for an instance. The errors are [*Denied] and [*Failure].
func (a *Attestor) lookup(ctx context.Context, id InstanceID, e Evidence) (Instance, error) {
	in, err := a.Instances.Instance(ctx, id, e.client())
	switch {
	case errors.Is(err, ErrNoInstance):
		return Instance{}, denied(InstanceUnknown, "%v", err)
	case errors.Is(err, ErrTooManyLookups):
		return Instance{}, &Failure{ThrottledLookups, err}
	case err != nil:
		return Instance{}, &Failure{CloudUnavailable, err}
	case in.ID.IsZero() || in.ID != id:
		return Instance{}, &Failure{CloudUnavailable, fmt.Errorf("asked for instance %s, was given %q", id, in.ID)}
	}
	return in, nil
}

// Roles returns the names of the roles that an instance could have with this evidence,
// sorted. It spends no attempt, and does not look at attempts. The errors are those of
// [Attestor.Attest]; the instance is for the operator's log.
func (a *Attestor) Roles(ctx context.Context, id InstanceID, e Evidence) ([]RoleName, Instance, error) {
	if e.offers(ProofMetadataService) && !a.Policy.believes(ProofMetadataService) {
		return nil, Instance{}, errUnlimited()
	}
	in, err := a.lookup(ctx, id, e)
	if err != nil {
		return nil, Instance{}, err
	}
	var proven bool
	refused := error(denied(ProofNotAccepted, "no role takes a proof that the request has"))
	names := []RoleName{}
	for _, name := range slices.SortedFunc(maps.Keys(a.Policy.roles), func(a, b RoleName) int { return strings.Compare(a.name, b.name) }) {
		role := a.Policy.roles[name]
		believed, others, err := a.Policy.believed(role, role.grant.offered(e))
		if others && isVerdict(refused) {
			refused = errUnlimited()
		}
		if err != nil {
			continue
		}
		if _, err := a.prove(nil, role, believed, in, e); others && isVerdict(err) {
			continue
		} else if err != nil {
			refused = err
			continue
		}
		proven = true
		if role.rules.allow(nil, in) == nil {
			names = append(names, name)
		}
	}
	if !proven {
		return nil, in, refused
	}
	if err := a.checkDenial(ctx, in.ID); err != nil {
		return nil, in, err
	}
	return names, in, checkPhase(in)
}

// Vouched is an instance that Nova vouched for. Only [Attestor.Vouch] makes one; the zero
// value is invalid.
type Vouched struct {
	instance      Instance
	agentsLimited bool
}

// IsZero reports whether v is the invalid zero value.
func (v Vouched) IsZero() bool { return v.instance.ID.IsZero() }

// Instance returns the record that was judged.
func (v Vouched) Instance() Instance { return v.instance }

// MayHaveToken returns nil if the answer to Nova may contain a token for the instance.
// A metadata agent gives the answer to the guest, so the error is a [*Denied] without
// [Policy.WithLimitedAgents]. A document is possible: without it a document alone proves
// nothing.
func (v Vouched) MayHaveToken() error {
	if !v.agentsLimited {
		return errUnlimited()
	}
	return nil
}

// Launched returns the time of the last launch. It is the zero value while a launch is
// under way and nothing of the instance runs: Nova makes a config drive then.
func (v Vouched) Launched() time.Time {
	if v.instance.Launching {
		return time.Time{}
	}
	return v.instance.Launched
}

// Vouch judges a request of Nova for an instance of a project. The caller must have been
// authenticated as Nova. Nova asks while it builds the instance, and from its cache for
// some seconds after the instance was deleted. The errors are those of [Attestor.Attest];
// the instance is for the operator's log.
func (a *Attestor) Vouch(ctx context.Context, id InstanceID, project string) (Vouched, Instance, error) {
	in, err := a.lookup(ctx, id, Evidence{})
	if err != nil {
		return Vouched{}, Instance{}, err
	}
	if in.ProjectID != project {
		return Vouched{}, in, denied(ProjectMismatch, "nova says that the project is %q", secret.Clip(project, 64))
	}
	if err := a.checkDenial(ctx, in.ID); err != nil {
		return Vouched{}, in, err
	}
	// An instance that is changing will run.
	if err := checkPhase(in); isVerdict(err) {
		return Vouched{}, in, err
	}
	return Vouched{in, a.Policy.agentsLimited}, in, nil
}

// proven is the proofs that held, and the counters of their attempts.
type proven struct {
	proofs   []Proof
	counters []counter
}

// counter counts attempts under a key, until it expires.
type counter struct {
	key     string
	expires time.Time
}

// prove returns the first of the proofs that holds. If no proof holds, a retryable error
// goes before a denial: the same request may be granted later.
func (a *Attestor) prove(j *Judgment, role Role, offered []Proof, in Instance, e Evidence) (proven, error) {
	var failure error
	for _, p := range offered {
		got, err := a.proveOne(j, role, p, in, e)
		if err == nil {
			return got, nil
		}
		if failure == nil || isVerdict(failure) && !isVerdict(err) {
			failure = err
		}
	}
	return proven{}, failure
}

func isVerdict(err error) bool { return errors.As(err, new(*Denied)) }

func (a *Attestor) proveOne(j *Judgment, role Role, p Proof, in Instance, e Evidence) (proven, error) {
	now, got := now(a.Now), proven{proofs: p.parts()}
	for _, part := range got.proofs {
		switch part {
		case ProofAddress:
			proof := e.checkAddress(in)
			if j.failed("address", in.Addresses, e, proof) && isVerdict(proof) {
				return proven{}, proof
			}
			start, err := role.window.open(in, now)
			if j.failed("window", role.window, start, err) && isVerdict(err) {
				return proven{}, err
			}
			if err = cmp.Or(proof, err); err != nil {
				return proven{}, err
			}
			got.counters = append(got.counters, counter{attemptKey(in.ID, role.name, start), start.Add(role.window.Period)})
		case ProofDocument:
			if err := e.document.check(in, now); j.failed("document", in.ID, e.document.ID, err) {
				return proven{}, err
			}
			got.counters = append(got.counters, counter{documentKey(in.ID, e.document.ID), e.document.Expires})
		case ProofMetadataService:
			if err := e.checkAgent(in); j.failed("agent", in.Addresses, e, err) {
				return proven{}, err
			}
		default:
			return proven{}, denied(ProofNotAccepted, "unknown proof %q", part)
		}
	}
	return got, nil
}

// attempt is an attempt that was counted.
type attempt struct {
	key string
	n   int64
}

// admit judges an instance whose identity is proven, and spends its attempts. They stay
// spent if a rule of the role denies.
func (a *Attestor) admit(ctx context.Context, j *Judgment, role Role, counters []counter) (spent []attempt, err error) {
	if err := a.checkDenial(ctx, j.Instance.ID); j.failed("denial", "none", j.Instance.ID, err) {
		return nil, err
	}
	if err := checkPhase(j.Instance); j.failed("status", PhaseRunning, j.Instance.State, err) {
		return nil, err
	}
	for _, c := range counters {
		n, err := a.spend(ctx, c, int64(role.window.Limit))
		if j.failed("attempts", role.window.Limit, n, err) {
			return nil, a.giveBack(ctx, spent, err)
		}
		spent = append(spent, attempt{c.key, n})
	}
	return spent, role.rules.allow(j, j.Instance)
}

// GiveBack gives back the attempts of an identity whose token could not be signed or
// recorded: a failure of this server must not use up the attempts of an instance. The
// caller of Attest calls it once, and only if the client gets no token. After an error
// the attempts may stay spent.
func (a *Attestor) GiveBack(ctx context.Context, id Identity) error {
	return a.giveBack(ctx, id.spent, nil)
}

// giveBack joins its errors to the error after which it is called. It goes on if the
// client has closed the connection.
func (a *Attestor) giveBack(ctx context.Context, spent []attempt, after error) error {
	var failures []error
	for _, s := range spent {
		if err := a.State.GiveBack(context.WithoutCancel(ctx), s.key, s.n); err != nil {
			failures = append(failures, fmt.Errorf("attempt %d stays spent: %w", s.n, err))
		}
	}
	if after != nil && len(failures) > 0 {
		return errors.Join(append([]error{after}, failures...)...)
	}
	return cmp.Or(after, errors.Join(failures...))
}

// open returns the time at which the window of the instance opened, if it is still open.
func (w Window) open(in Instance, now time.Time) (time.Time, error) {
	start := in.Created
	if w.Since == SinceLaunched {
		start = in.Launched
		if start.IsZero() {
			// An instance that ended before its first launch will not be launched.
			if err := checkPhase(in); err != nil {
				return start, err
			}
			return start, &NotYet{InstanceChanging, "the instance was never launched", changingFor}
		}
	}
	if start.After(now.Add(clockSkew)) {
		return start, &Failure{CloudUnavailable, fmt.Errorf("the cloud says the instance was %s at %s, which is in the future: compare the clocks", w.Since, start.Format(time.RFC3339))}
	}
	if end := start.Add(w.Period); !now.Before(end) {
		return start, denied(WindowClosed, "%s at %s, the window closed at %s", w.Since, start.Format(time.RFC3339), end.Format(time.RFC3339))
	}
	return start, nil
}

// spend counts an attempt. It reads first, so that a request beyond the limit does not
// write to the store.
func (a *Attestor) spend(ctx context.Context, c counter, limit int64) (int64, error) {
	full := denied(AttemptsExhausted, "all %d attempts were made", limit)
	n, err := a.State.Count(ctx, c.key)
	if err == nil && n >= limit {
		return 0, full
	}
	if err == nil {
		n, err = a.State.Increment(ctx, c.key, c.expires)
	}
	switch {
	case err != nil:
		return 0, &Failure{StateUnavailable, err}
	case n > limit:
		// Other requests were faster. Without the give back, a number within the limit
		// would be lost when one of them gives its number back.
		return 0, a.giveBack(ctx, []attempt{{c.key, n}}, full)
	}
	return n, nil
}

// now returns the time of a clock, which may be nil for time.Now.
func now(clock func() time.Time) time.Time {
	if clock == nil {
		return time.Now()
	}
	return clock()
}
