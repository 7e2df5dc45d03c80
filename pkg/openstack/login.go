package openstack

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// credentials are what a login needs.
type credentials struct {
	auth     gophercloud.AuthOptions
	endpoint gophercloud.EndpointOpts
	tls      *tls.Config
	source   string // for messages
}

// envCloud is the name under which the OS_* variables are handed to the parser
// of clouds.yaml, so that both ways to log in share every rule.
const envCloud = "envvars"

// errNoCredentials says where credentials may come from.
var errNoCredentials = errors.New("no credentials: set openstack.cloud, OS_CLOUD, or OS_AUTH_URL and its companions (source an openrc file)")

func (c Config) credentials() (credentials, error) {
	name := c.Cloud
	if name == "" {
		name = os.Getenv("OS_CLOUD")
	}
	var options []clouds.ParseOption
	source := "the OS_* variables"
	if name != "" {
		source = fmt.Sprintf("cloud %s of clouds.yaml", secret.Quote(name))
		// What the named cloud says wins over the variables of a shell.
		options = append(options, clouds.WithCloudName(name), clouds.WithRegion(c.Region), clouds.WithEndpointType(c.Interface))
		if c.CloudsFile != "" {
			options = append(options, clouds.WithLocations(c.CloudsFile))
		}
	} else {
		cloud, err := environment()
		if err != nil {
			return credentials{}, err
		}
		// JSON is YAML, and the parser takes nothing but a file.
		file, err := json.Marshal(clouds.Clouds{Clouds: map[string]clouds.Cloud{envCloud: cloud}})
		if err != nil {
			return credentials{}, fmt.Errorf("%s: %w", source, err)
		}
		options = append(options, clouds.WithCloudName(envCloud), clouds.WithCloudsYAML(bytes.NewReader(file)))
		if c.Region != "" {
			options = append(options, clouds.WithRegion(c.Region))
		}
		if c.Interface != "" {
			options = append(options, clouds.WithEndpointType(c.Interface))
		}
	}

	if file := os.Getenv("OS_CLIENT_CONFIG_FILE"); name != "" && c.CloudsFile == "" && file != "" && !secret.IsPath(file, ".") {
		return credentials{}, fmt.Errorf("OS_CLIENT_CONFIG_FILE: there is no such file; the value is %s", secret.Hidden)
	}
	auth, endpoint, tlsConfig, err := parseCloud(options)
	if err != nil {
		return credentials{}, fmt.Errorf("%s: %w", source, err)
	}
	complete(&auth)
	if endpoint.Region == "" {
		endpoint.Region = os.Getenv("OS_REGION_NAME")
	}
	if auth.IdentityEndpoint == "" {
		return credentials{}, fmt.Errorf("%s: there is no auth_url", source)
	}
	if err := validAuthURL(auth.IdentityEndpoint); err != nil {
		return credentials{}, fmt.Errorf("%s: %w", source, err)
	}
	if _, err := auth.ToTokenV3CreateMap(nil); err != nil {
		return credentials{}, fmt.Errorf("%s: %w", source, hideValues(err))
	}
	tlsConfig.MinVersion = tls.VersionTLS12
	return credentials{auth, endpoint, tlsConfig, source}, nil
}

// parseCloud turns the parser's panic over a cloud without `auth` into an error.
func parseCloud(options []clouds.ParseOption) (a gophercloud.AuthOptions, e gophercloud.EndpointOpts, t *tls.Config, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("the cloud has no auth section")
		}
	}()
	a, e, t, err = clouds.Parse(options...)
	if err != nil {
		err = hideValues(err)
	}
	return a, e, t, err
}

