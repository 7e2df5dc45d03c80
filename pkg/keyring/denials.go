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
	errNoDenials    = errors.New("the state holds no list of denied instances; if it is new, or of release 65ed6e0, `keys init` makes one; if it lost one, a running server writes it back within seconds")
	errDenialsFull  = errors.New("the list of denied instances is full: allow instances that no longer exist, give shorter reasons, or deny for a time")
	errDenialsStale = errors.New("the list of denied instances was not confirmed in the state for longer than keys.maxAge")
)

const (
	maxDenials = 128 << 10 // bytes, since each decision reads the list
	// Removed entries are remembered for removedFor, at most maxRemoved of them.
	maxRemoved = 200
	removedFor = 24 * time.Hour
)

// DenialList is the denial list: entries by key in one sealed value of the state, of which
// all replicas have the newest version. It does not know what an entry means.
type DenialList struct {
	list    *value[entries]
	first   func(ctx context.Context) (map[string][]byte, error)
	reports reports
}

// entries never change; each change makes others.
type entries struct{ all map[string]entry }

// entry is the value of a key, or its removal. If two replicas change an entry without
// knowing of each other, the later change counts.
type entry struct {
	Value   json.RawMessage `json:"value,omitempty"` // none if it was removed
	Changed time.Time       `json:"changed"`
}

