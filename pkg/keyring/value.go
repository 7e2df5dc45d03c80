package keyring

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

var (
	errOlder       = errors.New("is older than what this server has seen")
	errUnconfirmed = errors.New("was not confirmed within keys.maxAge by a running server, and this server has never seen one")
)

// stamp orders the versions of a value. A change of the content raises the generation, a
// renewed confirmation only raises the confirmation.
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

func (s stamp) confirmedAt() string {
	if s.Confirmed.IsZero() {
		return "never"
	}
	return formatTime(s.Confirmed)
}

// envelope is what is sealed.
type envelope struct {
	Issuer string `json:"issuer"`
	stamp
	Content json.RawMessage `json:"content"`
}

// version is a value at one time. It never changes.
type version[T any] struct {
	stamp
	content *T
	encoded []byte // the content
	// legacy says that release 65ed6e0 wrote it, which confirmed nothing.
	legacy bool
}

// codec says what a value holds.
type codec[T any] struct {
	kind   string // the value's key in the state
	what   string // for messages
	absent error  // there is no value
	encode func(*T) ([]byte, error)
	// decode rejects everything that encode does not write.
	decode func([]byte) (*T, error)
	// legacy decodes what release 65ed6e0 sealed. Optional.
	legacy func(text []byte, issuer string) (*T, uint64, error)
	// names returns what the content lists, for [Seen].
	names func(*T) []string
	// revoked returns what [Seen] remembers as revoked. recall returns found with these
	// revocations, found itself if it has them. Optional, both or none.
	revoked func(*T) []string
	recall  func(revoked []string, found *T) *T
	// merge returns found with the changes of held that must not be lost, found itself if
	// it has them.
	merge func(held, found *T) *T
	// anyIssuer says that the value stays valid when auth.tokenIssuer changes, in a
	// state of this server alone.
	anyIssuer bool
	// changed is called with each version that this process holds from now on.
	changed func(was, is *version[T])
}

// shared is what all values of one state have in common.
type shared struct {
	Plan
	issuer  string
	store   Store
	private bool // no other machine writes to the store
	seen    *Seen
	log     *slog.Logger
	now     func() time.Time
	elapsed func() time.Duration // monotonic
}

// moment is a time by both clocks. The wall clock may step; the monotonic clock stops
// while the machine sleeps.
type moment struct {
	elapsed time.Duration
	wall    time.Time
}

// wall is without the monotonic clock, which would count in differences.
func (s *shared) wall() time.Time { return s.now().UTC().Round(0) }

func (s *shared) moment() moment { return moment{s.elapsed(), s.wall()} }

// value is one value of the state that all replicas agree on. It is sealed, and has a
// generation and the time of its last confirmation by a replica.
//
// This process replaces what it holds only with what is newer, and writes what it holds
// over what is older or missing in the state. A confirmation by this process counts when
// a later read finds it in the state: a value over which somebody writes an old one again
// and again stays unconfirmed.
type value[T any] struct {
	*shared
	codec[T]

	changing sync.Mutex // held while the state is read or changed
	warned   time.Duration
	current  atomic.Pointer[current[T]]
	fresh    atomic.Pointer[moment] // the last confirmation that counts
}

// current is the version that this process holds.
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

// hold replaces the version that this process holds. The error says that this server could
// not note that it has seen the version, which is then not fresh.
func (v *value[T]) hold(is *version[T], raw []byte, met time.Duration) error {
	was := v.current.Load()
	var before *version[T]
	if was != nil {
		before = was.version
		if was.stamp == is.stamp {
			met = was.met
		}
	}
	v.current.Store(&current[T]{is, raw, met})
	v.changed(before, is)
	return v.remember(is)
}

// remember notes a version in the file of what this server has seen.
func (v *value[T]) remember(is *version[T]) error {
	var revoked []string
	if v.revoked != nil {
		revoked = v.revoked(is.content)
	}
	if err := v.seen.note(v.kind, is.Generation, v.names(is.content), revoked); err != nil {
		return fmt.Errorf("generation %d of the %s does not count as confirmed: %w", is.Generation, v.what, err)
	}
	return nil
}

// seal returns the text of a version for the state.
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

// open returns the version of a text in the state, and whether seal would now use another
// key.
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
		return nil, false, fmt.Errorf("belongs to the issuer %q, not to %q", e.Issuer, v.issuer)
	case e.Generation == 0 || e.Confirmation == 0 || e.Confirmed.IsZero():
		return nil, false, fmt.Errorf("%w: it has no generation, or was never confirmed", errInvalid)
	}
	found := &version[T]{stamp: e.stamp, encoded: e.Content}
	if mine := v.held(); mine != nil && bytes.Equal(mine.encoded, e.Content) {
		found.content = mine.content // only the confirmation is new
	} else if found.content, err = v.decode(e.Content); err != nil {
		return nil, false, err
	}
	return found, reseal || e.Issuer != v.issuer, nil
}

// admit returns an error if a version may be an old one that was put back. It is for a
// process that holds no version.
func (v *value[T]) admit(found *version[T]) error {
	last, seen := v.seen.last(v.kind)
	age := v.wall().Sub(found.Confirmed)
	switch {
	case seen && (found.legacy || found.Generation < last.Generation):
		return fmt.Errorf("the value %q in the state %w (generation %d, this server has seen %d); %s", v.kind, errOlder, found.Generation, last.Generation, v.remedy())
	case !seen && !v.private && (found.legacy || age > v.maxAge || age < -skew):
		return fmt.Errorf("the value %q in the state %w (generation %d, last confirmed %s); %s", v.kind, errUnconfirmed, found.Generation, found.confirmedAt(), v.remedy())
	}
	return nil
}

// recalled returns a content with the revocations that this server has seen.
func (v *value[T]) recalled(found *T) *T {
	if v.recall == nil {
		return found
	}
	last, _ := v.seen.last(v.kind)
	return v.recall(last.Revoked, found)
}

// remedy says what an operator can do about a value that is refused.
func (v *value[T]) remedy() string {
	if v.private {
		return "if you restored a copy on purpose, `state accept` accepts it and lists what was revoked and denied since"
	}
	return "a running server that holds a newer one writes it back within seconds; if there is no such server, `keys init --accept` accepts what is there and lists it"
}

// lost returns an error for a value that is missing in a state of this server alone,
// although this server has seen one.
func (v *value[T]) lost() error {
	if last, seen := v.seen.last(v.kind); seen {
		return fmt.Errorf("the state has no %s, and this server has seen one (generation %d): the state %w; %s", v.what, last.Generation, errOlder, v.remedy())
	}
	return nil
}

// unopened says what an operator can do about a value that cannot be opened.
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
	return fmt.Errorf("%w; `keys init` at a running server writes its %s over it; if no server runs and the value is not needed, delete it", err, v.what)
}
