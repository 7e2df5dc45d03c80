package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

// Plan is a parsed [Config], with the content of the files that it names: nothing is
// parsed or read a second time.
type Plan struct {
	Config // as written, with absolute paths

	// Hash identifies the content of the file: the first 12 hexadecimal digits of its
	// SHA-256.
	Hash           string
	Cloud          openstack.Plan         // of OpenStack
	LoadBalancers  server.Proxy           // of Proxy
	NovaDoor       server.Vendordata      // of Vendordata
	AgentsDoor     server.MetadataService // of MetadataService
	Tokens         *token.Plan            // of Auth and Roles: the issuer, and what tokens contain
	RoleSet        attest.Policy          // of Roles: their rules
	Certificate    *listen.Certificate    // of TLS
	Address        listen.Address         // of Listen
	MetricsAddress listen.Address         // of Metrics
	AdminSocket    listen.SocketPath      // of Admin
	StatePlan      state.Plan             // of State
	Limits         server.Throttle        // of Throttle
	KeyPlan        keyring.Plan           // of Keys, with the encryption keys
	SigningKeys    *keyring.KeySet        // of auth.signingKeyFile
	LogLevel       slog.Level             // of Log

	file    string   // its path
	decoder *decoder // has the lines of keys, and the keys that messages must not show
}

// Problems has all problems of a file.
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

// Load reads the file and the files that it names. The error is a [*Problems], or one of
// the file system if the file itself cannot be read.
func Load(file string) (*Plan, error) { return load(file, secret.ReadFile) }

// LoadOwned is [Load] for commands that root may run. Root refuses a file that another user
// could have put there: the file decides where root writes, and which credentials it uses.
func LoadOwned(file string) (*Plan, error) { return load(file, secret.ReadOwned) }

func load(file string, read func(path string, limit int64) ([]byte, error)) (*Plan, error) {
	data, err := read(file, maxFile)
	if errors.Is(err, secret.ErrTooLong) {
		return nil, &Problems{file, []Problem{{Message: errors.Unwrap(err).Error()}}}
	}
	if err != nil {
		return nil, err
	}
	c, problems := parse(data, file)
	if len(problems) > 0 {
		return nil, &Problems{file, problems}
	}
	return c, nil
}

func parse(data []byte, file string) (*Plan, []Problem) {
	d, sum := newDecoder(), sha256.Sum256(data)
	c := &Plan{Config: Default(), Hash: hex.EncodeToString(sum[:])[:12], file: file, decoder: d}
	d.document(data, &c.Config)
	if _, said := d.lines["state.type"]; !said && len(c.Auth.SigningKeyFile) > 0 {
		c.State.Type = state.TypeMemory
	}
	hidden := c.resolvePaths(filepath.Dir(file))
	problems := d.problems
	if d.unusable {
		return c, problems
	}
	for _, found := range problem.List(c.build()) {
		if p := c.problem(found); !d.unread(p.Path) && !slices.Contains(hidden, secret.FileOf(found.Err)) {
			problems = append(problems, p)
		}
	}
	slices.SortStableFunc(problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return c, problems
}

// problem adds the line to a problem, and hides what may be a secret in its text.
func (c *Plan) problem(found problem.Problem) Problem {
	p := Problem{Path: c.decoder.hideKeys(found.Path), Message: secret.Values(c.decoder.hideKeys(found.Err.Error()))}
	for at := p.Path; at != "" && p.Line == 0; at = parent(at) {
		p.Line = c.decoder.lines[at]
	}
	return p
}

// build makes the parts of the plan. It does not use the network. The error joins all
// problems ([problem.List]).
func (c *Plan) build() error {
	var all []error
	add := func(path string, err error) { all = append(all, problem.At(path, err)) }

	var err error
	c.Address, err = listen.ParseAddress(c.Listen)
	add("listen", err)
	c.Certificate, err = c.TLS.Load()
	add("tls", err)
	c.LoadBalancers, err = c.Proxy.Parse()
	add("proxy", err)
	c.Tokens, err = c.Auth.Config.Plan()
	add("auth", err)
	if slices.Contains(c.Auth.SigningKeyFile, "") {
		add("auth.signingKeyFile", errors.New("an item is empty; set it to the path of a file"))
	} else if len(c.Auth.SigningKeyFile) > 0 {
		keys, err := keyring.LoadKeys(c.Auth.SigningKeyFile)
		add("auth.signingKeyFile", err)
		c.SigningKeys = keys
	}
	c.StatePlan, err = c.State.Parse()
	add("state", err)
	if c.State.Type == state.TypeRedis && len(c.Keys.EncryptionKeyFile) == 0 {
		add("keys.encryptionKeyFile", errors.New("is required for state.type redis, also with auth.signingKeyFile: it encrypts the signing keys and the denial list, so that a reader of Redis cannot use them and a writer cannot change them (make one with: openssl rand -base64 32)"))
	}
	c.Cloud, err = c.OpenStack.Plan()
	add("openstack", err)
	c.Limits, err = c.Throttle.Parse()
	add("throttle", err)
	c.AdminSocket, err = listen.ParseSocket(c.Admin.Socket)
	add("admin.socket", err)
	if c.Metrics.Listen != "" {
		c.MetricsAddress, err = listen.ParseAddress(c.Metrics.Listen)
		add("metrics.listen", err)
	}
	c.NovaDoor, err = c.Vendordata.Parse()
	add("vendordata", err)
	c.AgentsDoor, err = c.MetadataService.Parse()
	add("metadataService", err)
	if c.Audit.Output == "" {
		add("audit.output", errors.New("is empty; set it to stdout, stderr or the path of a file"))
	}
	for _, f := range c.guarded() {
		for _, exposed := range f.exposed() {
			if exposed.refused {
				add(f.key, errors.New(exposed.message))
			}
		}
	}
	if err := c.LogLevel.UnmarshalText([]byte(c.Log.Level)); err != nil || strings.ToLower(c.LogLevel.String()) != c.Log.Level {
		add("log.level", fmt.Errorf("%q is not debug, info, warn or error", c.Log.Level))
	}
	if c.Log.Format != "json" && c.Log.Format != "text" {
		add("log.format", fmt.Errorf("%q is neither json nor text", c.Log.Format))
	}
	all = append(all, c.compileRoles())
	c.KeyPlan, err = c.Keys.Plan(c.longestLife())
	add("keys", err)
	return errors.Join(all...)
}
