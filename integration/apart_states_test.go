package integration

// States of a VM that take more to bring about: an export, a memory image, an agent that never ends; and, on a disk of
// their own, a layer that failed and a store without room.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/integration/daemon"
	"github.com/snapfs/snapfs/integration/guest"
)

// over has something done again and again. What it returns waits for the last time, and says how long the quickest took.
func over(t *testing.T, do func() error) (leave func() time.Duration) {
	t.Helper()
	var ending atomic.Bool
	var all sync.WaitGroup
	var took []time.Duration
	var failed error
	once := make(chan struct{})
	all.Go(func() {
		for begin := sync.OnceFunc(func() { close(once) }); !ending.Load() && failed == nil; {
			begin()
			began := time.Now()
			failed = do()
			took = append(took, time.Since(began))
		}
	})
	<-once
	return func() time.Duration {
		ending.Store(true)
		all.Wait()
		require.NoError(t, failed)
		return slices.Min(took)
	}
}

// exported has a snapshot of 256 MiB become an image.
func exported(t *testing.T, vm string) (leave func() time.Duration) {
	disk := filepath.Join(vm, "disk")
	for _, s := range list(t, vm) {
		mustCommand(t, vm, "delete", s.Name)
	}
	writeSynced(t, disk, 256<<20)
	mustCommand(t, vm, "create", "whole")
	image := filepath.Join(t.TempDir(), "image.qcow2")
	return over(t, func() error {
		if out, err := exec.Command(daemon.Binary, "export", "--force", disk+"@whole", image).CombinedOutput(); err != nil {
			return fmt.Errorf("export: %w: %s", err, out)
		}
		return nil
	})
}

// memorySaved has snapshots made of a machine with its memory, which is mostly noise, and packed. It boots once.
func memorySaved() func(t *testing.T, vm string) (leave func() time.Duration) {
	var g *guest.Guest
	return func(t *testing.T, vm string) func() time.Duration {
		if g == nil {
			g = startGuest(t, t.TempDir(), "saved", filepath.Join(vm, "disk"))
			inGuest(t, g, "head -c 80000000 /dev/urandom >/tmp/noise")
			mustCommand(t, vm, "policy", fmt.Sprintf(`{"quiesce": {"qmp": %q}}`, g.MonitorPath()))
		}
		return over(t, func() error {
			if err := tell(vm, "create", "ram memory=true"); err != nil {
				return err
			}
			return tell(vm, "delete", "ram")
		})
	}
}

// endlessAnswer has snapshots wait for an agent whose answer never ends, endlessLines for one that never comes to it.
func endlessAnswer(t *testing.T, vm string) (leave func() time.Duration) {
	return flooded(t, vm, bytes.Repeat([]byte("garbage"), 10000))
}

func endlessLines(t *testing.T, vm string) (leave func() time.Duration) {
	return flooded(t, vm, bytes.Repeat([]byte("\xff{\"return\": 17}\n"), 10000))
}

func flooded(t *testing.T, vm string, flood []byte) (leave func() time.Duration) {
	agent := newFloodingAgent(t, flood)
	mustCommand(t, vm, "policy", fmt.Sprintf(`{"quiesce": {"mode": "agent", "agent": %q}}`, agent.path))
	await := commands(vm, "create", 1, func(i int) string { return fmt.Sprint("never", i) })
	require.Eventually(t, agent.told.Load, patience, time.Millisecond)
	return func() time.Duration {
		agent.end()
		return await()
	}
}

// hungScript has a snapshot wait for a script on a file system that hangs, so that the kernel can't even start it.
func hungScript(t *testing.T, vm string) (leave func() time.Duration) {
	dir, hang, goOn := newHangingDir(t)
	script := filepath.Join(dir, "script")
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\nexit 1\n"), 0o755))
	require.NoError(t, os.Chmod(script, 0o755))
	mustCommand(t, vm, "policy", fmt.Sprintf(`{"quiesce": {"pre": [%q]}}`, script))
	hang()
	await := commands(vm, "create", 1, func(int) string { return "never" })
	awaitChild(t, filepath.Dir(vm))
	collectGarbage(t, filepath.Dir(vm))
	return func() time.Duration {
		goOn()
		return await()
	}
}

