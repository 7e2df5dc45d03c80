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
	"sync"

	"github.com/openstack-nova-authenticator/openstack-nova-authenticator/pkg/secret"
)

const (
	seenVersion = 1
	maxSeenFile = 1 << 20
	maxIssuers  = 16 // in the file
)

// Seen is what one server has seen of the state: the highest generation of each value, in
// a small file outside of the state. An attacker who puts an old state back cannot put
// this file back. A nil Seen has seen nothing and notes nothing. It is for a state that
// ends with the process.
type Seen struct {
	path, issuer string

	mu     sync.Mutex
	record seenRecord
}

// seenFile has a record for each issuer, since several servers may use one directory.
type seenFile struct {
	Version int                   `json:"version"`
	Issuers map[string]seenRecord `json:"issuers"`
}

type seenRecord struct {
	// Epoch is the epoch of the state file.
	Epoch  uint64               `json:"epoch,omitempty"`
	Values map[string]seenValue `json:"values"`
}

type seenValue struct {
	Generation uint64   `json:"generation"`
	Names      []string `json:"names"`             // of the keys, or of the denied instances
	Revoked    []string `json:"revoked,omitempty"` // keys
}

// OpenSeen reads what a server has seen of the state of an issuer. The file need not
// exist.
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
		return file, fmt.Errorf("%s, which says what this server has seen of the state, is damaged (%w): restore it; or, if you know that the state is the newest, remove the file, and if the state is in Redis accept the state with `keys init --accept`", s.path, err)
	}
	return read, nil
}

// Epochs is a state that counts how often it was opened and saved, as [state.File]
// does.
type Epochs interface {
	// Epoch returns the count.
	Epoch(ctx context.Context) (uint64, error)
	// Advance raises the count to at least seen+1 and returns it.
	Advance(ctx context.Context, seen uint64) (uint64, error)
}

// Admit returns an error if a state is an older copy of what this server has seen, unless
// accept says that the operator wants it. Otherwise it advances the state, so that copies
// of it are older.
func (s *Seen) Admit(ctx context.Context, of Epochs, accept bool) error {
	epoch, err := of.Epoch(ctx)
	if err != nil {
		return err
	}
	if seen := s.epoch(); epoch < seen && !accept {
		return fmt.Errorf("%w (epoch %d, this server has seen %d): it is a copy that was restored, the file of another server, or a new file in place of one that was moved. `openstack-nova-authenticator state accept` accepts it and lists what was revoked and denied since; attempts made since can be made again", errOlder, epoch, seen)
	}
	return s.Advance(ctx, of)
}

// Advance raises the epoch of a state, so that all copies of it are older. It changes the
// state first: after a crash in between, the server must not refuse its own state.
func (s *Seen) Advance(ctx context.Context, of Epochs) error {
	epoch, err := of.Advance(ctx, s.epoch())
	if err != nil {
		return err
	}
	return s.change(func(r *seenRecord) { r.Epoch = max(r.Epoch, epoch) })
}

func (s *Seen) epoch() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.record.Epoch
}

// last returns what this server saw of a value last, and whether it saw any.
func (s *Seen) last(kind string) (seenValue, bool) {
	if s == nil {
		return seenValue{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.record.Values[kind]
	return v, ok
}

// note records a generation, unless this server has seen it or a higher one.
func (s *Seen) note(kind string, generation uint64, names, revoked []string) error {
	if was, ok := s.last(kind); s == nil || ok && was.Generation >= generation {
		return nil
	}
	return s.change(func(r *seenRecord) {
		if r.Values[kind].Generation < generation {
			r.Values[kind] = seenValue{generation, names, revoked}
		}
	})
}

// change edits the record in the file. It merges the record of this process into the file,
// which another process may have written meanwhile.
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
		return fmt.Errorf("%s has %d issuers: remove the file if they are not used any more", s.path, maxIssuers)
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

// replaceFile writes a file of mode 0600. If the machine stops, the file has the old or
// the new data, whole.
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
