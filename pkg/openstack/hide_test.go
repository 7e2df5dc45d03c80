package openstack_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/openstack"
)

// The answers and the catalog of a cloud may repeat our password or contain another. Neither is in an error, in the log,
// or in the Info.
func TestSecretsInAnswersAreNotShown(t *testing.T) {
	const word, other = "tr0Ub4dor-MARK-3xK9", "c4talog-MARK-w0rd"
	echo := func(w http.ResponseWriter, r *http.Request, status int) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(status)
		_, _ = w.Write(body)
	}
	for name, answer := range map[string]func(self string, w http.ResponseWriter, r *http.Request){
		"a refusal that repeats the request": func(_ string, w http.ResponseWriter, r *http.Request) { echo(w, r, http.StatusBadRequest) },
		"a failure that repeats the request": func(_ string, w http.ResponseWriter, r *http.Request) { echo(w, r, http.StatusBadGateway) },
		"a redirect to a URL with a user": func(self string, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", strings.Replace(self, "//", "//me:"+other+"@", 1))
			w.WriteHeader(http.StatusTemporaryRedirect)
		},
		"a catalog with a user in its URL": func(self string, w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/v3/auth/tokens":
				w.Header().Set("X-Subject-Token", "gAAAAABmMARKk3yWq0uJr8VnMARK")
				w.WriteHeader(http.StatusCreated)
				fmt.Fprintf(w, `{"token": {"expires_at": "2099-01-01T00:00:00.000000Z", "project": {"id": "a", "name": "service"}, "roles": [{"name": "admin"}],
					"catalog": [{"type": "compute", "endpoints": [{"interface": "public", "url": %q}]}]}}`, strings.Replace(self, "//", "//me:"+other+"@", 1)+"/v2.1")
			case strings.HasPrefix(r.URL.Path, "/v2.1/servers"):
				w.WriteHeader(http.StatusInternalServerError)
				_, _ = io.WriteString(w, "token "+r.Header.Get("X-Auth-Token"))
			default:
				_, _ = io.WriteString(w, `{"version": {"version": "2.93", "min_version": "2.1"}}`)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cleanEnvironment(t)
			var self string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(self, w, r) }))
			defer server.Close()
			self = server.URL
			t.Setenv("OS_AUTH_URL", server.URL+"/v3")
			t.Setenv("OS_USERNAME", "authenticator")
			t.Setenv("OS_PASSWORD", word)
			t.Setenv("OS_PROJECT_NAME", "service")
			var log strings.Builder
			client, err := tryNew(t, config(), openstack.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			info, err := client.Connect(t.Context())
			said := fmt.Sprintf("%+v\n%v\n%v\n%s", info, err, client.Check(t.Context()), log.String())
			for _, secret := range []string{word, other, "gAAAA"} {
				if strings.Contains(said, secret) {
					t.Errorf("the secret %s is shown:\n%s", secret, said)
				}
			}
			if !strings.Contains(said, "(not shown)") {
				t.Errorf("nothing was hidden:\n%s", said)
			}
		})
	}
}
