package blockmap

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestDirty runs random changes, commits and failed commits of one layer, and after every step what the index has plus what
// Dirty has must be what was set.
func TestDirty(t *testing.T) {
	const regions = 3
	rapid.Check(t, func(t *rapid.T) {
		var d Dirty
		var index [regions]Record // what is committed
		var model [regions]kinds
		var taken Changes
		begun := false
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				region := rapid.Uint64Range(0, regions-1).Draw(t, "region")
				for _, c := range drawChanges(t, "changes") {
					d.Set(region, c.kind, c.from, c.to)
					model[region].change([]change{c})
				}
			},
			"truncate": func(t *rapid.T) {
				block := rapid.Uint64Range(0, (regions+1)*RegionBlocks).Draw(t, "block")
				if begun {
					require.Panics(t, func() { d.Truncate(block) })
					t.Skip("begun")
				}
				d.Truncate(block)
				for region := range model {
					committed := kindsOf(&index[region]) // only that is left
					from := max(int(block)-region*RegionBlocks, 0)
					copy(model[region][min(from, RegionBlocks):], committed[min(from, RegionBlocks):])
				}
			},
			"begin": func(t *rapid.T) {
				if begun {
					require.Panics(t, func() { d.Begin() })
					t.Skip("begun")
				}
				taken, begun = d.Begin(), true
			},
			"end": func(t *rapid.T) {
				if !begun {
					require.Panics(t, func() { d.End(true) })
					t.Skip("not begun")
				}
				committed := rapid.Bool().Draw(t, "committed")
				if committed {
					for region := range taken {
						delta, ok := taken.Delta(region)
						require.True(t, ok)
						delta.Apply(&index[region])
					}
				}
				d.End(committed)
				begun = false
			},
			"": func(t *rapid.T) {
				dirty := 0
				for region := range uint64(regions) {
					checkNextRegion(t, &d, region, regions)
					r := index[region]
					delta, ok := d.Delta(region)
					require.Equal(t, ok, !delta.Empty())
					if ok {
						dirty++
					}
					delta.Apply(&r)
					require.Equal(t, model[region], kindsOf(&r))
				}
				require.Equal(t, dirty, d.Regions())
				require.Equal(t, dirty == 0, d.Empty())
			},
		})
	})
}

// checkNextRegion compares NextRegion with asking for every region.
func checkNextRegion(t *rapid.T, d *Dirty, region, regions uint64) {
	next, ok := d.NextRegion(region)
	for ; region < regions; region++ {
		if _, there := d.Delta(region); there {
			require.True(t, ok)
			require.Equal(t, region, next)
			return
		}
	}
	require.False(t, ok)
}

// What Begin returned is read without a lock while others go on setting: the race detector watches.
func TestDirtyTakenIsImmutable(t *testing.T) {
	var d Dirty
	d.Set(1, KindData, 0, 10)
	taken := d.Begin()
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range RegionBlocks {
			d.Set(1, KindZero, i, i+1)
			d.Delta(1)
		}
	})
	for range 100 {
		delta, _ := taken.Delta(1)
		require.Equal(t, 10, delta.Data.Count())
		require.True(t, delta.Zero.Empty())
	}
	wg.Wait()
	d.End(false)
	delta, ok := d.Delta(1)
	require.True(t, ok)
	require.True(t, delta.Zero.Full(), "what came since wins over what is put back")
}

// A block that is being committed as data is held, though it was given up meanwhile: a crash may leave that commit.
func TestDirtyHeld(t *testing.T) {
	var d Dirty
	d.Set(0, KindData, 1, 3)
	d.Begin()
	d.Set(0, KindNone, 1, 2)
	d.Set(0, KindData, 5, 6)
	held := d.Held(0)
	var got []int
	held.Runs(func(from, to int) { got = append(got, from, to) })
	require.Equal(t, []int{1, 3, 5, 6}, got)
	d.End(true)
	held = d.Held(0)
	require.False(t, held.Has(1))
	require.False(t, held.Has(2))
	require.True(t, held.Has(5))
}
