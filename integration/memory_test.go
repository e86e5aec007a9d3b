package integration

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/snapfs/snapfs/integration/daemon"
	"github.com/snapfs/snapfs/integration/guest"
	"github.com/stretchr/testify/require"
)

// TestMemory saves a guest with its memory while it writes and syncs, kills it,
// reverts, and starts QEMU from the memory: the guest's counter, which is in its
// memory, goes on from where it was, and the disk agrees with it. That again
// when the image is packed.
func TestMemory(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	vm := m.vm("busy")
	disk := m.disk("busy", "disk.img", 128<<20)
	w := startWriter(t, disk)
	w.goesOn()
	const bootID = "cat /proc/sys/kernel/random/boot_id"
	boot := inGuest(t, w.Guest, bootID)
	mustSnapfs(t, "policy", vm, "set", "quiesce.qmp="+w.MonitorPath())
	before := w.synced()
	made := mustCommand(t, vm, "create", "ram memory=true")
	w.goesOn() // it runs on
	require.Nil(t, made.Snapshot.Warning)
	require.Equal(t, "crash", made.Snapshot.Consistency)
	require.True(t, *made.Snapshot.Running)
	require.Greater(t, *made.Snapshot.Memory, int64(10<<20))
	require.Positive(t, made.PausedMS)
	requireLog(t, vm, "guest-held vm=busy snapshot=ram mode=memory ms=")
	about := string(readFile(t, snapshotPath(vm, "ram", "snapshot.json")))
	for _, part := range []string{`"status":"running"`, `"cpu-index":0`, disk, `"qemu":`, "268435456"} {
		require.Contains(t, strings.ReplaceAll(about, ": ", ":"), part)
	}
	inGuest(t, w.Guest, "echo later >/mnt/later; echo later >/tmp/later; sync")

	for range 2 {
		w.Kill()
		reply := mustCommand(t, vm, "revert", "ram")
		require.True(t, *reply.Running)
		w.Guest = restoreGuest(t, disk, *reply.Incoming)
		require.Equal(t, boot, inGuest(t, w.Guest, bootID), "it has not booted")
		inGuest(t, w.Guest, "test ! -e /mnt/later && test ! -e /tmp/later")
		require.GreaterOrEqual(t, w.synced(), before)
		w.goesOn()
		mustCommand(t, vm, "create", "restored")
		least := w.goesOn()
		require.GreaterOrEqual(t, countSound(t, snapshotPath(vm, "restored", "disk.img")), before)
		mustCommand(t, vm, "delete", "restored")

		requirePacked(t, m)
		inGuest(t, w.Guest, "sync")
		w.Kill()
		require.GreaterOrEqual(t, countSound(t, disk), least)
		m.remount()
	}
	requireDamagedMemory(t, m, vm)
	mustCommand(t, vm, "delete", "ram")
	require.Eventually(t, func() bool { return len(names(t, filepath.Join(m.store, "memory"))) == 0 }, patience, 10*time.Millisecond)
}

// requireDamagedMemory flips a byte of the only memory image: a scrub names the snapshot, and from then on, also in the next
// daemon, a revert does not offer to start the machine from it. Cut off, a revert sees that by itself.
func requireDamagedMemory(t *testing.T, m *mount, vm string) {
	t.Helper()
	path := filepath.Join(m.store, "memory", names(t, filepath.Join(m.store, "memory"))[0])
	packed := readFile(t, path)
	mustSnapfs(t, "scrub", m.dir)
	packed[len(packed)/2] ^= 1
	require.NoError(t, os.WriteFile(path, packed, 0))
	r := snapfs(t, "scrub", m.dir)
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stdout, "busy@ram: the machine's memory, memory/"+filepath.Base(path)+", is damaged in bytes ")
	m.remount()
	refused := func(why string) {
		t.Helper()
		reply := mustCommand(t, vm, "revert", "ram")
		require.Nil(t, reply.Incoming)
		require.Contains(t, *reply.Warning, why)
		require.Contains(t, mustSnapfs(t, "revert", vm, "ram"), "start it anew, and not from its memory")
	}
	refused("a scrub found it damaged")
	packed[len(packed)/2] ^= 1
	require.NoError(t, os.WriteFile(path, packed, 0))
	require.Contains(t, mustSnapfs(t, "scrub", m.dir), "1 memory image")
	require.NotNil(t, mustCommand(t, vm, "revert", "ram").Incoming)
	require.NoError(t, os.Truncate(path, int64(len(packed)-1)))
	refused("damaged or cut off")
}

// restoreGuest starts a guest from what -incoming is to be given in a shell.
func restoreGuest(t *testing.T, disk, incoming string) *guest.Guest {
	t.Helper()
	argument := run(t, "sh", "-c", "printf %s "+incoming)
	g, err := guest.Start(t.Context(), guest.Config{Name: "busy", Dir: t.TempDir(), Disks: []string{disk}, Incoming: argument})
	require.NoError(t, err)
	t.Cleanup(g.Kill)
	return g
}

