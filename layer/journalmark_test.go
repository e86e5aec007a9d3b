package layer

// The journal's mark: whatever is lost at the journal's end is noticed, and nothing is missed that was never promised.

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/snapfs/snapfs/blockmap"
)

// loaded reads the journal in dir with its mark, as a start does.
func loaded(t tester, dir string) ([]journalRecord, error) {
	t.Helper()
	file, records, release, err := loadRing(dir, 0, true)
	if err != nil {
		return nil, err
	}
	file.close()
	release()
	return records, nil
}

func markOf(t tester, dir string) []byte {
	t.Helper()
	p, err := os.ReadFile(filepath.Join(dir, markName))
	require.NoError(t, err)
	return p
}

func putFile(t tester, dir, name string, p []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), p, 0o600))
}

// damaged is the journal with a byte of some records changed.
func damaged(p []byte, slots ...int) []byte {
	p = slices.Clone(p)
	for _, slot := range slots {
		p[slot*blockSize+100] ^= 1
	}
	return p
}

// Each way to lose the newest records, or all, without a trace in the journal itself.
func TestJournalLosesItsEnd(t *testing.T) {
	dir := t.TempDir()
	j := newRing(t, dir, 100)
	defer j.close()
	empty := bytesOf(t, dir)
	var copies, marks [][]byte
	for i := range 4 {
		_, err := record(t, j, 1, uint64(i), 1)
		require.NoError(t, err)
		copies, marks = append(copies, bytesOf(t, dir)), append(marks, markOf(t, dir))
	}
	whole, mark := copies[3], marks[3]
	for what, c := range map[string]struct {
		journal []byte
		lost    []uint64
		newest  uint64
	}{
		"nothing":                           {whole, nil, 4},
		"the newest record":                 {damaged(whole, journalHeaders+6), []uint64{4}, 3},
		"the newest two":                    {damaged(whole, journalHeaders+6, journalHeaders+4), []uint64{3, 4}, 2},
		"all of them":                       {damaged(whole, journalHeaders, journalHeaders+2, journalHeaders+4, journalHeaders+6), []uint64{1, 2, 3, 4}, 0},
		"one before it":                     {damaged(whole, journalHeaders+2), []uint64{2}, 4},
		"an older copy":                     {copies[1], []uint64{3, 4}, 2},
		"a copy without records":            {empty, []uint64{1, 2, 3, 4}, 0},
		"a ring of zeros":                   {append(slices.Clone(whole[:journalHeaders*blockSize]), make([]byte, 98*blockSize)...), []uint64{1, 2, 3, 4}, 0},
		"a file that was cut off, and grew": {append(slices.Clone(whole[:(journalHeaders+5)*blockSize]), make([]byte, 93*blockSize)...), []uint64{3, 4}, 2},
	} {
		putFile(t, dir, journalName, c.journal)
		putFile(t, dir, markName, mark)
		_, err := loaded(t, dir)
		if c.lost == nil {
			require.NoError(t, err, what)
			continue
		}
		var gap journalGap
		require.ErrorAs(t, err, &gap, what)
		require.Equal(t, journalGap{lost: c.lost, newest: c.newest, until: 5}, gap, what)
		t.Log(err)
		file, _, release, err := loadRing(dir, gap.until, true)
		require.NoError(t, err, "%s, which is known", what)
		require.EqualValues(t, 5, file.next, "no number comes twice")
		release()
		file.close()
	}
	putFile(t, dir, journalName, whole)
	for _, lagging := range marks {
		putFile(t, dir, markName, lagging)
		_, err := loaded(t, dir)
		require.NoError(t, err, "a mark that lags, as after a power loss")
	}

	// An older key's journal, and an older key's mark.
	require.NoError(t, j.settled(1))
	require.NoError(t, j.file.renew(j.position()))
	putFile(t, dir, journalName, whole)
	_, err := loaded(t, dir)
	require.NoError(t, err, "no record of the new key is lost, and none of the old one is needed")
	file, _, release, err := loadRing(dir, 0, true)
	require.NoError(t, err)
	release()
	require.EqualValues(t, 5, file.next)
	require.NoError(t, file.renew(5))
	require.EqualValues(t, 3, file.generation, "above that of the copy that is lost")
	file.close()
	putFile(t, dir, markName, mark)
	_, err = loaded(t, dir)
	require.NoError(t, err, "a crash between the key and the mark")
}

