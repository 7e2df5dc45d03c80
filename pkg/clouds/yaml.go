package clouds

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const (
	maxValues = 100_000 // of a file, counted again for each alias
	maxDepth  = 32
)

// value is a node of a file, or a variable. It is nil if the key is absent.
type value struct {
	null  bool
	plain bool // not in quotes, so that PyYAML may read another type
	text  string
	items []*value
	keys  map[string]*value
	path  string // of the key, with line and file, for messages

	dashed bool // the key is written with dashes
}

// get returns the value of a key, nil if it is absent or null.
func (v *value) get(key string) *value {
	if v == nil || v.keys[key] == nil || v.keys[key].null {
		return nil
	}
	return v.keys[key]
}

// isText reports whether the value is a non-empty scalar.
func (v *value) isText() bool { return v != nil && v.items == nil && v.keys == nil && v.text != "" }

var unknownAnchor = regexp.MustCompile(`(?s)unknown anchor '.*' referenced`)

// parseError returns the error without values of the file.
func parseError(err error) error {
	return errors.New(secret.Values(unknownAnchor.ReplaceAllString(err.Error(), "unknown anchor referenced")))
}

// parser makes values of YAML's nodes, as PyYAML's safe_load does. Scalars stay texts.
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

// withDash matches keys that openstacksdk ignores in this spelling.
var withDash = regexp.MustCompile(`\A(?:auth-type|.*endpoint-type)\z`)

var ofScope = regexp.MustCompile(`\A(?:(?:user_|project_)?domain|project|tenant)_(?:id|name)\z`)

// mapping reads the keys of a mapping. Its own keys win over those of a merge key (https://yaml.org/type/merge.html).
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
			continue // openstacksdk prefers the spelling with dashes
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

// merge adds the keys of one mapping, or of several, of which the first wins.
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

// combine merges two mappings at all levels. The values of over win.
func combine(under, over *value) *value {
	switch {
	case over == nil:
		return under
	case under == nil || under.keys == nil || over.keys == nil:
		return over
	}
	all := &value{keys: maps.Clone(under.keys), path: over.path}
	for key, v := range over.keys {
		all.keys[key] = combine(under.keys[key], v)
	}
	return all
}
