package keyring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const (
	seenVersion = 1
	maxSeenFile = 1 << 20
)

// Seen is what one server has seen of the state, in a small file outside of it:
// the highest generation of each value. Somebody who puts an old state back cannot
// put this file back. A nil Seen has seen nothing and notes nothing: it is for a
// state that ends with the process.
type Seen struct {
	path, issuer string

	mu     sync.Mutex
	record seenRecord
}

// seenFile has a record for each issuer: several servers may use one directory.
type seenFile struct {
	Version int                   `json:"version"`
	Issuers map[string]seenRecord `json:"issuers"`
}

type seenRecord struct {
	// Epoch is that of the state file.
	Epoch  uint64               `json:"epoch,omitempty"`
	Values map[string]seenValue `json:"values"`
}

type seenValue struct {
	Generation uint64   `json:"generation"`
	Names      []string `json:"names"`             // of the keys, or of the denied instances
	Revoked    []string `json:"revoked,omitempty"` // keys
}

// maxIssuers bounds the file.
const maxIssuers = 16

// OpenSeen reads the file of a server, which need not exist. What it says of
// another issuer does not count.
func OpenSeen(path, issuer string) (*Seen, error) {
	s := &Seen{path: path, issuer: issuer}
	file, err := s.read()
	if err != nil {
		return nil, err
	}
	s.record = file.Issuers[issuer]
	return s, nil
}

func (s *Seen) read() (seenFile, error) {
	file := seenFile{Version: seenVersion, Issuers: map[string]seenRecord{}}
	data, err := secret.ReadFile(s.path, maxSeenFile)
	if errors.Is(err, fs.ErrNotExist) {
		return file, nil
	}
	if err != nil && !errors.Is(err, secret.ErrTooLong) {
		return file, fmt.Errorf("what this server has seen of the state: %w", err)
	}
	var read seenFile
	if err == nil {
		err = decodeStrictly(data, &read)
	}
	switch {
	case err == nil && read.Version > seenVersion:
		return file, fmt.Errorf("%s was written by a newer release: update this one", s.path)
	case err == nil && (read.Version != seenVersion || read.Issuers == nil):
		err = errInvalid
	}
	if err != nil {
		return file, fmt.Errorf("%s, which says what this server has seen of the state, is damaged (%w): restore it; or, if you know that the state is the newest there is, remove it, and if the state is in Redis accept that with `keys init --accept`", s.path, err)
	}
	return read, nil
}

// Epochs is a state that counts how often it was opened and saved, as [state.File]
// does.
type Epochs interface {
	// Epoch is the count.
	Epoch(ctx context.Context) (uint64, error)
	// Advance raises it to at least one more than seen.
	Advance(ctx context.Context, seen uint64) (uint64, error)
}

// Admit fails with ErrOlder if a state is a copy that is older than this server has
// seen, unless accept says that this is meant. Else the state is not to be mistaken
// for a copy of what it is now: it advances.
func (s *Seen) Admit(ctx context.Context, of Epochs, accept bool) error {
	epoch, err := of.Epoch(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	seen := s.record.Epoch
	s.mu.Unlock()
	if epoch < seen && !accept {
		return fmt.Errorf("%w (epoch %d, seen was %d): it is a copy that was restored, the file of another server, or a new one in the place of one that was moved away. `openstack-nova-authenticator state accept` accepts it, and says what was revoked and denied since; attempts made since can be made again", ErrOlder, epoch, seen)
	}
	return s.Advance(ctx, of)
}

// Advance makes all copies of a state older than it. The state comes first: a crash
// in between must not make a server refuse its own.
func (s *Seen) Advance(ctx context.Context, of Epochs) error {
	s.mu.Lock()
	seen := s.record.Epoch
	s.mu.Unlock()
	epoch, err := of.Advance(ctx, seen)
	if err != nil {
		return err
	}
	return s.change(func(r *seenRecord) { r.Epoch = max(r.Epoch, epoch) })
}

// generation is the highest one of a value that was seen, and whether any was.
func (s *Seen) generation(kind string) (uint64, bool) {
	if s == nil {
		return 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.record.Values[kind]
	return v.Generation, ok
}

// names are what the value listed when it was last seen.
func (s *Seen) names(kind string) []string {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.record.Values[kind].Names)
}

// revoked are the keys that were revoked when the value was last seen.
func (s *Seen) revoked(kind string) []string {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.record.Values[kind].Revoked)
}

// note writes a generation down, unless it or a higher one is.
func (s *Seen) note(kind string, generation uint64, names, revoked []string) error {
	if was, ok := s.generation(kind); s == nil || ok && was >= generation {
		return nil
	}
	return s.change(func(r *seenRecord) {
		if r.Values[kind].Generation < generation {
			r.Values[kind] = seenValue{generation, names, revoked}
		}
	})
}

// change writes the file, and then counts what was written. Another process may
// have written it meanwhile.
func (s *Seen) change(edit func(*seenRecord)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	file, err := s.read()
	if err != nil {
		return err
	}
	next := file.Issuers[s.issuer]
	next.Epoch = max(next.Epoch, s.record.Epoch)
	values := maps.Clone(next.Values)
	if values == nil {
		values = map[string]seenValue{}
	}
	for kind, v := range s.record.Values {
		if values[kind].Generation < v.Generation {
			values[kind] = v
		}
	}
	next.Values = values
	edit(&next)
	if _, ok := file.Issuers[s.issuer]; !ok && len(file.Issuers) >= maxIssuers {
		return fmt.Errorf("%s has %d issuers: remove it if those are not used any more", s.path, maxIssuers)
	}
	file.Issuers[s.issuer] = next
	data, err := json.Marshal(file)
	if err != nil {
		return err
	}
	if err := replaceFile(s.path, append(data, '\n')); err != nil {
		return fmt.Errorf("what this server has seen of the state cannot be written to %s: %w", s.path, err)
	}
	s.record = next
	return nil
}

// replaceFile writes a file of mode 0600 so that it is there as a whole, or as it
// was, whenever the machine stops.
func replaceFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".seen-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		_ = f.Close()
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := keepOwner(f, path); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
