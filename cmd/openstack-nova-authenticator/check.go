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

// unverified is the warning of `verify: false` in clouds.yaml.
const unverified = "the cloud has verify: false, so an attacker on the network can answer as Nova and get the tokens of any instance; remove it, and set cacert if the certificate has a CA of your own"

// finding is a problem or a warning that check prints.
type finding struct {
	Level   string `json:"level"` // error or warning
	Path    string `json:"path,omitempty"`
	Line    int    `json:"line,omitempty"`
	Message string `json:"message"`
}

// report is the output of check --json.
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
		Short: "Report all problems of the configuration",
		Long: `Reads the configuration as the server does, with the files that it names and the
credentials for OpenStack, and reports all problems and warnings. It opens no
listener, and connects to no other service unless --online is set.

The exit status is 1 if there is an error, or with --strict a warning, and 0
otherwise.`,
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
				return errReported
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&online, "online", false, "log in to OpenStack, test all rights that the roles need, and connect to Redis if it holds the state")
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
	for _, text := range cloudWarnings(cloud) {
		r.add("warning", config.Problem{Path: "openstack", Message: text})
	}
	if online {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
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

// cloudWarnings returns the warnings of the credentials and their cloud.
func cloudWarnings(cloud *openstack.Client) []string {
	all := cloud.Warnings()
	if cloud.Unverified() {
		all = append(all, unverified)
	}
	return all
}

// checkState does not open a state file, which a server may hold. It checks the mode of the
// file, or reads the files for Redis. With ask it connects to Redis.
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
