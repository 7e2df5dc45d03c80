package state

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
)

// The kinds of store.
const (
	TypeMemory = "memory"
	TypeFile   = "file"
	TypeRedis  = "redis"
)

// Config says where attempts are counted.
type Config struct {
	// Type is memory (after a restart, instances can make the attempts of open windows
	// again), file (counts survive a restart) or redis (several servers share the
	// counts). Default: file.
	Type string `yaml:"type"`
	// File is for type file.
	File FileConfig `yaml:"file"`
	// Redis is for type redis.
	Redis RedisConfig `yaml:"redis"`
}

// FileConfig is the part of type file.
type FileConfig struct {
	// Path is the path of the file, which is created with mode 0600 if there is none. One
	// process uses it at a time. A file that other users can read is refused, because
	// it contains signing keys. A relative path is relative to $STATE_DIRECTORY
	// (systemd), else to the folder of the configuration. Default: state.db.
	Path string `yaml:"path"`
	// Now is the clock. Optional, nil means time.Now.
	Now func() time.Time `yaml:"-" json:"-"`
}

// RedisConfig is the part of type redis: a Redis (6.0 or later) or Valkey, alone or
// with Sentinels; not a Redis Cluster. An operator accepts it once, with
// `openstack-nova-authenticator keys init`. Its maxmemory-policy must be noeviction,
// unless it has no maxmemory. A user with the rights that are needed:
//
//	ACL SETUSER ona on >PASSWORD resetkeys ~ona:* resetchannels -@all +evalsha +eval +get +set +del +scan +info +wait
//
// with +select if db is not 0.
type RedisConfig struct {
	// Addresses are the host:port of the primary, or those of the Sentinels. Default:
	// 127.0.0.1:6379.
	Addresses []string `yaml:"addresses"`
	// Sentinel is the name of the primary in the Sentinels' configuration. Optional; if
	// empty, there are no Sentinels and only one address.
	Sentinel string `yaml:"sentinel"`
	// DB is the number of the database. Default: 0.
	DB int `yaml:"db"`
	// Username is the ACL user; it requires passwordFile. Optional; if empty, the
	// password is that of the default user (requirepass).
	Username string `yaml:"username"`
	// PasswordFile contains the password. Optional; if empty, there is no login. It is
	// read for each new connection, so the password can be changed without a restart:
	// add the new one (ACL SETUSER ona >NEW), write the file, and remove the old one
	// (ACL SETUSER ona <OLD). A Sentinel that requires a login gets the same user and
	// password; other Sentinels do not get them.
	PasswordFile string `yaml:"passwordFile"`
	// CAFile contains the certificates (PEM) of the authorities that sign the
	// certificates of Redis and of the Sentinels. If set, all connections use TLS, 1.2 or
	// later; if not, none does. Optional.
	CAFile string `yaml:"caFile"`
	// Prefix is the beginning of all our keys in Redis. No other program may have keys
	// that begin with it. Default: ona:
	Prefix string `yaml:"prefix"`
	// WaitReplicas is how many replicas must have a write, within a second, before it is
	// answered; with fewer replicas there are no tokens. With 0, a failure of the primary
	// loses the writes that its replicas do not have, and instances can make those
	// attempts again. With one primary and one replica, 1 requires both. Default: 0.
	WaitReplicas int `yaml:"waitReplicas"`
	// Now is the clock. Optional, nil means time.Now.
	Now func() time.Time `yaml:"-" json:"-"`
}

// Plan is a parsed [Config].
type Plan struct{ open func() (Store, error) }

// Parse checks the configuration. The error joins all problems ([problem.List]).
func (c Config) Parse() (Plan, error) {
	switch c.Type {
	case TypeMemory:
		return Plan{func() (Store, error) { return new(Memory), nil }}, nil
	case TypeFile:
		if c.File.Path == "" {
			return Plan{}, problem.Errorf("file.path", "is empty; set it to the path of a file")
		}
		return Plan{func() (Store, error) { return opened(OpenFile(c.File)) }}, nil
	case TypeRedis:
		return Plan{func() (Store, error) { return opened(OpenRedis(c.Redis)) }}, c.Redis.validate()
	}
	return Plan{}, problem.Errorf("type", "%q is not memory, file or redis", c.Type)
}

// Open opens the store. The zero Plan has none.
func (p Plan) Open() (Store, error) {
	if p.open == nil {
		return nil, errors.New("no state is configured")
	}
	return p.open()
}

// hostName matches a host name or an IP address.
var hostName = regexp.MustCompile(`\A[A-Za-z0-9._:%-]+\z`)

func (c RedisConfig) validate() error {
	var problems []error
	add := func(path, format string, args ...any) {
		problems = append(problems, problem.Errorf("redis."+path, format, args...))
	}
	switch {
	case len(c.Addresses) == 0:
		add("addresses", "is empty; set it to host:port")
	case len(c.Addresses) > 1 && c.Sentinel == "":
		add("addresses", "has %d entries, which only Sentinels may have; set redis.sentinel to their name for the primary", len(c.Addresses))
	}
	for i, a := range c.Addresses {
		host, port, err := net.SplitHostPort(a)
		if n, notNumber := strconv.ParseUint(port, 10, 16); err != nil || notNumber != nil || n == 0 || !hostName.MatchString(host) {
			add(fmt.Sprintf("addresses[%d]", i), "%q is not host:port", a)
		} else if slices.Contains(c.Addresses[:i], a) {
			add(fmt.Sprintf("addresses[%d]", i), "%q is there already", a)
		}
	}
	if strings.ContainsFunc(c.Sentinel, func(r rune) bool { return r <= ' ' }) {
		add("sentinel", "%q contains a space, which the name of a primary cannot have", c.Sentinel)
	}
	if c.DB < 0 {
		add("db", "%d is negative", c.DB)
	}
	if c.Username != "" && c.PasswordFile == "" {
		add("username", "%q cannot log in without a redis.passwordFile", c.Username)
	}
	if c.Prefix == "" {
		add("prefix", "is empty; our keys must differ from those of other programs")
	}
	if c.WaitReplicas < 0 {
		add("waitReplicas", "%d is negative", c.WaitReplicas)
	}
	return errors.Join(problems...)
}

// opened returns a nil Store with an error, not a Store that holds a nil pointer.
func opened[S Store](s S, err error) (Store, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}
