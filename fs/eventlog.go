package fs

// The event log: what the control files `log` show.

import (
	"fmt"
	"io"
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
	mu    sync.Mutex
	out   io.Writer
	all   ring
	perVM map[string]*ring
	now   func() time.Time
}

// NewEventLog returns an empty log that also writes each line to out, unless that is nil.
func NewEventLog(out io.Writer) *EventLog {
	return &EventLog{out: out, perVM: make(map[string]*ring), now: time.Now}
}

// Add adds an event with alternating keys and values; vm is empty for what concerns the whole store.
// It is what layer.Options.Event wants.
func (l *EventLog) Add(vm, event string, attrs ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := formatEvent(l.now(), vm, event, attrs)
	l.all.add(line)
	if vm != "" {
		l.ofVM(vm).add(line)
	}
	if l.out != nil {
		io.WriteString(l.out, line) // a daemon that can't write its log serves on
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

// ring holds the last keptEvents lines.
type ring struct {
	lines []string
	next  int // the oldest line, once the ring is full
}

func (r *ring) add(line string) {
	if len(r.lines) < keptEvents {
		r.lines = append(r.lines, line)
		return
	}
	r.lines[r.next] = line
	r.next = (r.next + 1) % keptEvents
}

func (r *ring) text() string {
	var b strings.Builder
	for i := range r.lines {
		b.WriteString(r.lines[(r.next+i)%len(r.lines)])
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
