package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
)

// tryAgain is how long to wait before what could not start is started again.
const tryAgain = 5 * time.Second

// missing is an error of what a token needs and Nova's metadata does not.
type missing struct{ error }

func (m missing) Unwrap() error { return m.error }

// door is the metadata service's, which is open whether or not there is a token to
// be had: no instance boots without its metadata.
type door struct {
	*server.Agents
	ended chan struct{} // closed when nothing is in flight any more
}

// serveDoor opens the door and runs rest beside it until stop ends. What a token
// needs may be missing: as long as there is a Nova to pass on to, rest is tried
// again.
func serveDoor(stop context.Context, c *config.Plan, log *slog.Logger, rest func(context.Context, *door) error) error {
	agents := server.NewAgents(c.AgentsDoor, log)
	endpoint, err := agents.Listen()
	if err != nil {
		return fmt.Errorf("metadataService.listen: %w", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(stop))
	defer cancel()
	defer context.AfterFunc(stop, func() { time.AfterFunc(linger(c), cancel) })()
	d := &door{agents, make(chan struct{})}
	stop, give := context.WithCancel(stop)
	defer give()
	var failure error
	go func() {
		defer close(d.ended)
		failure = listen.Serve(ctx, log, endpoint)
		give()
	}()
	for err = rest(stop, d); c.MetadataService.Nova != "" && errors.As(err, new(missing)); err = rest(stop, d) {
		agents.Attach(nil)
		log.Error("no token is issued; Nova's metadata is passed on", "error", err)
		if !wait(stop, tryAgain) {
			err = nil
			break
		}
	}
	if stop.Err() == nil {
		cancel()
	}
	<-d.ended
	return errors.Join(err, failure)
}

// wait reports whether ctx let it wait so long.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
