package clouds

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// Query is what the program's own configuration says. All is optional.
type Query struct {
	Cloud     string // name of a cloud in File; without it OS_CLOUD, then OS_*, then the only cloud of File
	File      string // path of clouds.yaml; without it OS_CLIENT_CONFIG_FILE and the folders of openstacksdk
	Region    string // wins over the cloud's
	Interface string // wins over the cloud's
}

// Cloud is how to reach a cloud, and the account to use there.
type Cloud struct {
	Source string // what says so, for messages

	AuthURL string // of Keystone, as it is written
	// User has an ID, or a name and a domain. It can be empty beside an application
	// credential that has an ID.
	User     Name
	Password string // empty beside an application credential
	// ApplicationCredential has an ID or a name, or neither for a login by password.
	ApplicationCredential Credential
	Scope                 Scope

	Region     string   // empty: the catalog's first
	Interfaces []string // public, internal and admin, best first; never empty
	Compute    Service
	// Identity is the URL at which Keystone is asked about tokens and projects. Empty:
	// where the login was.
	Identity string

	Insecure bool   // certificates are not verified
	CACert   string // path of a PEM file, the only authorities; empty: the system's
	Cert     string // path of a PEM file with the client's certificate, and its key if Key is empty
	Key      string

	// Warnings are what is not used and what may not be meant, each with the place.
	Warnings []string
}

// Name is an ID, or a name in a domain.
type Name struct {
	ID, Name string
	Domain   Domain
}

// Domain is an ID or a name. Not both.
type Domain struct{ ID, Name string }

// Credential is an application credential.
type Credential struct{ ID, Name, Secret string }

// Scope is what a token is wanted for: one of the fields, or none for the project that
// Keystone has as the user's default.
type Scope struct {
	Project Name
	Domain  Domain
	System  bool
	Trust   string // ID
}

// Service says which endpoint of the catalog is a service's.
type Service struct {
	Endpoint string // URL to use instead of the catalog; empty: the catalog's
	Type     string // in the catalog, as a rule compute
	Name     string // in the catalog; empty: any
}

// A NotFoundError says that nothing names a cloud.
type NotFoundError struct{ text string }

func (e *NotFoundError) Error() string { return e.text }

// Read reads the files and the environment, in the form of [os.Environ].
func Read(q Query, environ []string) (*Cloud, error) {
	r := &reader{q: q, env: map[string]string{}}
	for _, line := range environ {
		if name, v, ok := strings.Cut(line, "="); ok && v != "" {
			r.env[name] = v
		}
	}
	if err := r.readFiles(); err != nil {
		return nil, err
	}
	own, err := r.choose()
	if err != nil {
		return nil, err
	}
	c, err := r.cloud(own)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.source, err)
	}
	return c, nil
}

// reader is one [Read].
type reader struct {
	q        Query
	env      map[string]string
	tried    []string // files that could not be used
	clouds   *file
	secure   *file
	warnings []string

	source string
	named  bool // a cloud of the files, not OS_*
}

func (r *reader) warn(format string, args ...any) {
	r.warnings = append(r.warnings, fmt.Sprintf(format, args...))
}

// readFiles reads clouds.yaml and secure.yaml. They need not be in the same folder.
func (r *reader) readFiles() error {
	folders := r.folders()
	if r.q.File != "" {
		var err error
		if r.clouds, err = read(r.q.File); err != nil {
			return fmt.Errorf("%s: %w", r.name(), err)
		}
	} else {
		names := inFolders(folders, "clouds")
		if own := r.env["OS_CLIENT_CONFIG_FILE"]; own != "" {
			names = slices.Insert(names, 0, own)
		}
		r.clouds = search(names, &r.tried)
		if own := r.env["OS_CLIENT_CONFIG_FILE"]; own != "" && (r.clouds == nil || r.clouds.name != own) {
			r.warn("OS_CLIENT_CONFIG_FILE: the file cannot be used: %s", r.tried[0])
			r.tried = r.tried[1:]
		}
		r.skipped(r.tried)
	}
	var names, tried []string
	if own := r.env["OS_CLIENT_SECURE_FILE"]; own != "" {
		names = append(names, own)
	}
	if r.q.File != "" {
		names = append(names, inFolders([]string{filepath.Dir(r.q.File)}, "secure")...)
	}
	names = append(names, inFolders(folders, "secure")...)
	if r.clouds != nil {
		names = append(names, inFolders([]string{filepath.Dir(r.clouds.name)}, "secure")...)
	}
	r.secure = search(unique(names), &tried)
	r.skipped(tried)
	return nil
}

