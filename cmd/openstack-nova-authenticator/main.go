// Command openstack-nova-authenticator issues short-lived tokens to OpenStack instances. Any
// OIDC-aware service can verify them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const program = "openstack-nova-authenticator"

// The linker sets these in a release.
var (
	version = ""
	commit  = ""
)

func main() {
	// The default of a second signal would end the process before it has finished requests,
	// so it is not restored.
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// hinted is an error with a hint on what to do next.
type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// errReported is the error of a command that has printed its problems.
var errReported = errors.New("already reported")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := newRootCommand(stdout, stderr)
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if errors.Is(err, errReported) {
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
	writeWithinASecond(stderr, text.String())
	return 1
}

// writeWithinASecond does not wait longer: a stalled reader must not keep the process alive.
func writeWithinASecond(w io.Writer, text string) {
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = io.WriteString(w, text)
	}()
	select {
	case <-written:
	case <-time.After(time.Second):
	}
}

// buildVersion returns the version and commit of a release, or those that the toolchain
// recorded.
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

var defaultFiles = []string{"config.yml", "/etc/" + program + "/config.yml"}

// load reads the file, or the first default file that exists.
func load(file string) (*config.Plan, string, error) {
	if file == "" {
		for _, f := range defaultFiles {
			if _, err := os.Stat(f); !errors.Is(err, fs.ErrNotExist) {
				file = f
				break
			}
		}
	}
	if file == "" {
		return nil, "", &hinted{
			fmt.Errorf("there is no configuration file: neither %s nor %s", defaultFiles[0], defaultFiles[1]),
			"name one with -c, copy example/config.yml, or try a demo without a configuration: " + program + " demo",
		}
	}
	c, err := config.LoadOwned(file)
	var problems *config.Problems
	if errors.As(err, &problems) {
		return nil, file, &hinted{err, "example/config.yml explains all keys"}
	}
	return c, file, err
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
		Short: "Issues tokens to OpenStack instances that any OIDC-aware service can verify",
		Long: `Runs the server. An instance proves its identity, asks for a role, and gets a
short-lived JWT if it meets the rules of the role. Nova says which instance it is.

The credentials for OpenStack come from OS_* variables or a cloud of clouds.yaml.`,
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
	root.Flags().BoolVarP(&showVersion, "version", "v", false, "print version and commit, and exit")
	root.AddCommand(newCheckCommand(&file, stdout), newDemoCommand(stdout),
		newInstancesCommand(&file, stdout, stderr), newKeysCommand(&file, stdout, stderr), newStateCommand(&file, stdout, stderr))
	for _, group := range root.Commands() {
		if group.HasSubCommands() {
			// Without it cobra answers an unknown subcommand with the help and the status 0.
			group.Args, group.RunE = cobra.NoArgs, func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
	return root
}
