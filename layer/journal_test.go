package layer

// The ring's accounting against a list of all records that were ever begun.

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// ringRecord is one that was begun: where, and what it says.
type ringRecord struct {
	journalRecord
	slot, slots int
}

// ringModel knows of each record what has become of it.
type ringModel struct {
	j         *journal
	slots     int
	all       []ringRecord
	writing   []ringRecord
	committed map[LayerID]uint64
	tail      uint64 // of the newest that is on disk: what may be read from there on after a crash
}

func (m *ringModel) needed(r ringRecord) bool { return r.number >= m.committed[r.layer] }

// begin requires that a new record lies over none that is needed, or that may be counted so.
func (m *ringModel) begin(t *rapid.T) {
	r := journalRecord{layer: LayerID(rapid.IntRange(1, 4).Draw(t, "layer")), blocks: make([]uint64, rapid.IntRange(1, journalBlocks).Draw(t, "blocks"))}
	if slices.ContainsFunc(m.writing, func(w ringRecord) bool { return w.layer == r.layer }) {
		return // a layer's are written one after the other
	}
	slot, err := m.j.begin(&r)
	if err != nil {
		require.ErrorIs(t, err, errNoRoom)
		return
	}
	next := ringRecord{r, slot, 1 + len(r.blocks)}
	require.GreaterOrEqual(t, slot, journalHeaders)
	require.LessOrEqual(t, slot+next.slots, m.slots)
	require.EqualValues(t, len(m.all)+1, r.number)
	for _, other := range m.all {
		apart := other.slot+other.slots <= slot || slot+next.slots <= other.slot
		require.True(t, apart || !m.needed(other), "record %d lies over number %d, which is needed", r.number, other.number)
		require.True(t, apart || other.number < m.tail, "record %d lies over number %d, which may be asked for", r.number, other.number)
	}
	m.all, m.writing = append(m.all, next), append(m.writing, next)
	for _, other := range m.all {
		require.True(t, !m.needed(other) || r.tail <= other.number, "record %d is needed, and number %d says it is not", other.number, r.number)
		onDisk := !slices.ContainsFunc(m.writing, func(w ringRecord) bool { return w.number == other.number })
		require.True(t, onDisk || r.synced <= other.number, "record %d is not on disk, and number %d says it is", other.number, r.number)
	}
}

func (m *ringModel) end(t *rapid.T) {
	if len(m.writing) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.writing)-1).Draw(t, "which")
	r := m.writing[i]
	m.j.end(nil, &r.journalRecord)
	m.writing = slices.Delete(m.writing, i, i+1)
	m.tail = max(m.tail, r.tail)
}

// commit comes with the layer's lock held: none of its records is being written.
func (m *ringModel) commit(t *rapid.T) {
	l := LayerID(rapid.IntRange(1, 4).Draw(t, "layer"))
	if slices.ContainsFunc(m.writing, func(w ringRecord) bool { return w.layer == l }) {
		return
	}
	before := m.j.position()
	if rapid.Bool().Draw(t, "some were written before it") {
		m.committed[l] = max(m.committed[l], before)
		m.j.settle(l, before)
		return
	}
	m.j.forget(l)
	m.committed[l] = before
	m.j.mu.Lock()
	defer m.j.mu.Unlock()
	if s := m.j.layers[l]; s != nil {
		s.committed = before // here, the layer comes again
	}
}

// requireTrue compares what the ring counts.
func (m *ringModel) requireTrue(t *rapid.T) {
	j := m.j
	j.mu.Lock()
	defer j.mu.Unlock()
	oldest := j.next
	for _, r := range slices.Backward(m.all) {
		if m.needed(r) {
			oldest = r.number
		}
	}
	if len(j.live) > 0 {
		require.Equal(t, oldest, j.live[0].number)
	} else {
		require.Equal(t, j.next, oldest)
	}
	used, counts := 0, make(map[LayerID]int)
	for _, r := range append(slices.Clone(j.dead), j.live...) {
		used += r.slots
	}
	for _, r := range j.live {
		counts[r.layer]++
	}
	require.Equal(t, used, j.used)
	require.LessOrEqual(t, j.used, m.slots-journalHeaders)
	for l, n := range counts {
		require.Equal(t, n, j.layers[l].records)
	}
	require.Len(t, j.layers, len(counts))
	require.Len(t, j.writing, len(m.writing))
}

func TestJournalRing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.IntRange(smallRing, 200).Draw(t, "slots")
		m := &ringModel{j: newJournal(), slots: slots, committed: make(map[LayerID]uint64)}
		m.j.start(&journalFile{slots: slots})
		t.Repeat(map[string]func(*rapid.T){
			"begin": m.begin, "begin another": m.begin, "end": m.end, "end another": m.end, "commit": m.commit, "": m.requireTrue,
		})
		for len(m.writing) > 0 {
			m.end(t)
		}
		for l := range LayerID(4) {
			m.j.settle(l+1, m.j.position())
		}
		require.Empty(t, m.j.live)
		if m.j.drained() {
			m.j.start(m.j.file)
		}
		_, err := m.j.begin(&journalRecord{layer: 1, blocks: make([]uint64, journalBlocks)})
		require.NoError(t, err, "with nothing needed, there is room, or the ring is begun anew")
	})
}

// What the layers keep that hold up a ring that is more than half full is committed, the oldest half, each once.
func TestJournalOldest(t *testing.T) {
	j := newJournal()
	j.start(&journalFile{slots: journalHeaders + 100})
	begin := func(l LayerID, blocks int) {
		r := journalRecord{layer: l, blocks: make([]uint64, blocks)}
		_, err := j.begin(&r)
		require.NoError(t, err)
		j.end(nil, &r)
	}
	begin(1, 9)
	begin(2, 9)
	begin(1, 9)
	require.Empty(t, j.oldest())
	begin(3, 29)
	require.Equal(t, []LayerID{1, 2, 3}, j.oldest())
	require.Empty(t, j.oldest(), "they are being flushed")
	j.done(1)
	require.Equal(t, []LayerID{1}, j.oldest())
	j.settle(2, j.position())
	require.Len(t, j.live, 4, "an older one is needed")
	j.settle(1, j.position())
	require.Len(t, j.live, 1)
	require.Equal(t, 60, j.used, "nothing on disk says so yet")
	begin(3, 1)
	require.Equal(t, 32, j.used)
}
