package layer

// What nobody sees is given back, and what somebody sees stays.

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const chainLength = 4

// chain makes a VM with a file and snapshots s0, s1 … of it. Each state has a block that all overwrite, one of its own
// that the next overwrites, and one of its own that nobody does.
func chain(t tester, s *Store) (v *VM, f *File, states [][]byte) {
	t.Helper()
	v = makeVM(t, s, "web")
	f = makeFile(t, v, "root", 32*blockSize)
	for i := range chainLength {
		write(t, f, blocksOf(byte(i+1), 1), 0)
		write(t, f, blocksOf(byte(i+11), 2), int64(1+i)*blockSize)
		write(t, f, blocksOf(byte(i+21), 1), int64(16+i)*blockSize)
		snapshot(t, v, fmt.Sprintf("s%d", i))
		states = append(states, content(t, f))
	}
	return v, f, states
}

// Every order in which the snapshots of a chain can be deleted, with a restart in the middle of some.
func TestReclaimChainInEveryOrder(t *testing.T) {
	for n, order := range permutations(chainLength) {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			s := newStore(t, Options{})
			v, f, states := chain(t, s)
			for i, gone := range order {
				drop(t, v, fmt.Sprintf("s%d", gone))
				if n%4 == i {
					s = reopen(t, s)
					v = vmNamed(t, s, "web")
					f = fileNamed(t, v, "root")
				}
				settle(t, s)
				requireSame(t, states[chainLength-1], content(t, f), "the file")
				for _, left := range order[i+1:] {
					requireSame(t, states[left], viewed(t, v, fmt.Sprintf("s%d", left), "root"), "snapshot s%d", left)
				}
			}
			// What is left is what the file shows: block 0, blocks 1 to 5, and four more.
			st := s.Stats()
			require.EqualValues(t, 10*blockSize, st.LayerBytes)
			require.Zero(t, st.ReclaimBytes)
			require.EqualValues(t, 10*blockSize, allocated(t, layersDir(s)))
			requireOnlyNeededFiles(t, s)
			require.NoError(t, s.Close())
			requireSound(t, s.dir)
		})
	}
}

func permutations(n int) [][]int {
	if n == 0 {
		return [][]int{nil}
	}
	var all [][]int
	for _, p := range permutations(n - 1) {
		for i := range n {
			all = append(all, append(append(append([]int{}, p[:i]...), n-1), p[i:]...))
		}
	}
	return all
}

// requireOnlyNeededFiles checks that every data file is one of a layer that holds something.
func requireOnlyNeededFiles(t tester, s *Store) {
	t.Helper()
	entries, err := os.ReadDir(layersDir(s))
	require.NoError(t, err)
	for _, entry := range entries {
		var id LayerID
		_, err := fmt.Sscanf(entry.Name(), "%x", &id)
		require.NoError(t, err)
		require.NotNil(t, s.tree.layer(id), "data file %s is of a layer that has left", entry.Name())
	}
}

// With neither files nor snapshots nothing at all stays.
func TestReclaimEverything(t *testing.T) {
	s := newStore(t, Options{})
	v, f, _ := chain(t, s)
	require.NoError(t, f.Open(1, true))
	revertTo(t, v, RevertOptions{Name: "s1", Force: true})
	write(t, f, blocksOf(31, 4), 0)
	f.Close(1)
	require.NoError(t, v.Unlink("root"))
	for _, n := range v.Snapshots() {
		drop(t, v, n.Name())
	}
	settle(t, s)
	require.Equal(t, Stats{}, layerStats(s))
	require.Zero(t, allocated(t, layersDir(s)))
	require.NoError(t, s.RemoveVM("web"))
	require.NoError(t, s.Close())
	requireSound(t, s.dir)
	requireEmptyDir(t, filepath.Join(s.dir, layersName))
}

// layerStats are the figures about layers alone.
func layerStats(s *Store) Stats {
	st := s.Stats()
	return Stats{Layers: st.Layers, RetiredLayers: st.RetiredLayers, LayerBytes: st.LayerBytes, ReclaimBytes: st.ReclaimBytes}
}

func requireEmptyDir(t tester, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

// An unflushed overwrite can be lost with the host, and then the old block has to be there.
func TestReclaimCountsOnlyWhatIsCommitted(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 4*blockSize)
	old := blocksOf(1, 2)
	write(t, f, old, 0)
	snapshot(t, v, "s")
	write(t, f, blocksOf(2, 1), 0)                      // not flushed
	require.NoError(t, f.Discard(blockSize, blockSize)) // neither
	drop(t, v, "s")
	settle(t, s)
	require.EqualValues(t, 3*blockSize, s.Stats().LayerBytes)

	s = kill(t, s, filepath.Join(t.TempDir(), "copy"))
	defer s.Close()
	f = fileNamed(t, vmNamed(t, s, "web"), "root")
	requireSame(t, old, content(t, f)[:2*blockSize], "what was flushed")

	// Once flushed, the old blocks go.
	write(t, f, blocksOf(2, 1), 0)
	require.NoError(t, f.Discard(blockSize, blockSize))
	flush(t, f)
	settle(t, s)
	require.EqualValues(t, blockSize, s.Stats().LayerBytes)
	require.EqualValues(t, blockSize, allocated(t, layersDir(s)))
}

