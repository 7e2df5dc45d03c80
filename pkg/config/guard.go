package config

import (
	"fmt"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

// guarded is a file that other users must not read or change.
type guarded struct {
	key  string // of the configuration, "" for its file
	path string
	harm string // what its reader can do, "" if all may read it
	// What is refused rather than warned about. A file of the original tool, and a
	// secret that Kubernetes mounts, can be read by all users.
	refuseRead, refuseChange bool
}

// guarded are the files that the configuration names, as far as they are used.
func (c *Plan) guarded() []guarded {
	all := []guarded{{path: c.file}}
	add := func(key, path, harm string, refuseRead, refuseChange bool) {
		if path != "" {
			all = append(all, guarded{key, path, harm, refuseRead, refuseChange})
		}
	}
	for _, path := range c.Auth.SigningKeyFile {
		add("auth.signingKeyFile", path, "sign any token", false, true)
	}
	for _, path := range c.Keys.EncryptionKeyFile {
		add("keys.encryptionKeyFile", path, "open the signing keys", true, true)
	}
	if c.State.Type == state.TypeRedis {
		add("state.redis.passwordFile", c.State.Redis.PasswordFile, "give attempts back", false, false)
		add("state.redis.caFile", c.State.Redis.CAFile, "", false, false)
	}
	add("tls.certFile", c.TLS.CertFile, "", false, false)
	add("tls.keyFile", c.TLS.KeyFile, "pose as this server", false, false)
	if m := c.MetadataService; m.Listen != "" {
		add("metadataService.tls.certFile", m.TLS.CertFile, "", false, false)
		add("metadataService.tls.keyFile", m.TLS.KeyFile, "pose as this server to metadata agents", false, false)
		add("metadataService.tls.clientCAFile", m.TLS.ClientCAFile, "", false, true)
		for _, path := range m.SharedSecretFile {
			add("metadataService.sharedSecretFile", path, "speak for any instance", false, true)
		}
	}
	return all
}

// exposure is what is wrong with the permissions of a file.
type exposure struct {
	message string
	refused bool
}

// exposed is empty for a file that is closed, and for one that does not exist.
func (g guarded) exposed() []exposure {
	a, err := secret.AccessOf(g.path)
	if err != nil {
		return nil
	}
	var all []exposure
	switch {
	case a.Write:
		all = append(all, exposure{fmt.Sprintf("%s can be changed by every user of this host (mode %04o); close it with: chmod o= %s", g.path, a.Mode, g.path), g.refuseChange})
	case a.Read && g.harm != "":
		all = append(all, exposure{fmt.Sprintf("%s can be read by every user of this host (mode %04o), who can then %s; close it with: chmod o= %s", g.path, a.Mode, g.harm, g.path), g.refuseRead})
	}
	switch {
	case a.WriteFolder != "":
		all = append(all, exposure{fmt.Sprintf("%s can be replaced by every user of this host, who can write to %s; close that with: chmod o-w %s", g.path, a.WriteFolder, a.WriteFolder), g.refuseChange})
	case a.GroupWrite && g.harm != "" && !a.Write:
		all = append(all, exposure{fmt.Sprintf("%s can be changed by its group (mode %04o); close it with: chmod g-w %s", g.path, a.Mode, g.path), false})
	}
	return all
}
