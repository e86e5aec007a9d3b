package fs

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/layer"
)

func testLog(out *strings.Builder) *EventLog {
	l := NewEventLog()
	if out != nil {
		l = NewEventLog(out)
	}
	l.now = func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("", 3600)) }
	return l
}

func TestEventLine(t *testing.T) {
	var out strings.Builder
	l := testLog(&out)
	l.Add("web", "create", "snapshot", "before upgrade", "files", 2)
	l.Add("", "store-opened", "dir", "/store", "text", "a\nb", "empty", "", "eq", "a=b")
	web := "2026-03-01T11:00:00Z create vm=web snapshot=\"before upgrade\" files=2\n"
	store := `2026-03-01T11:00:00Z store-opened dir=/store text="a\nb" empty="" eq="a=b"` + "\n"
	require.Equal(t, web, l.Text("web"))
	require.Equal(t, web+store, l.Text(""))
	l.Drain(time.Minute)
	require.Equal(t, web+store, out.String())
	require.Empty(t, l.Text("db"))
}

// What an earlier daemon told is there again: renamed VMs' under their new names, removed ones' for the mount alone.
func TestEventReplay(t *testing.T) {
	var out strings.Builder
	l := testLog(&out)
	l.Add("web", "create", "snapshot", "one")
	l.Add("", "space-low", "free", 1)
	l.rename("web", "a \"b=c\"")
	l.Add("a \"b=c\"", eventRenamed, "from", "web")
	l.Add("db", "vm-created")
	l.Add("db", eventRemoved)
	l.forget("db")
	l.Add("db", "vm-created")
	l.Drain(time.Minute)
	again := testLog(nil)
	again.Add("web", "vm-created")
	again.Replay("torn" + out.String() + "no event\n" + "2026-03-01T11:00:00Z create vm=db snapshot=to")
	again.Add("db", "create", "snapshot", "two")
	l.Add("web", "vm-created")
	l.Add("db", "create", "snapshot", "two")
	first, rest, _ := strings.Cut(l.Text(""), "\n")
	require.Contains(t, first, "snapshot=one", "which a torn line took along")
	require.Equal(t, rest, again.Text(""))
	require.Equal(t, l.Text("db"), again.Text("db"))
	require.Equal(t, l.Text("web"), again.Text("web"))
	require.Contains(t, again.Text("a \"b=c\""), "from=web")
}

// One VM's events, however many, leave of another's what a replay would show; both lose the oldest if there is no room.
func TestRecentEvents(t *testing.T) {
	var out strings.Builder
	l := testLog(&out)
	l.Add("web", "create", "snapshot", "one")
	l.rename("web", "shop")
	l.Add("shop", eventRenamed, "from", "web")
	for i := range 10 {
		l.Add("db", "create", "n", i)
	}
	for i := range 5 * keptEvents {
		l.Add("loud", "create-failed", "n", i)
		l.Drain(time.Minute)
	}
	again := testLog(nil)
	again.Replay(Recent(out.String(), 1<<20))
	for _, vm := range []string{"", "shop", "db", "loud"} {
		require.Equal(t, l.Text(vm), again.Text(vm), vm)
	}

	const size = 8 << 10
	recent := Recent(out.String(), size)
	require.LessOrEqual(t, len(recent), size)
	again = testLog(nil)
	again.Replay(recent)
	require.Equal(t, l.Text("db"), again.Text("db"))
	require.Equal(t, l.Text("shop"), again.Text("shop"))
	require.True(t, strings.HasSuffix(l.Text("loud"), again.Text("loud")))
	require.NotEmpty(t, again.Text("loud"))
	require.Empty(t, Recent(out.String(), 0))
}

func TestEventLogKeepsTheLast(t *testing.T) {
	l := testLog(nil)
	for i := range 2*keptEvents + 7 {
		l.Add("busy", "event", "n", i)
	}
	l.Add("quiet", "event", "n", 0)
	lines := strings.Split(strings.TrimSpace(l.Text("busy")), "\n")
	require.Len(t, lines, keptEvents)
	for i, line := range lines {
		require.True(t, strings.HasSuffix(line, fmt.Sprintf(" n=%d", keptEvents+7+i)), line)
	}
	require.Len(t, strings.Split(strings.TrimSpace(l.Text("quiet")), "\n"), 1)
}

func TestEventLogFollowsTheVM(t *testing.T) {
	l := testLog(nil)
	l.Add("old", "event")
	was := l.Text("old")
	l.rename("old", "new")
	require.Equal(t, was, l.Text("new"))
	require.Empty(t, l.Text("old"))
	l.forget("new")
	require.Empty(t, l.Text("new"))
}

func TestFailures(t *testing.T) {
	l := testLog(nil)
	f := newFailures(l)
	full := layer.Errorf(syscall.ENOSPC, "the store is full")
	require.Equal(t, fuse.OK, f.status("web", "write", nil))
	for range 3 {
		require.Equal(t, fuse.Status(syscall.ENOSPC), f.status("web", "write", full))
	}
	require.Equal(t, fuse.Status(syscall.EIO), f.status("web", "write", fmt.Errorf("odd")))
	require.Equal(t, `2026-03-01T11:00:00Z write-failed vm=web errno=ENOSPC error="the store is full"
2026-03-01T11:00:00Z write-failed vm=web errno=EIO error=odd
`, l.Text("web"))

	// The next one after a while tells how many there were.
	untold, tell := f.count(failure{"web", "write", syscall.ENOSPC}, time.Now().Add(quietTime))
	require.True(t, tell)
	require.Equal(t, 2, untold)
}

// The one errno that must never get out: the kernel would never ask again, and report success.
func TestNeverENOSYS(t *testing.T) {
	require.Equal(t, fuse.EIO, statusOf(syscall.ENOSYS))
	require.Equal(t, fuse.EIO, statusOf(fmt.Errorf("flush: %w", syscall.ENOSYS)))
	require.Equal(t, fuse.OK, statusOf(nil))
}

// FuzzReplay reads whatever an earlier daemon may have left: what is kept are lines of it, and reads back the same.
func FuzzReplay(f *testing.F) {
	for _, seed := range []string{
		"2026-01-02T03:04:05Z create vm=web snapshot=one\n", "2026-01-02T03:04:05Z vm-renamed vm=shop from=web\n",
		"2026-01-02T03:04:05Z vm-removed vm=\"a b\"\n2026-01-02T03:04:05Z x vm='\n", "2026-01-02T03:04:05Z\n", "no time vm=web\n",
		"2026-01-02T03:04:05Z vm-renamed vm=web from=web\n2026-01-02T03:04:05Z vm-renamed vm= from=\"\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		log := NewEventLog()
		log.Replay(text)
		kept := log.Text("")
		for line := range strings.Lines(kept) {
			require.True(t, strings.HasSuffix(line, "\n"))
			require.Contains(t, text, line)
		}
		again := NewEventLog()
		again.Replay(kept)
		require.Equal(t, kept, again.Text(""))
	})
}
