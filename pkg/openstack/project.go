package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	projectFor   = 10 * time.Minute
	projectsSize = 8192
)

// projects caches the names of projects.
type projects struct {
	calls singleflight.Group
	known *ttlCache[string, project]
}

type project struct {
	Name     string `json:"name"`
	DomainID string `json:"domain_id"`
}

// Project returns the name of a project and the ID of its domain, at most ten minutes old (api-ref/source/v3/projects.inc,
// "Show project details"). The client must have been made with [Options.ProjectNames].
func (c *Client) Project(ctx context.Context, id string) (name, domainID string, err error) {
	if c.projects == nil {
		return "", "", errors.New("project names are not read: the client was made without ProjectNames")
	}
	p, ok := c.projects.known.get(id, c.now())
	if !ok {
		p, err = share(ctx, c, &c.projects.calls, id, c.plan.timeout, func(ctx context.Context) (project, error) { return c.readProject(ctx, id) })
	}
	return p.Name, p.DomainID, err
}

func (c *Client) readProject(ctx context.Context, id string) (project, error) {
	began := c.now()
	if p, ok := c.projects.known.get(id, began); ok { // another call may have ended since the first look
		return p, nil
	}
	s, err := c.connect(ctx)
	if err != nil {
		return project{}, err
	}
	found, err := s.project(ctx, id)
	if hasStatus(err, http.StatusForbidden) {
		err := s.refusedProjects()
		c.lacks(rightProjects, err)
		return project{}, err
	}
	if err != nil {
		return project{}, fmt.Errorf("keystone project %s: %w", clip(id), c.explain(err))
	}
	c.has(rightProjects)
	c.projects.known.put(id, found, began)
	return found, nil
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
		return project{}, errors.New("the answer is not about this project")
	}
	return answer.Project.project, nil
}
