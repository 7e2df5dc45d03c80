package keyring

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring/keyringtest"
)

var (
	sealedKeys = sealedPrefix(keysKind, formatVersion)
	plainKeys  = plainPrefix(keysKind, formatVersion)
)

func TestEncryptionKeyFiles(t *testing.T) {
	good := encryptionKey(t)
	random := func(n int) []byte { return bytes.Repeat([]byte("0123456789abcdef"), 4)[:n] }
	b64 := func(b []byte) string { return keyringtest.File(t, base64.StdEncoding.AppendEncode(nil, b)) }
	tests := []struct {
		name  string
		files []string
		want  string
	}{
		{"a missing file", []string{good, "missing.key"}, "missing.key: no such file or directory"},
		{"a byte short", []string{b64(random(31))}, "does not hold 32 bytes"},
		{"a byte long", []string{b64(random(33))}, "does not hold 32 bytes"},
		{"32 bytes, but not in base64", []string{keyringtest.File(t, random(32))}, "does not hold 32 bytes"},
		{"empty", []string{keyringtest.File(t, nil)}, "does not hold 32 bytes"},
		{"two in one file", []string{keyringtest.File(t, bytes.Repeat(append(base64.StdEncoding.AppendEncode(nil, random(32)), '\n'), 2))}, "does not hold 32 bytes"},
		{"nothing random", []string{b64(make([]byte, 32))}, "repeats one byte"},
		{"the same twice", []string{good, good}, "is the same key as"},
	}
	for _, tt := range tests {
		_, err := loadSealer(tt.files)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "0123") {
			t.Errorf("%s: the error tells the key: %v", tt.name, err)
		}
	}
	if _, err := loadSealer([]string{good, encryptionKey(t)}); err != nil {
		t.Error(err)
	}
}

// An attacker with write access to the state can write anything there.
func TestForeignAndChangedValuesAreRefused(t *testing.T) {
	file := encryptionKey(t)
	sealed := setup{config: Config{EncryptionKeyFile: []string{file}}}
	r := newReplica(t, newStore(), sealed)
	good := r.value()
	if bytes.Contains(good, []byte("private")) || bytes.Contains(good, []byte(r.signs())) {
		t.Fatal("the value can be read")
	}
	other := sealed
	other.issuer = testIssuer + "/b"
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(string(good), sealedKeys))
	if err != nil {
		t.Fatal(err)
	}
	again := func(raw []byte) []byte { return base64.StdEncoding.AppendEncode([]byte(sealedKeys), raw) }
	flipped := func(i int) []byte {
		b := bytes.Clone(raw)
		b[i] ^= 1
		return again(b)
	}
	tests := []struct {
		name  string
		value []byte
		want  error
	}{
		{"a bit of the nonce", flipped(0), errForeign},
		{"a bit of the text", flipped(len(raw) / 2), errForeign},
		{"a bit of the tag", flipped(len(raw) - 1), errForeign},
		{"a byte short", again(raw[:len(raw)-1]), errForeign},
		{"a byte long", again(append(bytes.Clone(raw), 0)), errForeign},
		{"the nonce alone", again(raw[:12]), errForeign},
		{"nothing sealed", []byte(sealedKeys), errForeign},
		{"no base64", []byte(sealedKeys + "!"), errForeign},
		{"sealed for another issuer", newReplica(t, newStore(), other).value(), errForeign},
		{"sealed with another key", newReplica(t, newStore(), setup{config: Config{EncryptionKeyFile: []string{encryptionKey(t)}}}).value(), errForeign},
		{"not sealed", newReplica(t, newStore(), setup{}).value(), errNotSealed},
		{"called plain", []byte(plainKeys + strings.TrimPrefix(string(good), sealedKeys)), errNotSealed},
		{"of a newer release", append([]byte(format+"keys/3 sealed "), good[len(sealedKeys):]...), errNewer},
		{"without its beginning", good[1:], errInvalid},
		{"empty", []byte{}, errInvalid},
		{"too long", bytes.Repeat(good, 1+maxStored/len(good)), errInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if keys, _, err := r.set.open(tt.value); !errors.Is(err, tt.want) || keys != nil {
				t.Errorf("opened as %v, %v; want %v", keys, err, tt.want)
			}
			before := r.kids()
			put(t, r.store, tt.value)
			r.turn()
			if got := r.kids(); strings.Join(got, " ") != strings.Join(before, " ") {
				t.Errorf("published %v, want %v", got, before)
			}
			if _, err := tryReplica(t, r.store, sealed); err == nil {
				t.Error("it was loaded")
			}
			put(t, r.store, good)
		})
	}
	put(t, r.store, good)
	_, err = tryReplica(t, r.store, setup{})
	wantError(t, err, "keys.encryptionKeyFile is not set")

	plain := newReplica(t, newStore(), setup{})
	_, err = tryReplica(t, plain.store, setup{issuer: testIssuer + "/b"})
	wantError(t, err, `belongs to the issuer "https://id.example.com", not to "https://id.example.com/b"`)
}

