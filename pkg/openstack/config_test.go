package openstack_test

import (
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
)

func TestPlan(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*openstack.Config)
		want   string
	}{
		{"the defaults", func(*openstack.Config) {}, ""},
		{"all that may be chosen", func(c *openstack.Config) {
			c.Interface, c.Lookup, c.Timeout, c.MaxConcurrent = "admin", "list", 30*time.Second, 4096
		}, ""},
		{"an interface as in a catalog of v2", func(c *openstack.Config) { c.Interface = "internalURL" }, `interface: "internalURL" is not one of public, internal, admin`},
		{"no lookup", func(c *openstack.Config) { c.Lookup = "" }, `lookup: "" is not one of auto, show, list`},
		{"a timeout too short", func(c *openstack.Config) { c.Timeout = 99 * time.Millisecond }, "timeout: 99ms is not in 100ms to 30s"},
		{"a timeout too long", func(c *openstack.Config) { c.Timeout = 30*time.Second + 1 }, "timeout: 30.000000001s is not in 100ms to 30s"},
		{"no calls", func(c *openstack.Config) { c.MaxConcurrent = 0 }, "maxConcurrent: 0 is not in 1 to 4096"},
		{"too many calls", func(c *openstack.Config) { c.MaxConcurrent = 4097 }, "maxConcurrent: 4097 is not in 1 to 4096"},
		{
			"several problems", func(c *openstack.Config) { *c = openstack.Config{Interface: "x"} },
			"interface: \"x\" is not one of public, internal, admin\nlookup: \"\" is not one of auto, show, list\ntimeout: 0s is not in 100ms to 30s\nmaxConcurrent: 0 is not in 1 to 4096",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := config()
			test.change(&c)
			got := ""
			if _, err := c.Plan(); err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("Plan = %q, want %q", got, test.want)
			}
		})
	}
}

func TestNewRefusesTheZeroPlan(t *testing.T) {
	if _, err := openstack.New(openstack.Plan{}, openstack.Options{}); err == nil {
		t.Error("New took the zero value")
	}
}
