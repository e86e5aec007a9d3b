package main

// The events that `log` shows outlive the daemon in a file of their own, STORE/events.

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/snapfs/snapfs/fs"
)

// eventsSize bounds each of the files; together they hold the last 20,000 events or so.
const eventsSize = 1 << 20

// keepEvents shows the events that are in the file, and has out add to it from here on.
func keepEvents(path string, events *fs.EventLog, out *daemonLog) error {
	file, err := openRotating(path, eventsSize, nil)
	if err != nil {
		return fmt.Errorf("opening the events: %w", err)
	}
	past, err := file.text()
	if err == nil && past != "" && !strings.HasSuffix(past, "\n") {
		_, err = file.Write([]byte("\n")) // the host went down amid a line
	}
	if err != nil {
		return errors.Join(fmt.Errorf("reading the events: %w", err), file.Close())
	}
	events.Replay(past)
	out.writeTo(file)
	return nil
}

// text is all that the log's files hold, oldest first.
func (r *rotatingFile) text() (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for age := logsKept; age >= 0; age-- {
		text, err := os.ReadFile(r.name(age))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		b.Write(text)
	}
	return b.String(), nil
}
