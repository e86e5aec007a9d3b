package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/snapfs/snapfs/layer"
)

func TestCheckRepair(t *testing.T) {
	store, point := newMount(t)
	dir := newVM(t, point, "web", "hello")
	done(t, "create", dir, "one")
	require.Contains(t, refused(t, "check", store, "--repair"), "in use")
	done(t, "umount", point)
	require.Contains(t, done(t, "check", store, "--repair"), "1 VM, 1 file, 1 snapshot")

	require.NoError(t, os.WriteFile(filepath.Join(store, "layers", "notes"), nil, 0o600))
	out := done(t, "check", store, "--repair")
	require.Contains(t, out, "repaired: layers/notes: is not a data file of this store: it is in quarantine/")
	require.Contains(t, done(t, "check", store, "--json"), `"findings":[],"repaired":[]`)

	files, err := filepath.Glob(filepath.Join(store, "layers", "*"))
	require.NoError(t, err)
	require.NotEmpty(t, files) // the snapshot's, and the new head's, which is empty
	f, err := os.OpenFile(files[0], os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 8192, 4096))
	require.NoError(t, f.Close())
	for range 2 {
		code, stdout, stderr := snapfs("check", store, "--repair")
		require.Equal(t, exitFailed, code)
		require.Contains(t, stderr, "2 findings that a repair does not mend")
		require.Contains(t, stdout, "web/root.img: has lost 4.0KiB: bytes 8192-12287; to read them is EIO until they are written anew\n")
		require.Contains(t, stdout, "web@one/root.img: has lost 4.0KiB: bytes 8192-12287; to read them is EIO\n")
	}
	mount(t, store, point)
	_, err = os.ReadFile(filepath.Join(dir, "root.img"))
	require.ErrorIs(t, err, unix.EIO)
	require.Equal(t, "hello", start(t, filepath.Join(dir, "root.img"), 5))
	require.Contains(t, done(t, "list", "--json", dir), `"warning":"data is lost (4.0KiB, found by a repair)`)
	done(t, "delete", dir, "one")
	disk, err := os.OpenFile(filepath.Join(dir, "root.img"), os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = disk.WriteAt(make([]byte, 4096), 8192)
	require.NoError(t, err)
	require.NoError(t, disk.Sync())
	require.NoError(t, disk.Close())
	done(t, "umount", point)
	done(t, "check", store)
}

// backedUpMount is a mount with a VM and a snapshot "one" of it, of which there is a backup.
func backedUpMount(t *testing.T) (store, point, dir string) {
	store, point = newMount(t)
	dir = newVM(t, point, "web", "hello")
	done(t, "create", dir, "one")
	require.Eventually(t, func() bool {
		backups, _ := filepath.Glob(filepath.Join(store, "backup", "2*"))
		return len(backups) == 1
	}, patience, 50*time.Millisecond)
	return store, point, dir
}

func TestRestoreIndex(t *testing.T) {
	store, point, dir := backedUpMount(t)
	require.Contains(t, refused(t, "restore-index", store), "it is mounted at "+point)
	require.Contains(t, refused(t, "restore-index", point), "is a mount")
	done(t, "create", dir, "two")
	done(t, "umount", point)
	tables, err := filepath.Glob(filepath.Join(store, "index", "*.sst"))
	require.NoError(t, err)
	require.NotEmpty(t, tables)
	require.NoError(t, os.Remove(tables[0]))
	require.Contains(t, refused(t, "mount", store, point), "`snapfs restore-index "+store+"` goes back to the backup of ")
	require.NoError(t, os.WriteFile(filepath.Join(store, "backup", "20991231T000000Z-999999"), []byte("cut off"), 0o600))
	code, out, _ := snapfs("restore-index", store)
	require.Equal(t, exitFailed, code)
	require.Contains(t, out, "web@two: is gone: it was made at ")
	require.NotContains(t, out, "web@one: is gone")
	require.Contains(t, out, "skipped backup/20991231T000000Z-999999: damaged backup: it is cut off\nrestored backup/2")
	mount(t, store, point)
	require.Equal(t, "hello", start(t, filepath.Join(dir, "root.img"), 5))
	require.Contains(t, done(t, "log", point), " index-restored backup=backup/2")
	require.Contains(t, done(t, "log", dir), " snapshot-lost vm=web snapshot=two")
	done(t, "umount", point)

	missing := filepath.Join(store, "missing")
	require.Contains(t, refused(t, "restore-index", missing), "no such file")
	require.NoError(t, os.RemoveAll(filepath.Join(store, "backup")))
	require.Contains(t, refused(t, "restore-index", store), "has no backup of its index")
}

