package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// badNames are refused for VMs and snapshots, by whatever way they come.
var badNames = []string{"-x", ".x", "{x", `"x`, "a@b", "a..b", "a\nb", "a\x7fb", "\xff\xfe"}

func TestNames(t *testing.T) {
	m := newMount(t)
	vm := m.vm("vm")
	for _, name := range badNames {
		require.ErrorIs(t, os.Mkdir(m.path(name), 0o755), syscall.EINVAL, "VM %q", name)
		require.ErrorIs(t, os.Mkdir(snapshotPath(vm, name), 0o755), syscall.EINVAL, "snapshot %q", name)
		require.ErrorIs(t, unix.Rename(vm, m.path(name)), syscall.EINVAL, "rename to %q", name)
		if strings.HasPrefix(name, ".") {
			continue
		}
		_, err := os.Create(filepath.Join(vm, name))
		require.ErrorIs(t, err, syscall.EINVAL, "file %q", name)
	}
	writeFile(t, filepath.Join(vm, ".lock"), nil) // swtpm needs it
	for _, name := range []string{"memory", "snapshot.json"} {
		_, err := os.Create(filepath.Join(vm, name))
		require.ErrorIs(t, err, syscall.EINVAL, "file %q", name)
		require.ErrorIs(t, os.Rename(filepath.Join(vm, ".lock"), filepath.Join(vm, name)), syscall.EINVAL)
	}
	// Names of all control files are taken, those of later versions too.
	for _, name := range strings.Fields("create delete rename revert preview commit undo clone policy tree list status log") {
		failCommand(t, syscall.EINVAL, vm, "create", name)
	}
	require.Equal(t, []string{".lock"}, names(t, vm))
	require.Empty(t, list(t, vm))
}

// TestNotInAVirtualMachine is what the mount refuses to hold.
func TestNotInAVirtualMachine(t *testing.T) {
	m := newMount(t)
	a, b := m.vm("a"), m.vm("b")
	file := filepath.Join(a, "disk.img")
	writeFile(t, file, []byte("x"))

	require.ErrorIs(t, os.Mkdir(filepath.Join(a, "dir"), 0o755), syscall.EPERM)
	_, err := os.Create(m.path("file"))
	require.ErrorIs(t, err, syscall.EPERM)
	for _, dir := range []string{m.dir, a} {
		require.ErrorIs(t, os.Symlink("target", filepath.Join(dir, "link")), syscall.EPERM)
		require.ErrorIs(t, os.Link(file, filepath.Join(dir, "hard")), syscall.EPERM)
		require.Equal(t, unix.EPERM, unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		require.Equal(t, unix.EPERM, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o666))
	}
	require.ErrorIs(t, os.Rename(file, filepath.Join(b, "disk.img")), syscall.EXDEV)
	require.ErrorIs(t, os.Mkdir(b, 0o755), syscall.EEXIST)

	// A VM goes when it has neither files nor snapshots.
	require.ErrorIs(t, unix.Rmdir(a), syscall.ENOTEMPTY)
	mustCommand(t, a, "create", "kept")
	require.NoError(t, os.Remove(file))
	require.ErrorIs(t, unix.Rmdir(a), syscall.ENOTEMPTY)
	require.Contains(t, string(readFile(t, m.path(".snapshots", "log"))), "destroy")
	mustCommand(t, a, "delete", "kept")
	require.NoError(t, unix.Rmdir(a))

	// A VM's name can change, onto that of an empty one too.
	writeFile(t, filepath.Join(b, "disk.img"), []byte("b's"))
	mustCommand(t, b, "create", "s")
	m.vm("c")
	require.NoError(t, unix.Rename(b, m.path("c")))
	require.Equal(t, []string{"c"}, names(t, m.dir))
	requireContent(t, []byte("b's"), snapshotPath(m.path("c"), "s", "disk.img"))
	m.remount()
	requireContent(t, []byte("b's"), m.path("c", "disk.img"))
}

