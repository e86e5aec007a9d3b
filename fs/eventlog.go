package fs

// The event log: what the control files `log` show.

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// keptEvents is how many events a log shows, for each VM and for the whole mount.
const keptEvents = 1000

// Events that say which VM the others are of.
const (
	eventRenamed = "vm-renamed"
	eventRemoved = "vm-removed"
)

// EventLog keeps the last 1,000 events of every VM and of the whole mount, a line each: `RFC3339 event key=value …`.
type EventLog struct {
	outs []*lineWriter

	mu    sync.Mutex // guards what follows
	last  uint64     // the number of the last event
	all   ring
	perVM map[string]*ring
	now   func() time.Time
}

// NewEventLog returns an empty log that also writes each line to each of outs. Who tells of an event does not wait for a
// disk or a terminal that stands still. Lines that one of them does not take in time, or at all, are counted there in an
// event of their own, events-dropped.
func NewEventLog(outs ...io.Writer) *EventLog {
	l := &EventLog{perVM: make(map[string]*ring), now: time.Now}
	for _, out := range outs {
		l.outs = append(l.outs, &lineWriter{out: out, now: time.Now})
	}
	return l
}

// Drain waits until all that was added so far is written, and until limit is over at most.
func (l *EventLog) Drain(limit time.Duration) {
	timeout := time.After(limit)
	for _, out := range l.outs {
		out.drain(timeout)
	}
}

// Add adds an event with alternating keys and values; vm is empty for what concerns the whole store.
// It is what layer.Options.Event wants.
func (l *EventLog) Add(vm, event string, attrs ...any) {
	written := make([]<-chan struct{}, len(l.outs))
	l.mu.Lock()
	line := formatEvent(l.now(), vm, event, attrs)
	l.addLocked(line, vm)
	for i, out := range l.outs {
		written[i] = out.add(line)
	}
	l.mu.Unlock()
	for i, out := range l.outs {
		out.await(written[i])
	}
}

func (l *EventLog) addLocked(line, vm string) {
	l.last++
	l.all.add(numbered{l.last, line})
	if vm != "" {
		l.ofVM(vm).add(numbered{l.last, line})
	}
}

// Text is the log of one VM, or of all of the mount if vm is empty, oldest line first.
func (l *EventLog) Text(vm string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if vm == "" {
		return l.all.text()
	}
	return l.ofVM(vm).text()
}

// forget drops the log of a VM that is gone.
func (l *EventLog) forget(vm string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.perVM, vm)
}

// rename moves a VM's log along with the VM.
func (l *EventLog) rename(old, new string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renameLocked(old, new)
}

func (l *EventLog) renameLocked(old, new string) {
	if r := l.perVM[old]; r != nil && old != new {
		l.perVM[new] = r
		delete(l.perVM, old)
	}
}

func (l *EventLog) ofVM(vm string) *ring {
	r := l.perVM[vm]
	if r == nil {
		r = new(ring)
		l.perVM[vm] = r
	}
	return r
}

// numbered is a line, and its place among all.
type numbered struct {
	n    uint64
	line string
}

// ring holds the last keptEvents lines.
type ring struct {
	lines []numbered
	next  int // the oldest line, once the ring is full
}

func (r *ring) add(line numbered) {
	if len(r.lines) < keptEvents {
		r.lines = append(r.lines, line)
		return
	}
	r.lines[r.next] = line
	r.next = (r.next + 1) % keptEvents
}

// newest are the last n lines, oldest first.
func (r *ring) newest(n int) []numbered {
	all := slices.Concat(r.lines[r.next:], r.lines[:r.next])
	return all[max(0, len(all)-n):]
}

func (r *ring) text() string { return textOf(r.newest(keptEvents)) }

func textOf(lines []numbered) string {
	var b strings.Builder
	for _, line := range lines {
		b.WriteString(line.line)
	}
	return b.String()
}

// formatEvent is one line, with its newline.
func formatEvent(t time.Time, vm, event string, attrs []any) string {
	var b strings.Builder
	b.WriteString(t.UTC().Format(time.RFC3339))
	b.WriteByte(' ')
	b.WriteString(event)
	if vm != "" {
		b.WriteString(" vm=" + quoteValue(vm))
	}
	for i := 0; i+1 < len(attrs); i += 2 {
		fmt.Fprintf(&b, " %v=%s", attrs[i], quoteValue(cut(fmt.Sprint(attrs[i+1]))))
	}
	b.WriteByte('\n')
	return b.String()
}

// longestValue is how much of a value a line has, in bytes: what came from the owner of a VM can be long, and there are
// many lines.
const longestValue = 512

func cut(s string) string {
	if len(s) <= longestValue {
		return s
	}
	return strings.ToValidUTF8(s[:longestValue], "") + "…"
}

// quoteValue quotes what would not read back as one word.
func quoteValue(s string) string {
	needs := func(r rune) bool { return r == ' ' || r == '"' || r == '=' || !strconv.IsPrint(r) }
	if s == "" || !utf8.ValidString(s) || strings.ContainsFunc(s, needs) {
		return strconv.Quote(s)
	}
	return s
}
