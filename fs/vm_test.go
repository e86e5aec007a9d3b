package fs

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

// A VM comes, changes its name, and goes; its log goes along.
func TestVMs(t *testing.T) {
	m := mountStore(t, Options{})
	changed := func() int64 {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(m.dir, &st))
		return st.Mtim.Nano()
	}
	before := changed()
	m.vm("old", "x")
	require.Greater(t, changed(), before)
	m.do("old", "create", "one")
	require.NoError(t, os.Rename(m.path("old"), m.path("new")))
	require.Equal(t, []string{"new"}, m.list())
	require.Equal(t, "x", m.read("new", layer.SnapDir, "one", "disk"))
	log := m.read("new", layer.SnapDir, "log")
	require.Contains(t, log, "vm-created vm=old")
	require.Contains(t, log, "vm-renamed vm=new from=old")
	require.NoError(t, unix.Rmdir(m.path("new", layer.SnapDir, "one")))
	require.NoError(t, os.Remove(m.path("new", "disk")))
	require.NoError(t, unix.Rmdir(m.path("new")))
	require.Empty(t, m.list())
	require.Contains(t, m.read(layer.SnapDir, "log"), "vm-removed vm=new")
	require.NoError(t, os.Mkdir(m.path("new"), 0o755))
	require.NotContains(t, m.read("new", layer.SnapDir, "log"), "one", "another VM's log")
}

// Who may do what in .snapshots follows from the VM's directory.
func TestModes(t *testing.T) {
	m := mountStore(t, Options{})
	m.vm("web", "x")
	require.NoError(t, os.Chmod(m.path("web", "disk"), 0o660))
	require.NoError(t, os.Chown(m.path("web", "disk"), 7, 8))
	m.do("web", "create", "one")
	require.NoError(t, os.Chmod(m.path("web", "disk"), 0o600))
	require.NoError(t, os.Chmod(m.path("web"), 0o770))
	require.NoError(t, os.Chown(m.path("web"), 5, 6))
	for _, test := range []struct {
		path     string
		mode     uint32
		uid, gid uint32
	}{
		{m.path(), syscall.S_IFDIR | 0o755, 0, 0},
		{m.path(layer.SnapDir), syscall.S_IFDIR | 0o555, 0, 0},
		{m.path(layer.SnapDir, "status"), syscall.S_IFREG | 0o400, 0, 0},
		{m.path("web"), syscall.S_IFDIR | 0o770, 5, 6},
		{m.path("web", "disk"), syscall.S_IFREG | 0o600, 7, 8},
		{m.path("web", layer.SnapDir), syscall.S_IFDIR | 0o750, 5, 6},
		{m.path("web", layer.SnapDir, "create"), syscall.S_IFREG | 0o600, 5, 6},
		{m.path("web", layer.SnapDir, "list"), syscall.S_IFREG | 0o400, 5, 6},
		{m.path("web", layer.SnapDir, "one"), syscall.S_IFDIR | 0o550, 5, 6},
		{m.path("web", layer.SnapDir, "one", "disk"), syscall.S_IFREG | 0o440, 7, 8},
	} {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(test.path, &st), test.path)
		require.Equal(t, test.mode, st.Mode, test.path)
		require.Equal(t, test.uid, st.Uid, test.path)
		require.Equal(t, test.gid, st.Gid, test.path)
	}
}

// A file that lost its name while open is served until it is closed; its id then means nothing to anybody.
func TestUnlinkedWhileOpen(t *testing.T) {
	m := mountStore(t, Options{})
	m.vm("web", "x")
	f, err := os.OpenFile(m.path("web", "disk"), os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, os.Remove(m.path("web", "disk")))
	_, err = f.WriteAt([]byte("still here"), 0)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	got := make([]byte, 10)
	_, err = f.ReadAt(got, 0)
	require.NoError(t, err)
	require.Equal(t, "still here", string(got))
	var st unix.Stat_t
	require.NoError(t, unix.Fstat(int(f.Fd()), &st))
	require.Zero(t, st.Nlink)
	require.NoError(t, f.Close())
}
