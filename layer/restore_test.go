package layer

// Restoring the index from a backup: what becomes of heads that went on, of what was deleted, and of what the backup does not
// know; and what is refused.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/blockmap"
)

func filesIn(t tester, dir string) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	entries, err := os.ReadDir(dir)
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(t, err)
	}
	for _, e := range entries {
		names[e.Name()] = true
	}
	return names
}

// destroyIndex leaves nothing of an index that could be used.
func destroyIndex(t tester, dir string) {
	t.Helper()
	index := filepath.Join(dir, indexName)
	require.NoError(t, os.RemoveAll(index))
	require.NoError(t, os.Mkdir(index, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(index, "MANIFEST"), []byte("nothing"), 0o600))
}

// backedUpStore makes a store with a VM that has a snapshot, and a backup of it; it is still open.
func backedUpStore(t *testing.T) (*Store, *VM, *File) {
	t.Helper()
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 8*blockSize)
	write(t, f, blocksOf(1, 8), 0)
	snapshot(t, v, "s")
	write(t, f, blocksOf(2, 4), 0)
	commit(t, f)
	require.NoError(t, s.backUp(time.Now()))
	return s, v, f
}

// closeAndRestore destroys the index, restores it, and opens the store again.
func closeAndRestore(t *testing.T, s *Store) (*Store, RestoreReport) {
	t.Helper()
	require.NoError(t, s.Close())
	destroyIndex(t, s.dir)
	_, err := Open(s.dir, Options{})
	require.ErrorIs(t, err, blockmap.ErrDamaged)
	require.ErrorContains(t, err, "`snapfs restore-index "+s.dir+"`")
	report, err := restoreAndTell(s.dir, false)
	require.NoError(t, err)
	return openStore(t, s.dir, Options{}), report
}

func TestRestoreOfAHeadThatWentOn(t *testing.T) {
	s, _, f := backedUpStore(t)
	write(t, f, blocksOf(3, 1), 0)           // in place
	write(t, f, blocksOf(4, 1), 6*blockSize) // taken since
	resize(t, f, 20*blockSize)
	write(t, f, blocksOf(5, 1), 11*blockSize)
	commit(t, f)
	want := content(t, f)[:12*blockSize]

	s, report := closeAndRestore(t, s)
	require.Empty(t, report.Lost)
	require.Len(t, report.States, 1)
	require.Equal(t, "web/root", report.States[0].Object)
	f = fileNamed(t, vmNamed(t, s, "web"), "root")
	requireSame(t, want, content(t, f), "what the head's data file has")
	requireSame(t, blocksOf(1, 8), viewed(t, vmNamed(t, s, "web"), "s", "root"), "the snapshot")
	require.EqualValues(t, 9*blockSize/512, f.Attr().Blocks)
}

func TestRestoreOfAFileThatNobodyWroteSince(t *testing.T) {
	s, v, f := backedUpStore(t)
	want := content(t, f)
	makeFile(t, v, "later", 0)
	require.NoError(t, s.Close())
	old := time.Now().Add(-time.Hour)
	for name := range filesIn(t, layersDir(s)) {
		require.NoError(t, os.Chtimes(filepath.Join(layersDir(s), name), old, old))
	}
	s, report := closeAndRestore(t, s)
	require.Empty(t, report.Lost)
	require.Empty(t, report.States)
	v = vmNamed(t, s, "web")
	requireSame(t, want, content(t, fileNamed(t, v, "root")), "the file")
	_, err := v.Lookup("later")
	require.ErrorIs(t, err, syscall.ENOENT)
}

