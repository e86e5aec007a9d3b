package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/integration/guest"
)

// TestOthersOnSlowDisk has the disk beneath a store do next to nothing, while one
// VM has it read and write more than its queue holds. Another VM, whose data the
// host has in memory, does not notice: it reads far more often than the disk does
// anything.
func TestOthersOnSlowDisk(t *testing.T) {
	d := newSlowDisk(t, 1<<30)
	m := d.newMount()
	m.vm("busy")
	m.vm("quick")
	var busy []string
	for i := range 6 {
		busy = append(busy, m.disk("busy", fmt.Sprint("disk", i), 0))
		writeSynced(t, busy[i], 16<<20)
	}
	quick := m.disk("quick", "disk.img", 0)
	before := d.dataFiles()
	writeSynced(t, quick, 4<<20)
	for _, file := range d.dataFiles() {
		if slices.Contains(before, file) {
			forget(t, file)
		} else {
			keepInMemory(t, file)
		}
	}
	readSome(t, quick, 100) // what the index says of it is in memory, too

	beside := func(what string, load func(f *os.File, p []byte, off int64) error) {
		d.limit(1)
		did, stop := overload(t, busy, 256, load)
		awaitStandstill(t, did)
		const reads = 1000
		began, before := time.Now(), d.operations()
		readSome(t, quick, reads)
		meanwhile := d.operations() - before
		t.Logf("beside %s: %d reads in %v, the disk did %d operations", what, reads, time.Since(began), meanwhile)
		require.Less(t, meanwhile, reads/10, what)
		d.limit(0)
		stop()
	}
	beside("reads", func(f *os.File, p []byte, off int64) error { _, err := f.ReadAt(p, off); return err })
	d.throttleWriters()
	beside("writes", func(f *os.File, p []byte, off int64) error { _, err := f.WriteAt(p, off); return err })
}

// slowDisk is a host's file system on a disk that is as slow as one wants.
type slowDisk struct {
	host
	device string // its block device
	socket string
}

func newSlowDisk(t *testing.T, size int64) *slowDisk {
	t.Helper()
	base := t.TempDir()
	d := &slowDisk{host: host{t: t, image: filepath.Join(base, "disk.img"), dir: filepath.Join(base, "host")}, socket: filepath.Join(base, "qmp")}
	require.NoError(t, os.Mkdir(d.dir, 0o755))
	writeFile(t, d.image, nil)
	require.NoError(t, os.Truncate(d.image, size))
	run(t, "mkfs.ext4", "-q", d.image)
	d.device = exportDisk(t, filepath.Join(base, "device"), size,
		"--object", "throttle-group,id=slow",
		"--blockdev", "driver=file,node-name=disk,cache.no-flush=on,filename="+d.image,
		"--blockdev", "driver=throttle,node-name=exported,file=disk,throttle-group=slow",
		"--chardev", "socket,id=qmp,server=on,wait=off,path="+d.socket, "--monitor", "chardev=qmp")
	run(t, "mount", d.device, d.dir)
	t.Cleanup(func() { _ = unix.Unmount(d.dir, 0) })
	return d
}

func (d *slowDisk) newMount() *mount {
	m := d.host.newMount()
	d.t.Cleanup(func() { d.limit(0) }) // or unmounting takes for ever
	return m
}

// limit lets the disk do so many operations a second; 0: as many as it can.
func (d *slowDisk) limit(operations int) {
	_, err := guest.Command(d.socket, "qom-set", map[string]any{
		"path": "/objects/slow", "property": "limits", "value": map[string]any{"iops-total": operations},
	})
	require.NoError(d.t, err)
}

