package openstack

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// files are clouds.yaml and secure.yaml as the parser finds them, for a cloud that is
// named there. What it would pass over, because it cannot be opened, is left out.
func (c Config) files() []string {
	places := []string{cmp.Or(c.CloudsFile, os.Getenv("OS_CLIENT_CONFIG_FILE"))}
	if places[0] == "" {
		home, _ := os.UserHomeDir() // the parser reports it
		places = []string{
			"clouds.yaml",
			filepath.Join(cmp.Or(os.Getenv("XDG_CONFIG_HOME"), filepath.Join(home, ".config")), "openstack", "clouds.yaml"),
			"/etc/openstack/clouds.yaml",
		}
	}
	for _, file := range places {
		if !opens(file) {
			continue
		}
		if secure := filepath.Join(filepath.Dir(file), "secure.yaml"); opens(secure) {
			return []string{file, secure}
		}
		return []string{file}
	}
	return nil
}

func opens(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	_ = f.Close()
	return true
}

// checkOwner has root use no credentials that another user could have put there: they
// would lead to a cloud of that user's, whose instances are any instance.
func checkOwner(files []string) error {
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		err = secret.CheckOwner(f, file)
		_ = f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// exposed says which of the files other users can read or change.
func exposed(files []string) []string {
	var all []string
	for _, file := range files {
		a, err := secret.AccessOf(file)
		switch {
		case err != nil:
		case a.Write:
			all = append(all, fmt.Sprintf("%s can be changed by every user of this host (mode %04o), who can then answer for Nova; close it with: chmod o= %s", file, a.Mode, file))
		case a.WriteFolder != "":
			all = append(all, fmt.Sprintf("%s can be replaced by every user of this host, who can write to %s; close that with: chmod o-w %s", file, a.WriteFolder, a.WriteFolder))
		case a.Read:
			all = append(all, fmt.Sprintf("%s can be read by every user of this host (mode %04o), who can then log in as this service; close it with: chmod o= %s", file, a.Mode, file))
		}
	}
	return all
}
