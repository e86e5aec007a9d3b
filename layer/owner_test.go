package layer

// A counter of commits, an index, or a log from another store: it is named, nothing is moved by a mount that is refused, and a
// repair keeps all that is the store's own.

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/snapfs/snapfs/blockmap"
)

// foreignCounter makes a counter of commits that is another store's.
func foreignCounter(t *testing.T, number uint64) []byte {
	t.Helper()
	slot := append([]byte("another identity"), binary.LittleEndian.AppendUint64(nil, number)...)
	slot = binary.LittleEndian.AppendUint32(slot, crc32.Checksum(slot, crc32.MakeTable(crc32.Castagnoli)))
	file := make([]byte, 4096+len(slot))
	copy(file[number%2*4096:], slot)
	return file
}

// ownedStore is what a kill leaves of a store with tables and a log, or with a log alone; with what its snapshots have.
func ownedStore(t *testing.T, tables, backup bool) (dir string, content map[string][]byte) {
	t.Helper()
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 8*blockSize)
	write(t, f, blocksOf(1, 8), 0)
	snapshot(t, v, "s1")
	if backup {
		require.NoError(t, s.backUp(time.Now()))
	}
	if tables {
		s = reopen(t, s)
		v = vmNamed(t, s, "web")
		f = fileNamed(t, v, "root")
	}
	for i, name := range []string{"s2", "s3"} {
		write(t, f, blocksOf(byte(i+2), 4), int64(i)*blockSize)
		snapshot(t, v, name)
	}
	write(t, f, blocksOf(9, 2), 0)
	flush(t, f)
	commit(t, f)
	content = readable(t, s)
	dir = filepath.Join(t.TempDir(), "store")
	killedAt(t, s, dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, lockName), nil, 0o600))
	names, err := filepath.Glob(filepath.Join(dir, indexName, "*.sst"))
	require.NoError(t, err)
	require.Equal(t, tables, len(names) > 0)
	return dir, content
}

// requireContent compares all that a store's snapshots and disks have.
func requireContent(t *testing.T, dir string, content map[string][]byte) {
	t.Helper()
	requireSound(t, dir)
	s, err := Open(dir, Options{})
	require.NoError(t, err)
	require.Equal(t, content, readable(t, s))
	require.NoError(t, s.Close())
}

// requireRefused says why a mount is, after which all is as it was.
func requireRefused(t *testing.T, dir string) error {
	t.Helper()
	before := everythingOfStore(t, dir)
	_, err := Open(dir, Options{})
	require.Error(t, err)
	require.Equal(t, before, everythingOfStore(t, dir))
	return err
}

// everythingOfStore leaves out the times of directories, and the ballast: a mount makes that first.
func everythingOfStore(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := everythingIn(t, dir)
	for path := range all {
		if info, err := os.Lstat(path); err == nil && info.IsDir() {
			all[path] = info.Mode().String()
		}
	}
	delete(all, filepath.Join(dir, ballastName))
	return all
}

func TestCounterOfAnotherStore(t *testing.T) {
	for kind, with := range map[string][2]bool{"young": {}, "with tables": {true, false}, "with a backup": {true, true}, "young, with a backup": {false, true}} {
		store, content := ownedStore(t, with[0], with[1])
		for name, number := range map[string]func(made uint64) uint64{
			"lower": func(made uint64) uint64 { return made - 2 }, "equal": func(made uint64) uint64 { return made },
			"higher": func(made uint64) uint64 { return made + 100 },
		} {
			if !oneIn(6) {
				continue
			}
			t.Run(name+", "+kind, func(t *testing.T) {
				dir := copied(t, store)
				path := filepath.Join(dir, commitsName)
				mine, made, _, err := blockmap.ReadCounter(path)
				require.NoError(t, err)
				foreign := foreignCounter(t, number(made))
				require.NoError(t, os.WriteFile(path, foreign, 0o600))

				require.ErrorContains(t, requireRefused(t, dir), "commits is that of another store")
				before := everythingIn(t, dir)
				require.Contains(t, findingOf(t, dir, commitsName), "commits is that of another store")
				if with[1] {
					_, err = restoreAndTell(dir, false)
					require.ErrorContains(t, err, "commits is that of another store")
				}
				require.Equal(t, before, everythingIn(t, dir))

				report := repaired(t, dir)
				require.Empty(t, report.Findings)
				require.Len(t, report.Repaired, 1)
				require.Equal(t, commitsName, report.Repaired[0].Object)
				require.Contains(t, report.Repaired[0].Text, "was that of another store")
				require.Contains(t, report.Repaired[0].Text, "nobody knows whether the last commits are missing")
				identity, again, _, err := blockmap.ReadCounter(path)
				require.NoError(t, err)
				require.Equal(t, mine, identity)
				require.GreaterOrEqual(t, again, made)
				kept, err := filepath.Glob(filepath.Join(dir, quarantineName, "*", "*"))
				require.NoError(t, err)
				require.Len(t, kept, 1)
				data, err := os.ReadFile(kept[0])
				require.NoError(t, err)
				require.Equal(t, foreign, data)
				requireContent(t, dir, content)
			})
		}
	}
}

