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
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest/attesttest"
)

// recorded returns the body of a recorded answer of a real Nova (OpenStack Zed); pkg/simulator owns the files.
func recorded(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../simulator/testdata/recorded", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Body json.RawMessage }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	return file.Body
}

// decode decodes a body as a lookup does.
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
		id := attesttest.ID(t, s)
		return id
	}
	at := func(network string, mac attest.MAC, addrs ...string) []attest.Address {
		var all []attest.Address
		for _, a := range addrs {
			all = append(all, attest.Address{Network: network, Addr: netip.MustParseAddr(a), MAC: mac})
		}
		return all
	}
	web := attest.Instance{
		ID: id("64dfbbdf-552c-4ae7-9dab-666eade6030f"), Name: "web-1", Phase: attest.PhaseRunning, State: "ACTIVE",
		ProjectID: "f7a19a7f8c924b0caebdd89e9822a4fb", UserID: "c7831f21b3a247b9b8bacc667b6f96b6", Metadata: map[string]string{"role": "web"},
		Created: birth, Launched: birth.Add(4 * time.Second), Addresses: at("private", attest.MAC{0xfa, 0x16, 0x3e, 0x73, 0xce, 0x1b}, "10.20.0.11", "172.24.4.145"),
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
	building.Phase, building.State, building.Metadata = attest.PhaseBuilding, "BUILD with task scheduling", map[string]string{"role": "probe"}
	rebuilt.Phase, rebuilt.State, rebuilt.Metadata = attest.PhaseRunning, "ACTIVE", map[string]string{"role": "changed"}
	rebuilt.Launched = time.Date(2026, 11, 22, 7, 20, 26, 0, time.UTC)
	rebuilt.Addresses, rebuilt.Zone = at("private", attest.MAC{0xfa, 0x16, 0x3e, 0x79, 0x54, 0xe5}, "10.20.0.75"), "nova"
	building.ImageID, rebuilt.ImageID = "00b0d405-def6-4011-ba78-ee6a06692e9d", "24bdb424-4713-4a4c-a173-77004fc13dd1"

	newer := attest.Instance{
		ID: id("44baafd2-e46f-4aef-9c04-6fdff8354283"), Name: "web-1", Phase: attest.PhaseRunning, State: "ACTIVE",
		ProjectID: "11f3a327d14646adbdfff3d72d094c15", UserID: "b0f76f7d09c146dfa68a70fd32ace330", Metadata: map[string]string{"role": "web"},
		Created: time.Date(2026, 11, 27, 23, 56, 5, 0, time.UTC), Launched: time.Date(2026, 11, 27, 23, 56, 21, 0, time.UTC),
		Addresses: at("workloads", attest.MAC{0xfa, 0x16, 0x3e, 0x58, 0x81, 0x4f}, "10.20.0.11", "fd20::11", "172.24.4.135"),
		ImageID:   "a0992ada-375a-44c5-8b8b-2995a337ca18", Flavor: "m1.nano", Zone: "nova", Hostname: "web-1",
	}

	for name, want := range map[string]attest.Instance{
		"server-show-2.103-admin": newer, "server-show-2.103-member": newer,
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
		t.Errorf("the IPv4-mapped address became %v", got)
	}
}

// leastRecord is the smallest accepted record.
const leastRecord = `{"server":{"id":"64dfbbdf-552c-4ae7-9dab-666eade6030f","name":"","status":"ACTIVE","tenant_id":"p","user_id":"u","metadata":{},` +
	`"created":"2026-11-22T07:25:01Z","OS-EXT-STS:task_state":null,"OS-SRV-USG:launched_at":null,"image":"","flavor":{},"OS-EXT-AZ:availability_zone":"","addresses":{"n":[{"addr":"fe80::1%eth0","OS-EXT-IPS:type":"fixed"}]}}}`

