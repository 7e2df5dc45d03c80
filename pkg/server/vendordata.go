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
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

const (
	vendordataPath = "/vendordata"
	// vendordataWait covers Keystone and Nova. An instance that boots waits for us.
	vendordataWait = time.Second
	// callersWait is how long it takes until tokens may be made up again.
	callersWait    = 10 * time.Second
	maxCallerToken = 8 << 10
)

// VendordataConfig is the door for Nova's DynamicJSON vendordata
// (nova/doc/source/admin/vendordata.rst).
type VendordataConfig struct {
	// Listen is an address of its own, on the cloud's internal network. Optional:
	// without it POST /vendordata is served at `listen`.
	Listen string `yaml:"listen"`
	// Users are the Keystone IDs of the users as whom Nova signs in
	// ([vendordata_dynamic_auth]). Names can be taken by others, and are an error.
	// Optional: without it the door is closed.
	Users []string `yaml:"users"`
	// From are the addresses of the callers, as CIDRs: the hosts with nova-api, and
	// those with nova-compute for config drives. Optional: without it any, and then a
	// request may have 8 KiB in place of 1 MiB, which user data can exceed.
	From []netip.Prefix `yaml:"from"`
	// DocumentExpiry is how long a document is good, 10s to 1h. Default: 5m.
	DocumentExpiry time.Duration `yaml:"documentExpiry"`
	// Audience has the answer carry an ordinary token for these, too, without a
	// role. It needs metadataService.agentsLimitHeaders: without it Nova gets 403 in
	// place of the answer. Optional.
	Audience []string `yaml:"audience"`
	// Static is returned beside the document. Optional.
	Static map[string]string `yaml:"static"`
}

var keystoneID = regexp.MustCompile(`\A[0-9a-f]{32}(?:[0-9a-f]{32})?\z`)

// Validate reports every problem, each beginning with its key.
func (c VendordataConfig) Validate() error {
	var problems []error
	add := func(path, format string, args ...any) {
		problems = append(problems, problem.Errorf(path, format, args...))
	}
	if c.Listen != "" {
		if err := listen.ValidateAddress(c.Listen); err != nil {
			problems = append(problems, problem.At("listen", err))
		}
	}
	for i, id := range c.Users {
		if !keystoneID.MatchString(id) {
			add(fmt.Sprintf("users[%d]", i), "%q is no ID of a Keystone user (`openstack user show -f value -c id NAME`): a name can be taken by somebody else", id)
		}
	}
	for i, p := range c.From {
		if p.Bits() == 0 {
			add(fmt.Sprintf("from[%d]", i), "%v is everyone; leave it out if that is meant", p)
		}
	}
	if err := token.CheckDocumentExpiry(c.DocumentExpiry); err != nil {
		problems = append(problems, problem.At("documentExpiry", err))
	}
	for i, a := range c.Audience {
		if _, err := attest.ParseAudience(a); err != nil {
			add(fmt.Sprintf("audience[%d]", i), "%q: %w", a, err)
		}
	}
	for key := range c.Static {
		if slices.Contains([]string{"document", "expires_at", "token"}, key) {
			add("static."+key, "is ours to say")
		}
	}
	return errors.Join(problems...)
}

// Callers knows whose Keystone tokens callers show.
type Callers interface {
	// Caller is the ID of the user whose token it is; from is the caller's address.
	// The error is attest.ErrUnknownCaller for a definite no, attest.ErrTooManyCallers
	// if there were many lately, and anything else if that cannot be told now.
	Caller(ctx context.Context, token string, from netip.Addr) (userID string, err error)
}

// errUnauthorized is what has Nova fetch a new token and try once more.
type errUnauthorized struct{ error }

// Vendordata serves Nova at a listener of its own.
func (s *Server) Vendordata() http.Handler {
	e := s.newEcho()
	e.POST(vendordataPath, s.vendordata)
	return e
}

// vendordata is POST /vendordata.
func (s *Server) vendordata(c echo.Context) error {
	return s.serve(c, door{name: doorVendordata, judge: s.judgeVendordata, render: s.renderVendordata})
}

