package openstack

import (
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// hiddenError is an error whose text shows no secret.
type hiddenError struct {
	text string
	err  error
}

func (e *hiddenError) Error() string { return e.text }
func (e *hiddenError) Unwrap() error { return e.err }

// hide takes what may be a secret out of an error: our own password if an answer
// repeats it, and the user information of URLs.
func (c credentials) hide(err error) error {
	text := err.Error()
	for _, own := range []string{c.Password, c.ApplicationCredential.Secret} {
		if len(own) > 3 { // a shorter one is in many words
			text = strings.ReplaceAll(text, own, secret.Hidden)
		}
	}
	return &hiddenError{secret.Text(text), err}
}

var (
	// wrongType is how the parser quotes a value, and its tag.
	wrongType     = regexp.MustCompile(`(?s)cannot unmarshal .*? into \S+`)
	unknownAnchor = regexp.MustCompile(`(?s)unknown anchor '.*' referenced`)
)

// hideValues takes what may be a secret out of an error about the credentials: of
// their values, and of the paths of their files.
func hideValues(err error) error {
	if p := new(fs.PathError); errors.As(err, &p) {
		return secret.FileError(p.Path, p)
	}
	text := wrongType.ReplaceAllString(err.Error(), "the value has the wrong type")
	text = unknownAnchor.ReplaceAllString(text, "unknown anchor referenced")
	return &hiddenError{secret.Values(text), err}
}

// proxyFromEnvironment is [http.ProxyFromEnvironment], whose error quotes a URL that
// may have a password.
func proxyFromEnvironment(r *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(r)
	if err != nil {
		return nil, errors.New("HTTP_PROXY, HTTPS_PROXY or NO_PROXY: the value is not a URL such as http://proxy.example.com:3128 " + secret.Hidden)
	}
	return u, nil
}
