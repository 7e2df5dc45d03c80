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
	cmd := &cobra.Command{Use: "state", Short: "Back up the state file, and accept a restored copy"}
	cmd.AddCommand(&cobra.Command{
		Use: "save FILE", Short: "Write a consistent copy of the state file", Args: cobra.ExactArgs(1),
		Long: `Writes a consistent copy of the state file while the server runs. The copy has
mode 0600, because it contains the signing keys. An older copy with this name is
replaced after the new one is complete and verified; a file that is not a copy
is not replaced.

To restore it, stop the server, replace the state file with the copy, run
` + "`state accept`" + `, which prints what was revoked and denied since the copy was
made, and start the server.
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
		Long: `Accepts a state file that is older than the state that the server has seen. A
server refuses such a file. It prints what the file lacks: instances that were
denied since, and keys that were revoked or removed since. Deny these instances
again before you start the server. The server again revokes the keys that it saw
revoked. Instances can repeat the attempts that they made since.

Stop the server first.
`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opened := false
			open := func(s *service, c *config.Plan) error {
				if c.State.Type != state.TypeFile {
					return fmt.Errorf("state.type is %s, not file; for redis use `keys init --accept`", c.State.Type)
				}
				opened = true
				return s.openState(c, true)
			}
			return request[admin.Initialized]{to: admin.InitKeys, in: admin.Input{Accept: true}, open: open, show: func(w io.Writer, v admin.Initialized) {
				if !opened {
					fmt.Fprintln(w, "A server runs with the state file, and has accepted it.")
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
		return 0, fmt.Errorf("the copy is incomplete and was deleted: %w", err)
	}
	if err := state.VerifyFile(f); err != nil {
		return 0, fmt.Errorf("the copy is damaged and was deleted: %w", err)
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	if err := os.Rename(f.Name(), to); err != nil { // does not follow a link
		return 0, err
	}
	return n, syncDir(filepath.Dir(to))
}

// replaceable returns an error unless a copy can be written to a path: nothing is there, or an
// older copy. It must not be the state file: the server would go on with a deleted file.
func replaceable(to string, c state.Config) error {
	info, err := os.Lstat(to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s exists, and is not a file", to)
	}
	if own, err := os.Stat(c.File.Path); c.Type == state.TypeFile && err == nil && os.SameFile(own, info) {
		return fmt.Errorf("%s is the state file; choose another name for the copy", to)
	}
	f, err := os.Open(to)
	if err != nil {
		return err
	}
	defer f.Close()
	if !state.IsFile(f) {
		return fmt.Errorf("%s exists, and is not a copy of a state file; choose another name", to)
	}
	// The server may have another path for it (STATE_DIRECTORY).
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("%s is the state file of a running server; choose another name for the copy", to)
	}
	return nil
}

// syncDir writes the names in a folder to the disk.
func syncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
