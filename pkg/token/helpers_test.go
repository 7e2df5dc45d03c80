package token_test

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring/keyringtest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares JSON with a file in testdata.
func golden(t *testing.T, file string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got); if that is meant, run the test with -update:\n%s", path, diff)
	}
}

// load makes signing keys of private ones, in their order.
func load(t testing.TB, private ...crypto.Signer) *keyring.KeySet {
	t.Helper()
	var files []string
	for _, key := range private {
		files = append(files, keyringtest.File(t, keyringtest.PKCS8(t, key)))
	}
	keys, err := keyring.LoadKeys(files)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// signedAt is when the tests' issuers sign.
var signedAt = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func newIssuer(t testing.TB, url string, keys token.KeySource) *token.Issuer {
	t.Helper()
	return newIssuerByRole(t, url, keys, nil)
}

func newIssuerByRole(t testing.TB, url string, keys token.KeySource, roles map[string]token.RoleConfig) *token.Issuer {
	t.Helper()
	i, err := token.NewIssuer(plan(t, url, roles), keys, nil)
	if err != nil {
		t.Fatal(err)
	}
	i.Now = func() time.Time { return signedAt }
	return i
}

// plan has the role web, and others by their names.
func plan(t testing.TB, url string, roles map[string]token.RoleConfig) *token.Plan {
	t.Helper()
	p, err := token.Config{TokenIssuer: url, TokenExpiry: 10 * time.Minute}.Plan()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]token.RoleConfig{"web": {}}
	maps.Copy(all, roles)
	for name, c := range all {
		if err := p.Add(attesttest.Role(t, name), c); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func issue(t *testing.T, i *token.Issuer, id attest.Identity) token.Token {
	t.Helper()
	tok, err := i.Issue(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// parts decodes a token without verifying it.
func parts(t *testing.T, compact string) (header, claims map[string]any) {
	t.Helper()
	p := strings.Split(compact, ".")
	if len(p) != 3 {
		t.Fatalf("%q has %d parts", compact, len(p))
	}
	for i, m := range []*map[string]any{&header, &claims} {
		raw, err := base64.RawURLEncoding.DecodeString(p[i])
		if err != nil {
			t.Fatal(err)
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if err := d.Decode(m); err != nil {
			t.Fatal(err)
		}
	}
	return header, claims
}