// skipped warns of files that are there and cannot be used.
func (r *reader) skipped(tried []string) {
	for _, reason := range tried {
		if strings.Contains(reason, ": ") { // more than that there is no such file
			r.warn("skipped: %s", reason)
		}
	}
}

// name is the cloud that is asked for, in words.
func (r *reader) name() string {
	name := cmp.Or(r.q.Cloud, r.env["OS_CLOUD"])
	if name == "" {
		return "clouds.yaml"
	}
	return "cloud " + secret.Quote(name)
}

// choose gives the values of the cloud that is asked for.
func (r *reader) choose() (*value, error) {
	all := &value{keys: map[string]*value{}}
	for _, f := range []*file{r.clouds, r.secure} {
		if f == nil {
			continue
		}
		if found := f.root.get("clouds"); found != nil {
			if found.keys == nil {
				return nil, fmt.Errorf("%s: clouds is not a mapping", shownPath(f.name))
			}
			all = combine(all, found)
		}
	}
	name := cmp.Or(r.q.Cloud, r.env["OS_CLOUD"])
	if name == cmp.Or(r.env["OS_CLOUD_NAME"], "envvars") && all.keys[name] == nil {
		name = ""
	}
	switch {
	case name != "":
	case r.env["OS_AUTH_URL"] != "":
		r.source = "the OS_* variables"
		return r.environment(), nil
	case len(all.keys) == 1:
		for only := range all.keys {
			name = only
		}
	default:
		return nil, r.nothing(all)
	}
	own := all.keys[name]
	if own == nil {
		return nil, fmt.Errorf("cloud %s: not found %s", secret.Quote(name), r.where(all))
	}
	r.source, r.named = fmt.Sprintf("cloud %s of clouds.yaml", secret.Quote(name)), true
	if own.keys == nil {
		return nil, fmt.Errorf("%s: it has no values", r.source)
	}
	if r.env["OS_CACERT"] != "" && own.get("cacert") == nil {
		r.warn("OS_CACERT is not read with a named cloud: write cacert into clouds.yaml")
	}
	return own, nil
}

func (r *reader) nothing(all *value) error {
	text := "no credentials: set openstack.cloud, OS_CLOUD, or OS_AUTH_URL and its companions (source an openrc file)"
	if len(all.keys) > 0 {
		text += "; " + strings.TrimPrefix(r.where(all), "in ")
	}
	return &NotFoundError{text}
}

// where says which files were read, and which clouds they have.
func (r *reader) where(all *value) string {
	var names []string
	for _, f := range []*file{r.clouds, r.secure} {
		if f != nil {
			names = append(names, shownPath(f.name))
		}
	}
	if len(names) == 0 {
		return "in any file; tried " + strings.Join(r.tried, ", ")
	}
	text := "in " + strings.Join(names, " and ")
	var have []string
	for _, name := range slices.Sorted(maps.Keys(all.keys)) {
		have = append(have, shownKey(name))
	}
	switch len(have) {
	case 0:
		text += ", which has none"
	default:
		text += ", which has " + strings.Join(have[:min(len(have), 20)], ", ")
	}
	for _, reason := range r.tried {
		if strings.Contains(reason, ": ") {
			text += "; " + reason
		}
	}
	return text
}

// environment turns OS_* into the values of a cloud.
func (r *reader) environment() *value {
	own := &value{keys: map[string]*value{}}
	for name, text := range r.env {
		key, ok := strings.CutPrefix(name, "OS_")
		if !ok || slices.ContainsFunc([]string{"TEST", "STD", "LOG"}, func(other string) bool { return strings.HasPrefix(key, other) }) {
			continue
		}
		switch key {
		case "CLOUD", "CLOUD_NAME", "CLIENT_CONFIG_FILE", "CLIENT_SECURE_FILE":
			continue
		}
		own.keys[strings.ToLower(key)] = &value{text: text, path: shownKey(name)}
	}
	return own
}

// cloud makes a finished Cloud of values, in the order of
// openstack.config.loader.OpenStackConfig.get_one.
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

// update is dict.update of Python, but for auth, whose keys are updated themselves.
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

// region chooses the region and what differs there.
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

// regionsOf reads `regions`, or `region_name` with one or more names. many says that
// the cloud lists its regions, so that no other is one.
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

// profile gives the values of a vendor's profile, on which those of the cloud stand.
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

var errNoAuthURL = errors.New("there is no auth_url")
