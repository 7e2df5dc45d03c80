package attest_test

import (
	"strings"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
)

// Package token has the table of URLs.
func TestParseIssuer(t *testing.T) {
	for _, bad := range []string{"", "https://[", "id.example.com", "https://h?a=b", "https://h#", "https://u@h", "https://h//a", "https://h/a/../b"} {
		if i, err := attest.ParseIssuer(bad); err == nil || !i.IsZero() || i.String() != "" {
			t.Errorf("%q: %q, %v", bad, i, err)
		}
	}
}

func TestIssuer(t *testing.T) {
	for url, want := range map[string]struct{ path, unsuitable string }{
		"https://h":      {"", ""},
		"https://h/":     {"", "ends in a slash"},
		"https://h/a":    {"/a", ""},
		"https://h/a/":   {"/a", "ends in a slash"},
		"http://h:1/a/b": {"/a/b", "not https"},
		"http://h/":      {"", "not https"},
	} {
		i := attesttest.Issuer(t, url)
		if got := i.Path(); got != want.path {
			t.Errorf("%s: path %q, want %q", url, got, want.path)
		}
		if got := i.Unsuitable(); (got == "") != (want.unsuitable == "") || !strings.Contains(got, want.unsuitable) {
			t.Errorf("%s: %q, want it to say %q", url, got, want.unsuitable)
		}
		if got := i.Below("/x"); got != strings.TrimSuffix(url, "/")+"/x" {
			t.Errorf("%s: %q", url, got)
		}
	}
}
