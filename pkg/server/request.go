package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const (
	maxHeaders = listen.MaxHeaders
	maxFields  = 16 // of a body or a query; no door has so many
)

// headerSize counts as HTTP/2 does (RFC 9113, section 10.5.1).
func headerSize(h http.Header) (size int) {
	for name, values := range h {
		for _, v := range values {
			size += len(name) + len(v) + 32
		}
	}
	return size
}

// badRequest is the error of a malformed request; the client gets its description.
type badRequest struct {
	status      int
	description string
}

func (b *badRequest) Error() string { return b.description }

func badField(format string, args ...any) *badRequest {
	return &badRequest{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// authRequest is the body of POST /auth.
type authRequest struct {
	instance attest.InstanceID
	role     attest.RoleName
	audience attest.Audience // zero for the first of the role
	document string          // "" for none; not verified yet
	bare     bool            // the answer is the token alone, as text
}

// The fields of POST /auth.
const (
	fieldInstance = "instance_id"
	fieldRole     = "role"
	fieldAudience = "audience"
	fieldDocument = "document"
	fieldFormat   = "format"
)

// parseAuth reads the body, a form or JSON. It refuses a query string, as that ends up
// in logs. The error is a [*badRequest], or a [*throttled] if there is no memory.
func parseAuth(w http.ResponseWriter, r *http.Request, memory *bodies) (a authRequest, err error) {
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		return a, badField("parameters go into the body, not into the URL")
	}
	if e := r.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return a, &badRequest{http.StatusUnsupportedMediaType, "the body must not be compressed"}
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	parse := map[string]func([]byte) (map[string]string, error){"application/x-www-form-urlencoded": parseForm, "application/json": parseJSON}[media]
	if err != nil || parse == nil {
		return a, &badRequest{http.StatusUnsupportedMediaType, "the body must be application/x-www-form-urlencoded or application/json"}
	}
	var fields map[string]string
	err = memory.read(w, r, maxRequest, func(body []byte) (err error) {
		if !utf8.Valid(body) {
			return badField("the body is not UTF-8")
		}
		fields, err = parse(body)
		return err
	})
	if err == nil {
		err = a.fill(fields, fieldInstance, fieldRole, fieldAudience, fieldDocument, fieldFormat)
	}
	return a, err
}

// fill parses the fields. A field that is not among those known is an error.
func (a *authRequest) fill(fields map[string]string, known ...string) error {
	for name := range fields {
		if !slices.Contains(known, name) {
			return badField("unknown field %q; known are %s", secret.Printable(name), strings.Join(known, ", "))
		}
	}
	// It parses all fields even if one is malformed: the log shows them.
	var first error
	note := func(field string, err error) {
		if err != nil && first == nil {
			first = badField("%s: %v", field, err)
		}
	}
	var err error
	document, shown := fields[fieldDocument]
	if a.document = document; shown && document == "" {
		note(fieldDocument, errors.New("is empty"))
	}
	// A document names its instance.
	if _, said := fields[fieldInstance]; slices.Contains(known, fieldInstance) && (said || !shown) {
		a.instance, err = attest.ParseInstanceID(fields[fieldInstance])
		note(fieldInstance, err)
	}
	a.role, err = attest.ParseRoleName(fields[fieldRole])
	note(fieldRole, err)
	if name, ok := fields[fieldAudience]; ok {
		a.audience, err = attest.ParseAudience(name)
		note(fieldAudience, err)
	}
	switch format, ok := fields[fieldFormat]; {
	case format == "token":
		a.bare = true
	case ok && format != "json":
		note(fieldFormat, errors.New("is json or token"))
	}
	return first
}

func tooLong(limit int64) *badRequest {
	return &badRequest{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is longer than %d bytes", limit)}
}

var errFields = badField("there are more than %d fields", maxFields)

func parseForm(body []byte) (map[string]string, error) {
	if bytes.Count(body, []byte{'&'}) >= maxFields {
		return nil, errFields
	}
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, badField("the body is not a form: a value must be percent-encoded")
	}
	fields := make(map[string]string, len(values))
	for name, v := range values {
		if len(v) != 1 {
			return nil, badField("field %q is there %d times", secret.Printable(name), len(v))
		}
		fields[name] = v[0]
	}
	return fields, nil
}

// parseJSON reads one flat object of strings. encoding/json alone would accept two equal
// keys, and a key in any case.
func parseJSON(body []byte) (map[string]string, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	shape := badField("the body must be one JSON object whose values are strings")
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, shape
	}
	fields := map[string]string{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, shape
		}
		value, err := dec.Token()
		text, ok := value.(string)
		if err != nil || !ok {
			return nil, shape
		}
		if len(fields) == maxFields {
			return nil, errFields
		}
		key := name.(string) // a key of an object is always a string
		if _, twice := fields[key]; twice {
			return nil, badField("field %q is there twice", secret.Printable(key))
		}
		fields[key] = text
	}
	if t, err := dec.Token(); err != nil || t != json.Delim('}') {
		return nil, shape
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, shape
	}
	return fields, nil
}
