package state

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
)

// Bounds of an answer. go-redis allocates as many bytes as an answer announces, before
// they arrive, and follows arrays in arrays. The server may be another program, or
// malicious.
const (
	maxAnswer      = 8 << 20 // bytes
	maxAnswerBulk  = 4 << 20 // of one string
	maxAnswerLine  = 64 << 10
	maxAnswerArray = 1 << 16 // elements
	maxAnswerDepth = 8       // of arrays in arrays
)

var errAnswer = errors.New("sent an answer that is not from a Redis")

// answers follows the framing of RESP2 and RESP3 in a stream: each line begins with its
// type; the line of a string announces the bytes that follow it.
type answers struct {
	line  []byte // the beginning of the line, long enough for a number
	count int    // bytes of the line
	bulk  int    // missing bytes of a string, including its line end
	open  []int  // missing elements of each array that has not ended
	total int    // bytes of the answer
}

// add reads more of the stream, and fails as soon as an answer is out of bounds.
func (a *answers) add(p []byte) error {
	for len(p) > 0 {
		if a.bulk > 0 {
			n := min(a.bulk, len(p))
			a.bulk, p, a.total = a.bulk-n, p[n:], a.total+n
			if a.bulk == 0 {
				a.element()
			}
			continue
		}
		c := p[0]
		p = p[1:]
		if c != '\n' {
			if len(a.line) < 24 {
				a.line = append(a.line, c)
			}
			if a.count++; a.count > maxAnswerLine {
				return fmt.Errorf("%w: a line of more than %d bytes", errAnswer, maxAnswerLine)
			}
			continue
		}
		a.total += a.count + 1
		if err := a.end(); err != nil {
			return err
		}
		a.line, a.count = a.line[:0], 0
	}
	if a.total > maxAnswer {
		return fmt.Errorf("%w: more than %d bytes", errAnswer, maxAnswer)
	}
	return nil
}

// element ends an element, and the arrays of which it was the last one.
func (a *answers) element() {
	for len(a.open) > 0 {
		last := len(a.open) - 1
		if a.open[last]--; a.open[last] > 0 {
			return
		}
		a.open = a.open[:last]
	}
	a.total = 0
}

// end ends a line.
func (a *answers) end() error {
	if len(a.line) < 2 {
		return errAnswer
	}
	length, each := 0, 1
	switch a.line[0] {
	case '$', '=', '!', '*', '~', '>':
	case '%', '|':
		each = 2
	default: // the line is the whole element
		a.element()
		return nil
	}
	number := a.line[1:]
	if number[len(number)-1] == '\r' {
		number = number[:len(number)-1]
	}
	if string(number) == "-1" {
		a.element()
		return nil
	}
	if len(number) == 0 || len(number) > 9 {
		return fmt.Errorf("%w: a length of %d digits", errAnswer, len(number))
	}
	for _, digit := range number {
		if digit < '0' || digit > '9' {
			return fmt.Errorf("%w: a length that is not a number", errAnswer)
		}
		length = 10*length + int(digit-'0')
	}
	switch a.line[0] {
	case '$', '=', '!':
		if length > maxAnswerBulk {
			return fmt.Errorf("%w: a string of %d bytes", errAnswer, length)
		}
		a.bulk = length + 2
		return nil
	}
	if length > maxAnswerArray || len(a.open) >= maxAnswerDepth {
		return fmt.Errorf("%w: %d elements, in %d arrays", errAnswer, length, len(a.open))
	}
	if length == 0 {
		a.element()
		return nil
	}
	a.open = append(a.open, each*length)
	return nil
}

// boundedTCP and boundedTLS close a connection whose answers are out of bounds. There
// are two types because the pool of go-redis checks whether a connection is still open
// if it is a syscall.Conn, which only a TCP connection is.
type boundedTCP struct {
	*net.TCPConn

	answers answers
}

func (c *boundedTCP) Read(p []byte) (int, error) { return bounded(c.TCPConn, &c.answers, p) }

type boundedTLS struct {
	*tls.Conn

	answers answers
}

func (c *boundedTLS) Read(p []byte) (int, error) { return bounded(c.Conn, &c.answers, p) }

func bounded(c net.Conn, a *answers, p []byte) (int, error) {
	n, err := c.Read(p)
	if outOfBounds := a.add(p[:n]); outOfBounds != nil {
		_ = c.Close()
		return 0, outOfBounds
	}
	return n, err
}
