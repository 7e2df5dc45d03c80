// Package config reads the configuration file. It refuses unknown keys, fills in the
// defaults, and reports all problems at once. The result is a [Plan]: each part is the
// type that its package works with.
//
// The other packages own the settings that they use; the comments of those types are the
// manual. Only cmd imports this package.
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

// Config is the content of the file.
type Config struct {
	// Listen is the address of the endpoint for instances and verifiers.
	// Default: 0.0.0.0:18775.
	Listen string `yaml:"listen"`
	// TLS is the certificate of that endpoint.
	TLS listen.TLSConfig `yaml:"tls"`
	// Proxy names the load balancers in front of that endpoint.
	Proxy server.ProxyConfig `yaml:"proxy"`
	// Auth has the defaults of all roles, the issuer and its signing key.
	Auth authConfig `yaml:"auth"`
	// Keys says how the server rotates the signing keys in the state.
	Keys keyring.Config `yaml:"keys"`
	// State says where attempts are counted and keys are stored. With
	// auth.signingKeyFile the default of its type is memory: files for the original tool
	// have that key, and no state.
	State state.Config `yaml:"state"`
	// OpenStack names the cloud and bounds the requests to it.
	OpenStack openstack.Config `yaml:"openstack"`
	// Throttle limits the rate of requests.
	Throttle server.ThrottleConfig `yaml:"throttle"`
	// Vendordata is the door for Nova's DynamicJSON vendordata.
	Vendordata server.VendordataConfig `yaml:"vendordata"`
	// MetadataService is the listener for Neutron's metadata agents.
	MetadataService server.MetadataServiceConfig `yaml:"metadataService"`
	// Admin is the socket for operators.
	Admin admin.Config `yaml:"admin"`
	// Metrics is the listener for monitoring.
	Metrics server.MetricsConfig `yaml:"metrics"`
	// Log is the log of the process, on stderr.
	Log logConfig `yaml:"log"`
	// Audit is the audit log, which has a line for each decision.
	Audit audit.Config `yaml:"audit"`
	// Roles are the roles by their names. At least one is required.
	Roles map[string]Role `yaml:"roles"`
}

// authConfig has the defaults of all roles, and the issuer.
type authConfig struct {
	// Proof lists the proofs that a role without its own list accepts: address,
	// document, metadataService, or address+document, which needs both. One of the list
	// is enough. Default: address.
	Proof         []attest.Proof `yaml:"proof"`
	attest.Window `yaml:",inline"`
	token.Config  `yaml:",inline"`
}

// Role has the rules of a role, and its settings.
type Role struct {
	attest.Rules     `yaml:",inline"`
	attest.Grant     `yaml:",inline"`
	token.RoleConfig `yaml:",inline"`
	// Limit, Period and Since replace those of auth. Optional.
	Limit  *int           `yaml:"limit"`
	Period *time.Duration `yaml:"period"`
	Since  *attest.Since  `yaml:"since"`
}

// logConfig is the log of the process.
type logConfig struct {
	// Level is debug, info, warn or error. Default: info.
	Level string `yaml:"level"`
	// Format is json or text. Default: json.
	Format string `yaml:"format"`
}

// Default returns the defaults. Required keys are empty.
func Default() Config {
	return Config{
		Listen: "0.0.0.0:18775",
		Proxy:  server.ProxyConfig{Via: server.ViaHeader},
		Auth: authConfig{
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
		Log:        logConfig{Level: "info", Format: "json"},
		Audit:      audit.Config{Output: "stdout"},
	}
}
