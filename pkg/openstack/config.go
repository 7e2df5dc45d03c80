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
	// Cloud is the name of a cloud in clouds.yaml. Optional: without it OS_CLOUD
	// names one, without that the OS_* variables are the credentials, and without
	// OS_AUTH_URL the only cloud of the file.
	Cloud string `yaml:"cloud"`
	// CloudsFile is the path of clouds.yaml. Optional: without it
	// OS_CLIENT_CONFIG_FILE and clouds.yaml in ., ~/.config/openstack and
	// /etc/openstack are tried. secure.yaml can be in the same folder, or in one of
	// these.
	CloudsFile string `yaml:"cloudsFile"`
	// Region is the region whose Nova is asked. Optional: without it the
	// cloud's, then OS_REGION_NAME, then the first of the catalog.
	Region string `yaml:"region"`
	// Interface is which endpoint of the catalog is used: public, internal or
	// admin. Optional: without it the cloud's (OS_INTERFACE among OS_*), then
	// public.
	Interface string `yaml:"interface"`
	// Lookup is how an instance is found: show (GET /servers/ID: an admin, or a
	// project's own reader, who sees that project alone), list (the least
	// rights over all projects; see example/openstack) or auto. Default: auto.
	Lookup string `yaml:"lookup"`
	// Timeout bounds a whole lookup, a login on the way included. Default: 3s.
	Timeout time.Duration `yaml:"timeout"`
	// MaxConcurrent bounds the calls that are in flight at one time. Default: 64.
	MaxConcurrent int `yaml:"maxConcurrent"`
}

// The ways to look an instance up.
const (
	LookupAuto = "auto"
	LookupShow = "show"
	LookupList = "list"
)

// Plan is a [Config] that was checked: what [New] makes a client of. [New] refuses its zero value.
type Plan struct {
	query         clouds.Query
	lookup        string
	timeout       time.Duration
	maxConcurrent int
}

// Plan checks the configuration. The error joins all problems ([problem.List]).
func (c Config) Plan() (Plan, error) {
	var problems []error
	if !slices.Contains([]string{"", "public", "internal", "admin"}, c.Interface) {
		problems = append(problems, problem.Errorf("interface", "%q is not one of public, internal, admin", c.Interface))
	}
	if !slices.Contains([]string{LookupAuto, LookupShow, LookupList}, c.Lookup) {
		problems = append(problems, problem.Errorf("lookup", "%q is not one of auto, show, list", c.Lookup))
	}
	if c.Timeout < 100*time.Millisecond || c.Timeout > 30*time.Second {
		problems = append(problems, problem.Errorf("timeout", "%v is not in 100ms to 30s", c.Timeout))
	}
	if c.MaxConcurrent < 1 || c.MaxConcurrent > 4096 {
		problems = append(problems, problem.Errorf("maxConcurrent", "%d is not in 1 to 4096", c.MaxConcurrent))
	}
	if len(problems) > 0 {
		return Plan{}, errors.Join(problems...)
	}
	return Plan{
		query:  clouds.Query{Cloud: c.Cloud, File: c.CloudsFile, Region: c.Region, Interface: c.Interface},
		lookup: c.Lookup, timeout: c.Timeout, maxConcurrent: c.MaxConcurrent,
	}, nil
}
