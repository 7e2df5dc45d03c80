// Package problem says what is wrong with a configuration: an error with the path of
// the key that is at fault. The package that owns a key names it relative to its own
// section, and each section around it puts its name in front.
//
// It does not know files or lines; package config finds these by the path.
package problem

import (
	"errors"
	"fmt"
	"strings"
)

// Problem is one problem. Its text is "PATH: ERROR".
type Problem struct {
	Path string // such as web.proof or users[2]; "" for the section itself
	Err  error
}

func (p *Problem) Error() string {
	if p.Path == "" {
		return p.Err.Error()
	}
	return p.Path + ": " + p.Err.Error()
}

// Unwrap returns the error without its path.
func (p *Problem) Unwrap() error { return p.Err }

// At returns err with path in front of the path that it has, each part of a joined
// error by itself. It returns nil if err is nil.
func At(path string, err error) error {
	list := List(err)
	all := make([]error, len(list))
	for i, p := range list {
		all[i] = &Problem{join(path, p.Path), p.Err}
	}
	return errors.Join(all...)
}

// Errorf is At(path, fmt.Errorf(format, args...)).
func Errorf(path, format string, args ...any) error { return At(path, fmt.Errorf(format, args...)) }

// List returns every problem in err: the parts of a joined error, in their order. An
// error without a path has the path "".
func List(err error) []Problem {
	if err == nil {
		return nil
	}
	if p, ok := err.(*Problem); ok { //nolint:errorlint // a wrapped one is part of a text
		return []Problem{*p}
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []Problem{{Err: err}}
	}
	var all []Problem
	for _, e := range joined.Unwrap() {
		all = append(all, List(e)...)
	}
	return all
}

// join puts two parts of a path together; an index follows without a dot.
func join(a, b string) string {
	if a == "" || b == "" || strings.HasPrefix(b, "[") {
		return a + b
	}
	return a + "." + b
}
