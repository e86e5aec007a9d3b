package bench

// A full host: many VMs with many snapshots each, in one store.

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/layer"
)

// touchEvery is of how many snapshots in a row one has something new in it.
const touchEvery = 10

// fleet is how much there is on the host.
type fleet struct {
	vms, snapshots int
}

// BenchmarkFleet makes 50 VMs with two disks and 1,000 snapshots each, one disk in one snapshot out of ten having been
// written to, and then serves the store with the daemon.
func BenchmarkFleet(b *testing.B) {
	f := fleet{50, 1000}
	if testing.Short() {
		f = fleet{10, 100}
	}
	repeat(b, 1, func(int) {
		dir := filepath.Join(b.TempDir(), "store")
		began := time.Now()
		f.create(b, dir)
		b.ReportMetric(time.Since(began).Seconds()*1e3/float64(f.vms*f.snapshots), "ms/snapshot")
		f.serve(b, dir)
	})
}

// create makes the store, all VMs at the same time.
func (f fleet) create(b *testing.B, dir string) {
	s, err := layer.Open(dir, layer.Options{})
	require.NoError(b, err)
	var wg sync.WaitGroup
	errs := make([]error, f.vms)
	for i := range f.vms {
		wg.Go(func() { errs[i] = f.createVM(s, i) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(b, err)
	}
	require.NoError(b, s.Close())
}

func (f fleet) createVM(s *layer.Store, i int) error {
	vm, err := s.CreateVM(fmt.Sprintf("vm%d", i), 0o755, 0, 0)
	if err != nil {
		return err
	}
	var disks []*layer.File
	for _, name := range []string{"root.img", "data.img"} {
		disk, _, err := vm.Create(name, 0o644, 0, 0, true)
		if err != nil {
			return err
		}
		size := int64(tib)
		if _, err := disk.SetAttr(layer.SetAttr{Size: &size}); err != nil {
			return err
		}
		disks = append(disks, disk)
	}
	block := make([]byte, blockSize)
	for n := range f.snapshots {
		if n%touchEvery == 0 {
			if _, err := disks[0].Write(block, int64(n)*blockSize, true); err != nil {
				return err
			}
		}
		if _, err := vm.CreateSnapshot(layer.CreateOptions{Name: fmt.Sprintf("s%d", n)}); err != nil {
			return err
		}
	}
	return nil
}

// serve mounts the store, reads every snapshot's root disk of some VMs, and reports what that takes.
func (f fleet) serve(b *testing.B, dir string) {
	files := countFiles(b, filepath.Join(dir, "layers"))
	require.Equal(b, f.vms*f.snapshots/touchEvery, files, "a data file for each layer that was written to, and no other")
	index := dirBytes(b, filepath.Join(dir, "index"))

	began := time.Now()
	m := newMount(b, dir)
	b.ReportMetric(time.Since(began).Seconds()*1e3, "mount-ms")
	b.ReportMetric(float64(m.counter("status", "VmRSS"))/1024, "mounted-RSS-MiB")
	require.GreaterOrEqual(b, m.status().Layers, 2*f.vms*f.snapshots)

	began = time.Now()
	_, err := os.ReadFile(m.path("vm0", ".snapshots", "list"))
	require.NoError(b, err)
	b.ReportMetric(time.Since(began).Seconds()*1e3, "list-ms")

	for i := range f.vms {
		f.readVM(b, m, i)
	}
	b.ReportMetric(float64(m.openLayers()), "open-files")
	b.ReportMetric(float64(files), "data-files")
	b.ReportMetric(float64(index)/mib, "index-MiB")
	b.ReportMetric(float64(m.counter("status", "VmRSS"))/1024, "read-RSS-MiB")
}

// readVM reads what was written to a VM's disk, each block of which is in another layer's file.
func (f fleet) readVM(t testing.TB, m *mount, i int) {
	t.Helper()
	disk, err := os.Open(m.path(fmt.Sprintf("vm%d", i), "root.img"))
	require.NoError(t, err)
	defer disk.Close()
	_, err = disk.ReadAt(make([]byte, f.snapshots*blockSize), 0)
	require.NoError(t, err)
}

// openLayers is how many data files the daemon has open.
func (m *mount) openLayers() (n int) {
	m.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", m.Worker())
	fds, err := os.ReadDir(dir)
	require.NoError(m.t, err)
	for _, fd := range fds {
		target, _ := os.Readlink(filepath.Join(dir, fd.Name())) // it may be closed by now
		if filepath.Dir(target) == filepath.Join(m.store, "layers") {
			n++
		}
	}
	return n
}

func dirBytes(t testing.TB, dir string) (sum int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		info, err := e.Info()
		require.NoError(t, err)
		sum += info.Size()
	}
	return sum
}