func TestOnlyInitSealsAnUnsealedKeySet(t *testing.T) {
	store := newStore()
	before := newReplica(t, store, setup{}).kids()
	files := Config{EncryptionKeyFile: []string{encryptionKey(t)}}
	_, err := tryReplica(t, store, setup{config: files})
	wantError(t, err, "not sealed", "keys init")
	shared := newReplica(t, store, setup{config: files, shared: true, unloaded: true})
	wantError(t, initError(t, shared), "not sealed") // another program may have written it
	own := newReplica(t, store, setup{config: files, unloaded: true})
	if _, err := own.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := newReplica(t, store, setup{config: files})
	if strings.Join(after.kids(), " ") != strings.Join(before, " ") || !bytes.HasPrefix(after.value(), []byte(sealedKeys)) {
		t.Errorf("keys %v, want %v, sealed", after.kids(), before)
	}
}

func TestEncryptionKeyChange(t *testing.T) {
	store := newStore()
	old, fresh := encryptionKey(t), encryptionKey(t)
	var kids string
	for i, files := range [][]string{{old}, {old, fresh}, {fresh, old}, {fresh}} {
		r := newReplica(t, store, setup{config: Config{EncryptionKeyFile: files}})
		if kids == "" {
			kids = strings.Join(r.kids(), " ")
		}
		if got := strings.Join(r.kids(), " "); got != kids {
			t.Errorf("step %d: keys %s, want %s", i, got, kids)
		}
	}
	_, err := tryReplica(t, store, setup{config: Config{EncryptionKeyFile: []string{old}}})
	wantError(t, err, "sealed with a key that is not in keys.encryptionKeyFile")
}

func TestDecodeRejectsChangedKeySets(t *testing.T) {
	r := newReplica(t, newStore(), setup{})
	r.pass(testConfig.RotationPeriod)
	r.turn()
	good := strings.TrimPrefix(string(r.value()), plainKeys)
	kids := r.kids()
	open := func(text string) error {
		_, _, err := r.set.open([]byte(plainKeys + text))
		return err
	}
	if err := open(good); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, old, by string }{
		{"no generation", `"generation":2`, `"generation":0`},
		{"no confirmation", `"confirmation":3`, `"confirmation":0`},
		{"never confirmed", `"confirmed":"2026-11-24T12:00:00Z"`, `"confirmed":"0001-01-01T00:00:00Z"`},
		{"an unknown member", `"generation":2`, `"generation":2,"x":1`},
		{"an unknown member of the content", `{"keys":`, `{"x":1,"keys":`},
		{"another key's ID", kids[0], kids[1]},
		{"another algorithm", `"alg":"ES256"`, `"alg":"RS256"`},
		{"two current keys", `"state":"next"`, `"state":"current"`},
		{"an unknown state", `"state":"retired"`, `"state":"gone"`},
		{"a time that is missing", `"published":"2026-11-23T12:00:00Z"`, `"published":"0001-01-01T00:00:00Z"`},
		{"a negative life", `"token_life":600`, `"token_life":-1`},
		{"a life without end", `"token_life":600`, `"token_life":9223372036854775807`},
	}
	for _, tt := range tests {
		bad := strings.Replace(good, tt.old, tt.by, 1)
		if bad == good {
			t.Fatalf("%s: nothing was changed", tt.name)
		}
		if err := open(bad); !errors.Is(err, errInvalid) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if open(good+"{}") == nil {
		t.Error("what follows was passed over")
	}
}

func FuzzOpen(f *testing.F) {
	generated, err := generateKey(ES256)
	if err != nil {
		f.Fatal(err)
	}
	second, err := generateKey(ES256)
	if err != nil {
		f.Fatal(err)
	}
	at := time.Date(2026, 11, 23, 12, 0, 0, 5, time.UTC)
	r, err := New(plan(f, testConfig, 0), newStore(), Options{Issuer: testIssuer, Initialize: true})
	if err != nil {
		f.Fatal(err)
	}
	good, err := r.set.seal(&version[managedSet]{stamp: stamp{1, 1, at}, content: &managedSet{keys: []managedKey{
		{Key: generated, state: stateCurrent, created: at, published: at, since: at},
		{Key: second, state: stateNext, created: at, published: at, imported: true, maxAge: time.Minute, life: time.Hour},
	}, revoked: []string{"a"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-2])
	f.Add(bytes.ReplaceAll(good, []byte("12:00:00.000000005Z"), []byte("12:00:00+01:30")))
	f.Add([]byte(sealedKeys + "AAAA"))
	f.Add([]byte(plainKeys + "{}"))
	f.Add([]byte(format + "keys/9 "))
	f.Add([]byte(plainPrefix(keysKind, formerVersion) + "{}"))
	f.Fuzz(func(t *testing.T, value []byte) {
		keys, _, err := r.set.open(value)
		if err != nil {
			if keys != nil {
				t.Fatal("keys with an error")
			}
			return
		}
		again, err := r.set.seal(keys)
		if err != nil {
			t.Fatal(err)
		}
		opened, _, err := r.set.open(again)
		if keys.legacy {
			return // a former value is not written again
		}
		if err != nil || !opened.content.equal(keys.content) || opened.stamp.before(keys.stamp) || keys.stamp.before(opened.stamp) {
			t.Fatalf("what was opened cannot be stored: %v", err)
		}
		if keys.content.current().state != stateCurrent || keys.content.next().state != stateNext {
			t.Fatal("no current or no next key")
		}
	})
}
