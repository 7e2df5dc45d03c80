package attest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	attemptsPrefix = "attempts/"
	formerDenials  = "denied/" // of release 65ed6e0
	documentPrefix = "documents/"

	// maxListed bounds what Register.List holds at one time.
	maxListed = 10_000
	// unreadable is the reason of a denial that cannot be read.
	unreadable = "the entry cannot be read"

	// maxDenialReason bounds an operator's words, in bytes.
	maxDenialReason = 500
)

func attemptKey(id InstanceID, role RoleName, start time.Time) string {
	return fmt.Sprintf("%s%s/%s/%d", attemptsPrefix, id, role, start.Unix())
}

func documentKey(id InstanceID, document string) string {
	return documentPrefix + id.String() + "/" + document
}

// Denial is an operator's word that an instance gets no token. Tokens that are
// out live on until they expire.
type Denial struct {
	Instance InstanceID `json:"instance_id"`
	Reason   string     `json:"reason,omitempty"`
	Since    time.Time  `json:"since"`
	// Until is when it ends; the zero time is never.
	Until time.Time `json:"until,omitzero"`
}

// Denials tells which instances an operator denied.
type Denials interface {
	// Entry is what the list of denials has for an instance, nil for nothing. An
	// error says that this cannot be known now: nothing is granted then.
	Entry(ctx context.Context, instance string) ([]byte, error)
}

// DenialList is the list of denials, of which all servers on one state have the
// newest version.
type DenialList interface {
	Denials
	// Entries are all entries.
	Entries(ctx context.Context) (map[string][]byte, error)
	// Change replaces the entries by what change makes of them, with nothing coming
	// between. It may call change more than once. Entries are JSON.
	Change(ctx context.Context, change func(entries map[string][]byte) error) error
}

var errNoDenials = errors.New("there is no list of denials")

// checkDenial fails if an operator denied the instance, or if that is not known.
func (a *Attestor) checkDenial(ctx context.Context, id InstanceID) error {
	if a.Denials == nil {
		return &Failure{StateUnavailable, errNoDenials}
	}
	value, err := a.Denials.Entry(ctx, id.String())
	if err != nil {
		return &Failure{StateUnavailable, err}
	}
	if value == nil {
		return nil
	}
	d := decodeDenial(id, value)
	switch {
	case d.over(a.now()):
		return nil
	case d.Until.IsZero():
		return denied(InstanceDenied, "denied by an operator: %s", cmp.Or(d.Reason, "no reason was given"))
	}
	return denied(InstanceDenied, "denied by an operator until %s: %s", d.Until.Format(time.RFC3339), cmp.Or(d.Reason, "no reason was given"))
}

// over reports whether the time of a denial is over.
func (d Denial) over(now time.Time) bool { return !d.Until.IsZero() && !now.Before(d.Until) }

// decodeDenial makes the best of a value: whatever it says, it denies.
func decodeDenial(id InstanceID, value []byte) Denial {
	var d Denial
	if err := json.Unmarshal(value, &d); err != nil {
		d = Denial{Reason: unreadable}
	}
	d.Instance = id
	return d
}

// RegisterStore is what a Register needs of state.Store.
type RegisterStore interface {
	// Forget takes the count and the value of key away.
	Forget(ctx context.Context, key string) error
	// Scan calls visit with every count and every value whose key begins with
	// prefix, until it returns false.
	Scan(ctx context.Context, prefix string, visit func(entry) bool) error
}

// entry is state.Entry: a count, or a value if Value is not nil.
type entry = struct {
	Key     string
	Count   int64
	Value   []byte
	Expires time.Time
}

// Register is the operator's view of what is kept of instances.
type Register struct {
	Store   RegisterStore
	Denials DenialList
	// Now is the clock. Optional, nil means time.Now.
	Now func() time.Time
}

// Attempts are those of one window of an instance.
type Attempts struct {
	Role    RoleName  `json:"role"`
	Opened  time.Time `json:"window_opened"`
	Count   int64     `json:"attempts"`
	Expires time.Time `json:"expires_at"`
}

