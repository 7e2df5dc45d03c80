package config_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config/configtest"
)

// documents returns the texts of the project's files with these extensions, by path.
func documents(t *testing.T, extensions ...string) map[string]string {
	t.Helper()
	const root = "../.."
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if d != nil && slices.Contains([]string{".git", "testdata", "node_modules", "site-packages", "target", "bin"}, d.Name()) {
				return fs.SkipDir
			}
			return err
		}
		if slices.Contains(extensions, filepath.Ext(path)) && d.Type().IsRegular() {
			text, err := os.ReadFile(path)
			found[strings.TrimPrefix(path, root+"/")] = string(text)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// unlike matches problems of an unknown key, or of a value that its key cannot have. It does
// not match problems of keys and files that are missing.
var unlike = regexp.MustCompile(`is not (?:a |an |debug|memory|one of|the path|true)|is neither|is none of|is no |takes a |has no value`)

func wrongIn(t *testing.T, text string) (wrong []string) {
	t.Helper()
	file := filepath.Join(newDir(t), "config.yml")
	write(t, file, []byte(text))
	_, err := config.Load(file)
	var problems *config.Problems
	if errors.As(err, &problems) {
		for _, p := range problems.List {
			if unlike.MatchString(p.Message) && !strings.Contains(p.Message, "no such file") && !strings.Contains(p.Message, "file that exists") {
				wrong = append(wrong, p.String())
			}
		}
	}
	return wrong
}

func topKeys() (keys []string) {
	for _, key := range configtest.Keys() {
		top, _, _ := strings.Cut(key, ".")
		keys = append(keys, top)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

var (
	fenced   = regexp.MustCompile("(?ms)^ *```ya?ml\n(.*?)^ *```$")
	indented = regexp.MustCompile(`(?m)(?:^    .*\n)+`)
)

// Each piece of a configuration in a document has keys that exist, with valid values.
func TestDocumentsShowKeysThatExist(t *testing.T) {
	seen := 0
	for path, text := range documents(t, ".md") {
		var blocks []string
		for _, m := range fenced.FindAllStringSubmatch(text, -1) {
			blocks = append(blocks, m[1])
		}
		for _, block := range append(blocks, indented.FindAllString(fenced.ReplaceAllString(text, ""), -1)...) {
			lines := strings.Split(block, "\n")
			margin := len(lines[0]) - len(strings.TrimLeft(lines[0], " "))
			for i := range lines {
				lines[i] = lines[i][min(margin, len(lines[i])-len(strings.TrimLeft(lines[i], " "))):]
			}
			block = strings.Join(lines, "\n")
			var doc map[string]any
			if yaml.Unmarshal([]byte(block), &doc) != nil || !ours(doc) {
				continue // a command, or the file of another program
			}
			seen++
			for _, problem := range wrongIn(t, block) {
				t.Errorf("%s shows\n%s\n%s", path, block, problem)
			}
		}
	}
	if seen < 8 {
		t.Errorf("the documents show only %d pieces of a configuration", seen)
	}
}

// ours reports whether a mapping is a piece of our configuration: it has one of our
// sections.
func ours(doc map[string]any) bool {
	for key, value := range doc {
		if slices.Contains(topKeys(), key) {
			if _, isMapping := value.(map[string]any); isMapping || key == "listen" {
				return true
			}
		}
	}
	return false
}

// foreign has keys of other programs and formats that documents name.
var foreign = []string{"Connection", "Security", "typ", "user_claim"}

// Each `key: value` and `section.key` in a document is ours, or is in foreign.
func TestDocumentsNameKeysThatExist(t *testing.T) {
	known := append(configtest.Keys(), configtest.Sections()...)
	files := []string{"state.db", "state.seen", "state.db.seen", "admin.sock"}
	dotted := regexp.MustCompile("`((?:" + strings.Join(topKeys(), "|") + `)(?:\.[A-Za-z]+)+)` + "`")
	value := regexp.MustCompile("`([a-zA-Z_.]+): ([^`]+)`")
	seen := 0
	for path, text := range documents(t, ".md") {
		for _, m := range dotted.FindAllStringSubmatch(text, -1) {
			seen++
			if !slices.Contains(known, m[1]) && !slices.Contains(files, m[1]) {
				t.Errorf("%s names %s, which is not a key", path, m[1])
			}
		}
		for _, m := range value.FindAllStringSubmatch(text, -1) {
			seen++
			if !slices.Contains(foreign, m[1]) && !taken(t, m[1], m[2]) {
				t.Errorf("%s says %s, and no key with that name can have the value", path, m[0])
			}
		}
	}
	if seen < 30 {
		t.Errorf("the documents name only %d keys", seen)
	}
}

// taken reports whether a key with this name can have the value.
func taken(t *testing.T, name, value string) bool {
	t.Helper()
	return slices.ContainsFunc(append(configtest.Keys(), configtest.Sections()...), func(key string) bool {
		if key != name && !strings.HasSuffix(key, "."+name) {
			return false
		}
		values := configtest.Values{"auth.tokenIssuer": "https://id.example.com", "roles.web.projectID": "a"}.With(configtest.Values{key: value})
		return len(wrongIn(t, values.String())) == 0
	})
}

// The comments of the examples name keys that exist.
func TestCommentsNameKeysThatExist(t *testing.T) {
	known := append(configtest.Keys(), configtest.Sections()...)
	dotted := regexp.MustCompile(`(?:^|[ (,;"])((?:auth|audit|keys|metadataService|openstack|proxy|throttle|vendordata)\.[a-z][A-Za-z]*(?:\.[a-z][A-Za-z]*)*)`)
	comment := regexp.MustCompile(`^\s*(?:#|//) ?(.*)`)
	seen := 0
	for path, text := range documents(t, ".yml", ".yaml", ".cfg", ".conf", ".sh", ".service", ".timer", ".acl", ".nft", ".go") {
		for line := range strings.SplitSeq(text, "\n") {
			c := comment.FindStringSubmatch(line)
			if c == nil {
				continue
			}
			for _, m := range dotted.FindAllStringSubmatch(c[1], -1) {
				seen++
				if !slices.Contains(known, m[1]) && !strings.HasPrefix(m[1], "openstack.config.") && m[1] != "openstack.env" { // Python's, and a file
					t.Errorf("%s names %s, which is not a key: %s", path, m[1], c[1])
				}
			}
		}
	}
	if seen < 20 {
		t.Errorf("the comments name only %d keys", seen)
	}
}
