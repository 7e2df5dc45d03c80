package server

import "github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"

// The reasons that this package decides: what comes before a judgment, or prevents its
// answer.
const (
	reasonGranted      attest.Reason = "granted"
	requestInvalid     attest.Reason = "request_invalid"
	agentUnknown       attest.Reason = "agent_unknown"
	agentClaimInvalid  attest.Reason = "agent_claim_invalid"
	callerDenied       attest.Reason = "caller_denied"
	throttledAddress   attest.Reason = "throttled_address"
	throttledInstance  attest.Reason = "throttled_instance"
	throttledBodies    attest.Reason = "throttled_bodies"
	signingUnavailable attest.Reason = "signing_unavailable"
	auditUnavailable   attest.Reason = "audit_unavailable"
	clientGone         attest.Reason = "client_gone"
)
