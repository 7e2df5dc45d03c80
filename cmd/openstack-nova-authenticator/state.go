package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

func newStateCommand(file *string, stdout, stderr io.Writer) *cobra.Command {
	cmd := &cobra.Command{Use: "state", Short: "Back the state file up", Args: cobra.NoArgs}
	cmd.AddCommand(&cobra.Command{
		Use: "save FILE", Short: "Write a consistent copy of the state file", Args: cobra.ExactArgs(1),
		Long: `Writes a consistent copy of the state file while the server works on. The copy
has the signing keys in it and mode 0600; one of the same name is replaced when
the new one is complete. To restore it, stop the server, put the copy in the
place of the state file, and start the server.
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
	return cmd
}

func saveState(ctx context.Context, file, to string, stderr io.Writer) (n int64, err error) {
	o, err := newOperator(ctx, file, stderr)
	if err != nil {
		return 0, err
	}
	defer o.close()
	answer, err := o.call(ctx, http.MethodGet, []string{"state"}, nil)
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
	if err := f.Sync(); err != nil {
		return 0, err
	}
	return n, os.Rename(f.Name(), to)
}
