package keyring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrOlder says that a value in the state has an older generation than this
	// server has seen: the state, or the value, was put back to an earlier one.
	ErrOlder = errors.New("is older than what this server has seen")
	// ErrUnconfirmed says that this server has seen no value of the state yet, and
	// that the one which is there was last confirmed longer than keys.maxAge ago:
	// it may be an old one that was put back.
	ErrUnconfirmed = errors.New("was not confirmed within keys.maxAge by a running server, and this server has seen none before")
)

// errUnchanged ends an Update that has nothing to write.
var errUnchanged = errors.New("the value stays as it is")

// renewal is the longest time after which a running replica confirms a value anew.
const renewal = time.Minute

// stamp orders the versions of a value. A change of the content raises the
// generation, a renewed confirmation the confirmation alone.
type stamp struct {
	Generation   uint64    `json:"generation"`
	Confirmation uint64    `json:"confirmation"`
	Confirmed    time.Time `json:"confirmed"` // by the clock of the replica that wrote it
}

func (s stamp) before(o stamp) bool {
	if s.Generation != o.Generation {
		return s.Generation < o.Generation
	}
	return s.Confirmation < o.Confirmation
}

// envelope is what is sealed.
type envelope struct {
	Issuer string `json:"issuer"`
	stamp
	Content json.RawMessage `json:"content"`
}

// version is a value as it was at one time. It is never changed once made.
type version[T any] struct {
	stamp
	content *T
	encoded []byte // the content
	// legacy is true of one that release 65ed6e0 wrote, which confirmed nothing.
	legacy bool
}

// codec says what a value holds.
type codec[T any] struct {
	kind   string // the value's key in the state
	what   string // for people
	absent error  // says that there is none
	encode func(*T) ([]byte, error)
	// decode takes nothing that encode would not have written.
	decode func([]byte) (*T, error)
	// legacy decodes what release 65ed6e0 sealed. Optional.
	legacy func(text []byte, issuer string) (*T, uint64, error)
	// names are what the content lists, for [Seen].
	names func(*T) []string
	// recall gives found if it has everything that this server has seen to be revoked,
	// else what has that, too; revoked is what to note of it. Optional, both or none.
	recall  func(revoked []string, found *T) *T
	revoked func(*T) []string
	// merge gives found if it has everything that held says for good, else what
	// has that, too.
	merge func(held, found *T) *T
	// anyIssuer is true of what counts on, in a state of this server alone, when
	// auth.tokenIssuer was changed.
	anyIssuer bool
	// changed is told of each version that is held from now on.
	changed func(was, is *version[T])
}

// shared is what all values of one state have in common.
type shared struct {
	issuer  string
	store   Store
	sealer  sealer
	private bool // no other machine writes to the store
	seen    *Seen
	maxAge  time.Duration
	log     *slog.Logger
	now     func() time.Time
	elapsed func() time.Duration // monotonic
}

// moment is a time by both clocks. That of the wall steps, the monotonic one
// stands still while the machine sleeps.
type moment struct {
	elapsed time.Duration
	wall    time.Time
}

// wall is without the monotonic clock, which would take part in differences.
func (s *shared) wall() time.Time { return s.now().UTC().Round(0) }

func (s *shared) moment() moment { return moment{s.elapsed(), s.wall()} }

// value is one value of the state that the replicas agree on. It is sealed, and
// says its generation and when a replica last confirmed that it is the newest.
//
// What a process holds is replaced by what is newer only. What is older in the
// state, or missing, is replaced by what is held. A confirmation of this process
// counts when it is found in the state at a later reading: a value that somebody
// puts back over it again and again stays unconfirmed.
type value[T any] struct {
	*shared
	codec[T]

	changing sync.Mutex // held while the state is asked or changed
	warned   time.Duration
	current  atomic.Pointer[current[T]]
	fresh    atomic.Pointer[moment] // the last confirmation that counts
}

// current is the version that is held.
type current[T any] struct {
	*version[T]
	raw []byte        // as it is in the state
	met time.Duration // when this process wrote or first read the confirmation
}

func (v *value[T]) held() *version[T] {
	if c := v.current.Load(); c != nil {
		return c.version
	}
	return nil
}

func (v *value[T]) content() *T {
	if h := v.held(); h != nil {
		return h.content
	}
	return nil
}