func TestReclaimDiscardedRevert(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 64*blockSize)
	write(t, f, blocksOf(1, 4), 0)
	snapshot(t, v, "s")
	state := content(t, f)
	before := s.Stats()
	write(t, f, blocksOf(2, 60), 0)
	flush(t, f)
	revertTo(t, v, RevertOptions{Name: "s", Discard: true})
	settle(t, s)
	require.Equal(t, before.LayerBytes, s.Stats().LayerBytes)
	require.Equal(t, before.Layers, s.Stats().Layers)
	require.EqualValues(t, 4*blockSize, allocated(t, layersDir(s)))
	requireSame(t, state, content(t, f), "the file")
}

// A tree: three states grown from one. The blocks of what they have in common stay for as long as one of them needs them.
func TestReclaimTree(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 8*blockSize)
	common := blocksOf(1, 4)
	write(t, f, common, 0)
	snapshot(t, v, "base")
	want := make(map[string][]byte)
	for i, name := range []string{"left", "middle", "right"} {
		revertTo(t, v, RevertOptions{Name: "base", Discard: true})
		write(t, f, blocksOf(byte(i+2), 1), int64(i)*blockSize)
		snapshot(t, v, name)
		want[name] = content(t, f)
	}
	revertTo(t, v, RevertOptions{Name: "left", Discard: true})
	drop(t, v, "base")
	settle(t, s)
	require.EqualValues(t, 7*blockSize, s.Stats().LayerBytes, "each block of base has a reader")
	drop(t, v, "middle")
	settle(t, s)
	require.EqualValues(t, 6*blockSize, s.Stats().LayerBytes, "middle's own block goes, and no other")
	drop(t, v, "right")
	settle(t, s)
	require.EqualValues(t, 4*blockSize, s.Stats().LayerBytes, "block 0 of base is covered by all that are left")
	requireSame(t, want["left"], content(t, f), "the file")
	requireSame(t, want["left"], viewed(t, v, "left", "root"), "left")
	require.EqualValues(t, 4*blockSize, allocated(t, layersDir(s)))
}

// A snapshot of discarded blocks hides what an older one has there, also when only a later, unflushed discard is left
// over it.
func TestReclaimBringsNothingBack(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 4*blockSize)
	write(t, f, blocksOf(1, 1), 0)
	snapshot(t, v, "data")
	require.NoError(t, f.Discard(0, blockSize))
	snapshot(t, v, "zero")
	write(t, f, blocksOf(2, 1), 0)
	flush(t, f)
	require.NoError(t, f.Discard(0, blockSize))
	drop(t, v, "zero")
	settle(t, s)
	s = reopen(t, s)
	f = fileNamed(t, vmNamed(t, s, "web"), "root")
	requireSame(t, make([]byte, 4*blockSize), content(t, f), "a discarded block")
}

// What a shrink cuts off is given back from retired layers, too, that were looked through before.
func TestReclaimAfterShrink(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 0)
	write(t, f, blocksOf(1, 4), 0)
	snapshot(t, v, "s")
	drop(t, v, "s")
	settle(t, s)
	require.EqualValues(t, 4*blockSize, s.Stats().LayerBytes)
	resize(t, f, blockSize)
	f.awaitVoid()
	settle(t, s)
	require.EqualValues(t, blockSize, s.Stats().LayerBytes)
	resize(t, f, 0)
	f.awaitVoid()
	settle(t, s)
	require.Equal(t, Stats{Layers: 1}, layerStats(s))
	require.Zero(t, allocated(t, layersDir(s)))
}

// A block given up and written again is not punched, whichever comes first.
func TestPunchSparesWhatWasWrittenAgain(t *testing.T) {
	s := newStore(t, Options{})
	v := makeVM(t, s, "web")
	f := makeFile(t, v, "root", 64*blockSize)
	want := make([]byte, 64*blockSize)
	for i := range 30 {
		p := blocksOf(byte(i+1), 32)
		off := i % 32 * blockSize
		write(t, f, p, int64(off))
		copy(want[off:], p)
		flush(t, f)
		require.NoError(t, f.Discard(int64(off), 16*blockSize))
		clear(want[off : off+16*blockSize])
		flush(t, f)
		write(t, f, p[:8*blockSize], int64(off)+4*blockSize)
		copy(want[off+4*blockSize:], p[:8*blockSize])
		if i%3 == 0 {
			flush(t, f)
		}
		requireSame(t, want, content(t, f), "the file in round %d", i)
	}
	flush(t, f)
	settle(t, s)
	requireSame(t, want, content(t, f), "the file")
	require.Zero(t, s.Stats().ReclaimBytes)
	require.EqualValues(t, f.Attr().Blocks*512, allocated(t, layersDir(s)), "everything given up was punched out")
}

