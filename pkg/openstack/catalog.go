package openstack

import (
	"maps"
	"slices"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// service is an entry of Keystone's catalog.
type service struct {
	Type      string            `json:"type"`
	Name      string            `json:"name"`
	Endpoints []catalogEndpoint `json:"endpoints"`
}

type catalogEndpoint struct {
	Interface string `json:"interface"`
	Region    string `json:"region"`
	RegionID  string `json:"region_id"`
	URL       string `json:"url"`
}

func (e catalogEndpoint) face() string { return strings.TrimSuffix(e.Interface, "URL") }

func (e catalogEndpoint) isIn(region string) bool {
	return region == "" || e.Region == region || e.RegionID == region
}

// pick returns Nova's endpoint of the catalog: the first one of the best interface. The error says what the catalog has
// instead, and what to set.
func (c credentials) pick(catalog []service) (catalogEndpoint, error) {
	wanted := c.Compute
	types, names := map[string]bool{}, map[string]bool{}
	var all []catalogEndpoint
	for _, s := range catalog {
		types[secret.Show(s.Type)] = true
		if s.Type != wanted.Type {
			continue
		}
		names[secret.Show(s.Name)] = true
		if wanted.Name == "" || s.Name == wanted.Name {
			all = append(all, s.Endpoints...)
		}
	}
	for _, face := range c.Interfaces {
		for _, e := range all {
			if e.face() == face && e.isIn(c.Region) {
				return e, nil
			}
		}
	}
	faces, regions := map[string]bool{}, map[string]bool{}
	for _, e := range all {
		if e.isIn(c.Region) {
			faces[secret.Show(e.face())] = true
		}
		if slices.Contains(c.Interfaces, e.face()) {
			regions[secret.Show(e.Region)] = true
		}
	}
	text := "keystone's catalog has no " + strings.Join(c.Interfaces, " or ") + " endpoint of type " + secret.Show(wanted.Type)
	if c.Region != "" {
		text += " in region " + secret.Show(c.Region)
	}
	switch {
	case len(all) == 0 && len(names) > 0 && !names[wanted.Name]:
		text += " and name " + secret.Show(wanted.Name) + "; the names are " + listed(names) + " (compute_service_name)"
	case len(all) == 0:
		text += "; its types are " + listed(types)
	case len(faces) == 0:
		text += "; the regions that have one are " + listed(regions) + " (region_name, OS_REGION_NAME or openstack.region)"
	default:
		text += "; there it has " + listed(faces) + " (interface, OS_INTERFACE or openstack.interface)"
	}
	return catalogEndpoint{}, setup("%s", text)
}

// listed returns the first 20 words of a set.
func listed(set map[string]bool) string {
	all := slices.Sorted(maps.Keys(set))
	switch {
	case len(all) == 0:
		return "none"
	case len(all) > 20:
		return strings.Join(all[:20], ", ") + ", ..."
	}
	return strings.Join(all, ", ")
}