// DocumentAttempts are those with one document.
type DocumentAttempts struct {
	Document string    `json:"document"` // its ID
	Count    int64     `json:"attempts"`
	Expires  time.Time `json:"expires_at"`
}

// Kept is what is kept of one instance.
type Kept struct {
	Instance  InstanceID         `json:"instance_id"`
	Attempts  []Attempts         `json:"windows"`
	Documents []DocumentAttempts `json:"documents,omitempty"`
	Denial    *Denial            `json:"denied,omitempty"`
}

// List gives what is kept of all instances, in the order of their IDs, and
// whether there are more than it shows.
func (r *Register) List(ctx context.Context) (kept []Kept, more bool, err error) {
	all := map[InstanceID]*Kept{}
	if more, err = r.denials(ctx, all); err != nil {
		return nil, false, err
	}
	for _, prefix := range []string{attemptsPrefix, documentPrefix} {
		partly, err := r.scan(ctx, prefix, all)
		if err != nil {
			return nil, false, err
		}
		more = more || partly
	}
	for _, k := range all {
		kept = append(kept, *k)
	}
	slices.SortFunc(kept, func(a, b Kept) int { return strings.Compare(a.Instance.String(), b.Instance.String()) })
	return kept, more, nil
}

// Show gives what is kept of one instance.
func (r *Register) Show(ctx context.Context, id InstanceID) (Kept, error) {
	all := map[InstanceID]*Kept{}
	for _, prefix := range counterPrefixes(id) {
		if _, err := r.scan(ctx, prefix, all); err != nil {
			return Kept{}, err
		}
	}
	k := all[id]
	if k == nil {
		k = &Kept{Instance: id, Attempts: []Attempts{}}
	}
	value, err := r.Denials.Entry(ctx, id.String())
	if err != nil {
		return Kept{}, err
	}
	if d := decodeDenial(id, value); value != nil && !d.over(r.now()) {
		k.Denial = &d
	}
	return *k, nil
}

// denials adds the denied instances, and reports whether there are more than are
// shown.
func (r *Register) denials(ctx context.Context, all map[InstanceID]*Kept) (more bool, err error) {
	entries, err := r.Denials.Entries(ctx)
	if err != nil {
		return false, err
	}
	for text, value := range entries {
		id, err := ParseInstanceID(text)
		if err != nil {
			continue
		}
		if len(all) >= maxListed {
			return true, nil
		}
		if d := decodeDenial(id, value); !d.over(r.now()) {
			all[id] = &Kept{Instance: id, Attempts: []Attempts{}, Denial: &d}
		}
	}
	return false, nil
}

// scan adds what is kept under prefix, and reports whether it had to stop.
func (r *Register) scan(ctx context.Context, prefix string, all map[InstanceID]*Kept) (more bool, err error) {
	at := func(text string) *Kept {
		id, err := ParseInstanceID(text)
		if err != nil {
			return nil
		}
		k := all[id]
		if k == nil && len(all) >= maxListed {
			more = true
			return nil
		}
		if k == nil {
			k = &Kept{Instance: id, Attempts: []Attempts{}}
			all[id] = k
		}
		return k
	}
	err = r.Store.Scan(ctx, prefix, func(e entry) bool {
		if rest, ok := strings.CutPrefix(e.Key, documentPrefix); ok && e.Value == nil {
			instance, document, _ := strings.Cut(rest, "/")
			if k := at(instance); k != nil {
				k.Documents = append(k.Documents, DocumentAttempts{document, e.Count, e.Expires.UTC()})
			}
			return !more
		}
		parts := strings.Split(strings.TrimPrefix(e.Key, attemptsPrefix), "/")
		if e.Value != nil || len(parts) != 3 {
			return true
		}
		role, roleErr := ParseRoleName(parts[1])
		start, startErr := strconv.ParseInt(parts[2], 10, 64)
		if roleErr != nil || startErr != nil {
			return true
		}
		if k := at(parts[0]); k != nil {
			k.Attempts = append(k.Attempts, Attempts{role, time.Unix(start, 0).UTC(), e.Count, e.Expires.UTC()})
		}
		return !more
	})
	for _, k := range all {
		slices.SortFunc(k.Documents, func(a, b DocumentAttempts) int {
			return cmp.Or(a.Expires.Compare(b.Expires), strings.Compare(a.Document, b.Document))
		})
		slices.SortFunc(k.Attempts, func(a, b Attempts) int {
			return cmp.Or(strings.Compare(a.Role.String(), b.Role.String()), a.Opened.Compare(b.Opened))
		})
	}
	return more, err
}

