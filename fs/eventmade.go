package fs

// What the events of earlier daemons say was made, and is to be there: an index that went back does not know the newest of it.

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Made is a VM, or a snapshot as VM@NAME, and when it was made.
type Made struct {
	Name string
	At   time.Time
}

// MadeBy is what the lines of a log say was made and not removed since, by name. What reverts and commits kept is left out: it
// goes without an event. So is all of a VM's of before a range of its snapshots was deleted.
func MadeBy(text string) (all []Made) {
	at := make(map[string]time.Time)
	for line := range strings.Lines(text) {
		when, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if t, err := time.Parse(time.RFC3339, when); err == nil {
			event, rest, _ := strings.Cut(rest, " ")
			applyMade(at, t, event, eventValues(rest))
		}
	}
	for name, t := range at {
		all = append(all, Made{name, t})
	}
	slices.SortFunc(all, func(a, b Made) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

func applyMade(at map[string]time.Time, t time.Time, event string, v map[string]string) {
	vm := v["vm"]
	switch event {
	case "vm-created":
		at[vm] = t
	case eventRemoved, eventLostVM:
		delete(at, vm)
		dropSnapshots(at, vm)
	case eventRenamed:
		for name, t := range at {
			if of, snapshot, is := strings.Cut(name, "@"); of == v["from"] && !is {
				delete(at, name)
				at[vm] = t
			} else if of == v["from"] {
				delete(at, name)
				at[vm+"@"+snapshot] = t
			}
		}
	case "create", "scheduled":
		at[vm+"@"+v["snapshot"]] = t
	case "rename":
		if made, ok := at[vm+"@"+v["snapshot"]]; ok {
			delete(at, vm+"@"+v["snapshot"])
			at[vm+"@"+v["to"]] = made
		}
	case "delete", "thinned", eventLostSnapshot:
		names := cmp.Or(v["snapshots"], v["snapshot"])
		if strings.Contains(names, "..") || strings.HasSuffix(names, "…") { // a range, or more than the line has
			dropSnapshots(at, vm)
		}
		for name := range strings.SplitSeq(names, ",") {
			delete(at, vm+"@"+name)
		}
	}
}

// Events that say what an index that went back has lost.
const (
	eventLostVM       = "vm-lost"
	eventLostSnapshot = "snapshot-lost"
)

// Lost has the log say that what was made is gone.
func (l *EventLog) Lost(m Made, why string) {
	vm, snapshot, ok := strings.Cut(m.Name, "@")
	made := m.At.UTC().Format(time.RFC3339)
	if !ok {
		l.Add(vm, eventLostVM, "made", made, "what", why)
		return
	}
	l.Add(vm, eventLostSnapshot, "snapshot", snapshot, "made", made, "what", why)
}

func dropSnapshots(at map[string]time.Time, vm string) {
	for name := range at {
		if strings.HasPrefix(name, vm+"@") {
			delete(at, name)
		}
	}
}

// eventValues are those of a line behind its event.
func eventValues(rest string) map[string]string {
	values := make(map[string]string)
	for rest != "" {
		key, after, ok := strings.Cut(rest, "=")
		if !ok {
			break
		}
		value, left, _ := strings.Cut(after, " ")
		if quoted, err := strconv.QuotedPrefix(after); err == nil {
			value, _ = strconv.Unquote(quoted)
			left = strings.TrimPrefix(after[len(quoted):], " ")
		}
		values[key], rest = value, left
	}
	return values
}
