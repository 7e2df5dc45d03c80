package keyring

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/keyring/keyringtest"
	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

var modelSeed = flag.Uint64("model.seed", 0, "run the model of the key set only with this seed, and print all events")

// The numbers of the model are small, so that much happens.
const (
	modelStep   = 2 * time.Second
	modelMaxAge = time.Minute
	modelPeriod = 10 * time.Minute
	modelLife   = 4 * time.Minute
	modelHours  = 2
)

var modelPlan = Plan{algorithm: ES256, rotationPeriod: modelPeriod, maxAge: modelMaxAge}

// A model of replicas and verifiers. Each replica has a wall clock that steps within half a
// minute of the true time, so that two of them differ by at most skew. One may be far off.
type model struct {
	t        *testing.T
	random   splitMix
	now      time.Time // true time
	store    *state.Memory
	replicas []*modelReplica

	history [][]byte // former values of the state
	changed time.Time
	// unsettled is the time until which the state may lack what replicas hold.
	unsettled time.Time

	newest  *version[managedSet]
	seen    map[string]time.Time // when a key was first published
	served  map[string]served    // key sets that verifiers may still have
	tokens  map[string]time.Time // when the last token of a key has expired everywhere
	excused map[string]time.Time // keys that sign early: their predecessor was revoked
	revoked map[string]bool
	signed  map[string]bool // the keys that signed anything
	did     map[string]int
}

type served struct {
	kids map[string]bool
	last time.Time
}

type modelReplica struct {
	w       *model
	name    string
	ring    *Ring
	offset  time.Duration // of its wall clock
	astray  bool
	started time.Time
	cut     bool // without access to the state
	healed  time.Time
	lost    bool // the next answer of the state is lost
	ticks   time.Time
	read    time.Time // when it last read the state
}

var errCut = errors.New("connection refused")

func (r *modelReplica) Get(ctx context.Context, key string) ([]byte, error) {
	if r.cut {
		return nil, errCut
	}
	if key == keysKind {
		r.read = r.w.now
	}
	return r.w.store.Get(ctx, key)
}

func (r *modelReplica) Update(ctx context.Context, key string, change func([]byte) ([]byte, error)) error {
	if r.cut {
		return errCut
	}
	err := r.w.store.Update(ctx, key, change)
	if r.lost && err == nil {
		r.lost = false
		return errors.New("connection reset")
	}
	return err
}

// splitMix is the generator of Steele, Lea and Flood. A seed gives the same numbers in every
// release of Go.
type splitMix uint64

func (s *splitMix) below(n int) int {
	*s += 0x9e3779b97f4a7c15
	z := uint64(*s)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return int((z ^ z>>31) % uint64(n))
}

func (s *splitMix) once(in int) bool { return s.below(in) == 0 }

func (w *model) say(format string, args ...any) {
	w.did[strings.Fields(format)[0]]++
	if *modelSeed != 0 {
		w.t.Logf("%s %s", w.now.Format("15:04:05"), fmt.Sprintf(format, args...))
	}
}

func (r *modelReplica) start() error {
	m, err := New(plan(r.w.t, Config{Algorithm: ES256, RotationPeriod: time.Hour, MaxAge: modelMaxAge}, modelLife), r,
		Options{Issuer: testIssuer, Now: func() time.Time { return r.w.now.Add(r.offset) }, Log: slog.New(slog.DiscardHandler), Initialize: true})
	if err != nil {
		return err
	}
	m.rotationPeriod = modelPeriod
	started := r.w.now
	m.elapsed = func() time.Duration { return r.w.now.Sub(started) }
	if err := m.Load(r.w.t.Context()); err != nil {
		return err
	}
	r.ring, r.started, r.read = m, r.w.now, r.w.now
	r.ticks = r.w.now.Add(modelStep * time.Duration(1+r.w.random.below(3)))
	return nil
}

func TestModel(t *testing.T) {
	seeds := []uint64{*modelSeed}
	if *modelSeed == 0 {
		seeds = nil
		fixed, random := 20, 4
		if testing.Short() {
			fixed, random = 2, 1
		}
		for i := range fixed {
			seeds = append(seeds, uint64(i+1))
		}
		for range random { // the test's name has the seed
			var b [8]byte
			rand.Read(b[:])
			seeds = append(seeds, binary.LittleEndian.Uint64(b[:])|1)
		}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("-model.seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			runModel(t, seed)
		})
	}
}