// Null and absent values are not empty values. want is in the error. It is empty where no rule uses the value, and its
// claim is omitted.
func TestIncompleteRecords(t *testing.T) {
	const address = `{"addr":"fe80::1%eth0","OS-EXT-IPS:type":"fixed"}`
	tests := []struct{ name, from, to, want string }{
		{"the id null", `"id":"64dfbbdf-552c-4ae7-9dab-666eade6030f"`, `"id":null`, "no id"},
		{"the id a number", `"id":"64dfbbdf-552c-4ae7-9dab-666eade6030f"`, `"id":64`, "of type string"},
		{"the id a list", `"id":"64dfbbdf-552c-4ae7-9dab-666eade6030f"`, `"id":["64dfbbdf-552c-4ae7-9dab-666eade6030f"]`, "of type string"},
		{"the name null", `"name":""`, `"name":null`, "no name"},
		{"the name absent", `"name":"",`, ``, "no name"},
		{"the name a number", `"name":""`, `"name":1`, "of type string"},
		{"the status null", `"status":"ACTIVE"`, `"status":null`, "no status"},
		{"the project null", `"tenant_id":"p"`, `"tenant_id":null`, "no tenant_id"},
		{"the project empty", `"tenant_id":"p"`, `"tenant_id":""`, "no tenant_id"},
		{"the project absent", `"tenant_id":"p",`, ``, "no tenant_id"},
		{"the project a list", `"tenant_id":"p"`, `"tenant_id":["p"]`, "of type string"},
		{"the user null", `"user_id":"u"`, `"user_id":null`, "no user_id"},
		{"the user empty", `"user_id":"u"`, `"user_id":""`, "no user_id"},
		{"the metadata null", `"metadata":{}`, `"metadata":null`, "no metadata"},
		{"the metadata absent", `"metadata":{},`, ``, "no metadata"},
		{"the metadata a list", `"metadata":{}`, `"metadata":[]`, "metadata"},
		{"the metadata a list of pairs", `"metadata":{}`, `"metadata":[{"role":"web"}]`, "metadata"},
		{"a value of the metadata a number", `"metadata":{}`, `"metadata":{"role":1}`, "metadata"},
		{"a value of the metadata a truth", `"metadata":{}`, `"metadata":{"role":false}`, "metadata"},
		{"a value of the metadata a list", `"metadata":{}`, `"metadata":{"role":[""]}`, "metadata"},
		{"a value of the metadata an object", `"metadata":{}`, `"metadata":{"role":{}}`, "metadata"},
		{"created null", `"created":"2026-11-22T07:25:01Z"`, `"created":null`, "no created"},
		{"created empty", `"created":"2026-11-22T07:25:01Z"`, `"created":""`, "parsing time"},
		{"the task_state absent", `"OS-EXT-STS:task_state":null,`, ``, "no OS-EXT-STS:task_state"},
		{"the task_state a list", `task_state":null`, `task_state":[]`, "task_state"},
		{"launched_at absent", `"OS-SRV-USG:launched_at":null,`, ``, "no OS-SRV-USG:launched_at"},
		{"launched_at empty, which is not never", `launched_at":null`, `launched_at":""`, "launched_at"},
		{"launched_at a list", `launched_at":null`, `launched_at":[]`, "launched_at"},
		{"the image null, which is not a boot from volume", `"image":""`, `"image":null`, "image"},
		{"the image absent", `"image":"",`, ``, "no image"},
		{"the image without an id", `"image":""`, `"image":{}`, "image"},
		{"the image with an id of null", `"image":""`, `"image":{"id":null}`, "image"},
		{"the image with an empty id", `"image":""`, `"image":{"id":""}`, "image"},
		{"the image a list", `"image":""`, `"image":[]`, "image"},
		{"the image false", `"image":""`, `"image":false`, "image"},
		{"the flavor null", `"flavor":{}`, `"flavor":null`, "no flavor"},
		{"the flavor a list", `"flavor":{}`, `"flavor":[]`, "flavor"},
		{"the zone absent", `"OS-EXT-AZ:availability_zone":"",`, ``, "no OS-EXT-AZ:availability_zone"},
		{"the zone a list", `availability_zone":""`, `availability_zone":["nova"]`, "availability_zone"},
		{"the hostname a list", `"flavor":{}`, `"flavor":{},"OS-EXT-SRV-ATTR:hostname":["web"]`, "hostname"},
		{"the addresses null", `"addresses":{"n":[` + address + `]}`, `"addresses":null`, "no addresses"},
		{"the addresses absent", `,"addresses":{"n":[` + address + `]}`, ``, "no addresses"},
		{"the addresses a list", `{"n":[` + address + `]}`, `[` + address + `]`, "addresses"},
		{"the addresses of a network null", `[` + address + `]`, `null`, "no addresses"},
		{"the addresses of a network an object", `[` + address + `]`, address, "addresses"},
		{"an address null", `[` + address + `]`, `[null]`, "no addresses"},
		{"an address that is a text", `[` + address + `]`, `["10.0.0.1"]`, "addresses"},
		{"an address with addr null", `"addr":"fe80::1%eth0"`, `"addr":null`, "no addresses"},
		{"an address without addr", `"addr":"fe80::1%eth0",`, ``, "no addresses"},
		{"an address with an empty addr", `"addr":"fe80::1%eth0"`, `"addr":""`, "address"},
		{"an address with a number as addr", `"addr":"fe80::1%eth0"`, `"addr":1`, "of type string"},
		{"an address with its type null", `{"addr":"fe80::1%eth0","OS-EXT-IPS:type":"fixed"}`, `{"addr":"10.0.0.1","OS-EXT-IPS:type":null}`, `address "10.0.0.1" of network "n" has no OS-EXT-IPS:type: `},
		{"an address without its type", `{"addr":"fe80::1%eth0","OS-EXT-IPS:type":"fixed"}`, `{"addr":"10.0.0.1"}`, `address "10.0.0.1" of network "n" has no OS-EXT-IPS:type: `},
		{"an address without its type that may be a secret", address, `{"addr":"gAAAAABk0000000000000000000000000000"}`, `address (not shown) of network "n" has no OS-EXT-IPS:type: `},
		{"an address with an empty type", `"OS-EXT-IPS:type":"fixed"`, `"OS-EXT-IPS:type":""`, `type ""`},
		{"an address of another type", `"OS-EXT-IPS:type":"fixed"`, `"OS-EXT-IPS:type":"shared"`, `type "shared"`},

		{"a network without addresses", `[` + address + `]`, `[]`, ""},
		{"a MAC address of null", address, `{"addr":"10.0.0.1","OS-EXT-IPS:type":"fixed","OS-EXT-IPS-MAC:mac_addr":null}`, ""},
		{"the zone null", `availability_zone":""`, `availability_zone":null`, ""},
		{"the flavor's name null", `"flavor":{}`, `"flavor":{"original_name":null}`, ""},
		{"the hostname null", `"flavor":{}`, `"flavor":{},"OS-EXT-SRV-ATTR:hostname":null`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if !strings.Contains(leastRecord, tt.from) {
				t.Fatalf("the record has no %s", tt.from)
			}
			in, err := decode([]byte(strings.Replace(leastRecord, tt.from, tt.to, 1)))
			switch {
			case tt.want != "" && err == nil:
				t.Errorf("accepted as %+v, want an error with %q", in, tt.want)
			case tt.want != "" && !strings.Contains(err.Error(), tt.want):
				t.Errorf("error %q, want %q in it", err, tt.want)
			case tt.want == "" && err != nil:
				t.Errorf("error %v", err)
			case tt.want == "" && (in.Zone != "" || in.Flavor != "" || in.Hostname != ""):
				t.Errorf("a value came from null: %+v", in)
			}
			if tt.want == "" && len(in.Addresses) > 0 && in.Addresses[0].MAC != (attest.MAC{}) {
				t.Errorf("a MAC address came from null: %+v", in)
			}
		})
	}
}