// A head that lost blocks: reading them is EIO, writing a part of one, too, until one is written as a whole.
func TestRestoreOfAHeadThatLostBlocks(t *testing.T) {
	s, _, f := backedUpStore(t)
	require.NoError(t, f.Discard(blockSize, 2*blockSize))
	commit(t, f)
	settle(t, s)
	s, report := closeAndRestore(t, s)
	require.Len(t, report.Lost, 1)
	require.Equal(t, "web/root", report.Lost[0].Object)
	require.Contains(t, report.Lost[0].Text, "8.0KiB: bytes 4096-12287;")
	f = fileNamed(t, vmNamed(t, s, "web"), "root")
	read := func() error {
		_, err := f.Read(make([]byte, blockSize), 2*blockSize)
		return err
	}
	require.Equal(t, syscall.EIO, Errno(read()))
	_, err := f.Write([]byte("a part"), 2*blockSize+5, true)
	require.Equal(t, syscall.EIO, Errno(err))
	require.Equal(t, syscall.EIO, Errno(read()))
	write(t, f, blocksOf(9, 1), 2*blockSize)
	require.NoError(t, read())
	commit(t, f)
	settle(t, s)
	require.NoError(t, s.Close())
	check, err := Check(s.dir)
	require.NoError(t, err)
	require.Len(t, check.Findings, 1)
	require.Contains(t, check.Findings[0].Text, "4.0KiB: bytes 4096-8191;")
}

// A snapshot of the backup that was deleted since, so that its blocks were punched.
func TestRestoreOfASnapshotThatWasDeleted(t *testing.T) {
	s, v, f := backedUpStore(t)
	drop(t, v, "s")
	write(t, f, blocksOf(3, 6), 0)
	commit(t, f)
	settle(t, s)
	s, report := closeAndRestore(t, s)
	require.Len(t, report.Lost, 1)
	require.Equal(t, "web@s/root", report.Lost[0].Object)
	require.Contains(t, report.Lost[0].Text, "24KiB: bytes 0-24575; to read them is EIO")
	n, err := vmNamed(t, s, "web").Snapshot("s")
	require.NoError(t, err)
	w, err := n.View("root")
	require.NoError(t, err)
	require.NoError(t, w.Open(viewHandle))
	_, err = w.Read(make([]byte, blockSize), 5*blockSize)
	require.Equal(t, syscall.EIO, Errno(err))
	p := make([]byte, 2*blockSize)
	_, err = w.Read(p, 6*blockSize)
	require.NoError(t, err)
	requireSame(t, blocksOf(1, 8)[6*blockSize:], p, "what nobody punched")
	w.Close(viewHandle)

	// Checksums are made of what is there, and no others.
	var unsummed []*layer
	for _, l := range s.layersToSum() {
		unsummed = append(unsummed, l)
		require.NoError(t, s.sumLayer(l))
	}
	require.NotEmpty(t, unsummed)
	scrub, err := s.Scrub()
	require.NoError(t, err)
	require.Empty(t, scrub.Findings)
	require.EqualValues(t, 2*blockSize, scrub.Bytes)
}

// What the backup does not know of: files, snapshots and VMs made since. Their data is kept, by name.
func TestRestorePutsTheUnknownAside(t *testing.T) {
	s, v, f := backedUpStore(t)
	snapshot(t, v, "later")
	write(t, f, blocksOf(3, 8), 0)
	other := makeFile(t, makeVM(t, s, "db"), "disk", 4*blockSize)
	write(t, other, blocksOf(4, 4), 0)
	commit(t, f)
	commit(t, other)
	heads := []LayerID{f.state.Load().head.id, other.state.Load().head.id}
	s, report := closeAndRestore(t, s)
	require.Equal(t, 2, report.Unknown)
	require.EqualValues(t, 12*blockSize, report.Bytes)
	for _, id := range heads {
		require.FileExists(t, filepath.Join(s.dir, report.Aside, layersName, fileName(id)))
		require.NoFileExists(t, filepath.Join(layersDir(s), fileName(id)))
	}
	require.DirExists(t, filepath.Join(s.dir, report.Aside, indexName))
	require.Len(t, s.VMs(), 1)
	require.NoError(t, s.Close())
	requireOnlyLosses(t, s.dir)
}

