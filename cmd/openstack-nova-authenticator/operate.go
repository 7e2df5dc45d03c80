package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/admin"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

// defaultSocket is where the unit in example/systemd has it. The operator's shell has
// no $RUNTIME_DIRECTORY.
const defaultSocket = "/run/" + program + "/admin.sock"

// opener opens the state in a process that is not a server.
type opener func(*service, *config.Plan) error

// newOperator makes a client of the server that runs. Where none runs, this process
// serves the state itself until stop is called. It opens the state with open or, if that
// is nil, as a server does.
func newOperator(ctx context.Context, file string, stderr io.Writer, open opener) (client *http.Client, stop func(), err error) {
	c, _, err := load(file)
	if err != nil {
		return nil, nil, err
	}
	socket := cmp.Or(c.Admin.Socket, defaultSocket)
	if err := secret.CheckSocket(socket); err != nil {
		return nil, nil, fmt.Errorf("admin socket: %w", err)
	}
	stop = func() {}
	conn, err := admin.Dial(ctx, socket)
	switch {
	case err == nil:
		_ = conn.Close()
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		if open == nil {
			open = (*service).openState
		}
		if socket, stop, err = serveState(ctx, c, socket, stderr, open); err != nil {
			return nil, nil, err
		}
	default:
		return nil, nil, &hinted{err, "the admin socket is for the user that the server runs as, and for root"}
	}
	return admin.NewClient(socket), stop, nil
}

// serveState opens the state in this process, and serves the admin interface on
// it at a socket that this user alone can reach.
func serveState(ctx context.Context, c *config.Plan, absent string, stderr io.Writer, open opener) (socket string, stop func(), err error) {
	switch c.State.Type {
	case state.TypeMemory:
		return "", nil, &hinted{
			fmt.Errorf("no server answers at %s, and state.type memory means that the state ends with the server", absent),
			"start the server, with admin.socket set if it has another one",
		}
	case state.TypeFile:
		// An empty state made here would be another than the server's.
		if _, err := os.Stat(c.State.File.Path); err != nil {
			return "", nil, &hinted{
				fmt.Errorf("no server answers at %s, and the state file cannot be used: %w", absent, err),
				"a relative state.file.path is in $STATE_DIRECTORY, which systemd sets for the server alone: set it, or use an absolute path",
			}
		}
	}
	if c.Audit.Output == "stdout" {
		c.Audit.Output = "stderr" // stdout has the command's result
	}
	c.Log.Level = "error"
	dir, err := os.MkdirTemp("", program+"-")
	if err != nil {
		return "", nil, err
	}
	said := audit.NewStream(stderr, c.Log.Format)
	s := &service{log: newLog(c, said)}
	fail := func(err error) (string, func(), error) {
		s.close()
		_ = said.Close()
		_ = os.RemoveAll(dir)
		return "", nil, err
	}
	if s.audit, err = audit.Open(c.Audit, said, said); err != nil {
		return fail(err)
	}
	if err := open(s, c); err != nil {
		return fail(err)
	}
	socket = filepath.Join(dir, "admin.sock")
	l, err := listen.Socket(socket)
	if err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var serving sync.WaitGroup
	serving.Go(func() {
		_ = listen.Serve(ctx, s.log, listen.Endpoint{Name: "admin", Listener: l, Handler: s.adminHandler(c)})
	})
	return socket, func() {
		cancel()
		serving.Wait()
		s.close()
		_ = said.Close()
		_ = os.RemoveAll(dir)
	}, nil
}

// request is a request to the admin socket, and what is printed of its answer.
type request[Answer any] struct {
	to   admin.Route[Answer]
	in   admin.Input
	open opener // optional; see newOperator
	json bool   // print the answer as it is
	show func(io.Writer, Answer)
}

// run runs a command that makes one request.
func (q request[Answer]) run(ctx context.Context, file string, stdout, stderr io.Writer) error {
	client, stop, err := newOperator(ctx, file, stderr, q.open)
	if err != nil {
		return err
	}
	defer stop()
	answer, err := q.to.Call(ctx, client, q.in)
	if err != nil {
		return err
	}
	defer answer.Close()
	data, err := io.ReadAll(answer)
	if err != nil {
		return err
	}
	if q.json {
		_, err := stdout.Write(data)
		return err
	}
	var v Answer
	if err := json.Unmarshal(data, &v); err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	var text bytes.Buffer
	q.show(&text, v)
	_, err = stdout.Write(text.Bytes())
	return err
}
