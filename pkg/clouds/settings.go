package clouds

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// settings reads the merged values of a cloud.
type settings struct {
	*reader
	root *value
	used map[string]bool // keys that were read, those of auth with "auth." in front
	err  error           // about the first value of the wrong kind
	// generic says that the login is by keystoneauth1's plugin password, the only one with a default domain.
	generic bool
}

// key returns a key of auth as the user writes it.
func (s *settings) key(name string) string {
	if !s.named {
		return "OS_" + strings.ToUpper(name)
	}
	return "auth." + name
}

// typeKey returns auth_type as the user writes it.
func (s *settings) typeKey() string {
	if !s.named {
		return "OS_AUTH_TYPE"
	}
	return "auth_type"
}

// text returns a scalar as it is written, "" if there is none.
func (s *settings) text(v *value) string {
	switch {
	case v == nil || v.null:
		return ""
	case v.items != nil || v.keys != nil:
		s.err = cmp.Or(s.err, fmt.Errorf("%s: is not text", v.path))
		return ""
	}
	if s.named && v.plain {
		if t := pythonType(v.text); t != "" {
			s.warn("%s: PyYAML reads this value as %s, so that openstack uses another text; here it is used as it is written: put it into quotes", v.path, t)
		}
	}
	return v.text
}

// top returns a key of the cloud.
func (s *settings) top(name string) *value {
	s.used[name] = true
	return s.root.get(name)
}

func (s *settings) inAuth(name string) *value {
	s.used["auth."+name] = true
	return s.root.get("auth").get(name)
}

// option returns an option of the login, by its name and older names, nil if there is none. Those in auth win over those
// beside it.
func (s *settings) option(names ...string) (found *value) {
	for _, look := range []func(string) *value{s.inAuth, s.top} {
		for _, name := range names {
			if v := look(name); found == nil && v != nil && (v.text != "" || v.items != nil || v.keys != nil) {
				found = v
			}
		}
	}
	return found
}

func (s *settings) login(names ...string) string { return s.text(s.option(names...)) }

// scope returns an option of the scope. Those beside auth win over those in it, because openstacksdk moves them there. Of
// several names the last wins.
func (s *settings) scope(names ...string) string {
	var found *value
	for _, name := range names {
		for _, v := range []*value{s.inAuth(name), s.top(name)} {
			if v.isText() {
				found = v
			}
		}
	}
	return s.text(found)
}

var braces = regexp.MustCompile(`\{([^{}]*)\}`)

// expand replaces other keys of the cloud in braces, as in https://{region_name}.example.com.
func (s *settings) expand(v *value, region string) string {
	text := s.text(v)
	if !strings.Contains(text, "{") {
		return text
	}
	return braces.ReplaceAllStringFunc(text, func(whole string) string {
		name := strings.Trim(whole, "{}")
		if name == "region_name" {
			return region
		}
		other := s.root.get(name)
		if !other.isText() {
			s.err = cmp.Or(s.err, fmt.Errorf("%s: there is no key %s to insert", v.path, shownKey(name)))
			return ""
		}
		return other.text
	})
}

func (s *settings) cloud(region string) (*Cloud, error) {
	c := &Cloud{Source: s.source, Region: region}
	s.used["region_name"], s.used["regions"] = true, true
	kind, err := s.kind()
	if err != nil {
		return nil, err
	}
	if c.AuthURL = s.expand(s.option("auth_url"), region); c.AuthURL == "" {
		return nil, cmp.Or(s.err, errors.New("there is no auth_url"))
	}
	if err := s.account(c, kind); err != nil {
		return nil, cmp.Or(s.err, err)
	}
	if c.Interfaces, err = s.interfaces(); err != nil {
		return nil, err
	}
	if own := s.text(s.top("compute_region_name")); own != "" {
		c.Region = own
	}
	if s.q.Region != "" {
		c.Region = s.q.Region
	}
	c.Compute = Service{
		Endpoint: s.endpoint("compute", region), Name: s.text(s.top("compute_service_name")),
		Type: cmp.Or(s.text(s.top("compute_service_type")), "compute"),
	}
	c.Identity = s.endpoint("identity", region)
	if err := s.certificates(c); err != nil {
		return nil, err
	}
	s.versions()
	s.leftOver()
	c.Warnings = s.warnings
	return c, s.err
}

// interfaces returns the interfaces that may be used, best first.
func (s *settings) interfaces() ([]string, error) {
	if s.q.Interface != "" {
		return []string{s.q.Interface}, nil
	}
	var chosen *value
	for _, name := range []string{"interface", "endpoint_type", "compute_interface", "compute_endpoint_type"} {
		if v := s.top(name); v != nil && (v.isText() || len(v.items) > 0) {
			chosen = v // in openstacksdk the older names win
		}
	}
	if chosen == nil {
		return []string{"public"}, nil
	}
	items := chosen.items
	if items == nil {
		items = []*value{chosen}
	}
	var all []string
	for _, item := range items {
		face := strings.TrimSuffix(item.text, "URL")
		if !slices.Contains([]string{"public", "internal", "admin"}, face) {
			return nil, fmt.Errorf("%s: %s is not one of public, internal, admin", item.path, secret.Quote(item.text))
		}
		all = append(all, face)
	}
	return all, nil
}

