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
	// unreadable is the reason of a denial whose entry cannot be read.
	unreadable = "the entry cannot be read"

	// maxDenialReason bounds the reason of a denial, in bytes.
	maxDenialReason = 500
)

func attemptKey(id InstanceID, role RoleName, start time.Time) string {
	return fmt.Sprintf("%s%s/%s/%d", attemptsPrefix, id, role, start.Unix())
}

func documentKey(id InstanceID, document string) string {
	return documentPrefix + id.String() + "/" + document
}

// Denial is an entry of the denial list: an operator denied the instance. Tokens that it
// has stay valid until they expire.
type Denial struct {
	Instance InstanceID `json:"instance_id"`
	Reason   string     `json:"reason,omitempty"`
	Since    time.Time  `json:"since"`
	// Until is the end of the denial; the zero time for none.
	Until time.Time `json:"until,omitzero"`
}

// Denials reads the denial list.
type Denials interface {
	// Entry returns the entry of an instance, nil if there is none. After an error
	// nothing is granted.
	Entry(ctx context.Context, instance string) ([]byte, error)
}

// DenialList is the denial list, whose newest version all servers on one state have.
type DenialList interface {
	Denials
	// Entries returns all entries.
	Entries(ctx context.Context) (map[string][]byte, error)
	// Change changes the entries, which are JSON, atomically. It may call change more than
	// once.
	Change(ctx context.Context, change func(entries map[string][]byte) error) error
}

var errNoDenials = errors.New("there is no denial list")

// checkDenial returns a [*Denied] if an operator denied the instance, and a [*Failure] if
// the denial list cannot be read.
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
	case d.over(now(a.Now)):
		return nil
	case d.Until.IsZero():
		return denied(InstanceDenied, "denied by an operator: %s", cmp.Or(d.Reason, "without a reason"))
	}
	return denied(InstanceDenied, "denied by an operator until %s: %s", d.Until.Format(time.RFC3339), cmp.Or(d.Reason, "without a reason"))
}

// over reports whether a denial has ended.
func (d Denial) over(now time.Time) bool { return !d.Until.IsZero() && !now.Before(d.Until) }

// decodeDenial reads an entry. An entry that cannot be read denies as well.
func decodeDenial(id InstanceID, value []byte) Denial {
	var d Denial
	if err := json.Unmarshal(value, &d); err != nil {
		d = Denial{Reason: unreadable}
	}
	d.Instance = id
	return d
}

// registerStore is the part of state.Store that a Register needs.
type registerStore interface {
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

// Register shows and changes what the state holds about instances, for the operator.
type Register struct {
	Store   registerStore
	Denials DenialList
	// Now is the clock. Optional, nil means time.Now.
	Now func() time.Time
}

// Attempts counts the attempts of an instance in one window.
type Attempts struct {
	Role    RoleName  `json:"role"`
	Opened  time.Time `json:"window_opened"`
	Count   int64     `json:"attempts"`
	Expires time.Time `json:"expires_at"`
}

// documentAttempts counts the attempts with one document.
type documentAttempts struct {
	Document string    `json:"document"` // its ID
	Count    int64     `json:"attempts"`
	Expires  time.Time `json:"expires_at"`
}

// Kept is what the state holds about an instance.
type Kept struct {
	Instance  InstanceID         `json:"instance_id"`
	Attempts  []Attempts         `json:"windows"`
	Documents []documentAttempts `json:"documents,omitempty"`
	Denial    *Denial            `json:"denied,omitempty"`
}

// List returns what the state holds about instances, in the order of their IDs, and
// whether there are more instances than it returns.
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

// Show returns what the state holds about an instance.
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
	if d := decodeDenial(id, value); value != nil && !d.over(now(r.Now)) {
		k.Denial = &d
	}
	return *k, nil
}

// denials adds the denied instances, and reports whether there are more than it added.
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
		if d := decodeDenial(id, value); !d.over(now(r.Now)) {
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
				k.Documents = append(k.Documents, documentAttempts{document, e.Count, e.Expires.UTC()})
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
		slices.SortFunc(k.Documents, func(a, b documentAttempts) int {
			return cmp.Or(a.Expires.Compare(b.Expires), strings.Compare(a.Document, b.Document))
		})
		slices.SortFunc(k.Attempts, func(a, b Attempts) int {
			return cmp.Or(strings.Compare(a.Role.String(), b.Role.String()), a.Opened.Compare(b.Opened))
		})
	}
	return more, err
}

// counterPrefixes returns the prefixes of the counts of an instance.
func counterPrefixes(id InstanceID) []string {
	return []string{attemptsPrefix + id.String() + "/", documentPrefix + id.String() + "/"}
}

// Reset gives an instance all its attempts back. It returns the number of windows and
// documents whose counts it removed.
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

// Deny denies an instance for a time or, if life is 0, until Allow.
func (r *Register) Deny(ctx context.Context, id InstanceID, life time.Duration, reason string) (Denial, error) {
	if life < 0 || (life > 0 && life < time.Second) {
		return Denial{}, fmt.Errorf("an instance is denied for at least a second, not %v", life)
	}
	if life > maxPeriod {
		return Denial{}, fmt.Errorf("an instance is denied for at most %v (100 years), not %v; without a time the denial ends with allow", maxPeriod, life)
	}
	if len(reason) > maxDenialReason {
		return Denial{}, fmt.Errorf("the reason has %d bytes, more than %d", len(reason), maxDenialReason)
	}
	now := now(r.Now)
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

// change changes the denial list, and removes the denials that have ended.
func (r *Register) change(ctx context.Context, edit func(entries map[string][]byte)) error {
	return r.Denials.Change(ctx, func(entries map[string][]byte) error {
		for id, value := range entries {
			if decodeDenial(InstanceID{}, value).over(now(r.Now)) {
				delete(entries, id)
			}
		}
		edit(entries)
		return nil
	})
}

// Allow ends a denial. It returns no error if there is none.
func (r *Register) Allow(ctx context.Context, id InstanceID) error {
	return r.change(ctx, func(entries map[string][]byte) { delete(entries, id.String()) })
}

// FormerDenials returns the denials of release 65ed6e0, which kept each in an entry of the
// store.
func FormerDenials(ctx context.Context, s registerStore) (map[string][]byte, error) {
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
