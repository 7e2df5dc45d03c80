package audit

import (
	"bytes"
	"io"
	"os"
)

// output writes whole lines.
type output struct {
	io.Writer

	file *os.File // to be closed; nil for an output that another part of the program owns
	torn bool     // the output ends within a line
}

// openFile opens a file to append to it, and creates it with mode 0600. If a crash left a
// part of a line in it, the first write ends that line.
func openFile(path string) (output, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return output{}, err
	}
	o := output{Writer: f, file: f}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, info.Size()-1); err != nil {
			_ = f.Close()
			return output{}, err
		}
		o.torn = last[0] != '\n'
	}
	return o, nil
}

// write writes a whole line or, as far as the output permits, nothing.
func (o *output) write(text []byte) error {
	if o.torn {
		if _, err := o.Write([]byte("\n")); err != nil {
			return err
		}
		o.torn = false
	}
	n, err := o.Write(text)
	if err == nil && n < len(text) {
		err = io.ErrShortWrite
	}
	if err == nil || n <= 0 {
		return err
	}
	o.torn = !o.takeBack(text[:n])
	return err
}

// takeBack removes the part of a line from the end of the file and reports whether it
// did. It does not if the output is not our file, or if the file ends with something
// else because another process has written to it.
func (o *output) takeBack(part []byte) bool {
	n := int64(len(part))
	info, err := o.file.Stat() // fails if file is nil
	if err != nil || !info.Mode().IsRegular() || info.Size() < n {
		return false
	}
	end := make([]byte, n)
	if _, err := o.file.ReadAt(end, info.Size()-n); err != nil || !bytes.Equal(end, part) {
		return false
	}
	return o.file.Truncate(info.Size()-n) == nil
}