// A restore that was killed once it was done, and had told nobody: what is gone for it is named by the next check, and by the repair that
// puts it in the log, and the mount in between says that something is.
func TestRestoreThatWasNotTold(t *testing.T) {
	store, point, dir := backedUpMount(t)
	time.Sleep(1100 * time.Millisecond) // the log has whole seconds
	done(t, "create", dir, "two")
	done(t, "umount", point)
	tables, err := filepath.Glob(filepath.Join(store, "index", "*.sst"))
	require.NoError(t, err)
	require.NoError(t, os.Remove(tables[0]))
	_, err = layer.RestoreIndex(store, false) // and the command that asked for it is gone
	require.NoError(t, err)

	require.Contains(t, refused(t, "restore-index", store), "went back to ")
	before, err := os.ReadFile(filepath.Join(store, "events"))
	require.NoError(t, err)
	for range 2 {
		code, out, _ := snapfs("check", store)
		require.Equal(t, exitFailed, code)
		require.Contains(t, out, "index: went back to ")
		require.Contains(t, out, "web@two: is gone: it was made at ")
		require.NotContains(t, out, "web@one: is gone")
	}
	after, err := os.ReadFile(filepath.Join(store, "events"))
	require.NoError(t, err)
	require.Equal(t, string(before), string(after), "a check writes nothing")
	mount(t, store, point)
	require.Contains(t, done(t, "log", point), " index-restored object=index what=\"went back to ")
	done(t, "umount", point)
	code, out, _ := snapfs("check", store, "--repair")
	require.Equal(t, exitFailed, code)
	require.Contains(t, out, "index: went back to ")
	require.Contains(t, out, "web@two: is gone: it was made at ")
	done(t, "check", store)
	mount(t, store, point)
	require.Contains(t, done(t, "log", dir), " snapshot-lost vm=web snapshot=two")
	done(t, "umount", point)
	done(t, "check", store, "--repair")
}

// A journal that is lost, with its mark, may have taken with it what a guest had flushed: a repair says so once, with all ranges,
// and the next mount's log does.
func TestRepairOfALostJournal(t *testing.T) {
	store, point := newMount(t)
	dir := newVM(t, point, "web", "hello")
	done(t, "create", dir, "one")
	disk, err := os.OpenFile(filepath.Join(dir, "root.img"), os.O_RDWR, 0)
	require.NoError(t, err)
	at := int64(800 << 10)
	require.Eventually(t, func() bool {
		_, err := disk.WriteAt([]byte("again"), at)
		at += 4096
		require.NoError(t, err)
		require.NoError(t, unix.Fdatasync(int(disk.Fd())))
		_, err = os.Stat(filepath.Join(store, "journal.mark"))
		return err == nil
	}, time.Minute, 10*time.Millisecond)
	require.NoError(t, disk.Close())
	done(t, "umount", point)
	heads, err := filepath.Glob(filepath.Join(store, "layers", "*"))
	require.NoError(t, err)
	head, err := os.OpenFile(heads[len(heads)-1], os.O_RDWR, 0) // as if a guest had written there, and the index knew nothing
	require.NoError(t, err)
	var ranges []string
	for at := int64(8192); at < 8192+20*8192; at += 8192 {
		_, err := head.WriteAt(make([]byte, 4096), at)
		require.NoError(t, err)
		ranges = append(ranges, fmt.Sprintf("[%d,%d]", at, at+4096))
	}
	require.NoError(t, head.Close())
	for _, name := range []string{"journal", "journal.mark"} {
		require.NoError(t, os.Remove(filepath.Join(store, name)))
	}
	code, stdout, stderr := snapfs("check", store, "--repair", "--json")
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "1 finding that a repair does not mend")
	require.Contains(t, stdout, `"findings":[{"object":"web/root.img","text":"was written to at `)
	require.Contains(t, stdout, `"ranges":[`+strings.Join(ranges, ",")+`]`)
	done(t, "check", store, "--repair")
	mount(t, store, point)
	require.Contains(t, done(t, "log", dir), "flushes-lost")
}

// Where the counter of commits is lost, the events may know of what the index does not.
func TestRepairOfTheCounterTellsWhatIsGone(t *testing.T) {
	store, point := newMount(t)
	dir := newVM(t, point, "web", "hello")
	done(t, "create", dir, "one")
	done(t, "umount", point)
	require.NoError(t, os.Remove(filepath.Join(store, "commits")))
	kept, err := os.ReadFile(filepath.Join(store, "events"))
	require.NoError(t, err)
	made := time.Now().UTC().Add(time.Minute).Format(time.RFC3339)
	kept = append(kept, made+" create vm=web snapshot=two consistency=off\n"...)
	require.NoError(t, os.WriteFile(filepath.Join(store, "events"), kept, 0o600))
	code, stdout, _ := snapfs("check", store, "--repair")
	require.Equal(t, exitFailed, code)
	require.Contains(t, stdout, "repaired: commits: was missing")
	require.Contains(t, stdout, "web@two: is gone: it was made at "+made)
	require.NotContains(t, stdout, "web@one")
	done(t, "check", store, "--repair")
}
