package openstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/utils"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// endpoint is the URL of an API. Scheme and host are those that the configuration or
// the catalog names, whatever a version document links to: behind a proxy that ends TLS
// such links often have another scheme, and a password or token must not go there.
type endpoint struct {
	origin string // scheme and host, and user information if there is some
	path   string // without a slash at its end
}

func (e endpoint) String() string { return e.origin + e.path }

// base is the URL as gophercloud wants it.
func (e endpoint) base() string { return e.String() + "/" }

// version is the last segment of the path if it is that of a version, such as v2.1.
func (e endpoint) version() string {
	last := e.path[strings.LastIndexByte(e.path, '/')+1:]
	if !versionSegment.MatchString(last) {
		return ""
	}
	return last
}

var versionSegment = regexp.MustCompile(`\Av[0-9]+(?:\.[0-9]+)?\z`)

// parent is the URL without its last segment.
func (e endpoint) parent() endpoint {
	e.path = e.path[:max(0, strings.LastIndexByte(e.path, '/'))]
	return e
}

func (e endpoint) below(segment string) endpoint {
	e.path += "/" + segment
	return e
}

// parseEndpoint reads the URL of an API. There is no place for a user in one of the
// configuration: Keystone takes none there.
func parseEndpoint(s string) (endpoint, error) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return endpoint{}, fmt.Errorf("%s is not a URL such as https://cloud.example.com/v3", secret.Quote(s))
	}
	return endpoint{u.Scheme + "://" + u.Host, strings.TrimRight(u.EscapedPath(), "/")}, nil
}

// follow gives the URL that a version document links to, at the same scheme and host.
// A path that is not right below the one that was asked is that of a proxy's far side,
// unless the link names our host.
func (e endpoint) follow(href, segment string) endpoint {
	u, err := url.Parse(href)
	if err != nil || !strings.HasPrefix(u.Path, "/") {
		return e.below(segment) // a path without it would be a part of the host
	}
	linked := endpoint{e.origin, strings.TrimRight(u.EscapedPath(), "/")}
	_, host, _ := strings.Cut(e.origin, "://")
	if linked.version() != "" && (u.Host == host || linked.parent() == e) {
		return linked
	}
	return e.below(segment)
}

// versionDocument is what the root of an API answers, and what each of its versions
// does (Keystone: api-ref/source/v3/versions.inc; Nova:
// api-ref/source/versions.inc). Keystone has one list more around its versions.
type versionDocument struct {
	Version  *apiVersion     `json:"version"`
	Versions json.RawMessage `json:"versions"`
}

type apiVersion struct {
	ID         string `json:"id"`
	Version    string `json:"version"` // newest microversion
	MinVersion string `json:"min_version"`
	Links      []struct {
		Rel  string `json:"rel"`
		Href string `json:"href"`
	} `json:"links"`
}

func (v *apiVersion) href() string {
	for _, link := range v.Links {
		if link.Rel == "self" {
			return link.Href
		}
	}
	return ""
}

// all are the versions of a list, in both of its forms.
func (d *versionDocument) all() []apiVersion {
	var list []apiVersion
	var nested struct {
		Values []apiVersion `json:"values"`
	}
	switch {
	case json.Unmarshal(d.Versions, &list) == nil:
		return list
	case json.Unmarshal(d.Versions, &nested) == nil:
		return nested.Values
	}
	return nil
}

// find is the version whose ID begins so.
func (d *versionDocument) find(id string) *apiVersion {
	for _, v := range d.all() {
		if v.ID == id || strings.HasPrefix(v.ID, id+".") {
			return &v
		}
	}
	return nil
}

// keystoneV3 finds Keystone's v3 API, starting at the URL of the configuration. The
// calls carry no secret.
func (c *Client) keystoneV3(ctx context.Context, p *gophercloud.ProviderClient, address string) (endpoint, error) {
	e, err := parseEndpoint(address)
	if err != nil {
		return endpoint{}, setup("%w", err)
	}
	switch v := e.version(); {
	case strings.HasPrefix(v, "v3"):
		return e, nil
	case strings.HasPrefix(v, "v2"):
		e = e.parent() // Keystone has had no v2.0 since Queens; an old openrc names it
	}
	service := &gophercloud.ServiceClient{ProviderClient: p, Type: "identity"}
	var doc versionDocument
	_, err = service.Get(asKeystone(ctx), e.base(), &doc, &gophercloud.RequestOpts{OkCodes: []int{http.StatusOK, http.StatusMultipleChoices}})
	switch v := doc.find("v3"); {
	case err == nil && v != nil:
		return c.linked(asKeystone(ctx), service, e, e.follow(v.href(), "v3"), "v3"), nil
	case err == nil && doc.Version != nil && strings.HasPrefix(doc.Version.ID, "v3"):
		return e, nil
	case err == nil, isClosed(err), isSyntax(err):
		return e.below("v3"), nil // where each Keystone has it
	}
	return endpoint{}, err
}

