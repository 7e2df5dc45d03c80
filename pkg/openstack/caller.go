package openstack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"golang.org/x/sync/singleflight"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
)

const (
	validFor    = time.Minute // how long a token is known to be valid, and never past its end
	invalidFor  = 10 * time.Second
	hostFor     = time.Hour // how long an address counts as a host after a valid token
	callersSize = 8192      // of each cache

	// Checks of tokens that turn out invalid, or of another user than expected, are limited to this number within
	// invalidFor, for one client ([ratelimit.Levels]) and for an address that counts as a host. All clients together have
	// no such limit: an attacker could use it up, and Nova's hosts would be refused, too.
	failuresOfClient = 5
	failuresOfHost   = 20
	// callerChecks is the number of checks in flight for unproven clients, and again for others. callersWaiting of each
	// may wait, callersOfOne of one client.
	callerChecks   = 4
	callersWaiting = 256
	callersOfOne   = 4
)

type tokenHash = [sha256.Size]byte

// callers checks the tokens of callers, and caches the results.
type callers struct {
	client *Client
	users  []string // whose tokens are expected: the users of Nova
	calls  singleflight.Group
	gate   *ratelimit.Gate

	// valid has the tokens of these users. After validFor a token is checked again, but without a limit.
	valid *ttlCache[tokenHash, tokenOwner]
	// others has the user IDs of all other tokens, "" for an invalid token.
	others *ttlCache[tokenHash, string]
	hosts  *ttlCache[netip.Addr, struct{}]

	mu sync.Mutex // for the numbers below
	// failed counts the checks of an address that found no expected user, subnets those of a wider IPv6 network.
	failed, subnets *ttlCache[netip.Prefix, *int]
}

type tokenOwner struct {
	userID  string
	checked time.Time
	expires time.Time
}

func newCallers(c *Client, users []string) *callers {
	return &callers{
		client: c, users: users,
		gate:   ratelimit.NewGate(ratelimit.GateConfig{All: 2 * callerChecks, Open: callerChecks, Each: callersOfOne, Waiting: callersWaiting}),
		valid:  newTTLCache[tokenHash, tokenOwner](24*time.Hour, callersSize),
		others: newTTLCache[tokenHash, string](invalidFor, callersSize),
		hosts:  newTTLCache[netip.Addr, struct{}](hostFor, callersSize),
		failed: newTTLCache[netip.Prefix, *int](invalidFor, callersSize), subnets: newTTLCache[netip.Prefix, *int](invalidFor, callersSize),
	}
}

// Caller returns the ID of the user to whom a Keystone token belongs, which a client at the address from has sent
// (api-ref/source/v3/authenticate-v3.inc, "Validate and show information for token"). The error is an [*attest.Denied]
// if Keystone rejected the token, an [*attest.Failure] with [attest.ThrottledCallers] if this client sent too many
// invalid tokens recently or has too many checks waiting, and any other error if Keystone could not be asked.
func (c *Client) Caller(ctx context.Context, token string, from netip.Addr) (userID string, err error) {
	hash := sha256.Sum256([]byte(token))
	if userID, ok := c.callers.cached(hash); ok {
		return known(userID)
	}
	userID, err = share(ctx, c, &c.callers.calls, string(hash[:]), c.plan.timeout, func(ctx context.Context) (string, error) {
		return c.callers.check(ctx, hash, token, from)
	})
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = fmt.Errorf("keystone: %w", err)
	}
	return userID, err
}

// known returns the user ID, and an error if it is that of an invalid token.
func known(userID string) (string, error) {
	if userID == "" {
		return "", errRejected
	}
	return userID, nil
}

// cached returns the user ID of a token, "" for an invalid token, if the result of a check is cached.
func (c *callers) cached(hash tokenHash) (userID string, ok bool) {
	now := c.client.now()
	if t, ok := c.valid.get(hash, now); ok && now.Sub(t.checked) < validFor && now.Before(t.expires) {
		return t.userID, true
	}
	return c.others.get(hash, now)
}

