package openstack

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/utils"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// newestMinor is the newest microversion of 2 that was tested, that of OpenStack 2026.1. Later ones may change the records.
const newestMinor = 103

// versionDocument is the answer of the root of an API and of each of its versions (Keystone:
// api-ref/source/v3/versions.inc; Nova: api-ref/source/versions.inc). Keystone nests its list once more.
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

// all returns the versions of a list, in both of its forms.
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

// find returns the version with this ID, or with an ID such as ID.14; nil if there is none.
func (d *versionDocument) find(id string) *apiVersion {
	for _, v := range d.all() {
		if v.ID == id || strings.HasPrefix(v.ID, id+".") {
			return &v
		}
	}
	return nil
}

// keystoneV3 finds Keystone's v3 API, starting at the URL of the configuration. The calls have no secret in them.
func (c *Client) keystoneV3(ctx context.Context, p *gophercloud.ProviderClient, address string) (endpoint, error) {
	e, err := parseEndpoint(address)
	if err != nil {
		return endpoint{}, setup("%w", err)
	}
	switch v := e.version(); {
	case strings.HasPrefix(v, "v3"):
		return e, nil
	case strings.HasPrefix(v, "v2"):
		e = e.parent() // removed from Keystone in Queens; an old openrc names it
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
		return e.below("v3"), nil // every Keystone has it there
	}
	return endpoint{}, err
}

// linked returns the URL that a document links to if that version answers at our scheme and host, otherwise the usual
// URL.
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

// projectSegment matches a project's ID, which old clouds have at the end of an endpoint.
var projectSegment = regexp.MustCompile(`\A(?:AUTH_)?[0-9a-f]{32}\z`)

// novaV21 finds Nova's v2.1 API at the endpoint of the catalog or of the configuration, which may end in a version, and
// after it in the project's ID.
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

// novaRoot is novaV21 for an endpoint without a version.
func (c *Client) novaRoot(ctx context.Context, p *gophercloud.ProviderClient, e endpoint) (endpoint, apiVersion, error) {
	doc, err := c.novaDocument(ctx, p, e)
	if isClosed(err) || isSyntax(err) {
		// A proxy may forward only the versions, not the root.
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
	have := map[string]bool{}
	for _, v := range doc.all() {
		have[secret.Show(v.ID)] = true
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
	if hasStatus(err, http.StatusNotFound) {
		return fmt.Errorf("there is no nova at %s, the endpoint of the catalog or of the configuration: %w", shownURL(e), c.explain(err))
	}
	return c.refusal("nova", err)
}

// minor returns the newest microversion of 2 that both sides know (api-guide/source/microversions.rst).
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
		return 0, setup("nova wants microversion 2.%d at least; the newest known here is 2.%d", oldest, newestMinor)
	}
	return min(newest, newestMinor), nil
}

func minorOf2(version string) (int, error) {
	major, minor, err := utils.ParseMicroversion(version)
	if err == nil && (major != 2 || minor < 1) {
		err = fmt.Errorf("%q is not one of 2.1 and later", clip(version))
	}
	return minor, err
}
