package simulator

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// computeHost is the host of all servers.
const computeHost = "compute-1"

// Server is an instance. Fields that it does not have are answered as for a new server: no volumes, no description, no
// server groups, no user data.
type Server struct {
	ID        string // a UUID; kept in lower case
	Name      string
	Status    string // "ACTIVE", "BUILD", "SHUTOFF" ...; empty: "ACTIVE"
	TaskState string // empty: null, no task
	VMState   string // "active", "building", "stopped" ...; empty: that of Status
	ProjectID string
	UserID    string
	ImageID   string // empty: booted from a volume, the image is ""
	Flavor    string // the flavor's name
	KeyName   string // empty: null
	Hostname  string // empty: the name

	AvailabilityZone string
	Metadata         map[string]string
	Tags             []string  // the answer has them sorted
	SecurityGroups   []string  // names; empty: the field is missing, as before the server has ports
	Created          time.Time // to the second; zero: null
	Launched         time.Time // zero: null, the server has not run yet and has no host
	Addresses        []Address
	AccessIPv4       string
	AccessIPv6       string
	Locked           bool
	// Partial is a server in a cell that is down: status UNKNOWN and few fields from microversion 2.69 on, 500 below. A
	// list with a filter or a limit, or below 2.69, leaves it out.
	Partial bool
}

// Address is an IP address of a server.
type Address struct {
	Network string // the network's name, a key of "addresses"
	Addr    string // IPv4 or IPv6
	Type    string // "fixed" or "floating"; empty: "fixed"
	MAC     string
}

func (s Server) clone() Server {
	s.Metadata = maps.Clone(s.Metadata)
	s.Tags = slices.Clone(s.Tags)
	s.SecurityGroups = slices.Clone(s.SecurityGroups)
	s.Addresses = slices.Clone(s.Addresses)
	return s
}

// SetServer adds a server, or replaces the one with the same ID.
func (c *Cloud) SetServer(s Server) {
	// Stored servers never change, so that readers share them.
	s = s.clone()
	s.ID = strings.ToLower(s.ID)
	s.Status = cmp.Or(s.Status, "ACTIVE")
	s.VMState = cmp.Or(s.VMState, vmState(s.Status))
	s.Hostname = cmp.Or(s.Hostname, s.Name)
	slices.Sort(s.Tags)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers[s.ID] = s
}

// DeleteServer removes a server.
func (c *Cloud) DeleteServer(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.servers, strings.ToLower(id))
}

func vmState(status string) string {
	switch status {
	case "BUILD":
		return "building"
	case "SHUTOFF":
		return "stopped"
	case "REBUILD", "REBOOT", "HARD_REBOOT", "MIGRATING", "PASSWORD":
		return "active"
	}
	return strings.ToLower(status)
}

// powerState returns Nova's number for the state of the VM.
func (s Server) powerState() int {
	switch s.VMState {
	case "active":
		return 1
	case "paused":
		return 3
	case "stopped", "suspended", "shelved_offloaded":
		return 4
	}
	return 0
}

func newestFirst(a, b Server) int {
	return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(b.ID, a.ID))
}

// view is how one caller sees servers.
type view struct {
	root    string // of Nova, without a version
	version microversion
	caller  Account
	admin   bool // for Nova
	single  bool // one server, not a list; some fields are only in the former
}

// record returns the JSON object of a server, with the fields of the caller's rights and of the microversion.
func (v view) record(s Server) object {
	if s.Partial {
		return v.partialRecord(s)
	}
	record := object{
		"id":           s.ID,
		"name":         s.Name,
		"status":       s.Status,
		"tenant_id":    s.ProjectID,
		"user_id":      s.UserID,
		"metadata":     orEmpty(s.Metadata),
		"hostId":       "",
		"image":        v.image(s),
		"flavor":       v.flavor(s),
		"created":      timestamp(s.Created),
		"updated":      timestamp(slices.MaxFunc([]time.Time{s.Created, s.Launched}, time.Time.Compare)),
		"addresses":    addresses(s),
		"accessIPv4":   s.AccessIPv4,
		"accessIPv6":   s.AccessIPv6,
		"links":        v.links(s),
		"config_drive": "",
		"key_name":     orNull(s.KeyName),

		"OS-DCF:diskConfig":                    "MANUAL",
		"OS-EXT-AZ:availability_zone":          s.AvailabilityZone,
		"OS-SRV-USG:launched_at":               nil,
		"OS-SRV-USG:terminated_at":             nil,
		"OS-EXT-STS:task_state":                orNull(s.TaskState),
		"OS-EXT-STS:vm_state":                  s.VMState,
		"OS-EXT-STS:power_state":               s.powerState(),
		"os-extended-volumes:volumes_attached": []any{},
	}
	if !s.Launched.IsZero() {
		sum := sha256.Sum224([]byte(s.ProjectID + computeHost))
		record["hostId"] = hex.EncodeToString(sum[:])
		// Unlike the other times, this one has no zone in Nova's answers.
		record["OS-SRV-USG:launched_at"] = s.Launched.UTC().Format("2006-01-02T15:04:05.000000")
	}
	switch s.Status {
	case "ACTIVE", "BUILD", "REBUILD", "RESIZE", "VERIFY_RESIZE", "MIGRATING":
		record["progress"] = 0
	}
	// Nova asks Neutron for the groups with the caller's rights, and gets none of other projects.
	if len(s.SecurityGroups) > 0 && (v.admin || s.ProjectID == v.caller.ProjectID) {
		groups := make([]any, 0, len(s.SecurityGroups))
		for _, name := range s.SecurityGroups {
			groups = append(groups, object{"name": name})
		}
		record["security_groups"] = groups
	}
	v.addVersioned(record, s)
	if v.admin {
		v.addAdmin(record, s)
	}
	return record
}

