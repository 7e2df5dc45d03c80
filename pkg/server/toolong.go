package server

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
)

// longHeaders is what a client is told whose headers are too long.
var longHeaders = fmt.Sprintf("the headers are longer than %d bytes or have more than %d lines", maxHeaders, listen.MaxHeaderLines)

// TooLong is the answer to a request whose headers were not read to their end; see
// [listen.Endpoint].
func TooLong() []byte { return tooLongHeaders(http.StatusRequestHeaderFieldsTooLarge) }

// TooLongForAgents is TooLong with a status that reaches the instance in all
// releases of the metadata agent.
func TooLongForAgents() []byte { return tooLongHeaders(http.StatusBadRequest) }

func tooLongHeaders(status int) []byte {
	id := newRequestID()
	body, err := json.Marshal(refusal{Error: "invalid_request", Description: longHeaders, RequestID: id})
	if err != nil {
		return nil // strings are always JSON
	}
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nX-Request-Id: %s\r\n\r\n%s\n",
		status, http.StatusText(status), len(body)+1, id, body)
}
