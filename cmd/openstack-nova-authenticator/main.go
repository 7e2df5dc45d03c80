// Command openstack-nova-authenticator gives OpenStack instances short-lived
// tokens that any OIDC-aware service can verify.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const program = "openstack-nova-authenticator"

// Set by the linker in a release.
var (
	version = ""
	commit  = ""
)

func main() {
	// Not given back: a second signal must not cut off what still ends in order.
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// hinted is an error with what to do next.
type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// errSaid ends the process with status 1 when all has been said already.
var errSaid = errors.New("already reported")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := newRootCommand(stdout, stderr)
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if errors.Is(err, errSaid) {
		return 1
	}
	var text strings.Builder
	for line := range strings.Lines(secret.Text(err.Error())) {
		fmt.Fprintf(&text, "%s: %s\n", program, strings.TrimSuffix(line, "\n"))
	}
	var h *hinted
	if errors.As(err, &h) {
		fmt.Fprintf(&text, "%s: hint: %s\n", program, h.hint)
	}
	say(stderr, text.String())
	return 1
}

// say writes the last words, for at most a second: a reader that has stalled must not keep
// the process.
func say(w io.Writer, text string) {
	said := make(chan struct{})
	go func() {
		defer close(said)
		_, _ = io.WriteString(w, text)
	}()
	select {
	case <-said:
	case <-time.After(time.Second):
	}
}

// buildVersion is the release's, else what the toolchain knows of the source.
func buildVersion() (ver, rev string) {
	ver, rev = version, commit
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ver, rev
	}
	if ver == "" {
		ver = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && rev == "" {
			rev = s.Value
		}
	}
	if rev == "" {
		rev = "unknown commit"
	}
	return ver, rev
}

func userAgent() string {
	v, _ := buildVersion()
	return program + "/" + v
}

func newRootCommand(stdout, stderr io.Writer) *cobra.Command {
	var file string
	var showVersion bool
	root := &cobra.Command{
		Use:   program,
		Short: "An identity for OpenStack instances, as a token that any OIDC-aware service can verify",
		Long: `Serves POST /auth: an instance posts its ID and a role, is looked up in Nova,
and gets a short-lived JWT if it speaks from one of its own addresses, is young
enough, and meets the role's rules.

The credentials for OpenStack are OS_* variables or a cloud of clouds.yaml.`,
		Example: `  openstack-nova-authenticator demo
  openstack-nova-authenticator check -c config.yml --online
  openstack-nova-authenticator -c config.yml`,
		Args:              cobra.NoArgs,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if showVersion {
				v, rev := buildVersion()
				_, err := fmt.Fprintf(stdout, "%s (%s)\n", v, rev)
				return err
			}
			return serve(cmd.Context(), file, stdout, stderr)
		},
	}
	root.PersistentFlags().StringVarP(&file, "config", "c", "", "configuration `file` (default ./config.yml, else /etc/"+program+"/config.yml)")
	root.Flags().BoolVarP(&showVersion, "version", "v", false, "print version and commit, and end")
	root.AddCommand(newCheckCommand(&file, stdout), newDemoCommand(stdout),
		newInstancesCommand(&file, stdout, stderr), newKeysCommand(&file, stdout, stderr), newStateCommand(&file, stdout, stderr))
	return root
}
