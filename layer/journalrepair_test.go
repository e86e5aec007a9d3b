package layer

// A journal that is damaged: a mount refuses it, and says what to do; a check finds it; a repair goes on with what there is.

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// spoilJournal leaves something else in the journal's place.
func spoilJournal(t *testing.T, dir, how string) {
	t.Helper()
	path := filepath.Join(dir, journalName)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	switch how {
	case "missing":
	case "directory":
		require.NoError(t, os.Mkdir(path, 0o700))
	case "empty":
		require.NoError(t, os.WriteFile(path, nil, 0o600))
	case "truncated":
		require.NoError(t, os.WriteFile(path, data[:50], 0o600)) // not even a header
	case "zeros":
		require.NoError(t, os.WriteFile(path, make([]byte, len(data)), 0o600))
	case "another store's":
		other, _ := crashedJournaled(t)
		require.NoError(t, os.Rename(filepath.Join(other, journalName), path))
	}
}

// The blocks that crashedJournaled flushed, and those of before.
func rootWithout(want []byte, from, to int) []byte {
	p := append([]byte(nil), want...)
	for i := from; i < to; i++ {
		clear(p[i*blockSize : (i+1)*blockSize])
		if i < 10 {
			copy(p[i*blockSize:(i+1)*blockSize], blocksOf(1, 10)[i*blockSize:])
		}
	}
	return p
}

func TestRepairOfTheJournal(t *testing.T) {
	crashed, want := crashedJournaled(t)
	for _, how := range []string{"missing", "directory", "empty", "truncated", "zeros", "another store's"} {
		t.Run(how, func(t *testing.T) {
			dir := copied(t, crashed)
			spoilJournal(t, dir, how)
			_, err := Open(dir, Options{})
			requireEIO(t, err)
			require.ErrorIs(t, err, errJournal)
			require.ErrorContains(t, err, "`snapfs check "+dir+" --repair` goes on with")
			t.Log(err)
			report, err := Check(dir)
			require.NoError(t, err)
			require.Len(t, report.Findings, 1)
			require.Equal(t, journalName, report.Findings[0].Object)
			t.Log(report.Findings[0].Text)
			report = repaired(t, dir)
			require.Empty(t, report.Findings)
			require.Len(t, report.Repaired, 1)
			require.Equal(t, journalName, report.Repaired[0].Object)
			require.Len(t, report.Lost, 1)
			require.Equal(t, "web/root", report.Lost[0].Object, "whom it strikes")
			t.Log(report.Repaired, report.Lost)
			aside, err := filepath.Glob(filepath.Join(dir, quarantineName, "*", journalName))
			require.NoError(t, err)
			if how == "missing" {
				require.Empty(t, aside)
			} else {
				require.Len(t, aside, 1)
			}
			requireJournalAgain(t, dir, rootWithout(want, 5, 19))
		})
	}
}

// requireJournalAgain mounts a store, in which a journal can be used.
func requireJournalAgain(t *testing.T, dir string, want []byte) {
	t.Helper()
	s := openStore(t, dir, Options{})
	requireRoot(t, s, want, "what the repair left")
	openJournal(t, s)
	f := fileNamed(t, vmNamed(t, s, "web"), "root")
	want = append([]byte(nil), want...)
	for i := range int64(3) {
		p := blocksOf(byte(50+i), 1)
		write(t, f, p, (30+i)*blockSize)
		flush(t, f)
		copy(want[(30+i)*blockSize:], p)
	}
	s = kill(t, s, dir+"+")
	requireRoot(t, s, want, "after the next crash")
	require.NoError(t, s.Close())
	requireSound(t, s.dir)
}

// Some records are damaged, and the others are used.
func TestRepairOfRecords(t *testing.T) {
	dir, want := crashedJournaled(t)
	path := filepath.Join(dir, journalName)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	records, err := parse(data)
	require.NoError(t, err)
	require.Len(t, records, 5)
	slot := journalHeaders + 3 // of the second
	data[slot*blockSize+2*blockSize+7] ^= 1
	require.NoError(t, os.WriteFile(path, data, 0o600))
	_, err = Open(dir, Options{})
	requireEIO(t, err)
	t.Log(err)
	report := repaired(t, dir)
	require.Empty(t, report.Findings)
	require.Len(t, report.Repaired, 1)
	require.Len(t, report.Lost, 1)
	require.Equal(t, "web/root", report.Lost[0].Object)
	t.Log(report.Repaired, report.Lost)
	require.NoDirExists(t, filepath.Join(dir, quarantineName))
	requireJournalAgain(t, dir, rootWithout(want, 8, 10))
}

