package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"golang.org/x/sync/singleflight"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const (
	projectFor   = 10 * time.Minute
	projectsSize = 8192
)

// projects keeps what projects are called.
type projects struct {
	client *Client
	calls  singleflight.Group

	mu    sync.Mutex
	known *ttlCache[string, project]
}

type project struct {
	Name     string `json:"name"`
	DomainID string `json:"domain_id"`
}

func newProjects(c *Client) *projects {
	return &projects{client: c, known: newTTLCache[string, project](projectFor, projectsSize)}
}

// Project is the name of a project and the ID of its domain, at most ten minutes
// old (api-ref/source/v3/projects.inc, "Show project details"). It is for a
// client that was made with ProjectNames.
func (c *Client) Project(ctx context.Context, id string) (name, domainID string, err error) {
	if c.projects == nil {
		return "", "", errors.New("project names are not read: the client was made without ProjectNames")
	}
	p, err := c.projects.get(ctx, id)
	return p.Name, p.DomainID, err
}

func (p *projects) get(ctx context.Context, id string) (project, error) {
	p.mu.Lock()
	known, ok := p.known.get(id, p.client.now())
	p.mu.Unlock()
	if ok {
		return known, nil
	}
	return share(ctx, p.client, &p.calls, id, p.client.plan.timeout, func(ctx context.Context) (project, error) {
		began := p.client.now()
		s, err := p.client.connect(ctx)
		if err != nil {
			return project{}, err
		}
		found, err := s.project(ctx, id)
		if gophercloud.ResponseCodeIs(err, http.StatusForbidden) {
			err := s.refusedProjects()
			p.client.lacks(rightProjects, err)
			return project{}, err
		}
		if err != nil {
			return project{}, fmt.Errorf("keystone project %s: %w", secret.Clip(id, maxShown), p.client.explain(err))
		}
		p.client.has(rightProjects)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.known.put(id, found, began)
		return found, nil
	})
}

func (s *session) project(ctx context.Context, id string) (project, error) {
	var answer struct {
		Project *struct {
			ID string `json:"id"`
			project
		} `json:"project"`
	}
	if _, err := s.identity.Get(asKeystone(ctx), s.identity.ServiceURL("projects", url.PathEscape(id)), &answer, nil); err != nil {
		return project{}, err
	}
	if answer.Project == nil || answer.Project.ID != id || answer.Project.Name == "" {
		return project{}, errors.New("the answer is not about it")
	}
	return answer.Project.project, nil
}
