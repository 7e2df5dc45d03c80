package attest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	attemptsPrefix = "attempts/"
	denialPrefix   = "denied/"
	documentPrefix = "documents/"

	// maxListed bounds what Register.List holds at one time.
	maxListed = 10_000
	// maxDenialReason bounds an operator's words, in bytes.
	maxDenialReason = 500
)

func attemptKey(id InstanceID, role RoleName, start time.Time) string {
	return fmt.Sprintf("%s%s/%s/%d", attemptsPrefix, id, role, start.Unix())
}

func documentKey(id InstanceID, document string) string {
	return documentPrefix + id.String() + "/" + document
}

func denialKey(id InstanceID) string { return denialPrefix + id.String() }

// Denial is an operator's word that an instance gets no token. Tokens that are
// out live on until they expire.
type Denial struct {
	Instance InstanceID `json:"instance_id"`
	Reason   string     `json:"reason,omitempty"`
	Since    time.Time  `json:"since"`
	// Until is when it ends; the zero time is never.
	Until time.Time `json:"until,omitzero"`
}

// checkDenial fails if an operator denied the instance.
func checkDenial(ctx context.Context, s State, id InstanceID) error {
	value, err := s.Get(ctx, denialKey(id))
	if err != nil {
		return &Failure{StateUnavailable, err}
	}
	if value == nil {
		return nil
	}
	d := decodeDenial(id, value)
	if d.Until.IsZero() {
		return denied(InstanceDenied, "denied by an operator: %s", cmp.Or(d.Reason, "no reason was given"))
	}
	return denied(InstanceDenied, "denied by an operator until %s: %s", d.Until.Format(time.RFC3339), cmp.Or(d.Reason, "no reason was given"))
}

// decodeDenial makes the best of a value: whatever it says, it denies.
func decodeDenial(id InstanceID, value []byte) Denial {
	var d Denial
	if err := json.Unmarshal(value, &d); err != nil {
		d = Denial{Reason: "the entry cannot be read"}
	}
	d.Instance = id
	return d
}

// RegisterStore is what a Register needs of state.Store.
type RegisterStore interface {
	// Put sets the value of key until expires; the zero time is for ever.
	Put(ctx context.Context, key string, value []byte, expires time.Time) error
	// Forget takes the count and the value of key away.
	Forget(ctx context.Context, key string) error
	// Scan calls visit with every count and every value whose key begins with
	// prefix, until it says false; value is nil for a count.
	Scan(ctx context.Context, prefix string, visit func(key string, count int64, value []byte, expires time.Time) bool) error
}

// Register is the operator's view of what is kept of instances.
type Register struct {
	Store RegisterStore
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
	for _, prefix := range []string{denialPrefix, attemptsPrefix, documentPrefix} {
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
	for _, prefix := range append(counterPrefixes(id), denialKey(id)) {
		if _, err := r.scan(ctx, prefix, all); err != nil {
			return Kept{}, err
		}
	}
	if k := all[id]; k != nil {
		return *k, nil
	}
	return Kept{Instance: id, Attempts: []Attempts{}}, nil
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
	err = r.Store.Scan(ctx, prefix, func(key string, count int64, value []byte, expires time.Time) bool {
		if id, ok := strings.CutPrefix(key, denialPrefix); ok && value != nil {
			if k := at(id); k != nil {
				d := decodeDenial(k.Instance, value)
				k.Denial = &d
			}
			return !more
		}
		if rest, ok := strings.CutPrefix(key, documentPrefix); ok && value == nil {
			instance, document, _ := strings.Cut(rest, "/")
			if k := at(instance); k != nil {
				k.Documents = append(k.Documents, DocumentAttempts{document, count, expires.UTC()})
			}
			return !more
		}
		parts := strings.Split(strings.TrimPrefix(key, attemptsPrefix), "/")
		if value != nil || len(parts) != 3 {
			return true
		}
		role, roleErr := ParseRoleName(parts[1])
		start, startErr := strconv.ParseInt(parts[2], 10, 64)
		if roleErr != nil || startErr != nil {
			return true
		}
		if k := at(parts[0]); k != nil {
			k.Attempts = append(k.Attempts, Attempts{role, time.Unix(start, 0).UTC(), count, expires.UTC()})
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
		err = r.Store.Scan(ctx, prefix, func(key string, _ int64, value []byte, _ time.Time) bool {
			if value == nil {
				keys = append(keys, key)
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
	now := time.Now()
	if r.Now != nil {
		now = r.Now()
	}
	d := Denial{Instance: id, Reason: reason, Since: now.UTC().Truncate(time.Second)}
	if life > 0 {
		d.Until = now.Add(life).UTC().Truncate(time.Second).Add(time.Second)
	}
	value, err := json.Marshal(d)
	if err != nil {
		return Denial{}, err
	}
	return d, r.Store.Put(ctx, denialKey(id), value, d.Until)
}

// Allow ends what Deny began. It is no error if nothing did.
func (r *Register) Allow(ctx context.Context, id InstanceID) error {
	return r.Store.Forget(ctx, denialKey(id))
}
