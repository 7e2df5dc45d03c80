package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

const (
	// defaultSocket is where the unit in example/systemd has it. The operator's
	// shell has no $RUNTIME_DIRECTORY.
	defaultSocket = "/run/" + program + "/admin.sock"
	operateWait   = time.Minute
)

// operator speaks to the admin interface: of the server that runs, or of one
// that it starts on the state itself for as long as the command takes.
type operator struct {
	client http.Client
	stop   func()
}

// dialSocket connects to a server's admin socket. The error is fs.ErrNotExist or
// ECONNREFUSED if no server is there.
func dialSocket(ctx context.Context, socket string) (net.Conn, error) {
	return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", socket)
}

func newOperator(ctx context.Context, file string, stderr io.Writer) (*operator, error) {
	return newOperatorOf(ctx, file, stderr, (*service).openState)
}

// newOperatorOf is newOperator for a state that is opened in another way where no
// server runs.
func newOperatorOf(ctx context.Context, file string, stderr io.Writer, open func(*service, *config.Config) error) (*operator, error) {
	c, _, err := load(file)
	if err != nil {
		return nil, err
	}
	socket := c.Admin.Socket
	if socket == "" {
		socket = defaultSocket
	}
	if err := secret.CheckSocket(socket); err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	stop := func() {}
	conn, err := dialSocket(ctx, socket)
	switch {
	case err == nil:
		_ = conn.Close()
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		if socket, stop, err = serveState(ctx, c, socket, stderr, open); err != nil {
			return nil, err
		}
	default:
		return nil, &hinted{err, "the admin socket is for the user that the server runs as, and for root"}
	}
	o := &operator{stop: stop}
	o.client = http.Client{Timeout: operateWait, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dialSocket(ctx, socket) },
	}}
	return o, nil
}

// serveState opens the state in this process, and serves the admin interface on
// it at a socket that this user alone can reach.
func serveState(ctx context.Context, c *config.Config, absent string, stderr io.Writer, open func(*service, *config.Config) error) (socket string, stop func(), err error) {
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
	s := &service{log: newLog(c.Log, said.Process())}
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

// close ends what newOperator began.
func (o *operator) close() {
	o.client.CloseIdleConnections()
	o.stop()
}

// call makes a request and gives the body of its answer, which the caller closes.
func (o *operator) call(ctx context.Context, method string, path []string, query string, body io.Reader) (io.ReadCloser, error) {
	u := (&url.URL{Scheme: "http", Host: "admin"}).JoinPath(escaped(path)...)
	u.RawQuery = query
	r, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	resp, err := o.client.Do(r)
	if err != nil {
		if e := new(url.Error); errors.As(err, &e) {
			err = e.Err // the URL is of no interest
		}
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	var refused struct {
		Error string `json:"error"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&refused); err != nil || refused.Error == "" {
		return nil, fmt.Errorf("admin socket: the server answers %s: is it of another version?", resp.Status)
	}
	return nil, errors.New(refused.Error)
}

func escaped(path []string) []string {
	all := make([]string, len(path))
	for i, p := range path {
		all[i] = url.PathEscape(p)
	}
	return all
}

// operate runs a command that makes one request: its answer is printed as it
// is, or by show after it was decoded into v.
func operate(ctx context.Context, file string, stdout, stderr io.Writer, q request, v any, show func(io.Writer)) error {
	open := q.open
	if open == nil {
		open = (*service).openState
	}
	o, err := newOperatorOf(ctx, file, stderr, open)
	if err != nil {
		return err
	}
	defer o.close()
	var body io.Reader
	if q.body != nil {
		body = bytes.NewReader(q.body)
	}
	answer, err := o.call(ctx, q.method, q.path, q.query, body)
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
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	var text bytes.Buffer
	show(&text)
	_, err = stdout.Write(text.Bytes())
	return err
}

// request is one to the admin interface.
type request struct {
	method string
	path   []string
	query  string
	body   []byte
	// open opens the state where no server runs. Optional: as a server does.
	open func(*service, *config.Config) error
	json bool // print the answer as it is
}
