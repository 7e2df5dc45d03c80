package state

import (
	"errors"
	"fmt"
	"time"
)

// The kinds of store.
const (
	TypeMemory = "memory"
	TypeFile   = "file"
)

// Config says where attempts are counted.
type Config struct {
	// Type is memory (a restart gives the attempts of open windows back) or file
	// (they survive it). Default: memory.
	Type string `yaml:"type"`
	// File is the file, for type file.
	File FileConfig `yaml:"file"`
}

// FileConfig is the part of type file.
type FileConfig struct {
	// Path is the file's, made with mode 0600 if there is none; one process uses
	// it at a time. A relative path is one in $STATE_DIRECTORY (systemd), else
	// beside the configuration. Default: state.db.
	Path string `yaml:"path"`
}

// Validate reports every problem, each beginning with its key.
func (c Config) Validate() error {
	switch {
	case c.Type != TypeMemory && c.Type != TypeFile:
		return fmt.Errorf("type: %q is neither memory nor file", c.Type)
	case c.Type == TypeFile && c.File.Path == "":
		return errors.New("file.path: is empty; the path of a file is wanted")
	}
	return nil
}

// Open opens the store. now may be nil for time.Now.
func Open(c Config, now func() time.Time) (Store, error) {
	if c.Type != TypeFile {
		return NewMemory(MemorySize, now), nil
	}
	f, err := OpenFile(c.File.Path, now)
	if err != nil {
		return nil, err // not f: a nil File is no nil Store
	}
	return f, nil
}
