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
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/admin"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

// defaultSocket is the admin socket of the unit in example/systemd. An operator's shell has no
// $RUNTIME_DIRECTORY.
const defaultSocket = "/run/" + program + "/admin.sock"

// opener opens the state in a process that is not a server.
type opener func(*service, *config.Plan) error

// newOperator returns a client of the running server. If none runs, this process opens the
// state with open, as a server does if open is nil, and serves it until stop is called.
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
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", socket)
	switch {
	case err == nil:
		_ = conn.Close()
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		if open == nil {
			open = func(s *service, c *config.Plan) error { return s.openState(c, false) }
		}
		if socket, stop, err = serveState(ctx, c, socket, stderr, open); err != nil {
			return nil, nil, err
		}
	default:
		return nil, nil, &hinted{err, "only root and the user of the server can use the admin socket; run the command as one of them"}
	}
	return admin.NewClient(socket), stop, nil
}

// serveState opens the state in this process, and serves the admin interface at a socket that
// only this user can use.
func serveState(ctx context.Context, c *config.Plan, absent string, stderr io.Writer, open opener) (socket string, stop func(), err error) {
	switch c.State.Type {
	case state.TypeMemory:
		return "", nil, &hinted{
			fmt.Errorf("no server answers at %s, and with state.type memory only a running server has a state", absent),
			"start the server, or set admin.socket to its socket",
		}
	case state.TypeFile:
		// The server would not use a new state file that this process creates.
		if _, err := os.Stat(c.State.File.Path); err != nil {
			return "", nil, &hinted{
				fmt.Errorf("no server answers at %s, and the state file cannot be used: %w", absent, err),
				"a relative state.file.path is relative to $STATE_DIRECTORY, which systemd sets only for the server: set it, or use an absolute path",
			}
		}
	}
	c.LogLevel = slog.LevelError
	dir, err := os.MkdirTemp("", program+"-")
	if err != nil {
		return "", nil, err
	}
	lines := audit.NewStream(stderr, c.Log.Format) // stdout is for the result of the command
	s := &service{log: newLog(c, lines)}
	release := func() {
		s.close()
		_ = lines.Close()
		_ = os.RemoveAll(dir)
	}
	fail := func(err error) (string, func(), error) {
		release()
		return "", nil, err
	}
	if s.audit, err = audit.Open(c.Audit, lines, lines); err != nil {
		return fail(err)
	}
	if err := open(s, c); err != nil {
		return fail(err)
	}
	socket = filepath.Join(dir, "admin.sock")
	path, err := listen.ParseSocket(socket)
	if err != nil {
		return fail(err)
	}
	l, err := listen.Socket(path)
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
		release()
	}, nil
}

// request is a request to the admin socket, and how to print its answer.
type request[Answer any] struct {
	to   admin.Route[Answer]
	in   admin.Input
	open opener // optional; see newOperator
	json bool   // print the JSON
	show func(io.Writer, Answer)
}

// run sends the request and prints the answer.
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
