package blockmap

import (
	"sync"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func drawOwners(t *rapid.T) (o Owners) {
	for range rapid.IntRange(0, 4).Draw(t, "runs") {
		from, to := drawRange(t, "run")
		id := LayerID(rapid.Uint64Range(0, 5).Draw(t, "owner"))
		for i := from; i < to; i++ {
			o[i] = id
		}
	}
	return o
}

func TestLeaf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		model := drawOwners(t)
		l := newLeaf(&model)
		for range rapid.IntRange(0, 5).Draw(t, "sets") {
			from, to := drawRange(t, "set")
			id := LayerID(rapid.Uint64Range(0, 9).Draw(t, "new owner"))
			l.set(from, to, id)
			for i := from; i < to; i++ {
				model[i] = id
			}
			require.Equal(t, model, *l.owners())
		}
		step := rapid.IntRange(1, RegionBlocks).Draw(t, "step")
		for i, next := RegionBlocks-1, RegionBlocks; i >= 0; i-- {
			if i+1 < RegionBlocks && model[i] != model[i+1] {
				next = i + 1
			}
			limit := min(i+step, RegionBlocks)
			owner, to := l.run(i, limit)
			if owner != model[i] || to != min(next, limit) {
				t.Fatalf("run from %d up to %d: %d until %d", i, limit, owner, to)
			}
		}
	})
}

// A region in which layer after layer takes a block keeps a palette of bounded size.
func TestLeafPaletteIsBounded(t *testing.T) {
	model := Owners{}
	l := newLeaf(&model)
	for i := range 20 * RegionBlocks {
		block, id := i*7%RegionBlocks, LayerID(i+1)
		model[block] = id
		l.set(block, block+1, id)
		require.LessOrEqual(t, len(*l.mixed.Load().palette.Load()), maxPalette)
	}
	require.Equal(t, model, *l.owners())
	require.Less(t, l.bytes(), int64(50_000))

	l.set(0, RegionBlocks, 77)
	require.EqualValues(t, leafBytes, l.bytes(), "one owner again")
	require.EqualValues(t, 77, l.at(5))
}

// What is counted for a leaf is what Go takes for it.
func TestLeafBytes(t *testing.T) {
	require.LessOrEqual(t, unsafe.Sizeof(leaf{}), uintptr(leafBytes))
	require.Greater(t, unsafe.Sizeof(leaf{}), uintptr(leafBytes-16))
	require.LessOrEqual(t, unsafe.Sizeof(mixed{}), uintptr(mixedBytes))
	require.Greater(t, unsafe.Sizeof(mixed{}), uintptr(mixedBytes-256))
	require.EqualValues(t, pageBytes, unsafe.Sizeof(page{}))
	require.EqualValues(t, slotBytes, unsafe.Sizeof(slot{}))
}

// Readers beside a writer see for each block an owner it had, never one it had before.
func TestLeafReadersBesideWriter(t *testing.T) {
	l := newLeaf(&Owners{})
	var readers sync.WaitGroup
	done := make(chan struct{})
	for r := range 2 {
		readers.Go(func() {
			var last Owners
			for i := r; ; i = (i + 37) % RegionBlocks {
				select {
				case <-done:
					return
				default:
				}
				owner, to := l.run(i, RegionBlocks)
				if owner < last[i] || to <= i {
					t.Errorf("block %d: owner %d after %d, run to %d", i, owner, last[i], to)
					return
				}
				last[i] = owner
			}
		})
	}
	for id := LayerID(1); id <= 6*RegionBlocks; id++ {
		from := int(id*31) % RegionBlocks
		switch id % 500 {
		case 0:
			l.set(0, RegionBlocks, id)
		default:
			l.set(from, min(from+3, RegionBlocks), id)
		}
	}
	close(done)
	readers.Wait()
}
