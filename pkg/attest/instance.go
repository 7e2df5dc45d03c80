package attest

import (
	"errors"
	"net/netip"
	"strings"
	"time"
)

// ErrInvalidInstanceID says that a string is not a UUID in its 36 character form.
var ErrInvalidInstanceID = errors.New("an instance ID is a UUID such as 1b9c7a3e-4f0d-4c63-9d0e-0e8f6f3c5a21")

// InstanceID is the UUID of a Nova server, in lower case. It is public
// knowledge: it selects an instance and proves nothing. The zero value is
// invalid.
type InstanceID struct{ id string }

// ParseInstanceID takes the 36 character form of a UUID, in any case, and
// nothing else: Nova answers other strings in ways that are not a server (its
// path `servers/detail` is a list), and folds case in its database.
func ParseInstanceID(s string) (InstanceID, error) {
	if len(s) != 36 {
		return InstanceID{}, ErrInvalidInstanceID
	}
	for i := range len(s) {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return InstanceID{}, ErrInvalidInstanceID
			}
		case '0' <= c && c <= '9', 'a' <= c && c <= 'f', 'A' <= c && c <= 'F':
		default:
			return InstanceID{}, ErrInvalidInstanceID
		}
	}
	return InstanceID{strings.ToLower(s)}, nil
}

// String is the ID in lower case, empty for the zero value.
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

// Instance is what the cloud says of a server at one moment. Fields that Nova
// leaves out of an answer are an error in the lookup, never a zero value here.
type Instance struct {
	ID        InstanceID
	Name      string // chosen by the user
	ProjectID string
	UserID    string
	Metadata  map[string]string // chosen by the user
	ImageID   string            // "" for a boot from volume
	Flavor    string            // its name; "" where Nova's microversion (before 2.47) tells the ID alone
	Zone      string            // OS-EXT-AZ:availability_zone, empty before it is placed
	Hostname  string            // chosen by the user; "" where Nova does not tell it (before 2.90)
	Region    string            // of the Nova that was asked
	Phase     Phase
	State     string // what the cloud calls it, for the operator
	Launching bool   // a launch is under way, and nothing of the instance runs before it ends
	Created   time.Time
	Launched  time.Time // OS-SRV-USG:launched_at; zero until the first launch
	Addresses []Address
}

// Address is one address that Neutron assigned to an instance's port, or a
// floating one that leads to it.
type Address struct {
	Network string // the network's name, unique within nothing
	Addr    netip.Addr
	MAC     MAC // of the port
}
