package server_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

// deniedAsUnlimited fails the test unless a request was denied because
// metadataService.agentsLimitHeaders is not set, which the client does not learn.
func (d *testServer) deniedAsUnlimited(t *testing.T, got answer) {
	t.Helper()
	got.wants(t, http.StatusForbidden, "access_denied", "")
	line := d.audit.only(t, got)
	detail, _ := line["detail"].(string)
	if line["outcome"] != "denied" || line["reason"] != "agents_unlimited" || !strings.Contains(detail, "metadataService.agentsLimitHeaders") {
		t.Errorf("the audit line is %v", line)
	}
}

func TestUnlimitedAgentsGetNoToken(t *testing.T) {
	s := newScene(t)
	s.unlimited = true
	h := newMetadataDoor(t, s, nil)
	h.deniedAsUnlimited(t, h.do(t, h.request(http.MethodPut, webToken)))
	h.deniedAsUnlimited(t, h.do(t, h.request(http.MethodPut, webToken+"&format=token")))
	h.deniedAsUnlimited(t, h.do(t, h.request(http.MethodGet, "/identity/roles")))
	if n := h.metric(t, `nova_authenticator_decisions_total{door="metadata",outcome="denied",reason="agents_unlimited",role="web"}`); n != "2" {
		t.Errorf("%s decisions are counted", n)
	}
	if n := h.asked.Load(); n != 0 {
		t.Errorf("the cloud was asked %d times", n)
	}
}

// Nova still gets documents, but they prove nothing without the address.
func TestDocumentsOfUnlimitedAgents(t *testing.T) {
	const elsewhere = "198.51.100.7"
	s, _ := novaScene(t)
	s.unlimited = true
	d := s.open(t)
	document := form("role", "web", "document", d.document(t))
	for _, from := range []string{elsewhere, home} {
		d.deniedAsUnlimited(t, d.ask(t, from, document))
	}

	s.grant.Proof = []attest.Proof{attest.ProofDocument, attest.ProofAddress}
	d = s.open(t)
	document = form("role", "web", "document", d.document(t))
	d.deniedAsUnlimited(t, d.ask(t, elsewhere, document))
	d.ask(t, home, document).granted(t)

	s.grant.Proof = []attest.Proof{attest.ProofAddressAndDocument}
	d = s.open(t)
	document = form("role", "web", "document", d.document(t))
	got := d.ask(t, elsewhere, document)
	if got.wants(t, http.StatusForbidden, "access_denied", ""); d.audit.only(t, got)["reason"] != string(attest.AddressMismatch) {
		t.Errorf("the audit line is %v", d.audit.only(t, got))
	}
	d.ask(t, home, document).granted(t)
}

func TestVendordataTokensOfUnlimitedAgents(t *testing.T) {
	s, _ := novaScene(t)
	s.unlimited = true
	s.nova.Audience = []string{"https://keystone.example.com"}
	d := s.open(t)
	got := d.do(t, novaRequest(novaBody))
	d.deniedAsUnlimited(t, got)
	if strings.Contains(got.body, "document") {
		t.Errorf("the answer is %s", got.body)
	}

	s.nova.Audience = nil
	d = s.open(t)
	var body map[string]string
	got = d.do(t, novaRequest(novaBody))
	if err := json.Unmarshal([]byte(got.body), &body); err != nil || got.status != http.StatusOK || body["document"] == "" || body["token"] != "" {
		t.Errorf("%d %s", got.status, got.body)
	}
}
