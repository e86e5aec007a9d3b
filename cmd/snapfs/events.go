package main

// The events that `log` shows outlive the daemon in a file of their own, STORE/events.

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/snapfs/snapfs/fs"
)

// eventsSize is how large the file can grow. What is then kept of it takes half of that at most.
const eventsSize = 3 << 20

// retryTime is for how long a file that could not be made smaller is left as it is.
const retryTime = time.Minute

// eventsFile is a log that loses the oldest lines when it has grown to limit, but of each VM the same number.
type eventsFile struct {
	path  string
	limit int64

	mu    sync.Mutex // guards what follows
	file  *os.File
	size  int64
	full  error // why it could not be made smaller
	tried time.Time
}

// keepEvents shows the events that are in the file, and has out add to it from here on.
func keepEvents(path string, events *fs.EventLog, out *daemonLog) error {
	file, past, err := openEvents(path, eventsSize)
	if err != nil {
		return err
	}
	events.Replay(past)
	out.writeTo(file)
	return nil
}

// openEvents opens a file to add to, and returns what it has.
func openEvents(path string, limit int64) (e *eventsFile, past string, err error) {
	e = &eventsFile{path: path, limit: limit}
	if e.file, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o640); err != nil {
		return nil, "", fmt.Errorf("opening the events: %w", err)
	}
	text, err := io.ReadAll(e.file)
	if err == nil && len(text) > 0 && text[len(text)-1] != '\n' {
		_, err = e.file.WriteString("\n") // the host went down amid a line
		text = append(text, '\n')
	}
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("reading the events: %w", err), e.file.Close())
	}
	e.size = int64(len(text))
	return e, string(text), nil
}

// Write appends a line.
func (e *eventsFile) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.size > 0 && e.size+int64(len(p)) > e.limit {
		if err := e.shrinkLocked(); err != nil {
			return 0, err
		}
	}
	n, err := e.file.Write(p)
	e.size += int64(n)
	return n, err
}

// Close closes the file.
func (e *eventsFile) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.file.Close()
}

// shrinkLocked replaces the file by one with what is still of use. A crash leaves either.
func (e *eventsFile) shrinkLocked() error {
	if e.full != nil && time.Since(e.tried) < retryTime {
		return e.full
	}
	file, size, err := e.shrunk()
	if e.full, e.tried = err, time.Now(); err != nil {
		return err
	}
	old := e.file
	e.file, e.size = file, size
	return old.Close()
}

func (e *eventsFile) shrunk() (file *os.File, size int64, err error) {
	text, err := os.ReadFile(e.path)
	if err != nil {
		return nil, 0, err
	}
	recent := fs.Recent(string(text), int(e.limit/2))
	file, err = os.OpenFile(e.path+".new", os.O_CREATE|os.O_TRUNC|os.O_RDWR|os.O_APPEND, 0o640)
	if err != nil {
		return nil, 0, err
	}
	if _, err = file.WriteString(recent); err == nil {
		err = os.Rename(e.path+".new", e.path)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, int64(len(recent)), nil
}