func (s *settings) endpoint(service, region string) string {
	found := s.expand(s.top(service+"_endpoint_override"), region)
	other := s.expand(s.top(service+"_endpoint"), region)
	return cmp.Or(found, other)
}

// certificates reads the settings of TLS in the order of
// openstack.config.cloud_region.CloudRegion.get_requests_verify_args.
func (s *settings) certificates(c *Cloud) error {
	insecure, verify := s.top("insecure"), s.top("verify")
	c.CACert, c.Cert, c.Key = s.text(s.top("cacert")), s.text(s.top("cert")), s.text(s.top("key"))
	if insecure.isText() {
		is, ok := insecure.boolean()
		if !ok {
			s.warn("%s: %s is not true, so that certificates are verified", insecure.path, secret.Quote(insecure.text))
		}
		c.Insecure = is
	}
	if verify.isText() {
		is, ok := verify.boolean()
		switch {
		case c.Insecure: // it wins
		case ok && (is || verify.plain):
			c.Insecure = c.Insecure || !is
		case c.CACert != "":
			s.warn("%s: is a text, not false, so that certificates are verified", verify.path)
		case strings.ContainsAny(verify.text, "/."):
			c.CACert = verify.text // the path of a CA, as python-requests takes it
		case ok:
			return fmt.Errorf("%s: is a text, not false, and openstacksdk reads it as the path of a CA: to skip the verification of certificates, set insecure: true (OS_INSECURE=true)", verify.path)
		default:
			return fmt.Errorf("%s: %s is neither true nor false", verify.path, secret.Quote(verify.text))
		}
	}
	if c.Insecure && c.CACert != "" {
		s.warn("%s: cacert is not used: certificates are not verified", c.Source)
		c.CACert = ""
	}
	if c.Key != "" && c.Cert == "" {
		s.warn("%s: key is not used without cert", c.Source)
		c.Key = ""
	}
	c.CACert, c.Cert, c.Key = s.expandHome(c.CACert), s.expandHome(c.Cert), s.expandHome(c.Key)
	return nil
}

// versions warns of API versions that are not supported.
func (s *settings) versions() {
	if v := s.top("identity_api_version"); v.isText() && !strings.HasPrefix(v.text, "3") {
		s.warn("%s: is not used: Keystone is called by its API v3", v.path)
	}
	if v := s.top("compute_api_version"); v.isText() && !strings.HasPrefix(v.text, "2") {
		s.warn("%s: is not used: Nova is called by its API v2.1", v.path)
	}
	if v := s.top("compute_default_microversion"); v.isText() {
		s.warn("%s: is not used: the newest microversion that both sides know is used", v.path)
	}
}

var (
	// ofWay matches keys that decide where or how a cloud is called.
	ofWay = regexp.MustCompile(`auth|url|endpoint|proxy|cert|\Aca|verify|insecure|ssl|tls|region|interface|token|scope|domain|project|tenant|user|pass|credential|trust|federat|identity|protocol|client_id|client_secret|access_key|secret|microversion|api_version|service_type|service_name`)
	// ofOthers matches keys of other services, and keys without effect here.
	ofOthers = regexp.MustCompile(`\A(?:image|volume|volumev2|volumev3|block_storage|block_store|network|object_store|dns|orchestration|baremetal|container|container_infra|load_balancer|key_manager|shared_file_system|share|sharev2|placement|database|accelerator|clustering|instance_ha|messaging|metering|metric|alarming|workflow|workflowv2|rating|reservation|search|data_processing|application_catalog|function|backup|event|monitoring|root_cause_analysis|registration|resource_optimization|nfv_orchestration|multi_region|advisor|key|has|manila|mistral|cinder|glance|heat|neutron|swift|trove|sahara|barbican|ironic|designate|magnum|octavia|compute_timeout|vendor_hook|floating_ip_source|secgroup_source|metrics|cache|networks|external_network|internal_network|requires_floating_ip|disable_vendor_agent|disabled_reason)(?:_|\z)`)
)

// leftOver warns of keys that were not read: all keys of auth, and others that decide where or how a cloud is called.
func (s *settings) leftOver() {
	for _, name := range slices.Sorted(maps.Keys(s.root.keys)) {
		v := s.root.keys[name]
		if s.used[name] || v.null || name == "auth" || name == "profile" || name == "cloud" {
			continue
		}
		if ofWay.MatchString(name) && (!ofOthers.MatchString(name) || name == "key") {
			s.warn("%s: this key is unknown and not used", v.path)
		}
	}
	auth := s.root.get("auth")
	if auth == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(auth.keys)) {
		if v := auth.keys[name]; !s.used["auth."+name] && !v.null {
			s.warn("%s: this key is unknown and not used", v.path)
		}
	}
}
