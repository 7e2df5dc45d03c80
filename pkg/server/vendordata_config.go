package server

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

// VendordataConfig is the door for Nova's DynamicJSON vendordata
// (nova/doc/source/admin/vendordata.rst).
type VendordataConfig struct {
	// Listen is the address of a separate listener, on the cloud's internal network.
	// Optional: without it POST /vendordata is served at `listen`.
	Listen string `yaml:"listen"`
	// Users are the Keystone IDs of the users as whom Nova signs in
	// ([vendordata_dynamic_auth]). Names are an error, as another user can take them.
	// Optional: without it the door is closed.
	Users []string `yaml:"users"`
	// From are the addresses of the callers, as CIDRs: the hosts with nova-api, and
	// those with nova-compute for config drives. Optional: without it a caller may have
	// any address, and its request may have 8 KiB in place of 1 MiB, which user data can
	// exceed.
	From []netip.Prefix `yaml:"from"`
	// DocumentExpiry is how long a document is valid, 10s to 1h. Default: 5m.
	DocumentExpiry time.Duration `yaml:"documentExpiry"`
	// Audience adds an ordinary token for these to the answer, without a role. It
	// needs metadataService.agentsLimitHeaders: without it Nova gets 403 in place of
	// the answer. Optional.
	Audience []string `yaml:"audience"`
	// Static is returned beside the document. Optional.
	Static map[string]string `yaml:"static"`
}

// Vendordata is a parsed [VendordataConfig]. The zero value is a closed door.
type Vendordata struct {
	listen   string
	users    []string
	from     []netip.Prefix
	expiry   time.Duration
	audience []string
	static   map[string]string
}

// open reports whether any caller may use the door.
func (v *Vendordata) open() bool { return len(v.users) > 0 }

// names reports whether vendordata.from contains an address.
func (v *Vendordata) names(addr netip.Addr) bool { return within(v.from, addr) }

var keystoneID = regexp.MustCompile(`\A[0-9a-f]{32}(?:[0-9a-f]{32})?\z`)

// Parse checks the configuration. The error joins all problems ([problem.List]).
func (c VendordataConfig) Parse() (Vendordata, error) {
	problems := checkPrefixes("from", c.From, "leave it out to allow that")
	add := func(path string, err error) { problems = append(problems, problem.At(path, err)) }
	if c.Listen != "" {
		add("listen", listen.ValidateAddress(c.Listen))
	}
	for i, id := range c.Users {
		if !keystoneID.MatchString(id) {
			add(fmt.Sprintf("users[%d]", i), fmt.Errorf("%q is not the ID of a Keystone user (`openstack user show -f value -c id NAME`): another user can take a name", id))
		}
	}
	add("documentExpiry", token.CheckDocumentExpiry(c.DocumentExpiry))
	for i, a := range c.Audience {
		if _, err := attest.ParseAudience(a); err != nil {
			add(fmt.Sprintf("audience[%d]", i), fmt.Errorf("%q: %w", a, err))
		}
	}
	for key := range c.Static {
		if slices.Contains([]string{"document", "expires_at", "token"}, key) {
			add("static."+key, errors.New("is reserved for the server's own value"))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return Vendordata{}, err
	}
	return Vendordata{c.Listen, c.Users, c.From, c.DocumentExpiry, c.Audience, c.Static}, nil
}
