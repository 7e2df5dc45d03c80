// Package config reads the YAML file: strictly, with defaults, and with every
// problem reported at once.
//
// Each other package owns the part of the file that it obeys; the comments of
// those types are the manual. Nothing below cmd imports this package.
package config

import (
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/admin"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

// maxFile bounds the configuration file.
const maxFile = 1 << 20

// Config is the file.
type Config struct {
	// Listen is the address of the endpoint for instances and verifiers.
	// Default: 0.0.0.0:18775.
	Listen string `yaml:"listen"`
	// TLS is the certificate of that endpoint.
	TLS listen.TLSConfig `yaml:"tls"`
	// Proxy names the load balancers in front of it.
	Proxy server.ProxyConfig `yaml:"proxy"`
	// Auth says when an instance may ask, and what signs its token.
	Auth Auth `yaml:"auth"`
	// Keys are the managed signing keys, which are in the state.
	Keys keyring.Config `yaml:"keys"`
	// State says where attempts are counted and keys are kept. Its type defaults
	// to memory in a file that names a signingKeyFile, as one for the original
	// tool does.
	State state.Config `yaml:"state"`
	// OpenStack says which cloud to ask.
	OpenStack openstack.Config `yaml:"openstack"`
	// Throttle bounds requests.
	Throttle server.ThrottleConfig `yaml:"throttle"`
	// Vendordata is the door for Nova's DynamicJSON.
	Vendordata server.VendordataConfig `yaml:"vendordata"`
	// MetadataService is the listener for Neutron's metadata agents.
	MetadataService server.MetadataServiceConfig `yaml:"metadataService"`
	// Admin is the socket for the operator.
	Admin admin.Config `yaml:"admin"`
	// Metrics is the listener for monitoring.
	Metrics server.MetricsConfig `yaml:"metrics"`
	// Log is what the process says of itself.
	Log Log `yaml:"log"`
	// Audit is the line of each decision.
	Audit audit.Config `yaml:"audit"`
	// Roles are what instances may be, by name.
	Roles map[string]Role `yaml:"roles"`
}

// Auth is the defaults of all roles and the issuer.
type Auth struct {
	// Proof is what an instance must show for a role that does not say: address,
	// document, metadataService or address+document, which is both. Of a list any
	// one. Default: address.
	Proof         []attest.Proof `yaml:"proof"`
	attest.Window `yaml:",inline"`
	token.Config  `yaml:",inline"`
}

// Role is who may have a role and what differs for it from auth.
type Role struct {
	attest.Rules     `yaml:",inline"`
	attest.Grant     `yaml:",inline"`
	token.RoleConfig `yaml:",inline"`
	// Limit, Period and Since override auth's. Optional.
	Limit  *int           `yaml:"limit"`
	Period *time.Duration `yaml:"period"`
	Since  *attest.Since  `yaml:"since"`
}

// Log is how the process speaks on stderr.
type Log struct {
	// Level is debug, info, warn or error. Default: info.
	Level string `yaml:"level"`
	// Format is json or text. Default: json.
	Format string `yaml:"format"`
}

// Default is an empty file's configuration. It lacks what is required.
func Default() Config {
	return Config{
		Listen: "0.0.0.0:18775",
		Proxy:  server.ProxyConfig{Via: server.ViaHeader},
		Auth: Auth{
			Proof:  []attest.Proof{attest.ProofAddress},
			Window: attest.Window{Limit: 3, Period: 5 * time.Minute, Since: attest.SinceCreated},
			Config: token.Config{TokenExpiry: 10 * time.Minute},
		},
		Keys: keyring.Config{Algorithm: keyring.RS256, RotationPeriod: 30 * 24 * time.Hour, MaxAge: 5 * time.Minute},
		State: state.Config{
			Type:  state.TypeFile,
			File:  state.FileConfig{Path: "state.db"},
			Redis: state.RedisConfig{Addresses: []string{"127.0.0.1:6379"}, Prefix: "ona:"},
		},
		OpenStack:  openstack.Config{Lookup: openstack.LookupAuto, Timeout: 3 * time.Second, MaxConcurrent: 64},
		Throttle:   server.ThrottleConfig{PerAddress: ratelimit.Rate{Rate: 5, Burst: 20}, PerInstance: ratelimit.Rate{Rate: 1, Burst: 10}},
		Vendordata: server.VendordataConfig{DocumentExpiry: 5 * time.Minute},
		Metrics:    server.MetricsConfig{Listen: "127.0.0.1:18776"},
		Log:        Log{Level: "info", Format: "json"},
		Audit:      audit.Config{Output: "stdout"},
	}
}
