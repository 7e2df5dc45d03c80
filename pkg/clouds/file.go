package clouds

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const (
	maxFile   = 1 << 20
	maxValues = 100_000 // of a file, each as often as an alias repeats it
	maxDepth  = 32
)

// value is a node of a file, or a variable. A nil value is absent.
type value struct {
	null  bool
	plain bool // not in quotes: PyYAML may read another type
	text  string
	items []*value
	keys  map[string]*value
	path  string // where it is written, for messages

	dashed bool // its key is written with dashes
}

// get is the value of a key, nil if it is absent or null.
func (v *value) get(key string) *value {
	if v == nil || v.keys[key] == nil || v.keys[key].null {
		return nil
	}
	return v.keys[key]
}

// isText reports whether the value is a scalar that is not empty.
func (v *value) isText() bool { return v != nil && v.items == nil && v.keys == nil && v.text != "" }

// file is a configuration file that was read.
type file struct {
	name string
	root *value
}

// search reads the first of the files that can be read. Those that were tried are
// added to tried, with the reason if it is another than that there is no such file.
func search(names []string, tried *[]string) *file {
	for _, name := range names {
		f, err := read(name)
		switch {
		case err == nil:
			return f
		case errors.Is(err, fs.ErrNotExist):
			*tried = append(*tried, shownPath(name))
		default:
			*tried = append(*tried, err.Error())
		}
	}
	return nil
}

// shownPath is the path of a file, unless it may be a secret in the wrong place.
func shownPath(name string) string {
	if !secret.IsPath(name, ".") {
		return secret.Hidden
	}
	return name
}

func read(name string) (*file, error) {
	text, err := secret.ReadOwned(name, maxFile)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(name, ".json") {
		// JSON is YAML but for tabs between its parts.
		var compact bytes.Buffer
		if err := json.Compact(&compact, text); err != nil {
			return nil, secret.FileError(name, errors.New("is not JSON"))
		}
		text = compact.Bytes()
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, secret.FileError(name, parseError(err))
	}
	if doc.Kind == 0 {
		return &file{name: name}, nil // empty
	}
	p := &parser{left: maxValues, base: filepath.Base(name)}
	root, err := p.value(doc.Content[0], "")
	if err != nil {
		return nil, secret.FileError(name, err)
	}
	if root.keys == nil && !root.null {
		return nil, secret.FileError(name, errors.New("is not a mapping"))
	}
	return &file{name, root}, nil
}

var unknownAnchor = regexp.MustCompile(`(?s)unknown anchor '.*' referenced`)

// parseError has no value of the file in it.
func parseError(err error) error {
	return errors.New(secret.Values(unknownAnchor.ReplaceAllString(err.Error(), "unknown anchor referenced")))
}

// parser turns YAML's nodes into values, as PyYAML's safe_load would but for the types
// of scalars.
type parser struct {
	left  int
	depth int
	base  string
}

func (p *parser) value(n *yaml.Node, path string) (*value, error) {
	if p.left--; p.left < 0 {
		return nil, fmt.Errorf("has more than %d values", maxValues)
	}
	p.depth++
	defer func() { p.depth-- }()
	if p.depth > maxDepth {
		return nil, fmt.Errorf("has more than %d levels", maxDepth)
	}
	v := &value{path: fmt.Sprintf("%s (line %d of %s)", path, n.Line, shownKey(p.base))}
	switch n.Kind {
	case yaml.AliasNode:
		return p.value(n.Alias, path)
	case yaml.ScalarNode:
		v.text = n.Value
		v.plain = n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0 && n.Style&yaml.TaggedStyle == 0
		v.null = v.plain && pythonNull.MatchString(n.Value)
		return v, nil
	case yaml.SequenceNode:
		v.items = []*value{}
		for i, item := range n.Content {
			one, err := p.value(item, fmt.Sprintf("%s[%d]", path, i))
			if err != nil {
				return nil, err
			}
			v.items = append(v.items, one)
		}
		return v, nil
	case yaml.MappingNode:
		v.keys = map[string]*value{}
		return v, p.mapping(n, path, v)
	}
	return nil, errors.New("has a part that is not YAML")
}

// withDash are keys that openstacksdk does not read when they are written so.
var withDash = regexp.MustCompile(`\A(?:auth-type|.*endpoint-type)\z`)

