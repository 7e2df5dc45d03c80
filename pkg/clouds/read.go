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

// Read reads the files and the environment, which has the form of [os.Environ].
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

// reader is the state of one call of [Read].
type reader struct {
	q        Query
	env      map[string]string
	tried    []string // files that could not be used, with the reason unless they do not exist
	clouds   *file
	secure   *file
	warnings []string

	source string
	named  bool // a cloud of the files, not OS_*
}

func (r *reader) warn(format string, args ...any) {
	r.warnings = append(r.warnings, fmt.Sprintf(format, args...))
}

// readFiles reads clouds.yaml and secure.yaml, which may be in different folders.
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

// skipped warns of files that exist and cannot be used.
func (r *reader) skipped(tried []string) {
	for _, reason := range tried {
		if strings.Contains(reason, ": ") { // a reason other than that the file does not exist
			r.warn("skipped: %s", reason)
		}
	}
}

// name returns the name of the cloud for messages.
func (r *reader) name() string {
	name := cmp.Or(r.q.Cloud, r.env["OS_CLOUD"])
	if name == "" {
		return "clouds.yaml"
	}
	return "cloud " + secret.Quote(name)
}

// choose returns the values of the cloud of the query.
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
	return errors.New(text)
}

// where says which files were read and which clouds they have.
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

// environment returns OS_* as the values of a cloud.
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
