// Package attesttest makes what tests of attest's users need, without a cloud.
package attesttest

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

// Addr is the address of [Instance].
var Addr = netip.MustParseAddr("10.20.0.11")

// ID is the ID of an instance.
func ID(t testing.TB, s string) attest.InstanceID {
	t.Helper()
	id, err := attest.ParseInstanceID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Instance is a running instance that was created when the test began.
func Instance(t *testing.T) attest.Instance {
	t.Helper()
	now := time.Now().Truncate(time.Second)
	return attest.Instance{
		ID: ID(t, "1b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5a21"), Name: "web-1", ProjectID: "7e562c1a85814230b973a83db9534b02", UserID: "821a2eaac0724c069aa6a44bd7b91935",
		Metadata: map[string]string{"role": "web"}, Phase: attest.PhaseRunning, State: "ACTIVE",
		Created: now, Launched: now,
		Addresses: []attest.Address{{Network: "private", Addr: Addr}},
	}
}

// Role is a role that any instance may have, three times within five minutes.
func Role(t testing.TB, name string) attest.Role {
	t.Helper()
	r, err := attest.NewRole(name, attest.Grant{}, attest.Window{Limit: 3, Period: 5 * time.Minute, Since: attest.SinceCreated}, attest.Rules{AllowAnyInstance: true})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Issuer is the issuer with a URL, https://id.example.com for "".
func Issuer(t testing.TB, url string) attest.Issuer {
	t.Helper()
	i, err := attest.ParseIssuer(cmp.Or(url, "https://id.example.com"))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// Identity is what Attest makes of an instance in a role that asks from its
// first address.
func Identity(t *testing.T, in attest.Instance, role string) attest.Identity {
	t.Helper()
	return IdentityFor(t, in, role, attest.Grant{}, "", "")
}

// IdentityFor is Identity for an audience, "" for none, that the role of that
// issuer grants.
func IdentityFor(t *testing.T, in attest.Instance, role string, grant attest.Grant, audience, issuer string) attest.Identity {
	t.Helper()
	r, err := attest.NewRole(role, grant, attest.Window{Limit: 3, Period: 5 * time.Minute, Since: attest.SinceCreated}, attest.Rules{AllowAnyInstance: true})
	if err != nil {
		t.Fatal(err)
	}
	policy := attest.NewPolicy(Issuer(t, issuer), r)
	request := attest.Request{Instance: in.ID, Evidence: attest.FromAddress(in.Addresses[0].Addr)}
	if request.Role, err = attest.ParseRoleName(role); err != nil {
		t.Fatal(err)
	}
	if audience != "" {
		if request.Audience, err = attest.ParseAudience(audience); err != nil {
			t.Fatal(err)
		}
	}
	a := attest.Attestor{Policy: policy, Instances: Cloud{in.ID: in}, State: &State{}, Denials: &Denials{}}
	j, err := a.Attest(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	return j.Identity
}

// Vouched is an instance that Nova spoke for, in a cloud whose metadata agents are limited.
func Vouched(t *testing.T, in attest.Instance) attest.Vouched {
	t.Helper()
	a := attest.Attestor{Policy: attest.Policy{}.WithLimitedAgents(), Instances: Cloud{in.ID: in}, State: &State{}, Denials: &Denials{}}
	v, _, err := a.Vouch(t.Context(), in.ID, in.ProjectID)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Cloud knows these instances and no others.
type Cloud map[attest.InstanceID]attest.Instance

// Instance implements [attest.Instances].
func (c Cloud) Instance(_ context.Context, id attest.InstanceID, _ netip.Addr) (attest.Instance, error) {
	in, ok := c[id]
	if !ok {
		return attest.Instance{}, attest.ErrNoInstance
	}
	return in, nil
}

// State counts for ever. With Err set it fails.
type State struct {
	Err error

	mu     sync.Mutex
	counts map[string]int64
	back   map[string][]int64 // what was given back of a count
	writes int
}

// Count implements [attest.State].
func (a *State) Count(_ context.Context, key string) (int64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.counts[key] - int64(len(a.back[key])), a.Err
}

// Increment implements [attest.State].
func (a *State) Increment(_ context.Context, key string, _ time.Time) (int64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.Err != nil {
		return 0, a.Err
	}
	if a.counts == nil {
		a.counts = map[string]int64{}
	}
	a.writes++
	if back := a.back[key]; len(back) > 0 {
		slices.Sort(back)
		a.back[key] = back[1:]
		return back[0], nil
	}
	a.counts[key]++
	return a.counts[key], nil
}

// GiveBack implements [attest.State].
func (a *State) GiveBack(_ context.Context, key string, n int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.Err != nil {
		return a.Err
	}
	if a.back == nil {
		a.back = map[string][]int64{}
	}
	a.writes++
	a.back[key] = append(a.back[key], n)
	return nil
}

// Writes is how often a count was written.
func (a *State) Writes() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.writes
}

// Denials is a list of denials without a bound. With Err set it fails.
type Denials struct {
	Err error
	// Values are the entries, by instance.
	Values map[string][]byte

	mu sync.Mutex
}

// Entry implements [attest.Denials].
func (d *Denials) Entry(_ context.Context, instance string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.Values[instance], d.Err
}

// Entries implements [attest.DenialList].
func (d *Denials) Entries(context.Context) (map[string][]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.Values), d.Err
}

// Change implements [attest.DenialList].
func (d *Denials) Change(_ context.Context, change func(map[string][]byte) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.Err != nil {
		return d.Err
	}
	if d.Values == nil {
		d.Values = map[string][]byte{}
	}
	return change(d.Values)
}
