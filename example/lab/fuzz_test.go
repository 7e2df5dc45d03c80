//go:build lab

package lab_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2" //nolint:depguard // a seed repeats a run; nothing here is secret
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/example/metadata-service/guestfuzz"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/awaittest"
)

// Random requests of three instances at once, through Neutron's agent to the authenticator and to Nova: one has the address
// of another in its own network. LAB_FUZZ is the time; LAB_SEED, which is printed, makes the same requests.
func TestRandomRequestsOfInstances(t *testing.T) {
	each := 5 * time.Second
	if text := os.Getenv("LAB_FUZZ"); text != "" {
		var err error
		if each, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	seed := rand.Uint64()
	if text := os.Getenv("LAB_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("LAB_SEED=%d, for %v", seed, each)

	settings, _, _ := strings.Cut(doorsConfig(t), "roles:")
	start(t, config{cloud: "authenticator", here: true, whole: settings + fmt.Sprintf(`roles:
  for-all: {allowAnyInstance: true, proof: metadataService, anyAudience: true}
  only-web-1: {projectID: %[1]s, metadata: {role: web}, proof: metadataService}
  only-db-1: {projectID: %[1]s, metadata: {role: db}, proof: metadataService}
  only-twin-1: {projectID: %[2]s, metadata: {role: web}, proof: metadataService}
`, facts.Projects["workloads"], facts.Servers["twin-1"].ProjectID)})
	agentOfOurs(t)

	var seen guestfuzz.Counts
	var wait sync.WaitGroup
	for i, pair := range [][2]string{{"web-1", "db-1"}, {"db-1", "web-1"}, {"twin-1", "web-1"}} {
		f := &guestfuzz.Fuzzer{
			Rand: guestfuzz.NewRand(seed, i), Guest: fuzzed(pair[0]), Other: fuzzed(pair[1]), Seen: &seen,
		}
		awaittest.Within(t, time.Minute, "token of "+pair[0], func() bool { // it is plugged in, and its record is known
			status, _ := guest(t, pair[0], "-X", "PUT", metadataURL+"/identity/token?role="+f.Guest.Role)
			return status == http.StatusOK
		})
		wait.Go(func() {
			if err := guestfuzz.Inside("vm-"+f.Guest.ID, func() error {
				var err error
				if f.Ways, err = waysToMetadata(); err != nil {
					return err
				}
				return f.Run(time.Now().Add(each))
			}); err != nil {
				t.Errorf("LAB_SEED=%d, %s: %v", seed, f.Guest.Name, err)
			}
		})
	}
	wait.Wait()
	t.Log(&seen)
	if seen.Tokens.Load() == 0 {
		t.Error("no request got a token")
	}
}

func fuzzed(name string) guestfuzz.Guest {
	s := facts.Servers[name]
	return guestfuzz.Guest{
		Name: name, ID: s.ID, Project: s.ProjectID, Address: s.FixedIPs["v4"], Role: "only-" + name, ForAll: "for-all",
		// The signature does not matter: whatever names somebody else is a fault.
		Verify: func(token string) (subject, project string, err error) {
			text, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
			if err != nil {
				return "", "", err
			}
			var claims struct {
				Subject string `json:"sub"`
				Project string `json:"project_id"`
			}
			err = json.Unmarshal(text, &claims)
			return claims.Subject, claims.Project, err
		},
	}
}

// waysToMetadata is called in the namespace of an instance.
func waysToMetadata() ([]guestfuzz.Way, error) {
	ways := []guestfuzz.Way{{Name: "IPv4", Address: "169.254.169.254:80"}}
	if lab.MetadataOverIPv6 {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return nil, err
		}
		// By its number: the net package remembers the numbers of names, of whichever namespace.
		ways = append(ways, guestfuzz.Way{Name: "IPv6", Address: fmt.Sprintf("[fe80::a9fe:a9fe%%%d]:80", eth0.Index)})
	}
	return ways, nil
}
