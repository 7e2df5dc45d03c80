package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/admin"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

func newStateCommand(file *string, stdout, stderr io.Writer) *cobra.Command {
	cmd := &cobra.Command{Use: "state", Short: "Back the state file up, and accept a copy that was restored", Args: cobra.NoArgs}
	cmd.AddCommand(&cobra.Command{
		Use: "save FILE", Short: "Write a consistent copy of the state file", Args: cobra.ExactArgs(1),
		Long: `Writes a consistent copy of the state file while the server works on. The copy
has the signing keys in it and mode 0600. A copy of the same name is replaced
when the new one is complete and every page of it is good; what is no copy is
left alone. To restore it, stop the server, put the copy in the place of the
state file, accept it with ` + "`state accept`" + `, which says what was revoked and
denied since the copy was made, and start the server.
` + onState,
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := saveState(cmd.Context(), *file, args[0], stderr)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(stdout, "%s has %d bytes.\n", args[0], n)
			return err
		},
	})
	cmd.AddCommand(&cobra.Command{
		Use: "accept", Short: "Accept a state file that was restored from a copy", Args: cobra.NoArgs,
		Long: `Accepts a state file that is older than its server has seen, which a server
refuses: a copy that was restored. It lacks what happened since, and so this is
printed: keys that are there and were not when the server saw the state last,
since they were revoked or have retired, and instances that were denied. Deny
those instances again before you start the server; a key that this server saw
revoked is revoked again by itself. Attempts that were made since can be made
again.

The server must not run.
`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opened := false
			open := func(s *service, c *config.Plan) error {
				if c.State.Type != state.TypeFile {
					return fmt.Errorf("state.type is %s: `keys init --accept` is for a Redis", c.State.Type)
				}
				opened = true
				return s.openStateAs(c, true)
			}
			return request[admin.Initialized]{to: admin.InitKeys, in: admin.Input{Accept: true}, open: open, show: func(w io.Writer, v admin.Initialized) {
				if !opened {
					fmt.Fprintln(w, "A server runs with the state file: it has accepted it.")
					return
				}
				printAccepted(w, v.Accepted)
				fmt.Fprintln(w, "The state file is accepted.")
			}}.run(cmd.Context(), *file, stdout, stderr)
		},
	})
	return cmd
}

func saveState(ctx context.Context, file, to string, stderr io.Writer) (n int64, err error) {
	c, _, err := load(file)
	if err != nil {
		return 0, err
	}
	if err := replaceable(to, c.State); err != nil {
		return 0, err
	}
	client, stop, err := newOperator(ctx, file, stderr, nil)
	if err != nil {
		return 0, err
	}
	defer stop()
	answer, err := admin.SaveState.Call(ctx, client, admin.Input{})
	if err != nil {
		return 0, err
	}
	defer answer.Close()
	f, err := os.CreateTemp(filepath.Dir(to), ".state-*") // mode 0600
	if err != nil {
		return 0, err
	}
	defer func() {
		_ = f.Close()
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if n, err = io.Copy(f, answer); err != nil {
		return 0, fmt.Errorf("the copy broke off: %w", err)
	}
	if err := state.VerifyFile(f); err != nil {
		return 0, fmt.Errorf("the copy is not kept: %w", err)
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	if err := os.Rename(f.Name(), to); err != nil { // does not follow a link
		return 0, err
	}
	return n, syncDir(filepath.Dir(to))
}

// replaceable fails if a copy must not be put where something is already: the state
// file itself, which the server would go on using without its name, and anything
// but an older copy.
func replaceable(to string, c state.Config) error {
	info, err := os.Lstat(to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is there already, and is not a file", to)
	}
	if own, err := os.Stat(c.File.Path); c.Type == state.TypeFile && err == nil && os.SameFile(own, info) {
		return fmt.Errorf("%s is the state file itself; name another file for the copy", to)
	}
	f, err := os.Open(to)
	if err != nil {
		return err
	}
	defer f.Close()
	if !state.IsFile(f) {
		return fmt.Errorf("%s is there already, and is not a copy of a state file", to)
	}
	// The path of the state file may be another one for the server (STATE_DIRECTORY).
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("%s is the state file of a server that runs; name another file for the copy", to)
	}
	return nil
}

// syncDir has the names in a folder on the disk.
func syncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