// seal makes the text in the state of a version.
func (v *value[T]) seal(is *version[T]) ([]byte, error) {
	if is.encoded == nil {
		var err error
		if is.encoded, err = v.encode(is.content); err != nil {
			return nil, err
		}
	}
	text, err := json.Marshal(envelope{v.issuer, is.stamp, is.encoded})
	if err != nil {
		return nil, err
	}
	return v.sealer.seal(v.kind, v.issuer, text), nil
}

// open gives the version of a text in the state, and whether seal would now use
// another key.
func (v *value[T]) open(raw []byte) (*version[T], bool, error) { return v.openWith(v.sealer, raw) }

func (v *value[T]) openWith(s sealer, raw []byte) (*version[T], bool, error) {
	text, format, reseal, err := s.open(v.kind, v.issuer, raw)
	if err != nil {
		return nil, false, err
	}
	if format == formerVersion {
		if v.legacy == nil {
			return nil, false, errInvalid
		}
		content, generation, err := v.legacy(text, v.issuer)
		if err != nil {
			return nil, false, err
		}
		return &version[T]{stamp: stamp{Generation: generation}, content: content, legacy: true}, reseal, nil
	}
	var e envelope
	if err := decodeStrictly(text, &e); err != nil {
		return nil, false, fmt.Errorf("%w: %w", errInvalid, err)
	}
	switch {
	case e.Issuer != v.issuer && !(v.anyIssuer && v.private):
		return nil, false, fmt.Errorf("is that of the issuer %q, not of %q", e.Issuer, v.issuer)
	case e.Generation == 0 || e.Confirmation == 0 || e.Confirmed.IsZero():
		return nil, false, fmt.Errorf("%w: it has no generation, or was never confirmed", errInvalid)
	}
	found := &version[T]{stamp: e.stamp, encoded: e.Content}
	if mine := v.held(); mine != nil && bytes.Equal(mine.encoded, e.Content) {
		found.content = mine.content // confirmed anew
	} else if found.content, err = v.decode(e.Content); err != nil {
		return nil, false, err
	}
	return found, reseal || e.Issuer != v.issuer, nil
}

// admit fails if a version may be an old one that was put back. It is for a
// process that holds none.
func (v *value[T]) admit(found *version[T]) error {
	generation, seen := v.seen.generation(v.kind)
	age := v.wall().Sub(found.Confirmed)
	switch {
	case seen && (found.legacy || found.Generation < generation):
		return fmt.Errorf("%w (generation %d, seen was %d); %s", ErrOlder, found.Generation, generation, v.remedy())
	case !seen && !v.private && (found.legacy || age > v.maxAge || age < -skew):
		return fmt.Errorf("%w (generation %d, last confirmed %s); %s", ErrUnconfirmed, found.Generation, confirmedAt(found.stamp), v.remedy())
	}
	return nil
}

// recalled is a content with what this server has seen to be revoked.
func (v *value[T]) recalled(found *T) *T {
	if v.recall == nil {
		return found
	}
	return v.recall(v.seen.revoked(v.kind), found)
}

func confirmedAt(s stamp) string {
	if s.Confirmed.IsZero() {
		return "never"
	}
	return formatTime(s.Confirmed)
}

// remedy is what an operator can do about a value that is refused.
func (v *value[T]) remedy() string {
	if v.private {
		return "if it is a copy that was restored on purpose, `state accept` accepts it and says what was revoked and denied since"
	}
	return "a running server that holds a newer one writes it back within seconds; if there is none, `keys init --accept` accepts what is there and says what that is"
}

// read takes the value of the state, once.
func (v *value[T]) read(ctx context.Context) error {
	began := v.moment()
	raw, err := v.store.Get(ctx, v.kind)
	if err != nil {
		return err
	}
	return v.take(ctx, began, raw)
}

