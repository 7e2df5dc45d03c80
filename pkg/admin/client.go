package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// callWait is longer than the handler's wait, whose error is better.
const callWait = time.Minute

// NewClient makes a client that sends all requests to a socket, for any host in their URLs,
// each over a new connection.
func NewClient(socket string) *http.Client {
	dialer := net.Dialer{Timeout: time.Second}
	return &http.Client{Timeout: callWait, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		},
	}}
}

// Input is what a request has in addition to its route.
type Input struct {
	ID     string // for {id} or {kid} in the path
	Accept bool   // of [InitKeys]: accept what is in the state although it may be old; see [keyring.Ring.Accept]
	Body   []byte
}

// Call makes a request and returns the body of its answer, which the caller closes.
func (to Route[Answer]) Call(ctx context.Context, c *http.Client, in Input) (io.ReadCloser, error) {
	method, path, _ := strings.Cut(string(to), " ")
	id := url.PathEscape(in.ID)
	u := (&url.URL{Scheme: "http", Host: "admin"}).JoinPath(strings.NewReplacer("{id}", id, "{kid}", id).Replace(path))
	if in.Accept {
		u.RawQuery = "accept=true"
	}
	r, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(in.Body))
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(r)
	if err != nil {
		if e := new(url.Error); errors.As(err, &e) {
			err = e.Err // without the URL
		}
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	var f failure
	text, err := secret.ReadAll(resp.Body, 1<<20)
	if err != nil || json.Unmarshal(text, &f) != nil || f.Error == "" {
		return nil, fmt.Errorf("admin socket: the server answers %s: is it of another version?", resp.Status)
	}
	return nil, errors.New(f.Error)
}
