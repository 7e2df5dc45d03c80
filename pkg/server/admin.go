package server

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
	adminWait    = 30 * time.Second // a scan of a full store takes seconds
	maxAdminBody = 64 << 10
)

// Status is what GET /status on the admin socket says.
type Status struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Config  string `json:"config"` // the hash of the file
	Started string `json:"started"`
}

// AdminOptions are what the admin interface works on. Save and InitState are
// optional, all else is required.
type AdminOptions struct {
	Status   Status
	Register *attest.Register
	Keys     *keyring.Ring
	// Save writes a copy of the state. Optional: without it the state is none
	// of one file.
	Save func(context.Context, io.Writer) error
	// InitState accepts a store that is new, or that lost what it held.
	InitState func(context.Context) error
	Audit     *audit.Log
	Log       *slog.Logger
}

// admin answers the operator of this machine.
type admin struct {
	AdminOptions
	mux *http.ServeMux
}

// AdminHandler serves the operator of this machine:
//
//	GET  /status
//	GET  /instances               what is kept of instances
//	GET  /instances/ID            of one
//	POST /instances/ID/reset      give its attempts back
//	POST /instances/ID/deny       refuse it; body {"for": "1h", "reason": "..."}
//	POST /instances/ID/allow      end that
//	GET  /keys                    the key set, without what is private
//	POST /keys/init               accept a new store, or write back what this server holds;
//	                              ?accept=true: take what is there, though it may be old
//	POST /keys/rotate             let the next key sign
//	POST /keys/import             body: a private key, PEM
//	POST /keys/KID/revoke         take a key out of the key set at once
//	GET  /state                   a copy of the state file
//	GET  /debug/pprof/
//
// What changes something has an audit line with the caller's user ID. It must be
// reachable for those alone who may do all of this; see [listen.Socket].
func AdminHandler(o AdminOptions) http.Handler {
	a := &admin{AdminOptions: o, mux: http.NewServeMux()}
	mux := a.mux
	a.read("GET /status", func(*http.Request) (any, error) { return o.Status, nil })
	a.read("GET /instances", a.list)
	a.read("GET /instances/{id}", func(r *http.Request) (any, error) {
		id, err := pathInstance(r)
		if err != nil {
			return nil, err
		}
		return o.Register.Show(r.Context(), id)
	})
	a.change("POST /instances/{id}/reset", "instances reset", func(r *http.Request, note func(slog.Attr)) (any, error) {
		id, err := pathInstance(r)
		if err != nil {
			return nil, err
		}
		n, err := o.Register.Reset(r.Context(), id)
		note(slog.Int("windows", n))
		return map[string]int{"windows": n}, err
	})
	a.change("POST /instances/{id}/deny", "instances deny", a.deny)
	a.change("POST /instances/{id}/allow", "instances allow", func(r *http.Request, _ func(slog.Attr)) (any, error) {
		id, err := pathInstance(r)
		if err != nil {
			return nil, err
		}
		return struct{}{}, o.Register.Allow(r.Context(), id)
	})
	a.read("GET /keys", func(r *http.Request) (any, error) {
		keys, err := o.Keys.List(r.Context())
		return map[string][]keyring.KeyInfo{"keys": keys}, err
	})
	a.change("POST /keys/init", "keys init", a.initKeys)
	a.change("POST /keys/rotate", "keys rotate", func(r *http.Request, note func(slog.Attr)) (any, error) {
		key, err := o.Keys.Rotate(r.Context())
		note(slog.String("kid", key.KeyID))
		return key, err
	})
	a.change("POST /keys/import", "keys import", func(r *http.Request, note func(slog.Attr)) (any, error) {
		pem, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		key, err := o.Keys.Import(r.Context(), pem)
		note(slog.String("kid", key.KeyID))
		return key, err
	})
	a.change("POST /keys/{kid}/revoke", "keys revoke", func(r *http.Request, note func(slog.Attr)) (any, error) {
		note(slog.String("kid", clean(r.PathValue("kid"))))
		return struct{}{}, o.Keys.Revoke(r.Context(), r.PathValue("kid"))
	})
	mux.HandleFunc("GET /state", a.save)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// read serves what changes nothing.
func (a *admin) read(pattern string, get func(*http.Request) (any, error)) {
	a.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), adminWait)
		defer cancel()
		v, err := get(r.WithContext(ctx))
		answerAdmin(w, v, err)
	})
}

