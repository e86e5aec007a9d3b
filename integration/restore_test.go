package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRestoreIndex loses the index of a store in use, and goes back to a backup of
// it: snapshots that the backup has show what they did, or EIO where their data was
// given back since.
func TestRestoreIndex(t *testing.T) {
	t.Parallel()
	const size = 32 << 20
	m := newMount(t)
	vm := m.vm("db")
	disk := m.disk("db", "root", size)
	fill := func(pattern string) {
		t.Helper()
		run(t, "fio", "--name=fill", "--filename="+disk, "--size=32M", "--rw=randwrite", "--bs=16k", "--direct=1",
			"--verify=crc32c", "--do_verify=0", "--verify_state_save=0", "--randrepeat=0", "--fsync_on_close=1", pattern)
	}
	fill("--io_size=32M")
	mustCommand(t, vm, "create", "gone")
	gone := readFile(t, snapshotPath(vm, "gone", "root"))
	fill("--io_size=8M")
	mustCommand(t, vm, "create", "kept")
	kept := readFile(t, snapshotPath(vm, "kept", "root"))

	// The next backup is of all that.
	m.stop()
	require.NoError(t, os.RemoveAll(filepath.Join(m.store, "backup")))
	m.start()
	require.Eventually(t, func() bool {
		backups, _ := filepath.Glob(filepath.Join(m.store, "backup", "2*"))
		return len(backups) == 1
	}, 5*time.Minute, 100*time.Millisecond)
	require.Contains(t, mustSnapfs(t, "log", m.dir), " index-backup file=backup/2")

	// And the store goes on.
	fill("--io_size=8M")
	mustCommand(t, vm, "create", "unknown")
	fill("--io_size=8M")
	mustCommand(t, vm, "clone", "kept to=later")
	before := m.storeBytes()
	mustCommand(t, vm, "delete", "gone")
	require.Eventually(t, func() bool { return m.storeBytes() < before-4<<20 }, patience, 10*time.Millisecond)
	failSnapfs(t, "in use", "restore-index", m.store)
	m.kill()

	for _, name := range names(t, filepath.Join(m.store, "index")) {
		path := filepath.Join(m.store, "index", name)
		if data := readFile(t, path); len(data) > 0 {
			data[len(data)/2]++
			data[min(10, len(data)-1)]++
			writeFile(t, path, data)
		}
	}
	failSnapfs(t, "`snapfs restore-index "+m.store+"` goes back to the backup of 20", "mount", m.store, m.dir)
	r := snapfs(t, "check", m.store, "--repair")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stdout, "`snapfs restore-index")

	r = snapfs(t, "restore-index", m.store)
	require.Equal(t, 1, r.code, "it is restored, but something is lost")
	require.Contains(t, r.stderr, "can be mounted, with ")
	out := r.stdout
	t.Log(out)
	require.Contains(t, out, "restored backup/2")
	require.Contains(t, out, "db/root: was written after that: it is not what it was at any one time")
	require.Contains(t, out, "db@gone/root: has lost ")
	require.NotContains(t, out, "db@kept/root: has lost ")
	r = snapfs(t, "check", m.store)
	require.Equal(t, 1, r.code)
	for line := range strings.Lines(r.stdout) {
		require.True(t, strings.Contains(line, "has lost") || strings.HasPrefix(line, "1 VM, 1 file, 2 snapshots, "), line)
	}

	m.start()
	require.Equal(t, []string{"gone", "kept"}, snapshotNames(t, vm))
	require.True(t, bytes.Equal(kept, readFile(t, snapshotPath(vm, "kept", "root"))), "a snapshot that was there all the time")
	run(t, "fio", "--name=verify", "--filename="+snapshotPath(vm, "kept", "root"), "--size=32M", "--rw=read", "--bs=16k",
		"--readonly", "--verify=crc32c", "--verify_state_save=0")
	lost := 0
	f, err := os.Open(snapshotPath(vm, "gone", "root"))
	require.NoError(t, err)
	defer f.Close()
	for off := int64(0); off < size; off += 4096 {
		p := make([]byte, 4096)
		if _, err := f.ReadAt(p, off); err != nil {
			require.ErrorContains(t, err, "input/output error")
			lost++
			continue
		}
		require.True(t, bytes.Equal(gone[off:off+4096], p), "at %d: neither what it was nor EIO", off)
	}
	require.NotZero(t, lost)
	t.Logf("of %d blocks of the deleted snapshot %d are lost", size/4096, lost)
	require.NoError(t, f.Close())
	require.Contains(t, mustSnapfs(t, "list", "--json", vm), "data is lost (")
	require.Contains(t, mustSnapfs(t, "log", m.dir), "index-restored backup=")

	// Disks are used on, and nothing of the losses is left when the snapshot goes.
	run(t, "fio", "--name=again", "--filename="+disk, "--size=32M", "--rw=write", "--bs=1M", "--direct=1",
		"--verify=crc32c", "--do_verify=1", "--verify_state_save=0")
	mustCommand(t, vm, "delete", "gone")
	m.remount()
	require.True(t, bytes.Equal(kept, readFile(t, snapshotPath(vm, "kept", "root"))))
}
