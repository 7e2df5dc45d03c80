package keyring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

var (
	// ErrNoLedger says that the state holds no list of denials, and that this
	// process must not make one by itself: nothing is known of who is denied.
	ErrNoLedger = errors.New("the state holds no list of denied instances; if it is new, or of release 65ed6e0, `keys init` makes one, and if it lost one, a running server writes it back within seconds")
	// ErrLedgerFull says that a list of denials has as many entries as it may.
	ErrLedgerFull = errors.New("the list of denied instances is full: allow instances that no longer exist, give shorter reasons, or deny for a time")
	// ErrLedgerStale says that the list of denials was confirmed too long ago: an
	// instance may have been denied since.
	ErrLedgerStale = errors.New("the list of denied instances was not confirmed in the state for longer than keys.maxAge")
)

const (
	// maxLedger bounds the encoded entries. The list is read with each decision.
	maxLedger = 128 << 10
	// maxRemoved bounds how many entries that were taken away are remembered, and
	// removedFor for how long.
	maxRemoved = 200
	removedFor = 24 * time.Hour
)

// Ledger is a small list of entries, by key, in one sealed value of the state, of
// which all replicas have the newest version. Nothing is known of what they mean.
type Ledger struct {
	list    *value[entries]
	first   func(ctx context.Context) (map[string][]byte, error)
	reports reports
}

// entries is never changed once made.
type entries struct{ all map[string]entry }

// entry is what a key has, or that it was taken away. The last change of an entry
// counts, when two replicas changed the list and did not know of each other.
type entry struct {
	Value   json.RawMessage `json:"value,omitempty"` // none if it was taken away
	Changed time.Time       `json:"changed"`
}

func newLedger(s *shared, first func(ctx context.Context) (map[string][]byte, error)) *Ledger {
	l := &Ledger{first: first, reports: reports{what: "list of denied instances"}}
	l.list = &value[entries]{shared: s, codec: codec[entries]{
		kind: denialsKind, what: "list of denied instances", absent: ErrNoLedger,
		encode: encodeEntries, decode: decodeEntries, names: entryNames, merge: mergeEntries, anyIssuer: true,
		changed: func(was, is *version[entries]) {
			if was == nil || was.Generation != is.Generation {
				s.log.Info("list of denied instances", "generation", is.Generation, "entries", len(entryNames(is.content)))
			}
		},
	}}
	return l
}

func encodeEntries(e *entries) ([]byte, error) { return json.Marshal(e.all) }

func decodeEntries(data []byte) (*entries, error) {
	e := &entries{}
	if err := decodeStrictly(data, &e.all); err != nil {
		return nil, fmt.Errorf("%w: %w", errInvalid, err)
	}
	if e.all == nil {
		return nil, errInvalid
	}
	return e, nil
}

func entryNames(e *entries) []string {
	names := []string{}
	for key, of := range e.all {
		if of.Value != nil {
			names = append(names, key)
		}
	}
	slices.Sort(names)
	return names
}

// mergeEntries is found with what held has changed later.
func mergeEntries(held, found *entries) *entries {
	var merged map[string]entry
	for key, mine := range held.all {
		theirs, ok := found.all[key]
		if ok && !mine.Changed.After(theirs.Changed) || !ok && mine.Value == nil {
			continue
		}
		if merged == nil {
			merged = maps.Clone(found.all)
		}
		merged[key] = mine
	}
	if merged == nil {
		return found
	}
	return &entries{merged}
}

// Entry is the value of a key, nil if there is none. An error says that this
// cannot be known now.
func (l *Ledger) Entry(ctx context.Context, key string) ([]byte, error) {
	e, err := l.newest(ctx)
	if err != nil {
		return nil, err
	}
	return e.all[key].Value, nil
}

// Entries are all values.
func (l *Ledger) Entries(ctx context.Context) (map[string][]byte, error) {
	e, err := l.newest(ctx)
	if err != nil {
		return nil, err
	}
	return e.values(), nil
}

func (e *entries) values() map[string][]byte {
	all := map[string][]byte{}
	for key, of := range e.all {
		if of.Value != nil {
			all[key] = bytes.Clone(of.Value)
		}
	}
	return all
}

// newest compares the list that is held with the state, which costs one reading
// as long as it is the same.
func (l *Ledger) newest(ctx context.Context) (*entries, error) {
	raw, err := l.list.store.Get(ctx, denialsKind)
	if err != nil {
		return nil, err
	}
	held := l.list.current.Load()
	if held == nil || !bytes.Equal(raw, held.raw) {
		if held, err = l.changed(ctx, raw); err != nil {
			return nil, l.failed(err)
		}
	}
	if !l.list.usable() {
		return nil, l.failed(ErrLedgerStale)
	}
	return held.content, nil
}

// changed takes what is in the state, which was raw.
func (l *Ledger) changed(ctx context.Context, raw []byte) (*current[entries], error) {
	l.list.changing.Lock()
	defer l.list.changing.Unlock()
	held := l.list.current.Load()
	switch {
	case held == nil:
		if err := l.start(ctx); err != nil {
			return nil, err
		}
	case !bytes.Equal(raw, held.raw): // else another decision has taken it
		// raw may be older than what this process has written since: it is read again.
		if err := l.list.read(ctx); err != nil {
			return nil, err
		}
	}
	return l.list.current.Load(), nil
}

