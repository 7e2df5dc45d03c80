package keyring

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

// A value in the state is a prefix and a text. The prefix has the kind of value, the
// version of the format, and sealed or plain. A sealed text is AES-256-GCM in base64 with
// the nonce in front. The prefix and the issuer are the additional data, so a value cannot
// be moved to another kind or issuer.
const (
	format        = "nova-authenticator-"
	formatVersion = "2"
	formerVersion = "1" // of release 65ed6e0, which sealed only a key set
)

func sealedPrefix(kind, version string) string { return format + kind + "/" + version + " sealed " }
func plainPrefix(kind, version string) string  { return format + kind + "/" + version + " plain " }

const (
	encryptionKeySize = 32
	maxEncryptionFile = 4 << 10
	maxStored         = 1 << 20
)

var (
	errInvalid   = errors.New("was not written by this program")
	errNewer     = errors.New("was written by a newer release, which this one cannot read: update this one")
	errNotSealed = errors.New("is not sealed although keys.encryptionKeyFile is set: anybody with write access to the state may have written it")
	errNoKeyFile = errors.New("is sealed, and keys.encryptionKeyFile is not set")
	errForeign   = errors.New("was sealed with a key that is not in keys.encryptionKeyFile, or for another issuer, or was changed")
)

// sealer seals with its first key and opens with each of them. Without a key it writes
// plain values.
type sealer struct{ aeads []cipher.AEAD }

// loadSealer reads the files. The error joins one error for each file with a problem.
func loadSealer(files []string) (sealer, error) {
	if slices.Contains(files, "") {
		return sealer{}, errors.New("an empty value names no file")
	}
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

func loadEncryptionKey(file string) ([]byte, error) {
	text, err := secret.ReadFile(file, maxEncryptionFile)
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != encryptionKeySize { // err could show a part of the key
		return nil, fmt.Errorf("does not hold %d bytes in base64 (make one with: openssl rand -base64 32)", encryptionKeySize)
	}
	if bytes.Count(key, key[:1]) == len(key) {
		return nil, errors.New("repeats one byte, so it is not a random key")
	}
	return key, nil
}

// seal returns the value with a text.
func (s sealer) seal(kind, issuer string, text []byte) []byte {
	if len(s.aeads) == 0 {
		return append([]byte(plainPrefix(kind, formatVersion)), text...)
	}
	prefix := sealedPrefix(kind, formatVersion)
	sealed := s.aeads[0].Seal(nil, nil, text, []byte(prefix+issuer)) //nolint:gosec // NewGCMWithRandomNonce makes the nonce
	return base64.StdEncoding.AppendEncode([]byte(prefix), sealed)
}

// open returns the text of a value, the version of its format, and whether seal would now
// use another key.
func (s sealer) open(kind, issuer string, value []byte) (text []byte, version string, reseal bool, err error) {
	if len(value) > maxStored {
		return nil, "", false, errInvalid
	}
	for _, version := range []string{formatVersion, formerVersion} {
		if text, ok := bytes.CutPrefix(value, []byte(plainPrefix(kind, version))); ok {
			if len(s.aeads) > 0 {
				return nil, "", false, errNotSealed
			}
			return text, version, false, nil
		}
		prefix := sealedPrefix(kind, version)
		encoded, ok := bytes.CutPrefix(value, []byte(prefix))
		if !ok {
			continue
		}
		if len(s.aeads) == 0 {
			return nil, "", false, errNoKeyFile
		}
		sealed, err := base64.StdEncoding.Strict().DecodeString(string(encoded))
		if err != nil {
			return nil, "", false, errForeign
		}
		for i, aead := range s.aeads {
			if text, err := aead.Open(nil, nil, sealed, []byte(prefix+issuer)); err == nil {
				return text, version, i > 0, nil
			}
		}
		return nil, "", false, errForeign
	}
	if newer(kind, value) {
		return nil, "", false, errNewer
	}
	return nil, "", false, errInvalid
}

// newer reports whether a value has the format of another version.
func newer(kind string, value []byte) bool {
	rest, ok := bytes.CutPrefix(value, []byte(format+kind+"/"))
	v, _, end := bytes.Cut(rest, []byte(" "))
	return ok && end && string(v) != formatVersion && string(v) != formerVersion
}

// decodeStrictly decodes one JSON value. A member that v does not have is an error, and so
// is anything after the value.
func decodeStrictly(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more data follows it")
	}
	return nil
}
