package vendordata_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What the README would have an operator write is read as it is meant.
func TestConfigurationOfTheReadme(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(readme(t), -1)
	if len(blocks) != 2 {
		t.Fatalf("%d blocks of YAML, want 2", len(blocks))
	}
	for _, b := range blocks {
		var part map[string]any
		if err := yaml.Unmarshal([]byte(b[1]), &part); err != nil {
			t.Fatal(err)
		}
		part["auth"] = map[string]any{"tokenIssuer": "https://id.example.com"}
		if part["roles"] == nil {
			part["roles"] = map[string]any{"web": map[string]any{"allowAnyInstance": true}}
		}
		text, err := yaml.Marshal(part)
		if err != nil {
			t.Fatal(err)
		}
		file := t.TempDir() + "/config.yml"
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := config.Load(file); err != nil {
			t.Errorf("%s\n%v", b[1], err)
		}
	}
}

// The table of failures uses the words of the audit log.
func TestReasonsOfTheReadme(t *testing.T) {
	known := []attest.Reason{
		attest.CallerUnknown, "caller_denied", attest.AgentsUnlimited, attest.ProjectMismatch, attest.InstanceUnknown, attest.CloudUnavailable,
		attest.InstanceDenied, attest.StatusDenied, attest.StateUnavailable,
	}
	_, table, _ := strings.Cut(readme(t), "## How each failure shows")
	table, _, _ = strings.Cut(table, "\n## ")
	var said []attest.Reason
	for _, m := range regexp.MustCompile("`([a-z]+_[a-z]+)`").FindAllStringSubmatch(table, -1) {
		if r := attest.Reason(m[1]); !strings.HasPrefix(m[1], "vendordata_") && !slices.Contains(said, r) {
			said = append(said, r)
		}
	}
	for _, r := range said {
		if !slices.Contains(known, r) {
			t.Errorf("the README says %s", r)
		}
	}
	for _, r := range known {
		if !slices.Contains(said, r) {
			t.Errorf("the README does not say %s", r)
		}
	}
	if err := token.CheckDocumentExpiry(config.Default().Vendordata.DocumentExpiry); err != nil {
		t.Error(err)
	}
}