func (s *Server) judgeVendordata(d *decision, w http.ResponseWriter, r *http.Request) (err error) {
	d.evidence = s.proxy.evidence(r)
	ctx, cancel := context.WithTimeout(r.Context(), vendordataWait)
	defer cancel()
	limit := s.vendordataLimit(d.evidence.Addr())
	if err := checkVendordata(r, limit); err != nil {
		return err
	}
	// The body of a caller that is not Nova is not read.
	if err := s.recogniseNova(ctx, d.evidence.Addr(), r); err != nil {
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
	if vouched, d.instance, err = s.attestor.Vouch(ctx, d.request.instance, project); err != nil {
		return err
	}
	document, err := s.issuer.IssueDocument(vouched, s.nova.DocumentExpiry)
	if err == nil && len(s.nova.Audience) > 0 {
		d.token, err = s.issuer.IssueVouched(vouched, s.nova.Audience)
	}
	if err != nil && !errors.As(err, new(*attest.Denied)) {
		return &attest.Failure{Reason: attest.SigningUnavailable, Err: err}
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
	maps.Copy(body, s.nova.Static)
	return c.JSON(http.StatusOK, body)
}

// recogniseNova is nil if the caller shows the token of a user that is listed. A
// valid token alone is everyone's in the cloud.
func (s *Server) recogniseNova(ctx context.Context, from netip.Addr, r *http.Request) error {
	if len(s.nova.From) > 0 && !within(s.nova.From, from) {
		return &attest.Denied{Reason: attest.CallerDenied, Detail: "its address is none of vendordata.from"}
	}
	shown := r.Header.Values("X-Auth-Token")
	if len(shown) != 1 || shown[0] == "" || len(shown[0]) > maxCallerToken || strings.ContainsFunc(shown[0], func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errUnauthorized{errors.New("there is not one X-Auth-Token: does nova.conf have [vendordata_dynamic_auth]?")}
	}
	userID, err := s.callers.Caller(ctx, shown[0], from)
	switch {
	case errors.Is(err, attest.ErrUnknownCaller):
		return errUnauthorized{err}
	case errors.Is(err, attest.ErrTooManyCallers):
		return &throttled{attest.ThrottledCallers, callersWait}
	case err != nil:
		return &attest.Failure{Reason: attest.CloudUnavailable, Err: err}
	case !slices.Contains(s.nova.Users, userID):
		return &attest.Denied{Reason: attest.CallerDenied, Detail: fmt.Sprintf("user %q is none of vendordata.users", secret.Printable(userID))}
	}
	return nil
}

// vendordataLimit is how long the body of a caller may be: Nova posts the user data
// of an instance and its metadata. Only for hosts that are named as Nova's so much
// memory is used.
func (s *Server) vendordataLimit(from netip.Addr) int64 {
	if s.fromNova(from) {
		return maxVendordata
	}
	return maxRequest
}

// checkVendordata looks at what a request says of its body.
func checkVendordata(r *http.Request, limit int64) error {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return &badRequest{http.StatusUnsupportedMediaType, "the body must be application/json"}
	}
	return checkLength(r, limit)
}

// parseVendordata reads whom Nova asks for. What else the body says is the
// owner's choice and may be secret: it is not kept.
func parseVendordata(w http.ResponseWriter, r *http.Request, limit int64, memory *bodies) (id attest.InstanceID, project string, err error) {
	var fields map[string]json.RawMessage // a struct would take keys in any case
	err = memory.read(w, r, limit, func(body []byte) error {
		if json.Unmarshal(body, &fields) != nil || fields == nil {
			return badField("the body is not one JSON object")
		}
		fields = map[string]json.RawMessage{"instance-id": fields["instance-id"], "project-id": fields["project-id"]}
		return nil
	})
	if err != nil {
		return id, "", err
	}
	text := func(name string) (s string) {
		if json.Unmarshal(fields[name], &s) != nil {
			return ""
		}
		return s
	}
	if id, err = attest.ParseInstanceID(text("instance-id")); err != nil {
		return id, "", badField("instance-id: %v", err)
	}
	if project = text("project-id"); project == "" || len(project) > 64 {
		return id, "", badField("project-id: is no ID of a project")
	}
	return id, project, nil
}
