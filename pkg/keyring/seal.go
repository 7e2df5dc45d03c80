package keyring

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// The value in the state: the format, whether it is sealed, and the key set in
// JSON, which when sealed is AES-256-GCM in base64 with the nonce in front.
// What stands before the key set, and the issuer, are the additional data.
const (
	format       = "nova-authenticator-keys/"
	version      = "1"
	sealedPrefix = format + version + " sealed "
	plainPrefix  = format + version + " plain "
)

const (
	encryptionKeySize = 32
	maxEncryptionFile = 4 << 10
	maxStored         = 1 << 20
)

var (
	errNoKeys    = errors.New("is no key set")
	errNewer     = errors.New("was written by a newer release, which this one does not understand: update this one")
	errNotSealed = errors.New("is not sealed though keys.encryptionKeyFile is set: whoever can write to the state may have put it there")
	errNoKeyFile = errors.New("is sealed, and keys.encryptionKeyFile names nothing to open it with")
	errForeign   = errors.New("is sealed with none of keys.encryptionKeyFile or for another issuer, or was altered")
)

// sealer seals with its first key and opens with all. Without a key it seals
// nothing.
type sealer struct{ aeads []cipher.AEAD }

// loadSealer reads the files. The error joins one error for each file at fault.
func loadSealer(files []string) (sealer, error) {
	keys, problems := loadFiles(files, func(file string) ([]byte, string, error) {
		key, err := loadEncryptionKey(file)
		return key, string(key), err
	})
	if len(problems) > 0 {
		return sealer{}, errors.Join(problems...)
	}
	var s sealer
	for _, key := range keys {
		block, err := aes.NewCipher(key)
		if err != nil {
			return sealer{}, err
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return sealer{}, err
		}
		s.aeads = append(s.aeads, aead)
	}
	return s, nil
}

// ValidateEncryptionKeys reads the files as [New] does. The error joins
// one error for each file at fault.
func ValidateEncryptionKeys(files []string) error {
	_, err := loadSealer(files)
	return err
}

func loadEncryptionKey(file string) ([]byte, error) {
	text, err := secret.ReadFile(file, maxEncryptionFile)
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != encryptionKeySize { // the error could tell a part of the key
		return nil, fmt.Errorf("does not hold %d bytes in base64 (make one with: openssl rand -base64 32)", encryptionKeySize)
	}
	if bytes.Count(key, key[:1]) == len(key) {
		return nil, errors.New("holds one byte over and over, which is no random key")
	}
	return key, nil
}

// seal makes the value of a key set.
func (s sealer) seal(keys *keySet) ([]byte, error) {
	text, err := keys.encode()
	if err != nil {
		return nil, err
	}
	if len(s.aeads) == 0 {
		return append([]byte(plainPrefix), text...), nil
	}
	sealed := s.aeads[0].Seal(nil, nil, text, []byte(sealedPrefix+keys.issuer)) //nolint:gosec // NewGCMWithRandomNonce makes the nonce
	return base64.StdEncoding.AppendEncode([]byte(sealedPrefix), sealed), nil
}

// open gives the key set of a value, and whether seal would now use another
// key.
func (s sealer) open(value []byte, issuer string) (keys *keySet, reseal bool, err error) {
	if len(value) > maxStored {
		return nil, false, errNoKeys
	}
	if text, ok := bytes.CutPrefix(value, []byte(plainPrefix)); ok {
		if len(s.aeads) > 0 {
			return nil, false, errNotSealed
		}
		keys, err = decodeKeys(text, issuer)
		return keys, false, err
	}
	encoded, ok := bytes.CutPrefix(value, []byte(sealedPrefix))
	switch {
	case !ok && newer(value):
		return nil, false, errNewer
	case !ok:
		return nil, false, errNoKeys
	case len(s.aeads) == 0:
		return nil, false, errNoKeyFile
	}
	sealed, err := base64.StdEncoding.Strict().DecodeString(string(encoded))
	if err != nil {
		return nil, false, errForeign
	}
	for i, aead := range s.aeads {
		if text, err := aead.Open(nil, nil, sealed, []byte(sealedPrefix+issuer)); err == nil {
			keys, err = decodeKeys(text, issuer)
			return keys, i > 0, err
		}
	}
	return nil, false, errForeign
}

// newer reports whether a value has the format of another version.
func newer(value []byte) bool {
	rest, ok := bytes.CutPrefix(value, []byte(format))
	v, _, end := bytes.Cut(rest, []byte(" "))
	return ok && end && string(v) != version
}
