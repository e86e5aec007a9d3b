package bench

// What the benchmarks are made of, in small: it has to measure something.

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// smallDisk is written and snapshotted, so that it has blocks in several layers.
func smallDisk(t *testing.T) (*mount, *disk) {
	t.Helper()
	m := newMount(t, filepath.Join(t.TempDir(), "store"))
	m.vm("vm")
	d := newDisk(t, m.path("vm", "disk"), workingSet)
	t.Cleanup(d.release) // before the mount goes
	d.fill(0, 2*mib)
	m.deepen("vm", d, 3, 10, 2*mib)
	d.warm(2 * mib)
	require.Equal(t, 4, m.layerFiles())
	return m, d
}

func TestCompares(t *testing.T) {
	m, d := smallDisk(t)
	r := newRival(t, "qcow2", mib)
	c := make(comparison)
	targets := []target{{name: "deep", path: d.Name(), server: m.Worker()}, {name: "qcow2", path: r.path, before: r.snapshots()}}
	for i := range 2 {
		c.round(t, i, targets, job{[]string{"--rw=randrw", "--iodepth=4", "--size=1m"}, 50 * time.Millisecond})
	}
	require.Len(t, c["deep"].iops, 2)
	require.Len(t, c["qcow2"].iops, 2)
	require.Positive(t, c["deep"].iops.median())
	require.Positive(t, c["deep"].cpu.median())
}

func TestMeasuresPauses(t *testing.T) {
	m, d := smallDisk(t)
	g := newGuest(t, d.Name(), 2)
	began := time.Now()
	m.snapshot("vm", "now")
	longest := g.longest(began, time.Now())
	require.Positive(t, longest)
	require.GreaterOrEqual(t, g.stop().quantile(1), longest)
}

func TestMeasuresDeletes(t *testing.T) {
	m, d := smallDisk(t)
	d.fill(0, 2*mib)
	require.NoError(t, d.Sync())
	var all deletions
	all.measure(m, "vm", "s0 s1 s2")
	require.Positive(t, all.returned.median())
	require.GreaterOrEqual(t, all.reclaimed.median(), all.returned.median())
	freed := all.freed.median() * mib / blockSize
	require.GreaterOrEqual(t, freed, 512.0) // the first layer's
	require.LessOrEqual(t, freed, 532.0)    // and up to 10 in each of the others
}