// settled has the records of a layer not be needed, and the ring begin anew.
func (j *journal) settled(l LayerID) error {
	j.settle(l, j.position())
	j.open.Store(false)
	if !j.drained() {
		return fmt.Errorf("%d records are needed", len(j.live))
	}
	return nil
}

// A mark of which a slot is damaged is that of the other one; without any it is no mark.
func TestDamagedMark(t *testing.T) {
	dir := t.TempDir()
	j := newRing(t, dir, 100)
	defer j.close()
	for i := range 5 {
		_, err := record(t, j, 1, uint64(i), 1)
		require.NoError(t, err)
	}
	mark, whole := markOf(t, dir), bytesOf(t, dir)
	require.Len(t, mark, markSecond+markSlot)
	phase := rand.IntN(17)
	older := damaged(whole, journalHeaders+8) // without number 5
	for at := range mark {
		if at >= markSlot && at < markSecond || at%markSecond > 120 && at%17 != phase || !oneIn(20) {
			continue // of what is all alike, another part each time
		}
		p := slices.Clone(mark)
		p[at] ^= 1 << (at % 8)
		putFile(t, dir, markName, p)
		putFile(t, dir, journalName, whole)
		_, err := loaded(t, dir)
		require.NoError(t, err, "byte %d", at)
		putFile(t, dir, journalName, damaged(older, journalHeaders+6))
		_, err = loaded(t, dir)
		var gap journalGap
		require.ErrorAs(t, err, &gap, "byte %d", at)
	}
	putFile(t, dir, journalName, whole)
	other := t.TempDir()
	newRing(t, other, 100).close()
	path := filepath.Join(dir, markName)
	for what, put := range map[string]func() error{
		"missing":         func() error { return nil },
		"is damaged":      func() error { return os.WriteFile(path, make([]byte, len(mark)), 0o600) },
		"damaged":         func() error { return os.WriteFile(path, mark[:100], 0o600) },
		"another journal": func() error { return os.Rename(filepath.Join(other, markName), path) },
		"no file":         func() error { return os.Mkdir(path, 0o700) },
		"is no file":      func() error { return os.Symlink(journalName, path) },
		"mark is no file": func() error { return syscall.Mkfifo(path, 0o600) },
	} {
		require.NoError(t, os.RemoveAll(path))
		require.NoError(t, put())
		_, err := loaded(t, dir)
		var lost errMark
		require.ErrorAs(t, err, &lost, what)
		require.ErrorContains(t, err, what)
		require.ErrorIs(t, err, errJournal)
		_, _, release, err := loadRing(dir, 0, false)
		require.NoError(t, err, "where nobody asks for it")
		release()
	}
}

// Records that are written at the same time, and end in any order: each of them that has ended is missed when it is lost, and
// no other, whatever else is under way.
func TestJournalMarkOfManyAtOnce(t *testing.T) {
	base, run := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		dir := filepath.Join(base, fmt.Sprint(run))
		require.NoError(t, os.Mkdir(dir, 0o700))
		j := newRing(t, dir, 400)
		defer j.close()
		type writing struct {
			journalRecord
			slot int
		}
		var under, ended []writing
		layers := LayerID(0)
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				for range rapid.SampledFrom([]int{1, 1, 5, markWriting}).Draw(t, "so many") {
					layers++
					r := writing{journalRecord: journalRecord{layer: layers, blocks: []uint64{1}}}
					var err error
					if r.slot, err = j.begin(&r.journalRecord); err != nil {
						require.ErrorIs(t, err, errNoRoom)
						return
					}
					under = append(under, r)
				}
			},
			"end": func(t *rapid.T) {
				for range min(len(under), rapid.SampledFrom([]int{1, 3, 20}).Draw(t, "so many")) {
					i := rapid.IntRange(0, len(under)-1).Draw(t, "which")
					r := under[i]
					p, err := j.memory()
					require.NoError(t, err)
					j.file.seal(p[:2*blockSize], &r.journalRecord)
					require.NoError(t, j.file.write(p[:2*blockSize], r.slot))
					j.putMemory(p)
					m := j.end(nil, &r.journalRecord)
					require.NoError(t, j.file.mark.write(&m))
					under = slices.Delete(under, i, i+1)
					ended = append(ended, r)
				}
			},
			"": func(t *rapid.T) {
				_, err := loaded(t, dir)
				require.NoError(t, err)
				if len(ended) == 0 {
					return
				}
				r := rapid.SampledFrom(ended).Draw(t, "that is lost")
				ahead := 0 // of those that are not written yet
				for _, w := range under {
					if w.number < r.number {
						ahead++
					}
				}
				p := bytesOf(t, dir)
				putFile(t, dir, journalName, damaged(p, r.slot))
				_, err = loaded(t, dir)
				putFile(t, dir, journalName, p)
				if err == nil && ahead > markWriting {
					return // more than a mark has numbers for
				}
				var gap journalGap
				require.ErrorAs(t, err, &gap)
				require.Equal(t, []uint64{r.number}, gap.lost)
			},
		})
	})
}

