package clouds

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// cloud merges the values of the profile, the cloud and the region, as
// openstack.config.loader.OpenStackConfig.get_one does, and makes a [Cloud] of them.
func (r *reader) cloud(own *value) (*Cloud, error) {
	under, err := r.profile(own)
	if err != nil {
		return nil, err
	}
	base := update(under, own)
	region, values, err := r.region(own, under)
	if err != nil {
		return nil, err
	}
	s := &settings{reader: r, root: update(base, values), used: map[string]bool{}, generic: true}
	if auth := s.root.keys["auth"]; auth != nil && !auth.null && auth.keys == nil && auth.text != "" {
		return nil, fmt.Errorf("%s: is not a mapping", auth.path)
	}
	return s.cloud(region)
}

// update is Python's dict.update. The keys of auth are updated one by one.
func update(under, over *value) *value {
	if over == nil {
		return under
	}
	all := &value{keys: map[string]*value{}, path: over.path}
	if under != nil {
		maps.Copy(all.keys, under.keys)
	}
	for key, v := range over.keys {
		if key == "auth" && v.keys != nil && all.keys[key] != nil && all.keys[key].keys != nil {
			auth := &value{keys: maps.Clone(all.keys[key].keys), path: v.path}
			maps.Copy(auth.keys, v.keys)
			v = auth
		}
		all.keys[key] = v
	}
	return all
}

// region returns the region, and the values that the cloud has only there.
func (r *reader) region(own, under *value) (name string, values *value, err error) {
	listed, many, err := regionsOf(own)
	if err != nil {
		return "", nil, err
	}
	if len(listed) == 0 && own.keys["region_name"] == nil {
		if listed, many, err = regionsOf(under); err != nil {
			return "", nil, err
		}
	}
	wanted := r.q.Region
	if wanted == "" && len(listed) > 0 {
		return listed[0].name, listed[0].values, nil
	}
	if wanted == "" {
		return r.env["OS_REGION_NAME"], nil, nil
	}
	var names []string
	for _, one := range listed {
		if one.name == wanted {
			return wanted, one.values, nil
		}
		names = append(names, shownKey(one.name))
	}
	if many {
		return "", nil, fmt.Errorf("region %s is not one of the cloud's: %s", secret.Quote(wanted), strings.Join(names, ", "))
	}
	return wanted, nil, nil
}

type namedRegion struct {
	name   string
	values *value
}

// regionsOf reads `regions`, or `region_name` with one or more names. many reports that the cloud lists its regions, so
// that any other region is an error.
func regionsOf(v *value) (all []namedRegion, many bool, err error) {
	if list := v.get("regions"); list != nil {
		for _, item := range list.items {
			one := namedRegion{name: item.text, values: item.get("values")}
			if item.keys != nil {
				if !item.get("name").isText() {
					return nil, false, fmt.Errorf("%s: a region has no name", item.path)
				}
				one.name = item.get("name").text
				for _, key := range slices.Sorted(maps.Keys(item.keys)) {
					if key != "name" && key != "values" {
						return nil, false, fmt.Errorf("%s: a region has the keys name and values; write %s below values", item.path, shownKey(key))
					}
				}
			}
			all = append(all, one)
		}
		if len(all) == 0 && list.text != "" {
			return nil, false, fmt.Errorf("%s: is not a list", list.path)
		}
		return all, true, nil
	}
	name := v.get("region_name")
	switch {
	case name == nil:
	case name.items != nil:
		for _, item := range name.items {
			all = append(all, namedRegion{name: item.text})
		}
	default:
		for one := range strings.SplitSeq(name.text, ",") {
			all = append(all, namedRegion{name: one})
		}
	}
	if len(all) == 1 && all[0].name == "" {
		return nil, false, nil
	}
	return all, len(all) > 1, nil
}

// profile returns the values of the vendor's profile. The values of the cloud win over them.
func (r *reader) profile(own *value) (*value, error) {
	chosen := own.get("profile")
	if chosen == nil {
		chosen = own.get("cloud")
	}
	if chosen == nil || !chosen.isText() || chosen.text == cmp.Or(r.env["OS_CLOUD_NAME"], "envvars") {
		return nil, nil
	}
	var tried []string
	if public := search(inFolders(r.folders(), "clouds-public"), &tried); public != nil {
		if found := public.root.get("public_clouds").get(chosen.text); found != nil {
			return found, nil
		}
	}
	found, err := vendor(chosen.text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", chosen.path, err)
	}
	switch {
	case found == nil && strings.Contains(chosen.text, "://"):
		r.warn("%s: a profile that is a URL is not fetched; write its values into the cloud", chosen.path)
	case found == nil:
		r.warn("%s: there is no vendor profile %s; the cloud's own values are used", chosen.path, secret.Quote(chosen.text))
	}
	if found != nil {
		if said := found.get("message"); said != nil {
			r.warn("%s: %s", chosen.path, said.text)
		}
	}
	return found, nil
}