// requirePacked waits until all memory images of a store are packed.
func requirePacked(t *testing.T, m *mount) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, name := range names(t, filepath.Join(m.store, "memory")) {
			if filepath.Ext(name) != ".zst" {
				return false
			}
		}
		return true
	}, patience, 10*time.Millisecond)
}

// monitorProxy stands between the daemon and a monitor: it does something before
// a command passes, once, and may change what the monitor answers.
type monitorProxy struct {
	path  string
	close func()

	mu       sync.Mutex
	command  string
	before   func()
	old, new string // in answers; old empty: nothing
}

func newMonitorProxy(t *testing.T, monitor string) *monitorProxy {
	dir, err := os.MkdirTemp("", "proxy") // a socket's path has to be short
	require.NoError(t, err)
	p := &monitorProxy{path: filepath.Join(dir, "qmp")}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.path, Net: "unix"})
	require.NoError(t, err)
	p.close = sync.OnceFunc(func() { require.NoError(t, l.Close()) })
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			p.serve(conn, monitor) // one at a time, as QEMU does
		}
	})
	t.Cleanup(func() {
		p.close()
		serving.Wait()
		require.NoError(t, os.RemoveAll(dir))
	})
	return p
}

// once has something done before a command passes.
func (p *monitorProxy) once(command string, before func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.command, p.before = command, before
}

// changes has some text of answers replaced.
func (p *monitorProxy) changes(old, new string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.old, p.new = old, new
}

func (p *monitorProxy) changed(text []byte) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.old == "" {
		return text
	}
	return bytes.ReplaceAll(text, []byte(p.old), []byte(p.new))
}

