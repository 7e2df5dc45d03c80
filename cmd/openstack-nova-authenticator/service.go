package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/admin"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/config"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/server"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/token"
)

// service has the parts of a server.
type service struct {
	log       *slog.Logger
	cloud     *openstack.Client
	audit     *audit.Log
	store     state.Store
	keys      *keyring.Ring
	advance   func(context.Context) error // makes copies of the state file outdated; nil without a state file
	health    *server.Health
	endpoints []listen.Endpoint
	public    *server.Server
	door      *door // nil if closed
}

// newService makes all parts and opens the listeners. It does not serve.
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
	if err := s.openState(c, false); err != nil {
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

	s.public = server.New(server.Options{
		Attestor:   &attest.Attestor{Policy: c.RoleSet, Instances: s.cloud, State: s.store, Denials: s.keys.Denials()},
		Issuer:     issuer,
		Proxy:      c.LoadBalancers,
		Throttle:   c.Limits,
		Audit:      s.audit,
		Metrics:    metrics,
		Log:        s.log,
		ConfigHash: c.Hash,
		Vendordata: c.NovaDoor,
		Callers:    s.cloud,
	})

	if s.endpoints, err = s.public.Listen(c.Address, c.Certificate); err != nil {
		return nil, err
	}
	if c.Metrics.Listen != "" {
		e, err := server.ListenOperator(c.MetricsAddress, metrics, s.health)
		if err != nil {
			return nil, fmt.Errorf("metrics.listen: %w", err)
		}
		s.endpoints = append(s.endpoints, e)
	}
	if c.Admin.Socket != "" {
		l, err := listen.Socket(c.AdminSocket)
		if err != nil {
			return nil, fmt.Errorf("admin.socket: %w", err)
		}
		s.endpoints = append(s.endpoints, listen.Endpoint{Name: "admin", Listener: l, Handler: s.adminHandler(c)})
	}
	return s, nil
}

// openState opens the store, and the key ring on it. A state file that is older than this
// server has seen is an error, unless accept is true.
func (s *service) openState(c *config.Plan, accept bool) (err error) {
	if s.store, err = c.StatePlan.Open(); err != nil {
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
	s.keys, err = keyring.New(c.KeyPlan, s.store, keyring.Options{
		Issuer: c.Auth.TokenIssuer, SigningKeys: c.SigningKeys,
		Log: s.log, Initialize: !s.shared(), Seen: seen,
		Entries: func(ctx context.Context) (map[string][]byte, error) { return attest.FormerDenials(ctx, s.store) },
	})
	return err
}

// checkState writes, because a full disk or a read-only replica fails only then.
func (s *service) checkState(ctx context.Context) error {
	_, err := s.store.Increment(ctx, "check", time.Now().Add(time.Minute))
	return err
}

// Methods of some stores beside those of [state.Store]. See also [keyring.Epochs].
type (
	// saver is a file. Save writes a copy.
	saver interface{ Save(w io.Writer) error }
	// initializer is shared by servers. Init marks a new one as accepted by an operator.
	initializer interface {
		Init(ctx context.Context) error
	}
)

// shared reports whether several servers use the store.
func (s *service) shared() bool {
	_, ok := s.store.(initializer)
	return ok
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

func (s *service) closeListeners() {
	for _, e := range s.endpoints {
		_ = e.Listener.Close()
	}
}

// close closes what newService opened.
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
