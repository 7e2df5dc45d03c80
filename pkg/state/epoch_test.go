package state_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/state"
)

// A copy has a lower epoch than its file after the next Advance of the file.
func TestEpoch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	f, err := state.OpenFile(state.FileConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	advance := func(f *state.File, seen, want uint64) {
		t.Helper()
		if got, err := f.Advance(t.Context(), seen); err != nil || got != want {
			t.Errorf("Advance = %d, %v, want %d", got, err, want)
		}
	}
	epoch := func(f *state.File, want uint64) {
		t.Helper()
		if got, err := f.Epoch(t.Context()); err != nil || got != want {
			t.Errorf("Epoch = %d, %v, want %d", got, err, want)
		}
	}
	epoch(f, 0)
	advance(f, 0, 1)
	var saved bytes.Buffer
	if err := f.Save(&saved); err != nil {
		t.Fatal(err)
	}
	advance(f, 1, 2)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Epoch(t.Context()); err == nil {
		t.Error("Epoch of a closed file gave no error")
	}

	if f, err = state.OpenFile(state.FileConfig{Path: path}); err != nil {
		t.Fatal(err)
	}
	epoch(f, 2)
	advance(f, 7, 8) // more than seen
	_ = f.Close()

	if err := os.WriteFile(path, saved.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err = state.OpenFile(state.FileConfig{Path: path}); err != nil {
		t.Fatal(err)
	}
	epoch(f, 1)
	_ = f.Close()
}
