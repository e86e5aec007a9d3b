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

// BenchmarkRandomRead reads 4 KiB at random places, from the page cache. It compares a disk spread over many layers with
// a flat one that was written block by block as well, in one layer. Beside them: the same in one piece, which the
// kernel keeps in large folios, and that exported by qemu-storage-daemon from a raw file and from a qcow2.
func BenchmarkRandomRead(b *testing.B) {
	size, depth, rounds, each := int64(256*mib), 300, 15, 400*time.Millisecond
	if testing.Short() {
		size, depth, rounds, each = 32*mib, 50, 3, 300*time.Millisecond
	}
	targets := readTargets(b, size, depth)
	for _, queue := range []int{1, 16} {
		b.Run(fmt.Sprintf("queue=%d", queue), func(b *testing.B) {
			c, j := make(comparison), job{[]string{"--rw=randread", fmt.Sprintf("--iodepth=%d", queue)}, each}
			repeat(b, rounds, func(i int) { c.round(b, i, targets, j) })
			c.report(b)
			c.ratio(b, "deep", "flat")
			c.ratio(b, "deep", "qemu-qcow2")
		})
	}
}

// readTargets makes the files and reads each of them once.
func readTargets(t testing.TB, size int64, depth int) []target {
	t.Helper()
	m := newMount(t, filepath.Join(t.TempDir(), "store"))
	m.vm("vm")
	d := newDisk(t, m.path("vm", "deep"), size)
	d.fillRandomly(size)
	m.deepen("vm", d, depth, int(size/blockSize)/depth, size)
	d.warm(size)
	d.release()
	targets := []target{{name: "deep", path: d.Name(), server: m.Worker()}}

	m.vm("flat") // has no snapshots
	d = newDisk(t, m.path("flat", "flat"), size)
	d.fillRandomly(size)
	d.warm(size)
	d.release()
	targets = append(targets, target{name: "flat", path: d.Name(), server: m.Worker()})

	add := func(name, path string, server int) {
		d := newDisk(t, path, size)
		d.fill(0, size)
		d.warm(size)
		d.release()
		targets = append(targets, target{name: name, path: path, server: server})
	}
	add("large", m.path("flat", "large"), m.Worker())
	for _, format := range []string{"raw", "qcow2"} {
		r := newRival(t, format, size)
		add("qemu-"+format, r.path, r.cmd.Process.Pid)
	}
	return targets
}