// A key with null satisfies no rule and gives no claim.
func TestNullInMetadataIsAbsent(t *testing.T) {
	in, err := decode([]byte(strings.Replace(leastRecord, `"metadata":{}`, `"metadata":{"role":null,"empty":"","env":"production"}`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"empty": "", "env": "production"}, in.Metadata); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
}

// An accepted record has what rules and tokens use.
func FuzzRecord(f *testing.F) {
	for _, name := range []string{"server-show-2.1-member", "server-show-2.93-admin", "server-show-2.103-admin", "server-show-build", "server-show-rebuilt"} {
		f.Add(recorded(f, name))
	}
	f.Add([]byte(leastRecord))
	for _, change := range [][2]string{
		{`"ACTIVE"`, `""`}, {`"ACTIVE"`, `"UNKNOWN"`}, {`"p"`, `""`}, {`"p"`, `null`}, {`"64d`, `"64D`}, {`"n":[`, `"n":null,"m":[`},
		{`"metadata":{}`, `"metadata":{"role":null}`}, {`"metadata":{}`, `"metadata":{"role":"null"}`}, {`"image":""`, `"image":null`},
		{`"fe80::1%eth0"`, `"::ffff:10.0.0.1"`}, {`launched_at":null`, `launched_at":"2026-11-22T07:25:05.000000"`}, {`task_state":null`, `task_state":{}`},
	} {
		f.Add([]byte(strings.Replace(leastRecord, change[0], change[1], 1)))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		in, err := decode(body)
		if err != nil {
			if !in.ID.IsZero() {
				t.Errorf("an error came with the record %+v", in)
			}
			return
		}
		if in.ID.IsZero() || in.State == "" || in.State == "UNKNOWN" || in.ProjectID == "" || in.UserID == "" || in.Created.IsZero() || in.Metadata == nil {
			t.Errorf("a partial record was accepted: %+v", in)
		}
		if again, err := attest.ParseInstanceID(in.ID.String()); err != nil || again != in.ID {
			t.Errorf("the ID %q is invalid: %v", in.ID, err)
		}
		var raw struct {
			Server struct{ Metadata map[string]any }
		}
		if json.Unmarshal(body, &raw) == nil {
			for key, value := range in.Metadata {
				if raw.Server.Metadata[key] != value {
					t.Errorf("the metadata %q is %q, Nova's answer has %v", key, value, raw.Server.Metadata[key])
				}
			}
		}
		for _, a := range in.Addresses {
			if !a.Addr.IsValid() || a.Addr != attest.Canonical(a.Addr) {
				t.Errorf("the address %v is not canonical", a.Addr)
			}
		}
	})
}
