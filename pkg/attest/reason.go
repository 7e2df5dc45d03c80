package attest

import (
	"fmt"
	"time"
)

// Reason is a stable word for why a request was or was not granted: the label
// of a metric, the key of an audit line. It never reaches the caller.
type Reason string

// All reasons. Those of a verdict are what [Denied] and [NotYet] carry; the
// others name what came before the decision or kept it from being made.
const (
	RoleUnknown       Reason = "role_unknown"
	ProofNotAccepted  Reason = "proof_not_accepted"
	AudienceDenied    Reason = "audience_denied"
	AgentsUnlimited   Reason = "agents_unlimited"
	CallerUnknown     Reason = "caller_unknown"
	DocumentInvalid   Reason = "document_invalid"
	DocumentVoid      Reason = "document_void"
	InstanceUnknown   Reason = "instance_unknown"
	AddressMismatch   Reason = "address_mismatch"
	ProjectMismatch   Reason = "project_mismatch"
	WindowClosed      Reason = "window_closed"
	InstanceDenied    Reason = "instance_denied"
	StatusDenied      Reason = "status_denied"
	AttemptsExhausted Reason = "attempts_exhausted"
	RuleProjectID     Reason = "rule_project_id"
	RuleUserID        Reason = "rule_user_id"
	RuleMetadata      Reason = "rule_metadata"

	InstanceChanging Reason = "instance_changing"

	ThrottledLookups Reason = "throttled_lookups"
	ThrottledCallers Reason = "throttled_callers"
	CloudUnavailable Reason = "cloud_unavailable"
	StateUnavailable Reason = "state_unavailable"
)

// Denied is a verdict: the caller has not shown that it may have what it asked
// for. Detail is for the audit log of the operator and may quote the instance's
// record.
type Denied struct {
	Reason Reason
	Detail string
}

func (d *Denied) Error() string {
	if d.Detail == "" {
		return fmt.Sprintf("denied: %s", d.Reason)
	}
	return fmt.Sprintf("denied: %s: %s", d.Reason, d.Detail)
}

func denied(reason Reason, format string, args ...any) *Denied {
	return &Denied{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// NotYet says that the instance is in a state that ends by itself, and that the
// same request may be granted after it.
type NotYet struct {
	Reason Reason
	Detail string
	After  time.Duration // when it is worth to ask again
}

func (n *NotYet) Error() string { return fmt.Sprintf("not yet: %s: %s", n.Reason, n.Detail) }

// Failure is why nothing could be decided.
type Failure struct {
	Reason Reason
	Err    error
}

func (f *Failure) Error() string { return fmt.Sprintf("%s: %v", f.Reason, f.Err) }

// Unwrap gives the cause.
func (f *Failure) Unwrap() error { return f.Err }
