package openstack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"golang.org/x/sync/singleflight"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

const (
	callerFor     = time.Minute // how long a good token is believed, and never past its end
	strangerFor   = 10 * time.Second
	callersSize   = 1024
	strangersSize = 8192
	// Tokens that nobody has seen yet are checked only so often: whoever makes them
	// up must not keep Keystone busy, nor Nova out.
	callerChecks = 4 // at one time
	callerMost   = 20
	callerWithin = 10 * time.Second
)

var errTooManyTokens = errors.New("too many tokens that nobody has seen yet")

// callers remembers whose tokens callers showed, by hash.
type callers struct {
	client *Client
	calls  singleflight.Group
	slots  chan struct{}

	mu      sync.Mutex
	since   time.Time // of the checks that are counted
	checks  int
	known   *ttlCache[[sha256.Size]byte, tokenOwner]
	unknown *ttlCache[[sha256.Size]byte, struct{}]
}

type tokenOwner struct {
	userID  string
	expires time.Time
}

func newCallers(c *Client) *callers {
	return &callers{
		client: c, slots: make(chan struct{}, callerChecks),
		known:   newTTLCache[[sha256.Size]byte, tokenOwner](callerFor, callersSize),
		unknown: newTTLCache[[sha256.Size]byte, struct{}](strangerFor, strangersSize),
	}
}

// remembered gives what is known of a token.
func (c *callers) remembered(hash [sha256.Size]byte) (userID string, err error, ok bool) { //nolint:revive // the error is a result, not a failure
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.client.now()
	if known, ok := c.known.get(hash, now); ok && now.Before(known.expires) {
		return known.userID, nil, true
	}
	if _, ok := c.unknown.get(hash, now); ok {
		return "", attest.ErrUnknownCaller, true
	}
	return "", nil, false
}

// mayCheck counts a check, unless there were as many as there may be lately.
func (c *callers) mayCheck() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.client.now(); now.Sub(c.since) >= callerWithin {
		c.since, c.checks = now, 0
	}
	c.checks++
	return c.checks <= callerMost
}

// Caller gives the ID of the user whose Keystone token a caller shows
// (api-ref/source/v3/authenticate-v3.inc, "Validate and show information for
// token"). The error is [attest.ErrUnknownCaller] if Keystone says that it is none, and
// anything else if Keystone could not be asked. Of tokens that were not seen
// before, few are asked for at a time, whoever shows them.
func (c *Client) Caller(ctx context.Context, token string) (userID string, err error) {
	hash := sha256.Sum256([]byte(token))
	if userID, err, ok := c.callers.remembered(hash); ok {
		return userID, err
	}
	done := c.callers.calls.DoChan(string(hash[:]), func() (any, error) {
		// Not in the time of whoever came first: others wait, too.
		ctx, cancel := context.WithTimeout(c.life, c.cfg.Timeout)
		defer cancel()
		return c.callers.ask(ctx, hash, token)
	})
	select {
	case r := <-done:
		return r.Val.(string), r.Err
	case <-ctx.Done():
		return "", fmt.Errorf("keystone: %w", ctx.Err())
	}
}

func (c *callers) ask(ctx context.Context, hash [sha256.Size]byte, token string) (string, error) {
	if userID, err, ok := c.remembered(hash); ok { // whoever was here before may have ended in between
		return userID, err
	}
	if !c.mayCheck() {
		return "", errTooManyTokens
	}
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return "", errTooManyTokens
	}
	began := c.client.now()
	s, err := c.client.connect(ctx)
	if err != nil {
		return "", err
	}
	found, err := s.caller(ctx, token)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case errors.Is(err, attest.ErrUnknownCaller):
		c.unknown.put(hash, struct{}{}, began)
		return "", err
	case gophercloud.ResponseCodeIs(err, http.StatusForbidden):
		return "", errors.New("the account may not validate tokens: it needs the role service (see example/openstack)")
	case err != nil:
		return "", fmt.Errorf("keystone: %w", c.client.explain(err))
	case !began.Before(found.expires):
		return "", attest.ErrUnknownCaller
	}
	c.known.put(hash, found, began)
	return found.userID, nil
}

func (s *session) caller(ctx context.Context, token string) (tokenOwner, error) {
	var answer struct {
		Token *struct {
			Expires time.Time `json:"expires_at"`
			User    struct {
				ID string `json:"id"`
			} `json:"user"`
		} `json:"token"`
	}
	var fault struct {
		Error *struct {
			Code int `json:"code"`
		} `json:"error"`
	}
	_, err := s.identity.Get(asKeystone(ctx), s.identity.ServiceURL("auth", "tokens")+"?nocatalog", &answer, &gophercloud.RequestOpts{
		MoreHeaders: map[string]string{"X-Subject-Token": token},
	})
	switch {
	case notFound(err, &fault) && fault.Error != nil && fault.Error.Code == http.StatusNotFound:
		return tokenOwner{}, attest.ErrUnknownCaller
	case err != nil:
		return tokenOwner{}, err
	case answer.Token == nil || answer.Token.User.ID == "" || answer.Token.Expires.IsZero():
		return tokenOwner{}, errors.New("the answer is about no user")
	}
	return tokenOwner{answer.Token.User.ID, answer.Token.Expires}, nil
}

// validates reports whether Keystone's own policy lets the account validate the
// tokens of others. Nothing but a token of somebody else's could prove it.
func validates(roles []string) bool {
	return slices.Contains(roles, "service") || slices.Contains(roles, "admin")
}
