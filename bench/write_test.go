package bench

// Writes: what a guest's database does, and what a guest does that waits for nothing.

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkSyncWrite writes 4 KiB at random places with an fdatasync after each, to a file on the host's file system and
// beside it to a disk in the mount: in place, and where a snapshot was just taken, so that nearly every block is a
// first write. qemu-storage-daemon does the same with a qcow2 and its internal snapshots.
func BenchmarkSyncWrite(b *testing.B) {
	c := compareWrites(b, "--rw=randwrite", "--fdatasync=1", "--iodepth=1")
	c.ratio(b, "inplace", "host")
	c.ratio(b, "inplace", "host-cached")
}

// BenchmarkRandomWrite writes 4 KiB at random places, 16 at a time, and syncs nothing.
func BenchmarkRandomWrite(b *testing.B) {
	c := compareWrites(b, "--rw=randwrite", "--iodepth=16")
	c.ratio(b, "inplace", "qcow2-inplace")
}

func compareWrites(b *testing.B, load ...string) comparison {
	size, rounds, each := int64(256*mib), 9, 400*time.Millisecond
	if testing.Short() {
		size, rounds, each = 32*mib, 3, 300*time.Millisecond
	}
	c, targets := make(comparison), writeTargets(b, size)
	repeat(b, rounds, func(i int) { c.round(b, i, targets, job{load, each}) })
	c.report(b)
	c.ratio(b, "fresh", "inplace")
	c.ratio(b, "fresh", "qcow2-fresh")
	return c
}

// writeTargets makes the files, all of them wholly written.
func writeTargets(t testing.TB, size int64) []target {
	t.Helper()
	m := newMount(t, filepath.Join(t.TempDir(), "store"))
	m.vm("inplace")
	m.vm("fresh")
	qcow2, deep := newRival(t, "qcow2", size), newRival(t, "qcow2", size)
	host := filepath.Join(t.TempDir(), "host")
	targets := []target{
		{name: "host", path: host},
		{name: "host-cached", path: host, cached: true},
		{name: "inplace", path: m.path("inplace", "disk"), server: m.Worker()},
		{name: "fresh", path: m.path("fresh", "disk"), server: m.Worker(), before: m.snapshots("fresh")},
		{name: "qcow2-inplace", path: qcow2.path, server: qcow2.cmd.Process.Pid},
		{name: "qcow2-fresh", path: deep.path, before: deep.snapshots()},
	}
	for _, at := range targets {
		d := newDisk(t, at.path, size)
		d.fill(0, size)
		require.NoError(t, d.Sync())
		d.release()
	}
	return targets
}

// snapshots returns what takes another snapshot each time.
func (m *mount) snapshots(vm string) func() {
	i := 0
	return func() {
		m.snapshot(vm, fmt.Sprintf("w%d", i))
		i++
	}
}

func (r *rival) snapshots() func() {
	i := 0
	return func() {
		r.snapshot(fmt.Sprintf("w%d", i))
		i++
	}
}
