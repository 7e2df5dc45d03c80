package token

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// KeySource is where an issuer has its keys from: [Keys] or a [Manager].
type KeySource interface {
	source(issuer string) (source, error)
}

// source is the keys of one issuer.
type source interface {
	// snapshot is what signs and is published now.
	snapshot() *snapshot
	// usable is nil if it may sign.
	usable() error
	// maxAge is how long verifiers may keep it.
	maxAge() time.Duration
	// willIssue tells how long tokens will live.
	willIssue(life time.Duration)
}

// fixed is a source that never changes.
type fixed struct{ keys *snapshot }

func (f fixed) snapshot() *snapshot     { return f.keys }
func (fixed) usable() error             { return nil }
func (fixed) maxAge() time.Duration     { return MaxAge }
func (fixed) willIssue(_ time.Duration) {}

// snapshot is a signing key and the documents of all published ones, rendered
// once.
type snapshot struct {
	signing   signingKey
	documents [][]byte // secrets, of which the first signs
	jwks      Document
	discovery Document
}

// newSnapshot is of the published keys, of which the first signs.
func newSnapshot(issuer string, keys []signingKey) (s snapshot, err error) {
	if len(keys) == 0 {
		return s, nil
	}
	s.signing = keys[0]
	var set jose.JSONWebKeySet
	for _, k := range keys {
		set.Keys = append(set.Keys, k.public)
		secret, err := documentSecret(k)
		if err != nil {
			return s, err
		}
		s.documents = append(s.documents, secret)
	}
	if s.jwks, err = render(set); err != nil {
		return s, err
	}
	s.discovery, err = render(newMetadata(issuer, keys))
	return s, err
}

type metadata struct {
	Issuer        string   `json:"issuer"`
	JWKSURI       string   `json:"jwks_uri"`
	ResponseTypes []string `json:"response_types_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	Claims        []string `json:"claims_supported"`
}

func newMetadata(issuer string, keys []signingKey) metadata {
	m := metadata{
		Issuer:        issuer,
		JWKSURI:       strings.TrimSuffix(issuer, "/") + JWKSPath,
		ResponseTypes: []string{"id_token"},
		SubjectTypes:  []string{"public"},
		Claims:        claimNames(),
	}
	for _, k := range keys {
		if alg := k.method.Alg(); !slices.Contains(m.Algorithms, alg) {
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