// Change replaces the values by what change makes of them, with nothing coming
// between; it may be called more than once. Values are JSON.
func (l *Ledger) Change(ctx context.Context, change func(values map[string][]byte) error) error {
	l.list.changing.Lock()
	defer l.list.changing.Unlock()
	if l.list.current.Load() == nil {
		if err := l.start(ctx); err != nil {
			return l.failed(err)
		}
	}
	return l.failed(l.list.update(ctx, l.list.newest, func(e *entries) (*entries, error) {
		if e == nil {
			return nil, ErrNoLedger
		}
		values := e.values()
		if err := change(values); err != nil {
			return nil, err
		}
		return e.successor(values, l.list.wall())
	}))
}

// successor is the list with other values, itself if they are the same.
func (e *entries) successor(values map[string][]byte, now time.Time) (*entries, error) {
	next := &entries{maps.Clone(e.all)}
	same := true
	set := func(key string, value json.RawMessage) {
		changed := now
		if was := e.all[key].Changed; !changed.After(was) {
			changed = was.Add(1) // by the clock of another replica
		}
		next.all[key], same = entry{value, changed}, false
	}
	for key, value := range values {
		if !bytes.Equal(e.all[key].Value, value) {
			set(key, value)
		}
	}
	for key, of := range e.all {
		if _, ok := values[key]; !ok && of.Value != nil {
			set(key, nil)
		}
	}
	if same {
		return e, nil
	}
	next.prune(now)
	text, err := encodeEntries(next)
	if err != nil {
		return nil, err
	}
	if len(text) > maxLedger {
		return nil, fmt.Errorf("%w (%d entries)", ErrLedgerFull, len(values))
	}
	return next, nil
}

// prune forgets entries that were taken away long ago, or are too many.
func (e *entries) prune(now time.Time) {
	var removed []string
	for key, of := range e.all {
		if of.Value == nil {
			removed = append(removed, key)
		}
	}
	slices.SortFunc(removed, func(a, b string) int { return e.all[b].Changed.Compare(e.all[a].Changed) })
	for i, key := range removed {
		if i >= maxRemoved || now.Sub(e.all[key].Changed) > removedFor {
			delete(e.all, key)
		}
	}
}

// load takes the list for the first time, and makes it where it may.
func (l *Ledger) load(ctx context.Context) error {
	l.list.changing.Lock()
	defer l.list.changing.Unlock()
	err := l.failed(l.start(ctx))
	l.reports.report(l.list.log, err)
	return err
}

// Err is what was wrong when the list was last read, nil if nothing was.
func (l *Ledger) Err() error {
	if problem := l.reports.last(); problem != nil || l.list.usable() {
		return problem
	}
	return l.failed(ErrLedgerStale)
}

func (l *Ledger) start(ctx context.Context) error {
	raw, err := l.list.store.Get(ctx, denialsKind)
	if err != nil {
		return err
	}
	if raw == nil && l.list.current.Load() == nil {
		return l.make(ctx)
	}
	if err := l.list.update(ctx, l.list.newest, unchanged); err != nil {
		return err
	}
	l.list.count(l.list.current.Load())
	return nil
}

// make makes the list in a state that no other machine writes to.
func (l *Ledger) make(ctx context.Context) error {
	generation, seen := l.list.seen.generation(denialsKind)
	switch {
	case !l.list.private:
		return ErrNoLedger
	case seen:
		return fmt.Errorf("the state holds none, and this server has seen one (generation %d): it %w; %s", generation, ErrOlder, l.list.remedy())
	}
	values, err := l.former(ctx)
	if err != nil {
		return err
	}
	if err := l.list.update(ctx, l.list.newest, l.begin(values)); err != nil {
		return err
	}
	l.list.count(l.list.current.Load())
	return nil
}

// former are the denials of release 65ed6e0.
func (l *Ledger) former(ctx context.Context) (map[string][]byte, error) {
	if l.first == nil {
		return nil, nil
	}
	values, err := l.first(ctx)
	if len(values) > 0 {
		l.list.log.Info("denials of release 65ed6e0 are taken over", "entries", len(values))
	}
	return values, err
}

// begin makes the list where there is none.
func (l *Ledger) begin(values map[string][]byte) func(*entries) (*entries, error) {
	return func(e *entries) (*entries, error) {
		if e != nil {
			return e, nil
		}
		return (&entries{map[string]entry{}}).successor(values, l.list.wall())
	}
}

// refresh is one turn of the ring.
func (l *Ledger) refresh(ctx context.Context) {
	l.list.changing.Lock()
	defer l.list.changing.Unlock()
	err := l.list.read
	if l.list.current.Load() == nil {
		err = l.start
	}
	l.reports.report(l.list.log, l.failed(err(ctx)))
}

func (l *Ledger) failed(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("denied instances: %w", err)
}
