package fs

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMadeBy(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	l := NewEventLog()
	l.now = func() time.Time { now = now.Add(time.Second); return now }
	add := l.Add
	add("web", "vm-created")
	add("web", "create", "snapshot", "one two", "consistency", "crash")
	add("web", "create", "snapshot", "three")
	add("web", "create-failed", "snapshot", "never", "error", "a=b")
	add("web", "rename", "snapshot", "three", "to", "four")
	add("web", "scheduled", "snapshot", "auto-1")
	add("web", "scheduled", "snapshot", "auto-2")
	add("web", "thinned", "snapshots", "auto-1,auto-0")
	add("web", "revert", "snapshot", "four", "kept", "before-revert-1")
	add("copy", "vm-created", "from", "web@four")
	add("copy", "create", "snapshot", "s")
	add("other", eventRenamed, "from", "copy")
	add("db", "vm-created")
	add("db", "create", "snapshot", "s")
	add("db", eventRemoved)
	add("mail", "create", "snapshot", "a")
	add("mail", "create", "snapshot", "b")
	add("mail", "delete", "snapshot", "a..b")
	var names []string
	made := MadeBy("no line of a log\n" + l.Text(""))
	for _, m := range made {
		names = append(names, m.Name)
	}
	require.Equal(t, []string{"other", "other@s", "web", "web@auto-2", "web@four", "web@one two"}, names)
	require.Equal(t, 3, made[4].At.Second(), "when it was made, not renamed")

	for _, m := range made[:4] {
		l.Lost(m, "")
	}
	require.Empty(t, MadeBy(l.Text("")), "what is lost with a VM is, too")
}
