package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/simulator"
)

const (
	demoAddress  = "127.0.0.1:18775"
	demoProject  = "7e562c1a85814230b973a83db9534b02"
	demoUser     = "821a2eaac0724c069aa6a44bd7b91935"
	demoPassword = "demo"

	demoWeb   = "88802a48-f721-4561-b9d6-4f28cb4eca3a"
	demoDB    = "5ad2d1b0-6c1c-4a43-9f0e-3f1d5a7f0b11"
	demoOld   = "0c9b2f3e-8d57-4b57-8f0a-5f6f2f0f7a22"
	demoSpare = "e1f5c0de-2b6a-4d0c-9a3b-7d4c5b6a7f33"
)

const demoConfig = `listen: %s
auth: {tokenIssuer: "http://%s"}
state: {type: memory}
openstack:
  cloud: demo
  cloudsFile: clouds.yaml
metrics: {listen: ""}
log: {level: error}
audit: {required: true}
roles:
  web:
    projectID: ` + demoProject + `
    metadata: {role: web}
  db:
    projectID: ` + demoProject + `
    metadata: {role: db}
`

const demoClouds = `clouds:
  demo:
    auth:
      auth_url: %s
      username: authenticator
      password: ` + demoPassword + `
      project_name: service
      user_domain_name: Default
      project_domain_name: Default
`

func newDemoCommand(stdout io.Writer) *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a token, its verification and denials, with a simulated cloud",
		Long: `Starts a simulated Keystone and Nova and the real server on loopback, and shows
what an instance, a verifier and an attacker see, as curl commands that you can
repeat. It needs no cloud and no files. Then it serves until Ctrl-C.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo(cmd.Context(), stdout, once)
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "exit after the tour; the exit status is 0 if all answers were as expected")
	return cmd
}

func demo(ctx context.Context, stdout io.Writer, once bool) error {
	cloud, err := demoCloud()
	if err != nil {
		return err
	}
	defer cloud.Close()
	dir, err := os.MkdirTemp("", program+"-demo-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	address, err := freeAddress()
	if err != nil {
		return err
	}
	file, err := demoFiles(dir, address, cloud.AuthURL())
	if err != nil {
		return err
	}
	c, err := config.Load(file)
	if err != nil {
		return err
	}
	audit := newAuditTail()
	var log bytes.Buffer // printed only if the tour fails, because the tour causes errors
	out := newOutputs(c.Log.Format, audit, &log)
	s, err := newService(c, out)
	if err != nil {
		out.close()
		return err
	}
	defer out.close()
	defer s.close()

	serving, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- s.run(serving, 0) }()

	t := &tour{out: stdout, base: "http://" + address, cloud: cloud, audit: audit, client: &http.Client{Timeout: 10 * time.Second}}
	err = t.run(ctx)
	if err == nil && !once {
		t.say("\nThe server runs until Ctrl-C. For some minutes web-2 has two more attempts:\n\n   curl %s/auth -d instance_id=%s -d role=web\n", t.base, demoSpare)
		select {
		case <-ctx.Done():
		case err := <-ended:
			return err
		}
	}
	stop()
	if err = errors.Join(err, <-ended, t.err); err != nil {
		out.close() // writes the queued lines
		t.say("\n%s", log.String())
	}
	return err
}

// demoCloud has four instances: two with the address of this host, one with another address,
// and one that is too old.
func demoCloud() (*simulator.Cloud, error) {
	cloud, err := simulator.Start()
	if err != nil {
		return nil, fmt.Errorf("simulated cloud: %w", err)
	}
	cloud.AddAccount(simulator.Account{
		Name: "authenticator", Password: demoPassword, DomainID: "default", DomainName: "Default",
		ProjectName: "service", ProjectDomainID: "default", ProjectDomainName: "Default",
		Roles: []string{"reader", "instance_reader"},
	})
	now := time.Now()
	for _, s := range []simulator.Server{
		{ID: demoWeb, Name: "web-1", Metadata: map[string]string{"role": "web"}, Created: now, Addresses: []simulator.Address{{Network: "private", Addr: "127.0.0.1", Type: "fixed"}}},
		{ID: demoSpare, Name: "web-2", Metadata: map[string]string{"role": "web"}, Created: now, Addresses: []simulator.Address{{Network: "private", Addr: "127.0.0.1", Type: "fixed"}}},
		{ID: demoDB, Name: "db-1", Metadata: map[string]string{"role": "db"}, Created: now, Addresses: []simulator.Address{{Network: "private", Addr: "10.20.0.12", Type: "fixed"}}},
		{ID: demoOld, Name: "old-1", Metadata: map[string]string{"role": "web"}, Created: now.Add(-time.Hour), Addresses: []simulator.Address{{Network: "private", Addr: "127.0.0.1", Type: "fixed"}}},
	} {
		s.Status, s.VMState, s.ProjectID, s.UserID, s.Launched, s.Flavor = "ACTIVE", "active", demoProject, demoUser, s.Created, "m1.small"
		cloud.SetServer(s)
	}
	return cloud, nil
}

// freeAddress returns demoAddress, or another one if its port is in use.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", demoAddress)
	if err != nil {
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return "", err
		}
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func demoFiles(dir, address, authURL string) (config string, err error) {
	config = filepath.Join(dir, "config.yml")
	for name, data := range map[string]string{
		"config.yml":  fmt.Sprintf(demoConfig, address, address),
		"clouds.yaml": fmt.Sprintf(demoClouds, authURL),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			return "", err
		}
	}
	return config, nil
}
