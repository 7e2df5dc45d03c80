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

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
)

const (
	callerFor   = time.Minute // how long a good token is believed, and never past its end
	strangerFor = 10 * time.Second
	hostFor     = time.Hour
	callersSize = 8192 // of each cache

	// Keystone is asked about few tokens that turn out to be invalid, or another
	// user's than Nova's: within strangerFor so many of one client ([ratelimit.Levels]).
	// There is no such limit for all clients together: an attacker could use it up, and
	// Nova's hosts would be refused, too. What unproven clients can ask at a time is
	// divided between networks. A host that has shown a token of Nova's, not long ago,
	// has a limit of its own.
	strangerMost = 5
	hostMost     = 20
	// callerChecks may be in flight for unproven clients, and as many for others; so many of
	// each may wait, and of one client.
	callerChecks   = 4
	callersWaiting = 256
	callersOfOne   = 4
)

type tokenHash = [sha256.Size]byte

// callers remembers whose tokens callers showed.
type callers struct {
	client *Client
	users  []string // Nova's, of whom all tokens are worth to ask for
	calls  singleflight.Group
	gate   *ratelimit.Gate

	mu sync.Mutex
	// known are the tokens of those users, to their end; after callerFor they are
	// asked about again.
	known  *ttlCache[tokenHash, tokenOwner]
	others *ttlCache[tokenHash, string] // whose other tokens are, "" for nobody
	hosts  *ttlCache[netip.Addr, struct{}]
	// failed are the checks of an address that found no user of Nova's, and subnets
	// those of an IPv6 /64.
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
		known:  newTTLCache[tokenHash, tokenOwner](24*time.Hour, callersSize),
		others: newTTLCache[tokenHash, string](strangerFor, callersSize),
		hosts:  newTTLCache[netip.Addr, struct{}](hostFor, callersSize),
		failed: newTTLCache[netip.Prefix, *int](strangerFor, callersSize), subnets: newTTLCache[netip.Prefix, *int](strangerFor, callersSize),
	}
}

// Caller gives the ID of the user whose Keystone token a caller shows, who speaks
// from an address (api-ref/source/v3/authenticate-v3.inc, "Validate and show
// information for token"). The error is [attest.ErrUnknownCaller] if Keystone says
// that it is none, [attest.ErrTooManyCallers] if too many of this client were, or wait,
// and anything else if Keystone could not be asked.
func (c *Client) Caller(ctx context.Context, token string, from netip.Addr) (userID string, err error) {
	hash := sha256.Sum256([]byte(token))
	if userID, ok := c.callers.remembered(hash); ok {
		return userID, nobody(userID)
	}
	userID, err = share(ctx, c, &c.callers.calls, string(hash[:]), c.plan.timeout, func(ctx context.Context) (string, error) {
		return c.callers.ask(ctx, hash, token, from)
	})
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = fmt.Errorf("keystone: %w", err)
	}
	return userID, err
}

func nobody(userID string) error {
	if userID == "" {
		return attest.ErrUnknownCaller
	}
	return nil
}

// remembered gives whose token it is, "" for nobody's, if that is known.
func (c *callers) remembered(hash tokenHash) (userID string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.client.now()
	if t, ok := c.known.get(hash, now); ok && now.Sub(t.checked) < callerFor && now.Before(t.expires) {
		return t.userID, true
	}
	return c.others.get(hash, now)
}

