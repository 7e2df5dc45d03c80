package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

// namedPath is a value of the configuration that is the path of a file.
type namedPath struct {
	key   string
	value *string
	made  bool // the server creates the file if it does not exist
}

// paths returns the values that are paths of files that the server uses.
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
				at = key // written as a single value
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

// resolvePaths makes all paths relative to dir, the folder of the file. A value that may
// be a secret in place of a path is a problem. hidden has these values as paths: errors of
// reading them are not reported.
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
			d.skip(p.key, d.lines[p.key], "is not the path of a file in a folder that exists; the value is %s, because it may be a secret (for a file of that name beside this one, write ./ in front)", secret.Hidden)
		} else {
			d.skip(p.key, d.lines[p.key], "is not the path of a file that exists; the value is %s, because it may be the secret itself: put the secret in a file, and its path here", secret.Hidden)
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

// SeenFile returns the path of the file in which the server notes the newest state that it
// has seen: beside a state file; with Redis in $STATE_DIRECTORY, else beside the
// configuration. It returns "" for a state in memory.
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

// systemdDirectory returns the first directory that systemd names in a variable, in which
// colons separate directories (systemd.exec(5)); "" if there is none.
func systemdDirectory(variable string) string {
	first, _, _ := strings.Cut(os.Getenv(variable), ":")
	return first
}
