package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
)

func serve(ctx context.Context, file string, stdout, stderr io.Writer) error {
	// SIGPIPE would end the process when the reader of a log has gone.
	signal.Ignore(syscall.SIGPIPE)
	c, file, err := load(file)
	if err != nil {
		return err
	}
	out := newOutputs(c.Log.Format, stdout, stderr)
	defer out.close()
	log := newLog(c, out.stderr)
	defer ignoreHangups(log)()
	ver, rev := buildVersion()
	log.Info("starting", "version", ver, "commit", rev, "file", file, "config", c.Hash)
	for _, w := range c.Warnings() {
		log.Warn("configuration", "file", file, "warning", w.String())
	}
	rest := func(ctx context.Context, d *door) error {
		s, err := newService(c, out)
		if err != nil {
			return err
		}
		defer s.close()
		s.door = d
		for _, text := range cloudWarnings(s.cloud) {
			s.log.Warn("configuration", "file", file, "warning", "openstack: "+text)
		}
		return s.run(ctx, linger(c))
	}
	if c.MetadataService.Listen != "" {
		err = serveDoor(ctx, c, log, rest)
	} else {
		err = rest(ctx, nil)
	}
	if err == nil {
		log.Info("stopped")
	}
	return err
}

// linger returns how long the server accepts requests after SIGTERM. A load balancer takes
// some three seconds to see that the server is not ready: two checks, one a second, in
// example/ha. Requests that it sends until then must not be lost.
func linger(c *config.Plan) time.Duration {
	if len(c.Proxy.Trusted)+len(c.MetadataService.Proxies) > 0 {
		return 3 * time.Second
	}
	return 0
}

// run serves until stop ends, and then for linger.
func (s *service) run(stop context.Context, linger time.Duration) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(stop))
	defer cancel()
	unready := context.AfterFunc(stop, func() {
		s.health.Stop()
		time.AfterFunc(linger, cancel)
	})
	defer unready()
	if err := s.loadKeys(ctx); err != nil {
		s.closeListeners()
		return missing{err}
	}
	if s.door != nil {
		s.door.Attach(s.public)
	}
	var background sync.WaitGroup
	background.Go(func() { _ = s.keys.Run(ctx) })
	// Not before Serve: the key set and Nova's metadata must not wait for Keystone.
	background.Go(func() { s.connect(ctx) })
	err := listen.Serve(ctx, s.log, s.endpoints...)
	if s.door != nil && stop.Err() != nil {
		<-s.door.ended // its requests need the state
	}
	cancel()
	background.Wait()
	return err
}

// loadKeys reads the key set. A failure of a shared store does not end the server: the key
// ring tries again.
func (s *service) loadKeys(ctx context.Context) error {
	err := s.keys.Load(ctx)
	if err == nil || !s.shared() {
		return err
	}
	s.log.Error("cannot read the key set; the server issues no tokens until it can, and tries again", "error", err)
	return nil
}

// connect logs in to the cloud, and repeats that until the account has all rights that the
// configuration needs. The client limits how often it sends requests. A request of an
// instance makes it try, too.
func (s *service) connect(ctx context.Context) {
	logged, narrow := "", false
	for {
		info, err := s.cloud.Connect(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && err.Error() != logged {
			logged = err.Error()
			if errors.As(err, new(*openstack.SetupError)) {
				s.log.Error("the cloud rejects the account or cannot be used; the server issues no tokens until that is corrected, and tries again", "error", err)
			} else {
				s.log.Warn("the cloud cannot be reached; the server issues no tokens until it can, and tries again", "error", err)
			}
		}
		if info.Narrow && !narrow {
			narrow = true
			s.log.Warn("the account sees only the instances of one project; other instances get no token", "scope", info.Scope)
		}
		// The client logs the rights that are missing.
		if err == nil && len(info.Lacks) == 0 || !wait(ctx, retryWait) {
			return
		}
	}
}

// ignoreHangups logs SIGHUP until end is called. By default SIGHUP would end the process, and
// systemd would not restart it.
func ignoreHangups(log *slog.Logger) (end func()) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	go func() {
		for range hangup {
			log.Warn("SIGHUP has no effect: restart the server to read a changed configuration")
		}
	}()
	return func() {
		signal.Stop(hangup)
		close(hangup)
	}
}