func (c *callers) check(ctx context.Context, hash tokenHash, token string, from netip.Addr) (string, error) {
	if userID, ok := c.cached(hash); ok { // another check may have ended since the first look
		return known(userID)
	}
	limits, client := c.limits(hash, from)
	if !c.spend(limits, 0) { // refuse before the wait
		return "", errTooMany
	}
	ticket, err := c.gate.Enter(client)
	switch {
	case errors.Is(err, ratelimit.ErrCrowded):
		return "", errTooMany
	case err != nil:
		return "", fmt.Errorf("checks of tokens: %w", err)
	}
	defer ticket.Leave()
	select {
	case <-ticket.Admitted():
	case <-ticket.Displaced():
		return "", errTooMany
	case <-ctx.Done():
		return "", fmt.Errorf("the limit of %d checks of tokens in flight was reached", callerChecks)
	}
	// Until its result is known, a check counts as failed.
	if !c.spend(limits, 1) {
		return "", errTooMany
	}
	began := c.client.now()
	s, err := c.client.connect(ctx)
	if err != nil {
		return "", err
	}
	found, err := s.caller(ctx, token)
	switch {
	case errors.Is(err, errRejected):
	case hasStatus(err, http.StatusForbidden):
		err := s.refusedTokens()
		c.client.lacks(rightTokens, err)
		return "", err
	case err != nil:
		return "", fmt.Errorf("keystone: %w", c.client.explain(err))
	default:
		// An answer about a token proves the right. A 404 does not: Keystone looks for the token before it checks its
		// policy.
		c.client.has(rightTokens)
		if !began.Before(found.expires) {
			found.userID = ""
		}
	}
	found.checked = began
	c.keep(hash, found, from, limits)
	return known(found.userID)
}

// limit is the number of failed checks within a network, with those in flight, and the most that are allowed.
type limit struct {
	failed *int
	most   int
}

// limits returns the limits of a check, none for a token that was valid before, and the client whose turn it takes at
// the gate, the zero Addr for a proven one.
func (c *callers) limits(hash tokenHash, from netip.Addr) ([]limit, netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.client.now()
	if _, ok := c.valid.get(hash, now); ok {
		return nil, netip.Addr{}
	}
	count := func(counts *ttlCache[netip.Prefix, *int], network netip.Prefix) *int {
		n, ok := counts.get(network, now)
		if !ok {
			n = new(int)
			counts.put(network, n, now)
		}
		return n
	}
	if _, ok := c.hosts.get(from, now); ok {
		return []limit{{count(c.failed, netip.PrefixFrom(from, from.BitLen())), failuresOfHost}}, netip.Addr{}
	}
	var all []limit
	for network, share := range ratelimit.Levels(from) {
		counts := c.failed
		if share > 1 {
			counts = c.subnets
		}
		all = append(all, limit{count(counts, network), share * failuresOfClient})
	}
	return all, from
}

// spend adds n to the failed checks, and reports false without that if a limit is reached.
func (c *callers) spend(limits []limit, n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.ContainsFunc(limits, func(l limit) bool { return *l.failed >= l.most }) {
		return false
	}
	for _, l := range limits {
		*l.failed += n
	}
	return true
}

// keep caches the result of a check. One that found an expected user no longer counts as failed.
func (c *callers) keep(hash tokenHash, t tokenOwner, from netip.Addr, limits []limit) {
	if !slices.Contains(c.users, t.userID) {
		c.valid.drop(hash)
		c.others.put(hash, t.userID, t.checked)
		return
	}
	c.valid.put(hash, t, t.checked)
	c.hosts.put(from, struct{}{}, t.checked)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range limits {
		*l.failed--
	}
}

func (s *session) caller(ctx context.Context, token string) (tokenOwner, error) {
	var answer struct {
		Token *struct {
			Expires time.Time `json:"expires_at"`
			User    named     `json:"user"`
		} `json:"token"`
	}
	_, err := s.identity.Get(asKeystone(ctx), s.identity.ServiceURL("auth", "tokens")+"?nocatalog", &answer, &gophercloud.RequestOpts{
		MoreHeaders: map[string]string{"X-Subject-Token": token},
	})
	switch {
	case keystoneNotFound(err):
		return tokenOwner{}, errRejected
	case err != nil:
		return tokenOwner{}, err
	case answer.Token == nil || answer.Token.User.ID == "" || answer.Token.Expires.IsZero():
		return tokenOwner{}, errors.New("the answer has no user or no end")
	}
	return tokenOwner{userID: answer.Token.User.ID, expires: answer.Token.Expires}, nil
}
