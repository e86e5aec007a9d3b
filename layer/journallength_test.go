package layer

// A journal that something was appended to, or that was cut off: a mount refuses it by name, and a repair uses all of its records
// that are there.

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// A journal of six records, of which crashedJournaled or killedJournaled has the data files lack some.
func TestRepairOfAJournalOfAnotherLength(t *testing.T) {
	killed, killedWant := killedJournaled(t)
	crashed, crashedWant := crashedJournaled(t)
	for what, c := range map[string]struct {
		dir  string
		want []byte
	}{"a kill": {killed, killedWant}, "a crash of the host": {crashed, crashedWant}} {
		whole := bytesOf(t, c.dir)
		records, err := parse(bytesOf(t, c.dir))
		require.NoError(t, err)
		for _, r := range records { // what was written since, and not flushed, is as they have it
			for k, b := range r.blocks {
				copy(c.want[b*blockSize:], r.data[k*blockSize:(k+1)*blockSize])
			}
		}
		last := records[len(records)-1]
		end := (last.at + 1 + len(last.blocks)) * blockSize // of the last record
		for name, p := range map[string][]byte{
			"100 bytes appended":         append(bytesOf(t, c.dir), make([]byte, 100)...),
			"half of another appended":   append(bytesOf(t, c.dir), whole[:len(whole)/2+3]...),
			"cut off behind the records": whole[:end+100],
			"cut off at their end":       whole[:end],
		} {
			t.Run(what+", "+name, func(t *testing.T) {
				if len(p)%blockSize == 0 && len(p) > (journalHeaders+journalBlocks)*blockSize {
					t.Fatal("this is a length that a journal may have")
				}
				dir := copied(t, c.dir)
				putFile(t, dir, journalName, p)
				layers := everythingIn(t, filepath.Join(dir, layersName))
				_, err := Open(dir, Options{})
				requireEIO(t, err)
				require.ErrorContains(t, err, fmt.Sprintf("it has %d bytes, and was made with %d; `snapfs check %s --repair` goes on with what can be read", len(p), len(whole), dir))
				require.Contains(t, findingOf(t, dir, journalName), fmt.Sprintf("it has %d bytes", len(p)))
				require.Equal(t, p, bytesOf(t, dir))
				require.Equal(t, layers, everythingIn(t, filepath.Join(dir, layersName)))
				report := repaired(t, dir)
				require.Empty(t, report.Findings)
				require.Empty(t, report.Lost)
				require.Len(t, report.Repaired, 1)
				require.NoDirExists(t, filepath.Join(dir, quarantineName))
				requireJournalAgain(t, dir, c.want)
			})
		}
	}
}

// Cut off within its records it has lost those that were cut off, and no others.
func TestRepairOfACutJournal(t *testing.T) {
	crashed, want := crashedJournaled(t)
	whole := bytesOf(t, crashed)
	records, err := parse(bytesOf(t, crashed))
	require.NoError(t, err)
	for i, r := range records {
		dir := copied(t, crashed)
		putFile(t, dir, journalName, whole[:(r.at+2)*blockSize-1]) // within its first block
		_, err := Open(dir, Options{})
		requireEIO(t, err)
		report := repaired(t, dir)
		require.Empty(t, report.Findings)
		require.Contains(t, fmt.Sprint(report.Repaired), fmt.Sprintf("%d of its records cannot be read", len(records)-i))
		require.Len(t, report.Lost, 1)
		require.Equal(t, "web/root", report.Lost[0].Object)
		requireJournalAgain(t, dir, rootWithout(want, 5+3*i, 19))
	}
	// Without a header nothing of it can be read.
	dir := copied(t, crashed)
	putFile(t, dir, journalName, whole[:50])
	report := repaired(t, dir)
	require.Len(t, report.Lost, 1)
	kept, err := filepath.Glob(filepath.Join(dir, quarantineName, "*", journalName))
	require.NoError(t, err)
	require.Len(t, kept, 1)
	info, err := os.Stat(kept[0])
	require.NoError(t, err)
	require.EqualValues(t, 50, info.Size())
}

// Longer or shorter by whole blocks behind its last record it has lost nothing; a check notes it.
func TestJournalOfAnotherSize(t *testing.T) {
	crashed, want := crashedJournaled(t)
	whole := bytesOf(t, crashed)
	for _, p := range [][]byte{append(slices.Clone(whole), make([]byte, 3*blockSize)...), whole[:len(whole)-10*blockSize]} {
		dir := copied(t, crashed)
		putFile(t, dir, journalName, p)
		report, err := Check(dir)
		require.NoError(t, err)
		require.Empty(t, report.Findings)
		require.Contains(t, fmt.Sprint(report.Notes), fmt.Sprintf("{journal has %d bytes, and is made with %d", len(p), len(whole)))
		requireJournalAgain(t, dir, want)
	}
}
