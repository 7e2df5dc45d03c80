package attest

import (
	"fmt"
	"strings"
	"time"
)

// Reason is a stable word for the result of a request, in metrics and audit lines. The
// client does not see it.
type Reason string

// The reasons of [Denied], [NotYet] and [Failure]. Package server has more, for what comes
// before and after a judgment.
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
	InstanceChanging  Reason = "instance_changing"
	ThrottledLookups  Reason = "throttled_lookups"
	ThrottledCallers  Reason = "throttled_callers"
	CloudUnavailable  Reason = "cloud_unavailable"
	StateUnavailable  Reason = "state_unavailable"
)

// Denied is a verdict: the request was judged and is not granted. Detail is for the
// operator's audit log and may quote the instance's record.
type Denied struct {
	Reason Reason
	Detail string
}

func (d *Denied) Error() string {
	return strings.TrimSuffix(fmt.Sprintf("denied: %s: %s", d.Reason, d.Detail), ": ")
}

func denied(reason Reason, format string, args ...any) *Denied {
	return &Denied{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// NotYet says that the instance is changing, and that the same request may be granted
// later.
type NotYet struct {
	Reason Reason
	Detail string
	After  time.Duration // wait so long before the next request
}

func (n *NotYet) Error() string { return fmt.Sprintf("not yet: %s: %s", n.Reason, n.Detail) }

// Failure says why nothing was decided.
type Failure struct {
	Reason Reason
	Err    error
}

func (f *Failure) Error() string { return fmt.Sprintf("%s: %v", f.Reason, f.Err) }

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }
