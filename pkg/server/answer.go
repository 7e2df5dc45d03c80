package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// refusal is the body of an error. The words of Error are OAuth's: invalid_request,
// access_denied, temporarily_unavailable, and slow_down (RFC 8628, section 3.5).
type refusal struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
	// RetryAfter is the header of this name, in seconds: not every release of Neutron's
	// metadata agent passes headers on.
	RetryAfter int    `json:"retry_after,omitempty"`
	RequestID  string `json:"request_id"`
}

// answer renders a decision. The client of a denied request does not learn the reason.
func (s *Server) answer(c echo.Context, d *decision, at door) error {
	if d.outcome == outcomeGranted {
		c.Response().Header().Set(echo.HeaderCacheControl, "no-store")
		return at.render(c, d)
	}
	word, description := "temporarily_unavailable", ""
	switch d.outcome {
	case outcomeDenied:
		word = "access_denied"
	case outcomeThrottled:
		word = "slow_down"
	case outcomeInvalid:
		word, description = "invalid_request", d.detail
	}
	if d.status == http.StatusUnauthorized {
		c.Response().Header().Set(echo.HeaderWWWAuthenticate, "Keystone") // RFC 9110, section 15.5.2
	}
	return refuse(c.Response(), d.status, word, description, d.retryAfter)
}

// refuse writes an error to w, whose header has the request ID.
func refuse(w http.ResponseWriter, status int, word, description string, wait time.Duration) error {
	h := w.Header()
	body := refusal{Error: word, Description: description, RequestID: h.Get(echo.HeaderXRequestID)}
	h.Set(echo.HeaderContentType, echo.MIMEApplicationJSON)
	h.Set(echo.HeaderCacheControl, "no-store")
	if wait > 0 {
		body.RetryAfter = retryAfter(wait, body.RequestID)
		h.Set(echo.HeaderRetryAfter, strconv.Itoa(body.RetryAfter))
	}
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(body)
}

// retryAfter returns a wait in whole seconds, plus a random part of up to a third, so that
// clients that were refused together do not retry together. The random digit is from the
// request ID.
func retryAfter(wait time.Duration, id string) int {
	seconds := max(1, int(math.Ceil(wait.Seconds())))
	random, _ := strconv.ParseInt(id[:min(1, len(id))], 16, 8) // 0 to 15
	return seconds + int(random)%(seconds/3+2)
}

// handleError answers a request that has no handler, and one whose handler panicked.
func (s *Server) handleError(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	status, word, description := http.StatusInternalServerError, "server_error", ""
	var known *echo.HTTPError
	if errors.As(err, &known) && known.Code < http.StatusInternalServerError {
		status, word = known.Code, "invalid_request"
		switch status {
		case http.StatusNotFound:
			description = nothingThere
		case http.StatusMethodNotAllowed:
			description = "this path takes " + c.Response().Header().Get(echo.HeaderAllow)
		case http.StatusRequestHeaderFieldsTooLarge:
			description = longHeaders
		}
	} else if s.mayLog(c.Request()) {
		s.opts.Log.Error("request failed", "error", err, "path", secret.Printable(c.Request().URL.Path), "request_id", requestID(c))
	}
	s.logUnsent(c, refuse(c.Response(), status, word, description, 0))
}

// logUnsent logs the error of an answer. A client that hangs up is not our failure,
// and could fill the log.
func (s *Server) logUnsent(c echo.Context, err error) {
	if err != nil {
		s.opts.Log.Debug("answer not sent", "error", err, "request_id", requestID(c))
	}
}

// longHeaders is the description of the error if the headers are too long.
var longHeaders = fmt.Sprintf("the headers are longer than %d bytes or have more than %d lines", maxHeaders, listen.MaxHeaderLines)

const nothingThere = "there is nothing at this path"

// refuseUnread returns the whole answer to a request that no handler gets; see
// [listen.Endpoint].
func refuseUnread(status int) []byte { return answerUnread(status, status) }

// refuseUnreadOfGuest is refuseUnread with a status that reaches the guest.
func refuseUnreadOfGuest(status int) []byte { return answerUnread(status, http.StatusBadRequest) }

func answerUnread(status, sent int) []byte {
	description := "the request is not valid in HTTP/1.1"
	if status == http.StatusRequestHeaderFieldsTooLarge {
		description = longHeaders
	}
	id := newRequestID()
	body, _ := json.Marshal(refusal{Error: "invalid_request", Description: description, RequestID: id}) // never fails: it has texts and numbers alone
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nX-Request-Id: %s\r\n\r\n%s\n",
		sent, http.StatusText(sent), len(body)+1, id, body)
}