// take judges what was read from the state, and confirms it when that is due.
// What is missing or older in the state is replaced by what is held; what cannot
// be opened is left, since it may be another program's.
func (v *value[T]) take(ctx context.Context, began moment, raw []byte) error {
	held := v.current.Load()
	switch {
	case raw == nil && held == nil:
		return v.absent
	case raw == nil:
		v.warn(v.what+" is gone from the state: it is written back", "generation", held.Generation)
		return v.update(ctx, v.newest, unchanged)
	case held != nil && bytes.Equal(raw, held.raw):
		if err := v.remember(held.version); err != nil {
			return err
		}
		v.count(held)
		if v.renewalDue(held.version) {
			return v.update(ctx, v.newest, unchanged)
		}
		return nil
	}
	found, _, err := v.open(raw)
	if err != nil {
		return v.unopened(err)
	}
	if held == nil {
		if err := v.admit(found); err != nil {
			return v.refused(err)
		}
		if v.recalled(found.content) != found.content {
			return v.update(ctx, v.newest, unchanged)
		}
	} else {
		if found.legacy || found.before(held.stamp) {
			v.warn(v.what+" in the state is older than the one held: it is refused, and replaced. If that repeats, another program writes to the state",
				"generation", found.Generation, "held", held.Generation, "confirmed", confirmedAt(found.stamp), "held_confirmed", confirmedAt(held.stamp))
			return v.update(ctx, v.newest, unchanged)
		}
		if held.content != found.content && v.merge(held.content, found.content) != found.content {
			v.warn(v.what+" in the state lacks a revocation or denial of the one held: both are joined", "generation", found.Generation, "held", held.Generation)
			return v.update(ctx, v.newest, unchanged)
		}
	}
	if err := v.hold(found, raw, began.elapsed); err != nil {
		return err
	}
	v.count(v.current.Load())
	if v.renewalDue(found) {
		return v.update(ctx, v.newest, unchanged)
	}
	return nil
}

// warn logs what another program may cause as often as it likes.
func (v *value[T]) warn(message string, attrs ...any) {
	if now := v.elapsed(); v.warned == 0 || now-v.warned >= renewal {
		v.warned = max(now, 1)
		v.log.Error(message, attrs...) //nolint:sloglint // one of three
	}
}

func unchanged[T any](content *T) (*T, error) { return content, nil }

// count notes a confirmation that was found in the state.
func (v *value[T]) count(c *current[T]) {
	if c.Confirmed.Sub(v.wall()) > skew {
		return // a clock was wrong: it is confirmed anew
	}
	v.fresh.Store(&moment{c.met, c.Confirmed})
}

// usable reports whether the newest confirmation is at most maxAge old, by both
// clocks.
func (v *value[T]) usable() bool {
	f, now := v.fresh.Load(), v.moment()
	return f != nil && now.elapsed-f.elapsed <= v.maxAge && now.wall.Sub(f.wall) <= v.maxAge
}

// renewalDue reports whether a version should be confirmed anew. It is so long
// before it is stale that a replica may miss some turns.
func (v *value[T]) renewalDue(is *version[T]) bool {
	after := min(v.maxAge/4, renewal)
	age := v.wall().Sub(is.Confirmed)
	if c := v.current.Load(); c != nil && c.stamp == is.stamp && v.elapsed()-c.met >= after {
		return true
	}
	return age >= after || age < -skew
}

// A base is what an update starts from: what is there, nil for nothing, and how
// much of it has to be written even if nothing changes.
type base[T any] func(raw []byte) (from *version[T], how rewrite, err error)

type rewrite int

const (
	asNeeded rewrite = iota // only if it changes
	again                   // with a new confirmation
	anew                    // with a new generation
)

// update changes the newest version and holds the outcome.
func (v *value[T]) update(ctx context.Context, start base[T], change func(*T) (*T, error)) error {
	var is *version[T]
	var raw []byte
	met := v.elapsed()
	err := v.store.Update(ctx, v.kind, func(old []byte) ([]byte, error) {
		from, how, err := start(old)
		if err != nil {
			return nil, err
		}
		is = &version[T]{stamp: stamp{Confirmed: v.wall()}}
		var was *T
		if from != nil {
			was = from.content
			is.Generation, is.Confirmation = from.Generation, from.Confirmation
		} else {
			is.Generation, _ = v.seen.generation(v.kind)
		}
		if is.content, err = change(was); err != nil {
			return nil, err
		}
		if is.content == nil {
			return nil, v.absent
		}
		if is.content == was && from != nil {
			is.encoded = from.encoded
		}
		if is.content == was && how == asNeeded {
			is, raw = from, bytes.Clone(old)
			return nil, errUnchanged
		}
		is.Confirmation++
		if is.content != was || how == anew {
			is.Generation++
		}
		raw, err = v.seal(is)
		return raw, err
	})
	if err != nil && !errors.Is(err, errUnchanged) {
		return err
	}
	if is == nil {
		return nil
	}
	return v.hold(is, bytes.Clone(raw), met)
}

