package fs

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// mounted is a store of its own, served at a real mountpoint by this process. Tests reach it by plain system calls
// only: a page fault on the mount, or Go's poller, would wait for this very process.
type mounted struct {
	*testing.T
	dir     string
	store   *layer.Store
	session *Session
}

func mountStore(t *testing.T, o Options) *mounted {
	t.Helper()
	if o.Log == nil {
		o.Log = NewEventLog()
	}
	o.Mountpoint = t.TempDir()
	o.Logf = t.Logf
	store, err := layer.Open(t.TempDir(), layer.Options{Event: o.Log.Add, Reserve: layer.Reserve{Bytes: 1 << 20}})
	require.NoError(t, err)
	session, err := Mount(store, o)
	require.NoError(t, err)
	m := &mounted{t, o.Mountpoint, store, session}
	// A request that is never answered would keep this process from ever dying: abort the session instead.
	watchdog := time.AfterFunc(2*time.Minute, func() { _ = unix.Unmount(o.Mountpoint, unix.MNT_FORCE) })
	t.Cleanup(func() {
		watchdog.Stop()
		require.NoError(t, session.Unmount())
		require.NoError(t, session.Wait())
		require.NoError(t, store.Close())
	})
	return m
}

// path is a path in the mount.
func (m *mounted) path(names ...string) string {
	return filepath.Join(append([]string{m.dir}, names...)...)
}

// vm makes a VM with one file called disk.
func (m *mounted) vm(name, content string) {
	m.Helper()
	require.NoError(m, os.Mkdir(m.path(name), 0o755))
	m.write(content, name, "disk")
}

func (m *mounted) write(content string, names ...string) {
	m.Helper()
	require.NoError(m, os.WriteFile(m.path(names...), []byte(content), 0o644))
}

func (m *mounted) read(names ...string) string {
	m.Helper()
	text, err := os.ReadFile(m.path(names...))
	require.NoError(m, err)
	return string(text)
}

