package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
)

// examples has the keys that example/config.yml shows with an example in place of the
// default.
var examples = []string{
	"auth.signingKeyFile", "auth.tokenIssuer", "keys.encryptionKeyFile",
	"roles.*.limit", "roles.*.metadata", "roles.*.period", "roles.*.projectID", "roles.*.since", "roles.*.tokenExpiry", "roles.*.proof", "roles.*.audience", "roles.*.subject", "roles.*.claims", "roles.*.userID",
	"tls.certFile", "tls.keyFile",
}

func readExample(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("../../example/config.yml")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// eachKey calls f with the path and value of each key of v. The path has * for the names of
// roles.
func eachKey(v reflect.Value, path string, f func(path string, v reflect.Value)) {
	switch {
	case v.Kind() == reflect.Struct && v.Type().PkgPath() != "net/netip":
		for i := range v.NumField() {
			name, option, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
			switch {
			case option == "inline":
				eachKey(v.Field(i), path, f)
			case name != "" && name != "-":
				eachKey(v.Field(i), strings.TrimPrefix(path+"."+name, "."), f)
			}
		}
	case v.Kind() == reflect.Map && v.Type().Elem().Kind() == reflect.Struct:
		eachKey(reflect.Zero(v.Type().Elem()), path+".*", f)
		for _, key := range v.MapKeys() {
			eachKey(v.MapIndex(key), path+".*", f)
		}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct && v.Type().Elem().PkgPath() != "net/netip":
		eachKey(reflect.Zero(v.Type().Elem()), path, f)
		for i := range v.Len() {
			eachKey(v.Index(i), path, f)
		}
	default:
		f(path, v)
	}
}

// shownKeys returns the lines of the example's keys that have a value, by path, with * for
// the names of roles.
func shownKeys(t *testing.T) map[string]int {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal(readExample(t), &doc); err != nil {
		t.Fatal(err)
	}
	lines := map[string]int{}
	var walk func(node *yaml.Node, path []string)
	walk = func(node *yaml.Node, path []string) {
		for i := 0; i < len(node.Content); i += 2 {
			key, value := node.Content[i], node.Content[i+1]
			at := append(slices.Clone(path), key.Value)
			if len(at) == 2 && at[0] == "roles" {
				at[1] = "*"
			}
			if value.Kind == yaml.MappingNode && key.Value != "metadata" && key.Value != "static" {
				walk(value, at)
				continue
			}
			if name := strings.Join(at, "."); lines[name] == 0 {
				lines[name] = key.Line
			}
		}
	}
	walk(doc.Content[0], nil)
	return lines
}

// The example shows all keys, and no unknown ones.
func TestExampleIsComplete(t *testing.T) {
	shown := shownKeys(t)
	known := map[string]bool{}
	eachKey(reflect.ValueOf(config.Config{}), "", func(path string, _ reflect.Value) {
		known[path] = true
		if shown[path] == 0 {
			t.Errorf("%s is not in the example", path)
		}
	})
	for path := range shown {
		if !known[path] {
			t.Errorf("the example shows %s, which is not a key", path)
		}
	}
	if len(known) < 30 {
		t.Errorf("only %d keys were found: %v", len(known), known)
	}
}

func TestExampleLoads(t *testing.T) {
	c := mustLoad(t, string(readExample(t)))
	if w := c.Warnings(); len(w) > 0 {
		t.Errorf("the warnings are %v, want none", w)
	}
}

// The example shows the defaults, and marks the values that are not.
func TestExampleShowsDefaults(t *testing.T) {
	want := map[string]any{}
	eachKey(reflect.ValueOf(config.Default()), "", func(path string, v reflect.Value) { want[path] = v.Interface() })
	eachKey(reflect.ValueOf(*mustLoad(t, string(readExample(t)))), "", func(path string, v reflect.Value) {
		isEmpty := (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Len() == 0 && reflect.ValueOf(want[path]).Len() == 0 // [] or left out
		if name, ok := v.Interface().(string); ok && filepath.IsAbs(name) {
			v = reflect.ValueOf(filepath.Base(name))
		}
		if !slices.Contains(examples, path) && !isEmpty && !cmp.Equal(want[path], v.Interface()) {
			t.Errorf("%s is %v, the default is %v", path, v.Interface(), want[path])
		}
	})

	lines := strings.Split(string(readExample(t)), "\n")
	for path, line := range shownKeys(t) {
		if got, want := strings.Contains(lines[line-1], "# e.g."), slices.Contains(examples, path); got != want {
			t.Errorf("%s: marked as an example: %v, want %v", path, got, want)
		}
	}
}

func TestExampleFitsTheScreen(t *testing.T) {
	for i, line := range strings.Split(string(readExample(t)), "\n") {
		if utf8.RuneCountInString(line) > 120 || strings.Contains(line, "\t") || strings.TrimRight(line, " ") != line {
			t.Errorf("line %d is too long, has a tab or ends in a space: %s", i+1, line)
		}
	}
}

// example/try-out.sh makes the files that the example names.
func TestTheScriptMakesTheFilesOfTheExample(t *testing.T) {
	script, err := os.ReadFile("../../example/try-out.sh")
	if err != nil {
		t.Fatal(err)
	}
	c := mustLoad(t, string(readExample(t)))
	for _, file := range slices.Concat(c.Auth.SigningKeyFile, c.Keys.EncryptionKeyFile, []string{c.TLS.CertFile, c.TLS.KeyFile}) {
		if name := filepath.Base(file); !strings.Contains(string(script), "/"+name+"\"") {
			t.Errorf("try-out.sh does not make %s", name)
		}
	}
}
