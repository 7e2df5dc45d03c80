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
	// Type is memory (a restart gives the attempts of open windows back), file
	// (they survive it) or redis (several servers count together). Default: file.
	Type string `yaml:"type"`
	// File is the file, for type file.
	File FileConfig `yaml:"file"`
	// Redis is the Redis, for type redis.
	Redis RedisConfig `yaml:"redis"`
}

// FileConfig is the part of type file.
type FileConfig struct {
	// Path is the file's, made with mode 0600 if there is none; one process uses
	// it at a time. A file that other users can read is refused: it has signing
	// keys in it. A relative path is one in $STATE_DIRECTORY (systemd), else
	// beside the configuration. Default: state.db.
	Path string `yaml:"path"`
	// Now is the clock. Optional, nil means time.Now.
	Now func() time.Time `yaml:"-" json:"-"`
}

// RedisConfig is the part of type redis: a Redis (6.0 or later) or Valkey, alone
// or watched by Sentinels; not a Redis Cluster. `openstack-nova-authenticator
// keys init` accepts it once. Its maxmemory-policy must be noeviction, unless it
// has no maxmemory. A user with no more than the rights it needs:
//
//	ACL SETUSER ona on >PASSWORD resetkeys ~ona:* resetchannels -@all +evalsha +eval +get +set +del +scan +info +wait
//
// with +select if db is not 0.
type RedisConfig struct {
	// Addresses is the host:port of the one primary, or those of the Sentinels.
	// Default: 127.0.0.1:6379.
	Addresses []string `yaml:"addresses"`
	// Sentinel is the name that the Sentinels have for the primary. Optional; if
	// empty, there are no Sentinels and only one address.
	Sentinel string `yaml:"sentinel"`
	// DB is the number of the database. Default: 0.
	DB int `yaml:"db"`
	// Username is the ACL user, which needs passwordFile. Optional; if empty, the
	// password is that of the default user (requirepass).
	Username string `yaml:"username"`
	// PasswordFile holds the password, without which there is no login. It is read
	// for each new connection: a password is changed without a restart by setting
	// the new one beside the old (ACL SETUSER ona >NEW), writing the file, and
	// taking the old one away (ACL SETUSER ona <OLD). A Sentinel that asks for a
	// login gets the same user and password; no other Sentinel is told them.
	PasswordFile string `yaml:"passwordFile"`
	// CAFile holds the certificates (PEM) of those who sign Redis's, and the
	// Sentinels'. If set, all connections are TLS, 1.2 or later; if not, none is.
	// Optional.
	CAFile string `yaml:"caFile"`
	// Prefix begins the names of all our keys in Redis, of which no other program
	// may have any. Default: ona:
	Prefix string `yaml:"prefix"`
	// WaitReplicas is how many replicas must have a write before it is answered,
	// within a second; with fewer there are no tokens. 0 trusts the primary alone:
	// the writes that its replicas do not have yet are lost when it fails, and the
	// attempts they counted are given back. Of one primary and one replica, 1 asks
	// for both to be there. Default: 0.
	WaitReplicas int `yaml:"waitReplicas"`
	// Now is the clock. Optional, nil means time.Now.
	Now func() time.Time `yaml:"-" json:"-"`
}

// Validate reports every problem, each beginning with its key.
func (c Config) Validate() error {
	switch c.Type {
	case TypeMemory:
		return nil
	case TypeFile:
		if c.File.Path == "" {
			return problem.Errorf("file.path", "is empty; the path of a file is wanted")
		}
		return nil
	case TypeRedis:
		return c.Redis.validate()
	}
	return problem.Errorf("type", "%q is none of memory, file and redis", c.Type)
}

// hostName is a name or an IP address.
var hostName = regexp.MustCompile(`\A[A-Za-z0-9._:%-]+\z`)

func (c RedisConfig) validate() error {
	var problems []error
	add := func(path, format string, args ...any) {
		problems = append(problems, problem.Errorf("redis."+path, format, args...))
	}
	switch {
	case len(c.Addresses) == 0:
		add("addresses", "is empty; host:port is wanted")
	case len(c.Addresses) > 1 && c.Sentinel == "":
		add("addresses", "are %d, which only Sentinels can be; redis.sentinel is the name that they have for the primary", len(c.Addresses))
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
		add("sentinel", "%q contains a space, which a Sentinel's name for a primary cannot", c.Sentinel)
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

// Open opens the store.
func Open(c Config) (Store, error) {
	switch c.Type {
	case TypeFile:
		return opened(OpenFile(c.File))
	case TypeRedis:
		return opened(OpenRedis(c.Redis))
	case TypeMemory:
		return new(Memory), nil
	}
	return nil, c.Validate()
}

// opened returns a nil Store with an error, not a Store that holds a nil pointer.
func opened[S Store](s S, err error) (Store, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}
