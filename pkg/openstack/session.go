package openstack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	"golang.org/x/sync/singleflight"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// session is a login, and what was found out about the cloud after it.
type session struct {
	compute  *gophercloud.ServiceClient
	identity *gophercloud.ServiceClient
	region   string // of Nova's endpoint
	info     Info
	holder   holder
	probed   time.Time // when the cloud was asked for the rights
	refused  error     // why no instance can be looked up
}

// lists reports whether instances are found by a list over all projects.
func (s *session) lists() bool { return s.info.Lookup == LookupList }

// connect returns the session, and logs in if there is none. Concurrent callers share one login, which continues when
// one of them leaves.
func (c *Client) connect(ctx context.Context) (*session, error) {
	if s, err := c.connected(); s != nil || err != nil {
		return s, err
	}
	return share(ctx, c, &c.connects, "", c.connectTimeout(), func(ctx context.Context) (*session, error) {
		// Another login may have ended since the check above.
		if s, err := c.connected(); s != nil || err != nil {
			return s, err
		}
		s, err := c.login(ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		if err != nil {
			c.logins.failed(err, c.now())
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

// share makes one call for all callers with the same key. The call has its own deadline, and continues when one of the
// callers leaves.
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
		var zero T
		return zero, ctx.Err()
	}
}

// connected returns the session if there is one. Otherwise it returns the error of the last login while it is too early
// for another.
func (c *Client) connected() (*session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session != nil {
		return c.session, nil
	}
	return nil, c.logins.err(c.now())
}

// connectTimeout is enough for the calls of a first login: two version documents, the login, up to four to choose the
// lookup, and two for other rights.
func (c *Client) connectTimeout() time.Duration { return 9 * c.plan.timeout }

// login logs in at Keystone, finds Nova, and asks for the account's rights.
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
	c.limitLogins(provider, keystone.base())
	found, err := c.findNova(ctx, provider, granted)
	if err != nil {
		return nil, err
	}
	minor, err := found.version.minor(found.endpoint)
	if err != nil {
		return nil, err
	}
	compute := &gophercloud.ServiceClient{ProviderClient: provider, Type: "compute", Endpoint: found.endpoint.base(), Microversion: fmt.Sprintf("2.%d", minor)}
	// Keystone's endpoint in the catalog may not be reachable from here; the one of the login is.
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

// compute is Nova's endpoint, its region and its version document.
type compute struct {
	endpoint endpoint
	region   string
	version  apiVersion
}

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
		e, err := c.creds.pick(granted.Catalog)
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

// newProvider returns a client without a token for the calls of one login.
func (c *Client) newProvider() *gophercloud.ProviderClient {
	p := &gophercloud.ProviderClient{HTTPClient: newHTTPClient(c.plan, c.transport)}
	p.UseTokenLock()
	if c.userAgent != "" {
		p.UserAgent.Prepend(c.userAgent)
	}
	return p
}

// grant is what Keystone says about a token that it issued
// (api-ref/source/v3/authenticate-v3.inc, "Password authentication with scoped authorization").
type grant struct {
	Project *struct {
		ID string `json:"id"`
	} `json:"project"`
	Domain *struct {
		ID string `json:"id"`
	} `json:"domain"`
	System  map[string]bool `json:"system"`
	Catalog []service       `json:"catalog"`
}

func (g *grant) scoped() bool { return g.Project != nil || g.Domain != nil || len(g.System) > 0 }

// signIn gets a token from the Keystone whose v3 API has this URL.
func (c *Client) signIn(ctx context.Context, p *gophercloud.ProviderClient, keystone string) (*grant, error) {
	auth := c.creds.auth // gophercloud writes into it
	scope := *auth.Scope
	auth.Scope = &scope
	service := &gophercloud.ServiceClient{ProviderClient: p, Type: "identity", Endpoint: keystone}
	result := tokens.Create(asKeystone(ctx), service, &auth)
	if result.Err != nil {
		return nil, result.Err
	}
	var granted grant
	if err := result.ExtractIntoStructPtr(&granted, "token"); err != nil {
		return nil, err
	}
	return &granted, p.SetTokenAndAuthResult(result)
}

// limitLogins sets how the provider logs in again after a 401: not for each 401 of a Nova that refuses every token, and
// not ended by the caller that came first, because others wait for the same login.
func (c *Client) limitLogins(provider *gophercloud.ProviderClient, keystone string) {
	var mu sync.Mutex
	last := c.now()
	provider.ReauthFunc = func(context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		now := c.now()
		if err := c.logins.err(now); err != nil {
			return err
		}
		if now.Sub(last) < pauseUnreachable {
			return errors.New("nova refuses a token that keystone issued within the last second")
		}
		ctx, cancel := context.WithTimeout(c.life, c.plan.timeout)
		defer cancel()
		again := c.newProvider()
		if _, err := c.signIn(ctx, again, keystone); err != nil {
			err = c.refusal("keystone", err)
			c.logins.failed(err, c.now())
			return err
		}
		provider.CopyTokenFrom(again)
		last = c.now()
		c.logins.succeeded()
		return nil
	}
}
