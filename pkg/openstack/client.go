package openstack

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

// Options are what a [Client] gets beside its plan. All are optional.
type Options struct {
	Log *slog.Logger
	// Observe is told of every call to the cloud: service is keystone or nova, outcome is ok, not_found, refused, error
	// or unreachable.
	Observe   func(service, outcome string, took time.Duration)
	UserAgent string
	// ProjectNames says that [Client.Project] will be called. The account needs a right for it.
	ProjectNames bool
	// Callers are the IDs of the users whose tokens [Client.Caller] expects. The account needs a right for it.
	Callers []string
	// Now is the clock. Optional, nil means time.Now.
	Now func() time.Time
}

// Client asks one cloud. It logs in when it is first used, and again when Nova answers 401.
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
	seen     *ttlCache[attest.InstanceID, struct{}] // by list lookups
	projects *projects                              // nil unless their names are wanted
	callers  *callers
	rights   rights

	life context.Context // ends with Close
	end  context.CancelFunc
}

// Info is what a login found out.
type Info struct {
	Account      string `json:"account"`  // who is logged in, where, and which file or variables say so
	Endpoint     string `json:"endpoint"` // of Nova
	Microversion string `json:"microversion"`
	Lookup       string `json:"lookup"` // show or list
	Scope        string `json:"scope"`  // whose instances the account sees, in words
	Narrow       bool   `json:"narrow"` // the account sees only one project, as far as the cloud tells
	// Missing describes a right that the account may lack. The cloud did not tell.
	Missing string `json:"missing,omitempty"`
	// Lacks describes each right that the cloud refuses: what the account may not do, who the account is, the policy, and
	// how to give the right. Roles that need it get no token.
	Lacks []string `json:"lacks,omitempty"`
}

// New reads the credentials and certificates. It makes no call.
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
		seen:      newTTLCache[attest.InstanceID, struct{}](seenFor, seenSize),
	}
	c.life, c.end = context.WithCancel(context.Background())
	c.lookups = newLookups(c.fetch, plan, opts.Now)
	c.callers = newCallers(c, opts.Callers)
	if opts.ProjectNames {
		c.projects = &projects{known: newTTLCache[string, project](projectFor, projectsSize)}
	}
	return c, nil
}

// Warnings returns what in the files and variables of the credentials is ignored, or may be a mistake.
func (c *Client) Warnings() []string { return c.creds.Warnings }

// Unverified reports whether the cloud's certificates are not verified (`verify: false` in clouds.yaml).
func (c *Client) Unverified() bool { return c.creds.tls.InsecureSkipVerify }

// Close cancels all calls in flight and waits for them.
func (c *Client) Close() {
	c.end()
	c.lookups.close()
	// A login continues when the callers that wait for it have left.
	for _, calls := range []*singleflight.Group{&c.connects, &c.probes} {
		_, _, _ = calls.Do("", func() (any, error) { return (*session)(nil), errClosed })
	}
	c.transport.base.CloseIdleConnections()
}

// InFlight is the number of lookups that are calling the cloud or waiting to.
func (c *Client) InFlight() int { return c.lookups.inFlight() }

// Instance implements [attest.Instances].
func (c *Client) Instance(ctx context.Context, id attest.InstanceID, caller netip.Addr) (attest.Instance, error) {
	in, err := c.lookups.get(ctx, id, caller)
	// The record is cached and shared between callers.
	in.Metadata, in.Addresses = maps.Clone(in.Metadata), slices.Clone(in.Addresses)
	return in, err
}

// Connect logs in unless the client is logged in, and finds out what the account may do. A retry does not help against
// a [*SetupError]. A missing right is no error: it is in the Info, and a later call asks for it again.
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

// Check reports whether Keystone and Nova answer, by a lookup of an instance that does not exist.
func (c *Client) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.plan.timeout)
	defer cancel()
	id, err := attest.ParseInstanceID(randomID())
	if err != nil {
		return err
	}
	if _, err := c.fetch(ctx, id); !errors.Is(err, attest.ErrNoInstance) {
		return err
	}
	return nil
}
