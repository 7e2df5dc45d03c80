package openstack_test

import (
	"cmp"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/listen/listentest"
)

// shape is the form of a cloud. In its URLs @HTTP and @HTTPS are the two listeners, and @PROJECT is the project's ID.
type shape struct {
	// keystone is the path of Keystone. Default: /identity.
	keystone string
	// link is the URL of v3 in Keystone's version documents. Default: that of the request.
	link string
	// unlinked means that Keystone has no version documents and answers 404.
	unlinked bool
	// nova are the paths of Nova. Default: /compute.
	nova []string
	// novaLink is the part before the version in the links of Nova's version documents. Default: that of the request.
	novaLink string
	// catalog are the endpoints of Nova, each "region interface URL", with the type and name of the service if they are
	// not compute and nova. Default: one, public in RegionOne, on the listener of the login.
	catalog []string
	// redirect redirects all requests without TLS to the listener with TLS.
	redirect bool
	// clientCert makes the listener with TLS require a client certificate.
	clientCert bool
}

// sdkCloud is a Keystone and a Nova of some shape, on a listener without TLS and one with TLS. It accepts every account,
// and records the logins and the lookups of web.
type sdkCloud struct {
	shape
	plain, tls *httptest.Server

	mu      sync.Mutex
	reached reached
}

// reached has the requests of a client, each "METHOD URL", with the name in the client's certificate if there is one.
type reached struct {
	Login  string `json:"login,omitempty"`  // the request
	Body   any    `json:"body,omitempty"`   // its account and scope
	Lookup string `json:"lookup,omitempty"` // of web
	// Unverified says that the cloud's certificates are not verified.
	Unverified bool `json:"unverified,omitempty"`
}

const (
	sdkProject = "0c5a9d1e5f0b4c0c8f4f5b7c9f2d6a11"
	sdkToken   = "gAAAAAfake"
)

func newSDKCloud(t *testing.T, s shape, ca *authority) *sdkCloud {
	t.Helper()
	s.keystone = cmp.Or(s.keystone, "/identity")
	if s.nova == nil {
		s.nova = []string{"/compute"}
	}
	c := &sdkCloud{shape: s}
	c.plain, c.tls = httptest.NewUnstartedServer(http.HandlerFunc(c.serve)), httptest.NewUnstartedServer(http.HandlerFunc(c.serve))
	c.tls.TLS = &tls.Config{Certificates: []tls.Certificate{ca.server}}
	if s.clientCert {
		c.tls.TLS.ClientAuth = tls.RequireAnyClientCert
	}
	for _, server := range []*httptest.Server{c.plain, c.tls} {
		server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		t.Cleanup(server.Close)
	}
	c.plain.Start()
	c.tls.StartTLS()
	return c
}

// fill replaces @HTTP, @HTTPS, @AUTH and @PROJECT by the addresses of the cloud, and @HERE by dir.
func (c *sdkCloud) fill(s, dir string) string {
	return strings.NewReplacer("@HTTPS", c.tls.URL, "@HTTP", c.plain.URL, "@AUTH", c.plain.URL+c.keystone+"/v3",
		"@PROJECT", sdkProject, "@HERE", dir).Replace(s)
}

// take returns the requests and removes them.
func (c *sdkCloud) take() reached {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.reached
	c.reached = reached{}
	return r
}

func (c *sdkCloud) serve(w http.ResponseWriter, r *http.Request) {
	if c.redirect && r.TLS == nil {
		http.Redirect(w, r, c.tls.URL+r.URL.RequestURI(), http.StatusPermanentRedirect)
		return
	}
	base := c.plain.URL
	if r.TLS != nil {
		base = c.tls.URL
	}
	// The root comes last.
	for _, root := range c.nova {
		if path, ok := below(r.URL.Path, root); ok && root != "/" {
			c.serveNova(w, r, base+root, path)
			return
		}
	}
	if path, ok := below(r.URL.Path, c.keystone); ok {
		c.serveKeystone(w, r, base, path)
		return
	}
	if slices.Contains(c.nova, "/") {
		c.serveNova(w, r, base, r.URL.Path)
		return
	}
	http.NotFound(w, r)
}

// below returns the rest of path below root.
func below(path, root string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(path, strings.TrimSuffix(root, "/"))
	return rest, ok && (rest == "" || strings.HasPrefix(rest, "/"))
}

func (c *sdkCloud) serveKeystone(w http.ResponseWriter, r *http.Request, base, path string) {
	link := base + strings.TrimSuffix(c.keystone, "/") + "/v3/"
	if c.link != "" {
		link = c.fill(c.link, "")
	}
	version := object{"id": "v3.14", "status": "stable", "links": []object{{"rel": "self", "href": link}}}
	switch path = strings.TrimSuffix(path, "/"); {
	case r.Method == http.MethodPost && path == "/v3/auth/tokens":
		c.login(w, r, base)
	case c.unlinked:
		http.NotFound(w, r)
	case path == "":
		answer(w, http.StatusMultipleChoices, object{"versions": object{"values": []object{version}}})
	case path == "/v3":
		answer(w, http.StatusOK, object{"version": version})
	default:
		answer(w, http.StatusNotFound, object{"error": object{"code": 404, "message": "Not Found", "title": "Not Found"}})
	}
}

