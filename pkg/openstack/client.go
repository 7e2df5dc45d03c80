package openstack

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"golang.org/x/sync/singleflight"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const (
	// newestMinor of microversion 2 is the newest that was tried; the shape of
	// what comes after it is unknown.
	newestMinor = 93

	// Pauses between logins. Wrong credentials get the longer one: a service
	// account must not be locked out by the requests of strangers
	// (keystone.conf [security_compliance] lockout_failure_attempts).
)

// SetupError is a failure that waiting will not mend: the credentials, the
// catalog or the rights of the account are not what the configuration needs.
type SetupError struct{ Err error }

func (e *SetupError) Error() string { return secret.Text(e.Err.Error()) }

// Unwrap gives the cause.
func (e *SetupError) Unwrap() error { return e.Err }

func setup(format string, args ...any) *SetupError {
	return &SetupError{fmt.Errorf(format, args...)}
}

// Options are what a Client is given beside its configuration. All are optional.
type Options struct {
	Log       *slog.Logger
	Observe   Observer
	UserAgent string
	// ProjectNames says that [Client.Project] will be called, for which the account
	// needs a right of its own.
	ProjectNames bool
	// Callers are the IDs of the users who will come to [Client.Caller], for which
	// the account needs a right of its own.
	Callers []string
	// Now is the clock of the caches; nil means time.Now.
	Now func() time.Time
}

// Client asks one cloud. It logs in when it is first needed, and again when
// Nova says so.
type Client struct {
	plan      Plan
	creds     credentials
	log       *slog.Logger
	userAgent string
	now       func() time.Time
	transport *transport

	mu       sync.Mutex
	session  *session
	logins   backoff
	connects singleflight.Group
	probes   singleflight.Group

	lookups  *lookups
	projects *projects // nil unless their names are wanted
	callers  *callers

	wantsCallers bool
	rights       rights

	seenMu sync.Mutex
	seen   *ttlCache[attest.InstanceID, struct{}]

	life context.Context // ends with Close
	end  context.CancelFunc
}

// session is a login with what was found out about the cloud.
type session struct {
	compute  *gophercloud.ServiceClient
	identity *gophercloud.ServiceClient
	region   string // of Nova's endpoint
	info     Info
	holder   holder
	asked    time.Time // when the rights were
	refused  error     // why no instance can be looked up
}

// list reports whether instances are found by a list over all projects.
func (s *session) list() bool { return s.info.Lookup == LookupList }

// Info is what a login found out.
type Info struct {
	Account      string `json:"account"`  // who is logged in, where, and what says so
	Endpoint     string `json:"endpoint"` // of Nova
	Microversion string `json:"microversion"`
	Lookup       string `json:"lookup"` // show or list
	Scope        string `json:"scope"`  // whose instances the account sees, in words
	Narrow       bool   `json:"narrow"` // it sees one project alone, as far as can be told
	// Missing is a right that it may lack, in words: the cloud does not tell.
	Missing string `json:"missing,omitempty"`
	// Lacks are rights that the cloud refuses, each in words: what the account may not do,
	// who it is, the policy, and what gives the right. Roles that need one get nothing.
	Lacks []string `json:"lacks,omitempty"`
}

