package clouds

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const maxFile = 1 << 20 // bytes

// file is a configuration file that was read.
type file struct {
	name string
	root *value
}

// search returns the first file that can be read. It adds the files before it to tried, with the reason unless they do
// not exist.
func search(names []string, tried *[]string) *file {
	for _, name := range names {
		f, err := read(name)
		switch {
		case err == nil:
			return f
		case errors.Is(err, fs.ErrNotExist):
			*tried = append(*tried, shownPath(name))
		default:
			*tried = append(*tried, err.Error())
		}
	}
	return nil
}

// shownPath returns the path of a file, unless it may be a secret in the wrong place.
func shownPath(name string) string {
	if !secret.IsPath(name, ".") {
		return secret.Hidden
	}
	return name
}

func read(name string) (*file, error) {
	text, err := secret.ReadOwned(name, maxFile)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(name, ".json") {
		// JSON is YAML except for tabs between its parts.
		var compact bytes.Buffer
		if err := json.Compact(&compact, text); err != nil {
			return nil, secret.FileError(name, errors.New("is not JSON"))
		}
		text = compact.Bytes()
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, secret.FileError(name, parseError(err))
	}
	if doc.Kind == 0 {
		return &file{name: name}, nil // empty
	}
	p := &parser{left: maxValues, base: filepath.Base(name)}
	root, err := p.value(doc.Content[0], "")
	if err != nil {
		return nil, secret.FileError(name, err)
	}
	if root.keys == nil && !root.null {
		return nil, secret.FileError(name, errors.New("is not a mapping"))
	}
	return &file{name, root}, nil
}

// folders returns the folders in which openstacksdk looks for its files, in its order.
func (r *reader) folders() []string {
	home := r.home()
	all := []string{"."}
	below := func(folder string) {
		if filepath.IsAbs(folder) {
			all = append(all, filepath.Join(folder, "openstack"))
		}
	}
	below(cmp.Or(r.env["XDG_CONFIG_HOME"], filepath.Join(home, ".config")))
	below(filepath.Join(cmp.Or(r.env["SNAP_REAL_HOME"], home), ".config"))
	for _, folder := range filepath.SplitList(cmp.Or(r.env["XDG_CONFIG_DIRS"], "/etc/xdg")) {
		below(folder)
	}
	below("/etc")
	return unique(all)
}

func unique(all []string) []string {
	var kept []string
	for _, s := range all {
		if !slices.Contains(kept, s) {
			kept = append(kept, s)
		}
	}
	return kept
}

// inFolders returns the paths that a file with a name such as clouds can have.
func inFolders(folders []string, name string) []string {
	var all []string
	for _, folder := range folders {
		for _, suffix := range []string{".yaml", ".yml", ".json"} {
			all = append(all, filepath.Join(folder, name+suffix))
		}
	}
	return all
}

// expandHome replaces ~ at the start of a path.
func (r *reader) expandHome(path string) string {
	rest, ok := strings.CutPrefix(path, "~")
	if !ok || rest != "" && !os.IsPathSeparator(rest[0]) {
		return path
	}
	home := r.home()
	if home == "" {
		return path
	}
	return home + rest
}

// home returns the home directory of the user, "" if it is unknown.
func (r *reader) home() string {
	if home := r.env["HOME"]; home != "" {
		return home
	}
	if u, err := user.Current(); err == nil {
		return u.HomeDir
	}
	return ""
}
