package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/snapfs/snapfs/integration/guest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestGuestOnFullStore has a guest write until the store is full. QEMU pauses it,
// as it does by default, and no write fails in the guest; when there is room it
// goes on where it was. Room comes from a snapshot that is deleted, and from
// others on the host's file system; meanwhile the worker is killed.
func TestGuestOnFullStore(t *testing.T) {
	t.Parallel()
	h := newHost(t, 512<<20)
	m := h.newMount()
	vm := m.vm("busy")
	disk, data := m.disk("busy", "disk.img", 128<<20), m.disk("busy", "data.img", 8<<20)
	w := startPausable(t, disk, data)
	inGuest(t, w.Guest, "head -c 8388608 /dev/zero | tr '\\0' a >/tmp/a; tr a b </tmp/a >/tmp/b; "+toData+"/tmp/a")
	w.start()
	w.goesOn()
	mustCommand(t, vm, "create", "first")
	inGuest(t, w.Guest, toData+"/tmp/b")

	least := w.goesOn()
	h.leave(m, 2<<20)
	w.awaitPause()
	requireLog(t, vm, "write-failed vm=busy errno=ENOSPC")
	h.leave(m, 0)
	mustCommand(t, vm, "delete", "first") // what data.img was then is nobody's any more
	require.Eventually(t, func() bool { return h.room(m) > 4<<20 }, patience, 10*time.Millisecond, "deleting makes no room")
	w.goOn()
	require.Greater(t, w.goesOn(), least)

	// After a snapshot the next write of every block needs room.
	h.leave(m, 4<<20)
	mustCommand(t, vm, "create", "second")
	h.leave(m, 0)
	w.awaitPause()
	died := m.Worker()
	require.NoError(t, unix.Kill(died, unix.SIGKILL))
	require.Eventually(t, func() bool { pid := m.Worker(); return pid != 0 && pid != died }, patience, time.Millisecond)
	require.Equal(t, "io-error", w.status())
	w.goOn()
	w.awaitPause() // there is no room yet
	require.NoError(t, os.Remove(h.others()))
	w.goOn()
	least = w.goesOn()

	require.NotContains(t, inGuest(t, w.Guest, "dmesg"), "I/O error")
	w.finish()
	run(t, "e2fsck", "-f", "-n", disk)
	require.GreaterOrEqual(t, countSound(t, disk), least)
	require.Equal(t, "b", string(readFile(t, data)[:1]))
	countSound(t, snapshotPath(vm, "second", "disk.img"))
}

// toData writes a file to the second disk.
const toData = "dd of=/dev/vdb bs=1M oflag=direct if="

// pausable is a writer whose QEMU tells of its pauses.
type pausable struct {
	writer
	events <-chan guest.Event
}

func startPausable(t *testing.T, disks ...string) pausable {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "events")
	g, err := guest.Start(t.Context(), guest.Config{Name: "busy", Dir: dir, Disks: disks, Args: []string{"-qmp", "unix:" + socket + ",server=on,wait=off"}})
	require.NoError(t, err)
	t.Cleanup(g.Kill)
	events, stop, err := guest.Events(socket)
	require.NoError(t, err)
	t.Cleanup(stop)
	return pausable{writer{g, t}, events}
}

// awaitPause waits until QEMU has stopped the guest for want of room.
func (p pausable) awaitPause() {
	p.t.Helper()
	var failed struct {
		Action  string
		NoSpace bool
	}
	require.NoError(p.t, json.Unmarshal(p.await("BLOCK_IO_ERROR"), &failed))
	require.Equal(p.t, "stop", failed.Action)
	require.True(p.t, failed.NoSpace)
	p.await("STOP")
	require.Equal(p.t, "io-error", p.status())
}

func (p pausable) goOn() {
	p.t.Helper()
	_, err := p.Monitor("cont", nil)
	require.NoError(p.t, err)
	p.await("RESUME")
}

func (p pausable) await(event string) json.RawMessage {
	p.t.Helper()
	for timeout := time.After(patience); ; {
		select {
		case e, ok := <-p.events:
			require.True(p.t, ok, "QEMU ended")
			if e.Name == event {
				return e.Data
			}
		case <-timeout:
			require.FailNow(p.t, "QEMU does not tell", event)
		}
	}
}

// status is what QEMU says of the guest: running, or why not.
func (p pausable) status() string {
	p.t.Helper()
	answer, err := p.Monitor("query-status", nil)
	require.NoError(p.t, err)
	var is struct{ Status string }
	require.NoError(p.t, json.Unmarshal(answer, &is))
	return is.Status
}

// others is a file of somebody else's on the host's file system.
func (h *host) others() string { return filepath.Join(h.dir, "others") }

// room is how many bytes guests can take.
func (h *host) room(m *mount) int64 {
	h.t.Helper()
	var st unix.Statfs_t
	require.NoError(h.t, unix.Statfs(m.dir, &st))
	return int64(st.Bavail) * st.Bsize
}

// leave has others take all that guests can, but for so many bytes.
func (h *host) leave(m *mount, room int64) {
	h.t.Helper()
	f, err := os.OpenFile(h.others(), os.O_CREATE|os.O_WRONLY, 0o644)
	require.NoError(h.t, err)
	defer f.Close()
	for n := h.room(m) - room; n > 0; n = h.room(m) - room {
		info, err := f.Stat()
		require.NoError(h.t, err)
		require.NoError(h.t, unix.Fallocate(int(f.Fd()), 0, info.Size(), n))
	}
}
