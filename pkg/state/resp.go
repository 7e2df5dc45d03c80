package state

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
)

// Bounds of what a Redis may answer: the client makes room for as much as an
// answer says it has, before it is there, and follows arrays in arrays. What
// answers may be another program, or one that means harm.
const (
	maxAnswer      = 8 << 20 // bytes
	maxAnswerBulk  = 4 << 20 // of one string
	maxAnswerLine  = 64 << 10
	maxAnswerArray = 1 << 16 // elements
	maxAnswerDepth = 8       // of arrays in arrays
)

var errAnswer = errors.New("answers what no Redis would")

// answers follows the framing of RESP2 and RESP3 in a stream: lines that begin with
// their type, and after a string's as many bytes as it says and a line end.
type answers struct {
	line  []byte // of its beginning, up to a number's length
	count int    // bytes of the line
	bulk  int    // bytes of a string that are still to come, its line end included
	open  []int  // elements that are still to come, of each array that is not at its end
	total int    // bytes of the answer
}

// add looks at more of the stream, and fails as soon as an answer is out of bounds.
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

// element is one that has come to its end, and so may be what it was in.
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

// end is the end of a line.
func (a *answers) end() error {
	if len(a.line) < 2 {
		return errAnswer
	}
	length, each := 0, 1
	switch a.line[0] {
	case '$', '=', '!', '*', '~', '>':
	case '%', '|':
		each = 2
	default: // all is in the line
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
			return fmt.Errorf("%w: a length that is no number", errAnswer)
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

// boundedTCP and boundedTLS end a connection whose answers are out of bounds. They
// are two types because the pool of go-redis asks a TCP connection, and it alone,
// whether it is still there (syscall.Conn).
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
