package fs

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// code is what an answer says went wrong.
func code(answer map[string]any) string {
	text, _ := answer["error"].(map[string]any)
	errno, _ := text["code"].(string)
	return errno
}

func TestPreviewUndo(t *testing.T) {
	m := mountStore(t, Options{})
	m.vm("web", "first")
	m.do("web", "create", "one")
	m.write("second", "web", "disk")
	m.do("web", "create", "two")
	m.write("third", "web", "disk")

	answer := m.do("web", "preview", "one")
	require.Equal(t, "one", answer["snapshot"].(map[string]any)["name"])
	require.Nil(t, answer["kept"])
	require.Equal(t, "first", m.read("web", "disk"))
	m.write("tried", "web", "disk")
	m.write("new", "web", "extra")
	require.Equal(t, "first", m.read("web", layer.SnapDir, "one", "disk"), "the snapshot stays what it is")
	require.Contains(t, m.read("web", layer.SnapDir, "tree"), "○ you are here (preview of one)\n")
	var status layer.VMStatus
	require.NoError(t, json.Unmarshal([]byte(m.read("web", layer.SnapDir, "status")), &status))
	require.Equal(t, "one", *status.Preview)
	require.NotContains(t, m.list("web", layer.SnapDir), ".preview")

	for _, command := range [][2]string{
		{"create", "x"}, {"revert", "two"}, {"preview", "two"}, {"delete", "one"}, {"delete", "one..two"},
	} {
		answer, err := m.command("web", command[0], command[1])
		require.ErrorIs(t, err, unix.EBUSY, command)
		require.Equal(t, "EBUSY", code(answer))
	}
	require.ErrorIs(t, os.Mkdir(m.path("web", layer.SnapDir, "x"), 0o755), unix.EBUSY)

	answer = m.do("web", "undo", "\n")
	require.Equal(t, "one", answer["snapshot"].(map[string]any)["name"])
	require.Equal(t, "third", m.read("web", "disk"))
	require.Equal(t, []string{"disk"}, m.list("web"))
	require.NotContains(t, m.read("web", layer.SnapDir, "tree"), "preview")
	for _, control := range []string{"commit", "undo"} {
		_, err := m.command("web", control, "\n")
		require.ErrorIs(t, err, unix.EINVAL)
	}
	log := m.read("web", layer.SnapDir, "log")
	require.Contains(t, log, "preview vm=web snapshot=one\n")
	require.Contains(t, log, "undo vm=web snapshot=one\n")
	require.Contains(t, log, "create-failed vm=web snapshot=x errno=EBUSY")
	require.Contains(t, log, "commit-failed vm=web errno=EINVAL")
}

func TestPreviewCommit(t *testing.T) {
	m := mountStore(t, Options{})
	m.vm("web", "first")
	m.write("first settings", "web", "settings")
	m.do("web", "create", "one")
	m.write("second", "web", "disk")
	m.write("second settings", "web", "settings")

	m.do("web", "preview", "one files=disk")
	require.Equal(t, "first", m.read("web", "disk"))
	require.Equal(t, "second settings", m.read("web", "settings"), "what is not asked for stays")
	m.write("third", "web", "disk")
	answer := m.do("web", "commit", "{}")
	kept, _ := answer["kept"].(string)
	require.Contains(t, kept, "before-commit-")
	require.Contains(t, answer["message"], kept)
	require.Equal(t, "third", m.read("web", "disk"))
	require.Equal(t, []string{"disk", "snapshot.json"}, m.list("web", layer.SnapDir, kept))
	require.Equal(t, "second", m.read("web", layer.SnapDir, kept, "disk"))
	require.Contains(t, m.read("web", layer.SnapDir, "log"), "commit vm=web snapshot=one kept="+kept)
}

// Open files stand in the way of a preview and of its end, unless forced; then the answer says what to do.
func TestForcedPreview(t *testing.T) {
	m := mountStore(t, Options{})
	m.vm("web", "first")
	m.do("web", "create", "one")
	m.write("SECOND", "web", "disk")
	f, err := os.OpenFile(m.path("web", "disk"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	for _, step := range []struct{ control, plain, forced, reads string }{
		{"preview", "one", "one force=true", "first"},
		{"undo", "\n", "force=true", "SECOND"},
	} {
		_, err = m.command("web", step.control, step.plain)
		require.ErrorIs(t, err, unix.EBUSY)
		answer := m.do("web", step.control, step.forced)
		require.Equal(t, true, answer["reset"])
		require.Contains(t, answer["message"], "reset the guest now")
		require.Equal(t, step.reads, m.read("web", "disk"))
	}
	require.Contains(t, m.read("web", layer.SnapDir, "log"), "undo vm=web snapshot=one reset=true")
}

func TestClone(t *testing.T) {
	m := mountStore(t, Options{})
	m.vm("web", "golden")
	require.NoError(t, os.Chmod(m.path("web"), 0o750))
	require.NoError(t, os.Chown(m.path("web"), 5, 6))
	m.do("web", "create", "base")
	m.write("later", "web", "disk")
	_, err := os.Stat(m.path("db"))
	require.ErrorIs(t, err, unix.ENOENT)

	answer := m.do("web", "clone", "base to=db")
	require.Equal(t, "db", answer["vm"])
	require.Equal(t, "base", answer["snapshot"].(map[string]any)["name"])
	require.Equal(t, []string{"db", "web"}, m.list())
	require.Equal(t, "golden", m.read("db", "disk"))
	var st unix.Stat_t
	require.NoError(t, unix.Stat(m.path("db"), &st))
	require.Equal(t, []uint32{unix.S_IFDIR | 0o750, 5, 6}, []uint32{st.Mode, st.Uid, st.Gid})
	require.Contains(t, m.read("web", layer.SnapDir, "log"), "clone vm=web snapshot=base to=db")
	require.Contains(t, m.read("db", layer.SnapDir, "log"), "vm-created vm=db from=web@base")
	m.write("own", "db", "disk")
	require.Equal(t, "golden", m.read("web", layer.SnapDir, "base", "disk"))

	for command, want := range map[string]unix.Errno{
		"base to=db": unix.EEXIST, "base to=web": unix.EEXIST, "none to=x": unix.ENOENT,
		"base to=.x": unix.EINVAL, "base": unix.EINVAL, "base to=a/b": unix.EINVAL,
	} {
		answer, err := m.command("web", "clone", command)
		require.ErrorIs(t, err, want, command)
		require.Equal(t, unix.ErrnoName(want), code(answer))
	}
	require.Equal(t, []string{"db", "web"}, m.list())
}

func TestDeleteRange(t *testing.T) {
	m := mountStore(t, Options{})
	m.vm("web", "x")
	for _, name := range []string{"a", "b", "c", "d"} {
		m.do("web", "create", name)
	}
	for command, want := range map[string]unix.Errno{"c..b": unix.EINVAL, "b..": unix.EINVAL, "b..x": unix.ENOENT} {
		_, err := m.command("web", "delete", command)
		require.ErrorIs(t, err, want, command)
	}
	require.Len(t, m.do("web", "delete", "b..c")["snapshots"], 2)
	require.Len(t, m.do("web", "delete", "d..d")["snapshots"], 1)
	left := m.list("web", layer.SnapDir)
	require.Contains(t, left, "a")
	require.Len(t, left, len(vmControls)+1)
}
