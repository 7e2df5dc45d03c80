package state

import (
	"fmt"
	"slices"
	"time"
)

// maxGivenBack bounds the numbers of one count that were given back while a
// higher one is out.
const maxGivenBack = 64

// count gives numbers, from 1, and takes them back. The zero value has given none.
type count struct {
	n    int64   // the highest that is out
	back []int64 // those below it that are not, in order
}

// take gives the lowest number that is not out.
func (c *count) take() int64 {
	if len(c.back) > 0 {
		n := c.back[0]
		c.back = slices.Delete(slices.Clone(c.back), 0, 1)
		return n
	}
	c.n++
	return c.n
}

// giveBack takes a number back, if it is out and there is room to note it, and
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

// used is how many are out.
func (c count) used() int64 { return c.n - int64(len(c.back)) }

// MaxLife is how far ahead the end of a count or a value may be: every store can
// keep it (the file has nanoseconds in 63 bits, up to the year 2262), and every form
// in which a time is written.
const MaxLife = 101 * 365 * 24 * time.Hour

// checkExpiry fails if a count or a value that expires cannot be kept until then.
func checkExpiry(expires, now time.Time) error {
	if !now.Before(expires) {
		return errExpired
	}
	if expires.Sub(now) > MaxLife {
		return errTooLong
	}
	return nil
}

// maxValue bounds a value, in bytes.
const maxValue = 2 << 20

// checkValue fails if a value is too long to be kept.
func checkValue(value []byte) error {
	if len(value) > maxValue {
		return fmt.Errorf("a value of %d bytes is too long; %d are kept", len(value), maxValue)
	}
	return nil
}

// checkLasting is checkExpiry for what may be kept for ever, which is the zero time.
func checkLasting(expires, now time.Time) error {
	if expires.IsZero() {
		return nil
	}
	return checkExpiry(expires, now)
}
