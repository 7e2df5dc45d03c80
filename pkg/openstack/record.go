package openstack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// record is a server in Nova's answer (api-ref/source/servers.inc). Pointers and raw values distinguish an absent value
// from an empty one: when a cell is down, Nova answers 200 with a record that lacks most keys
// (api-guide/source/down_cells.rst), and a missing value must not satisfy a rule. Null counts as absent, except where
// Nova's documentation gives it a meaning: no task, no launch, no zone yet.
type record struct {
	ID        *string                     `json:"id"`
	Name      *string                     `json:"name"`
	Status    *string                     `json:"status"`
	TenantID  *string                     `json:"tenant_id"`
	UserID    *string                     `json:"user_id"`
	Metadata  *map[string]*string         `json:"metadata"`
	Created   *time.Time                  `json:"created"`
	TaskState json.RawMessage             `json:"OS-EXT-STS:task_state"`
	Launched  json.RawMessage             `json:"OS-SRV-USG:launched_at"`
	Addresses *map[string][]recordAddress `json:"addresses"`
	Image     json.RawMessage             `json:"image"` // the empty string for a boot from volume
	Flavor    *struct {
		Name string `json:"original_name"` // from 2.47 on
	} `json:"flavor"`
	Zone     json.RawMessage `json:"OS-EXT-AZ:availability_zone"`
	Hostname string          `json:"OS-EXT-SRV-ATTR:hostname"` // from 2.90 on
}

type recordAddress struct {
	Addr *string `json:"addr"`
	Type *string `json:"OS-EXT-IPS:type"`
	MAC  string  `json:"OS-EXT-IPS-MAC:mac_addr"`
}

// launchedLayout is the form of launched_at in Nova's answers: UTC, without a zone.
const launchedLayout = "2006-01-02T15:04:05.999999"

// instance returns the instance of a record, or an error if the record cannot be used.
func (r record) instance() (attest.Instance, error) {
	var none attest.Instance
	if r.ID == nil {
		return none, partial("id")
	}
	id, err := attest.ParseInstanceID(*r.ID)
	if err != nil {
		return none, fmt.Errorf("the record's id %s: %w", secret.Quote(*r.ID), err)
	}
	if empty(r.Status) || *r.Status == "UNKNOWN" {
		return none, partial("status")
	}
	for key, absent := range map[string]bool{
		"name":                   r.Name == nil,
		"tenant_id":              empty(r.TenantID),
		"user_id":                empty(r.UserID) || *r.UserID == "UNKNOWN",
		"metadata":               r.Metadata == nil,
		"created":                r.Created == nil || r.Created.IsZero(),
		"OS-EXT-STS:task_state":  r.TaskState == nil,
		"OS-SRV-USG:launched_at": r.Launched == nil,
		"addresses":              r.Addresses == nil,
		"image":                  r.Image == nil,
		"flavor":                 r.Flavor == nil,

		"OS-EXT-AZ:availability_zone": r.Zone == nil,
	} {
		if absent {
			return none, partial(key)
		}
	}
	in := attest.Instance{
		ID: id, Name: *r.Name, ProjectID: *r.TenantID, UserID: *r.UserID,
		Metadata: present(*r.Metadata), Created: *r.Created,
		Flavor: r.Flavor.Name, Hostname: r.Hostname,
	}
	if err := nullable(r.Zone, &in.Zone); err != nil {
		return none, fmt.Errorf("the record's availability_zone: %w", err)
	}
	if in.ImageID, err = imageID(r.Image); err != nil {
		return none, fmt.Errorf("the record's image: %w", err)
	}
	var task string
	if err := nullable(r.TaskState, &task); err != nil {
		return none, fmt.Errorf("the record's task_state: %w", err)
	}
	in.Phase, in.State, in.Launching = phase(*r.Status, task), state(*r.Status, task), launching(task)
	if in.Launched, err = launchedAt(r.Launched); err != nil {
		return none, fmt.Errorf("the record's launched_at: %w", err)
	}
	for network, list := range *r.Addresses {
		if list == nil {
			return none, partial("addresses")
		}
		for _, a := range list {
			addr, err := a.parse(network)
			if err != nil {
				return none, err
			}
			in.Addresses = append(in.Addresses, addr)
		}
	}
	return in, nil
}

func (a recordAddress) parse(network string) (attest.Address, error) {
	var none attest.Address
	if a.Addr == nil {
		return none, partial("addresses")
	}
	what := fmt.Sprintf("address %s of network %s", secret.Quote(*a.Addr), secret.Quote(network))
	if a.Type == nil {
		return none, fmt.Errorf("%s has no OS-EXT-IPS:type: every Nova with API 2.1 writes it; check that the catalog's compute endpoint is Nova's own, and that no proxy changes its answers", what)
	}
	if *a.Type != "fixed" && *a.Type != "floating" {
		return none, fmt.Errorf("%s is of type %s, neither fixed nor floating", what, secret.Quote(*a.Type))
	}
	addr, err := netip.ParseAddr(*a.Addr)
	if err != nil {
		return none, fmt.Errorf("%s is not an IP address", what)
	}
	return attest.Address{Network: network, Addr: attest.Canonical(addr), MAC: parseMAC(a.MAC)}, nil
}

// present omits the keys whose value is null.
func present(metadata map[string]*string) map[string]string {
	all := make(map[string]string, len(metadata))
	for key, value := range metadata {
		if value != nil {
			all[key] = *value
		}
	}
	return all
}

// launchedAt returns the zero time for null: the server was never launched.
func launchedAt(raw json.RawMessage) (time.Time, error) {
	var launched *string
	if err := json.Unmarshal(raw, &launched); err != nil || launched == nil {
		return time.Time{}, err
	}
	at, err := time.Parse(launchedLayout, *launched)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s is not a time such as %s", secret.Quote(*launched), launchedLayout)
	}
	return at, nil
}

// imageID returns "" for a server that was booted from a volume. Nova writes its image as "".
func imageID(raw json.RawMessage) (string, error) {
	if bytes.Equal(raw, []byte(`""`)) {
		return "", nil
	}
	var image *struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(raw, &image); err != nil {
		return "", err
	}
	if image == nil || image.ID == "" {
		return "", errors.New("it has no id")
	}
	return image.ID, nil
}

// parseMAC returns the zero value if s is not an Ethernet address. It equals no address of a port.
func parseMAC(s string) (m attest.MAC) {
	if parsed, err := net.ParseMAC(s); err == nil && len(parsed) == len(m) {
		copy(m[:], parsed)
	}
	return m
}

func partial(key string) error {
	return fmt.Errorf("nova's record is partial (no %s): a cell may be down", key)
}

func empty(s *string) bool { return s == nil || *s == "" }

// nullable decodes a string. Null leaves it empty.
func nullable(raw json.RawMessage, into *string) error {
	if bytes.Equal(raw, []byte("null")) {
		return nil
	}
	return json.Unmarshal(raw, into)
}
