package openstack

import (
	"errors"
	"slices"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/clouds"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
)

// Config says which cloud to ask, and how.
type Config struct {
	// Cloud is the name of a cloud in clouds.yaml. Optional. Default: OS_CLOUD; without that the account of the OS_*
	// variables, and without OS_AUTH_URL the only cloud of the file.
	Cloud string `yaml:"cloud"`
	// CloudsFile is the path of clouds.yaml. secure.yaml may be in the same folder, or in one of the default ones.
	// Optional. Default: OS_CLIENT_CONFIG_FILE, then clouds.yaml in ., ~/.config/openstack and /etc/openstack.
	CloudsFile string `yaml:"cloudsFile"`
	// Region is the region whose Nova is asked. Optional. Default: the cloud's region, then OS_REGION_NAME, then the
	// first region of the catalog.
	Region string `yaml:"region"`
	// Interface says which endpoint of the catalog is used: public, internal or admin. Optional. Default: the cloud's
	// interface (among OS_* that is OS_INTERFACE), then public.
	Interface string `yaml:"interface"`
	// Lookup says how an instance is found: show (GET /servers/ID, for an admin, or for a reader of one project, who
	// sees only that project), list (the least rights over all projects; see example/openstack) or auto. Default: auto.
	Lookup string `yaml:"lookup"`
	// Timeout limits a whole lookup, including a login that it needs. A guest of the metadata service is told after 1.5s
	// to ask again, and its lookup goes on until then. Default: 3s.
	Timeout time.Duration `yaml:"timeout"`
	// MaxConcurrent limits the calls that are in flight at the same time. Default: 64.
	MaxConcurrent int `yaml:"maxConcurrent"`
}

// The values of [Config.Lookup].
const (
	LookupAuto = "auto"
	LookupShow = "show"
	LookupList = "list"
)

// Plan is a checked [Config]. [New] makes a client of it, and refuses its zero value.
type Plan struct {
	query         clouds.Query
	lookup        string
	timeout       time.Duration
	maxConcurrent int
}

// Plan checks the configuration. The error joins all problems ([problem.List]).
func (c Config) Plan() (Plan, error) {
	var problems []error
	want := func(ok bool, key, format string, value any) {
		if !ok {
			problems = append(problems, problem.Errorf(key, format, value))
		}
	}
	want(slices.Contains([]string{"", "public", "internal", "admin"}, c.Interface), "interface", "%q is not one of public, internal, admin", c.Interface)
	want(slices.Contains([]string{LookupAuto, LookupShow, LookupList}, c.Lookup), "lookup", "%q is not one of auto, show, list", c.Lookup)
	want(c.Timeout >= 100*time.Millisecond && c.Timeout <= 30*time.Second, "timeout", "%v is not in 100ms to 30s", c.Timeout)
	want(c.MaxConcurrent >= 1 && c.MaxConcurrent <= 4096, "maxConcurrent", "%d is not in 1 to 4096", c.MaxConcurrent)
	if len(problems) > 0 {
		return Plan{}, errors.Join(problems...)
	}
	return Plan{
		query:  clouds.Query{Cloud: c.Cloud, File: c.CloudsFile, Region: c.Region, Interface: c.Interface},
		lookup: c.Lookup, timeout: c.Timeout, maxConcurrent: c.MaxConcurrent,
	}, nil
}