// linked is the URL that a document links to if there is such a version at our scheme
// and host, else the usual one.
func (c *Client) linked(ctx context.Context, service *gophercloud.ServiceClient, e, link endpoint, segment string) endpoint {
	if link == e.below(segment) {
		return link
	}
	var doc versionDocument
	if _, err := service.Get(ctx, link.base(), &doc, nil); err != nil || doc.Version == nil {
		return e.below(segment)
	}
	return link
}

// isClosed reports whether a firewall or proxy may have answered for an API: its
// versions can be open all the same.
func isClosed(err error) bool {
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed} {
		if gophercloud.ResponseCodeIs(err, status) {
			return true
		}
	}
	return false
}

func isSyntax(err error) bool {
	return errors.As(err, new(*json.SyntaxError)) || errors.As(err, new(*json.UnmarshalTypeError))
}

// compute is where Nova is, in which region, and what it speaks.
type compute struct {
	endpoint endpoint
	region   string
	version  apiVersion
}

// projectSegment is a project's ID at the end of an endpoint, where old clouds have it.
var projectSegment = regexp.MustCompile(`\A(?:AUTH_)?[0-9a-f]{32}\z`)

// novaV21 finds Nova's v2.1 API: at the endpoint of the catalog or of the
// configuration, which may or may not end in a version and in the project's ID.
func (c *Client) novaV21(ctx context.Context, p *gophercloud.ProviderClient, e endpoint, projectID string) (endpoint, apiVersion, error) {
	document := e
	last := e.path[strings.LastIndexByte(e.path, '/')+1:]
	if last != "" && (last == projectID || projectSegment.MatchString(last)) {
		document = e.parent()
	}
	switch version := document.version(); {
	case version == "":
		return c.novaRoot(ctx, p, document)
	case version == "v2" || version == "v2.0":
		right := shownURL(document.parent().below("v2.1"))
		return endpoint{}, apiVersion{}, setup("%s is nova's legacy v2 API, which has no microversions: set nova's endpoint in keystone's catalog to %s (openstack endpoint set --url), "+
			"or compute_endpoint_override of clouds.yaml, or OS_COMPUTE_ENDPOINT_OVERRIDE", shownURL(e), right)
	case !strings.HasPrefix(version, "v2."):
		return endpoint{}, apiVersion{}, setup("%s is not nova's v2.1 API: its path says %s", shownURL(e), version)
	}
	doc, err := c.novaDocument(ctx, p, document)
	if err != nil {
		return endpoint{}, apiVersion{}, c.noDocument(document, err)
	}
	if doc.Version == nil {
		return endpoint{}, apiVersion{}, setup("%s is not nova's v2.1 API: it answers without a version", shownURL(document))
	}
	return e, *doc.Version, nil
}

// novaRoot finds it from an endpoint without a version.
func (c *Client) novaRoot(ctx context.Context, p *gophercloud.ProviderClient, e endpoint) (endpoint, apiVersion, error) {
	doc, err := c.novaDocument(ctx, p, e)
	if isClosed(err) || isSyntax(err) {
		// A proxy can have the versions alone.
		if below, again := c.novaDocument(ctx, p, e.below("v2.1")); again == nil && below.Version != nil {
			return e.below("v2.1"), *below.Version, nil
		}
	}
	if err != nil {
		return endpoint{}, apiVersion{}, c.noDocument(e, err)
	}
	if doc.Version != nil {
		return e, *doc.Version, nil
	}
	if v := doc.find("v2.1"); v != nil {
		service := &gophercloud.ServiceClient{ProviderClient: p, Type: "compute"}
		return c.linked(ctx, service, e, e.follow(v.href(), "v2.1"), "v2.1"), *v, nil
	}
	var have []string
	for _, v := range doc.all() {
		have = append(have, secret.Show(v.ID))
	}
	if len(have) > 0 {
		return endpoint{}, apiVersion{}, setup("%s is not nova's v2.1 API: it has the versions %s", shownURL(e), listed(have))
	}
	return endpoint{}, apiVersion{}, setup("%s is not nova's v2.1 API: it answers without a version", shownURL(e))
}

func (c *Client) novaDocument(ctx context.Context, p *gophercloud.ProviderClient, e endpoint) (doc versionDocument, err error) {
	service := &gophercloud.ServiceClient{ProviderClient: p, Type: "compute"}
	_, err = service.Get(ctx, e.base(), &doc, &gophercloud.RequestOpts{OkCodes: []int{http.StatusOK, http.StatusMultipleChoices}})
	return doc, err
}

