package token

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/attest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring"
)

// KeySource holds the keys of an issuer: [keyring.KeySet] or a [keyring.Ring].
type KeySource interface {
	// Check returns an error unless the keys belong to the issuer.
	Check(issuer string) error
	// KeySet returns the keys that are published now. The first one signs.
	KeySet() *keyring.KeySet
	// Usable returns nil if the first key may sign now.
	Usable() error
	// MaxAge returns how long verifiers may cache the keys.
	MaxAge() time.Duration
	// WillIssue announces the longest life of a token.
	WillIssue(life time.Duration)
}

// rendered holds the documents of the published keys, which are rendered once.
type rendered struct {
	of        *keyring.KeySet
	documents [][]byte // secrets of instance documents; the first one signs
	jwks      Document
	discovery Document
}

// current renders the published keys if they changed. Without keys, or if they cannot be
// rendered, nothing is published.
func (i *Issuer) current() *rendered {
	published := i.keys.KeySet()
	if r := i.rendered.Load(); r != nil && r.of == published {
		return r
	}
	r, err := newRendered(i.plan.issuer, published)
	if err != nil {
		r = &rendered{of: published}
	}
	i.rendered.Store(r)
	return r
}

func newRendered(issuer attest.Issuer, published *keyring.KeySet) (*rendered, error) {
	r := &rendered{of: published}
	keys := published.Keys()
	if len(keys) == 0 {
		return r, nil
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	for _, k := range keys {
		set.Keys = append(set.Keys, k.JWK())
		secret, err := k.Secret(documentType)
		if err != nil {
			return nil, err
		}
		r.documents = append(r.documents, secret)
	}
	var err error
	if r.jwks, err = render(set); err != nil {
		return nil, err
	}
	r.discovery, err = render(newMetadata(issuer, keys))
	return r, err
}

type metadata struct {
	Issuer        string   `json:"issuer"`
	JWKSURI       string   `json:"jwks_uri"`
	ResponseTypes []string `json:"response_types_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	Claims        []string `json:"claims_supported"`
}

func newMetadata(issuer attest.Issuer, keys []keyring.Key) metadata {
	m := metadata{
		Issuer:        issuer.String(),
		JWKSURI:       issuer.Below(JWKSPath),
		ResponseTypes: []string{"id_token"},
		SubjectTypes:  []string{"public"},
		Claims:        claimNames(),
	}
	for _, k := range keys {
		if alg := k.Algorithm(); !slices.Contains(m.Algorithms, alg) {
			m.Algorithms = append(m.Algorithms, alg)
		}
	}
	return m
}

func render(v any) (Document, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return Document{}, err
	}
	sum := sha256.Sum256(body)
	return Document{Body: body, ETag: `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`}, nil
}
