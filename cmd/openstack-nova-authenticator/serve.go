package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/admin"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

var defaultFiles = []string{"config.yml", "/etc/" + program + "/config.yml"}

// load reads the named file, or the first default one that exists. As root it
// refuses a file that another user could have put there.
func load(file string) (*config.Plan, string, error) {
	if file == "" {
		for _, f := range defaultFiles {
			if _, err := os.Stat(f); !errors.Is(err, fs.ErrNotExist) {
				file = f
				break
			}
		}
	}
	if file == "" {
		return nil, "", &hinted{
			fmt.Errorf("there is no configuration file: neither %s nor %s", defaultFiles[0], defaultFiles[1]),
			"name one with -c, start from example/config.yml, or see it work without one: " + program + " demo",
		}
	}
	c, err := config.LoadOwned(file)
	var problems *config.Problems
	if errors.As(err, &problems) {
		return nil, file, &hinted{err, "example/config.yml has every key with its meaning"}
	}
	return c, file, err
}

func newLog(c *config.Plan, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: c.LogLevel, ReplaceAttr: secret.Attr}
	if c.Log.Format == "text" {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

// service is everything that serves, wired together.
type service struct {
	log       *slog.Logger
	cloud     *openstack.Client
	audit     *audit.Log
	store     state.Store
	keys      *keyring.Ring
	advance   func(context.Context) error // makes copies of the state file older than it; nil for another state
	health    *server.Health
	endpoints []listen.Endpoint
	linger    time.Duration // between SIGTERM and the end of service
	public    *server.Server
	door      *door // nil if it is closed
}

// outputs are the process's, at which nothing waits for a reader.
type outputs struct{ stdout, stderr *audit.Stream }

func newOutputs(c config.Log, stdout, stderr io.Writer) outputs {
	o := outputs{stderr: audit.NewStream(stderr, c.Format)}
	if o.stdout = o.stderr; !sameFile(stdout, stderr) {
		o.stdout = audit.NewStream(stdout, "json")
	}
	return o
}

// sameFile reports whether two outputs are one, as they are in a container: their lines
// must not get into one another.
func sameFile(a, b io.Writer) bool {
	one, ok := a.(*os.File)
	other, also := b.(*os.File)
	if !ok || !also {
		return a == b
	}
	left, err := one.Stat()
	if err != nil {
		return false
	}
	right, err := other.Stat()
	return err == nil && os.SameFile(left, right)
}

// close writes what is queued, as far as the outputs take it.
func (o outputs) close() {
	_ = o.stdout.Close()
	if o.stderr != o.stdout {
		_ = o.stderr.Close()
	}
}

// newService builds all parts and opens all listeners; nothing is served yet.
func newService(c *config.Plan, out outputs) (_ *service, err error) {
	s := &service{log: newLog(c, out.stderr)}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	ver, rev := buildVersion()
	metrics := server.NewMetrics(ver, rev, func() int { return s.cloud.InFlight() })
	metrics.WatchLog(out.stderr.Lost)
	metrics.WatchRights(func() int { return len(s.cloud.Refused()) })
	if s.cloud, err = openstack.New(c.Cloud, openstack.Options{Log: s.log, Observe: metrics.ObserveUpstream, UserAgent: userAgent(), ProjectNames: c.Tokens.NeedsProjects(), Callers: c.Vendordata.Users}); err != nil {
		return nil, missing{fmt.Errorf("openstack: %w", err)}
	}
	if s.audit, err = audit.Open(c.Audit, out.stdout, out.stderr); err != nil {
		return nil, missing{err}
	}
	if err := s.openState(c); err != nil {
		return nil, missing{err}
	}
	issuer, err := token.NewIssuer(c.Tokens, s.keys, s.cloud)
	if err != nil {
		return nil, err
	}
	s.health = &server.Health{
		Published: func() bool { return len(issuer.JWKS().Body) > 0 },
		Dependencies: map[string]func(context.Context) error{
			"cloud": s.cloud.Check, "rights": func(context.Context) error { return errors.Join(s.cloud.Refused()...) }, "state": s.checkState, "keys": func(context.Context) error { return s.keys.Err() },
			"denials": func(context.Context) error { return s.keys.Denials().Err() },
		},
	}
	if c.Audit.Required {
		s.health.Dependencies["audit"] = func(context.Context) error { return s.audit.Err() }
	}
	s.linger = linger(c)
	s.public = server.New(server.Options{
		Attestor:   &attest.Attestor{Policy: c.RoleSet, Instances: s.cloud, State: s.store, Denials: s.keys.Denials()},
		Issuer:     issuer,
		Proxy:      c.LoadBalancers,
		Throttle:   c.Throttle,
		Audit:      s.audit,
		Metrics:    metrics,
		Log:        s.log,
		ConfigHash: c.Hash,
		Vendordata: c.NovaDoor,
		Callers:    s.cloud,
	})

	if s.endpoints, err = s.public.Listen(c.Listen, c.Certificate); err != nil {
		return nil, err
	}
	if c.Metrics.Listen != "" {
		e, err := server.ListenOperator(c.Metrics.Listen, metrics, s.health)
		if err != nil {
			return nil, fmt.Errorf("metrics.listen: %w", err)
		}
		s.endpoints = append(s.endpoints, e)
	}
	if c.Admin.Socket != "" {
		l, err := listen.Socket(c.Admin.Socket)
		if err != nil {
			return nil, fmt.Errorf("admin.socket: %w", err)
		}
		s.endpoints = append(s.endpoints, listen.Endpoint{Name: "admin", Listener: l, Handler: s.adminHandler(c)})
	}
	return s, nil
}

// openState opens the store, and what works on it.
func (s *service) openState(c *config.Plan) error { return s.openStateAs(c, false) }

// openStateAs is openState; accept says that a state file which is older than this
// server has seen is meant.
func (s *service) openStateAs(c *config.Plan, accept bool) (err error) {
	if s.store, err = state.Open(c.State); err != nil {
		return err
	}
	var seen *keyring.Seen
	if file := c.SeenFile(); file != "" {
		if seen, err = keyring.OpenSeen(file, c.Auth.TokenIssuer); err != nil {
			return err
		}
	}
	if file, ok := s.store.(keyring.Epochs); ok {
		if err := seen.Admit(context.Background(), file, accept); err != nil {
			return fmt.Errorf("state file %s: %w", c.State.File.Path, err)
		}
		s.advance = func(ctx context.Context) error { return seen.Advance(ctx, file) }
	}
	_, shared := s.store.(initializer)
	s.keys, err = keyring.New(c.KeyPlan, s.store, keyring.Options{
		Issuer: c.Auth.TokenIssuer, SigningKeys: c.SigningKeys,
		Log: s.log, Initialize: !shared, Seen: seen,
		Entries: func(ctx context.Context) (map[string][]byte, error) { return attest.FormerDenials(ctx, s.store) },
	})
	return err
}

// checkState writes: a full disk and a replica can be read.
func (s *service) checkState(ctx context.Context) error {
	_, err := s.store.Increment(ctx, "check", time.Now().Add(time.Minute))
	return err
}

// saver is a store of which a copy can be made.
type saver interface {
	Save(w io.Writer) error
}

// initializer is a store that several servers share. An operator must accept a new one.
type initializer interface {
	Init(ctx context.Context) error
}

var (
	_ saver          = (*state.File)(nil)
	_ keyring.Epochs = (*state.File)(nil)
	_ initializer    = (*state.Redis)(nil)
)

func (s *service) adminHandler(c *config.Plan) http.Handler {
	ver, rev := buildVersion()
	o := admin.Options{
		Status:   admin.Status{Version: ver, Commit: rev, Config: c.Hash, Started: time.Now().UTC().Format(time.RFC3339)},
		Register: &attest.Register{Store: s.store, Denials: s.keys.Denials()},
		Keys:     s.keys,
		Audit:    s.audit,
		Log:      s.log,
	}
	if file, ok := s.store.(saver); ok {
		o.Save = func(ctx context.Context, w io.Writer) error {
			if err := file.Save(w); err != nil {
				return err
			}
			return s.advance(ctx)
		}
	}
	if shared, ok := s.store.(initializer); ok {
		o.InitState = shared.Init
	}
	return admin.NewHandler(o)
}

// noticed is how long a load balancer may take to see that we are not ready: two
// checks, one a second, in example/ha.
const noticed = 3 * time.Second

// linger is how long requests are still taken after SIGTERM.
func linger(c *config.Plan) time.Duration {
	if len(c.Proxy.Trusted)+len(c.MetadataService.Proxies) > 0 {
		return noticed
	}
	return 0
}

// run serves until stop ends, and behind load balancers a little longer: what they
// still send meanwhile would be lost.
func (s *service) run(stop context.Context) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(stop))
	defer cancel()
	unready := context.AfterFunc(stop, func() {
		s.health.Stop()
		time.AfterFunc(s.linger, cancel)
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
	// Nova's metadata, and the key set, do not wait for Keystone, and nothing that it or
	// Nova says ends them.
	background.Go(func() { s.connect(ctx) })
	err := listen.Serve(ctx, s.log, s.endpoints...)
	if s.door != nil && stop.Err() != nil {
		<-s.door.ended // what is in flight there needs the state, too
	}
	cancel()
	background.Wait()
	return err
}

// loadKeys reads the key set. A Redis that is away, new, or lost what it held is
// no reason not to start: it is asked again.
func (s *service) loadKeys(ctx context.Context) error {
	err := s.keys.Load(ctx)
	if _, shared := s.store.(initializer); err == nil || !shared {
		return err
	}
	s.log.Error("there are no signing keys yet; no token is issued until there are", "error", err)
	return nil
}

// connect logs in, and tries again until that works and the account has all rights that
// the configuration needs. How often the cloud is asked is the client's to say. Instances
// that ask meanwhile have it try, too.
func (s *service) connect(ctx context.Context) {
	said, narrow := "", false
	for {
		info, err := s.cloud.Connect(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			if errors.As(err, new(*openstack.SetupError)) {
				s.log.Error("the cloud refuses the account or cannot be used; no token is issued until that is mended, and it is tried again", "error", err)
			} else {
				s.log.Warn("the cloud cannot be reached; no token is issued until it can, and it is tried again", "error", err)
			}
		}
		if info.Narrow && !narrow {
			narrow = true
			s.log.Warn("the account sees the instances of one project alone", "scope", info.Scope)
		}
		// The client logs the rights that are missing.
		if err == nil && len(info.Lacks) == 0 || !wait(ctx, tryAgain) {
			return
		}
	}
}

func (s *service) closeListeners() {
	for _, e := range s.endpoints {
		_ = e.Listener.Close()
	}
}

// close gives up what newService opened.
func (s *service) close() {
	s.closeListeners()
	if s.cloud != nil {
		s.cloud.Close()
	}
	if s.audit != nil {
		if err := s.audit.Close(); err != nil {
			s.log.Error("audit log", "error", err)
		}
	}
	if s.store != nil {
		_ = s.store.Close()
	}
}

func serve(ctx context.Context, file string, stdout, stderr io.Writer) error {
	// A reader of the logs that has gone must not end the process: a write then fails.
	signal.Ignore(syscall.SIGPIPE)
	c, file, err := load(file)
	if err != nil {
		return err
	}
	out := newOutputs(c.Log, stdout, stderr)
	defer out.close()
	log := newLog(c, out.stderr)
	defer outliveHangups(log)()
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
		for _, said := range s.cloud.Warnings() {
			s.log.Warn("configuration", "file", file, "warning", "openstack: "+said)
		}
		if s.cloud.Unverified() {
			s.log.Warn("configuration", "file", file, "warning", "openstack: "+unverified)
		}
		return s.run(ctx)
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

// outliveHangups has a SIGHUP do nothing, until the end that it gives: the default
// would end the process, to systemd's satisfaction.
func outliveHangups(log *slog.Logger) (end func()) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	go func() {
		for range hangup {
			log.Warn("SIGHUP is not acted on: a changed configuration needs a restart")
		}
	}()
	return func() {
		signal.Stop(hangup)
		close(hangup)
	}
}
