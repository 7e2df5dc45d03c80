package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

// onlineTimeout bounds check --online.
const onlineTimeout = 30 * time.Second

// unverified is what is said of `verify: false` in clouds.yaml.
const unverified = "the cloud says verify: false: an attacker on the way can answer as Nova, and so be any instance; give it a cacert instead"

// finding is one line of check.
type finding struct {
	Level   string `json:"level"` // error or warning
	Path    string `json:"path,omitempty"`
	Line    int    `json:"line,omitempty"`
	Message string `json:"message"`
}

// report is what check prints with --json.
type report struct {
	File     string          `json:"file"`
	OK       bool            `json:"ok"`
	Findings []finding       `json:"findings"`
	Cloud    *openstack.Info `json:"cloud,omitempty"`
}

func newCheckCommand(file *string, stdout io.Writer) *cobra.Command {
	var online, strict, asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Read the configuration as serve would and report every problem",
		Long: `Reads the configuration file, the keys and the certificate that it names, and
the credentials for OpenStack, and reports every problem and warning. It listens
nowhere and, unless told, asks nobody.

The exit status is 1 when there is an error, or with --strict a warning, else 0.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := check(cmd.Context(), *file, online)
			if err != nil {
				return err
			}
			for _, f := range r.Findings {
				r.OK = r.OK && f.Level != "error" && !strict
			}
			if err := r.print(stdout, asJSON); err != nil {
				return err
			}
			if !r.OK {
				return errSaid
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&online, "online", false, "log in to OpenStack, ask for every right that the roles need, and ask Redis if the state is there")
	cmd.Flags().BoolVar(&strict, "strict", false, "fail on warnings")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func check(ctx context.Context, file string, online bool) (*report, error) {
	c, file, err := load(file)
	r := &report{File: file, OK: true, Findings: []finding{}}
	var problems *config.Problems
	if errors.As(err, &problems) {
		r.add("error", problems.List...)
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	r.add("warning", c.Warnings()...)
	if err := checkState(ctx, c.State, online); err != nil {
		r.add("error", config.Problem{Path: "state", Message: err.Error()})
	}
	cloud, err := openstack.New(c.Cloud, openstack.Options{UserAgent: userAgent(), ProjectNames: c.Tokens.NeedsProjects(), Callers: c.Vendordata.Users})
	if err != nil {
		r.add("error", config.Problem{Path: "openstack", Message: err.Error()})
		return r, nil
	}
	defer cloud.Close()
	for _, said := range cloud.Warnings() {
		r.add("warning", config.Problem{Path: "openstack", Message: said})
	}
	if cloud.Unverified() {
		r.add("warning", config.Problem{Path: "openstack", Message: unverified})
	}
	if online {
		ctx, cancel := context.WithTimeout(ctx, onlineTimeout)
		defer cancel()
		info, err := cloud.Connect(ctx)
		if err != nil {
			r.add("error", config.Problem{Path: "openstack", Message: err.Error()})
			return r, nil
		}
		r.Cloud = &info
		if info.Narrow {
			r.add("warning", config.Problem{Path: "openstack", Message: "the account sees instances " + info.Scope})
		}
		for _, right := range info.Lacks {
			r.add("error", config.Problem{Path: "openstack", Message: right})
		}
		if info.Missing != "" {
			r.add("warning", config.Problem{Path: "openstack", Message: info.Missing})
		}
	}
	return r, nil
}

// checkState looks at the mode of a state file, which is not opened: the server
// that runs has it. It reads the files that Redis needs, and asks it if it may.
func checkState(ctx context.Context, c state.Config, ask bool) error {
	switch c.Type {
	case state.TypeFile:
		return state.CheckFile(c.File.Path)
	case state.TypeMemory:
		return nil
	}
	store, err := state.OpenRedis(c.Redis)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	if ask {
		_, err = store.Count(ctx, "check")
	}
	return err
}

func (r *report) add(level string, problems ...config.Problem) {
	for _, p := range problems {
		r.Findings = append(r.Findings, finding{level, p.Path, p.Line, secret.Text(p.Message)})
	}
}

func (r *report) print(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	for _, f := range r.Findings {
		p := config.Problem{Path: f.Path, Line: f.Line, Message: f.Message}
		if _, err := fmt.Fprintf(w, "%s: %s: %s\n", r.File, f.Level, p); err != nil {
			return err
		}
	}
	if c := r.Cloud; c != nil {
		if _, err := fmt.Fprintf(w, "%s: logged in as %s; Nova at %s, microversion %s, lookup by %s, sees instances %s\n",
			r.File, c.Account, c.Endpoint, c.Microversion, c.Lookup, c.Scope); err != nil {
			return err
		}
	}
	verdict := "ok"
	if !r.OK {
		verdict = "not ok"
	}
	_, err := fmt.Fprintf(w, "%s: %s\n", r.File, verdict)
	return err
}
