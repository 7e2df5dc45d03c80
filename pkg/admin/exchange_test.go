package admin_test

import (
	"context"
	"crypto/elliptic"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring/keyringtest"
)

var update = flag.Bool("update", false, "write the golden files")

const goldenFile = "testdata/exchange.golden"

// Each answer and each audit line is the one in the golden file.
func TestExchange(t *testing.T) {
	s := newScene(t)
	lost := false
	s.InitState = func(context.Context) error {
		if lost {
			return errors.New("no answer of redis://operator:s3cret-Passw0rd@192.0.2.1")
		}
		return nil
	}
	c := s.serve(t)
	plain := newPlain()
	var got strings.Builder
	exchange := func(method, path, body, shown string) {
		t.Helper()
		resp, answer := send(t, c, method, path, body)
		fmt.Fprintf(&got, "%s\n", plain.text(strings.TrimSpace(method+" "+path+" "+shown)))
		fmt.Fprintf(&got, "    %d %s %s %s\n", resp.StatusCode, resp.Header.Get("Content-Type"), resp.Header.Get("Cache-Control"), plain.text(strings.TrimSpace(answer)))
		for line := range strings.Lines(s.lines(t)) {
			fmt.Fprintf(&got, "    %s", plain.text(line))
		}
	}
	do := func(method, path, body string) {
		t.Helper()
		exchange(method, path, body, body)
	}
	instance := "/instances/" + s.instance.String()

	do("GET", "/status", "")
	do("POST", "/status", "")
	do("HEAD", "/status", "")
	do("GET", "/", "")
	do("GET", "/state", "")

	do("GET", "/instances", "")
	do("GET", instance, "")
	do("GET", "/instances/web-1", "")
	do("GET", "/instances/"+strings.Repeat("%07\"%22", 40), "")
	do("POST", instance+"/reset", "")
	do("POST", instance+"/reset", "")
	do("GET", "/instances", "")
	do("POST", "/instances/web-1/reset", "")

	do("POST", instance+"/deny", `{"for":"1h","reason":"seen in a botnet"}`)
	do("GET", instance, "")
	do("POST", instance+"/deny", "{}")
	do("GET", "/instances", "")
	do("POST", instance+"/deny", `{"for":"0s"}`)
	do("POST", instance+"/deny", `{"for":"-1h"}`)
	do("POST", instance+"/deny", `{"for":"soon"}`)
	do("POST", instance+"/deny", `{"until":"soon"}`)
	do("POST", instance+"/deny", "")
	exchange("POST", instance+"/deny", `{"reason":"`+strings.Repeat("x", 64<<10)+`"}`, "more than 64 KiB")
	do("POST", "/instances/web-1/deny", "{}")
	do("POST", instance+"/allow", "")
	do("POST", instance+"/allow", "")
	do("POST", "/instances/web-1/allow", "")
	do("GET", "/instances", "")

	do("GET", "/keys", "")
	do("POST", "/keys/rotate", "")
	do("POST", "/keys/none/revoke", "")
	do("POST", "/keys/"+strings.Repeat("%07%22", 40)+"/revoke", "")
	exchange("POST", "/keys/import", string(keyringtest.PKCS8(t, keyringtest.EC(t, elliptic.P256()))), "a key")
	do("POST", "/keys/"+plain.kids[0]+"/revoke", "")
	do("POST", "/keys/import", "no key")
	exchange("POST", "/keys/import", strings.Repeat("x", 64<<10+1), "more than 64 KiB")
	do("POST", "/keys/init", "")
	do("POST", "/keys/init?accept=true", "")
	do("POST", "/keys/init?accept=yes", "")
	s.ahead.Store(int64(20 * time.Minute)) // verifiers know the next key
	do("POST", "/keys/rotate", "")
	lost = true
	do("POST", "/keys/init", "")

	if *update {
		if err := os.WriteFile(goldenFile, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got.String(), "\n")); diff != "" {
		t.Errorf("the exchange (-want +got):\n%s", diff)
	}
}

// plain replaces what differs from run to run.
type plain struct {
	kid, moment, wait, user *regexp.Regexp
	kids                    []string
}

func newPlain() *plain {
	return &plain{
		kid:    regexp.MustCompile(`[A-Za-z0-9_-]{43}`),
		moment: regexp.MustCompile(`20\d\d-\d\d-\d\dT[0-9:.]+Z`),
		wait:   regexp.MustCompile(`\(in [^)]*\)`),
		user:   regexp.MustCompile(`"uid":\d+`),
	}
}

func (p *plain) text(s string) string {
	s = p.kid.ReplaceAllStringFunc(s, func(kid string) string {
		for i, known := range p.kids {
			if kid == known {
				return fmt.Sprint("KID", i)
			}
		}
		p.kids = append(p.kids, kid)
		return fmt.Sprint("KID", len(p.kids)-1)
	})
	s = strings.ReplaceAll(s, status.Started, "STARTED")
	s = p.moment.ReplaceAllString(s, "TIME")
	return p.user.ReplaceAllString(p.wait.ReplaceAllString(s, "(in WAIT)"), `"uid":UID`)
}