// New reads the credentials; it makes no call.
func New(plan Plan, opts Options) (*Client, error) {
	if plan.timeout == 0 {
		return nil, errors.New("the plan of the cloud was not made by Config.Plan")
	}
	creds, err := plan.credentials()
	if err != nil {
		return nil, err
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{
		plan: plan, creds: creds, log: opts.Log, userAgent: opts.UserAgent, now: opts.Now,
		transport: newTransport(plan, creds, opts.Observe),
	}
	c.logins.now = opts.Now
	c.life, c.end = context.WithCancel(context.Background())
	c.lookups = newLookups(c.fetch, plan, opts.Now)
	c.seen = newTTLCache[attest.InstanceID, struct{}](seenFor, seenSize)
	c.callers, c.wantsCallers = newCallers(c, opts.Callers), len(opts.Callers) > 0
	if opts.ProjectNames {
		c.projects = newProjects(c)
	}
	return c, nil
}

// Warnings tells of what the files and variables of the credentials say and what is not
// used, or may not be meant.
func (c *Client) Warnings() []string { return c.creds.Warnings }

// Unverified reports whether the cloud's certificates are taken as they come,
// as `verify: false` in clouds.yaml has it.
func (c *Client) Unverified() bool { return c.creds.tls.InsecureSkipVerify }

// Close ends the calls that are in flight and waits for them.
func (c *Client) Close() {
	c.end()
	c.lookups.close()
	// A login outlives those who began it.
	for _, calls := range []*singleflight.Group{&c.connects, &c.probes} {
		_, _, _ = calls.Do("", func() (any, error) { return (*session)(nil), errClosed })
	}
	c.transport.base.CloseIdleConnections()
}

// InFlight is how many lookups are asking, or wait to ask, the cloud.
func (c *Client) InFlight() int { return c.lookups.inFlight() }

// Instance implements [attest.Instances].
func (c *Client) Instance(ctx context.Context, id attest.InstanceID, caller netip.Addr) (attest.Instance, error) {
	in, err := c.lookups.get(ctx, id, caller)
	// The record is kept, and shared with all who ask.
	in.Metadata, in.Addresses = maps.Clone(in.Metadata), slices.Clone(in.Addresses)
	return in, err
}

// Connect logs in unless that is done, and finds out what the account may do. A
// [*SetupError] will not go away by waiting. A right that is missing is no error: it is
// in the Info, and asked for again by a later call.
func (c *Client) Connect(ctx context.Context) (Info, error) {
	s, err := c.connect(ctx)
	if err == nil && len(s.info.Lacks) > 0 {
		s, err = c.probeAgain(ctx, s)
	}
	if err != nil {
		return Info{}, err
	}
	return s.info, nil
}

// Check reports whether Keystone and Nova answer now, by a lookup of an
// instance that does not exist.
func (c *Client) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.plan.timeout)
	defer cancel()
	id, err := attest.ParseInstanceID(probeID())
	if err != nil {
		return err
	}
	if _, err := c.fetch(ctx, id); !errors.Is(err, attest.ErrNoInstance) {
		return err
	}
	return nil
}

