package integration

import (
	"fmt"
	"os"
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
