package integration

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

var (
	fleetSize    = flag.Int("fleet", 20, "how many VMs TestFleetOfVMs makes, and how many snapshots of one VM TestFleetOfSnapshots")
	fleetRecords = flag.Int("records", 20_000, "how many records TestBusyIndex has the index hold")
)

// What a fleet of fleetLimited or more may take.
const (
	fleetLimited = 1000
	fleetMount   = 2 * time.Second
	fleetMemory  = 300 << 20 // bytes, of worker and supervisor
)

// TestFleetOfVMs serves a store of many VMs, each with a disk and three snapshots that
// differ.
func TestFleetOfVMs(t *testing.T) {
	m := newMount(t)
	var g errgroup.Group
	g.SetLimit(8)
	for i := range *fleetSize {
		g.Go(func() error { return makeFleetVM(m, fmt.Sprint("vm", i), 3) })
	}
	require.NoError(t, g.Wait())
	measureFleet(t, m, *fleetSize)
	require.Len(t, names(t, m.dir), *fleetSize)
	last := fmt.Sprint("vm", *fleetSize-1)
	require.Equal(t, []string{"s0", "s1", "s2"}, snapshotNames(t, m.path(last)))
	requireContent(t, append(fleetBlock(0), make([]byte, fleetDisk-modelBlock)...), snapshotPath(m.path(last), "s0", "disk.img"))
}

// TestFleetOfSnapshots serves a store of one VM with many snapshots, each of which has
// something of its own.
func TestFleetOfSnapshots(t *testing.T) {
	m := newMount(t)
	require.NoError(t, makeFleetVM(m, "vm", *fleetSize))
	measureFleet(t, m, *fleetSize)
	last := *fleetSize - 1
	require.Len(t, list(t, m.path("vm")), *fleetSize)
	head := open(t, m.path("vm", "disk.img"), os.O_RDONLY)
	for _, n := range []int{0, last / 2, last} {
		got := make([]byte, modelBlock)
		_, err := head.ReadAt(got, int64(n)*modelBlock)
		require.NoError(t, err)
		require.Equal(t, fleetBlock(n), got)
	}
	require.NoError(t, head.Close())
}

// TestBusyIndex serves a store whose index has many records: one for each region of
// four large disks. What these hold is in memory, for it is the index that counts.
func TestBusyIndex(t *testing.T) {
	base := t.TempDir()
	m := &mount{t: t, store: filepath.Join(base, "store"), dir: filepath.Join(base, "mnt")}
	require.NoError(t, os.Mkdir(m.dir, 0o755))
	m.start()
	m.stop()
	layers := filepath.Join(m.store, "layers")
	require.NoError(t, unix.Mount("tmpfs", layers, "tmpfs", 0, "mode=0700"))
	t.Cleanup(func() { _ = unix.Unmount(layers, unix.MNT_DETACH) })
	t.Cleanup(m.cleanup)
	m.start()
	m.vm("vm")
	each := *fleetRecords / soakDisks
	args := []string{"--direct=1", "--ioengine=libaio", "--iodepth=32", "--bs=4k", fmt.Sprint("--rw=write:", 4<<20-4096),
		fmt.Sprint("--io_size=", each*4096), "--allow_file_create=0"}
	for d := range soakDisks {
		args = append(args, "--name=disk", "--filename="+m.disk("vm", soakDisk(d), int64(each)*4<<20))
	}
	run(t, "fio", args...)
	measureFleet(t, m, 0)
	for d := range soakDisks {
		require.EqualValues(t, each*4096, allocated(t, m.path("vm", soakDisk(d))))
	}
}

const fleetDisk = 64 << 20 // bytes

// makeFleetVM makes a VM with so many snapshots, before each of which another block is
// written.
func makeFleetVM(m *mount, name string, snapshots int) error {
	if err := os.Mkdir(m.path(name), 0o755); err != nil {
		return err
	}
	disk, err := os.OpenFile(m.path(name, "disk.img"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer disk.Close()
	if err := disk.Truncate(fleetDisk); err != nil {
		return err
	}
	for n := range snapshots {
		if _, err := disk.WriteAt(fleetBlock(n), int64(n)*modelBlock); err != nil {
			return err
		}
		if err := tell(m.path(name), "create", fmt.Sprint("s", n)); err != nil {
			return err
		}
	}
	return nil
}

// fleetBlock is what is written before a snapshot.
func fleetBlock(n int) []byte { return []byte(strings.Repeat(fmt.Sprintf("%15d\n", n), modelBlock/16)) }

// measureFleet opens the store anew, and tells what serving it takes. For many there is
// a limit.
func measureFleet(t *testing.T, m *mount, size int) {
	t.Helper()
	took := map[string]time.Duration{}
	timed := func(what string, do func()) {
		t.Helper()
		began := time.Now()
		do()
		took[what] = time.Since(began)
	}
	timed("umount", m.stop)
	timed("mount", m.start)
	mounted := servedBy(m)
	timed("status", func() { mustSnapfs(t, "status", m.dir) })
	timed("list", func() { mustSnapfs(t, "list", m.dir) })
	asked := servedBy(m)
	timed("take-over", func() {
		pid, err := m.answering()
		require.NoError(t, err)
		require.NoError(t, unix.Kill(pid, unix.SIGKILL))
		_, err = m.answeringAfter(pid)
		require.NoError(t, err)
	})
	takenOver := servedBy(m)
	out := run(t, "du", "-sm", "--apparent-size", filepath.Join(m.store, "index"))
	t.Logf("%v; mounted: %v, after status and list: %v, after a take-over: %v; index: %s MiB",
		took, mounted, asked, takenOver, strings.Fields(out)[0])
	if size < fleetLimited {
		return
	}
	require.Less(t, took["mount"], fleetMount)
	for _, f := range []footprint{mounted, asked, takenOver} {
		require.Less(t, f.anon+f.shared, int64(fleetMemory), "%v", f)
	}
}

// servedBy is what worker and supervisor take together, but for what they share.
func servedBy(m *mount) footprint {
	worker, supervisor := take(m.Worker()), take(m.Cmd.Process.Pid)
	return footprint{worker.anon + supervisor.anon, max(worker.shared, supervisor.shared), worker.files + supervisor.files, worker.mapped + supervisor.mapped}
}