// counterPrefixes are those of the counts of one instance.
func counterPrefixes(id InstanceID) []string {
	return []string{attemptsPrefix + id.String() + "/", documentPrefix + id.String() + "/"}
}

// Reset gives an instance its attempts back, and says of how many windows and
// documents.
func (r *Register) Reset(ctx context.Context, id InstanceID) (counts int, err error) {
	var keys []string
	for _, prefix := range counterPrefixes(id) {
		err = r.Store.Scan(ctx, prefix, func(e entry) bool {
			if e.Value == nil {
				keys = append(keys, e.Key)
			}
			return len(keys) < maxListed
		})
		if err != nil {
			return 0, err
		}
	}
	for _, key := range keys {
		if err := r.Store.Forget(ctx, key); err != nil {
			return counts, err
		}
		counts++
	}
	return counts, nil
}

// Deny refuses an instance from now on, for a time or, with 0, until it is
// allowed again.
func (r *Register) Deny(ctx context.Context, id InstanceID, life time.Duration, reason string) (Denial, error) {
	if life < 0 || (life > 0 && life < time.Second) {
		return Denial{}, fmt.Errorf("an instance is denied for at least a second, not %v", life)
	}
	if life > MaxPeriod {
		return Denial{}, fmt.Errorf("an instance is denied for at most %v (100 years), not %v; without a time it is until it is allowed again", MaxPeriod, life)
	}
	if len(reason) > maxDenialReason {
		return Denial{}, fmt.Errorf("the reason has %d bytes; %d are kept", len(reason), maxDenialReason)
	}
	now := r.now()
	d := Denial{Instance: id, Reason: reason, Since: now.UTC().Truncate(time.Second)}
	if life > 0 {
		d.Until = now.Add(life).UTC().Truncate(time.Second).Add(time.Second)
	}
	value, err := json.Marshal(d)
	if err != nil {
		return Denial{}, err
	}
	return d, r.change(ctx, func(entries map[string][]byte) { entries[id.String()] = value })
}

// change changes the denials, and takes away those that are over.
func (r *Register) change(ctx context.Context, edit func(entries map[string][]byte)) error {
	return r.Denials.Change(ctx, func(entries map[string][]byte) error {
		for id, value := range entries {
			if decodeDenial(InstanceID{}, value).over(r.now()) {
				delete(entries, id)
			}
		}
		edit(entries)
		return nil
	})
}

func (r *Register) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}

// Allow ends what Deny began. It is no error if nothing did.
func (r *Register) Allow(ctx context.Context, id InstanceID) error {
	return r.change(ctx, func(entries map[string][]byte) { delete(entries, id.String()) })
}

// FormerDenials are the denials that release 65ed6e0 kept, an entry of the store
// for each.
func FormerDenials(ctx context.Context, s RegisterStore) (map[string][]byte, error) {
	all := map[string][]byte{}
	err := s.Scan(ctx, formerDenials, func(e entry) bool {
		id, err := ParseInstanceID(strings.TrimPrefix(e.Key, formerDenials))
		if err != nil || e.Value == nil {
			return true
		}
		if !json.Valid(e.Value) { // it denied, whatever it said
			e.Value, _ = json.Marshal(Denial{Instance: id, Reason: unreadable, Until: e.Expires}) // cannot fail
		}
		all[id.String()] = e.Value
		return true
	})
	return all, err
}