// Heads that were being made when the backup was: the next start would remove their data.
func TestRestoreOfAPreparedHead(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 8*blockSize)
	write(t, f, blocksOf(1, 8), 0)
	p, err := v.PrepareSnapshot(CreateOptions{Name: "s"})
	require.NoError(t, err)
	require.NoError(t, s.backUp(time.Now()))
	p.Swap()
	write(t, f, blocksOf(2, 4), 0)
	_, err = p.Seal(nil)
	require.NoError(t, err)
	commit(t, f)
	head := f.state.Load().head.id
	s, report := closeAndRestore(t, s)
	require.FileExists(t, filepath.Join(s.dir, report.Aside, layersName, fileName(head)))
	require.Empty(t, report.Lost)
	requireSame(t, blocksOf(1, 8), content(t, fileNamed(t, vmNamed(t, s, "web"), "root")), "the old head")
}

func TestRestoreTakesTheNewestSoundBackup(t *testing.T) {
	s, v, f := backedUpStore(t)
	for i := range 2 {
		snapshot(t, v, fmt.Sprint("later", i))
		require.NoError(t, s.backUp(time.Now().Add(time.Duration(i+1)*time.Second)))
	}
	want := content(t, f)
	backups, err := listBackups(s.dir)
	require.NoError(t, err)
	require.Len(t, backups, 3)
	flip(t, backups[0].path, 20)
	require.NoError(t, os.Truncate(backups[1].path, 1000))
	s, report := closeAndRestore(t, s)
	require.Len(t, report.Skipped, 2)
	require.Equal(t, backupName+"/"+filepath.Base(backups[2].path), report.Backup)
	requireSame(t, want, content(t, fileNamed(t, vmNamed(t, s, "web"), "root")), "the file")
	require.Len(t, vmNamed(t, s, "web").Snapshots(), 1)

	require.NoError(t, s.Close())
	flip(t, backups[2].path, 20)
	_, err = restoreAndTell(s.dir, true)
	require.ErrorContains(t, err, "no sound backup")
	requireOnlyLosses(t, s.dir) // it is as it was
}

// A backup of an index that made no sense any more is whole, and no use.
func TestRestoreSkipsABackupThatMakesNoSense(t *testing.T) {
	s, _, f := backedUpStore(t)
	want := content(t, f)
	require.NoError(t, s.update(func(tx *blockmap.Tx) error {
		key, _ := firstKey(t, tx, tableLineage)
		tx.Delete(key)
		return nil
	}))
	require.NoError(t, s.backUp(time.Now().Add(time.Second)))
	s, report := closeAndRestore(t, s)
	require.Len(t, report.Skipped, 1)
	require.Contains(t, report.Skipped[0].Text, "lineage")
	requireSame(t, want, content(t, fileNamed(t, vmNamed(t, s, "web"), "root")), "the file")
}

func TestRestoreRefuses(t *testing.T) {
	s, _, _ := backedUpStore(t)
	_, err := restoreAndTell(s.dir, false)
	require.ErrorIs(t, err, syscall.EBUSY)
	require.ErrorContains(t, err, "in use")
	_, err = restoreAndTell(t.TempDir(), false)
	require.ErrorIs(t, err, syscall.ENOENT)
	_, err = restoreAndTell(filepath.Join(s.dir, "nothing"), false)
	require.ErrorIs(t, err, syscall.ENOENT)
	empty := newStore(t, Options{})
	require.NoError(t, empty.Close())
	_, err = restoreAndTell(empty.dir, false)
	require.ErrorContains(t, err, "no backup")

	// A backup of another store's index.
	require.NoError(t, s.Close())
	copyTree(t, filepath.Join(s.dir, backupName), filepath.Join(empty.dir, backupName))
	_, err = restoreAndTell(empty.dir, true)
	require.ErrorContains(t, err, "another store")
	require.Contains(t, findingOf(t, empty.dir, nameOfBackup(t, empty.dir)), "another store")
}

