package fs

// Where the event log's lines go, one after the other.
//
// Who tells of an event sees it written, so that it outlives a worker that dies at once; but nobody waits for a disk, or a
// terminal, that stands still.

import (
	"io"
	"sync"
	"time"
)

const (
	// maxWaiting is how many lines may wait to be written. What comes then is counted, and the count written as soon as
	// something can be again.
	maxWaiting = 4096

	// tellTime is how long a line's being written is waited for. Then nobody waits until all lines are.
	tellTime = 10 * time.Millisecond
)

// eventDropped says how many lines are missing somewhere before it.
const eventDropped = "events-dropped"

// lineWriter writes lines in their order, in a goroutine that is there while any wait.
type lineWriter struct {
	out io.Writer
	now func() time.Time

	mu      sync.Mutex // guards what follows; nothing is written under it
	lines   []string
	written chan struct{} // closed when the lines, or those taken last, are written
	running bool
	late    bool // somebody has waited long enough
	dropped int  // lines there was no room for, or that could not be written
}

// add adds a line. What it returns is closed when that is written; nil: do not wait for it.
func (w *lineWriter) add(line string) (written <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.lines) == maxWaiting {
		w.dropped++
		return nil
	}
	if w.lines == nil {
		w.written = make(chan struct{})
	}
	w.lines = append(w.lines, line)
	if !w.running {
		w.running = true
		go w.run()
	}
	if w.late {
		return nil
	}
	return w.written
}

// await waits for what add returned.
func (w *lineWriter) await(written <-chan struct{}) {
	if written == nil {
		return
	}
	select {
	case <-written:
	case <-time.After(tellTime):
		w.mu.Lock()
		w.late = w.running
		w.mu.Unlock()
	}
}

// run writes until no line waits.
func (w *lineWriter) run() {
	for {
		lines, written, dropped := w.take()
		if lines == nil {
			return
		}
		lost := 0
		for _, line := range lines {
			if !w.write(line) {
				lost++ // a daemon that can't write its log serves on
			}
		}
		told := dropped > 0 && lost == 0 && w.write(formatEvent(w.now(), "", eventDropped, []any{"lines", dropped}))
		w.mu.Lock()
		if w.dropped += lost; told {
			w.dropped -= dropped
		}
		w.mu.Unlock()
		close(written)
	}
}

func (w *lineWriter) write(line string) bool {
	_, err := io.WriteString(w.out, line)
	return err == nil
}

// take takes the lines that wait, nil if there are none, and says how many are missing by now.
func (w *lineWriter) take() (lines []string, written chan struct{}, dropped int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if lines, w.lines = w.lines, nil; lines == nil {
		w.running, w.late = false, false
	}
	return lines, w.written, w.dropped
}

// drain waits until what was added so far is written, until timeout at most.
func (w *lineWriter) drain(timeout <-chan time.Time) {
	w.mu.Lock()
	written := w.written
	w.mu.Unlock()
	if written == nil {
		return
	}
	select {
	case <-written:
	case <-timeout:
	}
}
