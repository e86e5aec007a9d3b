package main

// The daemon's log file, kept small.

import (
	"fmt"
	"os"
	"sync"
)

// The log takes at most about logSize × (1 + logsKept) bytes: log, log.1, log.2 …
const (
	logSize  = 8 << 20
	logsKept = 2
)

// rotatingFile is a log that starts anew when it has grown to limit, and keeps the last few.
type rotatingFile struct {
	path  string
	limit int64
	onNew func(*os.File) // told of every file it opens; may be nil

	mu   sync.Mutex // guards what follows
	file *os.File
	size int64
}

// openRotating opens a log to append to.
func openRotating(path string, limit int64, onNew func(*os.File)) (*rotatingFile, error) {
	r := &rotatingFile{path: path, limit: limit, onNew: onNew}
	if err := r.openLocked(); err != nil {
		return nil, err
	}
	return r, nil
}

// Write appends p, a line or several, whole to one file. On a full disk a log line is lost, never a guest's write.
func (r *rotatingFile) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.size > 0 && r.size+int64(len(p)) > r.limit {
		if err := r.rotateLocked(); err != nil {
			return 0, err
		}
	}
	n, err := r.file.Write(p)
	r.size += int64(n)
	return n, err
}

// Close closes the file.
func (r *rotatingFile) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.file.Close()
}

// rotateLocked moves log to log.1, log.1 to log.2 and so on, and the oldest away. The old file stays in use if the
// new one can't be made.
func (r *rotatingFile) rotateLocked() error {
	for i := logsKept; i > 0; i-- {
		if err := os.Rename(r.name(i-1), r.name(i)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	old := r.file
	if err := r.openLocked(); err != nil {
		return err
	}
	return old.Close()
}

func (r *rotatingFile) name(age int) string {
	if age == 0 {
		return r.path
	}
	return fmt.Sprintf("%s.%d", r.path, age)
}

func (r *rotatingFile) openLocked() error {
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	r.file, r.size = f, st.Size()
	if r.onNew != nil {
		r.onNew(f)
	}
	return nil
}