// change serves what changes something, and writes it down.
func (a *admin) change(pattern, action string, do func(r *http.Request, note func(slog.Attr)) (any, error)) {
	a.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), adminWait)
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, maxAdminBody)
		attrs := []slog.Attr{slog.String("action", action)}
		if uid, ok := listen.PeerUser(ctx); ok {
			attrs = append(attrs, slog.Uint64("uid", uint64(uid)))
		}
		if id, err := pathInstance(r); err == nil {
			attrs = append(attrs, slog.String("instance_id", id.String()))
		}
		v, err := do(r.WithContext(ctx), func(attr slog.Attr) { attrs = append(attrs, attr) })
		outcome := "done"
		if err != nil {
			outcome = "failed"
			attrs = append(attrs, slog.String("detail", err.Error()))
		}
		attrs = append(attrs, slog.String("outcome", outcome), slog.String("config", a.Status.Config))
		lost := func(err error) { a.Log.Error("audit line lost", "error", err, "action", action) }
		if err := a.Audit.Record(audit.Event{Time: time.Now(), Name: eventAdmin, Attrs: attrs, Proven: true}, lost); err != nil {
			lost(err)
		}
		answerAdmin(w, v, err)
	})
}

// badAdmin is a mistake of the operator's.
type badAdmin struct{ error }

func answerAdmin(w http.ResponseWriter, v any, err error) {
	if err == nil {
		writeJSON(w, http.StatusOK, v)
		return
	}
	status := http.StatusServiceUnavailable
	if errors.As(err, new(badAdmin)) {
		status = http.StatusBadRequest
	}
	writeJSON(w, status, map[string]string{"error": secret.Text(err.Error())})
}

func pathInstance(r *http.Request) (attest.InstanceID, error) {
	id, err := attest.ParseInstanceID(r.PathValue("id"))
	if err != nil {
		return id, badAdmin{fmt.Errorf("%q is no instance ID: %w", clean(r.PathValue("id")), err)}
	}
	return id, nil
}

// instances is the answer to GET /instances.
type instances struct {
	Instances []attest.Kept `json:"instances"`
	More      bool          `json:"more"` // there are more than are listed
}

func (a *admin) list(r *http.Request) (any, error) {
	kept, more, err := a.Register.List(r.Context())
	if kept == nil {
		kept = []attest.Kept{}
	}
	return instances{kept, more}, err
}

// initialized is the answer to POST /keys/init.
type initialized struct {
	Accepted []keyring.Accepted `json:"accepted"`
}

func (a *admin) initKeys(r *http.Request, note func(slog.Attr)) (any, error) {
	accept := r.URL.Query().Get("accept") == "true"
	note(slog.Bool("accept", accept))
	if a.InitState != nil {
		if err := a.InitState(r.Context()); err != nil {
			return nil, err
		}
	}
	do := a.Keys.Init
	if accept {
		do = a.Keys.Accept
	}
	accepted, err := do(r.Context())
	done := initialized{append([]keyring.Accepted{}, accepted...)}
	for _, v := range done.Accepted {
		note(slog.Group(strings.ReplaceAll(v.Value, " ", "_"), "generation", v.Generation, "confirmed", v.Confirmed, "seen", v.Seen, "missing", v.Missing, "returned", v.Returned))
	}
	return done, err
}

func (a *admin) deny(r *http.Request, note func(slog.Attr)) (any, error) {
	id, err := pathInstance(r)
	if err != nil {
		return nil, err
	}
	var body struct {
		For    string `json:"for"`
		Reason string `json:"reason"`
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil {
		return nil, badAdmin{fmt.Errorf("the body: %w", err)}
	}
	var life time.Duration
	if body.For != "" {
		if life, err = time.ParseDuration(body.For); err != nil {
			return nil, badAdmin{err}
		}
		if life == 0 { // for Deny that would be for ever
			return nil, badAdmin{errors.New("an instance is denied for at least a second, not 0s; without a time it is until it is allowed again")}
		}
	}
	note(slog.String("for", body.For))
	note(slog.String("reason", body.Reason))
	return a.Register.Deny(r.Context(), id, life, body.Reason)
}

func (a *admin) save(w http.ResponseWriter, r *http.Request) {
	if a.Save == nil {
		answerAdmin(w, nil, badAdmin{errors.New("the state is not in a file of this server; Redis has its own means, and memory has no copy")})
		return
	}
	// A failure after the first byte must not look like the end of the copy.
	sent := &counter{w: w}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := a.Save(r.Context(), sent); err != nil {
		a.Log.Error("state save", "error", err)
		if sent.n == 0 {
			answerAdmin(w, nil, err)
			return
		}
		panic(http.ErrAbortHandler)
	}
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
