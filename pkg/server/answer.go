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
	RequestID   string `json:"request_id"`
}

// answer renders a decision. The client of a denied request does not learn the reason.
func (s *Server) answer(c echo.Context, d *decision, at door) error {
	h := c.Response().Header()
	h.Set(echo.HeaderCacheControl, "no-store")
	if d.outcome == outcomeGranted {
		return at.render(c, d)
	}
	body := refusal{RequestID: d.requestID}
	switch d.outcome {
	case outcomeDenied:
		body.Error = "access_denied"
	case outcomeThrottled:
		body.Error = "slow_down"
	case outcomeInvalid:
		body.Error, body.Description = "invalid_request", d.detail
	default:
		body.Error = "temporarily_unavailable"
	}
	if d.status == http.StatusUnauthorized {
		h.Set(echo.HeaderWWWAuthenticate, "Keystone") // RFC 9110, section 15.5.2
	}
	if d.retryAfter > 0 {
		h.Set(echo.HeaderRetryAfter, retryAfter(d.retryAfter, d.requestID))
	}
	if at.status != nil {
		d.status = at.status(d.status)
	}
	return c.JSON(d.status, body)
}

// retryAfter returns a wait in whole seconds, spread over a third more so that clients
// that were refused together do not come back together. The random request ID is the
// die.
func retryAfter(wait time.Duration, id string) string {
	seconds := max(1, int(math.Ceil(wait.Seconds())))
	die := 0
	if len(id) > 0 {
		n, _ := strconv.ParseUint(id[:1], 16, 8)
		die = int(n) // 0 to 15
	}
	return strconv.Itoa(seconds + die%(seconds/3+2))
}

// handleError answers a request that has no handler, and one whose handler panicked.
func (s *Server) handleError(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	c.Response().Header().Set(echo.HeaderCacheControl, "no-store")
	body, status := refusal{Error: "invalid_request", RequestID: requestID(c)}, http.StatusInternalServerError
	var he *echo.HTTPError
	switch {
	case errors.As(err, &he) && he.Code == http.StatusNotFound:
		status, body.Description = he.Code, "there is nothing at this path"
	case errors.As(err, &he) && he.Code == http.StatusMethodNotAllowed:
		status, body.Description = he.Code, "this path takes "+c.Response().Header().Get(echo.HeaderAllow)
	case errors.As(err, &he) && he.Code == http.StatusRequestHeaderFieldsTooLarge:
		status, body.Description = he.Code, longHeaders
	case errors.As(err, &he) && he.Code < 500:
		status = he.Code
	default:
		body.Error = "server_error"
		if s.mayLog(c.Request()) {
			s.log.Error("request failed", "error", err, "path", secret.Printable(c.Request().URL.Path), "request_id", body.RequestID)
		}
	}
	s.logUnsent(c.JSON(status, body), body.RequestID)
}

// logUnsent logs the error of an answer. A client that hangs up is not our failure,
// and could fill the log.
func (s *Server) logUnsent(err error, requestID string) {
	if err != nil {
		s.log.Debug("answer not sent", "error", err, "request_id", requestID)
	}
}

// longHeaders is the description of the error if the headers are too long.
var longHeaders = fmt.Sprintf("the headers are longer than %d bytes or have more than %d lines", maxHeaders, listen.MaxHeaderLines)

func tooLongForClients() []byte { return tooLongHeaders(http.StatusRequestHeaderFieldsTooLarge) }

// tooLongHeaders returns the answer to a request whose headers were not read to their
// end; see [listen.Endpoint].
func tooLongHeaders(status int) []byte {
	id := newRequestID()
	body, err := json.Marshal(refusal{Error: "invalid_request", Description: longHeaders, RequestID: id})
	if err != nil {
		return nil // strings are always JSON
	}
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nX-Request-Id: %s\r\n\r\n%s\n",
		status, http.StatusText(status), len(body)+1, id, body)
}