func (p *monitorProxy) serve(daemon *net.UnixConn, monitor string) {
	defer daemon.Close()
	qemu, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: monitor, Net: "unix"})
	if err != nil {
		return
	}
	defer qemu.Close()
	go func() {
		defer daemon.Close()
		b := make([]byte, 1<<16)
		for {
			n, err := qemu.Read(b)
			if err != nil {
				return
			}
			if _, err := daemon.Write(p.changed(b[:n])); err != nil {
				return
			}
		}
	}()
	b, rights := make([]byte, 1<<16), make([]byte, 1<<10)
	for {
		n, r, _, _, err := daemon.ReadMsgUnix(b, rights)
		if err != nil || n == 0 {
			return
		}
		p.mu.Lock()
		before := p.before
		if before != nil && bytes.Contains(b[:n], []byte(`"`+p.command+`"`)) {
			p.before = nil
		} else {
			before = nil
		}
		p.mu.Unlock()
		if before != nil {
			before()
		}
		_, _, err = qemu.WriteMsgUnix(b[:n], rights[:r], nil)
		if descriptors, parseErr := syscall.ParseSocketControlMessage(rights[:r]); parseErr == nil {
			for _, d := range descriptors {
				for _, fd := range must(syscall.ParseUnixRights(&d)) {
					_ = syscall.Close(fd)
				}
			}
		}
		if err != nil {
			return
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// secondMonitor is for the test, while the daemon has the first.
func secondMonitor(t *testing.T) (path string, args []string) {
	dir, err := os.MkdirTemp("", "second")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	path = filepath.Join(dir, "qmp")
	return path, []string{"-qmp", "unix:" + path + ",server=on,wait=off"}
}

// requireNoMemory: no snapshot, no image, and nobody who is held.
func requireNoMemory(t *testing.T, m *mount, vm string) {
	t.Helper()
	require.Empty(t, list(t, vm))
	for _, dir := range []string{"memory", "frozen"} {
		require.Eventually(t, func() bool {
			entries, err := os.ReadDir(filepath.Join(m.store, dir))
			return err != nil || len(entries) == 0
		}, patience, 10*time.Millisecond, dir)
	}
}

// TestMemoryGivenUp ends a memory snapshot halfway, in all the ways there are:
// there is no snapshot, nothing is left, and the guest runs on.
func TestMemoryGivenUp(t *testing.T) {
	t.Parallel()
	h := newHost(t, 1<<30)
	m := h.newMount()
	vm := m.vm("busy")
	second, args := secondMonitor(t)
	link := filepath.Join(t.TempDir(), "link.img") // leads to the VM's disk
	require.NoError(t, os.Symlink(m.disk("busy", "disk.img", 64<<20), link))
	g, err := guest.Start(t.Context(), guest.Config{Name: "busy", Dir: t.TempDir(), Disks: []string{link}, Args: args})
	require.NoError(t, err)
	t.Cleanup(g.Kill)
	inGuest(t, g, "mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && head -c 80000000 /dev/urandom >/tmp/noise")
	goesOn := func() {
		t.Helper()
		requireNoMemory(t, m, vm)
		inGuest(t, g, "echo on >>/mnt/on; sync")
	}

	failSnapfs(t, "memory needs quiesce.qmp in the policy", "create", vm, "one", "--memory")
	mustSnapfs(t, "policy", vm, "set", "quiesce.qmp=libvirt:busy")
	failSnapfs(t, "libvirt:busy hands no descriptors on", "create", vm, "one", "--memory")
	goesOn()

	p := newMonitorProxy(t, g.MonitorPath())
	mustSnapfs(t, "policy", vm, "set", "quiesce.qmp="+p.path)
	p.once("query-migrate", func() { _, _ = g.MonitorAt(second, "migrate_cancel", nil) })
	failCommand(t, syscall.EIO, vm, "create", "one memory=true")
	goesOn()

	// The whole memory does not fit above the reserve.
	full := filepath.Join(h.dir, "full")
	run(t, "fallocate", "-l", "560MiB", full)
	failCommand(t, syscall.ENOSPC, vm, "create", "one memory=true")
	goesOn()
	// It was taken for less than it is, and outgrows what is there.
	p.changes(`"base-memory": 268435456`, `"base-memory": 1048576`)
	failCommand(t, syscall.ENOSPC, vm, "create", "one memory=true")
	goesOn()
	log := string(readFile(t, filepath.Join(vm, ".snapshots", "log")))
	require.Equal(t, 2, strings.Count(log, "no room for the machine's memory"))
	p.changes("", "")
	require.NoError(t, os.Remove(full))
	state, err := g.Monitor("query-status", nil)
	require.NoError(t, err)
	require.Contains(t, string(state), `"running": true`)
	mustCommand(t, vm, "create", "two memory=true")
	mustCommand(t, vm, "delete", "two")

	p.once("query-migrate", func() { g.Kill(); p.close() })
	failCommand(t, syscall.EIO, vm, "create", "one memory=true")
	requireNoMemory(t, m, vm)
}

// TestDaemonKilledWhileSavingMemory: the next daemon ends that, and the guest
// runs on.
func TestDaemonKilledWhileSavingMemory(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	vm := m.vm("busy")
	second, args := secondMonitor(t)
	g, err := guest.Start(t.Context(), guest.Config{Name: "busy", Dir: t.TempDir(), Disks: []string{m.disk("busy", "disk.img", 64<<20)}, Args: args})
	require.NoError(t, err)
	t.Cleanup(g.Kill)
	p := newMonitorProxy(t, g.MonitorPath())
	mustSnapfs(t, "policy", vm, "set", "quiesce.qmp="+p.path)
	killed := make(chan struct{})
	p.once("migrate-continue", func() { m.kill(); close(killed) })
	create := exec.Command(daemon.Binary, "create", vm, "one", "--memory")
	require.Error(t, create.Run(), "the daemon died meanwhile")
	<-killed
	require.NotEmpty(t, names(t, filepath.Join(m.store, "frozen")))
	m.start()
	requireNoMemory(t, m, vm)
	require.Eventually(t, func() bool {
		state, err := g.MonitorAt(second, "query-status", nil)
		require.NoError(t, err)
		return strings.Contains(string(state), `"running": true`)
	}, patience, 10*time.Millisecond)
	g.Kill()
}

// TestWorkerKilledWhileSavingMemory: another worker takes over, lets go of the
// guest, and makes the snapshot that was asked for. One whose instant had come is
// there without the memory, and says so. The guest, whose disk stays, runs on.
func TestWorkerKilledWhileSavingMemory(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	vm := m.vm("busy")
	w := startWriter(t, m.disk("busy", "disk.img", 64<<20))
	p := newMonitorProxy(t, w.MonitorPath())
	mustSnapfs(t, "policy", vm, "set", "quiesce.qmp="+p.path)
	for _, at := range []string{"migrate-continue", "cont"} {
		worker := m.Worker()
		killed := make(chan error, 1)
		p.once(at, func() { killed <- syscall.Kill(worker, syscall.SIGKILL) })
		least := w.synced()
		mustSnapfs(t, "create", vm, "at-"+at, "--memory")
		require.NoError(t, <-killed)
		require.Greater(t, w.goesOn(), least)
		require.Eventually(t, func() bool {
			return len(names(t, filepath.Join(m.store, "frozen"))) == 0
		}, patience, 10*time.Millisecond)
	}
	all := list(t, vm)
	require.Len(t, all, 2)
	require.Equal(t, "at-migrate-continue", all[0].Name)
	require.NotNil(t, all[0].Memory)
	require.Equal(t, "at-cont", all[1].Name)
	require.Nil(t, all[1].Memory)
	require.Contains(t, *all[1].Warning, "before the machine's memory was saved")
	mustCommand(t, vm, "create", "good memory=true")
	least := w.goesOn()
	require.NoError(t, w.Quit(t.Context()))
	require.GreaterOrEqual(t, countSound(t, m.path("busy", "disk.img")), least)
}