// newest is the newer one of the version in the state and the one held.
func (v *value[T]) newest(raw []byte) (*version[T], rewrite, error) {
	mine := v.held()
	if raw == nil {
		return mine, again, nil
	}
	found, reseal, err := v.open(raw)
	if err != nil {
		return nil, asNeeded, v.unopened(err)
	}
	how := asNeeded
	if reseal || found.legacy || v.renewalDue(found) {
		how = again
	}
	if mine == nil {
		if err := v.admit(found); err != nil {
			return nil, asNeeded, v.refused(err)
		}
		if recalled := v.recalled(found.content); recalled != found.content {
			return &version[T]{stamp: found.stamp, content: recalled}, anew, nil
		}
		return found, how, nil
	}
	if found.legacy || found.before(mine.stamp) {
		return mine, again, nil
	}
	if merged := v.merge(mine.content, found.content); mine.content != found.content && merged != found.content {
		return &version[T]{stamp: found.stamp, content: merged}, anew, nil
	}
	return found, how, nil
}

// repaired is newest for an operator who says that what cannot be opened may go.
func (v *value[T]) repaired(raw []byte) (*version[T], rewrite, error) {
	found, how, err := v.newest(raw)
	mine := v.held()
	switch {
	case err == nil || errors.Is(err, errNewer) || errors.Is(err, ErrOlder) || errors.Is(err, ErrUnconfirmed):
		return found, how, err
	case mine != nil:
		return mine, again, nil
	case errors.Is(err, errNotSealed) && v.private:
		found, _, err := v.openWith(sealer{}, raw)
		if err == nil {
			err = v.refused(v.admit(found))
		}
		return found, again, err
	}
	return nil, asNeeded, err
}

// accepted is repaired for an operator who says that what is there may be old.
func (v *value[T]) accepted(raw []byte) (*version[T], rewrite, error) {
	if raw == nil || v.held() != nil {
		return v.repaired(raw)
	}
	found, _, err := v.open(raw)
	if err != nil {
		return v.repaired(raw)
	}
	// Newer than what any server has seen that saw no more than this one.
	seen, _ := v.seen.generation(v.kind)
	from := &version[T]{stamp: found.stamp, content: v.recalled(found.content)}
	from.Generation = max(from.Generation, seen)
	return from, anew, nil
}

// hold makes a version the one that counts here. An error says that this server
// could not note that it has seen it; the version is then not fresh.
func (v *value[T]) hold(is *version[T], raw []byte, met time.Duration) error {
	was := v.current.Load()
	if was != nil && was.stamp == is.stamp {
		met = was.met
	}
	v.current.Store(&current[T]{is, raw, met})
	var before *version[T]
	if was != nil {
		before = was.version
	}
	v.changed(before, is)
	return v.remember(is)
}

// remember notes a generation in the file of this server.
func (v *value[T]) remember(is *version[T]) error {
	var revoked []string
	if v.revoked != nil {
		revoked = v.revoked(is.content)
	}
	if err := v.seen.note(v.kind, is.Generation, v.names(is.content), revoked); err != nil {
		return fmt.Errorf("generation %d of the %s is not taken for fresh: %w", is.Generation, v.what, err)
	}
	return nil
}

func (v *value[T]) unopened(err error) error {
	err = fmt.Errorf("the value %q in the state %w", v.kind, err)
	switch {
	case errors.Is(err, errNewer):
		return err
	case v.held() != nil:
		return fmt.Errorf("%w; `keys init` writes the %s of this server over it", err, v.what)
	case errors.Is(err, errNotSealed) && v.private:
		return fmt.Errorf("%w; if it was made without encryptionKeyFile, `keys init` seals it", err)
	}
	return fmt.Errorf("%w; `keys init` at a server that still runs writes its %s over it; if there is none and nobody needs the value, delete it", err, v.what)
}

func (v *value[T]) refused(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("the value %q in the state %w", v.kind, err)
}
