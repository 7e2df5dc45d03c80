package openstack

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/clouds"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// maxPEM limits the size of a certificate file. All authorities of a system take about 200 KiB.
const maxPEM = 1 << 20

// credentials are what a login needs: the account, and how to speak TLS.
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

// authOptions returns the account and the scope in gophercloud's type.
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
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.Insecure} //nolint:gosec // the operator configured it, and a warning is logged
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

// describe says who is logged in where. Keystone knows the name by then, so it is no secret.
func (c credentials) describe() string { return c.describeAs(func(name string) string { return name }) }

// claim is describe before a login. A name that Keystone does not know may be a password in the wrong place.
func (c credentials) claim() string { return c.describeAs(secret.Show) }

func (c credentials) describeAs(show func(name string) string) string {
	who := show(c.User.Name)
	if own := c.ApplicationCredential; own.ID != "" || own.Name != "" {
		who = "application credential " + show(cmp.Or(own.ID, own.Name))
	} else if c.User.Name == "" {
		who = "user ID " + show(c.User.ID)
	}
	return fmt.Sprintf("%s at %s (%s)", who, show(strings.TrimSuffix(c.AuthURL, "/")), c.Source)
}
