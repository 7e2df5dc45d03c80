package secret

import (
	"fmt"
	"io/fs"
	"os"
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

// CheckOwner reports whether root may act on what a file says that was opened by
// the name path: it belongs to root or to who called sudo, no other user can write
// to it, and so for the folders on the way to it. For another user than root the
// error is nil.
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
	if info.Mode().IsRegular() && info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("%s can be changed by every user (mode %04o), and root does not act on it; close it with: chmod o-w %s", path, info.Mode().Perm(), path)
	}
	if !info.Mode().IsRegular() {
		return nil // a pipe that the shell made has no folder
	}
	return CheckFolder(path, trusted)
}

// CheckFolder reports whether nobody but the trusted users can put something into
// the folder of a file, or another folder into its place. Above it folders may be
// sticky ones that all can write to, as /tmp is.
func CheckFolder(path string, trusted []uint32) error {
	for _, way := range ways(path) {
		for i, folder := range folders(way) {
			info, err := os.Stat(folder)
			if err != nil {
				return err
			}
			if err := owned(folder, info, trusted); err != nil {
				return err
			}
			if open := info.Mode().Perm()&0o002 != 0; open && (i == 0 || info.Mode()&fs.ModeSticky == 0) {
				return fmt.Errorf("%s can be written to by every user (mode %04o), and root does not act on what lies there; use a folder that only root can write to", folder, info.Mode().Perm())
			}
		}
	}
	return nil
}

func owned(path string, info fs.FileInfo, trusted []uint32) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || slices.Contains(trusted, stat.Uid) {
		return nil
	}
	return fmt.Errorf("%s belongs to user %d, and root acts on files of root and of who called sudo only; run the command as that user, or: chown root %s", path, stat.Uid, path)
}
