package secret

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// Trusted are the users whose files a process acts on: root, and who called sudo
// (sudo(8), SUDO_UID). Only a process of root needs to choose: it can be made to
// write where the owner of a file cannot. ok is false for a process of another user.
func Trusted() (uids []uint32, ok bool) {
	if os.Geteuid() != 0 {
		return nil, false
	}
	uids = []uint32{0}
	if uid, err := strconv.ParseUint(os.Getenv("SUDO_UID"), 10, 32); err == nil {
		uids = append(uids, uint32(uid))
	}
	return uids, true
}

// CheckOwner reports whether root may act on the contents of a file that was opened
// by the name path: it belongs to a trusted user, no other user can write to it, and
// the same holds for the folders on the way to it. It is nil for another user than
// root.
func CheckOwner(f *os.File, path string) error {
	trusted, root := Trusted()
	if !root {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := owned(path, info, trusted); err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return nil // a pipe that the shell made has no folder
	}
	if info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("%s can be changed by every user of this host (mode %04o), so root does not act on it; close it with: chmod o-w %s", path, info.Mode().Perm(), path)
	}
	for _, way := range ways(path) {
		if err := checkFolders(way, trusted, trusted); err != nil {
			return err
		}
	}
	return nil
}

// CheckSocket reports whether root may talk to the process behind a Unix socket: no
// user can have put it there but a trusted one, and the one whom a trusted user gave
// its folder, as systemd gives the service's user a RuntimeDirectory. It is nil for
// another user than root, and for a socket that does not exist.
func CheckSocket(path string) error {
	trusted, root := Trusted()
	if !root {
		return nil
	}
	socket, err := os.Stat(path)
	if err != nil {
		return nil //nolint:nilerr // connecting to it says more
	}
	for _, way := range ways(path) {
		folder, err := os.Stat(filepath.Dir(way))
		if err != nil {
			return err
		}
		users := trusted
		if uid, ok := ownerOf(folder); ok {
			users = append(slices.Clone(trusted), uid)
		}
		if err := owned(path, socket, users); err != nil {
			return err
		}
		if err := checkFolders(way, users, trusted); err != nil {
			return err
		}
	}
	return nil
}

// checkFolders reports whether no other user than those given can put something
// into the folder of a file, or another folder into its place. The folders above it
// may be writable for all if they are sticky, as /tmp is.
func checkFolders(path string, inner, outer []uint32) error {
	users := inner
	for i, folder := range folders(path) {
		info, err := os.Stat(folder)
		if err != nil {
			return err
		}
		if err := owned(folder, info, users); err != nil {
			return err
		}
		if open := info.Mode().Perm()&0o002 != 0; open && (i == 0 || info.Mode()&fs.ModeSticky == 0) {
			return fmt.Errorf("%s lies below %s, which every user of this host can write to (mode %04o), so root does not act on it; use a folder that only root can write to", path, folder, info.Mode().Perm())
		}
		users = outer
	}
	return nil
}

func owned(path string, info fs.FileInfo, users []uint32) error {
	uid, ok := ownerOf(info)
	if !ok || slices.Contains(users, uid) {
		return nil
	}
	return fmt.Errorf("%s belongs to the user with the ID %d, so root does not act on it: only files of root and of the user who called sudo are safe; run the command as that user, or check its contents and: chown root %s", path, uid, path)
}

func ownerOf(info fs.FileInfo) (uid uint32, ok bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return stat.Uid, true
}
