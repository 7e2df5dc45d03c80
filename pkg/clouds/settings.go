package clouds

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// settings are the merged values of a cloud, which are being read.
type settings struct {
	*reader
	root *value
	used map[string]bool // keys, and those of auth with "auth." before them
	err  error           // the first value of a wrong kind
	// generic is keystoneauth1's plugin password, which alone knows a default domain.
	generic bool
}

// key is how the user writes a key of auth, or one beside it.
func (s *settings) key(name string) string {
	if !s.named {
		return "OS_" + strings.ToUpper(name)
	}
	return "auth." + name
}

// typeKey is auth_type as the user writes it.
func (s *settings) typeKey() string {
	if !s.named {
		return "OS_AUTH_TYPE"
	}
	return "auth_type"
}

// text is a scalar as it is written, "" for none.
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
			s.warn("%s: PyYAML reads this value as %s, and openstack then uses another text; it is used as it is written here: put it into quotes", v.path, t)
		}
	}
	return v.text
}

// top is a key of the cloud.
func (s *settings) top(name string) *value {
	s.used[name] = true
	return s.root.get(name)
}

func (s *settings) inAuth(name string) *value {
	s.used["auth."+name] = true
	return s.root.get("auth").get(name)
}

// option is an option of the login, by its name and older names, nil for none. Those in
// auth have precedence over those beside it.
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

// scope is an option of the scope. openstacksdk moves those beside auth into it, where
// they have precedence; of several names the last wins.
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

// expand fills in other keys of the cloud, as in https://{region_name}.example.com.
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
			s.err = cmp.Or(s.err, fmt.Errorf("%s: there is no key %s to fill in", v.path, shownKey(name)))
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
		return nil, cmp.Or(s.err, errNoAuthURL)
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

// The ways to log in.
const (
	password              = "password"
	applicationCredential = "application credential"
)

// kind is the way to log in that auth_type asks for, "" if it says nothing.
func (s *settings) kind() (string, error) {
	v := s.top("auth_type")
	for _, other := range []*value{s.top("auth_plugin"), s.root.get("auth-type")} {
		if v == nil {
			v = other
		}
	}
	if !v.isText() {
		return "", nil
	}
	dashed := v == s.root.get("auth-type") // it is refused, or not used
	switch v.text {
	case "password":
		return password, nil
	case "v3password":
		s.generic = dashed
		return password, nil
	case "v3applicationcredential", "applicationcredential":
		if s.generic = dashed; dashed {
			return "", nil
		}
		return applicationCredential, nil
	}
	return "", fmt.Errorf("%s: the auth_type %s is not supported; password, v3password and v3applicationcredential are", v.path, secret.Quote(v.text))
}

func (s *settings) account(c *Cloud, kind string) error {
	given := Credential{
		ID: s.login("application_credential_id"), Name: s.login("application_credential_name"), Secret: s.login("application_credential_secret"),
	}
	word := s.login("password")
	if kind == "" {
		kind = password
		if (given.ID != "" || given.Name != "") && (word == "" || s.login("user_id", "username", "user_name") == "") {
			kind = applicationCredential
		}
	}
	ofAll := Domain{s.login("default_domain_id"), s.login("default_domain_name")}
	if !s.generic {
		ofAll = Domain{}
	}
	// Without another domain, that of the scope is the user's, too.
	domain := Domain{s.scope("domain_id"), s.scope("domain_name")}
	project := Name{ID: s.scope("tenant_id", "project_id"), Name: s.scope("tenant_name", "project_name")}
	ofUser := Domain{s.scope("user_domain_id"), s.scope("user_domain_name")}
	ofProject := Domain{s.scope("project_domain_id"), s.scope("project_domain_name")}
	if project != (Name{}) {
		ofUser = Domain{cmp.Or(ofUser.ID, domain.ID), cmp.Or(ofUser.Name, domain.Name)}
		ofProject = Domain{cmp.Or(ofProject.ID, domain.ID), cmp.Or(ofProject.Name, domain.Name)}
		domain = Domain{}
	}
	// keystoneauth1 prefers an ID, also if it is that of the default.
	ofUser = Domain{cmp.Or(ofUser.ID, ofAll.ID), cmp.Or(ofUser.Name, ofAll.Name)}
	ofProject = Domain{cmp.Or(ofProject.ID, ofAll.ID), cmp.Or(ofProject.Name, ofAll.Name)}
	// That of python-openstackclient, for users and projects without one.
	fallback := Domain{ID: cmp.Or(s.login("default_domain"), "default")}
	c.User = named(s.login("user_id"), s.login("username", "user_name"), ofUser, fallback)
	if c.User == (Name{}) && (kind == password || given.ID == "") {
		return fmt.Errorf("there is no user: set %s or %s", s.key("username"), s.key("user_id"))
	}
	if kind == applicationCredential {
		return s.credential(c, given, word)
	}
	if given != (Credential{}) {
		s.warn("%s: the application credential is not used, but the password: set %s to v3applicationcredential", c.Source, s.typeKey())
	}
	if c.Password = word; word == "" {
		hint := ""
		if given != (Credential{}) {
			hint = fmt.Sprintf("; for the application credential set %s to v3applicationcredential", s.typeKey())
		}
		return fmt.Errorf("there is no password: set %s%s", s.key("password"), hint)
	}
	return s.target(c, project, ofProject, domain, fallback)
}

