package problem_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/problem"
)

var errCause = errors.New("is too short")

func TestPathsGrowFromTheInside(t *testing.T) {
	section := errors.Join(
		problem.At("key", errCause),
		problem.Errorf("list[2]", "%q: %w", "x", errCause),
		errors.New("has no key"),
	)
	list := problem.List(problem.At("outer", problem.At("inner", section)))
	var got []string
	for _, p := range list {
		got = append(got, p.Error())
	}
	want := []string{"outer.inner.key: is too short", `outer.inner.list[2]: "x": is too short`, "outer.inner: has no key"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if list[1].Path != "outer.inner.list[2]" || !errors.Is(list[1].Err, errCause) {
		t.Errorf("got %+v", list[1])
	}
	if text := problem.At("roles", problem.At("[1]", errCause)).Error(); text != "roles[1]: is too short" {
		t.Errorf("an index: %s", text)
	}
}

func TestNoErrorIsNoProblem(t *testing.T) {
	if err := problem.At("a", nil); err != nil || len(problem.List(nil)) != 0 {
		t.Errorf("got %v and %v", err, problem.List(nil))
	}
}

// An error that wraps several with %w is joined, too, but its text is its own.
func TestAWrappedProblemKeepsItsText(t *testing.T) {
	err := fmt.Errorf("read the file: %w", problem.At("key", errCause))
	if got := problem.List(problem.At("a", err)); len(got) != 1 || got[0].Error() != "a: read the file: key: is too short" {
		t.Errorf("got %v", got)
	}
}
