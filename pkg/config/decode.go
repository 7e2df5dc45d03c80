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

// Problem is one thing that is wrong with a file.
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

// maxValues bounds a file, counting what its aliases repeat: a few of them can
// repeat one another without end.
const maxValues = 100_000

// decoder turns a YAML document into Go values and goes on after a problem, so
// that all of them are reported at once. It is stricter than YAML's own
// decoding: unknown and duplicate keys, a key without a value, a second document
// are problems. It is more lenient in one thing: a list may be written as its
// only value.
type decoder struct {
	problems []Problem
	lines    map[string]int    // of the keys seen, for problems found later
	skipped  map[string]bool   // paths of what could not be read; of lists that lack an item, with [] behind
	keys     map[string]string // for messages, those that cannot be shown
	values   int               // seen so far
	unusable bool              // so little was read that what it lacks says nothing
}

func newDecoder() *decoder {
	return &decoder{lines: map[string]int{}, skipped: map[string]bool{}, keys: map[string]string{}}
}

func (d *decoder) problem(path string, line int, format string, args ...any) {
	d.problems = append(d.problems, Problem{path, line, secret.Values(fmt.Sprintf(format, args...))})
}

// skip is problem for a value that could not be read.
func (d *decoder) skip(path string, line int, format string, args ...any) {
	d.problem(path, line, format, args...)
	d.skipped[path] = true
	if strings.HasSuffix(path, "]") {
		d.skipped[parent(path)+"[]"] = true
	}
}

// unread reports whether the value at a path, one around it or one in its list
// could not be read, so that what is there says nothing.
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

// document decodes data, which must hold one YAML document, into the struct
// that v points to.
func (d *decoder) document(data []byte, v any) {
	docs, err := parseYAML(data)
	if err != nil {
		d.unusable = true
		// Of what the parser quotes, the name of an anchor is the only text of the file.
		text := unknownAnchor.ReplaceAllString(errorPrefix.ReplaceAllString(err.Error(), ""), "an alias (*) names an anchor that the file does not have; a value that begins with * needs quotes")
		d.problem("", errorLine(data, err), "is not YAML: %s", text)
		return
	}
	if len(docs) == 0 {
		return
	}
	if len(docs) > 1 {
		d.problem("", docs[1].Line, "a second document follows; only one is read")
	}
	root := docs[0].Content[0]
	d.unusable = root.Kind != yaml.MappingNode && !isNull(root)
	d.value(root, reflect.ValueOf(v).Elem(), "", root.Line)
}

// parseYAML gives the first two documents, or as many as there are.
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

// errorLine is the line at which data stops being YAML. The parser's own number
// is that of where something began, is off by one for some errors and
// missing for others, so this is the number of lines that it takes for the same
// error.
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

// value decodes a node into v. The line is that of the key or the list item.
func (d *decoder) value(node *yaml.Node, v reflect.Value, path string, line int) {
	if node.Kind == yaml.AliasNode {
		node = node.Alias // one that contains itself ends where the types do
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
			n, err := strconv.Atoi(s) // YAML's own reading makes 3 of 3.7, and 8 of 010
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

// A hint is an error that says what may have been meant.
type hint string

func (h hint) Error() string { return "did you mean " + string(h) + "?" }

func (d *decoder) scalar(node *yaml.Node, path string, line int, want string, set func(string) error) {
	switch {
	case isNull(node):
		d.skip(path, line, "has no value; %s is wanted", want)
		return
	case node.Kind != yaml.ScalarNode:
		d.skip(path, line, "is not %s", want)
		return
	case strings.HasPrefix(node.Tag, "!") && !strings.HasPrefix(node.Tag, "!!"):
		d.skip(path, line, "has a tag of its own (!), which is not read; a value that begins with ! needs quotes")
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
		d.skip(path, line, "has no value; keys are wanted below it")
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
			d.skip(path, key.Line, "merge keys (<<) are not read; write the keys out, or give the whole value an alias")
			continue
		}
		if key.Kind != yaml.ScalarNode || key.Value == "" {
			d.problem(path, key.Line, "has a key that is not a plain word")
			continue
		}
		if first, ok := seen[key.Value]; ok {
			d.problem(join(path, d.shown(path, key.Value)), key.Line, "is there a second time; the first is in line %d", first)
			continue
		}
		seen[key.Value] = key.Line
		each(key, value)
	}
}

// field decodes into the field of v that has the key as its tag.
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

// eachField calls f with every field of a struct and those of the structs that
// are inlined into it.
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

// shown is a key below a path, for a message. A secret may have been pasted in its
// place: then it is the number of such a key. The name of a role is in tokens and in
// the audit log, and may have many words.
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

// hideKeys takes the keys that are not shown out of a message.
func (d *decoder) hideKeys(message string) string {
	if len(d.keys) == 0 {
		return message
	}
	long := func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) }
	for _, key := range slices.SortedFunc(maps.Keys(d.keys), long) { // one may be in another
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

// parent is the path above, "" at the top.
func parent(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

// near reports whether a is b but for case, separators, or two letters, and for
// how many letters.
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

// distance is Levenshtein's.
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

// parsePrefix takes a CIDR without bits beyond its length, or an address, which
// is the network of itself.
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
		return p, strconv.ErrSyntax // it contains no address: those are unmapped
	}
	if p != p.Masked() {
		return p, hint(p.Masked().String())
	}
	return p, nil
}
