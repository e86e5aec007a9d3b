package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/snapfs/snapfs/integration/guest"
	"github.com/stretchr/testify/require"
)

// TestSnapshotWhileWriting has a guest write and sync one file after another.
// Whatever the moment, a snapshot must hold a sound file system with every file
// that had been synced before it, and none from after it.
func TestSnapshotWhileWriting(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	vm := m.vm("busy")
	w := startWriter(t, m.disk("busy", "disk.img", 128<<20))
	type bounds struct{ least, most int }
	var want []bounds
	for i := range 5 {
		least := w.goesOn()
		mustCommand(t, vm, "create", fmt.Sprint("s", i))
		want = append(want, bounds{least, w.synced() + 1})
	}
	require.NoError(t, w.Quit(t.Context()))
	for i, b := range want {
		n := countSound(t, snapshotPath(vm, fmt.Sprint("s", i), "disk.img"))
		require.GreaterOrEqual(t, n, b.least, "snapshot %d lost what was synced", i)
		require.LessOrEqual(t, n, b.most, "snapshot %d shows what came later", i)
	}
}

// TestGuestPowerLoss has the power of the whole host fail under a guest that
// writes: what it had synced is there, and so is its snapshot.
func TestGuestPowerLoss(t *testing.T) {
	t.Parallel()
	h := newHost(t, 1<<30)
	m := h.newMount()
	vm := m.vm("busy")
	disk := m.disk("busy", "disk.img", 128<<20)
	w := startWriter(t, disk)
	before := w.goesOn()
	mustCommand(t, vm, "create", "before")
	least := w.goesOn()
	h.powerLoss(m)
	w.Kill()
	m.start()
	require.GreaterOrEqual(t, countSound(t, disk), least, "lost what was synced")
	require.GreaterOrEqual(t, countSound(t, snapshotPath(vm, "before", "disk.img")), before)
}

// writer is a guest that writes the files 1, 2, 3 … to its disk, each longer than
// the one before, and syncs after each.
type writer struct {
	*guest.Guest
	t *testing.T
}

func startWriter(t *testing.T, disk string) writer {
	t.Helper()
	w := writer{startGuest(t, t.TempDir(), "busy", disk), t}
	w.start()
	return w
}

// start has a guest with an empty disk write.
func (w writer) start() {
	w.t.Helper()
	inGuest(w.t, w.Guest, `mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && echo 0 >/tmp/synced && {
		i=0
		while i=$((i+1)); do
			seq $((i*100)) >/mnt/$i; sync; echo $i >/tmp/next; mv /tmp/next /tmp/synced
		done >/dev/null 2>&1 &
		echo $! >/tmp/writer
	}`)
}

// finish ends the writing, and switches the guest off as one does.
func (w writer) finish() {
	w.t.Helper()
	inGuest(w.t, w.Guest, "kill $(cat /tmp/writer); until umount /mnt; do sleep 0.1; done")
	switchOff(w.t, w.Guest)
}

// synced is the last file that is on the disk for sure.
func (w writer) synced() int {
	w.t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(inGuest(w.t, w.Guest, "cat /tmp/synced")))
	require.NoError(w.t, err)
	return n
}

// goesOn waits until another file is on the disk, and returns its number.
func (w writer) goesOn() int {
	w.t.Helper()
	start := w.synced()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if n := w.synced(); n > start {
			return n
		}
	}
	require.FailNow(w.t, "the guest does not write on")
	return 0
}

