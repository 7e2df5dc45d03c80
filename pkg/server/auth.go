package server

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
)

// judgeAuth judges POST /auth. A document that is not valid is a denial, whatever else
// the request proves.
func (s *Server) judgeAuth(d *decision, w http.ResponseWriter, r *http.Request) (err error) {
	d.evidence = s.opts.Proxy.evidence(r)
	if d.request, err = parseAuth(w, r, &s.bodies); err != nil {
		return err
	}
	if d.request.document != "" {
		evidence, document, err := d.evidence.WithDocument(s.opts.Issuer, d.request.document)
		if err != nil {
			return err
		}
		d.document = document.ID
		if d.request.instance.IsZero() {
			d.request.instance = document.Instance
		}
		if d.request.instance != document.Instance {
			return &attest.Denied{Reason: attest.DocumentVoid, Detail: fmt.Sprintf("the document is of instance %s", document.Instance)}
		}
		d.evidence = evidence
	}
	return s.grant(r.Context(), d)
}

// grant judges a parsed request and signs the token.
func (s *Server) grant(ctx context.Context, d *decision) error {
	if err := s.limit(d); err != nil {
		return err
	}
	judgment, err := s.opts.Attestor.Attest(ctx, attest.Request{
		Instance: d.request.instance, Role: d.request.role, Audience: d.request.audience, Evidence: d.evidence,
	})
	d.identity, d.instance = judgment.Identity, judgment.Instance
	if err != nil {
		return err
	}
	if d.token, err = s.opts.Issuer.Issue(ctx, d.identity); err != nil {
		s.giveBack(ctx, d)
	}
	return err
}

// giveBack returns the attempts that were spent for a token that the client does not
// get.
func (s *Server) giveBack(ctx context.Context, d *decision) {
	if err := s.opts.Attestor.GiveBack(ctx, d.identity); err != nil {
		s.opts.Log.Warn("cannot give back the attempts of a token that the client did not get", "error", err, "request_id", d.requestID)
	}
}

type granted struct {
	Token     string `json:"token"`
	ExpiresIn int64  `json:"expires_in"` // seconds
	ExpiresAt string `json:"expires_at"` // RFC 3339, UTC
}

func (s *Server) renderToken(c echo.Context, d *decision) error {
	if d.request.bare {
		return c.Blob(http.StatusOK, "text/plain; charset=utf-8", []byte(d.token.Compact))
	}
	return c.JSON(http.StatusOK, granted{
		Token:     d.token.Compact,
		ExpiresIn: int64(d.token.Expires.Sub(s.opts.Now().Truncate(time.Second)).Seconds()),
		ExpiresAt: d.token.Expires.Format(time.RFC3339),
	})
}