// Where the index is sound, a restore would only lose what was made since: it has to be asked for.
func TestRestoreOfASoundIndex(t *testing.T) {
	s, v, _ := backedUpStore(t)
	snapshot(t, v, "later")
	require.NoError(t, s.Close())
	for range 2 {
		_, err := restoreAndTell(s.dir, false)
		require.ErrorIs(t, err, syscall.EINVAL)
		require.ErrorContains(t, err, "is sound")
		require.ErrorContains(t, err, "--force")
		requireSound(t, s.dir)
		require.NoDirExists(t, filepath.Join(s.dir, quarantineName))
	}
	s = openStore(t, s.dir, Options{})
	_, err := vmNamed(t, s, "web").Snapshot("later")
	require.NoError(t, err)
	require.NoError(t, s.Close())
	_, err = restoreAndTell(s.dir, true)
	require.NoError(t, err)
	s = openStore(t, s.dir, Options{})
	_, err = vmNamed(t, s, "web").Snapshot("later")
	require.ErrorIs(t, err, syscall.ENOENT)

	// One that can be opened and contradicts itself is not.
	require.NoError(t, s.update(func(tx *blockmap.Tx) error {
		key, _ := firstKey(t, tx, tableLineage)
		tx.Delete(key)
		return nil
	}))
	require.NoError(t, s.Close())
	_, err = restoreAndTell(s.dir, false)
	require.NoError(t, err)
}

// nameOfBackup is that of the newest one, in the store.
func nameOfBackup(t *testing.T, dir string) string {
	t.Helper()
	backups, err := listBackups(dir)
	require.NoError(t, err)
	return filepath.Join(backupName, filepath.Base(backups[0].path))
}

// A worker that goes on after another does not, on an index that was restored in between.
func TestRestoreUnderAMount(t *testing.T) {
	s, _, _ := backedUpStore(t)
	s.closing.Do(func() {
		abandonWork(s)
		s.closed = s.release()
	})
	_, err := restoreAndTell(s.dir, true)
	require.NoError(t, err)
	o := s.opts
	o.Session = s.session
	_, err = Open(s.dir, o)
	require.ErrorContains(t, err, "restored while it was mounted")
	openStore(t, s.dir, Options{})
}

// Each step of a restore fails once: the old index stays, or the new one is there and says that it is not done.
func TestRestoreThatFails(t *testing.T) {
	s, _, f := backedUpStore(t)
	write(t, f, blocksOf(3, 8), 0)
	snapshot(t, vmNamed(t, s, "web"), "later")
	write(t, f, blocksOf(4, 8), 0)
	require.NoError(t, s.Close())
	require.NoError(t, os.Remove(filepath.Join(s.dir, commitsName)))
	t.Cleanup(func() { fault = nil })
	steps := eachNth(func(n int) bool {
		dir := filepath.Join(t.TempDir(), "store")
		copyTree(t, s.dir, dir)
		i := 0
		fault = func(kind string) error {
			if kind == "statfs" {
				return nil // as if the disk were full: the index stays open then, until the process ends
			}
			if i++; i == n {
				return syscall.EIO
			}
			return nil
		}
		_, err := RestoreIndex(dir, false)
		fault = nil
		if i < n {
			require.NoError(t, err)
			return false
		}
		if err != nil {
			if !strings.Contains(err.Error(), "the index is restored") {
				_, openErr := Open(dir, Options{})
				require.ErrorContains(t, openErr, "`snapfs ", "step %d: it says what to do", n)
			}
			_, err = restoreAndTell(dir, strings.Contains(err.Error(), "the index is restored"))
			require.NoError(t, err, "again, after step %d", n)
		}
		again, err := Open(dir, Options{})
		require.NoError(t, err)
		requireSame(t, blocksOf(1, 8), viewed(t, vmNamed(t, again, "web"), "s", "root"), "the snapshot after step %d", n)
		require.NoError(t, again.Close())
		return true
	})
	t.Logf("%d steps", steps)
}
