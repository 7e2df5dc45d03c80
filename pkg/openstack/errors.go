package openstack

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

var (
	errClosed    = errors.New("the server is stopping")
	errRedirect  = errors.New("the answer is a redirect, which is not followed, because the token would be sent elsewhere")
	errElsewhere = errors.New("a request with a secret was refused: neither the configuration nor the catalog names its host")
	errUntold    = errors.New("the cloud does not tell whether the account has the right")

	errRejected error = &attest.Denied{Reason: attest.CallerUnknown, Detail: "keystone rejected the token"}
	errTooMany  error = &attest.Failure{Reason: attest.ThrottledCallers, Err: errors.New("too many invalid tokens recently, or too many checks waiting")}
)

// SetupError is a failure that a retry does not repair: the credentials, the catalog or the rights of the account do not
// fit the configuration.
type SetupError struct{ err error }

func (e *SetupError) Error() string { return secret.Text(e.err.Error()) }

// Unwrap returns the cause.
func (e *SetupError) Unwrap() error { return e.err }

func setup(format string, args ...any) *SetupError {
	return &SetupError{fmt.Errorf(format, args...)}
}

// refusal returns a [SetupError] if a retry does not help, otherwise the shortened error.
func (c *Client) refusal(service string, err error) error {
	var tlsErr *tls.CertificateVerificationError
	switch {
	case hasStatus(err, http.StatusUnauthorized):
		return setup("%s refuses the login of %s: wrong user, password, domain or project, or one of them is disabled", service, c.creds.claim())
	case hasStatus(err, http.StatusBadRequest, http.StatusForbidden, http.StatusNotAcceptable):
		return setup("%s refuses: %w", service, c.explain(err))
	case service == "keystone" && keystoneNotFound(err):
		return setup("keystone knows no %s: it was deleted, or belongs to another cloud", c.creds.claim())
	case errors.As(err, &tlsErr):
		return setup("%s's certificate is not trusted (a private CA goes into OS_CACERT or cacert of clouds.yaml): %w", service, c.creds.hide(err))
	}
	return c.explain(err)
}

// explain shortens gophercloud's errors, which contain whole bodies, and removes secrets.
func (c *Client) explain(err error) error { return c.creds.hide(c.shorten(err)) }

func (c *Client) shorten(err error) error {
	var code gophercloud.ErrUnexpectedResponseCode
	var reauth *gophercloud.ErrUnableToReauthenticate
	var again *gophercloud.ErrErrorAfterReauthentication
	var ue *url.Error
	switch {
	case errors.As(err, &reauth):
		return fmt.Errorf("new login: %w", reauth.ErrReauth)
	case errors.As(err, &again):
		return fmt.Errorf("after a new login: %w", c.shorten(again.ErrOriginal))
	case errors.As(err, &code):
		return fmt.Errorf("%s %s: status %d: %q", code.Method, code.URL, code.Actual, clip(string(code.Body)))
	case errors.As(err, new(*http.MaxBytesError)):
		return fmt.Errorf("the answer is longer than %d bytes", maxBody)
	case errors.As(err, &ue) && ue.Timeout():
		return fmt.Errorf("%s %s: no answer in time", ue.Op, ue.URL)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer within %v", c.plan.timeout)
	}
	return err
}

// hasStatus reports whether err is an answer with one of these statuses.
func hasStatus(err error, statuses ...int) bool {
	var code gophercloud.ErrUnexpectedResponseCode
	return errors.As(err, &code) && slices.Contains(statuses, code.Actual)
}

// unauthorized reports whether err is a 401, also one after which a new login failed or did not help.
func unauthorized(err error) bool {
	return hasStatus(err, http.StatusUnauthorized) ||
		errors.As(err, new(*gophercloud.ErrUnableToReauthenticate)) || errors.As(err, new(*gophercloud.ErrErrorAfterReauthentication))
}

// isClosed reports whether err may be the answer of a firewall or proxy. The versions below can be open all the same.
func isClosed(err error) bool {
	return hasStatus(err, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed)
}

func isSyntax(err error) bool {
	return errors.As(err, new(*json.SyntaxError)) || errors.As(err, new(*json.UnmarshalTypeError))
}

// keystoneNotFound reports whether err is Keystone's own 404 for an unknown application credential or token, and not the
// 404 of a load balancer.
func keystoneNotFound(err error) bool {
	var fault struct {
		Error *struct {
			Code int `json:"code"`
		} `json:"error"`
	}
	return notFound(err, &fault) && fault.Error != nil && fault.Error.Code == http.StatusNotFound
}

// unknownServer reports whether err is Nova's own 404 for an unknown server, and not the 404 of a load balancer.
func unknownServer(err error) bool {
	var fault struct {
		ItemNotFound json.RawMessage `json:"itemNotFound"`
	}
	return notFound(err, &fault) && fault.ItemNotFound != nil
}

// notFound reports whether err is a 404 whose body is JSON, and decodes the body.
func notFound(err error, fault any) bool {
	var code gophercloud.ErrUnexpectedResponseCode
	return errors.As(err, &code) && code.Actual == http.StatusNotFound && json.Unmarshal(code.Body, fault) == nil
}

// hiddenError is an error whose text has no secret in it.
type hiddenError struct {
	text string
	err  error
}

func (e *hiddenError) Error() string { return e.text }
func (e *hiddenError) Unwrap() error { return e.err }

// hide removes from an error our own password, which an answer may repeat, and the user information of URLs.
func (c credentials) hide(err error) error {
	text := err.Error()
	for _, own := range []string{c.Password, c.ApplicationCredential.Secret} {
		if len(own) > 3 { // a shorter one is part of many words
			text = strings.ReplaceAll(text, own, secret.Hidden)
		}
	}
	return &hiddenError{secret.Text(text), err}
}

// hideValues removes from an error about the credentials what may be a secret: values, and paths of files.
func hideValues(err error) error {
	if p := new(fs.PathError); errors.As(err, &p) {
		return secret.FileError(p.Path, p)
	}
	return &hiddenError{secret.Values(err.Error()), err}
}

// clip shortens a text of the cloud for an error.
func clip(s string) string { return secret.Clip(s, 200) }
