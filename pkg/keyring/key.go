package keyring

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const (
	minRSABits  = 2048 // RFC 7518, section 3.3
	maxRSABits  = 8192 // signing with a longer key takes too long for a request
	maxKeys     = 10   // some verifiers refuse longer sets
	maxKeyFile  = 64 << 10
	pemPKCS1    = "RSA PRIVATE KEY"
	pemSEC1     = "EC PRIVATE KEY"
	pemPKCS8    = "PRIVATE KEY"
	pemECParams = "EC PARAMETERS" // openssl ecparam -genkey writes it in front of the key
)

// Key is a private key with its ID, its algorithm and its public half. The zero value is
// not a key.
type Key struct {
	private crypto.Signer
	alg     string
	public  jose.JSONWebKey
	jwk     []byte
}

// ID is the thumbprint of RFC 7638, so the same key has the same ID everywhere.
func (k Key) ID() string { return k.public.KeyID }

// Algorithm is the JWS algorithm of the key (RFC 7518, section 3.1).
func (k Key) Algorithm() string { return k.alg }

// Signer signs with the private key.
func (k Key) Signer() crypto.Signer { return k.private }

// JWK is the public key as JSON (RFC 7517). The caller must not change it.
func (k Key) JWK() json.RawMessage { return k.jwk }

// Secret derives a secret for one purpose from the private key (HKDF with
// SHA-256, RFC 5869). It cannot be computed from the public key.
func (k Key) Secret(purpose string) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, err
	}
	return hkdf.Key(sha256.New, der, nil, purpose, sha256.Size)
}

// KeySet has the keys that are published at one time. The first one signs. It never changes,
// so a key set from files ([LoadKeys]) is used where otherwise a [Ring] is.
type KeySet struct{ keys []Key }

// Keys returns the keys, the signing key first, none if there is no key set. The caller
// must not change them.
func (s *KeySet) Keys() []Key { return s.keys }

// KeySet returns s.
func (s *KeySet) KeySet() *KeySet { return s }

// Check returns an error if there is no key.
func (s *KeySet) Check(string) error {
	if s == nil || len(s.keys) == 0 {
		return errors.New("there is no signing key")
	}
	return nil
}

// Usable returns nil: keys from files always sign.
func (*KeySet) Usable() error { return nil }

// MaxAge is the default of keys.maxAge.
func (*KeySet) MaxAge() time.Duration { return defaultMaxAge }

// WillIssue does nothing, because these keys are never removed.
func (*KeySet) WillIssue(time.Duration) {}

// LoadKeys reads private keys in PEM: PKCS#1, SEC1 or PKCS#8; RSA of 2048 to
// 8192 bits, or EC on P-256 or P-384. The error joins one error for each file with a
// problem.
func LoadKeys(files []string) (*KeySet, error) {
	keys, problems := loadFiles(files, func(file string) (Key, string, error) {
		key, err := loadKey(file)
		return key, key.public.KeyID, err
	})
	if len(files) == 0 {
		problems = append(problems, errors.New("at least one signing key is needed"))
	}
	if len(files) > maxKeys {
		problems = append(problems, fmt.Errorf("%d keys are more than the %d that verifiers take", len(files), maxKeys))
	}
	return &KeySet{keys}, errors.Join(problems...)
}

// loadFiles reads one key from each file. load also returns an ID; two files with the same
// ID are a problem.
func loadFiles[T any](files []string, load func(file string) (key T, id string, err error)) (keys []T, problems []error) {
	seen := map[string]string{}
	for _, file := range files {
		key, id, err := load(file)
		if err != nil {
			problems = append(problems, secret.FileError(file, err))
			continue
		}
		if first, ok := seen[id]; ok {
			problems = append(problems, fmt.Errorf("%s: is the same key as %s", file, first))
			continue
		}
		seen[id] = file
		keys = append(keys, key)
	}
	return keys, problems
}

// published reports whether one of the keys has a kid.
func published(keys []Key, kid string) bool {
	return slices.ContainsFunc(keys, func(k Key) bool { return k.public.KeyID == kid })
}

func loadKey(file string) (Key, error) {
	data, err := secret.ReadFile(file, maxKeyFile)
	if err != nil {
		return Key{}, err
	}
	return parseKey(data)
}

var errNotPEM = errors.New("holds no private key in PEM (make one with: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072)")

func parseKey(data []byte) (Key, error) {
	block, rest := pem.Decode(data)
	if block != nil && block.Type == pemECParams {
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		return Key{}, errNotPEM
	}
	if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
		return Key{}, errors.New("is encrypted with a passphrase, which a server cannot ask for")
	}
	var key any
	var err error
	switch block.Type {
	case pemPKCS1:
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case pemSEC1:
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case pemPKCS8:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	default:
		return Key{}, fmt.Errorf("holds a %s, not a private key", block.Type)
	}
	if next, _ := pem.Decode(rest); next != nil && strings.HasSuffix(next.Type, pemPKCS8) {
		return Key{}, errors.New("holds more than one private key; put each into its own file")
	}
	if err != nil {
		return Key{}, err
	}
	return newKey(key)
}

func newKey(key any) (Key, error) {
	var s Key
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if bits := k.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return s, fmt.Errorf("is an RSA key of %d bits; %d to %d are accepted", bits, minRSABits, maxRSABits)
		}
		s.private, s.alg = k, RS256
	case *ecdsa.PrivateKey:
		switch k.Curve {
		case elliptic.P256():
			s.private, s.alg = k, ES256
		case elliptic.P384():
			s.private, s.alg = k, es384
		default:
			return s, fmt.Errorf("is on curve %s; P-256 and P-384 are accepted", k.Curve.Params().Name)
		}
	default:
		return s, fmt.Errorf("is a %T; RSA and EC keys are accepted", key)
	}
	s.public = jose.JSONWebKey{Key: s.private.Public(), Algorithm: s.alg, Use: "sig"}
	thumbprint, err := s.public.Thumbprint(crypto.SHA256)
	if err != nil {
		return s, err
	}
	s.public.KeyID = base64.RawURLEncoding.EncodeToString(thumbprint)
	s.jwk, err = s.public.MarshalJSON()
	return s, err
}
