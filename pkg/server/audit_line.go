package server

import (
	"context"
	"log/slog"
	"math"
	"net/http"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

// record writes the audit line and counts the decision. If the line is required and
// cannot be written, a granted request fails. Nothing else waits for the log.
func (s *Server) record(ctx context.Context, d *decision) {
	now := s.opts.Now()
	lost := func(err error) {
		s.opts.Metrics.auditLost.Inc()
		s.opts.Log.Error("audit line lost", "error", err, "request_id", d.requestID)
	}
	if d.outcome == outcomeInvalid || d.outcome == outcomeThrottled {
		s.opts.Log.Debug("not judged", "reason", d.reason, "detail", d.detail, "client", d.evidence.String(), "request_id", d.requestID)
	} else if err := s.writeLine(ctx, d, now, lost); err != nil {
		lost(err)
		if s.opts.Audit.Required() && d.outcome == outcomeGranted {
			d.set(outcomeFailed, auditUnavailable, http.StatusServiceUnavailable, time.Second)
			d.token = token.Token{}
			s.giveBack(ctx, d)
		}
	}
	s.opts.Metrics.observe(d, s.opts.Attestor.Policy.Has(d.request.role), now.Sub(d.began))
}

func (s *Server) writeLine(ctx context.Context, d *decision, now time.Time, lost func(error)) error {
	granted := d.outcome == outcomeGranted
	line := audit.Event{Time: now, Name: "decision", Attrs: s.auditAttrs(d, now), Proven: granted || d.proven}
	if !granted || !s.opts.Audit.Required() {
		return s.opts.Audit.Record(line, lost)
	}
	// A client that hangs up does not stop the line.
	wait := context.WithoutCancel(ctx)
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		wait, cancel = context.WithDeadline(wait, end)
		defer cancel()
	}
	// If this line is not written in time, the second line withdraws the decision.
	return s.opts.Audit.RecordAndWait(wait, line, audit.Event{Time: now, Name: "withdrawn", Proven: true, Attrs: []slog.Attr{
		slog.String("request_id", d.requestID), slog.String("reason", string(auditUnavailable)),
		slog.String("detail", "the line before was not written in time, so the client got no token"),
	}})
}

func (s *Server) auditAttrs(d *decision, now time.Time) []slog.Attr {
	attrs := []slog.Attr{
		slog.String("door", d.door),
		slog.String("outcome", d.outcome),
		slog.String("reason", string(d.reason)),
		slog.String("request_id", d.requestID),
		slog.String("client", d.evidence.Addr().String()),
		slog.String("peer", d.peer),
		slog.String("instance_id", d.request.instance.String()),
		slog.String("role", d.request.role.String()),
		slog.String("config", s.opts.ConfigHash),
		slog.Float64("seconds", math.Round(now.Sub(d.began).Seconds()*1e6)/1e6),
	}
	optional := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	optional("audience", d.request.audience.String())
	optional("detail", d.detail)
	optional("project_id", d.instance.ProjectID)
	optional("instance_name", d.instance.Name)
	optional("client_request_id", d.clientID)
	optional("document", d.document)
	if d.token.ID != "" {
		attrs = append(attrs, slog.String("jti", d.token.ID), slog.Time("expires_at", d.token.Expires))
	}
	if !d.identity.IsZero() {
		attrs = append(attrs, slog.Any("amr", d.identity.Proofs()))
	}
	if n := d.identity.Attempt(); n > 0 {
		attrs = append(attrs, slog.Int64("attempt", n))
	}
	return attrs
}
