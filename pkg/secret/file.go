package secret

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// ReadFile reads a file that the configuration names, of at most limit bytes. The
// error begins with the path if it [IsPath], and shows nothing of it otherwise.
func ReadFile(path string, limit int64) ([]byte, error) {
	return readFile(path, limit, func(*os.File, string) error { return nil })
}

// ReadOwned is [ReadFile] for a file on whose contents root acts: it is refused if it
// is not root's own ([CheckOwner]).
func ReadOwned(path string, limit int64) ([]byte, error) {
	return readFile(path, limit, CheckOwner)
}

func readFile(path string, limit int64, check func(f *os.File, path string) error) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, FileError(path, err)
	}
	defer f.Close()
	if err := check(f, path); err != nil {
		return nil, err // it names the path
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

// FileError gives what went wrong with a file its path, once. It shows no path that
// may be a secret.
func FileError(path string, err error) error {
	if errors.As(err, new(*fileError)) {
		return err
	}
	if p := new(fs.PathError); errors.As(err, &p) {
		err = p.Err
	}
	return &fileError{path, err}
}

// FileOf is the path of a [FileError], "" for another error.
func FileOf(err error) string {
	if f := new(fileError); errors.As(err, &f) {
		return f.path
	}
	return ""
}

type fileError struct {
	path string
	err  error
}

func (e *fileError) Error() string {
	if e.path != "" && !IsPath(e.path, ".") {
		return fmt.Sprintf("%s is wanted to be the path of a file: %v", Hidden, e.err)
	}
	return fmt.Sprintf("%s: %v", e.path, e.err)
}

func (e *fileError) Unwrap() error { return e.err }

// Access is what users can do with a file who are neither its owner nor in its
// group.
type Access struct {
	Mode        fs.FileMode // permissions of the file, or of the link's target
	Read        bool
	Write       bool
	WriteFolder string // a folder on the way to the file in which they can replace it, "" for none
	GroupWrite  bool
}

// Replace reports whether other users can change the file or put another into its
// place.
func (a Access) Replace() bool { return a.Write || a.WriteFolder != "" }

// AccessOf follows links. The error is that of the file.
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

// ways are the absolute path of a file, and that of what it is a link to.
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

// folders are those on the way to a file, from the innermost one to the root.
func folders(path string) []string {
	var all []string
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		all = append(all, dir)
		if dir == filepath.Dir(dir) {
			return all
		}
	}
}
