package metadataservice_test

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
)

// The audit log shows which agents speak for which instances.
func TestAgentsInTheAuditLog(t *testing.T) {
	jq, err := exec.LookPath("jq")
	if err != nil {
		t.Skip("jq is not installed")
	}
	audit := filepath.Join(t.TempDir(), "audit.log")
	s := newSite(t, "direct.yml", "metadataService:\n", "audit: {output: "+audit+"}\nmetadataService:\n")
	const other, stopped = "44444444-aaaa-4aaa-8aaa-000000000001", "44444444-aaaa-4aaa-8aaa-000000000002"
	for id, status := range map[string]string{other: "ACTIVE", stopped: "SHUTOFF"} {
		s.cloud.SetServer(simulator.Server{
			ID: id, Name: id, ProjectID: project, UserID: "821a2eaac0724c069aa6a44bd7b91935", Status: status, Created: time.Now(), Launched: time.Now(),
			Addresses: []simulator.Address{{Network: "private", Addr: guest}},
		})
	}
	for _, ask := range []struct{ from, request, id string }{
		{"21", put, instance}, {"21", put, instance}, {"21", put, other}, {"22", put, other}, {"22", put, stopped}, {"23", "GET /identity/roles", stopped},
		{"23", "PUT /identity/token", instance}, // is not judged
	} {
		if _, err := s.askFor(t.Context(), ask.from, "agent.pem", ask.request, ask.id); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = s.ask(t.Context(), "21", "", put) // without a certificate
	const want = "NET21 named 2 instances\nNET22 named 2 instances\nNET23 named 1 instances\n" +
		other + " was named by NET21 NET22\n" + stopped + " was named by NET22 NET23\n"
	var got string
	err = awaittest.Poll(t.Context(), 20*time.Second, func() error { // lines are written after the answer
		out, err := exec.CommandContext(t.Context(), jq, "-rnf", "agent-limits/agents.jq", audit).CombinedOutput()
		if got = strings.ReplaceAll(string(out), s.net, "NET"); err == nil && got != want {
			err = errors.New("another text")
		}
		return err
	})
	if err != nil {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
}