// addVersioned adds what every reader sees from some microversion on.
func (v view) addVersioned(record object, s Server) {
	fields := []struct {
		since int
		name  string
		value any
	}{
		{9, "locked", s.Locked},
		{19, "description", nil},
		{26, "tags", append([]string{}, s.Tags...)},
		{63, "trusted_image_certificates", nil},
		{73, "locked_reason", nil},
		{90, "OS-EXT-SRV-ATTR:hostname", s.Hostname},
		{96, "pinned_availability_zone", nil},
		{100, "scheduler_hints", object{}},
	}
	for _, f := range fields {
		if v.version.since(f.since) {
			record[f.name] = f.value
		}
	}
	if v.single && v.version.since(71) {
		record["server_groups"] = []any{}
	}
}

// addAdmin adds what only an admin sees.
func (v view) addAdmin(record object, s Server) {
	launched := !s.Launched.IsZero()
	// present returns the value that a server has when it has a host.
	present := func(value, before any) any {
		if launched {
			return value
		}
		return before
	}
	record["OS-EXT-SRV-ATTR:host"] = present(computeHost, nil)
	record["OS-EXT-SRV-ATTR:instance_name"] = present("instance-"+derivedHex(s.ID)[:8], "")
	record["OS-EXT-SRV-ATTR:hypervisor_hostname"] = present(computeHost, nil)
	if v.version.since(3) {
		record["OS-EXT-SRV-ATTR:reservation_id"] = "r-" + derivedHex(s.ID)[:8]
		record["OS-EXT-SRV-ATTR:launch_index"] = 0
		record["OS-EXT-SRV-ATTR:hostname"] = s.Hostname
		record["OS-EXT-SRV-ATTR:kernel_id"] = ""
		record["OS-EXT-SRV-ATTR:ramdisk_id"] = ""
		record["OS-EXT-SRV-ATTR:root_device_name"] = present("/dev/vda", nil)
		record["OS-EXT-SRV-ATTR:user_data"] = nil
	}
	if v.version.since(16) {
		record["host_status"] = present("UP", "")
	}
}

// partialRecord returns what Nova's API database knows about a server when the database of its cell is unreachable.
func (v view) partialRecord(s Server) object {
	record := object{
		"id":        s.ID,
		"status":    "UNKNOWN",
		"tenant_id": s.ProjectID,
		"created":   timestamp(s.Created),
		"links":     v.links(s),
	}
	if !v.single {
		return record
	}
	record["user_id"] = s.UserID
	record["image"] = v.image(s)
	record["flavor"] = v.flavor(s)
	record["OS-EXT-AZ:availability_zone"] = cmp.Or(s.AvailabilityZone, "UNKNOWN")
	record["OS-EXT-STS:power_state"] = 0
	if v.version.since(71) {
		record["server_groups"] = []any{}
	}
	return record
}

func (v view) links(s Server) []any {
	return []any{
		object{"rel": "self", "href": v.root + novaRoot + "/servers/" + s.ID},
		object{"rel": "bookmark", "href": v.root + "/servers/" + s.ID},
	}
}

func (v view) bookmark(kind, id string) []any {
	return []any{object{"rel": "bookmark", "href": v.root + "/" + kind + "/" + id}}
}

func (v view) image(s Server) any {
	if s.ImageID == "" {
		return ""
	}
	image := object{"id": s.ImageID, "links": v.bookmark("images", s.ImageID)}
	if v.version.since(98) {
		image["properties"] = object{}
	}
	return image
}

// flavor returns a reference below 2.47, and from then on a copy without the ID.
func (v view) flavor(s Server) object {
	if v.version.since(47) {
		return object{
			"vcpus": 1, "ram": 512, "disk": 1, "ephemeral": 0, "swap": 0,
			"original_name": s.Flavor, "extra_specs": object{},
		}
	}
	id := dashed(derivedHex("flavor", s.Flavor))
	return object{"id": id, "links": v.bookmark("flavors", id)}
}

func addresses(s Server) map[string][]object {
	networks := make(map[string][]object)
	if s.VMState == "building" {
		return networks // Nova does not show them, even if it knows them
	}
	for _, a := range s.Addresses {
		version := 4
		if addr, err := netip.ParseAddr(a.Addr); err == nil && addr.Is6() {
			version = 6
		}
		networks[a.Network] = append(networks[a.Network], object{
			"version": version, "addr": a.Addr,
			"OS-EXT-IPS:type":         cmp.Or(a.Type, "fixed"),
			"OS-EXT-IPS-MAC:mac_addr": a.MAC,
		})
	}
	return networks
}

func timestamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