// hungAgent has a snapshot look for its agent on such a file system, for no longer than the policy allows.
func hungAgent(t *testing.T, vm string) (leave func() time.Duration) {
	dir, hang, goOn := newHangingDir(t)
	mustCommand(t, vm, "policy", fmt.Sprintf(`{"quiesce": {"mode": "agent", "agent": %q, "timeout": "1s"}}`, filepath.Join(dir, "agent")))
	hang()
	await := commands(vm, "create", 1, func(int) string { return "never" })
	return func() time.Duration {
		defer goOn()
		return await()
	}
}

// newHangingDir makes a directory on a file system that hangs when it is told to: another mount, all processes of which
// are stopped.
func newHangingDir(t *testing.T) (dir string, hang, goOn func()) {
	t.Helper()
	other := newMount(t)
	pids := []int{other.Cmd.Process.Pid, other.Worker()}
	signalAll := func(sig syscall.Signal) {
		for _, pid := range pids {
			_ = unix.Kill(pid, sig)
		}
	}
	goOn = sync.OnceFunc(func() { signalAll(unix.SIGCONT) })
	t.Cleanup(goOn)
	return other.vm("scripts"), func() {
		signalAll(unix.SIGSTOP)
		for _, pid := range pids {
			require.Eventually(t, func() bool { return daemon.Stopped(pid) }, patience, time.Millisecond)
		}
	}, goOn
}

// awaitChild waits until a mount's worker has started a program, or has begun to.
func awaitChild(t *testing.T, mountpoint string) {
	t.Helper()
	var status struct {
		WorkerPID int `json:"worker_pid"`
	}
	require.NoError(t, json.Unmarshal(readFile(t, filepath.Join(mountpoint, ".snapshots", "status")), &status))
	require.Eventually(t, func() bool {
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", status.WorkerPID))
		return slices.ContainsFunc(lists, func(list string) bool {
			children, _ := os.ReadFile(list)
			return len(children) > 0
		})
	}, patience, time.Millisecond)
}

// collectGarbage has a mount's worker do so: all of its threads have to stop for that.
func collectGarbage(t *testing.T, mountpoint string) {
	t.Helper()
	var done atomic.Bool
	long := bytes.Repeat([]byte("nothing "), 8000)
	go func() {
		for range 2000 {
			_ = os.WriteFile(filepath.Join(mountpoint, "steady", ".snapshots", "delete"), long, 0)
		}
		done.Store(true)
	}()
	require.Eventually(t, done.Load, patience, time.Millisecond)
}

// TestVMsApartOnFailingDisk is TestVMsApart with what a disk can do to one VM: it has no room for what that writes, or
// can't write where its data is.
func TestVMsApartOnFailingDisk(t *testing.T) {
	d := newFailingDisk(t, 400<<20)
	m := d.newMount()
	besideEach(t, m, []state{
		{"full", func(t *testing.T, vm string) func() time.Duration { return withoutRoom(t, d, m, vm) }},
		{"failed", func(t *testing.T, vm string) func() time.Duration { return neverSynced(t, d, m, vm) }},
	})
	for _, file := range []string{m.path("steady", "disk"), m.path("full", "disk")} { // or they may get the places that the other one gives back
		writeSynced(t, file, 0)
	}
	mustSnapfs(t, "destroy", m.path("failed"), "--yes") // no flush of it would succeed at the end
}

// TestUmountAfterAFailedFlush sees that a mount ends, and says why it did not end well, where no worker could write what a
// guest wrote: the next one would fare the same.
func TestUmountAfterAFailedFlush(t *testing.T) {
	d := newFailingDisk(t, 400<<20)
	m := d.newMount()
	m.vm("failed")
	end := neverSynced(t, d, m, m.path("failed"))
	end()
	failSnapfs(t, "its store was not closed in order", "umount", m.dir)
	<-m.Exited
	require.False(t, m.Cmd.ProcessState.Success())
	log := m.Stderr.String()
	require.Contains(t, log, "with an error: ")
	require.NotContains(t, log, "starting another")
	m.Daemon = nil
}