// throttleWriters has the kernel make writers wait for this disk as soon as a
// little is still to be written.
func (d *slowDisk) throttleWriters() {
	var st unix.Stat_t
	require.NoError(d.t, unix.Stat(d.device, &st))
	dir := fmt.Sprintf("/sys/class/bdi/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	set := func(name, value string) {
		require.NoError(d.t, os.WriteFile(filepath.Join(dir, name), []byte(value), 0))
	}
	d.t.Cleanup(func() { // it would be the next disk's that has this device
		set("strict_limit", "0")
		set("max_ratio", "100")
	})
	set("strict_limit", "1")
	set("max_bytes", fmt.Sprint(1<<20))
}

// statistics are the kernel's of the disk.
func (d *slowDisk) statistics(name string) string {
	d.t.Helper()
	return string(readFile(d.t, filepath.Join("/sys/class/block", filepath.Base(d.device), name)))
}

// operations is how many reads and writes the disk has done.
func (d *slowDisk) operations() int {
	d.t.Helper()
	f := strings.Fields(d.statistics("stat"))
	var reads, writes int
	_, err := fmt.Sscan(f[0]+" "+f[4], &reads, &writes)
	require.NoError(d.t, err)
	return reads + writes
}

func (d *slowDisk) dataFiles() []string {
	d.t.Helper()
	files, err := filepath.Glob(filepath.Join(d.dir, "store", "layers", "*"))
	require.NoError(d.t, err)
	return files
}

// overload has so many threads do something to blocks of files, all the time,
// until stop is called, and counts what they have done.
func overload(t *testing.T, files []string, threads int, do func(f *os.File, p []byte, off int64) error) (did *atomic.Int64, stop func()) {
	t.Helper()
	var over atomic.Bool
	var wg sync.WaitGroup
	did = new(atomic.Int64)
	errs := make([]error, threads)
	for i := range threads {
		f := open(t, files[i%len(files)], os.O_RDWR|unix.O_DIRECT)
		p := alignedBlock(t)
		wg.Go(func() {
			for !over.Load() && errs[i] == nil {
				errs[i] = do(f, p, rand.Int64N(4096)*int64(len(p)))
				did.Add(1)
			}
		})
	}
	return did, func() {
		over.Store(true)
		wg.Wait()
		for _, err := range errs {
			require.NoError(t, err)
		}
	}
}

// awaitStandstill waits until next to nothing happens any more.
func awaitStandstill(t *testing.T, did *atomic.Int64) {
	t.Helper()
	before := int64(-1000)
	require.Eventually(t, func() bool {
		now := did.Load()
		defer func() { before = now }()
		return now-before < 3
	}, patience, 100*time.Millisecond)
}

// alignedBlock is memory for a block that O_DIRECT takes.
func alignedBlock(t testing.TB) []byte {
	t.Helper()
	p, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Munmap(p)) })
	return p
}

// readSome reads so many blocks of a file of 4 MiB, here and there.
func readSome(t *testing.T, path string, times int) {
	t.Helper()
	f, p := open(t, path, os.O_RDONLY|unix.O_DIRECT), alignedBlock(t)
	for range times {
		_, err := f.ReadAt(p, rand.Int64N(1024)*int64(len(p)))
		require.NoError(t, err)
	}
	require.NoError(t, f.Close())
}

// writeSynced makes a file of so many bytes, on disk.
func writeSynced(t *testing.T, path string, size int) {
	t.Helper()
	f := open(t, path, os.O_RDWR)
	writeAt(t, f, pattern(1, size), 0)
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())
}

// forget has the host keep nothing of a file in memory.
func forget(t *testing.T, path string) {
	t.Helper()
	f := open(t, path, os.O_RDONLY)
	require.NoError(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	require.NoError(t, f.Close())
}

// keepInMemory has the host keep all of a file in memory.
func keepInMemory(t *testing.T, path string) {
	t.Helper()
	f := open(t, path, os.O_RDONLY)
	info, err := f.Stat()
	require.NoError(t, err)
	p, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	require.NoError(t, err)
	require.NoError(t, unix.Mlock(p))
	require.NoError(t, f.Close())
	t.Cleanup(func() { require.NoError(t, unix.Munmap(p)) })
}
