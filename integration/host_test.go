package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/integration/daemon"
)

// host is a host's file system on a disk of its own, an image behind a loop
// device: it can be filled up, and its power can fail.
type host struct {
	t     testing.TB
	image string
	dir   string // where it is mounted
	cuts  int    // how often the power has failed
}

func newHost(t testing.TB, size int64) *host {
	t.Helper()
	base := t.TempDir()
	h := &host{t: t, image: filepath.Join(base, "disk0.img"), dir: filepath.Join(base, "host")}
	writeFile(t, h.image, nil)
	require.NoError(t, os.Truncate(h.image, size))
	require.NoError(t, os.Mkdir(h.dir, 0o755))
	run(t, "mkfs.ext4", "-q", h.image)
	h.mount()
	t.Cleanup(func() { _ = unix.Unmount(h.dir, unix.MNT_DETACH) })
	return h
}

// mount leaves it to snapfs when the journal is committed.
func (h *host) mount() {
	h.t.Helper()
	run(h.t, "mount", "-o", "loop,commit=3600", h.image, h.dir)
}

// newMount makes a store on the host's file system and serves it.
func (h *host) newMount(opts ...string) *mount {
	h.t.Helper()
	m := &mount{t: h.t, store: filepath.Join(h.dir, "store"), dir: filepath.Join(filepath.Dir(h.dir), "mnt"), opts: opts}
	require.NoError(h.t, os.Mkdir(m.dir, 0o755))
	h.t.Cleanup(m.cleanup)
	m.start()
	return m
}

// powerLoss ends the daemon, and of what the page cache had not written to the
// disk nothing is left. The daemon is stopped first, for the disk must not change
// while it is copied.
func (h *host) powerLoss(m *mount) {
	h.t.Helper()
	pid := m.Worker()
	require.NoError(h.t, unix.Kill(pid, unix.SIGSTOP))
	require.Eventually(h.t, func() bool { return daemon.Stopped(pid) }, patience, time.Millisecond)
	h.cuts++
	left := filepath.Join(filepath.Dir(h.image), fmt.Sprintf("disk%d.img", h.cuts))
	run(h.t, "cp", "--sparse=always", h.image, left)
	m.kill()
	run(h.t, "umount", h.dir)
	require.NoError(h.t, os.Remove(h.image))
	h.image = left
	h.mount()
}