func runModel(t *testing.T, seed uint64) {
	w := &model{
		t: t, random: splitMix(seed), now: testStart, changed: testStart,
		seen: map[string]time.Time{}, served: map[string]served{}, tokens: map[string]time.Time{}, excused: map[string]time.Time{},
		revoked: map[string]bool{}, signed: map[string]bool{}, did: map[string]int{},
	}
	w.store = &state.Memory{Size: 10, Now: func() time.Time { return w.now }}
	for i := range 2 + w.random.below(3) {
		r := &modelReplica{w: w, name: string(rune('A' + i))}
		w.replicas = append(w.replicas, r)
		if err := r.start(); err != nil {
			t.Fatal(err)
		}
	}
	// Some runs have no emergencies, which could hide other errors.
	calm := w.random.once(3)
	for end := w.now.Add(modelHours * time.Hour); w.now.Before(end) && !t.Failed(); {
		w.now = w.now.Add(modelStep)
		w.happen(calm)
		for _, r := range w.replicas {
			if !w.now.Before(r.ticks) {
				r.ring.tick(t.Context())
				r.ticks = w.now.Add(modelPlan.refresh())
			}
			w.look()
		}
		w.check()
	}
	if w.did["astray"] == 0 {
		if want := int(modelHours * time.Hour / modelPeriod / 2); len(w.signed) < want {
			t.Errorf("%d keys signed in %d hours, want at least %d", len(w.signed), modelHours, want)
		}
	}
	if *modelSeed != 0 {
		t.Logf("%d keys signed; %v", len(w.signed), w.did)
	}
}

// happen makes unplanned events. The odds are for each step of two seconds.
func (w *model) happen(calm bool) {
	r := w.replicas[w.random.below(len(w.replicas))]
	ctx := w.t.Context()
	if w.random.once(200) && !r.astray {
		r.offset = time.Duration(w.random.below(61)-30) * time.Second
		w.say("clock of %s: %v", r.name, r.offset)
	}
	switch {
	case w.random.once(1200) && !slices.ContainsFunc(w.replicas, func(r *modelReplica) bool { return r.astray }):
		r.offset, r.astray = time.Duration(5+w.random.below(60))*time.Minute, true
		w.say("astray goes the clock of %s: %v", r.name, r.offset)
	case r.astray && w.random.once(300):
		r.offset, r.astray = 0, false
		w.say("found its way the clock of %s", r.name)
	}
	if w.now.Before(w.unsettled) {
		return
	}
	switch {
	case w.random.once(150) && !r.cut:
		if others := w.connected(); len(others) > 1 {
			w.say("cut %s", r.name)
			r.cut = true
		}
	case w.random.once(60) && r.cut:
		w.say("healed %s", r.name)
		r.cut, r.healed = false, w.now
	}
	if r.cut {
		return
	}
	if w.random.once(400) {
		r.lost = true
	}
	switch {
	case w.random.once(300):
		w.say("restart of %s", r.name)
		r.lost = false
		if err := r.start(); err != nil {
			w.t.Errorf("restart: %v", err)
		}
	case w.random.once(300) && !r.astray: // it uses the wall clock
		if _, err := r.ring.Rotate(ctx); err == nil {
			w.say("rotated by %s", r.name)
		} else {
			w.say("refused to rotate: %s: %v", r.name, err)
		}
	case w.random.once(1500):
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			w.t.Fatal(err)
		}
		_, err = r.ring.Import(ctx, keyringtest.PKCS8(w.t, key))
		w.say("imported by %s: %v", r.name, err)
	case !calm && w.random.once(1000):
		w.revoke(r)
	case !calm && w.random.once(400) && w.safeInStore():
		var value []byte
		if w.random.once(2) {
			value = w.history[w.random.below(len(w.history))]
		}
		w.say("the value vanished, or was restored from an old copy: %d bytes", len(value))
		if err := w.store.Put(ctx, keysKind, value, time.Time{}); err != nil {
			w.t.Fatal(err)
		}
		w.unsettled = w.now.Add(3 * modelPlan.refresh())
	}
}

func (w *model) connected() (all []*modelReplica) {
	for _, r := range w.replicas {
		if !r.cut {
			all = append(all, r)
		}
	}
	return all
}

