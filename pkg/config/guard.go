package config

import (
	"fmt"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

// guarded is a file that other users of the host must not read or change.
type guarded struct {
	key  string // of the configuration, "" for the file itself
	path string
	harm string // what a reader can do, "" if all users may read the file
	// refuseRead and refuseChange make a problem of what otherwise is a warning. All
	// users can read a key file of the original tool, and a secret that Kubernetes
	// mounts: these are warnings.
	refuseRead, refuseChange bool
}

// guarded returns the files that the configuration names and the server uses.
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
		add("keys.encryptionKeyFile", path, "decrypt the signing keys", true, true)
	}
	if c.State.Type == state.TypeRedis {
		add("state.redis.passwordFile", c.State.Redis.PasswordFile, "reset the attempts of instances", false, false)
		add("state.redis.caFile", c.State.Redis.CAFile, "", false, false)
	}
	add("tls.certFile", c.TLS.CertFile, "", false, false)
	add("tls.keyFile", c.TLS.KeyFile, "impersonate this server", false, false)
	if m := c.MetadataService; m.Listen != "" {
		add("metadataService.tls.certFile", m.TLS.CertFile, "", false, false)
		add("metadataService.tls.keyFile", m.TLS.KeyFile, "impersonate this server to metadata agents", false, false)
		add("metadataService.tls.clientCAFile", m.TLS.ClientCAFile, "", false, true)
		for _, path := range m.SharedSecretFile {
			add("metadataService.sharedSecretFile", path, "get the tokens of any instance", false, true)
		}
	}
	return all
}

// exposure is what is wrong with the permissions of a file.
type exposure struct {
	message string
	refused bool
}

// exposed returns what is wrong with the permissions of the file. It returns nothing if the
// file does not exist.
func (g guarded) exposed() []exposure {
	a, err := secret.AccessOf(g.path)
	if err != nil {
		return nil
	}
	var all []exposure
	switch {
	case a.Write:
		all = append(all, exposure{fmt.Sprintf("every user of this host can change %s (mode %04o); correct that with: chmod o= %s", g.path, a.Mode, g.path), g.refuseChange})
	case a.Read && g.harm != "":
		all = append(all, exposure{fmt.Sprintf("every user of this host can read %s (mode %04o), and then %s; correct that with: chmod o= %s", g.path, a.Mode, g.harm, g.path), g.refuseRead})
	}
	switch {
	case a.WriteFolder != "":
		all = append(all, exposure{fmt.Sprintf("every user of this host can replace %s, because all can write to %s; correct that with: chmod o-w %s", g.path, a.WriteFolder, a.WriteFolder), g.refuseChange})
	case a.GroupWrite && g.harm != "" && !a.Write:
		all = append(all, exposure{fmt.Sprintf("the group of %s can change it (mode %04o); correct that with: chmod g-w %s", g.path, a.Mode, g.path), false})
	}
	return all
}
