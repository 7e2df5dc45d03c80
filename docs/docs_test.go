// Package docs_test holds the documents against the project: their links, the commands
// that they show, and the names that they use.
package docs_test

import (
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config/configtest"
)

// files gives the texts of the project's files whose name ends so, by their paths.
func files(t *testing.T, endings ...string) map[string]string {
	t.Helper()
	found := map[string]string{}
	root := os.DirFS("..")
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && slices.Contains([]string{".git", "dist", "node_modules", "site-packages", "target", "testdata"}, d.Name()) {
			return fs.SkipDir
		}
		if err != nil || !d.Type().IsRegular() || !slices.ContainsFunc(endings, func(e string) bool { return strings.HasSuffix(name, e) }) {
			return err
		}
		text, err := fs.ReadFile(root, name)
		found[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// pages are the README and the documents of this folder.
func pages(t *testing.T) map[string]string {
	t.Helper()
	found := files(t, ".md")
	maps.DeleteFunc(found, func(name, _ string) bool { return name != "README.md" && path.Dir(name) != "docs" })
	return found
}

var fence = regexp.MustCompile("(?ms)^ *```([a-z]*)\n(.*?)^ *```$")

// blocks gives the fenced blocks of a document in a language.
func blocks(document, language string) (found []string) {
	for _, m := range fence.FindAllStringSubmatch(document, -1) {
		if m[1] == language {
			found = append(found, m[2])
		}
	}
	return found
}

// named gives what a pattern's first group matches in texts, each once.
func named(pattern string, texts map[string]string) map[string]bool {
	found, name := map[string]bool{}, regexp.MustCompile(pattern)
	for _, text := range texts {
		for _, m := range name.FindAllStringSubmatch(text, -1) {
			found[m[1]] = true
		}
	}
	return found
}

// wantAll fails for each of names that is not among known.
func wantAll(t *testing.T, names, known map[string]bool, least int, what string) {
	t.Helper()
	if len(names) < least {
		t.Errorf("%d names, want at least %d: %s", len(names), least, what)
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if !known[name] {
			t.Errorf("%s: %s", name, what)
		}
	}
}

// ran has for each block of commands of the README and of docs, by its first words, the
// test or the file that runs it. A block that stands in example/ha/README.md is run there.
var ran = map[string]string{
	"curl -X PUT 'http://169.254.169.254/identity/token?": "TestIdentityFromTheMetadataService", // as root on Debian 12: example/lab
	"go run ./cmd/openstack-nova-authenticator demo":      "TestReadmeDemo",
	"go install github.com/":                              "", // nothing: it fetches the newest release
	"cosign verify-blob checksums.txt":                    ".github/workflows/release.yml",
	"sh example/try-out.sh .":                             "TestReadmeUsage",
	"curl https://${HOST}/auth":                           "TestReadmeUsage",
	"openstack-nova-authenticator check -c config.yml":    "TestReadmeUsage",
	"openstack-nova-authenticator instances list":         "TestOperatorsCommands",
	"go test ./...":                                       ".ci/run",
}

func TestCommandsAreRun(t *testing.T) {
	tests := named(`(?m)^func (Test\w+)\(`, files(t, "_test.go"))
	ha := blocks(files(t, ".md")["example/ha/README.md"], "sh")
	shown := map[string]bool{}
	for name, text := range pages(t) {
		for _, block := range blocks(text, "sh") {
			if slices.Contains(ha, block) {
				continue
			}
			known := false
			for begins, test := range ran {
				if strings.HasPrefix(block, begins) {
					known, shown[begins] = true, true
					words := strings.Fields(block)[0] + " " + strings.Fields(block)[1]
					if file, err := os.ReadFile("../" + test); test != "" && !tests[test] && (err != nil || !strings.Contains(string(file), words)) {
						t.Errorf("%s: %s does not run\n%s", name, test, block)
					}
				}
			}
			if !known {
				t.Errorf("%s: no test is known to run\n%s", name, block)
			}
		}
	}
	for begins := range ran {
		if !shown[begins] {
			t.Errorf("no document shows %s", begins)
		}
	}
}

// anchors gives the fragments of a document's headings, as GitHub makes them.
func anchors(document string) map[string]bool {
	found := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ +(.*)$`).FindAllStringSubmatch(fence.ReplaceAllString(document, ""), -1) {
		heading := regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`).ReplaceAllString(m[1], "$1")
		heading = regexp.MustCompile(`[^\pL\pN _-]`).ReplaceAllString(strings.ToLower(heading), "")
		found[strings.ReplaceAll(strings.TrimSpace(heading), " ", "-")] = true
	}
	return found
}

