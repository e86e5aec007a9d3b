package fs

// The events of earlier daemons, as the lines that they wrote.

import (
	"cmp"
	"slices"
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
	event, rest, _ := strings.Cut(strings.TrimSuffix(rest, "\n"), " ")
	vm, rest := leadingValue(rest, "vm=")
	if vm != "" && event == eventRenamed {
		old, _ := leadingValue(rest, " from=")
		l.renameLocked(old, vm)
	}
	l.addLocked(line, vm)
	if event == eventRemoved {
		delete(l.perVM, vm)
	}
}

// Recent is what of an earlier log's lines a replay would show, in size bytes at most: as many of each VM's as there is
// room for, the newest, so that no VM's push out another's; and those of the whole mount.
func Recent(text string, size int) string {
	l := NewEventLog()
	l.Replay(text)
	for n := keptEvents; ; n /= 2 {
		if recent := l.newest(n); len(recent) <= size || n == 0 {
			return recent
		}
	}
}

// newest are the last n lines of the mount and of each VM, in their order.
func (l *EventLog) newest(n int) string {
	lines := l.all.newest(n)
	for _, vm := range l.perVM {
		lines = append(lines, vm.newest(n)...)
	}
	slices.SortFunc(lines, func(a, b numbered) int { return cmp.Compare(a.n, b.n) })
	return textOf(slices.Compact(lines))
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