func (m *mounted) list(names ...string) []string {
	m.Helper()
	entries, err := os.ReadDir(m.path(names...))
	require.NoError(m, err)
	list := []string{}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// command writes a command and decodes its answer. The error is that of write(2).
func (m *mounted) command(vm, control, text string) (answer map[string]any, err error) {
	m.Helper()
	f, openErr := os.OpenFile(m.path(vm, layer.SnapDir, control), os.O_RDWR|os.O_TRUNC, 0)
	require.NoError(m, openErr)
	defer f.Close()
	_, err = f.WriteString(text)
	line, readErr := io.ReadAll(f)
	require.NoError(m, readErr)
	require.NoError(m, json.Unmarshal(line, &answer), "%s", line)
	return answer, err
}

func (m *mounted) do(vm, control, text string) map[string]any {
	m.Helper()
	answer, err := m.command(vm, control, text)
	require.NoError(m, err, "%v", answer)
	return answer
}

// The thin path: write, snapshot, overwrite, read both states, go back.
func TestSnapshotAndRevert(t *testing.T) {
	m := mountStore(t, Options{})
	m.vm("web", "first")
	m.do("web", "create", `one description="the first"`)
	m.write("second, longer", "web", "disk")
	m.write("new", "web", "extra")
	require.Equal(t, "first", m.read("web", layer.SnapDir, "one", "disk"))
	require.Equal(t, "second, longer", m.read("web", "disk"))
	require.Equal(t, []string{"disk", "snapshot.json"}, m.list("web", layer.SnapDir, "one"))

	answer := m.do("web", "revert", "one")
	require.Equal(t, "first", m.read("web", "disk"))
	require.Equal(t, []string{"disk"}, m.list("web"))
	require.Equal(t, false, answer["reset"])
	kept, _ := answer["kept"].(string)
	require.Contains(t, kept, "before-revert-")
	require.Equal(t, "second, longer", m.read("web", layer.SnapDir, kept, "disk"))
	require.Contains(t, answer["message"], kept)

	answer = m.do("web", "revert", kept+" discard=true")
	require.Nil(t, answer["kept"])
	require.Equal(t, "second, longer", m.read("web", "disk"))
	require.Contains(t, m.read("web", layer.SnapDir, "tree"), "○ you are here")
	require.Contains(t, m.read("web", layer.SnapDir, "log"), "create vm=web snapshot=one")
}

// What open handles see of a forced revert, and that the answer tells.
func TestForcedRevert(t *testing.T) {
	m := mountStore(t, Options{})
	m.vm("web", "first")
	m.do("web", "create", "one")
	f, err := os.OpenFile(m.path("web", "disk"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("SECOND"), 0)
	require.NoError(t, err)
	answer, err := m.command("web", "revert", "one")
	require.ErrorIs(t, err, unix.EBUSY)
	require.Equal(t, "EBUSY", answer["error"].(map[string]any)["code"])
	answer = m.do("web", "revert", "one force=true")
	require.Equal(t, true, answer["reset"])
	got := make([]byte, 10)
	n, err := f.ReadAt(got, 0)
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, "first", string(got[:n]))
}

// A control file held open: each answer follows its write, at whatever offset, and nothing is left of the one before.
func TestControlDialogue(t *testing.T) {
	m := mountStore(t, Options{})
	m.vm("web", "x")
	usage := m.read("web", layer.SnapDir, "create")
	require.Contains(t, usage, "create: write one line")

	f, err := os.OpenFile(m.path("web", layer.SnapDir, "create"), os.O_RDWR, 0)
	require.NoError(t, err)
	read := func() string {
		text, err := io.ReadAll(f)
		require.NoError(t, err)
		return string(text)
	}
	require.Equal(t, usage, read())
	require.Empty(t, read(), "the end stays the end")
	_, err = f.WriteString(`"with spaces"` + "\n")
	require.NoError(t, err)
	require.Contains(t, read(), `{"snapshot":{"name":"with spaces"`)
	_, err = f.WriteString(`{"name": "with spaces"}`)
	require.ErrorIs(t, err, unix.EEXIST)
	require.Contains(t, read(), `{"error":{"code":"EEXIST","message":`)
	_, err = f.Write(make([]byte, maxCommand+1))
	require.ErrorIs(t, err, unix.EINVAL)
	require.Contains(t, read(), "at most 65536")
	require.NoError(t, f.Close())

	// What failed is in the log, one line each.
	log := m.read("web", layer.SnapDir, "log")
	require.Contains(t, log, `create-failed vm=web snapshot="with spaces" errno=EEXIST`)
	require.Contains(t, log, `create-failed vm=web errno=EINVAL`)
	for _, name := range []string{"tree", "list", "status", "log"} {
		_, err := os.OpenFile(m.path("web", layer.SnapDir, name), os.O_WRONLY, 0)
		require.ErrorIs(t, err, unix.EACCES, name)
	}
	require.Eventually(t, func() bool {
		m.session.files.controls.mu.Lock()
		defer m.session.files.controls.mu.Unlock()
		return len(m.session.files.controls.open) == 0
	}, 10*time.Second, time.Millisecond, "closed handles are dropped")
}

func TestListings(t *testing.T) {
	for _, visible := range []bool{false, true} {
		m := mountStore(t, Options{SnapdirVisible: visible})
		m.vm("b", "")
		m.vm("a", "")
		m.do("a", "create", "one")
		require.NoError(t, os.Mkdir(m.path("a", layer.SnapDir, "two"), 0o755))
		root, vm := []string{"a", "b"}, []string{"disk"}
		if visible {
			root, vm = append([]string{layer.SnapDir}, root...), append([]string{layer.SnapDir}, vm...)
		}
		require.Equal(t, root, m.list())
		require.Equal(t, vm, m.list("a"))
		require.ElementsMatch(t, strings.Fields("create delete rename revert preview commit undo clone policy "+
			"tree list status log one two"), m.list("a", layer.SnapDir))
		require.ElementsMatch(t, []string{"status", "list", "log", "scrub", "format"}, m.list(layer.SnapDir))
		require.Equal(t, []string{"disk", "snapshot.json"}, m.list("a", layer.SnapDir, "two"))

		var listed []struct{ VM, Name string }
		require.NoError(t, json.Unmarshal([]byte(m.read(layer.SnapDir, "list")), &listed))
		require.Equal(t, []struct{ VM, Name string }{{"a", "one"}, {"a", "two"}}, listed)
	}
}

// An open directory keeps its listing; going back to its start takes a fresh one.
func TestRewind(t *testing.T) {
	m := mountStore(t, Options{})
	m.vm("web", "")
	d, err := os.Open(m.path("web"))
	require.NoError(t, err)
	defer d.Close()
	m.write("", "web", "early")
	names, err := d.Readdirnames(0)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"disk", "early"}, names)
	require.NoError(t, os.Remove(m.path("web", "disk")))
	_, err = d.Seek(0, io.SeekStart)
	require.NoError(t, err)
	names, err = d.Readdirnames(0)
	require.NoError(t, err)
	require.Equal(t, []string{"early"}, names)
}

// go-fuse's own pretended file is not there.
func TestNoPollHack(t *testing.T) {
	m := mountStore(t, Options{})
	_, err := os.Stat(m.path(pollHack))
	require.ErrorIs(t, err, unix.ENOENT)
	require.ErrorIs(t, os.Mkdir(m.path(pollHack), 0o755), unix.EINVAL)
}
