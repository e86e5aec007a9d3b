package fs

// The events of earlier daemons, as the lines that they wrote.

import (
	"strconv"
	"strings"
	"time"
)

// Replay puts lines that an earlier log wrote before what this one has. What is not such a line is left out.
func (l *EventLog) Replay(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	recent := l.all.text()
	l.all, l.perVM = ring{}, make(map[string]*ring)
	for _, lines := range []string{text, recent} {
		for line := range strings.Lines(lines) {
			l.replayLocked(line)
		}
	}
}

func (l *EventLog) replayLocked(line string) {
	when, rest, _ := strings.Cut(line, " ")
	if _, err := time.Parse(time.RFC3339, when); err != nil || !strings.HasSuffix(line, "\n") {
		return
	}
	l.all.add(line)
	event, rest, _ := strings.Cut(strings.TrimSuffix(rest, "\n"), " ")
	vm, rest := leadingValue(rest, "vm=")
	if vm == "" {
		return
	}
	if event == eventRenamed {
		old, _ := leadingValue(rest, " from=")
		l.renameLocked(old, vm)
	}
	l.ofVM(vm).add(line)
	if event == eventRemoved {
		delete(l.perVM, vm)
	}
}

// leadingValue takes a value that quoteValue wrote off the front of text; empty if there is none.
func leadingValue(text, key string) (value, rest string) {
	after, ok := strings.CutPrefix(text, key)
	if !ok {
		return "", text
	}
	if quoted, err := strconv.QuotedPrefix(after); err == nil {
		value, _ = strconv.Unquote(quoted)
		return value, after[len(quoted):]
	}
	end := strings.IndexByte(after+" ", ' ')
	return after[:end], after[end:]
}
