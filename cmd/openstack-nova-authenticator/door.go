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

// retryWait is the time between attempts to start the service, or to log in.
const retryWait = 5 * time.Second

// missing is an error of something that tokens need and Nova's metadata does not.
type missing struct{ error }

func (m missing) Unwrap() error { return m.error }

// door is the listener for metadata agents. It serves Nova's metadata also while the server
// cannot issue tokens, because instances cannot boot without metadata.
type door struct {
	*server.Agents
	ended chan struct{} // closed after the last request
}

// serveDoor opens the door and runs rest beside it until stop ends. With
// metadataService.nova it repeats rest while its error is [missing].
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
	stop, end := context.WithCancel(stop)
	defer end()
	var failure error
	go func() {
		defer close(d.ended)
		failure = listen.Serve(ctx, log, endpoint)
		end()
	}()
	for err = rest(stop, d); c.MetadataService.Nova != "" && errors.As(err, new(missing)); err = rest(stop, d) {
		agents.Attach(nil)
		log.Error("cannot issue tokens; the server passes Nova's metadata on, and tries again", "error", err)
		if !wait(stop, retryWait) {
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

// wait waits for d. It returns false if ctx ends earlier.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