// Where only the processes were killed, the blocks that are lost with the journal are known. A start that refuses it leaves
// them where they are.
func TestLosersOfAJournal(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f, idle := makeFile(t, v, "root", 10*blockSize), makeFile(t, v, "idle", 10*blockSize)
	for _, f := range []*File{f, idle} {
		write(t, f, blocksOf(1, 2), 0)
		commit(t, f)
	}
	openJournal(t, s)
	write(t, f, blocksOf(2, 1), 0)
	flush(t, f)
	from := s.journal.position()
	for _, b := range []int64{3, 4, 8} {
		write(t, f, blocksOf(2, 1), b*blockSize)
		flush(t, f)
	}
	require.EqualValues(t, from+3, s.journal.position())
	dir := filepath.Join(t.TempDir(), "killed")
	heads := map[string]LayerID{"root": f.state.Load().head.id, "idle": idle.state.Load().head.id}
	killedAt(t, s, dir)
	now := time.Now()
	require.NoError(t, os.Chtimes(filepath.Join(dir, layersName, fileName(heads["root"])), now, now))
	require.NoError(t, os.Chtimes(filepath.Join(dir, layersName, fileName(heads["idle"])), now, now.Add(-time.Hour)))
	spoilJournal(t, dir, "missing")
	for range 2 {
		_, err := Open(dir, Options{})
		requireEIO(t, err)
		report, err := Check(dir)
		require.NoError(t, err)
		require.Len(t, report.Notes, 1)
		require.Equal(t, "web/root", report.Notes[0].Object)
		require.Contains(t, report.Notes[0].Text, "up to 12KiB is in the journal alone: bytes 12288-20479, 32768-36863")
	}
	report := repaired(t, dir)
	require.Len(t, report.Repaired, 1)
	require.Len(t, report.Lost, 1)
	require.Contains(t, report.Lost[0].Text, "up to 12KiB is lost")
	require.Equal(t, [][2]int64{{3 * blockSize, 5 * blockSize}, {8 * blockSize, 9 * blockSize}}, report.Lost[0].Ranges)
	requireSound(t, dir)
}

// What is to be repaired lies in a head of which the journal has something: that is not lost with it.
func TestRepairKeepsWhatTheJournalHas(t *testing.T) {
	dir, want := crashedJournaled(t)
	heads, err := filepath.Glob(filepath.Join(dir, layersName, "*"))
	require.NoError(t, err)
	require.NoError(t, os.Truncate(heads[len(heads)-1], 0)) // its first block is lost, too
	report := repaired(t, dir)
	require.Len(t, report.Findings, 1)
	require.Contains(t, report.Findings[0].Text, "bytes 0-4095")
	s := openStore(t, dir, Options{})
	f := fileNamed(t, vmNamed(t, s, "web"), "root")
	p := make([]byte, 39*blockSize)
	_, err = f.Read(p, blockSize)
	require.NoError(t, err)
	requireSame(t, want[blockSize:], p, "but for the first block")
}

// An index that is older than the journal makes nothing of it.
func TestRestoreDropsTheJournal(t *testing.T) {
	s, _, f := backedUpStore(t)
	flush(t, f)
	openJournal(t, s)
	require.NoError(t, s.backUp(time.Now().Add(time.Minute)))
	write(t, f, blocksOf(3, 1), 6*blockSize)
	flush(t, f)
	require.Greater(t, s.journal.position(), uint64(1))
	dir := filepath.Join(t.TempDir(), "crashed")
	copyStore(t, s.dir, dir)
	copyTree(t, filepath.Join(s.dir, backupName), filepath.Join(dir, backupName))
	destroyIndex(t, dir)
	report, err := restoreAndTell(dir, false)
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(dir, report.Aside, journalName))
	again := openStore(t, dir, Options{})
	openJournal(t, again)
	require.NoError(t, again.Close())
	requireSound(t, dir)
}
