package listen_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
)

func TestSocket(t *testing.T) {
	t.Run("only its owner can use it", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		l := listenSocket(t, path)
		info, err := os.Lstat(path)
		if err != nil || info.Mode() != os.ModeSocket|0o600 {
			t.Errorf("%v (%v)", info.Mode(), err)
		}
		l.Close()
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is still there after Close: %v", err)
		}
		if file := filepath.Join(t.TempDir(), "f"); os.WriteFile(file, nil, 0o644) != nil || mode(t, file) != 0o644 {
			t.Errorf("files are made with mode %v from now on", mode(t, file))
		}
	})
	t.Run("one that a dead process left is replaced", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		l := listenSocket(t, path)
		listen.UnlinkOnClose(l, false)
		_ = l.Close()
		if mode(t, path)&os.ModeSocket == 0 {
			t.Fatal("nothing was left")
		}
		listenSocket(t, path)
	})
	t.Run("one that is served is an error", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		listenSocket(t, path)
		if _, err := listen.Socket(parsed(t, listen.ParseSocket, path)); err == nil || !strings.Contains(err.Error(), "another process serves it") {
			t.Errorf("the error is %v", err)
		}
	})
	for name, build := range map[string]func(path string) error{
		"a file":      func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"a link to a file": func(path string) error {
			return errors.Join(os.WriteFile(path+".target", nil, 0o600), os.Symlink(path+".target", path))
		},
	} {
		t.Run(name+" in its place stays", func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			if err := build(path); err != nil {
				t.Fatal(err)
			}
			before := mode(t, path)
			if l, err := listen.Socket(parsed(t, listen.ParseSocket, path)); err == nil {
				l.Close()
				t.Error("no error")
			}
			if info, err := os.Lstat(path); err != nil || info.Mode() != before {
				t.Errorf("it was %v and is %v (%v)", before, info, err)
			}
		})
	}
	t.Run("a directory that is not there", func(t *testing.T) {
		if _, err := listen.Socket(parsed(t, listen.ParseSocket, filepath.Join(t.TempDir(), "no", "s"))); err == nil {
			t.Error("no error")
		}
	})
}

func listenSocket(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := listen.Socket(parsed(t, listen.ParseSocket, path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}
