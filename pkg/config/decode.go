package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode"

	"gopkg.in/yaml.v3"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// Problem is one problem of a file.
type Problem struct {
	Path    string // of the key, such as roles.web.projectID; "" for the file as a whole
	Line    int    // in the file, 0 if unknown
	Message string
}

func (p Problem) String() string {
	s := p.Message
	if p.Path != "" {
		s = p.Path + ": " + s
	}
	if p.Line > 0 {
		s += fmt.Sprintf(" (line %d)", p.Line)
	}
	return s
}

// maxValues bounds the values of a file, counting what aliases repeat: a short file can
// have aliases of aliases, and so any number of values.
const maxValues = 100_000

// decoder decodes a YAML document and continues after a problem, so that it can report all
// of them. Unknown and duplicate keys, a key without a value and a second document are
// problems. A list with one item may be written as that item.
type decoder struct {
	problems []Problem
	lines    map[string]int    // by path, for problems found later
	skipped  map[string]bool   // paths of values that could not be read; with [] at the end, of lists that lack an item
	keys     map[string]string // keys that messages must not show, and what to show instead
	values   int               // decoded so far
	unusable bool              // the file was not decoded, so missing keys are not reported
}

func newDecoder() *decoder {
	return &decoder{lines: map[string]int{}, skipped: map[string]bool{}, keys: map[string]string{}}
}

func (d *decoder) problem(path string, line int, format string, args ...any) {
	d.problems = append(d.problems, Problem{path, line, secret.Values(fmt.Sprintf(format, args...))})
}

// skip reports a problem of a value that could not be read.
func (d *decoder) skip(path string, line int, format string, args ...any) {
	d.problem(path, line, format, args...)
	d.skipped[path] = true
	if strings.HasSuffix(path, "]") {
		d.skipped[parent(path)+"[]"] = true
	}
}

// unread reports whether the value at a path, an item of it, or a section around it could
// not be read. Problems found there later are not reported.
func (d *decoder) unread(path string) bool {
	if d.skipped[path+"[]"] {
		return true
	}
	for ; path != ""; path = parent(path) {
		if d.skipped[path] {
			return true
		}
	}
	return false
}

// document decodes data, which must be one YAML document, into the struct to which v
// points.
func (d *decoder) document(data []byte, v any) {
	docs, err := parseYAML(data)
	if err != nil {
		d.unusable = true
		// The parser quotes no text of the file except the name of an anchor, which may be
		// a secret.
		text := unknownAnchor.ReplaceAllString(errorPrefix.ReplaceAllString(err.Error(), ""), "an alias (*) names an anchor that the file does not have; a value that begins with * needs quotes")
		d.problem("", errorLine(data, err), "is not YAML: %s", text)
		return
	}
	if len(docs) == 0 {
		return
	}
	if len(docs) > 1 {
		d.problem("", docs[1].Line, "has a second document, which is not supported; remove it")
	}
	root := docs[0].Content[0]
	d.unusable = root.Kind != yaml.MappingNode && !isNull(root)
	d.value(root, reflect.ValueOf(v).Elem(), "", root.Line)
}

// parseYAML returns at most the first two documents.
func parseYAML(data []byte) ([]*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var docs []*yaml.Node
	for len(docs) < 2 {
		doc := new(yaml.Node)
		switch err := dec.Decode(doc); {
		case errors.Is(err, io.EOF):
			return docs, nil
		case err != nil:
			return docs, err
		}
		docs = append(docs, doc)
	}
	return docs, nil
}

var unknownAnchor = regexp.MustCompile(`(?s)unknown anchor '.*' referenced`)

var errorPrefix = regexp.MustCompile(`^yaml: (line \d+: )?`)