// A data file made by a write that was never flushed goes with its layer, also after a crash.
func TestReclaimUnflushedDataFile(t *testing.T) {
	s := newStore(t, Options{})
	f := makeFile(t, makeVM(t, s, "web"), "root", 4*blockSize)
	write(t, f, blocksOf(1, 1), 0)
	s = kill(t, s, filepath.Join(t.TempDir(), "copy"))
	defer s.Close()
	require.NoError(t, vmNamed(t, s, "web").Unlink("root"))
	settle(t, s)
	requireEmptyDir(t, layersDir(s))
}

// Random trees of snapshots of small files, and random deletes: each gives back what usage says, and in the end the layers
// hold exactly the blocks that some state shows.
func TestReclaimRandomTrees(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(base, "run")
		require.NoError(t, err)
		defer os.RemoveAll(dir)
		s, err := Open(dir, Options{})
		require.NoError(t, err)
		v := makeVM(t, s, "web")
		f := makeFile(t, v, "root", 8*blockSize)
		g := &grove{store: s, vm: v, file: f, states: map[string][]byte{}}
		defer func() { _ = g.store.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"write": g.write, "write more": g.write, "discard": g.discard, "shrink": g.shrink,
			"snapshot": g.snapshot, "snapshot again": g.snapshot, "revert": g.revert, "delete": g.delete, "reopen": g.reopen, "": g.compare,
		})
		g.commit(t)
		st := g.store.Stats()
		require.EqualValues(t, g.needed(t)*blockSize, st.LayerBytes)
		require.EqualValues(t, g.needed(t)*blockSize, allocated(t, layersDir(s)))
		require.Zero(t, st.ReclaimBytes)
		require.NoError(t, g.store.Close())
		requireSound(t, dir)
	})
}

// grove is a VM of one file whose every written block is unique, so that what layers should hold can be counted.
type grove struct {
	store  *Store
	vm     *VM
	file   *File
	seed   uint64
	states map[string][]byte
	names  []string
}

func (g *grove) write(t *rapid.T) {
	g.seed++
	first, n := rapid.IntRange(0, 7).Draw(t, "block"), rapid.IntRange(1, 4).Draw(t, "blocks")
	write(t, g.file, pattern(g.seed, n*blockSize), int64(first)*blockSize)
}

func (g *grove) discard(t *rapid.T) {
	first, n := rapid.Int64Range(0, 7).Draw(t, "block"), rapid.Int64Range(1, 4).Draw(t, "blocks")
	require.NoError(t, g.file.Discard(first*blockSize, n*blockSize))
}

func (g *grove) shrink(t *rapid.T) {
	resize(t, g.file, rapid.Int64Range(0, 8).Draw(t, "blocks")*blockSize)
	g.file.awaitVoid()
}

func (g *grove) snapshot(t *rapid.T) {
	g.seed++
	name := fmt.Sprintf("s%d", g.seed)
	snapshot(t, g.vm, name)
	g.names = append(g.names, name)
	g.states[name] = content(t, g.file)
}

func (g *grove) revert(t *rapid.T) {
	if len(g.names) > 0 {
		name := rapid.SampledFrom(g.names).Draw(t, "to")
		revertTo(t, g.vm, RevertOptions{Name: name, Discard: true})
		requireSame(t, g.states[name], content(t, g.file), "the file, reverted to %s", name)
	}
}

func (g *grove) delete(t *rapid.T) {
	if len(g.names) > 0 {
		i := rapid.IntRange(0, len(g.names)-1).Draw(t, "which")
		g.commit(t)
		n, err := g.vm.Snapshot(g.names[i])
		require.NoError(t, err)
		unique, err := n.unique()
		require.NoError(t, err)
		before := g.store.Stats().LayerBytes
		drop(t, g.vm, g.names[i])
		settle(t, g.store)
		require.Equal(t, before-unique, g.store.Stats().LayerBytes, "deleting it gives back what was said")
		delete(g.states, g.names[i])
		g.names = append(g.names[:i:i], g.names[i+1:]...)
	}
}

func (g *grove) reopen(t *rapid.T) {
	want := content(t, g.file)
	require.NoError(t, g.store.Close())
	s, err := Open(g.store.dir, Options{})
	require.NoError(t, err)
	g.store, g.vm = s, vmNamed(t, s, "web")
	g.file = fileNamed(t, g.vm, "root")
	requireSame(t, want, content(t, g.file), "the file")
}

// commit has the index know all of the file, and reclaim come to its end: what is only in the journal keeps what it covers.
func (g *grove) commit(t *rapid.T) {
	require.NoError(t, g.file.Commit(true))
	settle(t, g.store)
}

func (g *grove) compare(t *rapid.T) {
	for name, state := range g.states {
		requireSame(t, state, viewed(t, g.vm, name, "root"), "snapshot %s", name)
	}
}

// needed counts the different blocks that states show: each was written once, and so is in one layer.
func (g *grove) needed(t tester) int {
	seen := make(map[string]bool)
	zeros := make([]byte, blockSize)
	count := func(state []byte) {
		for i := 0; i < len(state); i += blockSize {
			block := state[i : i+blockSize]
			if !bytes.Equal(block, zeros) {
				seen[fmt.Sprint(i, string(block))] = true
			}
		}
	}
	count(content(t, g.file))
	for _, state := range g.states {
		count(state)
	}
	return len(seen)
}
