package layer

// Records that are written together.

import (
	"errors"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// group has records wait as if a write were under way, then writes them, and returns how it ended for each.
type group struct {
	j       *journal
	records []journalRecord
	ended   []error
	told    []bool
}

func newGroup(j *journal) *group {
	j.led = true
	return &group{j: j}
}

// add has one of a layer wait.
func (g *group) add(t tester, l LayerID, first uint64, blocks int) {
	t.Helper()
	i := len(g.records)
	r := journalRecord{layer: l, data: pattern(uint64(l)<<20+first, blocks*blockSize)}
	for b := range uint64(blocks) {
		r.blocks = append(r.blocks, first+b)
	}
	g.records, g.ended, g.told = append(g.records, r), append(g.ended, nil), append(g.told, false)
	err := g.j.submit(l, r.blocks, func(data []byte) error { copy(data, r.data); return nil }, func(err error) {
		require.False(t, g.told[i], "told twice")
		g.ended[i], g.told[i] = err, true
	})
	require.NoError(t, err)
	require.False(t, g.told[i], "it waits")
}

// write returns those that are on disk, with their numbers.
func (g *group) write(t tester) (written []journalRecord) {
	t.Helper()
	number := g.j.position()
	g.j.lead()
	require.False(t, g.j.led)
	for i, r := range g.records {
		require.True(t, g.told[i])
		if g.ended[i] == nil {
			r.number = number
			number++
			written = append(written, r)
		}
	}
	return written
}

// syncs counts what is asked of the disk until the test ends; those from the n-th on fail.
func syncs(t *testing.T, n int) *int {
	count := 0
	fault = func(kind string) error {
		if kind != "sync" {
			return nil
		}
		if count++; count >= n {
			return unix.EIO
		}
		return nil
	}
	t.Cleanup(func() { fault = nil })
	return &count
}

// What waits is on disk with one write, of whatever layers and sizes it is; and twice as much as a mark can name is not.
func TestJournalGroup(t *testing.T) {
	dir := t.TempDir()
	j := newRing(t, dir, 1000)
	defer j.close()
	first, err := record(t, j, 1, 0, 2)
	require.NoError(t, err)
	n := syncs(t, 1<<30)
	g := newGroup(j)
	for l := range LayerID(groupSize) {
		g.add(t, l+1, 7, 1+int(l)%5)
	}
	written := g.write(t)
	require.Len(t, written, groupSize)
	require.Equal(t, 1, *n)
	got, err := parse(bytesOf(t, dir))
	require.NoError(t, err)
	all := append([]journalRecord{first}, written...)
	requireRecords(t, all, all, got)

	g = newGroup(j)
	for l := range LayerID(groupSize + 1) {
		g.add(t, l+100, 7, 1)
	}
	require.Len(t, g.write(t), groupSize+1)
	require.Equal(t, 3, *n)
}

// If it fails, each of them hears so, and nothing is written from then on. What is on disk of it was promised to nobody.
func TestJournalGroupFails(t *testing.T) {
	dir := t.TempDir()
	j := newRing(t, dir, 1000)
	defer j.close()
	first, err := record(t, j, 1, 0, 2)
	require.NoError(t, err)
	syncs(t, 1)
	g := newGroup(j)
	for l := range LayerID(5) {
		g.add(t, l+1, 7, 1)
	}
	require.Empty(t, g.write(t))
	for _, err := range g.ended {
		require.ErrorIs(t, err, unix.EIO)
		require.NotErrorIs(t, err, errNoRecord)
	}
	require.ErrorIs(t, j.submit(9, []uint64{1}, func([]byte) error { return nil }, nil), errNoRoom)
	got, err := parse(bytesOf(t, dir))
	require.NoError(t, err)
	requireRecords(t, []journalRecord{first}, []journalRecord{first}, got)
}

// One whose data can't be read leaves all as it was.
func TestJournalGroupUnread(t *testing.T) {
	j := newRing(t, t.TempDir(), 1000)
	defer j.close()
	err := j.submit(1, []uint64{1}, func([]byte) error { return unix.EIO }, nil)
	require.ErrorIs(t, err, errNoRecord)
	require.Empty(t, j.waiting)
	_, err = record(t, j, 1, 0, 2)
	require.NoError(t, err)
}

// Whatever waits together, in a ring that is too small for all of it: a start finds what was promised and is needed, and
// nothing that never was.
func TestJournalGroupsRandom(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		j := newRing(t, dir, journalHeaders+rapid.SampledFrom([]int{40, 100, 300}).Draw(t, "slots"))
		defer j.close()
		var all []journalRecord
		committed := make(map[LayerID]uint64)
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				g := newGroup(j)
				for l := range LayerID(rapid.IntRange(1, 30).Draw(t, "records")) {
					g.add(t, l+1, rapid.Uint64Range(0, 1<<30).Draw(t, "block"), rapid.SampledFrom([]int{1, 1, 1, 2, 9, journalBlocks}).Draw(t, "blocks"))
				}
				all = append(all, g.write(t)...)
				for _, err := range g.ended {
					require.True(t, err == nil || errors.Is(err, errNoRoom))
				}
			},
			"commit": func(t *rapid.T) {
				for l := range LayerID(rapid.IntRange(1, 30).Draw(t, "layers")) {
					committed[l+1] = j.position()
					j.settle(l+1, j.position())
				}
			},
			"": func(t *rapid.T) {
				if j.drained() {
					require.NoError(t, j.file.renew(j.position()))
					j.start(j.file)
				}
				var needed []journalRecord
				for _, r := range all {
					if r.number >= committed[r.layer] {
						needed = append(needed, r)
					}
				}
				file, got, release, err := loadRing(dir, 0, true)
				require.NoError(t, err)
				requireRecords(t, needed, all, slices.Clone(got))
				release()
				file.close()
			},
		})
	})
}
