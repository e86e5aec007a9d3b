package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// mountTmpfs gives a file system of its own to hold on to.
func mountTmpfs(t *testing.T) mountEntry {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, unix.Mount("none", dir, "tmpfs", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	m, err := mountAt(dir)
	require.NoError(t, err)
	require.NotNil(t, m)
	return *m
}

func TestHolders(t *testing.T) {
	m := mountTmpfs(t)
	require.Empty(t, holders(m))

	written, err := os.Create(filepath.Join(m.point, "written"))
	require.NoError(t, err)
	defer written.Close()
	again, err := os.Open(written.Name())
	require.NoError(t, err)
	defer again.Close()
	held := holders(m)
	require.Len(t, held, 1, "one process holds one file, however often")
	require.Equal(t, os.Getpid(), held[0].pid)
	require.Equal(t, written.Name(), held[0].path)
	require.True(t, held[0].write)
	require.Contains(t, showHolders(held), written.Name())

	require.NoError(t, written.Close())
	held = holders(m)
	require.Len(t, held, 1)
	require.False(t, held[0].write, "what is left only reads")

	require.NoError(t, again.Close())
	require.Empty(t, holders(m))
}

func TestHoldersByDirectoryAndMapping(t *testing.T) {
	m := mountTmpfs(t)
	sleeper := exec.Command("sleep", "1000")
	sleeper.Dir = m.point
	require.NoError(t, sleeper.Start())
	defer func() {
		_ = sleeper.Process.Kill()
		_ = sleeper.Wait()
	}()
	held := holders(m)
	require.Len(t, held, 1)
	require.Equal(t, sleeper.Process.Pid, held[0].pid)
	require.Equal(t, m.point, held[0].path)

	path := filepath.Join(m.point, "mapped")
	require.NoError(t, os.WriteFile(path, make([]byte, 4096), 0o600))
	f, err := os.Open(path)
	require.NoError(t, err)
	mapping, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Munmap(mapping)) }()
	require.NoError(t, f.Close())
	require.Len(t, holders(m), 2)
}

func TestHoldersByMount(t *testing.T) {
	m := mountTmpfs(t)
	inner := filepath.Join(m.point, "inner")
	require.NoError(t, os.Mkdir(inner, 0o755))
	require.NoError(t, unix.Mount("none", inner, "tmpfs", 0, ""))
	held := holders(m)
	require.NoError(t, unix.Unmount(inner, 0))
	require.Len(t, held, 1)
	require.Equal(t, inner, held[0].path)
	require.ErrorContains(t, busyError(mountEntry{point: "/nowhere", major: 1 << 20}), "out of sight")
}

// What has been given the number of a mount that is over is another one's.
func TestHeldElsewhere(t *testing.T) {
	m := mountTmpfs(t)
	f, err := os.Create(filepath.Join(m.point, "held"))
	require.NoError(t, err)
	defer f.Close()
	var paths []string
	for _, h := range heldElsewhere(m) {
		paths = append(paths, h.path)
	}
	require.Contains(t, paths, f.Name())
	require.Contains(t, paths, m.point)
	m.source = "another store"
	require.Empty(t, heldElsewhere(m))
}

func TestShowHolders(t *testing.T) {
	var many []holder
	for range 7 {
		many = append(many, holder{pid: 1, who: "qemu", path: "/m/x"})
	}
	require.Regexp(t, `^(/m/x \(qemu, pid 1\), ){5}and 2 more$`, showHolders(many))
}
