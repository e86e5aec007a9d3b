package layer

// A repair of the journal after mere processes were killed, and after the host went down.

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// rebooted has a store's journal be of an earlier run of the host.
func rebooted(t tester, dir string) {
	t.Helper()
	p := markOf(t, dir)
	for _, at := range []int{0, markSecond} {
		m, ok := decodeMark(p[at : at+markSlot])
		require.True(t, ok)
		require.Equal(t, thisRun(dir), m.run, "what is written now is of this run")
		m.run[0] ^= 1
		m.encode(p[at : at+markSlot])
	}
	putFile(t, dir, markName, p)
}

// killedJournaled makes a store that a kill has left. Of web/root, ten blocks are in the index, and six records in the journal:
// of blocks that the index knows, of others, and of both again.
func killedJournaled(t *testing.T) (dir string, want []byte) {
	t.Helper()
	s := newStore(t, Options{})
	f := makeFile(t, makeVM(t, s, "web"), "root", 40*blockSize)
	write(t, f, blocksOf(1, 10), 0)
	commit(t, f)
	openJournal(t, s)
	before := s.journal.position()
	for i, at := range []int64{12, 3, 3, 12, 3, 14} {
		write(t, f, blocksOf(byte(20+10*i), 1+i%2), at*blockSize)
		flush(t, f)
	}
	require.Equal(t, before+6, s.journal.position())
	write(t, f, blocksOf(99, 1), 4*blockSize) // and no flush
	want = content(t, f)
	dir = filepath.Join(t.TempDir(), "killed")
	killedAt(t, s, dir)
	return dir, want
}

// damageRecords damages those of a store's journal that are lost, the first one being 0.
func damageRecords(t *testing.T, dir string, lost ...int) {
	t.Helper()
	p := bytesOf(t, dir)
	records, err := parse(bytesOf(t, dir))
	require.NoError(t, err)
	require.Len(t, records, 6)
	var slots []int
	for _, i := range lost {
		slots = append(slots, records[i].at)
	}
	putFile(t, dir, journalName, damaged(p, slots...))
}

// After a mere kill nothing older than what is in the data files is written to them, and what is lost is named: all of it.
func TestRepairOfAJournalAfterAKill(t *testing.T) {
	killed, want := killedJournaled(t)
	for _, c := range []struct {
		lost, gone []int // records, and blocks
	}{
		{[]int{5}, []int{14, 15}},
		{[]int{4, 5}, []int{14, 15}},
		{[]int{3, 4, 5}, []int{13, 14, 15}},
		{[]int{0, 1, 2, 3, 4, 5}, []int{12, 13, 14, 15}},
		{[]int{4}, nil},
		{[]int{0, 1, 2}, nil},
		{[]int{1, 3}, []int{13}},
	} {
		if !oneIn(4) {
			continue
		}
		t.Run(fmt.Sprint(c.lost), func(t *testing.T) {
			dir := copied(t, killed)
			damageRecords(t, dir, c.lost...)
			_, err := Open(dir, Options{})
			requireEIO(t, err)
			report := repaired(t, dir)
			require.Empty(t, report.Findings)
			t.Log(report.Repaired, report.Lost)
			require.Contains(t, report.Repaired[0].Text, "the host has not gone down")
			want := append([]byte(nil), want...)
			var named []int
			for _, l := range report.Lost {
				require.Equal(t, "web/root", l.Object)
				for _, r := range l.Ranges {
					for at := r[0]; at < r[1]; at += blockSize {
						named = append(named, int(at/blockSize))
					}
				}
			}
			require.Equal(t, c.gone, named)
			for _, b := range c.gone {
				clear(want[b*blockSize : (b+1)*blockSize])
			}
			s := openStore(t, dir, Options{})
			requireRoot(t, s, want, "what the data file has")
			require.NoError(t, s.Close())
			requireSound(t, dir)
			requireJournalAgain(t, dir, want)
		})
	}
}

// What the data file has lost all the same comes from the journal, from its newest record.
func TestRepairAfterAKillFillsHoles(t *testing.T) {
	dir, want := killedJournaled(t)
	heads, err := filepath.Glob(filepath.Join(dir, layersName, "*"))
	require.NoError(t, err)
	require.NoError(t, os.Truncate(heads[len(heads)-1], 12*blockSize))
	damageRecords(t, dir, 4)
	report := repaired(t, dir)
	require.Empty(t, report.Lost)
	requireJournalAgain(t, dir, want)
}

// After the host went down, or where that is not known, records count, and nobody is told that nothing is lost.
func TestRepairOfAJournalAfterACrashOfTheHost(t *testing.T) {
	killed, want := killedJournaled(t)
	records, err := parse(bytesOf(t, killed))
	require.NoError(t, err)
	for i, r := range records {
		for k, b := range r.blocks {
			if i != 4 { // which is lost
				copy(want[b*blockSize:], r.data[k*blockSize:(k+1)*blockSize])
			}
		}
	}
	for how, do := range map[string]func(t *testing.T, dir string){
		"another run of the host": func(t *testing.T, dir string) { rebooted(t, dir) },
		"not known": func(t *testing.T, dir string) {
			bootFile = filepath.Join(dir, "missing")
			t.Cleanup(func() { bootFile = "/proc/sys/kernel/random/boot_id" })
		},
	} {
		t.Run(how, func(t *testing.T) {
			dir := copied(t, killed)
			do(t, dir)
			damageRecords(t, dir, 4)
			report := repaired(t, dir)
			require.Contains(t, report.Repaired[0].Text, "1 of its records cannot be read: of each, up to 32 blocks")
			require.Contains(t, report.Repaired[0].Text, "up to 128KiB in all")
			require.Len(t, report.Lost, 1)
			require.Equal(t, "web/root", report.Lost[0].Object)
			require.Contains(t, report.Lost[0].Text, "anything that its guest had flushed in the last seconds before may be lost")
			for _, times := range []int{1, 0} {
				var events eventLog
				s := openStore(t, dir, Options{Event: events.add})
				requireRoot(t, s, want, "what the records have")
				require.Equal(t, times, events.count("flushes-lost"))
				require.NoError(t, s.Close())
			}
		})
	}
}

// A journal that is gone as a whole takes nothing with it after a mere kill, but blocks that it alone knew of.
func TestLostJournalAfterAKill(t *testing.T) {
	dir, want := killedJournaled(t)
	spoilJournal(t, dir, "missing")
	report := repaired(t, dir)
	require.Len(t, report.Lost, 1)
	require.Equal(t, [][2]int64{{12 * blockSize, 16 * blockSize}}, report.Lost[0].Ranges)
	clear(want[12*blockSize : 16*blockSize])
	requireJournalAgain(t, dir, want)
}