func (c *sdkCloud) login(w http.ResponseWriter, r *http.Request, base string) {
	var login struct {
		Auth struct {
			Identity struct{ Methods []string }
			Scope    any
		}
	}
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, &login)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	c.reached.Login = c.request(r)
	_ = json.Unmarshal(body, &c.reached.Body)
	c.mu.Unlock()

	now := time.Now().UTC()
	token := object{
		"methods": login.Auth.Identity.Methods, "issued_at": now.Format(keystoneTime), "expires_at": now.Add(time.Hour).Format(keystoneTime),
		"user": object{"id": "user-id", "name": "authenticator", "domain": object{"id": "default", "name": "Default"}},
	}
	if login.Auth.Scope != nil || slices.Contains(login.Auth.Identity.Methods, "application_credential") {
		token["roles"] = []object{{"id": "admin-id", "name": "admin"}}
		token["project"] = object{"id": sdkProject, "name": "service", "domain": object{"id": "default", "name": "Default"}}
		token["catalog"] = c.entries(base)
	}
	w.Header().Set("X-Subject-Token", sdkToken)
	answer(w, http.StatusCreated, object{"token": token})
}

const keystoneTime = "2006-01-02T15:04:05.000000Z"

// entries returns the catalog: Keystone, then Nova.
func (c *sdkCloud) entries(base string) []object {
	lines := c.catalog
	if lines == nil {
		lines = []string{"RegionOne public " + base + c.nova[0] + "/v2.1"}
	}
	keystone := object{"id": "keystone", "region": "RegionOne", "region_id": "RegionOne", "interface": "public", "url": base + c.keystone}
	all := []object{{"id": "identity", "type": "identity", "name": "keystone", "endpoints": []object{keystone}}}
	for _, line := range lines {
		part := append(strings.Fields(line), "compute", "nova")
		region, face, url, kind, name := part[0], part[1], part[2], part[3], part[4]
		if last := all[len(all)-1]; last["type"] != kind || last["name"] != name {
			all = append(all, object{"id": line, "type": kind, "name": name, "endpoints": []object{}})
		}
		last := all[len(all)-1]
		last["endpoints"] = append(last["endpoints"].([]object), object{"id": line, "region": region, "region_id": region, "interface": face, "url": c.fill(url, "")})
	}
	return all
}

func (c *sdkCloud) serveNova(w http.ResponseWriter, r *http.Request, base, path string) {
	if c.novaLink != "" {
		base = c.fill(c.novaLink, "")
	}
	version := func(id, status, newest, oldest string) object {
		link := base + "/" + strings.TrimSuffix(id, ".0") + "/"
		return object{"id": id, "status": status, "version": newest, "min_version": oldest, "links": []object{{"rel": "self", "href": link}}}
	}
	legacy, current := version("v2.0", "SUPPORTED", "", ""), version("v2.1", "CURRENT", "2.96", "2.1")
	path = strings.Trim(path, "/")
	switch path {
	case "":
		answer(w, http.StatusOK, object{"versions": []object{legacy, current}})
		return
	case "v2":
		answer(w, http.StatusOK, object{"version": legacy})
		return
	case "v2.1":
		answer(w, http.StatusOK, object{"version": current})
		return
	}
	_, path, _ = strings.Cut(path, "/")
	switch path = strings.TrimPrefix(path, sdkProject+"/"); {
	case r.Header.Get("X-Auth-Token") != sdkToken:
		answer(w, http.StatusUnauthorized, object{"error": object{"code": 401, "message": "no token", "title": "Unauthorized"}})
	case path == "servers/"+web:
		c.mu.Lock()
		c.reached.Lookup = c.request(r)
		c.mu.Unlock()
		answer(w, http.StatusOK, object{"server": sdkServer})
	case path == "servers/detail" && strings.Contains(r.URL.RawQuery, web):
		answer(w, http.StatusOK, object{"servers": []object{sdkServer}})
	case path == "servers/detail":
		answer(w, http.StatusOK, object{"servers": []object{}})
	default:
		answer(w, http.StatusNotFound, object{"itemNotFound": object{"code": 404, "message": "Instance " + path[strings.LastIndexByte(path, '/')+1:] + " could not be found."}})
	}
}

var sdkServer = object{
	"id": web, "name": "web-1", "status": "ACTIVE", "tenant_id": "workloads-id", "user_id": "user-id", "metadata": object{},
	"created": "2026-11-22T07:25:01Z", "OS-SRV-USG:launched_at": "2026-11-22T07:25:05.000000", "OS-EXT-STS:task_state": nil,
	"OS-EXT-AZ:availability_zone": "nova", "OS-EXT-SRV-ATTR:hostname": "web-1", "addresses": object{},
	"image": "", "flavor": object{"original_name": "m1.nano", "vcpus": 1},
}

// request returns the request with the addresses of this cloud in the form of [shape].
func (c *sdkCloud) request(r *http.Request) string {
	text := r.Method + " @HTTP" + r.URL.Path
	if r.TLS != nil {
		text = r.Method + " @HTTPS" + r.URL.Path
		if shown := r.TLS.PeerCertificates; len(shown) > 0 {
			text += " as " + shown[0].Subject.CommonName
		}
	}
	return strings.ReplaceAll(text, sdkProject, "@PROJECT")
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// authority is what signed the certificate of the listener with TLS.
type authority struct {
	server tls.Certificate
	files  map[string]string // ca.pem, another.pem of another authority, client.pem and its client.key, both.pem
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	ca := listentest.NewCA(t)
	client := ca.Issue(t, "client")
	return &authority{ca.Issue(t, "server").TLS(), map[string]string{
		"ca.pem": string(ca.CertPEM), "another.pem": string(listentest.NewCA(t).CertPEM),
		"client.pem": string(client.CertPEM), "client.key": string(client.KeyPEM), "both.pem": string(client.CertPEM) + string(client.KeyPEM),
	}}
}
