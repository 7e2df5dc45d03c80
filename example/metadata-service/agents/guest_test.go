//go:build agents

package agents_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/example/metadata-service/guestfuzz"
)

// guest is an instance: a namespace, and what the cloud knows of it.
type guest struct {
	site      *site
	name      string
	namespace string
	device    string // the instance's ID
	project   string
	role      string // that no other guest may have
	mac       string
	v4        string
	index     int // of its interface
}

// answer is an answer as a guest reads it.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) String() string { return fmt.Sprintf("%d %v %.300q", a.status, a.header, a.body) }

// known is the guest as the cloud knows it.
func (g *guest) known() guestfuzz.Guest {
	return guestfuzz.Guest{
		Name: g.name, ID: g.device, Project: g.project, Address: g.v4, Role: g.role, ForAll: roleForAll,
		Verify: func(token string) (subject, project string, err error) {
			verified, err := g.site.door.verifier.Verify(context.Background(), token)
			if err != nil {
				return "", "", err
			}
			var claims struct {
				Project string `json:"project_id"`
			}
			err = verified.Claims(&claims)
			return verified.Subject, claims.Project, err
		},
	}
}

// converse sends pieces of bytes, each in a segment of its own, and reads one answer for each method.
func (g *guest) converse(w guestfuzz.Way, methods []string, pieces ...string) ([]answer, error) {
	var c net.Conn
	if err := guestfuzz.Inside(g.namespace, func() (err error) {
		c, err = w.Dial()
		return err
	}); err != nil {
		return nil, err
	}
	defer c.Close()
	for i, piece := range pieces {
		if i > 0 {
			<-time.After(50 * time.Millisecond) // haproxy has read the piece before
		}
		// haproxy may have answered and closed.
		if _, err := io.WriteString(c, piece); err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
			return nil, err
		}
	}
	return readAnswers(bufio.NewReader(c), methods)
}

// readAnswers reads the answers to requests with these methods. Interim answers are left out.
func readAnswers(r *bufio.Reader, methods []string) (answers []answer, err error) {
	for len(answers) < len(methods) {
		method := methods[len(answers)]
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return answers, fmt.Errorf("answer %d: %w", len(answers)+1, err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return answers, fmt.Errorf("the body of answer %d (%d, %.200q): %w", len(answers)+1, resp.StatusCode, body, err)
		}
		if resp.StatusCode >= 200 {
			answers = append(answers, answer{resp.StatusCode, resp.Header, string(body)})
		}
	}
	return answers, nil
}

// ask sends a whole request, or pieces of one, and checks what must hold for each answer.
func (g *guest) ask(w guestfuzz.Way, pieces ...string) (answer, error) {
	method, _, _ := strings.Cut(pieces[0], " ")
	got, err := g.converse(w, []string{method}, pieces...)
	if err != nil {
		return answer{}, err
	}
	return got[0], g.check(strings.ToUpper(method), got[0])
}

// check returns what must never be in an answer to this guest.
func (g *guest) check(method string, a answer) error {
	if err := g.known().Check(a.body, method == http.MethodPut && a.status == http.StatusOK); err != nil {
		return fmt.Errorf("%w, in the answer to %s: %s", err, method, a)
	}
	return nil
}