// countSound copies an ext4 image and replays its journal, as the next mount
// would. The file system must then be sound, and hold the files 1 to n whole;
// the file after them may be there too, in any shape. It returns n.
func countSound(t *testing.T, image string) int {
	t.Helper()
	dir := t.TempDir()
	scratch := filepath.Join(dir, "scratch.img")
	run(t, "cp", "--sparse=always", image, scratch)
	run(t, "e2fsck", "-y", "-E", "journal_only", scratch)
	run(t, "e2fsck", "-f", "-n", scratch)
	mnt := filepath.Join(dir, "mnt")
	require.NoError(t, os.Mkdir(mnt, 0o755))
	run(t, "mount", "-o", "loop,ro", scratch, mnt)
	defer run(t, "umount", mnt)
	var want []byte
	for n := 0; ; n++ {
		for line := 100*n + 1; line <= 100*(n+1); line++ {
			want = fmt.Appendln(want, line)
		}
		content, err := os.ReadFile(filepath.Join(mnt, strconv.Itoa(n+1)))
		if err != nil || !bytes.Equal(want, content) {
			require.NoFileExists(t, filepath.Join(mnt, strconv.Itoa(n+2)))
			return n
		}
	}
}

// TestBrowseSnapshot looks into snapshots the ways an operator does: with
// e2fsck, and with a read-only loop mount, of a frozen and of a running guest.
func TestBrowseSnapshot(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	vm := m.vm("web")
	g := startGuest(t, t.TempDir(), "web", m.disk("web", "disk.img", 64<<20))
	inGuest(t, g, "mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && echo one >/mnt/config && fsfreeze --freeze /mnt")
	mustCommand(t, vm, "create", "frozen")
	inGuest(t, g, "fsfreeze --unfreeze /mnt; echo two >/mnt/config; sync")
	mustCommand(t, vm, "create", "running")
	inGuest(t, g, "echo three >/mnt/config; sync; umount /mnt")

	run(t, "e2fsck", "-f", "-n", snapshotPath(vm, "frozen", "disk.img"))
	mnt := t.TempDir()
	run(t, "mount", "-t", "ext4", "-o", "loop,ro", snapshotPath(vm, "frozen", "disk.img"), mnt)
	require.Equal(t, "one\n", string(readFile(t, filepath.Join(mnt, "config"))))
	run(t, "umount", mnt)
	// Without its journal replayed a running guest's file system is still there to look at.
	run(t, "mount", "-t", "ext4", "-o", "loop,ro,noload", snapshotPath(vm, "running", "disk.img"), mnt)
	require.Contains(t, names(t, mnt), "config")
	out, err := exec.Command("mount", "-o", "remount,rw", mnt).CombinedOutput()
	require.Error(t, err, "a snapshot was mounted for writing: %s", out)
	run(t, "umount", mnt)

	require.Equal(t, "three\n", inGuest(t, g, "mount -o ro /dev/vda /mnt && cat /mnt/config"))
	switchOff(t, g)
}

// TestDiscard has a guest write, snapshot-free, and then discard: the host gets
// the space back. What a snapshot holds stays until the snapshot goes.
func TestDiscard(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	vm := m.vm("web")
	disk := m.disk("web", "disk.img", 256<<20)
	g := startGuest(t, t.TempDir(), "web", disk)
	const big = 48 << 20
	inGuest(t, g, "mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && sync")
	empty := m.storeBytes()

	write := "head -c 50331648 /dev/urandom >/mnt/big && sync"
	trim := "rm /mnt/big && sync && fstrim /mnt && sync"
	shrinks := func(below int64, why string) {
		t.Helper()
		require.Eventually(t, func() bool { return m.storeBytes() < below }, patience, 50*time.Millisecond, why)
	}
	inGuest(t, g, write)
	require.Greater(t, m.storeBytes(), empty+big)
	require.Greater(t, allocated(t, disk), int64(big))
	inGuest(t, g, trim)
	shrinks(empty+big/4, "discard from the guest frees nothing")
	require.Less(t, allocated(t, disk), empty+big/4)

	inGuest(t, g, write)
	mustCommand(t, vm, "create", "full")
	inGuest(t, g, trim)
	require.Greater(t, m.storeBytes(), empty+big, "the snapshot's blocks are gone")
	run(t, "cmp", "-n", "1", snapshotPath(vm, "full", "disk.img"), disk)
	mustCommand(t, vm, "delete", "full")
	shrinks(empty+big/4, "deleting the snapshot frees nothing")
	switchOff(t, g)
	run(t, "e2fsck", "-f", "-n", disk)
}
