package openstack

import (
	"errors"
	"maps"
	"slices"
	"sync"
)

// right is one that some roles or doors need, and others do not.
type right string

const (
	rightProjects right = "projects" // to read the names of projects
	rightTokens   right = "tokens"   // to validate tokens
)

// rights are those that the cloud refused when they were last used. The zero value is
// ready.
type rights struct {
	mu      sync.Mutex
	refused map[right]error
}

func (r *rights) lacks(which right, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refused == nil {
		r.refused = map[right]error{}
	}
	r.refused[which] = err
}

func (r *rights) has(which right) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.refused, which)
}

// Rights is nil unless the cloud refused the account a right that some roles or doors
// need, when it was last asked. The error says which, and what gives it.
func (c *Client) Rights() error {
	c.rights.mu.Lock()
	defer c.rights.mu.Unlock()
	var all []error
	for _, which := range slices.Sorted(maps.Keys(c.rights.refused)) {
		all = append(all, c.rights.refused[which])
	}
	return errors.Join(all...)
}

// RightsRefused is how many rights [Client.Rights] tells of.
func (c *Client) RightsRefused() int {
	c.rights.mu.Lock()
	defer c.rights.mu.Unlock()
	return len(c.rights.refused)
}
