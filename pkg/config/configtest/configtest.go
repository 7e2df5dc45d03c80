// Package configtest makes configurations for tests that must hold for each key. It finds the
// keys in the types of package config.
package configtest

import (
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
)

// Keys returns the paths of all keys that have a value, with web for the name of a role, and
// any for a key that the operator chooses.
func Keys() []string { return keysOf(reflect.TypeFor[config.Config](), "") }

// Sections returns the paths of all keys that have keys below them, "" for the file.
func Sections() []string {
	found := map[string]bool{"": true}
	for _, key := range Keys() {
		for i := strings.LastIndex(key, "."); i > 0; i = strings.LastIndex(key[:i], ".") {
			found[key[:i]] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func keysOf(t reflect.Type, path string) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[time.Duration]() || t.Kind() != reflect.Struct && t.Kind() != reflect.Map:
		return []string{path}
	case t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Struct:
		return keysOf(t.Elem(), strings.TrimPrefix(path+".web", "."))
	case t.Kind() == reflect.Map:
		return keysOf(t.Elem(), path+".any")
	}
	var keys []string
	named := false
	for i := range t.NumField() {
		f := t.Field(i)
		name, option, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case option == "inline":
			keys, named = append(keys, keysOf(f.Type, path)...), true
		case name != "" && name != "-":
			keys, named = append(keys, keysOf(f.Type, strings.TrimPrefix(path+"."+name, "."))...), true
		}
	}
	if !named {
		return []string{path} // such as netip.Prefix
	}
	return keys
}

// Values is a configuration: values in YAML by the paths of their keys. A value may have
// several lines.
type Values map[string]string

// With returns a copy with more values.
func (v Values) With(more Values) Values {
	all := maps.Clone(v)
	for key := range more {
		for old := range all { // a value has no keys below it
			if strings.HasPrefix(old, key+".") || strings.HasPrefix(key, old+".") {
				delete(all, old)
			}
		}
	}
	maps.Copy(all, more)
	return all
}

// String returns the YAML.
func (v Values) String() string {
	var text strings.Builder
	var above []string
	for _, path := range slices.Sorted(maps.Keys(v)) {
		parts := strings.Split(path, ".")
		same := 0
		for same < len(parts)-1 && same < len(above) && parts[same] == above[same] {
			same++
		}
		for i, part := range parts[same:] {
			fmt.Fprintf(&text, "%s%s:", strings.Repeat("  ", same+i), part)
			if same+i < len(parts)-1 {
				text.WriteByte('\n')
			}
		}
		above = parts[:len(parts)-1]
		text.WriteString(" " + v[path] + "\n")
	}
	return text.String()
}

// Secret is a secret that an operator could paste as a value.
type Secret struct {
	Name  string
	YAML  string // for the file
	Value string // for an environment variable
	// Private is the secret part. Eight consecutive bytes of it must not be printed.
	Private string
}

// Seen returns a part of the secret that a text contains, "" if there is none.
func (s Secret) Seen(text string) string {
	const length = 8
	for i := 0; i+length <= len(s.Private); i++ {
		if part := s.Private[i : i+length]; strings.Contains(text, part) {
			return part
		}
	}
	return ""
}

// Secrets returns secrets of many forms. None is real.
func Secrets() []Secret {
	word := "tr0Ub4dor.MARK&3x/K9"
	sum := sha512.Sum512([]byte(word))
	random := sum[:48]
	hex := fmt.Sprintf("%x", random[:32])
	std, url := base64.StdEncoding.EncodeToString(random[:32]), base64.RawURLEncoding.EncodeToString(random)
	body := base64.StdEncoding.EncodeToString(random) + "\n" + base64.StdEncoding.EncodeToString(random[5:])
	pem := "-----BEGIN PRIVATE KEY-----\n" + body + "\n-----END PRIVATE KEY-----\n"
	quoted := func(name, value, private string) Secret {
		return Secret{name, fmt.Sprintf("%q", value), value, private}
	}
	return []Secret{
		quoted("a password", word, word),
		quoted("a password with a colon, an at and a percent", "k9:MARK.x%zz/Q7w8@h0st7", "k9:MARK.x%zz/Q7w8@h0st7"),
		quoted("a password with an extension", "/gAAAAABmMARKk3yWq0uJr8Vn.pem", "gAAAAABmMARKk3yWq0uJr8Vn"),
		quoted("a phrase", "zebra-umbrella-quartz-MARK-lemon", "zebra-umbrella-quartz-MARK-lemon"),
		quoted("a phrase of words", "correct horse battery staple MARK", "correct horse battery staple MARK"),
		quoted("base64", std, std),
		quoted("base64 for URLs", url, url),
		quoted("hexadecimal", hex, hex),
		quoted("PEM in quotes", pem, body),
		{"PEM as it is", "|\n" + indent(pem), pem, body},
		{"base64 as it is", std, std, std},
		quoted("before the beginning of a PEM block", word+" -----BEGIN ", word),
		quoted("with a newline", "one\n"+word+"\n", word),
		quoted("with a quote", "a\"b'c`"+word, word),
		quoted("with a zero byte", "a\x00"+word, word),
		quoted("a URL with a user", "https://me:"+url+"@id.example.com", url),
		quoted("a URL with a password that is not escaped", "https://me:"+"pa/ss@w:rd MARK9"+"@id.example.com/v3", "pa/ss@w:rd MARK9"),
		quoted("a URL with a query", "http://127.0.0.1:8775/?token="+url, url),
		quoted("a Redis URL", "redis://:"+hex+"@192.0.2.1:6379", hex),
		quoted("a host with a user", url+"@192.0.2.1:6379", url),
		{"a tag", "!" + url, url, url},
		{"an alias", "*" + url, url, url},
		{"an anchor", "&" + url + " x: y", url, url},
		{"a reserved character", "%" + url, url, url},
		{"an unclosed quote", "\"" + url, url, url},
		{"two colons", "a: " + url + ": b", url, url},
	}
}

func indent(s string) string {
	lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	return strings.Repeat(" ", 12) + strings.Join(lines, "\n"+strings.Repeat(" ", 12))
}