// safeInStore reports whether a replica with access to the state holds the newest set. The
// state may lose only what a replica can write back.
func (w *model) safeInStore() bool {
	return w.newest != nil && slices.ContainsFunc(w.connected(), func(r *modelReplica) bool { return r.ring.keys().equal(w.newest.content) })
}

func (w *model) revoke(r *modelReplica) {
	keys := r.ring.keys().keys
	key := keys[w.random.below(len(keys))]
	kid := key.public.KeyID
	err := r.ring.Revoke(w.t.Context(), kid)
	w.look()
	if _, ok := w.newest.content.find(kid); ok {
		return
	}
	w.say("revoked by %s: %s, %v", r.name, key.state, err)
	w.revoked[kid] = true
	// Its successor signs at once.
	if current := w.newest.content.current(); w.excused[current.public.KeyID].IsZero() {
		w.excused[current.public.KeyID] = w.now.Add(modelPlan.lead(modelMaxAge) + skew)
	}
}

// look checks the key set of the state.
func (w *model) look() {
	value, err := w.store.Get(w.t.Context(), keysKind)
	if err != nil {
		w.t.Fatal(err)
	}
	if value == nil || (len(w.history) > 0 && bytes.Equal(w.history[len(w.history)-1], value)) {
		return
	}
	w.history, w.changed = append(w.history, value), w.now
	newest, _, err := w.replicas[0].ring.set.open(value)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.newest != nil && newest.Generation < w.newest.Generation {
		return
	}
	for _, k := range newest.content.keys {
		if w.seen[k.public.KeyID].IsZero() {
			w.seen[k.public.KeyID] = w.now
		}
	}
	w.newest = newest
}

// bounded reports whether a replica is as current as promised: the current and next keys
// that it lacks were published at most one refresh ago.
func (w *model) bounded(r *modelReplica) bool {
	for _, k := range []managedKey{w.newest.content.current(), w.newest.content.next()} {
		if _, ok := r.ring.keys().find(k.public.KeyID); !ok && w.now.Sub(w.seen[k.public.KeyID]) > modelPlan.refresh() {
			return !r.cut && r.read.After(r.healed)
		}
	}
	return true
}

func (w *model) check() {
	for _, r := range w.replicas {
		if !w.bounded(r) {
			continue
		}
		set := map[string]bool{}
		for _, k := range r.ring.keys().keys {
			set[k.public.KeyID] = true
		}
		w.served[strings.Join(slices.Sorted(maps.Keys(set)), " ")] = served{set, w.now}
		for kid, expires := range w.tokens {
			// After a revocation, a key that was published within the last refresh may sign.
			late := w.now.Sub(w.seen[kid]) > modelPlan.refresh()
			if late && w.now.Before(expires) && !set[kid] && !w.revoked[kid] {
				w.t.Errorf("%s: %s does not publish the key %s, whose tokens are valid for %v", w.now.Format("15:04:05"), r.name, kid, expires.Sub(w.now))
			}
		}
	}
	for text, s := range w.served {
		if w.now.Sub(s.last) > modelMaxAge {
			delete(w.served, text)
		}
	}
	for kid, expires := range w.tokens {
		if !w.now.Before(expires) {
			delete(w.tokens, kid)
		}
	}
	for _, r := range w.replicas {
		if r.astray || r.ring.Usable() != nil {
			continue
		}
		if age := w.now.Sub(r.read); age > modelMaxAge {
			w.t.Errorf("%s signs, and read the state %v ago", r.name, age)
		}
		kid := r.ring.KeySet().Keys()[0].ID()
		w.signed[kid] = true
		if expires := w.now.Add(r.offset + modelLife + skew/2); expires.After(w.tokens[kid]) {
			w.tokens[kid] = expires
		}
		for _, s := range w.served {
			if !s.kids[kid] && !w.revoked[kid] && !w.now.Before(w.excused[kid]) {
				w.t.Errorf("%s: %s signs with %s, which a verifier does not know that fetched %v ago", w.now.Format("15:04:05"), r.name, kid, w.now.Sub(s.last))
			}
		}
	}
	refresh := modelPlan.refresh()
	if w.now.Before(w.unsettled) || w.now.Sub(w.changed) <= refresh {
		return
	}
	for _, r := range w.connected() {
		if w.now.Sub(r.healed) > refresh && !bytes.Equal(r.ring.set.current.Load().raw, w.history[len(w.history)-1]) {
			w.t.Errorf("%s: %s does not hold the newest key set", w.now.Format("15:04:05"), r.name)
		}
	}
}
