package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/admin"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// maxKeyFile is the maximum size of a file for keys import.
const maxKeyFile = 64 << 10

func newKeysCommand(file *string, stdout, stderr io.Writer) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Show and change the signing keys in the state",
		Long: `Shows and changes the signing keys in the state. The current key signs. The next
key is published before it signs. A retired key is published until its last
token has expired. The server rotates the keys.
` + onState,
	}
	var asJSON bool
	list := &cobra.Command{
		Use: "list", Short: "List the signing keys", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return request[admin.Keys]{to: admin.ListKeys, json: asJSON, show: func(w io.Writer, v admin.Keys) {
				printKeys(w, v.Keys...)
			}}.run(cmd.Context(), *file, stdout, stderr)
		},
	}
	list.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	rotate := &cobra.Command{
		Use: "rotate", Short: "Sign with the next key from now on", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return request[keyring.KeyInfo]{to: admin.RotateKeys, show: printKey}.run(cmd.Context(), *file, stdout, stderr)
		},
	}
	revoke := &cobra.Command{
		Use: "revoke KID", Short: "Remove a key from the key set at once", Args: cobra.ExactArgs(1),
		Long: `Removes a key from the key set at once. A verifier rejects tokens of the key after
it has fetched the key set again, within keys.maxAge. If the key was the current
one, the next key signs from now on.
` + onState,
		RunE: func(cmd *cobra.Command, args []string) error {
			return request[struct{}]{to: admin.RevokeKey, in: admin.Input{ID: args[0]}, show: func(w io.Writer, _ struct{}) {
				fmt.Fprintf(w, "%s is revoked.\n", args[0])
			}}.run(cmd.Context(), *file, stdout, stderr)
		},
	}
	imports := &cobra.Command{
		Use: "import FILE", Short: "Add a private key from a file, to change from signingKeyFile to managed keys", Args: cobra.ExactArgs(1),
		Long: `Adds a private key (PEM) to the key set. If the key set is empty, the key signs
from now on, because verifiers know it. Otherwise it becomes the next key.
` + onState,
		RunE: func(cmd *cobra.Command, args []string) error {
			pem, err := secret.ReadFile(args[0], maxKeyFile)
			if err != nil {
				return err
			}
			return request[keyring.KeyInfo]{to: admin.ImportKey, in: admin.Input{Body: pem}, show: printKey}.run(cmd.Context(), *file, stdout, stderr)
		},
	}
	var accept bool
	initialize := &cobra.Command{
		Use: "init", Short: "Accept a Redis that is new or has lost its data", Args: cobra.NoArgs,
		Long: `Accepts a Redis that is new or has lost its data. A server refuses such a Redis,
because the counts of attempts are lost. If a server runs, it writes its key set
and its denial list back, and issued tokens stay valid. Otherwise the command
creates those that Redis lacks, but no key set with auth.signingKeyFile.

A key set or a denial list that may be outdated is refused: this server has seen
a newer generation, or it has seen none and no running server confirmed it
within keys.maxAge. --accept accepts it, and prints its generation and what is
missing. Deny the missing instances again. The server again revokes the keys that
it saw revoked; check the others with ` + "`keys list`" + `.
` + onState,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return request[admin.Initialized]{to: admin.InitKeys, in: admin.Input{Accept: accept}, show: func(w io.Writer, v admin.Initialized) {
				printAccepted(w, v.Accepted)
				fmt.Fprintln(w, "The state is accepted.")
			}}.run(cmd.Context(), *file, stdout, stderr)
		},
	}
	initialize.Flags().BoolVar(&accept, "accept", false, "accept a key set and a denial list that may be outdated")
	cmd.AddCommand(list, rotate, revoke, imports, initialize)
	return cmd
}

// printAccepted prints what an operator accepted.
func printAccepted(w io.Writer, all []keyring.Accepted) {
	for _, a := range all {
		switch {
		case a.Generation == 0:
			fmt.Fprintf(w, "The %s was not in the state.\n", a.Value)
		case a.Confirmed.IsZero():
			fmt.Fprintf(w, "The %s: generation %d, of release 65ed6e0.\n", a.Value, a.Generation)
		default:
			fmt.Fprintf(w, "The %s: generation %d, last confirmed by a server at %s.\n", a.Value, a.Generation, a.Confirmed.UTC().Format(time.RFC3339))
		}
		if a.Seen > a.Generation {
			fmt.Fprintf(w, "  This server has seen generation %d.\n", a.Seen)
		}
		for _, name := range a.Missing {
			fmt.Fprintf(w, "  %s is missing: it was there when this server last saw it.\n", name)
		}
		for _, name := range a.Returned {
			fmt.Fprintf(w, "  %s is back: it was not there when this server last saw it.\n", name)
		}
	}
}

func printKey(w io.Writer, k keyring.KeyInfo) { printKeys(w, k) }

func printKeys(w io.Writer, keys ...keyring.KeyInfo) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KID\tALGORITHM\tSTATE\tPUBLISHED\tSIGNS SINCE\tRETIRED\tREMOVED AFTER")
	at := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.UTC().Format(time.RFC3339)
	}
	for _, k := range keys {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.KeyID, k.Algorithm, k.State, at(k.Published), at(k.Since), at(k.Retired), at(k.RemovedAfter))
	}
	_ = t.Flush() // to a buffer
}
