package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
)

const (
	minRSABits  = 2048 // RFC 7518, section 3.3
	maxRSABits  = 8192 // signing with a longer one takes longer than a request may
	maxKeys     = 10   // some verifiers refuse longer sets
	maxKeyFile  = 64 << 10
	pemPKCS1    = "RSA PRIVATE KEY"
	pemSEC1     = "EC PRIVATE KEY"
	pemPKCS8    = "PRIVATE KEY"
	pemECParams = "EC PARAMETERS" // openssl ecparam -genkey writes it in front of the key
)

// signingKey is a private key with all that follows from it.
type signingKey struct {
	private crypto.Signer
	method  jwt.SigningMethod
	public  jose.JSONWebKey
}

// Keys is a set of signing keys. The first signs, all are published.
type Keys struct{ keys []signingKey }

// source implements [KeySource].
func (k Keys) source(issuer string) (source, error) {
	if len(k.keys) == 0 {
		return nil, errors.New("there is no signing key")
	}
	s, err := newSnapshot(issuer, k.keys)
	return fixed{&s}, err
}

// LoadKeys reads private keys in PEM: PKCS#1, SEC1 or PKCS#8; RSA of 2048 to
// 8192 bits, or EC on P-256 or P-384. The error joins one error for each file
// at fault.
func LoadKeys(files []string) (Keys, error) {
	var keys Keys
	var problems []error
	keys.keys, problems = loadFiles(files, func(file string) (signingKey, string, error) {
		key, err := loadKey(file)
		return key, key.public.KeyID, err
	})
	if len(files) == 0 {
		problems = append(problems, errors.New("at least one signing key is needed"))
	}
	if len(files) > maxKeys {
		problems = append(problems, fmt.Errorf("%d keys are more than the %d that verifiers take", len(files), maxKeys))
	}
	return keys, errors.Join(problems...)
}

// loadFiles reads a key of each file. load also says what tells it from others;
// there is one error for each file at fault.
func loadFiles[T any](files []string, load func(file string) (key T, id string, err error)) (keys []T, problems []error) {
	seen := map[string]string{}
	for _, file := range files {
		key, id, err := load(file)
		if err != nil {
			var path *os.PathError
			if errors.As(err, &path) {
				err = path.Err // which would name the file again
			}
			problems = append(problems, fmt.Errorf("%s: %w", file, err))
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
func published(keys []signingKey, kid string) bool {
	return slices.ContainsFunc(keys, func(k signingKey) bool { return k.public.KeyID == kid })
}

func loadKey(file string) (signingKey, error) {
	f, err := os.Open(file)
	if err != nil {
		return signingKey{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return signingKey{}, err
	}
	if len(data) > maxKeyFile {
		return signingKey{}, fmt.Errorf("is longer than %d bytes", maxKeyFile)
	}
	return parseKey(data)
}

var errNotPEM = errors.New("holds no private key in PEM (make one with: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072)")

func parseKey(data []byte) (signingKey, error) {
	block, rest := pem.Decode(data)
	if block != nil && block.Type == pemECParams {
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		return signingKey{}, errNotPEM
	}
	if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
		return signingKey{}, errors.New("is encrypted with a passphrase, which a server has nobody to ask for")
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
		return signingKey{}, fmt.Errorf("holds a %s, not a private key", block.Type)
	}
	if next, _ := pem.Decode(rest); next != nil && strings.HasSuffix(next.Type, pemPKCS8) {
		return signingKey{}, errors.New("holds more than one private key; each needs a file of its own")
	}
	if err != nil {
		return signingKey{}, err
	}
	return newSigningKey(key)
}

func newSigningKey(key any) (signingKey, error) {
	var s signingKey
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if bits := k.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return s, fmt.Errorf("is an RSA key of %d bits; %d to %d are accepted", bits, minRSABits, maxRSABits)
		}
		s.private, s.method = k, jwt.SigningMethodRS256
	case *ecdsa.PrivateKey:
		switch k.Curve {
		case elliptic.P256():
			s.private, s.method = k, jwt.SigningMethodES256
		case elliptic.P384():
			s.private, s.method = k, jwt.SigningMethodES384
		default:
			return s, fmt.Errorf("is on curve %s; P-256 and P-384 are accepted", k.Curve.Params().Name)
		}
	default:
		return s, fmt.Errorf("is a %T; RSA and EC keys are accepted", key)
	}
	s.public = jose.JSONWebKey{Key: s.private.Public(), Algorithm: s.method.Alg(), Use: "sig"}
	thumbprint, err := s.public.Thumbprint(crypto.SHA256)
	if err != nil {
		return s, err
	}
	s.public.KeyID = base64.RawURLEncoding.EncodeToString(thumbprint)
	return s, nil
}