// credential sets the application credential, which is bound to a project: Keystone
// refuses another scope beside it.
func (s *settings) credential(c *Cloud, given Credential, word string) error {
	switch {
	case given.ID == "" && given.Name == "":
		return fmt.Errorf("there is no application credential: set %s or %s", s.key("application_credential_id"), s.key("application_credential_name"))
	case given.Secret == "":
		return fmt.Errorf("there is no secret of the application credential: set %s", s.key("application_credential_secret"))
	}
	if given.ID != "" {
		given.Name, c.User = "", Name{}
	}
	if word != "" {
		s.warn("%s: the password is not used: an application credential is", c.Source)
	}
	for _, name := range []string{"system_scope", "trust_id"} {
		if s.login(name) != "" {
			s.warn("%s is not used: an application credential has its own project", s.key(name))
		}
	}
	c.ApplicationCredential = given
	return nil
}

// target sets the scope. One only: Keystone takes no other.
func (s *settings) target(c *Cloud, project Name, ofProject, domain, fallback Domain) error {
	system, trust := s.login("system_scope"), s.login("trust_id")
	var have []string
	if project != (Name{}) {
		have = append(have, "project")
		c.Scope.Project = named(project.ID, project.Name, ofProject, fallback)
	}
	if domain != (Domain{}) {
		have = append(have, "domain")
		c.Scope.Domain = one(domain)
	}
	if trust != "" {
		have = append(have, "trust")
		c.Scope.Trust = trust
	}
	if system != "" {
		have = append(have, "system")
		c.Scope.System = true
		if system != "all" {
			return fmt.Errorf("%s: the only system scope is all", s.key("system_scope"))
		}
	}
	if len(have) > 1 {
		return fmt.Errorf("a login has one scope, and this one has several: %s; remove all but one", strings.Join(have, ", "))
	}
	return nil
}

// named is a user or a project: an ID, or a name in a domain.
func named(id, name string, domain, fallback Domain) Name {
	switch {
	case id != "":
		return Name{ID: id}
	case name == "":
		return Name{}
	case domain == (Domain{}):
		domain = fallback
	}
	return Name{Name: name, Domain: one(domain)}
}

// one is a domain by its ID, else by its name.
func one(d Domain) Domain {
	if d.ID != "" {
		d.Name = ""
	}
	return d
}

// interfaces are the endpoints that may be used, best first.
func (s *settings) interfaces() ([]string, error) {
	if s.q.Interface != "" {
		return []string{s.q.Interface}, nil
	}
	var chosen *value
	for _, name := range []string{"interface", "endpoint_type", "compute_interface", "compute_endpoint_type"} {
		if v := s.top(name); v != nil && (v.isText() || len(v.items) > 0) {
			chosen = v // the older names win in openstacksdk
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

// certificates reads what is said about TLS, in the order of
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
			return fmt.Errorf("%s: is a text, not false, and openstacksdk takes it for the path of a CA: set insecure: true (OS_INSECURE=true) if certificates are not to be verified", verify.path)
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

// versions warns of API versions that are not spoken.
func (s *settings) versions() {
	if v := s.top("identity_api_version"); v.isText() && !strings.HasPrefix(v.text, "3") {
		s.warn("%s: is not used: Keystone is asked by its API v3", v.path)
	}
	if v := s.top("compute_api_version"); v.isText() && !strings.HasPrefix(v.text, "2") {
		s.warn("%s: is not used: Nova is asked by its API v2.1", v.path)
	}
	if v := s.top("compute_default_microversion"); v.isText() {
		s.warn("%s: is not used: the newest microversion that both sides know is", v.path)
	}
}

var (
	// ofWay are keys that decide where or how a cloud is called.
	ofWay = regexp.MustCompile(`auth|url|endpoint|proxy|cert|\Aca|verify|insecure|ssl|tls|region|interface|token|scope|domain|project|tenant|user|pass|credential|trust|federat|identity|protocol|client_id|client_secret|access_key|secret|microversion|api_version|service_type|service_name`)
	// ofOthers are keys of other services, and those that decide nothing here.
	ofOthers = regexp.MustCompile(`\A(?:image|volume|volumev2|volumev3|block_storage|block_store|network|object_store|dns|orchestration|baremetal|container|container_infra|load_balancer|key_manager|shared_file_system|share|sharev2|placement|database|accelerator|clustering|instance_ha|messaging|metering|metric|alarming|workflow|workflowv2|rating|reservation|search|data_processing|application_catalog|function|backup|event|monitoring|root_cause_analysis|registration|resource_optimization|nfv_orchestration|multi_region|advisor|key|has|manila|mistral|cinder|glance|heat|neutron|swift|trove|sahara|barbican|ironic|designate|magnum|octavia|compute_timeout|vendor_hook|floating_ip_source|secgroup_source|metrics|cache|networks|external_network|internal_network|requires_floating_ip|disable_vendor_agent|disabled_reason)(?:_|\z)`)
)

// leftOver warns of keys that were not read and that have to do with the way to the
// cloud, and of all in auth.
func (s *settings) leftOver() {
	for _, name := range slices.Sorted(maps.Keys(s.root.keys)) {
		v := s.root.keys[name]
		if s.used[name] || v.null || name == "auth" || name == "profile" || name == "cloud" {
			continue
		}
		if ofWay.MatchString(name) && (!ofOthers.MatchString(name) || name == "key") {
			s.warn("%s: this key is not known and not used", v.path)
		}
	}
	auth := s.root.get("auth")
	if auth == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(auth.keys)) {
		if v := auth.keys[name]; !s.used["auth."+name] && !v.null {
			s.warn("%s: this key is not known and not used", v.path)
		}
	}
}
