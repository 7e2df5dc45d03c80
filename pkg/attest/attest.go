package attest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
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
	// caller at an address. The error is [ErrNoInstance] if the cloud says that
	// there is none, [ErrTooManyLookups] if the caller must wait, and anything
	// else if the cloud could not be asked or its answer not be used.
	Instance(ctx context.Context, id InstanceID, caller netip.Addr) (Instance, error)
}

// State is what is kept between requests. An error of it is a failure, never a
// verdict.
type State interface {
	// Count is the count of key, 0 if there is none.
	Count(ctx context.Context, key string) (int64, error)
	// Increment adds one to the count of key and gives the sum, which no other
	// call is given. The count is forgotten at expires. After an error the count
	// may or may not have moved.
	Increment(ctx context.Context, key string, expires time.Time) (int64, error)
	// Get is the value of key, nil if there is none.
	Get(ctx context.Context, key string) ([]byte, error)
}

// Request is one caller's wish to be recognised as an instance in a role.
type Request struct {
	Instance InstanceID
	Role     RoleName
	Evidence Evidence
}

// Identity is an instance in a role, as proven. Only [Attestor.Attest] makes
// one; the zero value is no identity.
type Identity struct {
	instance Instance
	role     RoleName
	proofs   []string
	attempt  int64
}

// IsZero reports whether nothing was proven.
func (i Identity) IsZero() bool { return i.instance.ID.IsZero() || i.role == RoleName{} }

// Instance is the record that was judged.
func (i Identity) Instance() Instance { return i.instance }

// Role is the role that was granted.
func (i Identity) Role() RoleName { return i.role }

// Proofs names what was proven, in the words of the `amr` claim (RFC 8176
// leaves them to the issuer).
func (i Identity) Proofs() []string { return i.proofs }

// Attempt is which attempt of the window this was, from 1.
func (i Identity) Attempt() int64 { return i.attempt }

// Attestor judges requests. Its fields are set once, before its first use.
type Attestor struct {
	Policy    Policy
	Instances Instances
	State     State
	// Now is the clock. Optional, nil means time.Now.
	Now func() time.Time
}

// Attest judges a request. The error is a [*Denied] for a verdict, a [*NotYet]
// for an instance that is changing, and a [*Failure] when nothing was decided.
// The instance is what the cloud knows of the one asked for, as far as the
// judgement came; it is for the operator's log and proves nothing.
func (a *Attestor) Attest(ctx context.Context, r Request) (Identity, Instance, error) {
	role, ok := a.Policy.roles[r.Role]
	if !ok {
		return Identity{}, Instance{}, denied(RoleUnknown, "no role %q is configured", r.Role)
	}

	in, err := a.Instances.Instance(ctx, r.Instance, r.Evidence.Addr())
	switch {
	case errors.Is(err, ErrNoInstance):
		return Identity{}, Instance{}, denied(InstanceUnknown, "%v", err)
	case errors.Is(err, ErrTooManyLookups):
		return Identity{}, Instance{}, &Failure{ThrottledLookups, err}
	case err != nil:
		return Identity{}, Instance{}, &Failure{CloudUnavailable, err}
	case in.ID.IsZero() || in.ID != r.Instance:
		return Identity{}, Instance{}, &Failure{CloudUnavailable, fmt.Errorf("asked for instance %s, was given %q", r.Instance, in.ID)}
	}

	attempt, err := a.judge(ctx, role, in, r.Evidence)
	if err != nil {
		return Identity{}, in, err
	}
	return Identity{instance: in, role: role.name, proofs: []string{"address"}, attempt: attempt}, in, nil
}

func (a *Attestor) judge(ctx context.Context, role Role, in Instance, e Evidence) (attempt int64, err error) {
	if !e.proves(in) {
		return 0, denied(AddressMismatch, "the caller speaks from %s, the instance has %v", e, addrs(in))
	}
	start, err := role.window.open(in, a.now())
	if err != nil {
		return 0, err
	}
	if err := checkDenial(ctx, a.State, in.ID); err != nil {
		return 0, err
	}
	if err := checkStatus(in); err != nil {
		return 0, err
	}
	attempt, err = a.spend(ctx, role, in.ID, start)
	if err != nil {
		return 0, err
	}
	return attempt, role.rules.allow(in)
}

// open gives the moment at which the instance's window opened, if it is open now.
func (w Window) open(in Instance, now time.Time) (time.Time, error) {
	start := in.Created
	if w.Since == SinceLaunched {
		start = in.Launched
		if start.IsZero() {
			// What ended before its first launch will never have one.
			if err := checkStatus(in); err != nil {
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
func (a *Attestor) spend(ctx context.Context, role Role, id InstanceID, start time.Time) (int64, error) {
	limit := int64(role.window.Limit)
	key := attemptKey(id, role.name, start)
	n, err := a.State.Count(ctx, key)
	if err != nil {
		return 0, &Failure{StateUnavailable, err}
	}
	if n < limit {
		if n, err = a.State.Increment(ctx, key, start.Add(role.window.Period)); err != nil {
			return 0, &Failure{StateUnavailable, err}
		}
		if n <= limit {
			return n, nil
		}
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