func TestLinksLeadSomewhere(t *testing.T) {
	documents := files(t, ".md")
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	seen := 0
	for name, text := range documents {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			target, fragment, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, ":") || strings.HasPrefix(target, "/") {
				continue
			}
			seen++
			at := name
			if target != "" {
				at = path.Join(path.Dir(name), target)
			}
			info, err := os.Stat(filepath.Join("..", at))
			if err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
				continue
			}
			if info.IsDir() && documents[path.Join(at, "README.md")] != "" {
				at = path.Join(at, "README.md")
			}
			if fragment != "" && !anchors(documents[at])[fragment] {
				t.Errorf("%s links to %s, and %s has no such heading", name, m[1], at)
			}
		}
	}
	if seen < 100 {
		t.Errorf("%d relative links", seen)
	}
}

// Each door of the README is complete when it is added to the configuration that the
// README starts with.
func TestDoorsOfTheReadmeAreComplete(t *testing.T) {
	found := blocks(pages(t)["README.md"], "yaml")
	if len(found) != 4 {
		t.Fatalf("%d blocks of YAML, want those of three doors and the start", len(found))
	}
	t.Chdir(t.TempDir())
	if err := os.WriteFile("metadata.secret", []byte("a-secret-for-tests"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, door := range found[:3] {
		var whole, part map[string]any
		if err := yaml.Unmarshal([]byte(found[3]), &whole); err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal([]byte(door), &part); err != nil {
			t.Fatal(err)
		}
		delete(whole, "tls")
		auth := whole["auth"].(map[string]any)
		delete(auth, "signingKeyFile")
		maps.Copy(auth, part["auth"].(map[string]any))
		delete(part, "auth")
		maps.Copy(whole, part)
		text, err := yaml.Marshal(whole)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("config.yml", text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := config.Load("config.yml"); err != nil {
			t.Errorf("%s\n%v", text, err)
		}
	}
}

func TestConfigurationPageShowsWhatTheReadmeCallsEnough(t *testing.T) {
	documents := pages(t)
	if readme, page := blocks(documents["README.md"], "yaml"), blocks(documents["docs/configuration.md"], "yaml"); len(readme) != 4 || len(page) != 1 || readme[3] != page[0] {
		t.Errorf("they differ:\n%q\n%q", readme, page)
	}
}

func TestConfigurationPageHasEachKey(t *testing.T) {
	keys := map[string]bool{}
	for _, key := range configtest.Keys() {
		key = strings.TrimPrefix(strings.TrimSuffix(key, ".any"), "roles.web.")
		keys[key] = true
	}
	page := map[string]string{"": pages(t)["docs/configuration.md"]}
	wantAll(t, keys, named("(?:[|,] |, )`([A-Za-z.]+)`", page), 60, "a key that docs/configuration.md has to explain")
}

func TestTroubleshootingHasEachReason(t *testing.T) {
	sources := files(t, ".go")
	maps.DeleteFunc(sources, func(name, _ string) bool {
		return !strings.HasPrefix(name, "pkg/") || strings.HasSuffix(name, "_test.go")
	})
	reasons := named(`\bReason += "([a-z_]+)"`, sources)
	page := named("(?m)^\\| `([a-z_]+)` \\| [^|]{10,} \\| [^|]{10,} \\|$", map[string]string{"": pages(t)["docs/troubleshooting.md"]})
	wantAll(t, reasons, page, 30, "a reason that docs/troubleshooting.md has to explain")
	wantAll(t, page, reasons, 30, "docs/troubleshooting.md explains it, and it is no reason")
}

func TestMetricsAreDocumented(t *testing.T) {
	metrics := named(`"([a-z]+(?:_[a-z]+)+)"`, files(t, "pkg/server/metrics.go"))
	delete(metrics, "nova_authenticator") // the names' prefix
	wantAll(t, named("nova_authenticator_([a-z_]+)", files(t, ".md")), metrics, 10, "a document names it, and it is no metric")
	wantAll(t, metrics, named("(?m)^\\| `nova_authenticator_([a-z_]+)` \\|", pages(t)), 10, "a metric that docs/operations.md has to explain")
}

// Variables of the environment that documents name stand in a program, a script or a unit.
func TestVariablesExist(t *testing.T) {
	known := named(`\b([A-Z][A-Z0-9]*_[A-Z0-9_]+)\b`, files(t, ".go", ".sh", ".service"))
	wantAll(t, named("`\\$?\\{?([A-Z][A-Z0-9]*_[A-Z0-9_]+)\\b", pages(t)), known, 5, "a document names the variable, and nothing reads it")
}

func TestTestsOfSecurityExist(t *testing.T) {
	tests := named(`(?m)^func (Test\w+)\(`, files(t, "_test.go"))
	wantAll(t, named("`(Test\\w+)`", pages(t)), tests, 20, "docs/security.md names the test, and there is none")
}

// CONTRIBUTING's tables and the arrows of the architecture are those of the linter and of
// the folders.
func TestImportsAreThoseThatTheLinterAllows(t *testing.T) {
	const ours = "github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/"
	var linter struct {
		Linters struct {
			Settings struct {
				Depguard struct {
					Rules map[string]struct{ Files, Allow []string }
				}
			}
		}
	}
	if err := yaml.Unmarshal([]byte(files(t, ".golangci.yml")[".golangci.yml"]), &linter); err != nil {
		t.Fatal(err)
	}
	want, packages := map[string]string{}, map[string]bool{}
	for name, rule := range linter.Linters.Settings.Depguard.Rules {
		if len(rule.Files) == 0 || rule.Files[0] != "**/pkg/"+name+"/**" {
			continue
		}
		imports := []string{}
		for _, allowed := range rule.Allow {
			if allowed != ours+name {
				imports = append(imports, strings.TrimSuffix(strings.TrimPrefix(allowed, ours), "$"))
			}
		}
		slices.Sort(imports)
		want[name] = strings.Join(imports, ", ")
		packages[name] = true
	}
	document := files(t, "CONTRIBUTING.md")[".github/CONTRIBUTING.md"]
	_, table, _ := strings.Cut(document, "## Who may import whom")
	table, _, _ = strings.Cut(table, "Each framework")
	got := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^    (\w+(?:, \w+)*) {2,}(.*)$`).FindAllStringSubmatch(table, -1) {
		for name := range strings.SplitSeq(m[1], ", ") {
			got[name] = strings.ReplaceAll(m[2], "nothing of ours", "")
		}
	}
	if !strings.HasPrefix(got["cmd"], "everything") || !strings.HasPrefix(got["config"], "the packages") {
		t.Errorf("cmd imports %q, config %q", got["cmd"], got["config"])
	}
	delete(got, "cmd")
	got["config"] = want["config"]
	if !maps.Equal(want, got) {
		t.Errorf("depguard allows\n%v\nand CONTRIBUTING.md says\n%v", want, got)
	}
	var arrows, drawn []string
	for name, imports := range want {
		for imported := range strings.SplitSeq(imports, ", ") {
			if name != "config" && !slices.Contains([]string{"", "problem", "secret"}, imported) {
				arrows = append(arrows, name+" --> "+imported)
			}
		}
	}
	for arrow := range named(`(?m)^    (\w+ --> \w+)$`, map[string]string{"": blocks(pages(t)["docs/architecture.md"], "mermaid")[1]}) {
		drawn = append(drawn, arrow)
	}
	slices.Sort(arrows)
	slices.Sort(drawn)
	if !slices.Equal(arrows, drawn) {
		t.Errorf("depguard allows\n%v\nand docs/architecture.md draws\n%v", arrows, drawn)
	}
	folders, err := filepath.Glob("../pkg/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		packages[filepath.Base(folder)] = true
	}
	listed := named("(?m)^\\| `pkg/(\\w+)` \\|", map[string]string{"": document})
	wantAll(t, packages, listed, 10, "a package that CONTRIBUTING.md has to list")
	wantAll(t, listed, packages, 10, "CONTRIBUTING.md lists it, and there is no such package")
}

// The notes of a release are its section of CHANGELOG.md.
func TestReleaseNotesAreASectionOfTheChangelog(t *testing.T) {
	notes, err := exec.CommandContext(t.Context(), "../.ci/release-notes", "Unreleased").Output()
	_, section, _ := strings.Cut(files(t, ".md")["CHANGELOG.md"], "## Unreleased\n")
	section, _, _ = strings.Cut(section, "\n## ")
	if err != nil || string(notes) != section || !strings.Contains(section, "### ") {
		t.Errorf("%v\n%s", err, notes)
	}
	if notes, err := exec.CommandContext(t.Context(), "../.ci/release-notes", "v999.0.0").Output(); err == nil {
		t.Errorf("a version without a section: %s", notes)
	}
	for _, shipped := range []string{"README.md", "CHANGELOG.md", "docs/*.md"} {
		if n := strings.Count(files(t, ".yml")[".goreleaser.yml"], "src: "+shipped); n != 2 {
			t.Errorf("archives and packages have %s %d times, want 2", shipped, n)
		}
	}
}
