// Package venvtest gives tests a Python with the packages that a file pins.
package venvtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const limit = 5 * time.Minute

// Python returns a Python that can import module. The file has one line for each of its packages, dependencies included,
// as `pip freeze` writes it. They are installed in the user's cache, once for each content of the file.
func Python(ctx context.Context, file, module string) (string, error) {
	python, err := exec.LookPath("python3")
	if err != nil {
		return "", err
	}
	list, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(append(list, python...))
	venv := filepath.Join(cache, "openstack-nova-authenticator", module+"-"+hex.EncodeToString(sum[:8]))
	ready := filepath.Join(venv, "bin", "python")
	if err := exec.CommandContext(ctx, ready, "-c", "import "+module).Run(); err == nil {
		return ready, nil
	}
	// Another run may install the same, so the folder is renamed at the end. A folder of that name without a working
	// Python is broken.
	if err := os.RemoveAll(venv); err != nil {
		return "", err
	}
	unfinished := fmt.Sprintf("%s-%d", venv, os.Getpid())
	defer func() { _ = os.RemoveAll(unfinished) }()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, command := range [][]string{
		{python, "-m", "venv", unfinished},
		{filepath.Join(unfinished, "bin", "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile", "-r", file},
	} {
		if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%v: %w\n%s", command, err, out)
		}
	}
	if err := os.Rename(unfinished, venv); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return ready, nil
}