var ofScope = regexp.MustCompile(`\A(?:(?:user_|project_)?domain|project|tenant)_(?:id|name)\z`)

// mapping reads the keys of a mapping. Those that a merge key brings give way to its
// own (https://yaml.org/type/merge.html).
func (p *parser) mapping(n *yaml.Node, path string, into *value) error {
	merged := map[string]*value{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, content := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.ScalarNode && key.Tag == "!!merge" {
			if err := p.merge(content, path, merged); err != nil {
				return err
			}
			continue
		}
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if key.Kind != yaml.ScalarNode {
			return fmt.Errorf("line %d: a key is not a word", key.Line)
		}
		name := strings.ReplaceAll(key.Value, "-", "_")
		if path == "clouds" || path == "public_clouds" || withDash.MatchString(key.Value) {
			name = key.Value
		}
		one, err := p.value(content, strings.TrimPrefix(path+"."+shownKey(name), "."))
		if err != nil {
			return err
		}
		one.dashed = name != key.Value
		if other := into.keys[name]; other != nil && other.dashed && ofScope.MatchString(name) {
			continue // of both spellings openstacksdk prefers the one with dashes
		}
		into.keys[name] = one
	}
	for name, v := range merged {
		if into.keys[name] == nil {
			into.keys[name] = v
		}
	}
	return nil
}

// merge adds the keys of one mapping, or of several of which the first has precedence.
func (p *parser) merge(n *yaml.Node, path string, merged map[string]*value) error {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.SequenceNode {
		for _, one := range n.Content {
			if err := p.merge(one, path, merged); err != nil {
				return err
			}
		}
		return nil
	}
	v, err := p.value(n, path)
	if err != nil {
		return err
	}
	for name, one := range v.keys {
		if merged[name] == nil {
			merged[name] = one
		}
	}
	return nil
}

func shownKey(key string) string {
	if !secret.ShownKey(key) {
		return secret.Hidden
	}
	return key
}

// combine gives a mapping with the keys of both, those of over before those of under,
// down to the last mapping.
func combine(under, over *value) *value {
	switch {
	case over == nil:
		return under
	case under == nil || under.keys == nil || over.keys == nil:
		return over
	}
	all := &value{keys: map[string]*value{}, path: over.path}
	for key, v := range under.keys {
		all.keys[key] = v
	}
	for key, v := range over.keys {
		all.keys[key] = combine(under.keys[key], v)
	}
	return all
}

// folders are where openstacksdk looks for its files, in its order.
func (r *reader) folders() []string {
	home := r.home()
	all := []string{"."}
	below := func(folder string) {
		if filepath.IsAbs(folder) {
			all = append(all, filepath.Join(folder, "openstack"))
		}
	}
	if config := r.env["XDG_CONFIG_HOME"]; config != "" {
		below(config)
	} else {
		below(filepath.Join(home, ".config"))
	}
	if snap := r.env["SNAP_REAL_HOME"]; snap != "" {
		home = snap
	}
	below(filepath.Join(home, ".config"))
	site := r.env["XDG_CONFIG_DIRS"]
	if site == "" {
		site = "/etc/xdg"
	}
	for _, folder := range filepath.SplitList(site) {
		below(folder)
	}
	below("/etc")
	return unique(all)
}

func unique(all []string) []string {
	seen := map[string]bool{}
	var kept []string
	for _, s := range all {
		if !seen[s] {
			seen[s] = true
			kept = append(kept, s)
		}
	}
	return kept
}

// inFolders are the names that a file can have, such as clouds.
func inFolders(folders []string, name string) []string {
	var all []string
	for _, folder := range folders {
		for _, suffix := range []string{".yaml", ".yml", ".json"} {
			all = append(all, filepath.Join(folder, name+suffix))
		}
	}
	return all
}

// expandHome replaces ~ at the beginning of a path.
func (r *reader) expandHome(path string) string {
	rest, ok := strings.CutPrefix(path, "~")
	if !ok || rest != "" && !os.IsPathSeparator(rest[0]) {
		return path
	}
	home := r.home()
	if home == "" {
		return path
	}
	return home + rest
}

// home is the user's home directory, "" if it is not known.
func (r *reader) home() string {
	if home := r.env["HOME"]; home != "" {
		return home
	}
	if u, err := user.Current(); err == nil {
		return u.HomeDir
	}
	return ""
}