// A log of another store is what is foreign, where the index and the counter agree: beside the own ones it is set aside, and in
// their place the mount is refused.
func TestLogOfAnotherStore(t *testing.T) {
	other, _ := ownedStore(t, false, false)
	var foreign []byte
	for name := range fullLogs(t, other) {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		foreign = data
	}
	t.Run("beside", func(t *testing.T) {
		dir, content := ownedStore(t, true, true)
		name := filepath.Join(indexName, "00078.mem")
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), foreign, 0o600))
		require.Contains(t, findingOf(t, dir, name), "log of another index")
		report := repaired(t, dir)
		require.Empty(t, report.Findings)
		require.Equal(t, name, report.Repaired[0].Object)
		requireContent(t, dir, content)
	})
	t.Run("instead", func(t *testing.T) {
		dir, _ := ownedStore(t, true, true)
		for name := range fullLogs(t, dir) {
			require.NoError(t, os.WriteFile(name, foreign, 0o600))
		}
		require.ErrorContains(t, requireRefused(t, dir), "00001.mem is the log of another index")
		require.Contains(t, findingOf(t, dir, indexName), "`snapfs restore-index "+dir+"` goes back to the backup")
		_, err := restoreAndTell(dir, false)
		require.NoError(t, err)
		s := openStore(t, dir, Options{})
		requireSame(t, blocksOf(1, 8), viewed(t, vmNamed(t, s, "web"), "s1", "root"), "a snapshot")
	})
}

// An index of another store is not taken for the store's own, though its files agree among themselves.
func TestIndexOfAnotherStore(t *testing.T) {
	for _, tables := range []bool{true, false} {
		other, _ := ownedStore(t, tables, false)
		dir, _ := ownedStore(t, true, true)
		index := filepath.Join(dir, indexName)
		require.NoError(t, os.RemoveAll(index))
		copyTree(t, filepath.Join(other, indexName), index)
		require.ErrorContains(t, requireRefused(t, dir), "the index, or that file of it, is that of another store")
		require.Contains(t, findingOf(t, dir, indexName), "`snapfs restore-index "+dir+"` goes back to the backup")
		before := everythingOfStore(t, dir)
		_, err := repairAndTell(dir)
		require.NoError(t, err)
		require.Equal(t, before, everythingOfStore(t, dir))
		_, err = restoreAndTell(dir, false)
		require.NoError(t, err)
		s := openStore(t, dir, Options{})
		requireSame(t, blocksOf(1, 8), viewed(t, vmNamed(t, s, "web"), "s1", "root"), "a snapshot")
	}
}

// A table of another store in the place of the index's only one is named: it may be all that is foreign.
func TestTableOfAnotherStore(t *testing.T) {
	other, _ := ownedStore(t, true, false)
	dir, _ := ownedStore(t, true, true)
	tables := func(dir string) []string {
		names, err := filepath.Glob(filepath.Join(dir, indexName, "*.sst"))
		require.NoError(t, err)
		require.Len(t, names, 1)
		return names
	}
	table := tables(dir)[0]
	copySparse(t, tables(other)[0], table)
	err := requireRefused(t, dir)
	require.ErrorContains(t, err, table+" is not of the index that the store names; the index, or that file of it, is that of another store")
	require.ErrorContains(t, err, "`snapfs restore-index "+dir+"` goes back to the backup")
}

// Where the index is lost, too, the backups say which counter is the store's.
func TestRestoreWithTheCounterOfAnotherStore(t *testing.T) {
	for _, number := range []uint64{1, 1000} {
		dir, _ := ownedStore(t, true, true)
		path := filepath.Join(dir, commitsName)
		mine, _, _, err := blockmap.ReadCounter(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, foreignCounter(t, number), 0o600))
		destroyIndex(t, dir)
		require.Contains(t, findingOf(t, dir, indexName), "`snapfs restore-index "+dir+"` goes back to the backup")
		_, err = restoreAndTell(dir, false)
		require.NoError(t, err)
		identity, _, _, err := blockmap.ReadCounter(path)
		require.NoError(t, err)
		require.Equal(t, mine, identity)
		s := openStore(t, dir, Options{})
		requireSame(t, blocksOf(1, 8), viewed(t, vmNamed(t, s, "web"), "s1", "root"), "a snapshot")
	}
}

// The sound beginning of a damaged log is used, whosever the counter is.
func TestBeginningWithTheCounterOfAnotherStore(t *testing.T) {
	dir, _ := ownedStore(t, true, true)
	for name, used := range fullLogs(t, dir) {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		data[0] ^= 4 // the header: all commits are there
		require.NoError(t, os.WriteFile(name, data, 0o600))
		require.Positive(t, used)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, commitsName), foreignCounter(t, 7), 0o600))
	require.Error(t, requireRefused(t, dir))
	report := repaired(t, dir)
	require.False(t, report.Unread)
	requireOnlyLosses(t, dir)
	s := openStore(t, dir, Options{})
	_, err := vmNamed(t, s, "web").Snapshot("s3")
	require.NoError(t, err)
}
