package blockmap

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestCacheIsBounded: however many maps there are and however far apart what they read, the budget is kept.
func TestCacheIsBounded(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	const budget = 200_000
	c := NewCache(x, budget)
	for i := range 2000 {
		m := c.NewMap(&Chain{}, nil)
		region := uint64(i) * 7919 % (16 << 20 / 4) // of a disk of 16 TiB
		require.NoError(t, m.Load(region))
		m.LockRegion(region)
		m.Set(region, 5, 9, 77)
		m.UnlockRegion(region)
		// The one just loaded and its directory stay, whatever they take.
		require.LessOrEqual(t, c.Used(), int64(budget+leafBytes+mixedBytes+pageBytes+8192*2*slotBytes))
	}
	require.Positive(t, c.Used())
}

// A stride that would meet one lock only if regions were striped plainly: one's own lock must not protect all others.
func TestCacheEvictsUnderOwnLock(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	const budget = pageBytes * 8
	c := NewCache(x, budget)
	m := c.NewMap(&Chain{}, nil)
	var same []uint64
	for region := uint64(0); len(same) < 200; region++ {
		if m.lock(region) == m.lock(0) {
			same = append(same, region)
		}
	}
	for _, region := range same {
		require.NoError(t, m.Load(region))
		m.LockRegion(region)
		m.Set(region, 5, 9, 77)
		m.UnlockRegion(region)
	}
	require.LessOrEqual(t, c.Used(), int64(budget+leafBytes+mixedBytes))
}

// What is looked up stays, what is not goes.
func TestCacheKeepsWhatIsUsed(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	c := NewCache(x, pageBytes+slotBytes+20*leafBytes)
	m := c.NewMap(&Chain{}, nil)
	require.NoError(t, m.Load(0))
	for region := uint64(1); region < 200; region++ {
		_, ok := m.Lookup(5)
		require.True(t, ok, "region 0 is in use, region %d pushed it out", region)
		require.NoError(t, m.Load(region))
	}
	kept := 0
	for region := uint64(0); region < 200; region++ {
		if m.dir.get(region) != nil {
			kept++
		}
	}
	require.Equal(t, 20, kept)
}

// TestCacheCounts: after any sequence of loads, changes and drops, what is counted is what is there.
func TestCacheCounts(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	rapid.Check(t, func(t *rapid.T) {
		c := NewCache(x, rapid.Int64Range(0, 60_000).Draw(t, "budget"))
		maps := []*Map{c.NewMap(&Chain{}, nil), c.NewMap(&Chain{}, nil), c.NewMap(&Chain{}, nil)}
		anyMap := rapid.SampledFrom(maps)
		anyRegion := rapid.OneOf(rapid.Uint64Range(0, 10), rapid.Uint64Range(0, 5*pageLeaves))
		t.Repeat(map[string]func(*rapid.T){
			"load": func(t *rapid.T) {
				require.NoError(t, anyMap.Draw(t, "map").Load(anyRegion.Draw(t, "region")))
			},
			"set": func(t *rapid.T) {
				m, region := anyMap.Draw(t, "map"), anyRegion.Draw(t, "region")
				from, to := drawRange(t, "blocks")
				m.LockRegion(region)
				defer m.UnlockRegion(region)
				require.NoError(t, m.LoadLocked(region))
				m.Set(region, from, to, LayerID(rapid.Uint64Range(0, 100).Draw(t, "owner")))
			},
			"drop": func(t *rapid.T) {
				anyMap.Draw(t, "map").InvalidateFrom(anyRegion.Draw(t, "region") * RegionBlocks)
			},
			"": func(t *rapid.T) { require.Equal(t, countUsed(t, c, maps), c.Used()) },
		})
	})
}

// countUsed adds up what all maps hold, and checks that exactly that is in the cache's ring.
func countUsed(t *rapid.T, c *Cache, maps []*Map) (used int64) {
	leaves := 0
	for _, m := range maps {
		if slots := m.dir.slots.Load(); slots != nil {
			used += int64(len(*slots)) * slotBytes
			for i := range *slots {
				if (*slots)[i].page.Load() != nil {
					used += pageBytes
				}
			}
		}
		for region := range m.dir.regions() {
			if l := m.dir.get(region); l != nil {
				require.Equal(t, region, l.region)
				used += l.bytes()
				leaves++
			}
		}
	}
	for l := c.hand; leaves > 0; l = l.next {
		require.Same(t, l, l.in.dir.get(l.region))
		if leaves--; leaves == 0 {
			require.Same(t, c.hand, l.next)
		}
	}
	return used
}
