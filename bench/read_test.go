package bench

// Random reads through the mount: must cost at depth 300 what they cost at depth 0.

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// deepen takes so many snapshots, with random blocks of the first size bytes written before each of them.
func (m *mount) deepen(vm string, d *disk, depth, blocks int, size int64) {
	m.t.Helper()
	for i := range depth {
		d.scatter(blocks, size)
		m.snapshot(vm, fmt.Sprintf("s%d", i))
	}
	d.scatter(blocks, size)
}

// BenchmarkRandomRead reads 4 KiB at random places, from the page cache: of a disk spread over many layers, of a copy
// of it in one layer, and of the same copy exported by qemu-storage-daemon from a raw file and from a qcow2.
func BenchmarkRandomRead(b *testing.B) {
	size, depth, rounds, each := int64(256*mib), 300, 11, time.Second
	if testing.Short() {
		size, depth, rounds, each = 32*mib, 50, 3, 300*time.Millisecond
	}
	targets := readTargets(b, size, depth)
	for _, queue := range []int{1, 16} {
		b.Run(fmt.Sprintf("queue=%d", queue), func(b *testing.B) {
			c, j := make(comparison), job{[]string{"--rw=randread", fmt.Sprintf("--iodepth=%d", queue)}, each}
			repeat(b, rounds, func(i int) { c.round(b, i, targets, j) })
			c.report(b, "deep", "flat")
		})
	}
}

// readTargets makes the files and reads each of them once.
func readTargets(t testing.TB, size int64, depth int) []target {
	t.Helper()
	m := newMount(t, filepath.Join(t.TempDir(), "store"))
	m.vm("deep")
	m.vm("flat")
	deep := newDisk(t, m.path("deep", "disk"), size)
	deep.fill(0, size)
	m.deepen("deep", deep, depth, int(size/blockSize)/depth, size)
	flat := newDisk(t, m.path("flat", "disk"), size)
	deep.copyTo(flat, size)
	targets := []target{
		{name: "deep", path: deep.Name(), server: m.cmd},
		{name: "flat", path: flat.Name(), server: m.cmd},
	}
	for _, format := range []string{"raw", "qcow2"} {
		rival := newRival(t, format, size)
		d := newDisk(t, rival.path, size)
		deep.copyTo(d, size)
		d.warm(size)
		d.release()
		targets = append(targets, target{name: "qemu-" + format, path: rival.path, server: rival.cmd})
	}
	for _, d := range []*disk{deep, flat} {
		d.warm(size)
		d.release() // before the mount goes
	}
	return targets
}
