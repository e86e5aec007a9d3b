package bench

// Deleting: returns at once, whatever there is to give back, and copies nothing.

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkDelete deletes a snapshot all of whose data was written over since, little and much of it, and reports how
// long that takes, how long until all space is back, and what the daemon reads and writes meanwhile.
func BenchmarkDelete(b *testing.B) {
	rounds, sizes := 5, []int64{16 * mib, 512 * mib}
	if testing.Short() {
		rounds, sizes = 2, []int64{mib, 32 * mib}
	}
	m := newMount(b, filepath.Join(b.TempDir(), "store"))
	for _, size := range sizes {
		b.Run(fmt.Sprintf("%dMiB", size/mib), func(b *testing.B) {
			vm := fmt.Sprintf("%dMiB", size/mib)
			m.vm(vm)
			d := newDisk(b, m.path(vm, "disk"), size)
			var all deletions
			repeat(b, rounds, func(i int) {
				name := fmt.Sprintf("s%d", i)
				d.fill(0, size)
				m.snapshot(vm, name)
				d.fill(0, size)
				require.NoError(b, d.Sync())
				all.measure(m, vm, name)
			})
			d.release()
			all.report(b)
		})
	}
}

// BenchmarkDeleteRun deletes hundreds of snapshots at once, each with a few blocks of its own.
func BenchmarkDeleteRun(b *testing.B) {
	const size = 64 * mib
	rounds, depth := 1, 300
	if testing.Short() {
		rounds, depth = 1, 30
	}
	m := newMount(b, filepath.Join(b.TempDir(), "store"))
	m.vm("vm")
	d := newDisk(b, m.path("vm", "disk"), size)
	d.fill(0, size)
	var all deletions
	repeat(b, rounds, func(int) {
		m.deepen("vm", d, depth, 100, size)
		d.fill(0, size)
		require.NoError(b, d.Sync())
		var names []string
		for i := range depth {
			names = append(names, fmt.Sprintf("s%d", i))
		}
		all.measure(m, "vm", strings.Join(names, " "))
	})
	d.release()
	all.report(b)
}

// deletions are what came out, a value a round.
type deletions struct {
	returned, reclaimed series // ms
	freed               series // MiB
	read, written       series // KiB for each MiB that was freed
}

// measure deletes snapshots and waits until nothing is left of them.
func (x *deletions) measure(m *mount, vm, names string) {
	m.t.Helper()
	read, written := m.counter("io", "rchar"), m.counter("io", "write_bytes")
	bytes, began := m.status().LayerBytes, time.Now()
	x.returned = append(x.returned, m.command(vm, "delete", names).Seconds()*1e3)
	var st status
	await(m.t, "the space to be given back", func() bool {
		st = m.status()
		return st.RetiredLayers == 0 && st.ReclaimBytes == 0
	})
	x.reclaimed = append(x.reclaimed, time.Since(began).Seconds()*1e3)
	freed := float64(bytes-st.LayerBytes) / mib
	require.Positive(m.t, freed)
	x.freed = append(x.freed, freed)
	x.read = append(x.read, float64(m.counter("io", "rchar")-read)/1024/freed)
	x.written = append(x.written, float64(m.counter("io", "write_bytes")-written)/1024/freed)
}

func (x *deletions) report(b *testing.B) {
	b.ReportMetric(x.returned.median(), "return-ms")
	b.ReportMetric(x.reclaimed.median(), "reclaimed-ms")
	b.ReportMetric(x.freed.median(), "freed-MiB")
	b.ReportMetric(x.read.median(), "KiB-read/MiB")
	b.ReportMetric(x.written.median(), "KiB-written/MiB")
}
