package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const (
	// vendordataWait bounds the requests to Keystone and Nova: the instance that boots
	// waits for our answer.
	vendordataWait = time.Second
	// callersWait is when a caller may retry after too many invalid tokens.
	callersWait    = 10 * time.Second
	maxCallerToken = 8 << 10
)

// Callers identifies callers by their Keystone tokens.
type Callers interface {
	// Caller returns the ID of the user whose token it is; from is the caller's address.
	// The error is an [*attest.Denied] if Keystone rejected the token, and an
	// [*attest.Failure] with [attest.ThrottledCallers] if there were too many invalid
	// tokens recently. Any other error means that Keystone could not be asked.
	Caller(ctx context.Context, token string, from netip.Addr) (userID string, err error)
}

func (s *Server) routeVendordata(e *echo.Echo) {
	e.POST("/vendordata", s.through(door{name: doorVendordata, judge: s.judgeVendordata, render: s.renderVendordata}))
}

func (s *Server) judgeVendordata(d *decision, w http.ResponseWriter, r *http.Request) (err error) {
	d.evidence = s.opts.Proxy.evidence(r)
	ctx, cancel := context.WithTimeout(r.Context(), vendordataWait)
	defer cancel()
	// Nova posts the user data of an instance and its metadata. Only for hosts that
	// vendordata.from names as Nova's so much memory is used.
	limit := int64(maxRequest)
	if s.opts.Vendordata.from.contain(d.evidence.Addr()) {
		limit = maxVendordata
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return &badRequest{http.StatusUnsupportedMediaType, "the body must be application/json"}
	}
	if r.ContentLength > limit {
		return tooLong(limit)
	}
	// The body of a caller that is not Nova is not read.
	if err := s.authenticateCaller(ctx, d.evidence.Addr(), r); err != nil {
		return err
	}
	var project string
	if d.request.instance, project, err = parseVendordata(w, r, limit, &s.bodies); err != nil {
		return err
	}
	if err := s.limitInstance(d); err != nil {
		return err
	}
	var vouched attest.Vouched
	if vouched, d.instance, err = s.opts.Attestor.Vouch(ctx, d.request.instance, project); err != nil {
		return err
	}
	document, err := s.opts.Issuer.IssueDocument(vouched, s.opts.Vendordata.expiry)
	if err == nil && len(s.opts.Vendordata.audience) > 0 {
		d.token, err = s.opts.Issuer.IssueVouched(vouched, s.opts.Vendordata.audience)
	}
	if err == nil {
		d.paper, d.document = document, document.ID
	}
	return err
}

func (s *Server) renderVendordata(c echo.Context, d *decision) error {
	body, expires := map[string]string{"document": d.paper.Compact}, d.paper.Expires
	if d.token.Compact != "" {
		body["token"] = d.token.Compact
		if d.token.Expires.Before(expires) {
			expires = d.token.Expires
		}
	}
	body["expires_at"] = expires.Format(time.RFC3339)
	maps.Copy(body, s.opts.Vendordata.static)
	return c.JSON(http.StatusOK, body)
}

// authenticateCaller returns nil if the caller sends the token of a user in
// vendordata.users. Every user of the cloud has a valid token, so that alone is not
// enough.
func (s *Server) authenticateCaller(ctx context.Context, from netip.Addr, r *http.Request) error {
	if len(s.opts.Vendordata.from) > 0 && !s.opts.Vendordata.from.contain(from) {
		return &attest.Denied{Reason: callerDenied, Detail: "its address is not in vendordata.from"}
	}
	tokens := r.Header.Values("X-Auth-Token")
	if len(tokens) != 1 || tokens[0] == "" || len(tokens[0]) > maxCallerToken || strings.ContainsFunc(tokens[0], func(r rune) bool { return r <= ' ' || r > '~' }) {
		return &attest.Denied{Reason: attest.CallerUnknown, Detail: "the request needs exactly one X-Auth-Token: does nova.conf have [vendordata_dynamic_auth]?"}
	}
	userID, err := s.opts.Callers.Caller(ctx, tokens[0], from)
	switch {
	case errors.As(err, new(*attest.Denied)), errors.As(err, new(*attest.Failure)):
		return err
	case err != nil:
		return &attest.Failure{Reason: attest.CloudUnavailable, Err: err}
	case !slices.Contains(s.opts.Vendordata.users, userID):
		return &attest.Denied{Reason: callerDenied, Detail: fmt.Sprintf("user %q is not in vendordata.users", secret.Printable(userID))}
	}
	return nil
}

// parseVendordata reads the instance and its project. The other fields are set by the
// instance's owner and may be secret: they are not kept.
func parseVendordata(w http.ResponseWriter, r *http.Request, limit int64, memory *bodies) (id attest.InstanceID, project string, err error) {
	var name string
	err = memory.read(w, r, limit, func(body []byte) error {
		var fields map[string]json.RawMessage // a struct would accept keys in any case
		if json.Unmarshal(body, &fields) != nil || fields == nil {
			return badField("the body is not one JSON object")
		}
		_ = json.Unmarshal(fields["instance-id"], &name) // stays empty if the value is not a string
		_ = json.Unmarshal(fields["project-id"], &project)
		return nil
	})
	if err != nil {
		return id, "", err
	}
	if id, err = attest.ParseInstanceID(name); err != nil {
		return id, "", badField("instance-id: %v", err)
	}
	if project == "" || len(project) > 64 {
		return id, "", badField("project-id: is no ID of a project")
	}
	return id, project, nil
}