// withoutRoom has writes go on and on that need more than the store has.
func withoutRoom(t *testing.T, d *failingDisk, m *mount, vm string) (leave func() time.Duration) {
	d.leave(m, 0)
	var next atomic.Int64
	next.Store(1 << 20)
	end := allRefused(t, filepath.Join(vm, "disk"), unix.ENOSPC, func(f *os.File) error {
		_, err := f.WriteAt(pattern(1, 4096), next.Add(1)*4096)
		return err
	})
	return func() time.Duration {
		defer func() { require.NoError(t, os.Remove(d.others())) }()
		return end()
	}
}

// neverSynced has a file flushed on and on that the disk can't write.
func neverSynced(t *testing.T, d *failingDisk, m *mount, vm string) (leave func() time.Duration) {
	dataFiles := func() []string { return names(t, filepath.Join(m.store, "layers")) }
	before := dataFiles()
	file := m.disk("failed", fmt.Sprint("disk", len(before)), 0)
	writeSynced(t, file, 1<<20)
	for _, name := range dataFiles() {
		if !slices.Contains(before, name) {
			d.failAt(filepath.Join(m.store, "layers", name))
		}
	}
	return allRefused(t, file, unix.EIO, func(f *os.File) error {
		if _, err := f.WriteAt(pattern(2, 4096), 0); err != nil {
			return fmt.Errorf("a write fails, not a flush: %v", err)
		}
		return f.Sync()
	})
}

// allRefused has two threads do something to a file again and again, which is an error each time.
func allRefused(t *testing.T, path string, want syscall.Errno, do func(f *os.File) error) (leave func() time.Duration) {
	f := open(t, path, os.O_RDWR)
	refused := func() error {
		if err := do(f); !errors.Is(err, want) {
			return fmt.Errorf("%v instead of %v", err, want)
		}
		return nil
	}
	require.Eventually(t, func() bool { return refused() == nil }, patience, time.Millisecond)
	first, second := over(t, refused), over(t, refused)
	return func() time.Duration {
		first()
		second()
		require.NoError(t, f.Close())
		return 0
	}
}

// failingDisk is a host's disk that can't write where one does not want it to.
type failingDisk struct {
	host
	beneath string // where its image is: a file system without room for blocks that the image does not have
}

func newFailingDisk(t *testing.T, size int64) *failingDisk {
	t.Helper()
	base := t.TempDir()
	d := &failingDisk{beneath: filepath.Join(base, "beneath")}
	d.host = host{t: t, image: filepath.Join(d.beneath, "disk.img"), dir: filepath.Join(base, "host")}
	for _, dir := range []string{d.beneath, d.dir} {
		require.NoError(t, os.Mkdir(dir, 0o755))
	}
	run(t, "mount", "-t", "tmpfs", "-o", fmt.Sprint("size=", size+16<<20), "tmpfs", d.beneath)
	t.Cleanup(func() { _ = unix.Unmount(d.beneath, unix.MNT_DETACH) })
	writeFile(t, d.image, nil)
	require.NoError(t, os.Truncate(d.image, size))
	run(t, "mkfs.ext4", "-q", "-b", "4096", d.image)
	run(t, "fallocate", "-l", fmt.Sprint(size), d.image)
	d.mount()
	t.Cleanup(func() { _ = unix.Unmount(d.dir, unix.MNT_DETACH) })
	return d
}

// failAt has the disk fail where a file has its data from now on.
func (d *failingDisk) failAt(path string) {
	d.t.Helper()
	file, image := open(d.t, path, os.O_RDWR), open(d.t, d.image, os.O_RDWR)
	info, err := file.Stat()
	require.NoError(d.t, err)
	for i := range int32(info.Size() / 4096) {
		block := i
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), ioctlFIBMAP, uintptr(unsafe.Pointer(&block)))
		require.Zero(d.t, errno)
		require.NotZero(d.t, block, "a hole")
		require.NoError(d.t, unix.Fallocate(int(image.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(block)*4096, 4096))
	}
	require.NoError(d.t, file.Close())
	require.NoError(d.t, image.Close())
	fillUp(d.t, filepath.Join(d.beneath, "others"))
}

// ioctlFIBMAP asks a file system for the place of a file's block on the disk: linux/fs.h.
const ioctlFIBMAP = 1