// TestReadOnlySnapshots tries to change a snapshot in every way there is.
func TestReadOnlySnapshots(t *testing.T) {
	m := newMount(t)
	vm := m.vm("vm")
	content := pattern(1, 100_001)
	disk := filepath.Join(vm, "disk.img")
	writeFile(t, disk, content)
	require.NoError(t, os.Chmod(disk, 0o640))
	require.NoError(t, os.Chown(disk, 12, 34))
	mustCommand(t, vm, "create", "s")
	require.NoError(t, os.Chmod(disk, 0o600))
	writeFile(t, disk, []byte("after"))

	dir, file := snapshotPath(vm, "s"), snapshotPath(vm, "s", "disk.img")
	for _, flags := range []int{os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_APPEND} {
		_, err := os.OpenFile(file, flags, 0)
		require.ErrorIs(t, err, syscall.EROFS, "flags %#x", flags)
	}
	_, err := os.Create(filepath.Join(dir, "new"))
	for what, err := range map[string]error{
		"create":      err,
		"unlink":      unix.Unlink(file),
		"truncate":    os.Truncate(file, 0),
		"chmod":       os.Chmod(file, 0o777),
		"chown":       os.Chown(file, 0, 0),
		"utimes":      unix.UtimesNano(file, make([]unix.Timespec, 2)),
		"mkdir":       os.Mkdir(filepath.Join(dir, "d"), 0o755),
		"symlink":     os.Symlink("x", filepath.Join(dir, "l")),
		"mknod":       unix.Mknod(filepath.Join(dir, "n"), unix.S_IFIFO|0o600, 0),
		"rename":      os.Rename(file, filepath.Join(dir, "other")),
		"chmod dir":   os.Chmod(dir, 0o777),
		"rename over": os.Rename(file, file+"2"),
	} {
		require.ErrorIs(t, err, syscall.EROFS, what)
	}
	require.ErrorIs(t, os.Rename(file, filepath.Join(vm, "back")), syscall.EROFS)

	var st unix.Stat_t
	require.NoError(t, unix.Stat(file, &st))
	require.EqualValues(t, 0o440, st.Mode&0o777, "the mode of then, nothing writable")
	require.EqualValues(t, 12, st.Uid)
	require.EqualValues(t, 34, st.Gid)
	requireContent(t, content, file)
	f := open(t, file, os.O_RDONLY)
	shared, err := unix.Mmap(int(f.Fd()), 0, len(content), unix.PROT_READ, unix.MAP_SHARED)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, shared))
	require.NoError(t, unix.Munmap(shared))
	requireContent(t, []byte("after"), disk)
}

// TestSnapshotDirectory is `.snapshots` seen as a directory: mkdir, rmdir and mv
// create, delete and rename.
func TestSnapshotDirectory(t *testing.T) {
	m := newMount(t)
	vm := m.vm("vm")
	writeFile(t, filepath.Join(vm, "a"), []byte("one"))
	require.NoError(t, os.Mkdir(snapshotPath(vm, "s1"), 0o755))
	writeFile(t, filepath.Join(vm, "a"), []byte("two"))
	require.NoError(t, os.Mkdir(snapshotPath(vm, "s2"), 0o755))
	require.ErrorIs(t, os.Mkdir(snapshotPath(vm, "s2"), 0o755), syscall.EEXIST)
	require.Equal(t, []string{"s1", "s2"}, snapshotNames(t, vm))
	require.Equal(t, []string{"a"}, snapshotFiles(t, vm, "s1"))
	requireContent(t, []byte("one"), snapshotPath(vm, "s1", "a"))

	require.NoError(t, os.Rename(snapshotPath(vm, "s1"), snapshotPath(vm, "first")))
	require.Error(t, unix.Rename(snapshotPath(vm, "first"), snapshotPath(vm, "s2")), "the name is taken")
	requireContent(t, []byte("one"), snapshotPath(vm, "first", "a"))
	require.ErrorIs(t, os.Rename(snapshotPath(vm, "first"), filepath.Join(vm, "first")), syscall.EXDEV)
	require.NoError(t, unix.Rmdir(snapshotPath(vm, "first")))
	require.NoDirExists(t, snapshotPath(vm, "first"))
	require.ErrorIs(t, unix.Rmdir(snapshotPath(vm, "first")), syscall.ENOENT)

	require.ErrorIs(t, os.Remove(snapshotPath(vm, "create")), syscall.EPERM)
	require.ErrorIs(t, os.Rename(snapshotPath(vm, "create"), snapshotPath(vm, "x")), syscall.EPERM)
	require.Error(t, unix.Rmdir(filepath.Join(vm, ".snapshots")))
	entries := names(t, filepath.Join(vm, ".snapshots"))
	require.Subset(t, entries, strings.Fields("s2 create delete rename revert tree list status log"))
	require.Equal(t, []string{"a"}, names(t, vm), ".snapshots is not listed")
	require.Equal(t, []string{"vm"}, names(t, m.dir))
	out := run(t, "find", m.dir)
	require.NotContains(t, out, ".snapshots")
}

func TestVisibleSnapshotDirectory(t *testing.T) {
	m := newMount(t, "--snapdir=visible")
	vm := m.vm("vm")
	require.Contains(t, names(t, vm), ".snapshots")
	require.Contains(t, names(t, m.dir), ".snapshots")
	require.ElementsMatch(t, strings.Fields("status list log scrub format"), names(t, m.path(".snapshots")))
}
