package layer

// An index that has lost its last commits, and with them the counter that would say so: other files show it, and a repair tells
// what is gone.

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// endlessStore is what a kill leaves: the last of its snapshots, and what was written since, are in the last log alone.
func endlessStore(t *testing.T, backup bool) (dir, lastLog string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "store")
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 8*blockSize)
	write(t, f, blocksOf(1, 8), 0)
	openJournal(t, s)
	snapshot(t, v, "s1")
	if backup {
		require.NoError(t, s.backUp(time.Now()))
	}
	write(t, f, blocksOf(3, 1), 0)
	commit(t, f)
	s = reopen(t, s) // what was made up to here is in tables from now on
	openJournal(t, s)
	v = vmNamed(t, s, "web")
	f = fileNamed(t, v, "root")
	write(t, f, blocksOf(2, 4), 0)
	snapshot(t, v, "s2")
	write(t, f, blocksOf(9, 2), 0)
	flush(t, f)
	killedAt(t, s, dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, lockName), nil, 0o600))
	logs := fullLogs(t, dir)
	require.Len(t, logs, 1)
	for lastLog = range logs {
	}
	return dir, lastLog
}

// otherStore has a counter and a log, of one identity.
func otherStore(t *testing.T) (counter, log, format []byte) {
	t.Helper()
	other, last := endlessStore(t, false)
	read := func(path string) []byte {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		return data
	}
	return read(filepath.Join(other, commitsName)), read(last), read(filepath.Join(other, formatName))
}

func TestLostEndOfTheIndex(t *testing.T) {
	counter, foreign, format := otherStore(t)
	put := func(t *testing.T, path string, data []byte) {
		t.Helper()
		require.NoError(t, os.WriteFile(path, data, 0o600))
	}
	for _, c := range []struct {
		name   string
		backup bool
		spoil  func(t *testing.T, dir, log string)
		signs  []string // beside data files and the journal
	}{
		{"counter and log of another store", true, func(t *testing.T, dir, log string) {
			put(t, filepath.Join(dir, commitsName), counter)
			put(t, log, foreign)
		}, []string{"log"}},
		{"without backups", false, func(t *testing.T, dir, log string) {
			put(t, filepath.Join(dir, commitsName), counter)
			put(t, log, foreign)
		}, []string{"log"}},
		{"FORMAT, too", true, func(t *testing.T, dir, log string) {
			put(t, filepath.Join(dir, commitsName), counter)
			put(t, filepath.Join(dir, formatName), format)
			put(t, log, foreign)
		}, []string{"log"}},
		{"counter and log missing", true, func(t *testing.T, dir, log string) {
			require.NoError(t, os.Remove(filepath.Join(dir, commitsName)))
			require.NoError(t, os.Remove(log))
		}, nil},
		{"counter missing, log unreadable", false, func(t *testing.T, dir, log string) {
			require.NoError(t, os.Remove(filepath.Join(dir, commitsName)))
			put(t, log, blocksOf(7, 3))
		}, []string{"log"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, log := endlessStore(t, c.backup)
			c.spoil(t, dir, log)
			before := requireRefused(t, dir)
			require.Error(t, before)

			signs := []string{journalName}
			if slices.Contains(c.signs, "log") {
				signs = append(signs, filepath.Join(indexName, filepath.Base(log)))
			}
			check, err := Check(dir)
			require.NoError(t, err)
			require.Subset(t, objects(check.Findings), signs)
			require.Contains(t, check.Findings[0].Text, "its last commits are missing")
			require.Contains(t, check.Findings[0].Text, "--repair` goes back to before that")

			report := repaired(t, dir)
			require.Subset(t, objects(report.Lost), append(signs, indexName))
			require.NotNil(t, report.Restored)
			require.Contains(t, objects(report.Restored.States), "web/root")
			require.False(t, report.WentBack.IsZero())
			require.NotContains(t, report.Names, "web@s2")
			s := openStore(t, dir, Options{})
			requireSame(t, blocksOf(1, 8), viewed(t, vmNamed(t, s, "web"), "s1", "root"), "a snapshot")
		})
	}
}

func objects(all []Finding) (names []string) {
	for _, f := range all {
		names = append(names, f.Object)
	}
	return names
}

