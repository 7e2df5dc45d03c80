package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/admin"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

const onState = `
The command uses the admin socket of the running server. If no server runs, it
opens the state itself.`

func newInstancesCommand(file *string, stdout, stderr io.Writer) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "instances",
		Short: "Show and change the attempts of instances and the denial list",
		Long:  "Shows and changes the attempts of instances in open windows, and the denial list.\n" + onState,
	}
	list := &cobra.Command{
		Use: "list", Short: "List the instances with attempts, and the denied ones", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return request[admin.Instances]{to: admin.ListInstances, json: asJSON, show: func(w io.Writer, v admin.Instances) {
				printInstances(w, v.Instances...)
				if v.More {
					fmt.Fprintln(w, "There are more instances.")
				}
			}}.run(cmd.Context(), *file, stdout, stderr)
		},
	}
	show := &cobra.Command{
		Use: "show ID", Short: "Show an instance", Args: instanceArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			return request[attest.Kept]{to: admin.ShowInstance, in: admin.Input{ID: args[0]}, json: asJSON, show: func(w io.Writer, v attest.Kept) {
				printInstances(w, v)
			}}.run(cmd.Context(), *file, stdout, stderr)
		},
	}
	for _, c := range []*cobra.Command{list, show} {
		c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	}
	reset := &cobra.Command{
		Use: "reset ID", Short: "Reset the attempts of an instance in open windows", Args: instanceArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			return request[admin.Reset]{to: admin.ResetInstance, in: admin.Input{ID: args[0]}, show: func(w io.Writer, v admin.Reset) {
				if v.Windows == 0 {
					fmt.Fprintf(w, "%s had made no attempt.\n", args[0])
					return
				}
				fmt.Fprintf(w, "%s has its attempts back, in %d window(s) or document(s).\n", args[0], v.Windows)
			}}.run(cmd.Context(), *file, stdout, stderr)
		},
	}
	var life time.Duration
	var reason string
	deny := &cobra.Command{
		Use: "deny ID", Short: "Put an instance on the denial list", Args: instanceArg,
		Long: `Puts an instance on the denial list of all servers that share the state: it gets
no token until it is allowed again or the time is over. Tokens that it already
has are valid until they expire.
` + onState,
		RunE: func(cmd *cobra.Command, args []string) error {
			deny := admin.Deny{Reason: reason}
			if cmd.Flags().Changed("for") {
				deny.For = life.String()
			}
			body, err := json.Marshal(deny)
			if err != nil {
				return err
			}
			return request[attest.Denial]{to: admin.DenyInstance, in: admin.Input{ID: args[0], Body: body}, show: func(w io.Writer, v attest.Denial) {
				fmt.Fprintf(w, "%s is denied %s.\n", v.Instance, denialEnd(v))
			}}.run(cmd.Context(), *file, stdout, stderr)
		},
	}
	deny.Flags().DurationVar(&life, "for", 0, "for how `long`, such as 24h, up to 876000h (default: until it is allowed again)")
	deny.Flags().StringVar(&reason, "reason", "", "the reason, for the audit log and instances list")
	allow := &cobra.Command{
		Use: "allow ID", Short: "Remove an instance from the denial list", Args: instanceArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			return request[struct{}]{to: admin.AllowInstance, in: admin.Input{ID: args[0]}, show: func(w io.Writer, _ struct{}) {
				fmt.Fprintf(w, "%s is not denied.\n", args[0])
			}}.run(cmd.Context(), *file, stdout, stderr)
		},
	}
	cmd.AddCommand(list, show, reset, deny, allow)
	return cmd
}

// instanceArg accepts one argument, an instance ID, and rewrites it in canonical form.
func instanceArg(cmd *cobra.Command, args []string) error {
	if err := cobra.ExactArgs(1)(cmd, args); err != nil {
		return err
	}
	id, err := attest.ParseInstanceID(args[0])
	if err != nil {
		return fmt.Errorf("%q: %w", args[0], err)
	}
	args[0] = id.String()
	return nil
}

func denialEnd(d attest.Denial) string {
	if d.Until.IsZero() {
		return "until it is allowed again"
	}
	return "until " + d.Until.Format(time.RFC3339)
}

func printInstances(w io.Writer, kept ...attest.Kept) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "INSTANCE\tROLE\tATTEMPTS\tWINDOW OPENED\tENDS\tDENIED")
	for _, k := range kept {
		denied := "-"
		if d := k.Denial; d != nil {
			denied = denialEnd(*d)
			if d.Reason != "" {
				denied += fmt.Sprintf(": %q", d.Reason) // quoted: it must not move the terminal's cursor
			}
		}
		for _, a := range k.Documents {
			fmt.Fprintf(t, "%s\t(document)\t%d\t-\t%s\t%s\n", k.Instance, a.Count, a.Expires.Format(time.RFC3339), denied)
		}
		if len(k.Attempts)+len(k.Documents) == 0 {
			fmt.Fprintf(t, "%s\t-\t-\t-\t-\t%s\n", k.Instance, denied)
		}
		for _, a := range k.Attempts {
			fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\n", k.Instance, a.Role, a.Count, a.Opened.Format(time.RFC3339), a.Expires.Format(time.RFC3339), denied)
		}
	}
	_ = t.Flush() // to a buffer
}
