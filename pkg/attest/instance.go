package attest

import (
	"errors"
	"net/netip"
	"strings"
	"time"
)

var errInvalidInstanceID = errors.New("an instance ID is a UUID such as 1b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5a21")

// InstanceID is the UUID of a Nova server, in lower case. It is not a secret and proves
// nothing. The zero value is invalid.
type InstanceID struct{ id string }

// ParseInstanceID takes the form of a UUID with 36 characters, in any case, and nothing
// else: for other strings Nova may answer with something that is not a server (its path
// `servers/detail` is a list), and its database ignores case.
func ParseInstanceID(s string) (InstanceID, error) {
	if len(s) != 36 {
		return InstanceID{}, errInvalidInstanceID
	}
	for i := range len(s) {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return InstanceID{}, errInvalidInstanceID
			}
		case '0' <= c && c <= '9', 'a' <= c && c <= 'f', 'A' <= c && c <= 'F':
		default:
			return InstanceID{}, errInvalidInstanceID
		}
	}
	return InstanceID{strings.ToLower(s)}, nil
}

// String returns the ID in lower case, "" for the zero value.
func (id InstanceID) String() string { return id.id }

// MarshalText implements [encoding.TextMarshaler].
func (id InstanceID) MarshalText() ([]byte, error) { return []byte(id.id), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; see [ParseInstanceID].
func (id *InstanceID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseInstanceID(string(text))
	return err
}

// IsZero reports whether id is the invalid zero value.
func (id InstanceID) IsZero() bool { return id.id == "" }

// Instance is the cloud's record of a server at one time. A field that Nova's answer lacks
// is an error of the lookup, never a zero value here.
type Instance struct {
	ID        InstanceID
	Name      string // chosen by the user
	ProjectID string
	UserID    string
	Metadata  map[string]string // chosen by the user
	ImageID   string            // "" for a boot from volume
	Flavor    string            // its name; "" before Nova's microversion 2.47
	Zone      string            // OS-EXT-AZ:availability_zone; "" before the scheduler chose one
	Hostname  string            // chosen by the user; "" before microversion 2.90
	Region    string            // of Nova
	Phase     Phase
	State     string // the cloud's words for the phase, for the operator
	Launching bool   // a launch is under way, and nothing of the instance runs until it ends
	Created   time.Time
	Launched  time.Time // OS-SRV-USG:launched_at; zero until the first launch
	Addresses []Address
}

// Address is an address of an instance's port, or a floating IP of it.
type Address struct {
	Network string // the name of the network, which is not unique
	Addr    netip.Addr
	MAC     MAC // of the port
}

// String returns the IP address.
func (a Address) String() string { return a.Addr.String() }
