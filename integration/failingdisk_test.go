package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A host's disk that can't write any more: its image lies on a file system that
// others have filled, so that new blocks of it are I/O errors. When the index
// can't be sure of a commit the daemon ends, and nobody is told anything that
// the next daemon does not bear out.
func TestFailingDisk(t *testing.T) {
	base := t.TempDir()
	beneath := filepath.Join(base, "beneath")
	require.NoError(t, os.Mkdir(beneath, 0o755))
	run(t, "mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", beneath)
	t.Cleanup(func() { _ = unix.Unmount(beneath, unix.MNT_DETACH) })
	h := &host{t: t, image: filepath.Join(beneath, "disk.img"), dir: filepath.Join(base, "host")}
	writeFile(t, h.image, nil)
	require.NoError(t, os.Truncate(h.image, 1<<30))
	require.NoError(t, os.Mkdir(h.dir, 0o755))
	run(t, "mkfs.ext4", "-q", h.image)
	h.mount()
	t.Cleanup(func() { _ = unix.Unmount(h.dir, unix.MNT_DETACH) })
	m := h.newMount()
	m.vm("web")

	full := filepath.Join(beneath, "others")
	fillUp(t, full)
	made := 0
	for ; ; made++ {
		require.Less(t, made, 10_000, "the disk does not fail")
		if err := os.Mkdir(m.path(fmt.Sprintf("vm%d", made)), 0o755); err != nil {
			require.NotErrorIs(t, err, unix.EEXIST)
			break
		}
	}
	<-m.Exited
	require.Equal(t, 1, m.Cmd.ProcessState.ExitCode(), "%v: %s", m.Cmd.ProcessState, m.Stderr)
	require.Contains(t, m.Stderr.String(), "what is in the index is no longer certain")
	require.NoError(t, unix.Unmount(m.dir, unix.MNT_DETACH))
	m.Daemon = nil

	require.NoError(t, os.Remove(full))
	run(t, "umount", h.dir)
	h.mount()
	m.start()
	got := names(t, m.dir)
	require.Contains(t, got, "web")
	for i := range made {
		require.Contains(t, got, fmt.Sprintf("vm%d", i))
	}
}

// A host's file system that goes read-only, as ext4 does after an error: guests
// get errors, the mount can be taken down, and whoever does is told. What was
// flushed before is there when the file system has been checked.
func TestReadOnlyHost(t *testing.T) {
	h := newHost(t, 2<<30)
	m := h.newMount()
	m.vm("web")
	f, err := os.OpenFile(m.disk("web", "disk.img", 1<<20), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	flushed := []byte("flushed")
	_, err = f.WriteAt(flushed, 0)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	run(t, "mount", "-o", "remount,abort", h.dir)
	_, err = f.WriteAt([]byte("too late"), 1<<19)
	require.Error(t, errors.Join(err, f.Sync()))
	require.NoError(t, f.Close())

	failSnapfs(t, "its store was not closed in order", "umount", m.dir)
	<-m.Exited
	require.Equal(t, 1, m.Cmd.ProcessState.ExitCode(), "%v: %s", m.Cmd.ProcessState, m.Stderr)
	require.Contains(t, m.Stderr.String(), "left as by a kill, which loses nothing that was committed: ")
	m.Daemon = nil

	run(t, "umount", h.dir)
	fsck := exec.Command("e2fsck", "-p", h.image)
	if out, err := fsck.CombinedOutput(); err != nil {
		require.Equal(t, 1, fsck.ProcessState.ExitCode(), "not mended: %s", out)
	}
	h.mount()
	m.start()
	require.Equal(t, flushed, readFile(t, m.path("web", "disk.img"))[:len(flushed)])
}

// fillUp writes a file until its file system has no room left.
func fillUp(t testing.TB, path string) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	for chunk := make([]byte, 1<<20); len(chunk) >= 4096; {
		if _, err := f.Write(chunk); err != nil {
			require.ErrorIs(t, err, unix.ENOSPC)
			chunk = chunk[:len(chunk)/2]
		}
	}
}
