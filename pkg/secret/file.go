package secret

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// ReadFile reads a file that the configuration names, of at most limit bytes. The error
// begins with the path if it [IsPath], and with [Hidden] otherwise.
func ReadFile(path string, limit int64) ([]byte, error) {
	return readFile(path, limit, func(*os.File, string) error { return nil })
}

// ReadOwned is [ReadFile] for a file on whose contents root acts. If the process runs as
// root, it refuses a file that another user could have written or replaced.
func ReadOwned(path string, limit int64) ([]byte, error) {
	return readFile(path, limit, checkOwner)
}

func readFile(path string, limit int64, check func(f *os.File, path string) error) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, FileError(path, err)
	}
	defer f.Close()
	if err := check(f, path); err != nil {
		return nil, err // it contains the path
	}
	data, err := ReadAll(f, limit)
	if err != nil {
		return nil, FileError(path, err)
	}
	return data, nil
}

// ErrTooLong is the error for a file or a body that has more bytes than its limit.
var ErrTooLong = errors.New("is longer than")

// ReadAll reads r to its end. It returns an [ErrTooLong] if r has more than limit bytes.
func ReadAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, fmt.Errorf("%w %d bytes", ErrTooLong, limit)
	}
	return data, err
}

// FileError adds the path of a file to an error, unless the error has a path already. It
// does not show a path that may be a secret.
func FileError(path string, err error) error {
	if errors.As(err, new(*fileError)) {
		return err
	}
	if p := new(fs.PathError); errors.As(err, &p) {
		err = p.Err
	}
	return &fileError{fs.PathError{Path: path, Err: err}}
}

// FileOf returns the path of a [FileError], "" for another error.
func FileOf(err error) string {
	if f := new(fileError); errors.As(err, &f) {
		return f.Path
	}
	return ""
}

type fileError struct{ fs.PathError }

func (e *fileError) Error() string {
	if e.Path != "" && !IsPath(e.Path, ".") {
		return fmt.Sprintf("%s should be the path of a file: %v", Hidden, e.Err)
	}
	return fmt.Sprintf("%s: %v", e.Path, e.Err)
}

// Access is what all users can do with a file, and what its group can do.
type Access struct {
	Mode        fs.FileMode // permissions of the file, or of the target of a link
	Read        bool
	Write       bool
	WriteFolder string // a folder on the path in which they can replace the file, "" for none
	GroupWrite  bool
}

// AccessOf follows links.
func AccessOf(path string) (Access, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Access{}, err
	}
	mode := info.Mode().Perm()
	a := Access{Mode: mode, Read: mode&0o004 != 0, Write: mode&0o002 != 0, GroupWrite: mode&0o020 != 0}
	for _, way := range ways(path) {
		for _, folder := range folders(way) {
			info, err := os.Stat(folder)
			if err == nil && info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
				a.WriteFolder = folder
				return a, nil
			}
		}
	}
	return a, nil
}

// ways returns the absolute path of a file and, if it is a link, that of its target.
func ways(path string) []string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil
	}
	if target, err := filepath.EvalSymlinks(abs); err == nil && target != abs {
		return []string{abs, target}
	}
	return []string{abs}
}

// folders returns the folders on the path of a file, from the innermost one to the root.
func folders(path string) []string {
	var all []string
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		all = append(all, dir)
		if dir == filepath.Dir(dir) {
			return all
		}
	}
}

// trustedUsers returns the users whose files root acts on: root, and the user who called
// sudo (sudo(8), SUDO_UID). A file of another user could make root write where that user
// cannot. ok is false if the process does not run as root.
func trustedUsers() (uids []uint32, ok bool) {
	if os.Geteuid() != 0 {
		return nil, false
	}
	uids = []uint32{0}
	if uid, err := strconv.ParseUint(os.Getenv("SUDO_UID"), 10, 32); err == nil {
		uids = append(uids, uint32(uid))
	}
	return uids, true
}

// checkOwner fails if root must not act on the contents of a file that was opened by the
// name path: the file and all folders on its path must belong to trusted users, and no
// other user may be able to write to them. It returns nil if the process does not run as
// root.
func checkOwner(f *os.File, path string) error {
	trusted, root := trustedUsers()
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
		return nil // a pipe of the shell has no folder
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

// CheckSocket fails if root must not talk to the process behind a Unix socket. Only a
// trusted user may be able to create the socket, or the user to whom a trusted user gave
// its folder, as systemd gives a RuntimeDirectory to the user of a service. It returns nil
// if the process does not run as root, and for a socket that does not exist.
func CheckSocket(path string) error {
	trusted, root := trustedUsers()
	if !root {
		return nil
	}
	socket, err := os.Stat(path)
	if err != nil {
		return nil //nolint:nilerr // connecting to it gives a better error
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

// checkFolders fails if users other than inner can write to the folder of a file, or users
// other than outer can replace that folder. The folders above it may be writable for all
// if they are sticky, as /tmp is.
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
