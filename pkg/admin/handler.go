package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/audit"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const (
	wait    = 30 * time.Second // a scan of a full store takes seconds
	maxBody = 64 << 10
)

// Options is what the handler works on. All fields but Save and InitState are required.
type Options struct {
	Status   Status
	Register *attest.Register
	Keys     *keyring.Ring
	// Save writes a copy of the state file. Nil if the state is not in a file.
	Save func(context.Context, io.Writer) error
	// InitState accepts a store that is new, or that lost its content. Optional.
	InitState func(context.Context) error
	Audit     *audit.Log
	Log       *slog.Logger
}

type handler struct {
	Options
	*http.ServeMux
}

// NewHandler returns the handler of all routes.
func NewHandler(o Options) http.Handler {
	h := handler{o, http.NewServeMux()}
	serve(h, getStatus, func(*call) (Status, error) { return o.Status, nil })
	serve(h, ListInstances, h.listInstances)
	serve(h, ShowInstance, func(c *call) (attest.Kept, error) { return o.Register.Show(c.Context(), c.instance) })
	serve(h, ResetInstance, func(c *call) (Reset, error) {
		n, err := o.Register.Reset(c.Context(), c.instance)
		c.note(slog.Int("windows", n))
		return Reset{n}, err
	})
	serve(h, DenyInstance, h.denyInstance)
	serve(h, AllowInstance, func(c *call) (struct{}, error) { return struct{}{}, o.Register.Allow(c.Context(), c.instance) })
	serve(h, ListKeys, func(c *call) (Keys, error) {
		keys, err := o.Keys.List(c.Context())
		return Keys{keys}, err
	})
	serve(h, InitKeys, h.initKeys)
	serve(h, RotateKeys, func(c *call) (keyring.KeyInfo, error) {
		key, err := o.Keys.Rotate(c.Context())
		c.note(slog.String("kid", key.KeyID))
		return key, err
	})
	serve(h, ImportKey, func(c *call) (keyring.KeyInfo, error) {
		pem, err := io.ReadAll(c.Body)
		if err != nil {
			return keyring.KeyInfo{}, err
		}
		key, err := o.Keys.Import(c.Context(), pem)
		c.note(slog.String("kid", key.KeyID))
		return key, err
	})
	serve(h, RevokeKey, func(c *call) (struct{}, error) {
		kid := c.PathValue("kid")
		c.note(slog.String("kid", secret.Printable(kid)))
		return struct{}{}, o.Keys.Revoke(c.Context(), kid)
	})
	h.HandleFunc(string(SaveState), h.saveState)
	h.HandleFunc("GET /debug/pprof/", pprof.Index)
	h.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	h.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	h.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	h.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return h.ServeMux
}

// call is one request.
type call struct {
	*http.Request
	instance attest.InstanceID // from the path, if it has one
	notes    []slog.Attr       // for the audit line
}

func (c *call) note(a slog.Attr) { c.notes = append(c.notes, a) }

// serve lets do answer the requests of a route.
func serve[Answer any](h handler, to Route[Answer], do func(*call) (Answer, error)) {
	h.HandleFunc(string(to), func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), wait)
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		c := &call{Request: r.WithContext(ctx)}
		var v Answer
		var err error
		if strings.Contains(string(to), "{id}") {
			if c.instance, err = attest.ParseInstanceID(r.PathValue("id")); err != nil {
				err = mistake{fmt.Errorf("%q is not an instance ID: %w", secret.Printable(r.PathValue("id")), err)}
			}
		}
		if err == nil {
			v, err = do(c)
		}
		if to.changes() {
			h.record(to.action(), c, err)
		}
		answer(w, v, err)
	})
}

// record writes the audit line of an action that ended with err.
func (h handler) record(action string, c *call, err error) {
	attrs := []slog.Attr{slog.String("action", action)}
	if uid, ok := listen.PeerUser(c.Context()); ok {
		attrs = append(attrs, slog.Uint64("uid", uint64(uid)))
	}
	if !c.instance.IsZero() {
		attrs = append(attrs, slog.String("instance_id", c.instance.String()))
	}
	attrs = append(attrs, c.notes...)
	outcome := "done"
	if err != nil {
		outcome = "failed"
		attrs = append(attrs, slog.String("detail", err.Error()))
	}
	attrs = append(attrs, slog.String("outcome", outcome), slog.String("config", h.Status.Config))
	lost := func(err error) { h.Log.Error("audit line lost", "error", err, "action", action) }
	if err := h.Audit.Record(audit.Event{Time: time.Now(), Name: "admin", Attrs: attrs, Proven: true}, lost); err != nil {
		lost(err)
	}
}

// mistake is an error that the operator made, such as a malformed ID.
type mistake struct{ error }

// failure is the answer to a request that failed.
type failure struct {
	Error string `json:"error"`
}

func answer(w http.ResponseWriter, v any, err error) {
	status := http.StatusOK
	if err != nil {
		status, v = http.StatusServiceUnavailable, failure{secret.Text(err.Error())}
		if errors.As(err, new(mistake)) {
			status = http.StatusBadRequest
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // fails only if the client left
}

func (h handler) listInstances(c *call) (Instances, error) {
	kept, more, err := h.Register.List(c.Context())
	return Instances{append([]attest.Kept{}, kept...), more}, err // [] rather than null
}

func (h handler) denyInstance(c *call) (attest.Denial, error) {
	var body Deny
	d := json.NewDecoder(c.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil {
		return attest.Denial{}, mistake{fmt.Errorf("the body: %w", err)}
	}
	var life time.Duration
	if body.For != "" {
		var err error
		if life, err = time.ParseDuration(body.For); err != nil {
			return attest.Denial{}, mistake{err}
		}
		if life == 0 { // 0 means no end to Register.Deny
			return attest.Denial{}, mistake{errors.New("an instance is denied for at least a second, not 0s; without a time, until an operator allows it")}
		}
	}
	c.note(slog.String("for", body.For))
	c.note(slog.String("reason", body.Reason))
	return h.Register.Deny(c.Context(), c.instance, life, body.Reason)
}

func (h handler) initKeys(c *call) (Initialized, error) {
	accept := c.URL.Query().Get("accept") == "true"
	c.note(slog.Bool("accept", accept))
	if h.InitState != nil {
		if err := h.InitState(c.Context()); err != nil {
			return Initialized{}, err
		}
	}
	do := h.Keys.Init
	if accept {
		do = h.Keys.Accept
	}
	accepted, err := do(c.Context())
	for _, v := range accepted {
		c.note(slog.Group(strings.ReplaceAll(v.Value, " ", "_"), "generation", v.Generation, "confirmed", v.Confirmed, "seen", v.Seen, "missing", v.Missing, "returned", v.Returned))
	}
	return Initialized{append([]keyring.Accepted{}, accepted...)}, err // [] rather than null
}

func (h handler) saveState(w http.ResponseWriter, r *http.Request) {
	if h.Save == nil {
		answer(w, nil, mistake{errors.New("the state is not in a file of this server: use the backup of Redis; a state in memory has none")})
		return
	}
	sent := &counter{w: w}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := h.Save(r.Context(), sent); err != nil {
		h.Log.Error("state save", "error", err)
		if sent.n == 0 {
			answer(w, nil, err)
			return
		}
		panic(http.ErrAbortHandler) // the client must not take a part for the whole
	}
}

// counter counts the bytes that were written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
