package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

const serversPath = "servers"

// fetch asks Nova for one server, in one call.
func (c *Client) fetch(ctx context.Context, id attest.InstanceID) (attest.Instance, error) {
	s, err := c.connect(ctx)
	if err == nil && s.refused != nil {
		s, err = c.probeAgain(ctx, s)
	}
	if err == nil {
		err = s.refused
	}
	if err != nil {
		return attest.Instance{}, err
	}
	find := s.show
	if s.lists() {
		find = s.find
	}
	in, err := find(ctx, id)
	switch {
	case hasStatus(err, http.StatusForbidden):
		err = s.refusedLookup()
		c.lacks(rightLookup, err)
	case errors.As(err, new(*lack)):
		c.lacks(rightLookup, err)
	case err == nil || s.lists() && errors.Is(err, attest.ErrNoInstance):
		// A 404 to show proves no right: Nova checks the policy after it found the server.
		c.has(rightLookup)
	}
	switch {
	case errors.Is(err, attest.ErrNoInstance):
		if _, seen := c.seen.get(id, c.now()); seen && s.lists() {
			// Nova leaves the servers of a cell that is down out of a list.
			return attest.Instance{}, fmt.Errorf("nova server %s: it was in a list within the last hour and is missing now: it was deleted, or its cell is down", id)
		}
		return attest.Instance{}, err
	case err != nil:
		return attest.Instance{}, fmt.Errorf("nova server %s: %w", id, c.explain(err))
	case in.ID != id:
		return attest.Instance{}, fmt.Errorf("nova server %s: the answer is about %s", id, in.ID)
	}
	if s.lists() {
		c.seen.put(id, struct{}{}, c.now())
	}
	in.Region = s.region
	return in, nil
}

func (s *session) show(ctx context.Context, id attest.InstanceID) (attest.Instance, error) {
	var answer struct {
		Server *record `json:"server"`
	}
	_, err := s.compute.Get(ctx, s.compute.ServiceURL(serversPath, id.String()), &answer, nil)
	switch {
	case unknownServer(err):
		return attest.Instance{}, attest.ErrNoInstance
	case err != nil:
		return attest.Instance{}, err
	case answer.Server == nil:
		return attest.Instance{}, errors.New("the answer has no server")
	}
	return answer.Server.instance()
}

func (s *session) find(ctx context.Context, id attest.InstanceID) (attest.Instance, error) {
	found, err := s.listServers(ctx, id.String())
	switch {
	case err != nil:
		return attest.Instance{}, err
	case len(found) == 0:
		return attest.Instance{}, attest.ErrNoInstance
	case len(found) > 1 || found[0].ID == nil || !strings.EqualFold(*found[0].ID, id.String()):
		return attest.Instance{}, s.refusedFilter()
	}
	return found[0].instance()
}

// listServers lists the servers of all projects that have this UUID (api-ref/source/servers.inc, "List Servers
// Detailed"). The limit is two: a second server shows that Nova ignored the filter.
func (s *session) listServers(ctx context.Context, id string) ([]record, error) {
	query := url.Values{"all_tenants": {"1"}, "uuid": {id}, "limit": {"2"}}
	var answer struct {
		Servers *[]record `json:"servers"`
	}
	if _, err := s.compute.Get(ctx, s.compute.ServiceURL(serversPath, "detail")+"?"+query.Encode(), &answer, nil); err != nil {
		return nil, err
	}
	if answer.Servers == nil {
		return nil, errors.New("the answer has no servers")
	}
	return *answer.Servers, nil
}