// errorLine returns the line at which data stops being YAML: the number of lines that
// cause the same error. The parser's own number is where a value began, off by one, or
// missing.
func errorLine(data []byte, err error) int {
	var ends []int
	for i, c := range data {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	return 1 + sort.Search(len(ends), func(i int) bool {
		_, e := parseYAML(data[:ends[i]])
		return e != nil && e.Error() == err.Error()
	})
}

// value decodes a node into v. line is that of the key or of the list item.
func (d *decoder) value(node *yaml.Node, v reflect.Value, path string, line int) {
	if node.Kind == yaml.AliasNode {
		node = node.Alias // the depth of the types bounds an alias that contains itself
	}
	d.values += 1 + len(node.Content)
	if d.values > maxValues {
		if !d.unusable {
			d.unusable = true
			d.problem("", 0, "has more than %d values, counting what aliases repeat", maxValues)
		}
		return
	}
	d.lines[path] = line
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	switch v.Interface().(type) {
	case time.Duration:
		d.scalar(node, path, line, "a duration such as 5m or 90s", func(s string) error {
			t, err := time.ParseDuration(s)
			v.SetInt(int64(t))
			return err
		})
		return
	case netip.Prefix:
		d.scalar(node, path, line, "a network such as 192.0.2.0/24 or an address", func(s string) error {
			p, err := parsePrefix(s)
			v.Set(reflect.ValueOf(p))
			return err
		})
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		if !isNull(node) { // `tls:` with all below it commented out
			d.mapping(node, path, line, func(key, value *yaml.Node) { d.field(key, value, v, path) })
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		d.mapping(node, path, line, func(key, value *yaml.Node) {
			elem := reflect.New(v.Type().Elem()).Elem()
			d.value(value, elem, join(path, d.shown(path, key.Value)), key.Line)
			v.SetMapIndex(reflect.ValueOf(key.Value), elem)
		})
	case reflect.Slice:
		if node.Kind != yaml.SequenceNode {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			d.value(node, v.Index(0), path, line)
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(node.Content), len(node.Content)))
		for i, item := range node.Content {
			d.value(item, v.Index(i), fmt.Sprintf("%s[%d]", path, i), item.Line)
		}
	case reflect.String:
		d.scalar(node, path, line, "a value", func(s string) error { v.SetString(s); return nil })
	case reflect.Bool:
		d.scalar(node, path, line, "true or false", func(s string) error {
			if s != "true" && s != "false" {
				return strconv.ErrSyntax
			}
			v.SetBool(s == "true")
			return nil
		})
	case reflect.Int:
		d.scalar(node, path, line, "a whole number", func(s string) error {
			n, err := strconv.Atoi(s) // YAML's decoder makes 3 of 3.7, and 8 of 010
			v.SetInt(int64(n))
			return err
		})
	case reflect.Float64:
		d.scalar(node, path, line, "a number", func(s string) error {
			n, err := strconv.ParseFloat(s, 64)
			v.SetFloat(n)
			return err
		})
	default:
		panic(fmt.Sprintf("config: %s is a %s, which the decoder does not know", path, v.Kind()))
	}
}

// hint is an error that suggests a value.
type hint string

func (h hint) Error() string { return "did you mean " + string(h) + "?" }

func (d *decoder) scalar(node *yaml.Node, path string, line int, want string, set func(string) error) {
	switch {
	case isNull(node):
		d.skip(path, line, "has no value; set it to %s, or remove the key", want)
		return
	case node.Kind != yaml.ScalarNode:
		d.skip(path, line, "is not %s", want)
		return
	case strings.HasPrefix(node.Tag, "!") && !strings.HasPrefix(node.Tag, "!!"):
		d.skip(path, line, "begins with a tag (!), which is not supported; a value that begins with ! needs quotes")
		return
	}
	err := set(node.Value)
	if h := hint(""); errors.As(err, &h) {
		d.skip(path, line, "%q is not %s; %v", node.Value, want, h)
	} else if err != nil {
		d.skip(path, line, "%q is not %s", node.Value, want)
	}
}

func (d *decoder) mapping(node *yaml.Node, path string, line int, each func(key, value *yaml.Node)) {
	if isNull(node) {
		d.skip(path, line, "has no value; put keys below it, or remove it")
		return
	}
	if node.Kind != yaml.MappingNode {
		d.skip(path, line, "is not a mapping of keys to values")
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.ShortTag() == "!!merge" {
			d.skip(path, key.Line, "merge keys (<<) are not supported; write the keys out, or use an alias for the whole value")
			continue
		}
		if key.Kind != yaml.ScalarNode || key.Value == "" {
			d.problem(path, key.Line, "has a key that is empty or not a plain word")
			continue
		}
		if first, ok := seen[key.Value]; ok {
			d.problem(join(path, d.shown(path, key.Value)), key.Line, "is a duplicate of the key in line %d; remove one of them", first)
			continue
		}
		seen[key.Value] = key.Line
		each(key, value)
	}
}

// field decodes into the field of v whose tag is the key.
func (d *decoder) field(key, value *yaml.Node, v reflect.Value, path string) {
	var field reflect.Value
	meant, least := "", math.MaxInt
	eachField(v, func(name string, f reflect.Value) {
		if name == key.Value {
			field = f
		}
		if n, ok := near(key.Value, name); ok && n < least {
			meant, least = name, n
		}
	})
	switch {
	case field.IsValid():
		d.value(value, field, join(path, key.Value), key.Line)
	case meant != "":
		d.problem(join(path, key.Value), key.Line, "is not a known key; %v", hint(meant))
	default:
		d.problem(join(path, d.shown(path, key.Value)), key.Line, "is not a known key")
	}
}

// eachField calls f with each field of a struct and of the structs inlined into it.
func eachField(v reflect.Value, f func(name string, field reflect.Value)) {
	for i := range v.NumField() {
		name, option, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		switch {
		case option == "inline":
			eachField(v.Field(i), f)
		case name != "" && name != "-":
			f(name, v.Field(i))
		}
	}
}

func isNull(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" }

// shown returns a key below a path as a message may show it. For a key that may be a
// pasted secret it returns a number. The name of a role may look like a phrase, and is no
// secret: tokens and the audit log have it.
func (d *decoder) shown(path, key string) string {
	if (secret.Shown(key) || path == "roles" && secret.ShownKey(key) && !strings.Contains(key, " ")) && !strings.Contains(key, ":") {
		return key
	}
	if _, ok := d.keys[key]; !ok {
		d.keys[key] = secret.Hidden
		if n := len(d.keys); n > 1 {
			d.keys[key] = fmt.Sprintf("%s #%d", secret.Hidden, n)
		}
	}
	return d.keys[key]
}

// hideKeys replaces the keys that must not be shown in a message.
func (d *decoder) hideKeys(message string) string {
	if len(d.keys) == 0 {
		return message
	}
	long := func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) }
	for _, key := range slices.SortedFunc(maps.Keys(d.keys), long) { // one may contain another
		if isText := func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }; len(key) > 3 && strings.ContainsFunc(key, isText) {
			message = strings.ReplaceAll(message, key, d.keys[key])
		}
	}
	return message
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// parent returns the path of the section or list around a path, "" at the top.
func parent(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

// near reports whether a and b differ only in case, separators and at most two letters, and
// in how many letters.
func near(a, b string) (int, bool) {
	fold := strings.NewReplacer("_", "", "-", "")
	a, b = fold.Replace(strings.ToLower(a)), fold.Replace(strings.ToLower(b))
	most := min(2, len(b)/3)
	if len(a) > len(b)+most {
		return 0, false
	}
	n := distance(a, b)
	return n, n <= most
}

// distance returns the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// parsePrefix parses a CIDR without bits beyond its length, or an address, which becomes a
// network of one address.
func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, err
	}
	if p.Addr().Is4In6() {
		return p, strconv.ErrSyntax // no address would match: addresses are unmapped
	}
	if p != p.Masked() {
		return p, hint(p.Masked().String())
	}
	return p, nil
}
