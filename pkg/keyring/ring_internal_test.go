package keyring

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"log/slog"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring/keyringtest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

const testIssuer = "https://id.example.com"

var (
	testStart  = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	testConfig = Config{Algorithm: ES256, RotationPeriod: 24 * time.Hour, MaxAge: 5 * time.Minute}
	testLead   = Plan{maxAge: testConfig.MaxAge}.lead(testConfig.MaxAge)
)

// encryptionKey is a file with a new key.
func encryptionKey(t *testing.T) string {
	t.Helper()
	return keyringtest.EncryptionKeyFile(t, rand.Text()+rand.Text()[:6])
}

// sharedKey is the encryption key of all replicas on a shared state that do not
// name one.
func sharedKey(t *testing.T) string {
	t.Helper()
	return keyringtest.EncryptionKeyFile(t, "0123456789abcdefghijklmnopqrstuv")
}

func plan(t testing.TB, c Config, life time.Duration) Plan {
	t.Helper()
	p, err := c.Plan(life)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func signingKeys(t *testing.T, files []string) *KeySet {
	t.Helper()
	if len(files) == 0 {
		return nil
	}
	keys, err := LoadKeys(files)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// replica is a ring with its own clocks, whose access to the state can fail.
type replica struct {
	*Ring
	t     *testing.T
	store *state.Memory
	wall  time.Time
	mono  time.Duration
	fail  error
	log   strings.Builder
}

func (r *replica) Get(ctx context.Context, key string) ([]byte, error) {
	if r.fail != nil {
		return nil, r.fail
	}
	return r.store.Get(ctx, key)
}

func (r *replica) Update(ctx context.Context, key string, change func([]byte) ([]byte, error)) error {
	if r.fail != nil {
		return r.fail
	}
	return r.store.Update(ctx, key, change)
}

// setup is how a replica differs from the default.
type setup struct {
	config   Config
	issuer   string
	files    []string // signing keys
	life     time.Duration
	shared   bool // a server may not make a key set without an operator
	at       time.Time
	unloaded bool
	seen     string // a file
	entries  func(context.Context) (map[string][]byte, error)
}

func newReplica(t *testing.T, store *state.Memory, s setup) *replica {
	t.Helper()
	r, err := tryReplica(t, store, s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tryReplica(t *testing.T, store *state.Memory, s setup) (*replica, error) {
	t.Helper()
	if s.config.Algorithm == "" {
		files := s.config.EncryptionKeyFile
		s.config = testConfig
		s.config.EncryptionKeyFile = files
	}
	if s.issuer == "" {
		s.issuer = testIssuer
	}
	if s.shared && s.config.EncryptionKeyFile == nil {
		s.config.EncryptionKeyFile = []string{sharedKey(t)}
	}
	if s.life == 0 {
		s.life = 10 * time.Minute
	}
	if s.at.IsZero() {
		s.at = testStart
	}
	r := &replica{t: t, store: store, wall: s.at}
	var seen *Seen
	if s.seen != "" {
		var err error
		if seen, err = OpenSeen(s.seen, s.issuer); err != nil {
			return nil, err
		}
	}
	m, err := New(plan(t, s.config, s.life), r, Options{
		Issuer: s.issuer, SigningKeys: signingKeys(t, s.files), Seen: seen, Entries: s.entries,
		Now: func() time.Time { return r.wall }, Initialize: !s.shared, Log: slog.New(slog.NewTextHandler(&r.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	m.elapsed = func() time.Duration { return r.mono }
	r.Ring = m
	if s.unloaded {
		return r, nil
	}
	return r, m.Load(t.Context())
}

func initError(t *testing.T, r *replica) error {
	t.Helper()
	_, err := r.Init(t.Context())
	return err
}

func newStore() *state.Memory { return &state.Memory{Size: 10} }

// pass moves both clocks.
func (r *replica) pass(d time.Duration) { r.wall, r.mono = r.wall.Add(d), r.mono+d }

func (r *replica) turn() { r.tick(r.t.Context()) }

// kids returns the IDs of the published keys, in order.
func (r *replica) kids() (all []string) {
	for _, k := range r.infos(r.keys()) {
		all = append(all, k.KeyID)
	}
	return all
}

func (r *replica) signs() string { return r.KeySet().Keys()[0].ID() }

// sign signs as an issuer does.
func (r *replica) sign() error {
	if err := r.Usable(); err != nil {
		return err
	}
	digest := make([]byte, crypto.SHA256.Size())
	_, err := r.KeySet().Keys()[0].Signer().Sign(rand.Reader, digest, crypto.SHA256)
	return err
}

func (r *replica) value() []byte {
	r.t.Helper()
	v, err := r.store.Get(r.t.Context(), keysKind)
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

func put(t *testing.T, store *state.Memory, value []byte) {
	t.Helper()
	if err := store.Put(t.Context(), keysKind, value, time.Time{}); err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q, want it to say %q", err, part)
		}
	}
}

func TestConfigPlan(t *testing.T) {
	tests := []struct {
		name string
		edit func(*Config)
		want []string
	}{
		{"EdDSA, which not all verify", func(c *Config) { c.Algorithm = "EdDSA" }, []string{"algorithm: "}},
		{"lower case", func(c *Config) { c.Algorithm = "rs256" }, []string{"algorithm: "}},
		{"none", func(c *Config) { c.Algorithm = "none" }, []string{"algorithm: "}},
		{"a rotation in more than a hundred years", func(c *Config) { c.RotationPeriod = 876001 * time.Hour }, []string{"rotationPeriod: "}},
		{"the longest rotation there is", func(c *Config) { c.RotationPeriod = math.MaxInt64 }, []string{"rotationPeriod: "}},
		{"a rotation in less than an hour", func(c *Config) { c.RotationPeriod = time.Hour - 1 }, []string{"rotationPeriod: "}},
		{"a cache of less than a minute", func(c *Config) { c.MaxAge = time.Minute - 1 }, []string{"maxAge: "}},
		{"a cache of more than a day", func(c *Config) { c.MaxAge = 24*time.Hour + 1 }, []string{"maxAge: "}},
		{"a rotation as long as a key is published first", func(c *Config) { c.MaxAge, c.RotationPeriod = 2*time.Hour, 2*time.Hour+70*time.Second }, []string{"rotationPeriod: "}},
		{"a file without a name", func(c *Config) { c.EncryptionKeyFile = []string{"a", ""} }, []string{"encryptionKeyFile: "}},
		{"nothing at all", func(c *Config) { *c = Config{} }, []string{"algorithm: ", "maxAge: ", "rotationPeriod: "}},

		{"the defaults", func(*Config) {}, nil},
		{"the shortest durations", func(c *Config) { c.RotationPeriod, c.MaxAge = time.Hour, time.Minute }, nil},
		{"the longest cache", func(c *Config) { c.MaxAge, c.RotationPeriod = 24*time.Hour, 24*time.Hour+71*time.Second }, nil},
	}
	for _, tt := range tests {
		c := Config{Algorithm: RS256, RotationPeriod: 720 * time.Hour, MaxAge: 5 * time.Minute}
		tt.edit(&c)
		var got []string
		if _, err := c.Plan(0); err != nil {
			got = strings.Split(err.Error(), "\n")
		}
		if !slices.EqualFunc(tt.want, got, func(want, got string) bool { return strings.HasPrefix(got, want) }) {
			t.Errorf("%s: problems %q, want %q", tt.name, got, tt.want)
		}
	}
	_, err := Config{Algorithm: RS256, RotationPeriod: time.Hour, MaxAge: 5 * time.Minute}.Plan(24 * time.Hour)
	wantError(t, err, "rotationPeriod: ", "27 keys")
	plan(t, testConfig, 24*time.Hour)
	if _, err := New(Plan{}, newStore(), Options{Issuer: testIssuer, Initialize: true}); err == nil {
		t.Error("New takes settings that were not checked")
	}
}

func TestThereIsAlwaysANextKey(t *testing.T) {
	r := newReplica(t, newStore(), setup{})
	known := map[string]bool{}
	for i := range 30 {
		infos := r.infos(r.keys())
		if len(infos) < 2 || infos[0].State != stateCurrent || infos[1].State != stateNext {
			t.Fatalf("turn %d: keys %+v", i, infos)
		}
		if i > 0 && !known[r.signs()] {
			t.Errorf("turn %d: a key signs that was not published the turn before", i)
		}
		known = map[string]bool{}
		for _, kid := range r.kids() {
			known[kid] = true
		}
		r.pass(12*time.Hour + time.Minute)
		r.turn()
	}
}

func TestKeysRotate(t *testing.T) {
	r := newReplica(t, newStore(), setup{})
	first, second := r.kids()[0], r.kids()[1]
	r.pass(testConfig.RotationPeriod - 1)
	r.turn()
	if r.signs() != first {
		t.Fatal("rotated before the period was over")
	}
	r.pass(1)
	r.turn()
	if r.signs() != second || len(r.kids()) != 3 {
		t.Fatalf("%s signs of %v, want %s of three", r.signs(), r.kids(), second)
	}
	removed := keep(testConfig.MaxAge, 10*time.Minute)
	if removed != 17*time.Minute { // maxAge, the token's life, twice the skew
		t.Fatalf("a retired key is kept for %v", removed)
	}
	if got := r.infos(r.keys())[2]; got.KeyID != first || got.State != stateRetired || !got.RemovedAfter.Equal(r.wall.Add(removed)) {
		t.Errorf("the retired key is %+v", got)
	}
	r.pass(removed - 1)
	r.turn()
	if !slices.Contains(r.kids(), first) {
		t.Error("the retired key is removed while its tokens are valid")
	}
	r.pass(1)
	r.turn()
	if slices.Contains(r.kids(), first) {
		t.Error("the retired key stays")
	}
}

func TestAStepOfTheClockRotatesNothing(t *testing.T) {
	t.Run("forwards, before the next key is known", func(t *testing.T) {
		r := newReplica(t, newStore(), setup{})
		first := r.signs()
		r.wall = r.wall.Add(1000 * time.Hour)
		for ; r.mono < testLead-10*time.Second; r.pass(10 * time.Second) {
			r.turn()
			if r.signs() != first {
				t.Fatalf("rotated after %v", r.mono)
			}
		}
	})
	t.Run("forwards, while tokens of the retired key are out", func(t *testing.T) {
		r := newReplica(t, newStore(), setup{})
		first := r.signs()
		r.pass(testConfig.RotationPeriod)
		r.turn()
		r.wall = r.wall.Add(time.Hour)
		r.turn()
		if !slices.Contains(r.kids(), first) {
			t.Error("the retired key is removed")
		}
	})
	t.Run("backwards, after the next key was known", func(t *testing.T) {
		r := newReplica(t, newStore(), setup{})
		r.pass(testConfig.RotationPeriod - time.Minute)
		if _, err := r.Import(t.Context(), keyringtest.PKCS8(t, keyringtest.EC(t, elliptic.P256()))); err != nil {
			t.Fatal(err)
		}
		first := r.signs()
		r.turn()
		r.pass(2 * time.Minute)
		r.mono += time.Hour
		r.turn()
		if r.signs() != first {
			t.Error("rotated, against the wall clock")
		}
	})
	t.Run("backwards, after a key was retired", func(t *testing.T) {
		r := newReplica(t, newStore(), setup{})
		first := r.signs()
		r.pass(testConfig.RotationPeriod)
		r.turn()
		r.mono += time.Hour
		r.turn()
		if !slices.Contains(r.kids(), first) {
			t.Error("the retired key is removed, against the wall clock")
		}
	})
}

func TestRotateOnRequest(t *testing.T) {
	store := newStore()
	r, other := newReplica(t, store, setup{}), newReplica(t, store, setup{})
	second := r.kids()[1]
	r.pass(testLead - time.Second)
	_, err := r.Rotate(t.Context())
	wantError(t, err, "key set: rotate: ", second, "before 2026-11-23T12:06:10Z (in 1s)", "revoke")
	r.pass(time.Second)

	// A process that has just started has only the wall clock.
	command := newReplica(t, store, setup{at: r.wall, unloaded: true})
	info, err := command.Rotate(t.Context())
	if err != nil || info.KeyID != second || info.State != stateCurrent {
		t.Fatalf("Rotate = %+v, %v", info, err)
	}
	other.pass(testLead)
	other.turn()
	if other.signs() != second {
		t.Error("the other replica does not follow")
	}
	_, err = other.Rotate(t.Context())
	wantError(t, err, "in 6m10s")
}

func TestConcurrentRotationsRotateOnce(t *testing.T) {
	store := newStore()
	var replicas []*replica
	for range 8 {
		replicas = append(replicas, newReplica(t, store, setup{}))
	}
	second := replicas[0].kids()[1]
	var running sync.WaitGroup
	for i, r := range replicas {
		r.pass(testConfig.RotationPeriod)
		running.Go(func() {
			if i%2 == 0 {
				r.turn()
			} else if info, err := r.Rotate(t.Context()); err == nil && info.KeyID != second {
				t.Errorf("Rotate = %+v", info)
			}
		})
	}
	running.Wait()
	for _, r := range replicas {
		r.turn()
		if r.signs() != second || len(r.kids()) != 3 || !slices.Equal(r.kids(), replicas[0].kids()) {
			t.Errorf("%s signs of %v", r.signs(), r.kids())
		}
	}
}

// between calls a function after a key set was read and before it is changed.
type between struct {
	Store
	do func()
}

func (b *between) Update(ctx context.Context, key string, change func([]byte) ([]byte, error)) error {
	if do := b.do; do != nil {
		b.do = nil
		do()
	}
	return b.Store.Update(ctx, key, change)
}

func TestAReplicaThatLosesTheRaceSucceeds(t *testing.T) {
	for name, rotate := range map[string]func(*replica) error{
		"by command": func(r *replica) error { _, err := r.Rotate(t.Context()); return err },
		"by itself":  func(r *replica) error { r.turn(); return r.Err() },
	} {
		store := newStore()
		a, b := newReplica(t, store, setup{}), newReplica(t, store, setup{})
		second := a.kids()[1]
		a.pass(testConfig.RotationPeriod)
		b.pass(testConfig.RotationPeriod)
		a.Ring.store = &between{a, b.turn}
		if err := rotate(a); err != nil || a.signs() != second || b.signs() != second {
			t.Errorf("%s: %v; %s and %s sign, want %s", name, err, a.signs(), b.signs(), second)
		}
	}
}

func TestRevoke(t *testing.T) {
	start := func(t *testing.T) (r, other *replica) {
		store := newStore()
		r, other = newReplica(t, store, setup{}), newReplica(t, store, setup{})
		r.pass(testConfig.RotationPeriod)
		other.pass(testConfig.RotationPeriod)
		r.turn()
		other.turn()
		return r, other
	}
	for i, state := range []keyState{stateCurrent, stateNext, stateRetired} {
		t.Run(string(state), func(t *testing.T) {
			r, other := start(t)
			before, old := r.kids(), r.value()
			if err := r.Revoke(t.Context(), before[i]); err != nil {
				t.Fatal(err)
			}
			want := before[0]
			if state == stateCurrent {
				want = before[1]
			}
			other.turn()
			for _, x := range []*replica{r, other} {
				if slices.Contains(x.kids(), before[i]) || x.signs() != want {
					t.Errorf("%s signs of %v", x.signs(), x.kids())
				}
				if infos := x.infos(x.keys()); infos[1].State != stateNext || infos[1].KeyID == before[1] && state != stateRetired {
					t.Errorf("the next key is %+v", infos[1])
				}
			}
			// An attacker who can write to the state cannot put it back.
			put(t, r.store, old)
			other.turn()
			r.turn()
			if slices.Contains(r.kids(), before[i]) || slices.Contains(other.kids(), before[i]) {
				t.Error("the revoked key is back")
			}
			if late := newReplica(t, r.store, setup{at: r.wall}); slices.Contains(late.kids(), before[i]) {
				t.Error("a server that starts publishes the revoked key")
			}
		})
	}
	r, _ := start(t)
	wantError(t, r.Revoke(t.Context(), "x"), "key set: revoke: ", `no key "x"`, r.kids()[0]+" (current)", r.kids()[1]+" (next)")
	if err := r.Revoke(t.Context(), r.kids()[0]); err != nil || !strings.Contains(r.log.String(), "do not know yet") {
		t.Errorf("a successor that is unknown to verifiers: %v; log %s", err, r.log.String())
	}
}

func TestImport(t *testing.T) {
	key, other := keyringtest.EC(t, elliptic.P256()), keyringtest.EC(t, elliptic.P384())
	r := newReplica(t, newStore(), setup{unloaded: true, shared: true})
	info, err := r.Import(t.Context(), keyringtest.PKCS8(t, key))
	if err != nil || info.State != stateCurrent || r.signs() != info.KeyID || len(r.kids()) != 2 {
		t.Fatalf("into an empty state: %+v, %v; %v", info, err, r.kids())
	}
	next := r.kids()[1]
	if again, err := r.Import(t.Context(), keyringtest.PKCS8(t, key)); err != nil || again != info || r.kids()[1] != next {
		t.Errorf("the current key again: %+v, %v", again, err)
	}
	r.pass(time.Hour)
	second, err := r.Import(t.Context(), keyringtest.PKCS8(t, other))
	if err != nil || second.State != stateNext || second.Algorithm != "ES384" || !second.Published.Equal(r.wall) || slices.Contains(r.kids(), next) || r.signs() != info.KeyID {
		t.Fatalf("into a key set: %+v, %v; %v", second, err, r.kids())
	}
	r.pass(time.Hour)
	if again, err := r.Import(t.Context(), keyringtest.PKCS8(t, other)); err != nil || again != second {
		t.Errorf("the next key again: %+v, %v", again, err)
	}
	if _, err := r.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if back, err := r.Import(t.Context(), keyringtest.PKCS8(t, key)); err != nil || back.State != stateNext || len(r.kids()) != 2 {
		t.Errorf("a retired key: %+v, %v; %v", back, err, r.kids())
	}
	_, err = r.Import(t.Context(), []byte("no key"))
	wantError(t, err, "key set: import: the file holds no private key")
}

// The two procedures of the package's documentation, replica by replica. At every step,
// each replica must publish the keys with which any replica signs.
func TestMigrationFromFilesToManagedKeysAndBack(t *testing.T) {
	store := newStore()
	keyFile := keyringtest.File(t, keyringtest.PKCS8(t, keyringtest.EC(t, elliptic.P256())))
	now := testStart
	replicas := map[string]*replica{}
	start := func(name string, files ...string) {
		replicas[name] = newReplica(t, store, setup{files: files, shared: true, at: now})
	}
	pass := func(d time.Duration) {
		t.Helper()
		now = now.Add(d)
		for _, r := range replicas {
			r.pass(d)
			r.turn()
		}
		for name, signer := range replicas {
			for other, r := range replicas {
				if !slices.Contains(r.kids(), signer.signs()) {
					t.Errorf("%s signs with %s, which %s does not publish", name, signer.signs(), other)
				}
			}
		}
	}
	start("a", keyFile)
	if _, err := replicas["a"].Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v := replicas["a"].value(); v != nil {
		t.Errorf("`keys init` made a key set beside the key files: %d bytes", len(v))
	}
	start("b", keyFile)
	known := replicas["a"].signs()
	pass(time.Minute)

	// To managed.
	pem, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := replicas["a"].Import(t.Context(), pem); err != nil || info.KeyID != known || info.State != stateCurrent {
		t.Fatalf("Import = %+v, %v", info, err)
	}
	pass(time.Minute)
	start("a")
	pass(time.Minute)
	start("b")
	pass(time.Minute)
	if replicas["a"].signs() != known || replicas["b"].signs() != known {
		t.Error("another key signs than verifiers know")
	}
	pass(testConfig.RotationPeriod)
	pass(10 * time.Second)
	if replicas["a"].signs() == known {
		t.Error("it is not rotated")
	}

	// And back.
	newFile := keyringtest.File(t, keyringtest.PKCS8(t, keyringtest.EC(t, elliptic.P256())))
	if pem, err = os.ReadFile(newFile); err != nil {
		t.Fatal(err)
	}
	imported, err := replicas["b"].Import(t.Context(), pem)
	if err != nil || imported.State != stateNext {
		t.Fatalf("Import = %+v, %v", imported, err)
	}
	pass(testLead)
	start("a", newFile)
	pass(time.Minute)
	start("b", newFile)
	pass(time.Minute)
	for name, r := range replicas {
		if r.signs() != imported.KeyID || len(r.kids()) < 2 {
			t.Errorf("%s signs with %s and publishes %v", name, r.signs(), r.kids())
		}
		_, err := r.Rotate(t.Context())
		wantError(t, err, "auth.signingKeyFile")
		wantError(t, r.Revoke(t.Context(), imported.KeyID), "auth.signingKeyFile")
	}
}

func TestKeyFilesSignWithAnyState(t *testing.T) {
	file := keyringtest.File(t, keyringtest.PKCS8(t, keyringtest.EC(t, elliptic.P256())))
	for name, break_ := range map[string]func(*replica){
		"cannot be reached": func(r *replica) { r.fail = errors.New("connection refused") },
		"has garbage":       func(r *replica) { put(t, r.store, []byte("garbage")) },
		"has nothing":       func(*replica) {},
	} {
		r := newReplica(t, newStore(), setup{files: []string{file}, unloaded: true})
		break_(r)
		if err := r.Load(t.Context()); err != nil {
			t.Fatalf("the state %s: %v", name, err)
		}
		r.pass(time.Hour)
		r.turn()
		if err := r.sign(); err != nil {
			t.Errorf("the state %s: %v", name, err)
		}
		if (r.Err() == nil) != (name == "has nothing") || errors.Is(r.Err(), ErrKeysStale) {
			t.Errorf("the state %s: Err() = %v", name, r.Err())
		}
		if r.MaxAge() != testConfig.MaxAge {
			t.Errorf("MaxAge is %v", r.MaxAge())
		}
	}
}

func TestAMissingKeySetIsWrittenBack(t *testing.T) {
	r := newReplica(t, newStore(), setup{shared: true, unloaded: true})
	wantError(t, r.Load(t.Context()), "keys init")
	if err := r.Load(t.Context()); !errors.Is(err, errNoKeySet) {
		t.Errorf("Load = %v", err)
	}
	if _, err := r.List(t.Context()); !errors.Is(err, errNoKeySet) {
		t.Errorf("List = %v", err)
	}
	if _, err := r.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := r.value()
	if err := r.store.Forget(t.Context(), keysKind); err != nil {
		t.Fatal(err)
	}
	r.turn()
	before, _, err := r.set.open(want)
	if err != nil {
		t.Fatal(err)
	}
	after, _, err := r.set.open(r.value())
	if err != nil || !after.content.equal(before.content) || after.Generation != before.Generation || after.Confirmation <= before.Confirmation {
		t.Errorf("the state has %+v, %v, want %+v, confirmed again", after, err, before)
	}
}

// A replica that had no access to the state for long may hold an old key set.
func TestWritingBackDoesNotConfirmAnOldKeySet(t *testing.T) {
	r := newReplica(t, newStore(), setup{})
	r.pass(testConfig.MaxAge + 1)
	if err := r.store.Forget(t.Context(), keysKind); err != nil {
		t.Fatal(err)
	}
	r.turn()
	if r.Usable() == nil {
		t.Error("it signs before others had the time to put it right")
	}
	r.turn()
	if err := r.Usable(); err != nil {
		t.Error(err)
	}
}

func TestAnUnreadableKeySetStaysInTheState(t *testing.T) {
	keys := []string{encryptionKey(t)}
	foreign := newReplica(t, newStore(), setup{config: Config{EncryptionKeyFile: []string{encryptionKey(t)}}})
	plain := newReplica(t, newStore(), setup{})
	for name, value := range map[string][]byte{
		"garbage":         []byte("garbage"),
		"sealed by other": foreign.value(),
		"plain":           plain.value(),
	} {
		t.Run(name, func(t *testing.T) {
			r := newReplica(t, newStore(), setup{shared: true, unloaded: true, config: Config{EncryptionKeyFile: keys}})
			if _, err := r.Init(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := r.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			before, published := r.kids(), r.KeySet()
			put(t, r.store, value)
			for range 3 {
				r.pass(10 * time.Second)
				r.turn()
			}
			if string(r.value()) != string(value) {
				t.Error("it was overwritten")
			}
			if n := strings.Count(r.log.String(), "could not be brought up to date"); n != 1 {
				t.Errorf("it was logged %d times", n)
			}
			if err := r.sign(); err != nil {
				t.Errorf("Issue before maxAge is over: %v", err)
			}
			wantError(t, r.Err(), "key set: refresh: ", "keys init")
			r.pass(testConfig.MaxAge - 29*time.Second)
			if err := r.sign(); !errors.Is(err, ErrKeysStale) {
				t.Errorf("Issue after maxAge = %v", err)
			}
			if !errors.Is(r.Err(), ErrKeysStale) {
				t.Errorf("Err() = %v", r.Err())
			}
			if r.KeySet() != published || len(published.Keys()) == 0 {
				t.Error("the key set is no longer served")
			}
			// A server that starts now holds nothing and overwrites nothing.
			late := newReplica(t, r.store, setup{shared: true, unloaded: true, config: Config{EncryptionKeyFile: keys}})
			wantError(t, initError(t, late), "key set: init: ", "delete it")
			if err := late.Load(t.Context()); err == nil {
				t.Error("it was loaded")
			}
			if _, err := r.Init(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.turn()
			if err := r.sign(); err != nil || r.Err() != nil || !slices.Equal(before, r.kids()) {
				t.Errorf("after Init: %v, %v", err, r.Err())
			}
		})
	}
	r := newReplica(t, newStore(), setup{})
	put(t, r.store, []byte(format+"keys/3 sealed something"))
	wantError(t, initError(t, r), "newer release")
}

func TestAStaleReplicaStopsSigning(t *testing.T) {
	for name, pass := range map[string]func(*replica, time.Duration){
		"by the monotonic clock":                     func(r *replica, d time.Duration) { r.mono += d },
		"by the wall clock, after the machine slept": func(r *replica, d time.Duration) { r.wall = r.wall.Add(d) },
	} {
		r := newReplica(t, newStore(), setup{})
		r.fail = errors.New("connection refused")
		pass(r, testConfig.MaxAge)
		r.turn()
		if err := r.Usable(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		pass(r, 1)
		wantError(t, r.Usable(), "maxAge")
		r.fail = nil
		r.turn() // confirms the key set again
		if r.Usable() == nil {
			t.Errorf("%s: its own confirmation counts before it was found in the state", name)
		}
		r.turn()
		if err := r.Usable(); err != nil {
			t.Errorf("%s: after the state is back: %v", name, err)
		}
		if !strings.Contains(r.log.String(), "connection refused") || !strings.Contains(r.log.String(), "up to date again") {
			t.Errorf("%s: log %s", name, r.log.String())
		}
	}
}

func TestAlgorithmChange(t *testing.T) {
	store := newStore()
	r := newReplica(t, store, setup{})
	first := r.signs()
	rs := testConfig
	rs.Algorithm = RS256
	changed := newReplica(t, store, setup{config: rs, at: r.wall})
	if infos := changed.infos(changed.keys()); infos[0].KeyID != first || infos[1].Algorithm != RS256 || len(infos) != 2 {
		t.Fatalf("keys %+v", infos)
	}
	var algorithms []string
	for _, k := range changed.KeySet().Keys() {
		algorithms = append(algorithms, k.Algorithm())
	}
	if !slices.Equal(algorithms, []string{ES256, RS256}) {
		t.Errorf("published are keys of %q", algorithms)
	}
	changed.pass(testLead - 1)
	r.pass(testLead - 1)
	changed.turn()
	r.turn()
	if changed.signs() != first || r.signs() != first {
		t.Error("it signs before verifiers can know it")
	}
	changed.pass(1)
	changed.turn()
	if alg := changed.KeySet().Keys()[0].Algorithm(); alg != RS256 {
		t.Errorf("%s signs", alg)
	}
	// A replica with the old configuration follows.
	for range 10 {
		r.pass(testLead)
		r.turn()
	}
	if r.signs() != changed.signs() {
		t.Error("replicas of two configurations rotate against one another")
	}
	// A key that an operator imported stays, with any algorithm.
	imported, err := changed.Import(t.Context(), keyringtest.PKCS8(t, keyringtest.EC(t, elliptic.P384())))
	if err != nil {
		t.Fatal(err)
	}
	if late := newReplica(t, store, setup{config: rs, at: changed.wall}); late.kids()[1] != imported.KeyID {
		t.Error("the imported key was replaced")
	}
}

func TestAtMostTenKeys(t *testing.T) {
	r := newReplica(t, newStore(), setup{life: 24 * time.Hour})
	for range maxKeys - 2 {
		r.pass(testLead)
		if _, err := r.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	r.pass(testLead)
	_, err := r.Rotate(t.Context())
	wantError(t, err, "the 10 keys", "2026-11-24T12:1")
	r.rotationPeriod = time.Minute
	before := r.signs()
	r.turn()
	if r.signs() != before {
		t.Error("rotated beyond ten keys")
	}
	wantError(t, r.Err(), "rotation is due", "the 10 keys")
}

// A change of the configuration shortens no wait of other replicas.
func TestKeysAreKeptForTheLongestLife(t *testing.T) {
	store := newStore()
	r := newReplica(t, store, setup{})
	first := r.signs()
	short := newReplica(t, store, setup{life: time.Minute})
	r.WillIssue(3*time.Hour - 1)
	r.turn()
	short.pass(testConfig.RotationPeriod)
	short.turn()
	short.pass(3 * time.Hour)
	short.turn()
	if !slices.Contains(short.kids(), first) {
		t.Error("the key is removed while tokens of another replica are valid")
	}
	longCache := testConfig
	longCache.MaxAge = time.Hour
	newReplica(t, store, setup{config: longCache, at: short.wall})
	if _, err := short.Import(t.Context(), keyringtest.PKCS8(t, keyringtest.EC(t, elliptic.P256()))); err != nil {
		t.Fatal(err)
	}
	newReplica(t, store, setup{config: longCache, at: short.wall})
	short.pass(testLead)
	_, err := short.Rotate(t.Context())
	wantError(t, err, "verifiers may not know")
}

func TestRunEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore()
		manager := func() *Ring {
			m, err := New(plan(t, testConfig, time.Minute), store, Options{Issuer: testIssuer, Initialize: true})
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			return m
		}
		a, b := manager(), manager()
		second := a.infos(a.keys())[1].KeyID
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		for _, m := range []*Ring{a, b} {
			go func() { done <- m.Run(ctx) }()
		}
		time.Sleep(testConfig.RotationPeriod + 21*time.Second) //nolint:forbidigo // the bubble's time
		synctest.Wait()
		for _, m := range []*Ring{a, b} {
			if got := m.infos(m.keys()); got[0].KeyID != second || len(got) != 3 {
				t.Errorf("keys %+v, want %s to sign", got, second)
			}
			if err := m.Err(); err != nil {
				t.Error(err)
			}
		}
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("Run = %v", err)
			}
		}
	})
}

func TestList(t *testing.T) {
	r := newReplica(t, newStore(), setup{})
	command := newReplica(t, r.store, setup{unloaded: true})
	got, err := command.List(t.Context())
	if err != nil || !slices.Equal(got, r.infos(r.keys())) || len(got) != 2 {
		t.Errorf("List = %+v, %v", got, err)
	}
	file := keyringtest.File(t, keyringtest.PKCS8(t, keyringtest.EC(t, elliptic.P256())))
	static := newReplica(t, r.store, setup{files: []string{file}})
	if got, err = static.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	states := func(infos []KeyInfo) map[keyState]int {
		n := map[keyState]int{}
		for _, k := range infos {
			n[k.State]++
		}
		return n
	}
	if !maps.Equal(states(got), map[keyState]int{stateCurrent: 1, stateUnpublished: 2}) || got[0].KeyID != static.signs() || len(static.KeySet().Keys()) != 1 {
		t.Errorf("List with files = %+v; published %v", got, static.KeySet().Keys())
	}
	if !strings.Contains(static.log.String(), "key set of the state is not published") {
		t.Errorf("log %s", static.log.String())
	}
	// The operator imported one of the files' keys, as the documentation says.
	pem, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := static.Import(t.Context(), pem); err != nil {
		t.Fatal(err)
	}
	if got, err = static.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(states(got), map[keyState]int{stateCurrent: 1, statePublished: 1}) || len(static.KeySet().Keys()) != 2 {
		t.Errorf("List with an imported file = %+v; published %v", got, static.KeySet().Keys())
	}
	r.fail = errors.New("connection refused")
	_, err = r.List(t.Context())
	wantError(t, err, "key set: list: connection refused")
}

func TestWithoutAKeySetNothingIsSignedOrPublished(t *testing.T) {
	r := newReplica(t, newStore(), setup{unloaded: true})
	if keys := r.KeySet().Keys(); len(keys) != 0 {
		t.Errorf("published: %v", keys)
	}
	if err := r.sign(); !errors.Is(err, ErrKeysStale) {
		t.Errorf("signs: %v", err)
	}
	if r.Err() == nil {
		t.Error("what was not loaded is fresh")
	}
}
