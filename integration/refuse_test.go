package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestMountRefuses is what mount says no to, by name, and leaves as it was.
func TestMountRefuses(t *testing.T) {
	m := newMount(t)
	newVM(t, m, "vm", "content")
	other := t.TempDir()
	failSnapfs(t, "in use", "mount", m.store, other)
	failSnapfs(t, "in use", "check", m.store)
	failSnapfs(t, m.dir, "mount", t.TempDir(), m.dir)

	occupied := t.TempDir()
	writeFile(t, filepath.Join(occupied, "file"), nil)
	failSnapfs(t, "not empty", "mount", filepath.Join(t.TempDir(), "store"), occupied)
	failSnapfs(t, "FORMAT", "mount", occupied, other)
	require.Equal(t, []string{"file"}, names(t, occupied))
	failSnapfs(t, "missing", "mount", m.store, filepath.Join(other, "missing"))
	failSnapfs(t, occupied, "umount", occupied)

	m.stop()
	format := filepath.Join(m.store, "FORMAT")
	good := readFile(t, format)
	writeFile(t, format, []byte(`{"store":"snapfs","version":999}`))
	failSnapfs(t, "made by a newer version: version 999; this program knows 1 and 2", "mount", m.store, other)
	failSnapfs(t, "version 999", "check", m.store)
	writeFile(t, format, good)
	m.start()
	requireContent(t, []byte("content"), m.path("vm", "disk"))
}

// TestBackground mounts as an operator does: the command returns when the mount
// answers, and umount when the store is closed.
func TestBackground(t *testing.T) {
	base := t.TempDir()
	store, dir := filepath.Join(base, "store"), filepath.Join(base, "mnt")
	require.NoError(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	mustSnapfs(t, "mount", store, dir)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "vm"), 0o755))
	path := filepath.Join(dir, "vm", "disk")
	writeFile(t, path, []byte("x"))
	held := open(t, path, os.O_RDONLY)
	failSnapfs(t, "vm/disk", "umount", dir) // says who holds what
	require.NoError(t, held.Close())
	mustSnapfs(t, "umount", dir)
	mustSnapfs(t, "check", store)
	mustSnapfs(t, "mount", store, dir)
	requireContent(t, []byte("x"), path)
	mustSnapfs(t, "umount", dir)
	require.FileExists(t, filepath.Join(store, "log"))
}

// TestUsage: exit status 2 is for a command line that makes no sense.
func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"nonsense"}, {"mount"}, {"mount", "one"}, {"create", "one"}, {"list", "--nonsense"}, {"mount", "--snapdir=perhaps", "a", "b"}} {
		r := snapfs(t, args...)
		require.Equal(t, 2, r.code, "%v: %s%s", args, r.stdout, r.stderr)
		require.NotEmpty(t, r.stderr)
	}
	failSnapfs(t, "snapfs", "list", t.TempDir()) // not a mount
}

// TestFullStore fills the store's file system. Writes are refused with ENOSPC
// above the reserve, and deleting a snapshot makes room again.
func TestFullStore(t *testing.T) {
	h := newHost(t, 512<<20)
	m := h.newMount()
	vm := m.vm("vm")
	f := open(t, m.disk("vm", "disk", 1<<30), os.O_RDWR)
	fill := func() (off int64) {
		block := pattern(1, 1<<20)
		for ; off < 1<<30; off += int64(len(block)) {
			if _, err := f.WriteAt(block, off); err != nil {
				require.ErrorIs(t, err, unix.ENOSPC)
				return off
			}
		}
		require.Fail(t, "a full disk took everything")
		return off
	}
	full := fill()
	require.Greater(t, full, int64(128<<20))
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(h.dir, &st))
	require.Greater(t, int64(st.Bfree)*st.Bsize, int64(32<<20), "the reserve is left")
	require.NoError(t, unix.Statfs(m.dir, &st))
	require.Less(t, int64(st.Bavail)*st.Bsize, int64(2<<20))
	writeAt(t, f, pattern(2, 1<<20), 0) // what is there can be overwritten
	require.NoError(t, f.Sync())

	failCommand(t, unix.ENOSPC, vm, "create", "too-late")
	require.NoError(t, f.Truncate(full/2))
	require.NoError(t, f.Truncate(1<<30))
	require.Eventually(t, func() bool {
		_, err := command(t, vm, "create", "half")
		return err == nil
	}, patience, patience/100)
	require.Less(t, fill(), full)
	mustCommand(t, vm, "delete", "half")
	require.Eventually(t, func() bool {
		_, err := f.WriteAt(pattern(3, 1<<20), full-1<<20)
		return err == nil
	}, patience, patience/100, "deleting makes no room")
	require.NoError(t, f.Close())
}