func (c *Client) noDocument(e endpoint, err error) error {
	if gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
		return fmt.Errorf("there is no nova at %s, where the catalog or the configuration has it: %w", shownURL(e), c.explain(err))
	}
	return c.refusal("nova", err)
}

// parseCatalogURL reads a URL of the catalog, which can have user information.
func parseCatalogURL(s string) (endpoint, error) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return endpoint{}, fmt.Errorf("%s is not a URL", secret.Quote(s))
	}
	origin := u.Scheme + "://"
	if u.User != nil {
		origin += u.User.String() + "@"
	}
	return endpoint{origin + u.Host, strings.TrimRight(u.EscapedPath(), "/")}, nil
}

func shownURL(e endpoint) string { return secret.Text(e.base()) }

// minor picks the newest microversion that both sides know
// (api-guide/source/microversions.rst).
func (v apiVersion) minor(e endpoint) (int, error) {
	oldest, err := minorOf2(v.MinVersion)
	if err != nil {
		return 0, setup("%s: min_version: %w", shownURL(e), err)
	}
	newest, err := minorOf2(v.Version)
	if err != nil {
		return 0, setup("%s: version: %w", shownURL(e), err)
	}
	if oldest > newestMinor {
		return 0, setup("nova wants microversion 2.%d at least, and 2.%d is the newest known here", oldest, newestMinor)
	}
	return min(newest, newestMinor), nil
}

func minorOf2(version string) (int, error) {
	major, minor, err := utils.ParseMicroversion(version)
	if err == nil && (major != 2 || minor < 1) {
		err = fmt.Errorf("%q is not one of 2.1 and later", secret.Clip(version, maxShown))
	}
	return minor, err
}

// service is an entry of the catalog.
type service struct {
	Type      string            `json:"type"`
	Name      string            `json:"name"`
	Endpoints []catalogEndpoint `json:"endpoints"`
}

type catalogEndpoint struct {
	Interface string `json:"interface"`
	Region    string `json:"region"`
	RegionID  string `json:"region_id"`
	URL       string `json:"url"`
}

func (e catalogEndpoint) face() string { return strings.TrimSuffix(e.Interface, "URL") }

func (e catalogEndpoint) isIn(region string) bool {
	return region == "" || e.Region == region || e.RegionID == region
}

// pick chooses Nova's endpoint of the catalog: the first of the best interface.
func (c *Client) pick(catalog []service) (catalogEndpoint, error) {
	wanted := c.creds.Compute
	var types, names []string
	var all []catalogEndpoint
	for _, s := range catalog {
		if !slices.Contains(types, secret.Show(s.Type)) {
			types = append(types, secret.Show(s.Type))
		}
		if s.Type == wanted.Type {
			names = append(names, secret.Show(s.Name))
		}
		if s.Type == wanted.Type && (wanted.Name == "" || s.Name == wanted.Name) {
			all = append(all, s.Endpoints...)
		}
	}
	for _, face := range c.creds.Interfaces {
		for _, e := range all {
			if e.face() == face && e.isIn(c.creds.Region) {
				return e, nil
			}
		}
	}
	faces, regions := map[string]bool{}, map[string]bool{}
	for _, e := range all {
		if e.isIn(c.creds.Region) {
			faces[secret.Show(e.face())] = true
		}
		if slices.Contains(c.creds.Interfaces, e.face()) {
			regions[secret.Show(e.Region)] = true
		}
	}
	text := fmt.Sprintf("keystone's catalog has no %s endpoint of type %s%s", strings.Join(c.creds.Interfaces, " or "), secret.Show(wanted.Type), inRegion(c.creds.Region))
	switch {
	case len(all) == 0 && len(names) > 0 && !slices.Contains(names, wanted.Name):
		text += fmt.Sprintf(" and name %s; the names are %s (compute_service_name)", secret.Show(wanted.Name), listed(names))
	case len(all) == 0:
		text += "; its types are " + listed(types)
	case len(faces) == 0:
		text += "; the regions that have one are " + listed(keysOf(regions)) + " (region_name, OS_REGION_NAME or openstack.region)"
	default:
		text += "; there it has " + listed(keysOf(faces)) + " (interface, OS_INTERFACE or openstack.interface)"
	}
	return catalogEndpoint{}, setup("%s", text)
}

func keysOf(set map[string]bool) []string {
	var all []string
	for key := range set {
		all = append(all, key)
	}
	slices.Sort(all)
	return all
}

func listed(all []string) string {
	if len(all) == 0 {
		return "none"
	}
	if len(all) > 20 {
		return strings.Join(all[:20], ", ") + ", ..."
	}
	return strings.Join(all, ", ")
}

func inRegion(region string) string {
	if region == "" {
		return ""
	}
	return " in region " + secret.Show(region)
}