func (c *callers) ask(ctx context.Context, hash tokenHash, token string, from netip.Addr) (string, error) {
	if userID, ok := c.remembered(hash); ok { // whoever was here before may have ended in between
		return userID, nobody(userID)
	}
	failures, client := c.lane(hash, from)
	if !c.mayFail(failures) { // it need not wait for that
		return "", attest.ErrTooManyCallers
	}
	ticket, err := c.gate.Enter(client)
	switch {
	case errors.Is(err, ratelimit.ErrCrowded):
		return "", attest.ErrTooManyCallers
	case err != nil:
		return "", fmt.Errorf("checks of tokens: %w", err)
	}
	defer ticket.Leave()
	select {
	case <-ticket.Admitted():
	case <-ticket.Displaced():
		return "", attest.ErrTooManyCallers
	case <-ctx.Done():
		return "", fmt.Errorf("all %d checks of tokens that may be in flight are", callerChecks)
	}
	if !c.fail(failures) {
		return "", attest.ErrTooManyCallers
	}
	began := c.client.now()
	s, err := c.client.connect(ctx)
	if err != nil {
		return "", err
	}
	found, err := s.caller(ctx, token)
	switch {
	case errors.Is(err, attest.ErrUnknownCaller):
	case gophercloud.ResponseCodeIs(err, http.StatusForbidden):
		err := s.refusedTokens()
		c.client.lacks(rightTokens, err)
		return "", err
	case err != nil:
		return "", fmt.Errorf("keystone: %w", c.client.explain(err))
	default:
		// An answer about a token proves the right; that there is no such token does not:
		// Keystone looks for the token before it asks its policy.
		c.client.has(rightTokens)
		if !began.Before(found.expires) {
			found.userID = ""
		}
	}
	found.checked = began
	c.keep(hash, found, from, failures)
	return found.userID, nobody(found.userID)
}

// lane gives the counts of failures that bound a check, none for a token that was
// Nova's before, and the client that takes its turn for it: the zero Addr for one that
// was Nova's.
func (c *callers) lane(hash tokenHash, from netip.Addr) ([]failures, netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.client.now()
	if _, ok := c.known.get(hash, now); ok {
		return nil, netip.Addr{}
	}
	own := netip.PrefixFrom(from, from.BitLen())
	if _, ok := c.hosts.get(from, now); ok {
		return []failures{{count(c.failed, own, now), hostMost}}, netip.Addr{}
	}
	var all []failures
	for level, share := range ratelimit.Levels(from) {
		counts := c.failed
		if share > 1 {
			counts = c.subnets
		}
		all = append(all, failures{count(counts, level, now), share * strangerMost})
	}
	return all, from
}

// failures counts checks that found nobody we know, those under way among them.
type failures struct {
	n    *int
	most int
}

func (f failures) spent() bool { return *f.n >= f.most }

func count[K comparable](counts *ttlCache[K, *int], key K, now time.Time) *int {
	n, ok := counts.get(key, now)
	if !ok {
		n = new(int)
		counts.put(key, n, now)
	}
	return n
}

func (c *callers) mayFail(all []failures) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !slices.ContainsFunc(all, failures.spent)
}

// fail counts a check as one that finds nobody, until it is known better.
func (c *callers) fail(all []failures) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.ContainsFunc(all, failures.spent) {
		return false
	}
	for _, f := range all {
		*f.n++
	}
	return true
}

// keep notes what Keystone said.
func (c *callers) keep(hash tokenHash, t tokenOwner, from netip.Addr, counted []failures) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.users, t.userID) {
		c.known.drop(hash)
		c.others.put(hash, t.userID, t.checked)
		return
	}
	c.known.put(hash, t, t.checked)
	c.hosts.put(from, struct{}{}, t.checked)
	for _, f := range counted {
		*f.n--
	}
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
	_, err := s.identity.Get(asKeystone(ctx), s.identity.ServiceURL("auth", "tokens")+"?nocatalog", &answer, &gophercloud.RequestOpts{
		MoreHeaders: map[string]string{"X-Subject-Token": token},
	})
	switch {
	case keystoneNotFound(err):
		return tokenOwner{}, attest.ErrUnknownCaller
	case err != nil:
		return tokenOwner{}, err
	case answer.Token == nil || answer.Token.User.ID == "" || answer.Token.Expires.IsZero():
		return tokenOwner{}, errors.New("the answer is about no user")
	}
	return tokenOwner{userID: answer.Token.User.ID, expires: answer.Token.Expires}, nil
}
