package admin

import (
	"io"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
)

// Config says where the socket is.
type Config struct {
	// Socket is the path of a Unix socket of mode 0600. Optional: without it
	// admin.sock in $RUNTIME_DIRECTORY (systemd), else none.
	Socket string `yaml:"socket"`
}

// Route is a method and a path, in the form of [net/http.ServeMux]. The answer is an Answer
// in JSON.
type Route[Answer any] string

// The routes. The handler also serves profiles, at GET /debug/pprof/.
const (
	getStatus     Route[Status]          = "GET /status"
	ListInstances Route[Instances]       = "GET /instances"
	ShowInstance  Route[attest.Kept]     = "GET /instances/{id}"
	ResetInstance Route[Reset]           = "POST /instances/{id}/reset" // returns its attempts
	DenyInstance  Route[attest.Denial]   = "POST /instances/{id}/deny"  // takes a Deny
	AllowInstance Route[struct{}]        = "POST /instances/{id}/allow" // ends a denial
	ListKeys      Route[Keys]            = "GET /keys"
	InitKeys      Route[Initialized]     = "POST /keys/init"         // see [keyring.Ring.Init] and Input.Accept
	RotateKeys    Route[keyring.KeyInfo] = "POST /keys/rotate"       // lets the next key sign
	ImportKey     Route[keyring.KeyInfo] = "POST /keys/import"       // takes a private key, PEM
	RevokeKey     Route[struct{}]        = "POST /keys/{kid}/revoke" // removes the key from the key set
	SaveState     Route[io.Reader]       = "GET /state"              // a copy of the state file itself, not JSON
)

// changes reports whether the route changes something.
func (to Route[Answer]) changes() bool { return strings.HasPrefix(string(to), "POST ") }

// action is the route's name in the audit log: the first and the last word of its path.
func (to Route[Answer]) action() string {
	words := strings.Split(string(to), "/")
	return words[1] + " " + words[len(words)-1]
}

// Status is the answer of GET /status.
type Status struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Config  string `json:"config"` // the hash of the file
	Started string `json:"started"`
}

// Instances is the answer of [ListInstances].
type Instances struct {
	Instances []attest.Kept `json:"instances"`
	More      bool          `json:"more"` // the list is not complete
}

// Reset is the answer of [ResetInstance].
type Reset struct {
	Windows int `json:"windows"` // windows and documents whose attempts were returned
}

// Deny is what [DenyInstance] takes.
type Deny struct {
	For    string `json:"for,omitempty"` // a duration; "": until the instance is allowed again
	Reason string `json:"reason"`
}

// Keys is the answer of [ListKeys].
type Keys struct {
	Keys []keyring.KeyInfo `json:"keys"`
}

// Initialized is the answer of [InitKeys].
type Initialized struct {
	Accepted []keyring.Accepted `json:"accepted"`
}
