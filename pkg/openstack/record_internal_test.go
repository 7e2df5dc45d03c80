package openstack

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

// recorded gives the body of an answer that a real Nova gave (OpenStack Zed).
func recorded(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "recorded", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Body json.RawMessage }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	return file.Body
}

// decode does what a lookup does with a body.
func decode(body []byte) (attest.Instance, error) {
	var answer struct {
		Server *record `json:"server"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return attest.Instance{}, err
	}
	if answer.Server == nil {
		return attest.Instance{}, partial("server")
	}
	return answer.Server.instance()
}

func TestRecordedAnswers(t *testing.T) {
	id := func(s string) attest.InstanceID {
		id, err := attest.ParseInstanceID(s)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	at := func(mac attest.MAC, addrs ...string) []attest.Address {
		var all []attest.Address
		for _, a := range addrs {
			all = append(all, attest.Address{Network: "private", Addr: netip.MustParseAddr(a), MAC: mac})
		}
		return all
	}
	web := attest.Instance{
		ID: id("64dfbbdf-552c-4ae7-9dab-666eade6030f"), Name: "web-1", Status: "ACTIVE",
		ProjectID: "f7a19a7f8c924b0caebdd89e9822a4fb", UserID: "c7831f21b3a247b9b8bacc667b6f96b6", Metadata: map[string]string{"role": "web"},
		Created: birth, Launched: birth.Add(4 * time.Second), Addresses: at(attest.MAC{0xfa, 0x16, 0x3e, 0x73, 0xce, 0x1b}, "10.20.0.11", "172.24.4.145"),
		ImageID: "44742495-68d3-4c10-8642-423ed054a9f2", Flavor: "m1.nano", Zone: "nova", Hostname: "web-1",
	}
	webBefore247 := web
	webBefore247.Flavor, webBefore247.Hostname = "", ""
	probe := attest.Instance{
		ID: id("6ad5286f-df3b-4b0c-a95e-479afb478e6a"), Name: "probe",
		ProjectID: "90362dca544a4b6e8d4d3f0abef82362", UserID: "f40c9e9e8cf44da28a5601f0fdd94fbc",
		Created: time.Date(2026, 11, 22, 7, 19, 48, 0, time.UTC), Flavor: "m1.nano", Hostname: "probe",
	}
	building, rebuilt := probe, probe
	building.Status, building.TaskState, building.Metadata = "BUILD", "scheduling", map[string]string{"role": "probe"}
	rebuilt.Status, rebuilt.Metadata = "ACTIVE", map[string]string{"role": "changed"}
	rebuilt.Launched = time.Date(2026, 11, 22, 7, 20, 26, 0, time.UTC)
	rebuilt.Addresses, rebuilt.Zone = at(attest.MAC{0xfa, 0x16, 0x3e, 0x79, 0x54, 0xe5}, "10.20.0.75"), "nova"
	building.ImageID, rebuilt.ImageID = "00b0d405-def6-4011-ba78-ee6a06692e9d", "24bdb424-4713-4a4c-a173-77004fc13dd1"

	for name, want := range map[string]attest.Instance{
		"server-show-2.1-member": webBefore247, "server-show-2.93-admin": web, "server-show-build": building, "server-show-rebuilt": rebuilt,
	} {
		got, err := decode(recorded(t, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(attest.InstanceID{}, netip.Addr{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestAddressesAreCanonical(t *testing.T) {
	body := strings.Replace(string(recorded(t, "server-show-2.93-admin")), `"10.20.0.11"`, `"::ffff:10.20.0.11"`, 1)
	in, err := decode([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if got := in.Addresses[0].Addr; got != netip.MustParseAddr("10.20.0.11") {
		t.Errorf("an IPv4 address in IPv6 became %v", got)
	}
}

// An accepted record has what rules and tokens stand on.
func FuzzRecord(f *testing.F) {
	for _, name := range []string{"server-show-2.1-member", "server-show-2.93-admin", "server-show-build", "server-show-rebuilt"} {
		f.Add(recorded(f, name))
	}
	const complete = `{"server":{"id":"64dfbbdf-552c-4ae7-9dab-666eade6030f","name":"","status":"ACTIVE","tenant_id":"p","user_id":"u","metadata":{},` +
		`"created":"2026-11-22T07:25:01Z","OS-EXT-STS:task_state":null,"OS-SRV-USG:launched_at":null,"image":"","flavor":{},"OS-EXT-AZ:availability_zone":"","addresses":{"n":[{"addr":"fe80::1%eth0","OS-EXT-IPS:type":"fixed"}]}}}`
	f.Add([]byte(complete))
	for _, change := range [][2]string{
		{`"ACTIVE"`, `""`}, {`"ACTIVE"`, `"UNKNOWN"`}, {`"p"`, `""`}, {`"p"`, `null`}, {`"64d`, `"64D`}, {`"n":[`, `"n":null,"m":[`},
		{`"fe80::1%eth0"`, `"::ffff:10.0.0.1"`}, {`launched_at":null`, `launched_at":"2026-11-22T07:25:05.000000"`}, {`task_state":null`, `task_state":{}`},
	} {
		f.Add([]byte(strings.Replace(complete, change[0], change[1], 1)))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		in, err := decode(body)
		if err != nil {
			if !in.ID.IsZero() {
				t.Errorf("an error came with the record %+v", in)
			}
			return
		}
		if in.ID.IsZero() || in.Status == "" || in.Status == "UNKNOWN" || in.ProjectID == "" || in.UserID == "" || in.Created.IsZero() || in.Metadata == nil {
			t.Errorf("a partial record was accepted: %+v", in)
		}
		if again, err := attest.ParseInstanceID(in.ID.String()); err != nil || again != in.ID {
			t.Errorf("the ID %q is none: %v", in.ID, err)
		}
		for _, a := range in.Addresses {
			if !a.Addr.IsValid() || a.Addr != attest.Canonical(a.Addr) {
				t.Errorf("the address %v is not canonical", a.Addr)
			}
		}
	})
}