// A backup that is newer than what is left of the index is what to go back to, and a repair does not take it by itself.
func TestLostEndThatABackupHas(t *testing.T) {
	counter, foreign, _ := otherStore(t)
	dir := filepath.Join(t.TempDir(), "store")
	s := reopen(t, newStore(t, Options{}))
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 8*blockSize)
	write(t, f, blocksOf(1, 8), 0)
	snapshot(t, v, "s1")
	require.NoError(t, s.backUp(time.Now()))
	write(t, f, blocksOf(2, 4), 0)
	snapshot(t, v, "s2")
	killedAt(t, s, dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, lockName), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, commitsName), counter, 0o600))
	for log := range fullLogs(t, dir) {
		require.NoError(t, os.WriteFile(log, foreign, 0o600))
	}
	report, err := repairAndTell(dir)
	require.NoError(t, err)
	require.True(t, report.Unread)
	require.Contains(t, report.Findings[0].Text, "`snapfs restore-index "+dir+"` goes back to the backup")
	_, err = restoreAndTell(dir, false)
	require.NoError(t, err)
	s = openStore(t, dir, Options{})
	requireSame(t, blocksOf(1, 8), viewed(t, vmNamed(t, s, "web"), "s1", "root"), "a snapshot")
}

// requireEnd sees to it that nothing which a crash leaves is taken for a sign that the index lacks its last commits.
func requireEnd(t tester, dir string) {
	t.Helper()
	if rand.IntN(4) > 0 {
		return
	}
	require.NoError(t, readIndexBy(dir, "", nil, func(o *offline) error {
		end, _, err := o.lostEnd()
		require.Empty(t, end.signs)
		return err
	}))
}

// withOlderIndex is a store that was written to, with a snapshot, and then got the index and the counter back that it had before;
// with a backup of what it had then, or without. want is what that read.
func withOlderIndex(t *testing.T, backup bool) (dir string, want map[string][][]byte) {
	t.Helper()
	s := newStore(t, Options{})
	write(t, makeFile(t, makeVM(t, s, "web"), "root", 8*blockSize), blocksOf(1, 2), 0)
	require.NoError(t, s.Close())
	older := copied(t, s.dir)
	s = openStore(t, s.dir, Options{})
	v := vmNamed(t, s, "web")
	snapshot(t, v, "s1")
	write(t, fileNamed(t, v, "root"), blocksOf(2, 2), 0)
	commit(t, fileNamed(t, v, "root"))
	if backup {
		require.NoError(t, s.backUp(time.Now()))
	}
	want = contents(t, s)
	require.NoError(t, s.Close())
	for _, name := range []string{indexName, commitsName} {
		require.NoError(t, os.RemoveAll(filepath.Join(s.dir, name)))
		require.NoError(t, os.Rename(filepath.Join(older, name), filepath.Join(s.dir, name)))
	}
	return s.dir, want
}

// An older copy of the index, and of its counter, is refused, and named, before it gives out ids once more; a repair puts aside what
// it does not know, and says that the rest is gone.
func TestOlderIndexAndCounter(t *testing.T) {
	dir, _ := withOlderIndex(t, false)
	_, err := Open(dir, Options{})
	require.ErrorContains(t, err, "is an older copy, or layers/0000")
	report, err := Check(dir)
	require.NoError(t, err)
	require.Contains(t, fmt.Sprint(report.Findings), "{index is an older copy")
	report = repaired(t, dir)
	require.NotEmpty(t, report.Repaired)
	require.Contains(t, fmt.Sprint(report.Lost), "{index is an older copy")
	require.False(t, report.WentBack.IsZero())
	s := openStore(t, dir, Options{})
	v := vmNamed(t, s, "web")
	require.Empty(t, v.Snapshots())
	requireSame(t, blocksOf(1, 2), content(t, fileNamed(t, v, "root"))[:2*blockSize], "as it was")
}

// A backup that is newer than such a copy is named, and brings back what it has; a repair takes nothing away before that.
func TestBackupNewerThanTheIndex(t *testing.T) {
	dir, want := withOlderIndex(t, true)
	_, err := Open(dir, Options{})
	require.ErrorContains(t, err, "`snapfs restore-index "+dir+"` goes on to that of ")
	_, err = repairAndTell(dir)
	require.ErrorContains(t, err, "goes on to that of ")
	_, err = restoreAndTell(dir, false)
	require.NoError(t, err)
	requireSound(t, dir)
	require.Equal(t, want, contents(t, openStore(t, dir, Options{})))
}