// A mark that was made before another one, and comes to be written after it, does not undo that.
func TestJournalMarkGoesNotBack(t *testing.T) {
	dir := t.TempDir()
	j := newRing(t, dir, 100)
	defer j.close()
	var marks []journalMark
	for i := range 3 {
		r := journalRecord{layer: 1, blocks: []uint64{uint64(i)}}
		_, err := j.begin(&r)
		require.NoError(t, err)
		marks = append(marks, j.end(nil, &r))
	}
	for _, i := range []int{0, 2, 1, 0, 1} {
		require.NoError(t, j.file.mark.write(&marks[i]))
	}
	last, _, err := j.file.mark.read(j.file.id)
	require.NoError(t, err)
	require.Equal(t, marks[2].next, last.next)
}

// Each thing that is asked of the host for records fails once: whatever is on disk then, no mark names a record that is not
// there, and each that was answered is named.
func TestMarkNeverLeads(t *testing.T) {
	base, hits := t.TempDir(), 0
	for _, kind := range []string{"write", "sync", "create", "open"} {
		for n := 1; ; n++ {
			dir := filepath.Join(base, fmt.Sprint(kind, n))
			require.NoError(t, os.Mkdir(dir, 0o700))
			f := &failure{kind: kind, n: n}
			fault = f.ask
			answered := failingRing(t, dir, f)
			fault = nil
			if !exists(filepath.Join(dir, markName)) {
				hits++
				continue // and no journal
			}
			records, err := loaded(t, dir)
			if answered == 0 && err != nil {
				require.ErrorIs(t, err, errJournal, "it was never begun")
			} else {
				require.NoError(t, err, "%s %d", kind, n)
				require.GreaterOrEqual(t, len(records), answered, "%s %d", kind, n)
			}
			if !f.hit {
				break
			}
			hits++
		}
	}
	require.Greater(t, hits, 15)
	t.Logf("%d failures", hits)
}

// failingRing makes a journal, writes to it, renews it, and writes to it again, until something fails. It says how many
// records under the last key were answered.
func failingRing(t *testing.T, dir string, f *failure) (answered int) {
	f.arm(true)
	defer f.arm(false)
	file, err := makeJournal(dir, smallRing, 1)
	if err != nil {
		return 0
	}
	j := newJournal()
	j.start(file)
	defer j.close()
	for round := range 2 {
		for i := range 3 {
			if _, err := record(t, j, 1, uint64(i), 1); err != nil {
				return answered
			}
			answered++
		}
		if round == 0 {
			require.NoError(t, j.settled(1))
			answered = 0
			if err := j.file.renew(j.position()); err != nil {
				return 0
			}
			j.start(j.file)
		}
	}
	return answered
}

