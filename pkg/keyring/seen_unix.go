//go:build unix

package keyring

import (
	"os"
	"path/filepath"
	"syscall"
)

// keepOwner changes the owner of a file that root writes to the owner of the file that it
// replaces, or of the directory if there is no such file. The server that reads it may run
// as another user.
func keepOwner(f *os.File, path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		if info, err = os.Stat(filepath.Dir(path)); err != nil {
			return err
		}
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		return f.Chown(int(owner.Uid), int(owner.Gid))
	}
	return nil
}
