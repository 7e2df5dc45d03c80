// Package config reads the YAML file: strictly, with defaults, and with every
// problem reported at once.
//
// Each other package owns the part of the file that it obeys; the comments of
// those types are the manual. Nothing below cmd imports this package.
package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/admin"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/ratelimit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
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

	// Hash identifies the file's content: the first 12 hexadecimal digits of its
	// SHA-256.
	Hash string `yaml:"-"`
	// Cloud is OpenStack, checked.
	Cloud openstack.Plan `yaml:"-"`
	// LoadBalancers, NovaDoor and AgentsDoor are Proxy, Vendordata and MetadataService,
	// parsed.
	LoadBalancers server.Proxy           `yaml:"-"`
	NovaDoor      server.Vendordata      `yaml:"-"`
	AgentsDoor    server.MetadataService `yaml:"-"`
	// Tokens are the issuer and Roles, compiled, and RoleSet the rules of these roles.
	Tokens  *token.Plan   `yaml:"-"`
	RoleSet attest.Policy `yaml:"-"`
	// KeyPlan is Keys, checked, with the encryption keys read.
	KeyPlan keyring.Plan `yaml:"-"`
	// SigningKeys are those of auth.signingKeyFile, read.
	SigningKeys keyring.Keys `yaml:"-"`

	file    string // its path
	lines   map[string]int
	decoder *decoder // has the keys that messages do not show
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

// Problems is every problem of a file.
type Problems struct {
	File string
	List []Problem
}