// A store whose journal has lost its end, or whose mark is gone, is refused by name, until it is repaired; then what is left
// of the journal is used, and nothing is as it was not.
func TestRepairOfTheMark(t *testing.T) {
	crashed, want := crashedJournaled(t)
	whole := bytesOf(t, crashed)
	ring := journalHeaders * blockSize
	for _, c := range []struct {
		how  string
		do   func(t *testing.T, dir string)
		says string
		root []byte
	}{
		{"the newest record is damaged", func(t *testing.T, dir string) {
			putFile(t, dir, journalName, damaged(whole, journalHeaders+12))
		}, "number 5", rootWithout(want, 17, 19)},
		{"the newest two are", func(t *testing.T, dir string) {
			putFile(t, dir, journalName, damaged(whole, journalHeaders+12, journalHeaders+9))
		}, "2 cannot be read", rootWithout(want, 14, 19)},
		{"the ring is zeros", func(t *testing.T, dir string) {
			putFile(t, dir, journalName, append(slices.Clone(whole[:ring]), make([]byte, len(whole)-ring)...))
		}, "5 cannot be read", rootWithout(want, 5, 19)},
		{"the mark is missing", func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, markName)))
		}, "is missing", want},
		{"the mark is damaged", func(t *testing.T, dir string) { putFile(t, dir, markName, make([]byte, 5000)) }, "is damaged", want},
		{"the mark is another journal's", func(t *testing.T, dir string) {
			other, _ := crashedJournaled(t)
			putFile(t, dir, markName, markOf(t, other))
		}, "that of another journal", want},
		{"a directory is in the mark's place", func(t *testing.T, dir string) {
			require.NoError(t, errorOf(os.Remove(filepath.Join(dir, markName)), os.Mkdir(filepath.Join(dir, markName), 0o700)))
		}, "is no file", want},
	} {
		if !oneIn(4) {
			continue
		}
		t.Run(c.how, func(t *testing.T) {
			dir := copied(t, crashed)
			c.do(t, dir)
			_, err := Open(dir, Options{})
			requireEIO(t, err)
			require.ErrorContains(t, err, c.says)
			require.ErrorContains(t, err, "`snapfs check "+dir+" --repair` goes on with")
			require.NotContains(t, err.Error(), "\n")
			t.Log(err)
			report, err := Check(dir)
			require.NoError(t, err)
			require.Len(t, report.Findings, 1)
			require.Contains(t, report.Findings[0].Text, c.says)
			report = repaired(t, dir)
			require.Empty(t, report.Findings)
			require.Equal(t, journalName, report.Repaired[0].Object)
			t.Log(report.Repaired[0].Object, report.Repaired[0].Text)
			requireJournalAgain(t, dir, c.root)
			requireMarked(t, dir)
		})
	}
}

// requireMarked requires that the index knows of a mark that fits.
func requireMarked(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, lookInto(dir, func(o *offline) error {
		require.True(t, o.catalog.store.JournalMark)
		_, err := o.journal()
		return err
	}))
}

// A store whose journal is from before there were marks has one from the first start on.
func TestJournalWithoutAMark(t *testing.T) {
	dir, want := crashedJournaled(t)
	require.NoError(t, os.Remove(filepath.Join(dir, markName)))
	require.NoError(t, withOffline(dir, &quarantine{store: dir}, new([]Finding), func(o *offline) error {
		return o.index.Update(func(tx *blockmap.Tx) error {
			return edit(tx, []byte{tableMeta}, func(r *storeRecord) { r.JournalMark = false })
		})
	}))
	requireSound(t, dir)
	requireJournalAgain(t, dir, want)
	requireMarked(t, dir)
}

// What is there twice, and damaged once, does no harm; a check names it, and a repair, or a mount, writes it anew.
func TestJournalWornHalves(t *testing.T) {
	crashed, want := crashedJournaled(t)
	for _, c := range []struct {
		name string
		at   int
		says string
	}{
		{journalName, 30, "its header at byte 0"},
		{journalName, blockSize + 30, "its header at byte 4096"},
		{markName, 30, "the slot of journal.mark at byte 0"},
		{markName, markSecond + 30, "the slot of journal.mark at byte 4096"},
	} {
		dir := copied(t, crashed)
		path := filepath.Join(dir, c.name)
		p, err := os.ReadFile(path)
		require.NoError(t, err)
		p[c.at] ^= 1
		putFile(t, dir, c.name, p)
		report, err := Check(dir)
		require.NoError(t, err)
		require.Len(t, report.Findings, 1)
		require.Contains(t, report.Findings[0].Text, c.says)
		t.Log(report.Findings[0].Text)
		mounted := copied(t, dir)
		report = repaired(t, dir)
		require.Empty(t, report.Findings)
		require.Len(t, report.Repaired, 1)
		require.Contains(t, report.Repaired[0].Text, c.says)
		for _, dir := range []string{dir, mounted} {
			requireJournalAgain(t, dir, want)
			requireMarked(t, dir)
			requireSound(t, dir)
		}
	}
}
