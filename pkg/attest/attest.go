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

// ErrNoInstance is the cloud's definite word that there is no such instance.
var ErrNoInstance = errors.New("the cloud knows no such instance")

// ErrTooManyLookups says that the caller's address has as many lookups in
// flight as one address may have. Nothing was asked of the cloud.
var ErrTooManyLookups = errors.New("one address has too many lookups in flight")

// clockSkew is how far ahead of ours the cloud's clock may be.
const clockSkew = time.Minute

// Instances looks instances up in the cloud.
type Instances interface {
	// Instance gives the record of id, at most some seconds old, on behalf of a
	// caller at an address, or of one that was recognised if that is the zero
	// value. The error is [ErrNoInstance] if the cloud says that
	// there is none, [ErrTooManyLookups] if the caller must wait, and anything
	// else if the cloud could not be asked or its answer not be used.
	Instance(ctx context.Context, id InstanceID, caller netip.Addr) (Instance, error)
}

// State is what is kept between requests. An error of it is a failure, never a
// verdict.
type State interface {
	// Count is the count of key, 0 if there is none.
	Count(ctx context.Context, key string) (int64, error)
	// Increment adds one to the count of key and gives the number of this call, which
	// no other call is given, unless it is given back. The count is forgotten at
	// expires. After an error the count may or may not have moved.
	Increment(ctx context.Context, key string, expires time.Time) (int64, error)
	// GiveBack takes back a number that Increment gave; the next call is given it.
	GiveBack(ctx context.Context, key string, n int64) error
}

// Request is one caller's wish to be recognised as an instance in a role.
type Request struct {
	Instance InstanceID
	Role     RoleName
	// Audience is whom the token is to be for; the zero value leaves it to the
	// role.
	Audience Audience
	Evidence Evidence
}

// Identity is an instance in a role, as proven. Only [Attestor.Attest] makes
// one; the zero value is no identity.
type Identity struct {
	instance  Instance
	role      RoleName
	audience  Audience
	byDefault bool // the audience is the role's default
	addr      netip.Addr
	proofs    []Proof
	spent     []attempt
}

// IsZero reports whether nothing was proven.
func (i Identity) IsZero() bool { return i.instance.ID.IsZero() || i.role == RoleName{} }

// Instance is the record that was judged.
func (i Identity) Instance() Instance { return i.instance }

// Role is the role that was granted.
func (i Identity) Role() RoleName { return i.role }

// Audience returns the audience of the token, never the zero value.
func (i Identity) Audience() Audience { return i.audience }

// DefaultAudience reports whether the audience is roles/<role> resolved against the
// issuer, because the role lists none.
func (i Identity) DefaultAudience() bool { return i.byDefault }

// Address is the instance's own from which it was seen to speak, the zero value
// if it was seen at none.
func (i Identity) Address() netip.Addr { return i.addr }

// Proofs names what was proven.
func (i Identity) Proofs() []Proof { return i.proofs }

// Attempt is which attempt this was, from 1; 0 where none are counted.
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
	// Denials tells who is denied. Without it nothing is granted.
	Denials Denials
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