func (p *Problems) Error() string {
	lines := make([]string, len(p.List))
	for i, problem := range p.List {
		lines[i] = p.File + ": " + problem.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads a file and everything it names. The error is a [*Problems] unless
// the file itself cannot be read.
func Load(file string) (*Config, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Read(f)
}

// Read is [Load] for a file that is open.
func Read(f *os.File) (*Config, error) {
	data, err := secret.ReadAll(f, maxFile)
	if errors.Is(err, secret.ErrTooLong) {
		return nil, &Problems{f.Name(), []Problem{{Message: err.Error()}}}
	}
	if err != nil {
		return nil, err
	}
	c, problems := parse(data, f.Name())
	if len(problems) > 0 {
		return nil, &Problems{f.Name(), problems}
	}
	return c, nil
}

func parse(data []byte, file string) (*Config, []Problem) {
	c := Default()
	c.file = file
	d := newDecoder()
	d.document(data, &c)
	c.lines, c.decoder = d.lines, d
	if _, said := c.lines["state.type"]; !said && len(c.Auth.SigningKeyFile) > 0 {
		c.State.Type = state.TypeMemory
	}
	sum := sha256.Sum256(data)
	c.Hash = hex.EncodeToString(sum[:])[:12]
	hidden := c.resolvePaths(filepath.Dir(file), d)

	problems := d.problems
	if d.unusable {
		return &c, problems
	}
	for _, found := range problem.List(c.validate()) {
		if p := c.problem(found); !d.unread(p.Path) && !slices.Contains(hidden, secret.FileOf(found.Err)) {
			problems = append(problems, p)
		}
	}
	slices.SortStableFunc(problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return &c, problems
}

// problem finds the line of a problem, and hides what may be a secret in it.
func (c *Config) problem(found problem.Problem) Problem {
	p := Problem{Path: c.decoder.hideKeys(found.Path), Message: secret.Values(c.decoder.hideKeys(found.Err.Error()))}
	for at := p.Path; at != "" && p.Line == 0; at = parent(at) {
		p.Line = c.lines[at]
	}
	return p
}

// namedPath is a value of the file that is the path of a file.
type namedPath struct {
	key   string
	value *string
	made  bool // the server makes the file if it does not exist
}

// paths are those of the values that are paths and that are read.
func (c *Config) paths() []namedPath {
	all := []namedPath{
		{"tls.certFile", &c.TLS.CertFile, false},
		{"tls.keyFile", &c.TLS.KeyFile, false},
		{"openstack.cloudsFile", &c.OpenStack.CloudsFile, false},
		{"admin.socket", &c.Admin.Socket, true},
		{"metadataService.tls.certFile", &c.MetadataService.TLS.CertFile, false},
		{"metadataService.tls.keyFile", &c.MetadataService.TLS.KeyFile, false},
		{"metadataService.tls.clientCAFile", &c.MetadataService.TLS.ClientCAFile, false},
	}
	list := func(key string, values []string) {
		for i := range values {
			at := fmt.Sprintf("%s[%d]", key, i)
			if _, ok := c.lines[at]; !ok {
				at = key // it is written as a single value
			}
			all = append(all, namedPath{at, &values[i], false})
		}
	}
	list("metadataService.sharedSecretFile", c.MetadataService.SharedSecretFile)
	list("auth.signingKeyFile", c.Auth.SigningKeyFile)
	list("keys.encryptionKeyFile", c.Keys.EncryptionKeyFile)
	switch c.State.Type {
	case state.TypeRedis:
		all = append(all, namedPath{"state.redis.passwordFile", &c.State.Redis.PasswordFile, false}, namedPath{"state.redis.caFile", &c.State.Redis.CAFile, false})
	case state.TypeFile:
		all = append(all, namedPath{"state.file.path", &c.State.File.Path, true})
	}
	if c.Audit.Output != "stdout" && c.Audit.Output != "stderr" {
		all = append(all, namedPath{"audit.output", &c.Audit.Output, true})
	}
	return all
}

// resolvePaths makes the paths of the file relative to the file. A value that does
// not look like a path is a problem, and what is wrong with the file that it would be
// is none: hidden has these files.
func (c *Config) resolvePaths(dir string, d *decoder) (hidden []string) {
	for _, p := range c.paths() {
		value, base := *p.value, dir
		if own := systemdDirectory("STATE_DIRECTORY"); p.key == "state.file.path" && own != "" {
			base = own
		}
		if value == "" {
			continue
		}
		if !filepath.IsAbs(value) {
			*p.value = filepath.Join(base, value)
		}
		if secret.IsPath(value, base) || p.made && strings.Contains(value, ".") && secret.ShownKey(value) {
			continue
		}
		hidden = append(hidden, *p.value)
		if p.made {
			d.skip(p.key, c.lines[p.key], "the path of a file is wanted, in a folder that exists; the value is %s, as it could be a secret (for a file of that name beside this one, write ./ in front)", secret.Hidden)
		} else {
			d.skip(p.key, c.lines[p.key], "the path of a file is wanted, and there is no such file; the value is %s, as it could be the secret itself, which belongs in a file", secret.Hidden)
		}
	}
	if abs, err := filepath.Abs(c.Admin.Socket); err == nil && c.Admin.Socket != "" {
		c.Admin.Socket = abs
	}
	if run := systemdDirectory("RUNTIME_DIRECTORY"); c.Admin.Socket == "" && run != "" {
		c.Admin.Socket = filepath.Join(run, "admin.sock")
	}
	return hidden
}

// SeenFile is where the server notes what it has seen of the state: beside a state
// file; with Redis in $STATE_DIRECTORY, else beside the configuration. It is "" for
// a state that ends with the process.
func (c *Config) SeenFile() string {
	switch c.State.Type {
	case state.TypeFile:
		return c.State.File.Path + ".seen"
	case state.TypeRedis:
		dir := systemdDirectory("STATE_DIRECTORY")
		if dir == "" {
			dir = filepath.Dir(c.file)
		}
		return filepath.Join(dir, "state.seen")
	}
	return ""
}

// systemdDirectory is the first of the directories that systemd names in a
// variable, with colons between them (systemd.exec(5)); "" for none.
func systemdDirectory(variable string) string {
	first, _, _ := strings.Cut(os.Getenv(variable), ":")
	return first
}

// validate checks everything that can be checked without the network, reads the
// keys and compiles the roles.
func (c *Config) validate() error {
	var all []error
	add := func(path string, err error) { all = append(all, problem.At(path, err)) }

	add("listen", listen.ValidateAddress(c.Listen))
	add("tls", c.TLS.Validate())
	if c.TLS.CertFile != "" && c.TLS.KeyFile != "" {
		_, err := listen.LoadCertificate(c.TLS)
		add("tls", err)
	}
	var err error
	c.LoadBalancers, err = c.Proxy.Parse()
	add("proxy", err)
	add("auth", attest.ValidateProofs(c.Auth.Proof))
	add("auth", c.Auth.Window.Validate(c.Auth.Proof))
	c.Tokens, err = c.Auth.Config.Plan()
	add("auth", err)
	if slices.Contains(c.Auth.SigningKeyFile, "") {
		add("auth.signingKeyFile", errors.New("an empty value names no file"))
	} else if len(c.Auth.SigningKeyFile) > 0 {
		keys, err := keyring.LoadKeys(c.Auth.SigningKeyFile)
		add("auth.signingKeyFile", err)
		c.SigningKeys = keys
	}
	add("state", c.State.Validate())
	if c.State.Type == state.TypeRedis && len(c.Keys.EncryptionKeyFile) == 0 {
		add("keys.encryptionKeyFile", errors.New("is required for state.type redis, with auth.signingKeyFile too: it seals the keys and the denied instances from those who can read or write Redis (make one with: openssl rand -base64 32)"))
	}
	c.Cloud, err = c.OpenStack.Plan()
	add("openstack", err)
	add("throttle.perAddress", c.Throttle.PerAddress.Validate())
	add("throttle.perInstance", c.Throttle.PerInstance.Validate())
	add("admin.socket", listen.ValidateSocket(c.Admin.Socket))
	if c.Metrics.Listen != "" {
		add("metrics.listen", listen.ValidateAddress(c.Metrics.Listen))
	}
	c.NovaDoor, err = c.Vendordata.Parse()
	add("vendordata", err)
	c.AgentsDoor, err = c.MetadataService.Parse()
	add("metadataService", err)
	if m := c.MetadataService; m.Listen != "" && m.TLS.CertFile != "" && m.TLS.KeyFile != "" {
		_, err := listen.LoadCertificate(m.TLS.TLSConfig)
		add("metadataService.tls", err)
	}
	add("audit", c.Audit.Validate())
	for _, f := range c.guarded() {
		for _, exposed := range f.exposed() {
			if exposed.refused {
				add(f.key, errors.New(exposed.message))
			}
		}
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		add("log.level", fmt.Errorf("%q is none of debug, info, warn, error", c.Log.Level))
	}
	if c.Log.Format != "json" && c.Log.Format != "text" {
		add("log.format", fmt.Errorf("%q is neither json nor text", c.Log.Format))
	}
	all = append(all, c.compileRoles())
	c.KeyPlan, err = c.Keys.Plan(c.LongestLife())
	add("keys", err)
	return errors.Join(all...)
}

func (c *Config) compileRoles() error {
	if len(c.Roles) == 0 {
		return problem.Errorf("roles", "is required: without a role no instance gets a token")
	}
	var all []error
	// What is wrong at auth is reported once, there.
	base, proof := c.Auth.Window, c.Auth.Proof
	if attest.ValidateProofs(proof) != nil {
		proof = Default().Auth.Proof
	}
	if base.Validate(proof) != nil {
		base = Default().Auth.Window
	}
	for _, name := range slices.Sorted(maps.Keys(c.Roles)) {
		r := c.Roles[name]
		w := base
		override(&w.Limit, r.Limit)
		override(&w.Period, r.Period)
		override(&w.Since, r.Since)
		if r.Proof == nil {
			r.Proof = proof
		}
		role, err := attest.NewRole(name, r.Grant, w, r.Rules)
		all = append(all, problem.At("roles."+c.decoder.shown("roles", name), errors.Join(err, c.Tokens.Add(role, r.RoleConfig))))
	}
	c.RoleSet = c.Tokens.Policy()
	if c.MetadataService.AgentsLimitHeaders {
		c.RoleSet = c.RoleSet.WithLimitedAgents()
	}
	if !c.Tokens.Issuer().IsZero() { // else reported at auth
		all = append(all, c.reservedAudiences()...)
	}
	return errors.Join(all...)
}

// reservedAudiences finds those of the tokens that Nova is given which belong to
// a role or to us: what asks for no role must not pass for one.
func (c *Config) reservedAudiences() []error {
	var all []error
	for i, name := range c.Vendordata.Audience {
		if a, err := attest.ParseAudience(name); err == nil && c.RoleSet.Reserved(a) {
			all = append(all, problem.Errorf(fmt.Sprintf("vendordata.audience[%d]", i), "%q is a role's or ours, and the token in the answer to Nova has no role", name))
		}
	}
	return all
}

// LongestLife is the longest life of the tokens of any role, and of documents.
func (c *Config) LongestLife() time.Duration {
	longest := c.Tokens.LongestLife()
	if len(c.Vendordata.Users) > 0 {
		longest = max(longest, c.Vendordata.DocumentExpiry)
	}
	return longest
}

// longLife is how long a token may live before the operator is asked whether
// that is meant: no token is revoked.
const longLife = time.Hour

// Warnings is what can be meant as it stands, and often is not.
func (c *Config) Warnings() []Problem {
	var all []Problem
	warn := func(path, format string, args ...any) {
		all = append(all, c.problem(problem.Problem{Path: path, Err: fmt.Errorf(format, args...)}))
	}
	for _, f := range c.guarded() {
		for _, exposed := range f.exposed() {
			if !exposed.refused {
				warn(f.key, "%s", exposed.message)
			}
		}
	}
	if c.TLS.CertFile == "" && len(c.Proxy.Trusted) == 0 && !loopback(c.Listen) {
		warn("listen", "%s speaks plain HTTP to the network, so tokens can be read on the way; set tls, or proxy.trusted if a load balancer ends TLS", c.Listen)
	}
	if w := c.Tokens.Issuer().Unsuitable(); w != "" {
		warn("auth.tokenIssuer", "%s", w)
	}
	if c.State.Type == state.TypeMemory && len(c.Auth.SigningKeyFile) == 0 {
		warn("state.type", "memory loses the signing keys with a restart, and with them every token that is out")
	}
	if m := c.MetadataService; m.Listen != "" {
		for key, list := range map[string][]netip.Prefix{"agents": m.Agents, "proxies": m.Proxies} {
			for i, p := range list {
				if p.Bits() < p.Addr().BitLen()-16 {
					warn(fmt.Sprintf("metadataService.%s[%d]", key, i), "%v is a wide network: whoever is in it and caught a signature can be that instance", p)
				}
			}
		}
		if m.TLS.ClientCAFile == "" {
			warn("metadataService.tls", "has no clientCAFile, so that whoever takes an agent's address is an agent, and reads its signatures on the way: they are good for ever")
		}
	} else if c.needsProof(attest.ProofMetadataService) {
		warn("metadataService.listen", "is empty, and a role takes no other proof than metadataService: nobody can have it")
	}
	switch v := c.Vendordata; {
	case len(v.Users) == 0 && c.needsProof(attest.ProofDocument, attest.ProofAddressAndDocument):
		warn("vendordata.users", "is empty, so there are no documents, and a role takes no other proof: nobody can have it")
	case len(v.Users) > 0 && len(v.From) == 0:
		text := "is empty, so that a request with more than 8 KiB is refused: instances with longer user data get no vendordata"
		if v.Listen == "" {
			text += ", and instances, too, can have Keystone asked about tokens"
		}
		warn("vendordata.from", "%s; name the hosts with nova-api and nova-compute", text)
	}
	switch v := c.Vendordata; {
	case len(v.Users) == 0 && len(v.Listen)+len(v.From)+len(v.Audience)+len(v.Static) > 0:
		warn("vendordata", "has no users: the door is closed, whatever else is set")
	case len(v.Users) > 0 && v.Listen != "" && c.TLS.CertFile == "" && !loopback(v.Listen):
		warn("vendordata.listen", "%s speaks plain HTTP: whoever reads along has Nova's token and every document; set tls", v.Listen)
	}
	c.unlimitedAgents(warn)
	if c.Auth.TokenExpiry > longLife {
		warn("auth.tokenExpiry", "%v is long: a token cannot be revoked", c.Auth.TokenExpiry)
	}
	for i, p := range c.Proxy.Trusted {
		if p.Bits() < p.Addr().BitLen()-16 {
			warn(fmt.Sprintf("proxy.trusted[%d]", i), "%v is a wide network: every machine in it can name any instance's address", p)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Roles)) {
		r := c.Roles[name]
		if !bound(r.ProjectID) && !bound(r.UserID) {
			warn("roles."+c.decoder.shown("roles", name), "names no project and no user: whoever can create an instance anywhere in the cloud can meet its other rules")
		}
		c.unlikelyIDs("roles."+c.decoder.shown("roles", name), r.Rules, warn)
		if r.AnyAudience && len(c.Vendordata.Users) > 0 && len(c.Vendordata.Audience) > 0 {
			warn("roles."+c.decoder.shown("roles", name)+".anyAudience", "its tokens may be for vendordata.audience, too, as every instance's are: verifiers there must look at the role claim")
		}
		for _, a := range r.Audience {
			if strings.ContainsAny(a, ";,") {
				warn("roles."+c.decoder.shown("roles", name)+".audience", "%s has a ; or a comma: verifiers that split there, as Keystone's mapping does, see more than one audience", secret.Text(a))
			}
		}
		if r.TokenExpiry != nil && *r.TokenExpiry > longLife {
			warn("roles."+c.decoder.shown("roles", name)+".tokenExpiry", "%v is long: a token cannot be revoked", *r.TokenExpiry)
		}
	}
	slices.SortStableFunc(all, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return all
}

// unlimitedAgents warns of what rests on metadata agents, and so is denied without the
// operator's word on them.
func (c *Config) unlimitedAgents(warn func(path, format string, args ...any)) {
	if c.MetadataService.AgentsLimitHeaders {
		return
	}
	const unless = "unless metadataService.agentsLimitHeaders is true: set it when each metadata agent is of Neutron 2024.2 or older, or has the limit of example/metadata-service/agent-limits"
	proofs := func(path string, list []attest.Proof) {
		for _, p := range list {
			if p == attest.ProofMetadataService || p == attest.ProofDocument {
				warn(path, "the proof %s is denied (agents_unlimited), %s", p, unless)
			}
		}
	}
	inherited := false
	for _, name := range slices.Sorted(maps.Keys(c.Roles)) {
		r := c.Roles[name]
		inherited = inherited || r.Proof == nil
		proofs("roles."+c.decoder.shown("roles", name)+".proof", r.Proof)
	}
	if inherited {
		proofs("auth.proof", c.Auth.Proof)
	}
	if len(c.Vendordata.Audience) > 0 {
		warn("vendordata.audience", "Nova's requests are denied (agents_unlimited), and no instance gets vendordata of ours, %s", unless)
	}
}

// needsProof reports whether a role takes these proofs alone.
func (c *Config) needsProof(these ...attest.Proof) bool {
	for _, r := range c.Roles {
		proofs := r.Proof
		if proofs == nil {
			proofs = c.Auth.Proof
		}
		if !slices.ContainsFunc(proofs, func(p attest.Proof) bool { return !slices.Contains(these, p) }) {
			return true
		}
	}
	return false
}

// bound reports whether every pattern has a character that is no wildcard.
func bound(patterns []string) bool {
	return len(patterns) > 0 && !slices.ContainsFunc(patterns, func(p string) bool { return strings.Trim(p, "*?") == "" })
}

func loopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && addr.IsLoopback())
}

func override[T any](value *T, by *T) {
	if by != nil {
		*value = *by
	}
}
