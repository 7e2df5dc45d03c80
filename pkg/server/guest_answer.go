package server

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/labstack/echo/v4"
)

// bodyWait is how long the rest of a request's body is read after the answer, so that the
// connection is not reset before the agent has the answer.
const bodyWait = time.Second

// guestAnswer holds an answer of ours until it is in the form that each release of Neutron's
// metadata agent passes on to the guest. An agent replaces other statuses, an answer without
// a body and, in 2025.1 and 2025.2, one in chunks by a 500 or a 502 of its own, and cuts text
// beyond ASCII.
type guestAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// answerGuest has a handler answer the request, and sends the answer. If the handler panics,
// defect is called with the value, and the answer is 500.
func answerGuest(w http.ResponseWriter, r *http.Request, h http.HandlerFunc, defect func(id string, value any)) {
	a := &guestAnswer{header: http.Header{}}
	id := newRequestID()
	name(a, id)
	func() {
		defer func() {
			if value := recover(); value != nil {
				defect(id, value)
				a.body.Reset()
			}
		}()
		h(a, r)
	}()
	if a.body.Len() == 0 {
		a.status = 0
		_ = refuse(a, http.StatusInternalServerError, "server_error", "", 0) // a buffer takes all
	}
	if r.ContentLength != 0 {
		// On a connection that stays open net/http would read the body before it sends the
		// answer. What has not been read must not be taken for the next request.
		a.header.Set(echo.HeaderConnection, "close")
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyWait)) // fails only with the recorders of tests
	}
	a.send(w)
}

func (a *guestAnswer) send(w http.ResponseWriter) {
	h, body := w.Header(), a.body.Bytes()
	clear(h)
	maps.Copy(h, a.header)
	for _, name := range []string{"Transfer-Encoding", "Trailer", "Content-Encoding"} {
		h.Del(name)
	}
	if strings.HasPrefix(h.Get(echo.HeaderContentType), echo.MIMEApplicationJSON) {
		h.Set(echo.HeaderContentType, echo.MIMEApplicationJSON)
		body = inASCII(body, func(r rune) string {
			if high, low := utf16.EncodeRune(r); high != utf8.RuneError {
				return fmt.Sprintf(`\u%04x\u%04x`, high, low)
			}
			return fmt.Sprintf(`\u%04x`, r)
		})
	} else {
		h.Set(echo.HeaderContentType, "text/plain; charset=utf-8")
		body = inASCII(body, func(rune) string { return "?" })
	}
	h.Set(echo.HeaderContentLength, strconv.Itoa(len(body)))
	w.WriteHeader(guestStatus(a.status))
	_, _ = w.Write(body) // the agent has gone
}

// Header implements [http.ResponseWriter].
func (a *guestAnswer) Header() http.Header { return a.header }

// WriteHeader implements [http.ResponseWriter]. The first status counts.
func (a *guestAnswer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

// Write implements [http.ResponseWriter].
func (a *guestAnswer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

// guestStatus returns, for the status of an answer, one that all releases of the agent pass
// on.
func guestStatus(status int) int {
	switch {
	case status == http.StatusOK || status == http.StatusForbidden || status == http.StatusNotFound || status == http.StatusConflict:
		return status
	case status == http.StatusTooManyRequests:
		return http.StatusConflict
	case status >= 400 && status < 500:
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}

// inASCII replaces the characters beyond ASCII of a text.
func inASCII(text []byte, replace func(rune) string) []byte {
	if !bytes.ContainsFunc(text, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return text
	}
	var all bytes.Buffer
	for _, r := range string(text) {
		if r < utf8.RuneSelf {
			all.WriteRune(r)
		} else {
			all.WriteString(replace(r))
		}
	}
	return all.Bytes()
}