// lookup asks the cloud.
func (a *Attestor) lookup(ctx context.Context, id InstanceID, e Evidence) (Instance, error) {
	in, err := a.Instances.Instance(ctx, id, e.caller())
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

// Roles gives the roles that an instance could have with what it shows now, in
// the order of their names. Nothing is spent, and attempts do not count. Errors
// and the instance are those of [Attestor.Attest].
func (a *Attestor) Roles(ctx context.Context, id InstanceID, e Evidence) ([]RoleName, Instance, error) {
	if e.offers(ProofMetadataService) && !a.Policy.believes(ProofMetadataService) {
		return nil, Instance{}, errUnlimited()
	}
	var j Judgment
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
		if _, err := a.prove(&j, role, believed, in, e); others && isVerdict(err) {
			continue
		} else if err != nil {
			refused = err
			continue
		}
		proven = true
		if role.rules.allow(&j, in) == nil {
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

// Vouched is an instance that Nova itself spoke for. Only [Attestor.Vouch] makes
// one; the zero value is none.
type Vouched struct {
	instance      Instance
	agentsLimited bool
}

// IsZero reports whether nobody was spoken for.
func (v Vouched) IsZero() bool { return v.instance.ID.IsZero() }

// Instance is the record that was judged.
func (v Vouched) Instance() Instance { return v.instance }

// MayHaveToken is nil if the instance may be given a token for itself in Nova's
// answer. A metadata agent hands the answer out, so without the operator's word
// ([Policy.WithLimitedAgents]) it is a [*Denied]; a document is possible, as by itself
// it proves nothing then.
func (v Vouched) MayHaveToken() error {
	if !v.agentsLimited {
		return errUnlimited()
	}
	return nil
}

// Launched is the launch that the instance has behind it, zero if the next one is
// under way and nothing runs that could have asked for itself: a config drive is
// made then.
func (v Vouched) Launched() time.Time {
	if v.instance.Launching {
		return time.Time{}
	}
	return v.instance.Launched
}

// Vouch judges what a caller says, who was recognised as Nova itself: that it
// asks for an instance of a project. Nova does so while it builds the instance,
// and goes on for some seconds after its end with what it remembers. Errors and
// the instance are those of [Attestor.Attest].
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
	// One that changes will run.
	if err := checkPhase(in); isVerdict(err) {
		return Vouched{}, in, err
	}
	return Vouched{in, a.Policy.agentsLimited}, in, nil
}

// proven is what was proven, with what counts the attempts of it.
type proven struct {
	proofs   []Proof
	counters []counter
}

// counter counts attempts under a key, until it expires.
type counter struct {
	key     string
	expires time.Time
}

// prove gives the first of the proofs that holds. If none does, a verdict gives
// way to an error that is none: the same request may be granted later.
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
	now := a.now()
	got := proven{proofs: p.parts()}
	for _, part := range got.proofs {
		switch part {
		case ProofAddress:
			proof := e.checkAddress(in) // a verdict, or not yet
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
			return proven{}, denied(ProofNotAccepted, "%q is no proof", part)
		}
	}
	return got, nil
}

// attempt is one that was counted.
type attempt struct {
	key string
	n   int64
}

// admit judges an instance whose identity is proven. The attempts that it spent
// stay spent if a rule of the role denies.
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
			// Nothing is granted, and so nothing else is spent.
			return nil, a.giveBack(ctx, spent, err)
		}
		spent = append(spent, attempt{c.key, n})
	}
	return spent, role.rules.allow(j, j.Instance)
}

// GiveBack gives back the attempts of an identity that is not made use of, since its
// token could not be signed, or not be recorded: what fails on our side must not
// use up what an instance needs. It is called once, by the one who called Attest,
// and only if nothing was or will be answered that could be used. An error means
// that they may stay spent.
func (a *Attestor) GiveBack(ctx context.Context, id Identity) error {
	return a.giveBack(ctx, id.spent, nil)
}

// giveBack adds what goes wrong to the error that it happens after. That the caller
// has hung up is no reason not to.
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

// open gives the moment at which the instance's window opened, if it is open now.
func (w Window) open(in Instance, now time.Time) (time.Time, error) {
	start := in.Created
	if w.Since == SinceLaunched {
		start = in.Launched
		if start.IsZero() {
			// What ended before its first launch will never have one.
			if err := checkPhase(in); err != nil {
				return start, err
			}
			return start, &NotYet{InstanceChanging, "the instance was never launched", changingFor}
		}
	}
	if start.After(now.Add(clockSkew)) {
		return start, &Failure{CloudUnavailable, fmt.Errorf("the cloud says the instance was %s at %s, which is still to come: compare the clocks", w.Since, start.Format(time.RFC3339))}
	}
	if end := start.Add(w.Period); !now.Before(end) {
		return start, denied(WindowClosed, "%s at %s, the window closed at %s", w.Since, start.Format(time.RFC3339), end.Format(time.RFC3339))
	}
	return start, nil
}

// spend counts an attempt. It reads before it writes, so that an exhausted
// counter costs the store no write.
func (a *Attestor) spend(ctx context.Context, c counter, limit int64) (int64, error) {
	n, err := a.State.Count(ctx, c.key)
	if err != nil {
		return 0, &Failure{StateUnavailable, err}
	}
	if n < limit {
		if n, err = a.State.Increment(ctx, c.key, c.expires); err != nil {
			return 0, &Failure{StateUnavailable, err}
		}
		if n <= limit {
			return n, nil
		}
		// Others were faster. A number beyond the limit must not be missing when one
		// of them gives its own back.
		return 0, a.giveBack(ctx, []attempt{{c.key, n}}, denied(AttemptsExhausted, "all %d attempts were made", limit))
	}
	return 0, denied(AttemptsExhausted, "all %d attempts were made", limit)
}

func (a *Attestor) now() time.Time {
	if a.Now != nil {
		return a.Now()
	}
	return time.Now()
}

func addrs(in Instance) []netip.Addr {
	all := make([]netip.Addr, len(in.Addresses))
	for i, a := range in.Addresses {
		all[i] = a.Addr
	}
	return all
}