// connect gives the session, making it if there is none. Concurrent callers
// share one try, which none of them can end by leaving.
func (c *Client) connect(ctx context.Context) (*session, error) {
	if s, err := c.connected(); s != nil || err != nil {
		return s, err
	}
	return share(ctx, c, &c.connects, "", c.connectTimeout(), func(ctx context.Context) (*session, error) {
		// Whoever was here before may have ended in between.
		if s, err := c.connected(); s != nil || err != nil {
			return s, err
		}
		s, err := c.login(ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		if err != nil {
			c.logins.failed(err)
			return nil, err
		}
		c.session = s
		c.logins.succeeded()
		c.log.Info("logged in", "account", s.info.Account, "nova", s.info.Endpoint, "microversion", s.info.Microversion,
			"lookup", s.info.Lookup, "scope", s.info.Scope)
		if s.info.Missing != "" {
			c.log.Warn("the account may lack a right", "right", s.info.Missing)
		}
		return s, nil
	})
}

// share makes one call for all who want the same of it. It has a time of its own,
// not that of whoever came first, and none of them can end it by leaving.
func share[T any](ctx context.Context, c *Client, calls *singleflight.Group, key string, limit time.Duration, call func(context.Context) (T, error)) (T, error) {
	done := calls.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(c.life, limit)
		defer cancel()
		return call(ctx)
	})
	select {
	case r := <-done:
		return r.Val.(T), r.Err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// connected gives the session if there is one, else the error of the last try as
// long as it is too early for another.
func (c *Client) connected() (*session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session != nil {
		return c.session, nil
	}
	return nil, c.logins.err()
}

// connectTimeout leaves room for the calls of a first login: two documents of versions, the
// login, as many as four to find the way of the lookup, and two for other rights.
func (c *Client) connectTimeout() time.Duration { return 9 * c.plan.timeout }

// login signs in at Keystone, finds Nova, and probes what the account may do.
func (c *Client) login(ctx context.Context) (*session, error) {
	provider := c.newProvider()
	keystone, err := c.keystoneV3(ctx, provider, c.creds.AuthURL)
	if err != nil {
		return nil, c.refusal("keystone", err)
	}
	c.transport.allow(keystone)
	granted, err := c.signIn(ctx, provider, keystone.base())
	if err != nil {
		return nil, c.refusal("keystone", err)
	}
	c.guardLogins(provider, keystone.base())
	found, err := c.findNova(ctx, provider, granted)
	if err != nil {
		return nil, err
	}
	minor, err := found.version.minor(found.endpoint)
	if err != nil {
		return nil, err
	}
	compute := &gophercloud.ServiceClient{ProviderClient: provider, Type: "compute", Endpoint: found.endpoint.base(), Microversion: fmt.Sprintf("2.%d", minor)}
	// Keystone where we signed in, not where the catalog has it: that may be out of
	// our reach.
	if c.creds.Identity != "" {
		if keystone, err = c.keystoneV3(ctx, c.newProvider(), c.creds.Identity); err != nil {
			return nil, c.refusal("keystone", err)
		}
		c.transport.allow(keystone)
	}
	identity := &gophercloud.ServiceClient{ProviderClient: provider, Type: "identity", Endpoint: keystone.base()}
	s := &session{compute: compute, identity: identity, region: found.region}
	s.info = Info{Account: c.creds.describe(), Endpoint: secret.Text(compute.Endpoint), Microversion: compute.Microversion}
	return s, c.probe(ctx, s)
}

// findNova finds the Nova of a login.
func (c *Client) findNova(ctx context.Context, provider *gophercloud.ProviderClient, granted *grant) (*compute, error) {
	found := &compute{region: c.creds.Region}
	address, projectID := c.creds.Compute.Endpoint, ""
	if granted.Project != nil {
		projectID = granted.Project.ID
	}
	if address == "" {
		if !granted.scoped() {
			return nil, setup("the login of %s has no scope, so that keystone gives it neither rights nor a catalog: name a project (OS_PROJECT_NAME or OS_PROJECT_ID, project_name or project_id of clouds.yaml)", c.creds.describe())
		}
		e, err := c.pick(granted.Catalog)
		if err != nil {
			return nil, err
		}
		address, found.region = e.URL, cmp.Or(found.region, e.RegionID, e.Region)
	}
	e, err := parseCatalogURL(address)
	if err != nil {
		return nil, setup("nova's endpoint %w", err)
	}
	c.transport.allow(e)
	found.endpoint, found.version, err = c.novaV21(ctx, provider, e, projectID)
	return found, err
}

// refusal tells a failure that will not pass from one that may.
func (c *Client) refusal(service string, err error) error {
	var tlsErr *tls.CertificateVerificationError
	switch {
	case gophercloud.ResponseCodeIs(err, http.StatusUnauthorized):
		return setup("%s refuses the login of %s: wrong user, password, domain or project, or one of them is disabled", service, c.creds.claim())
	case gophercloud.ResponseCodeIs(err, http.StatusBadRequest), gophercloud.ResponseCodeIs(err, http.StatusForbidden), gophercloud.ResponseCodeIs(err, http.StatusNotAcceptable):
		return setup("%s refuses: %w", service, c.explain(err))
	case service == "keystone" && keystoneNotFound(err):
		return setup("keystone knows no %s: it was deleted, or is another cloud's", c.creds.claim())
	case errors.As(err, &tlsErr):
		return setup("%s's certificate is not trusted (a private CA goes into OS_CACERT or cacert of clouds.yaml): %w", service, c.creds.hide(err))
	}
	return c.explain(err)
}

// keystoneNotFound reports whether err is Keystone's own 404, which it answers to an
// application credential or a token that it does not have, and not a balancer's.
func keystoneNotFound(err error) bool {
	var fault struct {
		Error *struct {
			Code int `json:"code"`
		} `json:"error"`
	}
	return notFound(err, &fault) && fault.Error != nil && fault.Error.Code == http.StatusNotFound
}

// notFound reports whether err is a 404 whose body is JSON, and decodes it.
func notFound(err error, fault any) bool {
	var code gophercloud.ErrUnexpectedResponseCode
	return errors.As(err, &code) && code.Actual == http.StatusNotFound && json.Unmarshal(code.Body, fault) == nil
}

// explain shortens gophercloud's errors, which carry whole bodies, to what an
// operator can use, without any secret.
func (c *Client) explain(err error) error { return c.creds.hide(c.shorten(err)) }

func (c *Client) shorten(err error) error {
	var code gophercloud.ErrUnexpectedResponseCode
	var reauth *gophercloud.ErrUnableToReauthenticate
	var again *gophercloud.ErrErrorAfterReauthentication
	var ue *url.Error
	switch {
	case errors.As(err, &reauth):
		return fmt.Errorf("login anew: %w", reauth.ErrReauth)
	case errors.As(err, &again):
		return fmt.Errorf("after a login anew: %w", c.shorten(again.ErrOriginal))
	case errors.As(err, &code):
		return &statusError{code.Method, code.URL, code.Actual, secret.Clip(string(code.Body), maxShown)}
	case errors.As(err, &ue) && ue.Timeout():
		return fmt.Errorf("%s %s: no answer in time", ue.Op, ue.URL)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer within %v", c.plan.timeout)
	}
	return err
}

// statusError is an answer that was not expected.
type statusError struct {
	method, url string
	status      int
	body        string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s %s: status %d: %q", e.method, e.url, e.status, e.body)
}