func newDenialList(s *shared, first func(ctx context.Context) (map[string][]byte, error)) *DenialList {
	l := &DenialList{first: first, reports: reports{what: "list of denied instances"}}
	l.list = &value[entries]{shared: s, codec: codec[entries]{
		kind: denialsKind, what: "list of denied instances", absent: errNoDenials,
		encode: encodeEntries, decode: decodeEntries, names: entryNames, merge: mergeEntries, anyIssuer: true,
		changed: func(was, is *version[entries]) {
			if was == nil || was.Generation != is.Generation {
				s.log.Info("list of denied instances", "generation", is.Generation, "entries", len(is.content.values()))
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

func (e *entries) values() map[string][]byte {
	all := map[string][]byte{}
	for key, of := range e.all {
		if of.Value != nil {
			all[key] = bytes.Clone(of.Value)
		}
	}
	return all
}

func entryNames(e *entries) []string {
	return append([]string{}, slices.Sorted(maps.Keys(e.values()))...)
}

// mergeEntries returns found with the later changes of held.
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

// Entry returns the value of a key, nil if there is none. An error says that this is not
// known now.
func (l *DenialList) Entry(ctx context.Context, key string) ([]byte, error) {
	e, err := l.newest(ctx)
	if err != nil {
		return nil, err
	}
	return e.all[key].Value, nil
}

// Entries returns all values by key.
func (l *DenialList) Entries(ctx context.Context) (map[string][]byte, error) {
	e, err := l.newest(ctx)
	if err != nil {
		return nil, err
	}
	return e.values(), nil
}

// newest compares the list that this process holds with the state. That costs one read if
// they are equal.
func (l *DenialList) newest(ctx context.Context) (*entries, error) {
	raw, err := l.list.store.Get(ctx, denialsKind)
	if err != nil {
		return nil, err
	}
	held := l.list.current.Load()
	if held == nil || !bytes.Equal(raw, held.raw) {
		if held, err = l.changed(ctx, raw); err != nil {
			return nil, denialsFailed(err)
		}
	}
	if !l.list.usable() {
		return nil, denialsFailed(errDenialsStale)
	}
	return held.content, nil
}

// changed takes what is in the state, which was raw.
func (l *DenialList) changed(ctx context.Context, raw []byte) (*current[entries], error) {
	l.list.changing.Lock()
	defer l.list.changing.Unlock()
	held := l.list.current.Load()
	switch {
	case held == nil:
		if err := l.start(ctx); err != nil {
			return nil, err
		}
	case !bytes.Equal(raw, held.raw): // another decision has not taken it
		// This process may have written since it read raw, so it reads again.
		if err := l.list.read(ctx); err != nil {
			return nil, err
		}
	}
	return l.list.current.Load(), nil
}

// Change atomically replaces the values with those that change leaves in the map. It may
// call change more than once. Values are JSON.
func (l *DenialList) Change(ctx context.Context, change func(values map[string][]byte) error) error {
	l.list.changing.Lock()
	defer l.list.changing.Unlock()
	if l.list.current.Load() == nil {
		if err := l.start(ctx); err != nil {
			return denialsFailed(err)
		}
	}
	return denialsFailed(l.list.update(ctx, l.list.newest, func(e *entries) (*entries, error) {
		if e == nil {
			return nil, errNoDenials
		}
		values := e.values()
		if err := change(values); err != nil {
			return nil, err
		}
		return e.successor(values, l.list.wall())
	}))
}

// successor returns the list with other values, the same list if they are equal.
func (e *entries) successor(values map[string][]byte, now time.Time) (*entries, error) {
	next := &entries{maps.Clone(e.all)}
	same := true
	set := func(key string, value json.RawMessage) {
		changed := now
		if was := e.all[key].Changed; !changed.After(was) {
			changed = was.Add(1) // another replica's clock is ahead
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
	if len(text) > maxDenials {
		return nil, fmt.Errorf("%w (%d entries)", errDenialsFull, len(values))
	}
	return next, nil
}

// prune forgets removed entries that are old or too many.
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

// load takes the list for the first time, and makes it if that is allowed.
func (l *DenialList) load(ctx context.Context) error {
	l.list.changing.Lock()
	defer l.list.changing.Unlock()
	err := denialsFailed(l.start(ctx))
	l.reports.report(l.list.log, err)
	return err
}

// Err returns the problem of the last read of the list, nil if there was none.
func (l *DenialList) Err() error {
	if problem := l.reports.last(); problem != nil || l.list.usable() {
		return problem
	}
	return denialsFailed(errDenialsStale)
}

func (l *DenialList) start(ctx context.Context) error {
	raw, err := l.list.store.Get(ctx, denialsKind)
	if err != nil {
		return err
	}
	change := unchanged[entries]
	if raw == nil && l.list.current.Load() == nil {
		if !l.list.private {
			return errNoDenials
		}
		if err := l.list.lost(); err != nil {
			return err
		}
		values, err := l.former(ctx)
		if err != nil {
			return err
		}
		change = l.begin(values)
	}
	if err := l.list.update(ctx, l.list.newest, change); err != nil {
		return err
	}
	l.list.count(l.list.current.Load())
	return nil
}

// former returns the denials of release 65ed6e0.
func (l *DenialList) former(ctx context.Context) (map[string][]byte, error) {
	if l.first == nil {
		return nil, nil
	}
	values, err := l.first(ctx)
	if len(values) > 0 {
		l.list.log.Info("denials of release 65ed6e0 are taken over", "entries", len(values))
	}
	return values, err
}

// begin makes the list if there is none.
func (l *DenialList) begin(values map[string][]byte) func(*entries) (*entries, error) {
	return func(e *entries) (*entries, error) {
		if e != nil {
			return e, nil
		}
		return (&entries{map[string]entry{}}).successor(values, l.list.wall())
	}
}

// init makes the list if there is none, for an operator.
func (l *DenialList) init(ctx context.Context, start base[entries]) (Accepted, error) {
	l.list.changing.Lock()
	defer l.list.changing.Unlock()
	values := map[string][]byte{}
	raw, err := l.list.store.Get(ctx, denialsKind)
	if err != nil {
		return Accepted{}, err
	}
	if raw == nil && l.list.current.Load() == nil {
		if values, err = l.former(ctx); err != nil {
			return Accepted{}, err
		}
	}
	a, err := l.list.accept(ctx, start, l.begin(values))
	if err == nil {
		l.reports.report(l.list.log, nil)
	}
	return a, err
}

// refresh is the list's part of a turn of the ring.
func (l *DenialList) refresh(ctx context.Context) {
	l.list.changing.Lock()
	defer l.list.changing.Unlock()
	read := l.list.read
	if l.list.current.Load() == nil {
		read = l.start
	}
	l.reports.report(l.list.log, denialsFailed(read(ctx)))
}

func denialsFailed(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("denied instances: %w", err)
}
