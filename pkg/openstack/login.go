package openstack

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/clouds"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// maxPEM bounds the files of certificates. All authorities of a system take some 200 KiB.
const maxPEM = 1 << 20

// credentials are what a login needs.
type credentials struct {
	*clouds.Cloud
	auth gophercloud.AuthOptions
	tls  *tls.Config
}

func (p Plan) credentials() (credentials, error) {
	found, err := clouds.Read(p.query, os.Environ())
	if err != nil {
		return credentials{}, hideValues(err)
	}
	creds := credentials{Cloud: found, auth: authOptions(found)}
	for name, address := range map[string]string{"auth_url": found.AuthURL, "compute_endpoint_override": found.Compute.Endpoint, "identity_endpoint_override": found.Identity} {
		if address == "" {
			continue
		}
		if _, err := parseEndpoint(address); err != nil {
			return credentials{}, fmt.Errorf("%s: %s: %w", found.Source, name, err)
		}
	}
	if _, err := creds.auth.ToTokenV3CreateMap(nil); err != nil {
		return credentials{}, fmt.Errorf("%s: %w", found.Source, hideValues(err))
	}
	if creds.tls, err = tlsConfig(found); err != nil {
		return credentials{}, fmt.Errorf("%s: %w", found.Source, err)
	}
	return creds, nil
}

// authOptions are the account and the scope in gophercloud's words.
func authOptions(c *clouds.Cloud) gophercloud.AuthOptions {
	scope := &gophercloud.AuthScope{
		ProjectID: c.Scope.Project.ID, ProjectName: c.Scope.Project.Name,
		DomainID: c.Scope.Domain.ID, DomainName: c.Scope.Domain.Name,
		System: c.Scope.System, TrustID: c.Scope.Trust,
	}
	if d := c.Scope.Project.Domain; d != (clouds.Domain{}) {
		scope.DomainID, scope.DomainName = d.ID, d.Name
	}
	return gophercloud.AuthOptions{
		IdentityEndpoint: c.AuthURL,
		Username:         c.User.Name, UserID: c.User.ID, DomainID: c.User.Domain.ID, DomainName: c.User.Domain.Name,
		Password:                c.Password,
		ApplicationCredentialID: c.ApplicationCredential.ID, ApplicationCredentialName: c.ApplicationCredential.Name,
		ApplicationCredentialSecret: c.ApplicationCredential.Secret,
		Scope:                       scope, AllowReauth: true,
	}
}

func tlsConfig(c *clouds.Cloud) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.Insecure} //nolint:gosec // as the operator says, and is warned of
	if c.CACert != "" {
		text, err := secret.ReadFile(c.CACert, maxPEM)
		if err != nil {
			return nil, fmt.Errorf("cacert: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("cacert: %w", secret.FileError(c.CACert, errors.New("has no certificate in PEM")))
		}
	}
	if c.Cert == "" {
		return config, nil
	}
	cert, err := secret.ReadFile(c.Cert, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("cert: %w", err)
	}
	key := cert
	if c.Key != "" {
		if key, err = secret.ReadFile(c.Key, maxPEM); err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("cert: %w", secret.FileError(c.Cert, hideValues(err)))
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

// grant is what Keystone says of a token that it issued
// (api-ref/source/v3/authenticate-v3.inc, "Password authentication with scoped authorization").
type grant struct {
	Project *struct {
		ID string `json:"id"`
	} `json:"project"`
	Domain *struct {
		ID string `json:"id"`
	} `json:"domain"`
	System  map[string]bool `json:"system"`
	Catalog []service       `json:"catalog"`
}

func (g *grant) scoped() bool { return g.Project != nil || g.Domain != nil || len(g.System) > 0 }

// provider is a new client for the calls of one login. It has no token yet.
func (c *Client) newProvider() *gophercloud.ProviderClient {
	p := &gophercloud.ProviderClient{HTTPClient: newHTTPClient(c.plan, c.transport)}
	p.UseTokenLock()
	if c.userAgent != "" {
		p.UserAgent.Prepend(c.userAgent)
	}
	return p
}

// signIn gets a token from the Keystone whose v3 API has this URL.
func (c *Client) signIn(ctx context.Context, p *gophercloud.ProviderClient, keystone string) (*grant, error) {
	auth := c.creds.auth // gophercloud writes into it
	scope := *auth.Scope
	auth.Scope = &scope
	service := &gophercloud.ServiceClient{ProviderClient: p, Type: "identity", Endpoint: keystone}
	result := tokens.Create(asKeystone(ctx), service, &auth)
	if result.Err != nil {
		return nil, result.Err
	}
	var granted grant
	if err := result.ExtractIntoStructPtr(&granted, "token"); err != nil {
		return nil, err
	}
	return &granted, p.SetTokenAndAuthResult(result)
}

// guardLogins keeps a cloud that refuses our token from being answered with a
// login for each refusal, and a caller who leaves from ending the login that
// others wait for.
func (c *Client) guardLogins(provider *gophercloud.ProviderClient, keystone string) {
	var mu sync.Mutex
	last := c.now()
	provider.ReauthFunc = func(context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		now := c.now()
		if err := c.logins.err(); err != nil {
			return err
		}
		if now.Sub(last) < pauseUnreachable {
			return errors.New("nova refuses a token that keystone issued within the last second")
		}
		ctx, cancel := context.WithTimeout(c.life, c.plan.timeout)
		defer cancel()
		again := c.newProvider()
		if _, err := c.signIn(ctx, again, keystone); err != nil {
			err = c.refusal("keystone", err)
			c.logins.failed(err)
			return err
		}
		provider.CopyTokenFrom(again)
		last = c.now()
		c.logins.succeeded()
		return nil
	}
}

// describe says who logged in where, without any secret. Keystone knows the name, so
// it is one.
func (c credentials) describe() string { return c.describeAs(func(name string) string { return name }) }

// claim is describe before Keystone knew the name: it may be a password that is in
// the wrong place.
func (c credentials) claim() string { return c.describeAs(secret.Show) }

func (c credentials) describeAs(show func(name string) string) string {
	who := show(c.User.Name)
	switch own := c.ApplicationCredential; {
	case own.ID != "":
		who = "application credential " + show(own.ID)
	case own.Name != "":
		who = "application credential " + show(own.Name)
	case c.User.Name == "":
		who = "user ID " + show(c.User.ID)
	}
	return fmt.Sprintf("%s at %s (%s)", who, show(strings.TrimSuffix(c.AuthURL, "/")), c.Source)
}
