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

// maxKeyFile bounds the file that keys import reads.
const maxKeyFile = 64 << 10

func newKeysCommand(file *string, stdout, stderr io.Writer) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "See and change the signing keys that the state holds",
		Long: `The signing keys that the state holds. The next key is published long before it
signs, the current one signs, and a retired one is published until its last
token has expired; all of that happens by itself.
` + onState,
		Args: cobra.NoArgs,
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
		Use: "rotate", Short: "Let the next key sign from now on", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return request[keyring.KeyInfo]{to: admin.RotateKeys, show: printKey}.run(cmd.Context(), *file, stdout, stderr)
		},
	}
	revoke := &cobra.Command{
		Use: "revoke KID", Short: "Take a key out of the key set at once", Args: cobra.ExactArgs(1),
		Long: `Takes a key out of the key set at once: verifiers that fetch the key set refuse
its tokens from then on, those that keep it for keys.maxAge do so when that is
over. If it was the one that signs, the next one signs from now on.
` + onState,
		RunE: func(cmd *cobra.Command, args []string) error {
			return request[struct{}]{to: admin.RevokeKey, in: admin.Input{ID: args[0]}, show: func(w io.Writer, _ struct{}) {
				fmt.Fprintf(w, "%s is revoked.\n", args[0])
			}}.run(cmd.Context(), *file, stdout, stderr)
		},
	}
	imports := &cobra.Command{
		Use: "import FILE", Short: "Take a private key from a file, so that one can go from signingKeyFile to managed keys", Args: cobra.ExactArgs(1),
		Long: `Takes a private key, PEM, into the key set. If that is empty the key signs from
now on: it is the one that verifiers know. Otherwise it becomes the next key.
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
		Use: "init", Short: "Accept a Redis that is new or lost what it held", Args: cobra.NoArgs,
		Long: `Accepts a Redis that is new, or that lost what it held: a server refuses such a
one, since the attempts that it counted are gone. If a server runs, its key set
and its list of denied instances are written back, and the tokens that are out
stay good; otherwise new ones are made if there are none, but no key set beside
auth.signingKeyFile. A state that has all of this is left as it is.

A key set or a list that may be an old one is refused: its generation is lower
than this server has seen, or this server has seen none and no running server
confirmed it within keys.maxAge. With --accept it is taken, and what it is is
printed. Deny again the instances that are missing. A key that this server saw
revoked is revoked again by itself; look whether another one is among the keys.
` + onState,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return request[admin.Initialized]{to: admin.InitKeys, in: admin.Input{Accept: accept}, show: func(w io.Writer, v admin.Initialized) {
				printAccepted(w, v.Accepted)
				fmt.Fprintln(w, "The state is accepted.")
			}}.run(cmd.Context(), *file, stdout, stderr)
		},
	}
	initialize.Flags().BoolVar(&accept, "accept", false, "take a key set and a list of denied instances that may be old")
	cmd.AddCommand(list, rotate, revoke, imports, initialize)
	return cmd
}

// printAccepted says what an operator accepted.
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
			fmt.Fprintf(w, "  This server has seen generation %d of it.\n", a.Seen)
		}
		for _, name := range a.Missing {
			fmt.Fprintf(w, "  %s was there when this server saw it last, and is not now.\n", name)
		}
		for _, name := range a.Returned {
			fmt.Fprintf(w, "  %s is there now, and was not when this server saw it last.\n", name)
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
