package state

import (
	"fmt"
	"slices"
	"time"
)

// maxGivenBack bounds how many numbers of one count may be given back while a higher
// number is in use.
const maxGivenBack = 64

// count gives numbers, from 1, and takes them back. The zero value has given none.
type count struct {
	n    int64   // the highest number in use
	back []int64 // lower numbers that were given back, in order
}

// take gives the lowest number that is not in use.
func (c *count) take() int64 {
	if len(c.back) > 0 {
		n := c.back[0]
		c.back = slices.Delete(slices.Clone(c.back), 0, 1)
		return n
	}
	c.n++
	return c.n
}

// giveBack takes a number back, if it is in use and there is room to record it, and
// reports whether it did.
func (c *count) giveBack(n int64) bool {
	at, there := slices.BinarySearch(c.back, n)
	if n < 1 || n > c.n || there || (n < c.n && len(c.back) >= maxGivenBack) {
		return false
	}
	if n < c.n {
		c.back = slices.Insert(slices.Clone(c.back), at, n)
		return true
	}
	for c.n--; len(c.back) > 0 && c.back[len(c.back)-1] == c.n; c.n-- {
		c.back = c.back[:len(c.back)-1]
	}
	return true
}

// used returns how many numbers are in use.
func (c count) used() int64 { return c.n - int64(len(c.back)) }

// MaxLife is how far ahead the end of a count or a value may be. Every store, and every
// format of time, can represent it: a file stores nanoseconds in 63 bits, up to the
// year 2262.
const MaxLife = 101 * 365 * 24 * time.Hour

// expired reports whether the time of an entry is over. The zero time is never over.
func expired(expires, now time.Time) bool { return !expires.IsZero() && !now.Before(expires) }

// checkExpiry fails if an entry that expires cannot be kept until then.
func checkExpiry(expires, now time.Time) error {
	if !now.Before(expires) {
		return errExpired
	}
	if expires.Sub(now) > MaxLife {
		return errTooLong
	}
	return nil
}

// checkLasting is checkExpiry for an entry that may be kept forever (the zero time).
func checkLasting(expires, now time.Time) error {
	if expires.IsZero() {
		return nil
	}
	return checkExpiry(expires, now)
}

// maxValue bounds a value, in bytes.
const maxValue = 2 << 20

func checkValue(value []byte) error {
	if len(value) > maxValue {
		return fmt.Errorf("a value of %d bytes is too long; the maximum is %d", len(value), maxValue)
	}
	return nil
}

// orTimeNow returns the clock, time.Now if it is nil.
func orTimeNow(now func() time.Time) func() time.Time {
	if now == nil {
		return time.Now
	}
	return now
}
