package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

// namedPath is a value of the file that is the path of a file.
type namedPath struct {
	key   string
	value *string
	made  bool // the server makes the file if it does not exist
}

// paths are those of the values that are paths and that are read.
func (c *Plan) paths() []namedPath {
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
			if _, ok := c.decoder.lines[at]; !ok {
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
func (c *Plan) resolvePaths(dir string) (hidden []string) {
	d := c.decoder
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
			d.skip(p.key, c.decoder.lines[p.key], "the path of a file is wanted, in a folder that exists; the value is %s, as it could be a secret (for a file of that name beside this one, write ./ in front)", secret.Hidden)
		} else {
			d.skip(p.key, c.decoder.lines[p.key], "the path of a file is wanted, and there is no such file; the value is %s, as it could be the secret itself, which belongs in a file", secret.Hidden)
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
func (c *Plan) SeenFile() string {
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