// environment reads all that python-openstackclient takes for a login by
// password or application credential
// (https://docs.openstack.org/python-openstackclient/latest/cli/man/openstack.html).
func environment() (clouds.Cloud, error) {
	first := func(names ...string) string {
		for _, name := range names {
			if v := os.Getenv(name); v != "" {
				return v
			}
		}
		return ""
	}
	if os.Getenv("OS_AUTH_URL") == "" {
		return clouds.Cloud{}, errNoCredentials
	}
	if t := os.Getenv("OS_AUTH_TYPE"); !supportedAuthType(t) {
		return clouds.Cloud{}, fmt.Errorf("OS_AUTH_TYPE=%s is not supported; password and v3applicationcredential are", secret.Show(t))
	}
	face := first("OS_INTERFACE", "OS_ENDPOINT_TYPE")
	switch strings.TrimSuffix(face, "URL") {
	case "", "public", "internal", "admin":
	default:
		// The parser would take it for public.
		return clouds.Cloud{}, fmt.Errorf("OS_INTERFACE or OS_ENDPOINT_TYPE: %s is none of public, internal, admin", secret.Quote(face))
	}
	cloud := clouds.Cloud{
		AuthInfo: &clouds.AuthInfo{
			AuthURL:                     os.Getenv("OS_AUTH_URL"),
			Username:                    first("OS_USERNAME", "OS_USER_NAME"),
			UserID:                      first("OS_USER_ID", "OS_USERID"),
			Password:                    os.Getenv("OS_PASSWORD"),
			ApplicationCredentialID:     os.Getenv("OS_APPLICATION_CREDENTIAL_ID"),
			ApplicationCredentialName:   os.Getenv("OS_APPLICATION_CREDENTIAL_NAME"),
			ApplicationCredentialSecret: os.Getenv("OS_APPLICATION_CREDENTIAL_SECRET"),
			ProjectID:                   first("OS_PROJECT_ID", "OS_TENANT_ID"),
			ProjectName:                 first("OS_PROJECT_NAME", "OS_TENANT_NAME"),
			UserDomainID:                first("OS_USER_DOMAIN_ID", "OS_DEFAULT_DOMAIN_ID", "OS_DEFAULT_DOMAIN"),
			UserDomainName:              first("OS_USER_DOMAIN_NAME", "OS_DEFAULT_DOMAIN_NAME"),
			ProjectDomainID:             first("OS_PROJECT_DOMAIN_ID", "OS_DEFAULT_DOMAIN_ID", "OS_DEFAULT_DOMAIN"),
			ProjectDomainName:           first("OS_PROJECT_DOMAIN_NAME", "OS_DEFAULT_DOMAIN_NAME"),
			DomainID:                    os.Getenv("OS_DOMAIN_ID"),
			DomainName:                  os.Getenv("OS_DOMAIN_NAME"),
			SystemScope:                 os.Getenv("OS_SYSTEM_SCOPE"),
			TrustID:                     os.Getenv("OS_TRUST_ID"),
		},
		RegionName:     os.Getenv("OS_REGION_NAME"),
		EndpointType:   face,
		CACertFile:     os.Getenv("OS_CACERT"),
		ClientCertFile: os.Getenv("OS_CERT"),
		ClientKeyFile:  os.Getenv("OS_KEY"),
	}
	// A name given beside an ID is what Keystone would call ambiguous; the more
	// specific variable wins over the default.
	if os.Getenv("OS_USER_DOMAIN_ID") == "" && cloud.AuthInfo.UserDomainName != "" {
		cloud.AuthInfo.UserDomainID = ""
	}
	if os.Getenv("OS_PROJECT_DOMAIN_ID") == "" && cloud.AuthInfo.ProjectDomainName != "" {
		cloud.AuthInfo.ProjectDomainID = ""
	}
	return cloud, nil
}

func supportedAuthType(t string) bool {
	switch t {
	case "", "password", "v3password", "v3applicationcredential", "applicationcredential":
		return true
	}
	return false
}

// complete fills in what python-openstackclient assumes and drops what the
// chosen way to log in must not carry.
func complete(a *gophercloud.AuthOptions) {
	a.AllowReauth = true
	// A token cannot be renewed, and gophercloud prefers it to all but a password.
	a.TokenID = ""
	if a.ApplicationCredentialID != "" || a.ApplicationCredentialName != "" {
		// An application credential is bound to its project; Keystone refuses a
		// scope beside it, and gophercloud prefers a password.
		a.Password, a.Scope, a.TenantID, a.TenantName = "", nil, "", ""
	}
	if a.UserID != "" {
		a.Username, a.DomainID, a.DomainName = "", "", ""
	}
	if a.Username != "" {
		a.DomainID, a.DomainName = domain(a.DomainID, a.DomainName)
	}
	if s := a.Scope; s != nil && s.ProjectName != "" {
		s.DomainID, s.DomainName = domain(s.DomainID, s.DomainName)
	}
}

// domain gives the one way to name a domain: its ID, else its name, else
// "default", as python-openstackclient has it.
func domain(id, name string) (string, string) {
	switch {
	case id != "":
		return id, ""
	case name != "":
		return "", name
	}
	return "default", ""
}

// describe says who logged in where, without any secret. Keystone knows the name, so
// it is one.
func (c credentials) describe() string { return c.describeAs(func(name string) string { return name }) }

// claim is describe before Keystone knew the name: it may be a password that is in
// the wrong place.
func (c credentials) claim() string { return c.describeAs(secret.Show) }

func (c credentials) describeAs(show func(name string) string) string {
	who := show(c.auth.Username)
	switch {
	case c.auth.ApplicationCredentialID != "":
		who = "application credential " + show(c.auth.ApplicationCredentialID)
	case c.auth.ApplicationCredentialName != "":
		who = "application credential " + show(c.auth.ApplicationCredentialName)
	case c.auth.Username == "":
		who = "user ID " + show(c.auth.UserID)
	}
	return fmt.Sprintf("%s at %s (%s)", who, show(strings.TrimSuffix(c.auth.IdentityEndpoint, "/")), c.source)
}
