package blockmap

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// disk is a stack of layers of one lineage with a map over them, as a caller keeps it.
type disk struct {
	x       *Index
	lineage LineageID
	m       *Map

	mu     sync.Mutex // guards layers
	layers []*diskLayer
}

type diskLayer struct {
	id    LayerID
	dirty Dirty
	flush sync.Mutex // one commit at a time
}

func newDisk(c *Cache, lineage LineageID) *disk {
	d := &disk{x: c.index, lineage: lineage}
	d.layers = []*diskLayer{{id: 1}}
	d.m = c.NewMap(d.chain(), d.overlay)
	return d
}

func (d *disk) chain() *Chain {
	return &Chain{Segments: []Segment{{d.lineage, d.head().id}}}
}

func (d *disk) head() *diskLayer {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.layers[len(d.layers)-1]
}

// seal puts a new head on top.
func (d *disk) seal() {
	d.mu.Lock()
	d.layers = append(d.layers, &diskLayer{id: d.layers[len(d.layers)-1].id + 1})
	d.mu.Unlock()
	d.m.SetChain(d.chain())
}

func (d *disk) overlay(region uint64) (out []LayerDelta) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := len(d.layers) - 1; i >= 0; i-- {
		if delta, ok := d.layers[i].dirty.Delta(region); ok {
			out = append(out, LayerDelta{d.layers[i].id, delta})
		}
	}
	return out
}

// write makes the head own blocks; it reads zeros there if zero. It returns the owner.
func (d *disk) write(region uint64, from, to int, zero bool) LayerID {
	d.m.LockRegion(region)
	defer d.m.UnlockRegion(region)
	head := d.head()
	kind, owner := KindData, head.id
	if zero {
		kind, owner = KindZero, 0
	}
	head.dirty.Set(region, kind, from, to)
	d.m.Set(region, from, to, owner)
	return owner
}

var errNotNow = errors.New("not now")

// commit flushes one layer, or fails to.
func (d *disk) commit(l *diskLayer, fails bool) error {
	l.flush.Lock()
	defer l.flush.Unlock()
	deltas := l.dirty.Begin()
	err := d.x.Update(func(tx *Tx) error {
		for region := range deltas {
			r, err := tx.Record(d.lineage, region, l.id)
			if err != nil {
				return err
			}
			delta, _ := deltas.Delta(region)
			delta.Apply(&r)
			tx.PutRecord(d.lineage, region, l.id, &r)
		}
		if fails {
			return errNotNow
		}
		return nil
	})
	l.dirty.End(err == nil)
	if errors.Is(err, errNotNow) {
		return nil
	}
	return err
}

// TestMap runs random operations on a disk against a plain list of owners, with a cache so small that regions keep leaving.
func TestMap(t *testing.T) {
	const regions = 4
	x := openIndex(t, t.TempDir(), Options{})
	lineage := LineageID(0)
	rapid.Check(t, func(t *rapid.T) {
		lineage++
		c := NewCache(x, rapid.SampledFrom([]int64{0, 10_000, 1 << 20}).Draw(t, "budget"))
		d := newDisk(c, lineage)
		var model [regions]Owners
		region := rapid.Uint64Range(0, regions-1)
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				r, zero := region.Draw(t, "region"), rapid.Bool().Draw(t, "zero")
				from, to := drawRange(t, "blocks")
				owner := d.write(r, from, to, zero)
				for i := from; i < to; i++ {
					model[r][i] = owner
				}
			},
			"load": func(t *rapid.T) { require.NoError(t, d.m.Load(region.Draw(t, "region"))) },
			"seal": func(*rapid.T) { d.seal() },
			"commit": func(t *rapid.T) {
				l := rapid.SampledFrom(d.layers).Draw(t, "layer")
				require.NoError(t, d.commit(l, rapid.Bool().Draw(t, "fails")))
			},
			"invalidate": func(t *rapid.T) {
				block := rapid.Uint64Range(0, regions*RegionBlocks).Draw(t, "block")
				d.m.InvalidateFrom(block)
				for r := block / RegionBlocks; r < regions; r++ {
					_, ok := d.m.Lookup(r * RegionBlocks)
					require.False(t, ok)
				}
			},
			"": func(t *rapid.T) {
				for r := range uint64(regions) {
					checkRegion(t, d.m, r, &model[r])
				}
			},
		})
		d.m.Close()
		require.Zero(t, c.Used())
	})
}

// checkRegion compares what is in memory of a region with the model.
func checkRegion(t *rapid.T, m *Map, region uint64, model *Owners) {
	for i := 0; i < RegionBlocks; {
		block := region*RegionBlocks + uint64(i)
		owner, n, ok := m.Run(block, 300)
		if !ok {
			return
		}
		require.Positive(t, n)
		for range n {
			got, ok := m.Lookup(region*RegionBlocks + uint64(i))
			if !ok || got != owner || got != model[i] {
				t.Fatalf("block %d of region %d: %d, in its run %d, want %d", i, region, got, owner, model[i])
			}
			i++
		}
	}
}

// TestMapRaces has readers, writers, loaders, flushes, snapshots and drops at once. Heads only get newer, so no reader may
// ever see a block go back to an older owner: that is what a load racing with a commit, or an eviction with a write, would do.
func TestMapRaces(t *testing.T) {
	const regions = 6
	x := openIndex(t, t.TempDir(), Options{})
	c := NewCache(x, 3*(leafBytes+mixedBytes)+pageBytes) // half of what there is
	d := newDisk(c, 1)
	var stop atomic.Bool
	var wg sync.WaitGroup
	background := func(fn func(i int)) {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				fn(i)
			}
		})
	}
	for range 2 {
		last := make([]LayerID, regions*RegionBlocks)
		background(func(i int) {
			block := uint64(i*509) % uint64(len(last))
			owner, ok := d.m.Lookup(block)
			if !ok {
				if err := d.m.Load(block / RegionBlocks); err != nil {
					t.Errorf("load: %v", err)
				}
				return
			}
			if owner < last[block] {
				t.Errorf("block %d: owner %d after %d", block, owner, last[block])
				stop.Store(true)
			}
			last[block] = owner
		})
	}
	first := d.head()
	background(func(i int) {
		for _, l := range []*diskLayer{d.head(), first} {
			if err := d.commit(l, i%3 == 0); err != nil {
				t.Errorf("commit: %v", err)
			}
		}
	})
	background(func(i int) {
		d.m.InvalidateFrom(uint64(i%regions) * RegionBlocks)
		time.Sleep(tick) // it holds all locks and would have nobody else get any
	})
	for i := range 20000 {
		d.write(uint64(i%regions), i*13%1000, i*13%1000+20, false)
		if i%1000 == 0 {
			d.seal()
		}
	}
	stop.Store(true)
	wg.Wait()

	// What came of it in memory is what the index and the overlay say.
	for region := range uint64(regions) {
		var want Owners
		require.NoError(t, x.Resolve(d.m.Chain(), region, d.overlay(region), &want))
		d.m.LockRegion(region)
		if l := d.m.dir.get(region); l != nil {
			require.Equal(t, want, *l.owners())
		}
		d.m.UnlockRegion(region)
	}
}

// A commit that ends while a region is being loaded is found either in the overlay or in the index. Were the overlay asked
// after the index, this one would be in neither.
func TestMapLoadBesideCommit(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	d := newDisk(NewCache(x, 1<<20), 1)
	d.write(0, 0, 10, false)
	for _, when := range []string{"before", "after"} {
		d.write(0, 10, 20, false)
		m := d.m.cache.NewMap(d.chain(), func(region uint64) []LayerDelta {
			if when == "before" {
				require.NoError(t, d.commit(d.head(), false))
				return d.overlay(region)
			}
			overlay := d.overlay(region)
			require.NoError(t, d.commit(d.head(), false))
			return overlay
		})
		require.NoError(t, m.Load(0))
		owner, n, ok := m.Run(0, RegionBlocks)
		require.True(t, ok)
		require.EqualValues(t, 1, owner, when)
		require.EqualValues(t, 20, n, when)
	}
}

// Holding a region's lock keeps it in memory, whatever others load.
func TestMapLockedStays(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	m := NewCache(x, 0).NewMap(&Chain{}, nil)
	m.LockRegion(1)
	require.NoError(t, m.LoadLocked(1))
	var wg sync.WaitGroup
	for region := uint64(2); region < 200; region++ {
		if m.lock(region) != m.lock(1) {
			wg.Go(func() { _ = m.Load(region) })
		}
	}
	wg.Wait()
	_, ok := m.Lookup(RegionBlocks)
	require.True(t, ok)
	m.UnlockRegion(1)
	require.NoError(t, m.Load(2))
	_, ok = m.Lookup(RegionBlocks)
	require.False(t, ok, "no budget, and no longer locked")
}

func TestMapEdges(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	c := NewCache(x, 1<<20)
	m := c.NewMap(&Chain{}, nil)
	const last = 1<<32 - 1 // of a disk of 16 TiB
	_, ok := m.Lookup(last)
	require.False(t, ok)
	_, _, ok = m.Run(last, 5)
	require.False(t, ok)
	m.LockRegion(last / RegionBlocks)
	m.Set(last/RegionBlocks, 0, 10, 5)
	m.UnlockRegion(last / RegionBlocks)
	require.Zero(t, c.Used(), "what is not in memory is left alone")

	require.NoError(t, m.Load(last/RegionBlocks))
	require.NoError(t, m.Load(0))
	owner, n, ok := m.Run(last, 5)
	require.True(t, ok)
	require.Zero(t, owner)
	require.EqualValues(t, 1, n, "not beyond the region")
	_, n, _ = m.Run(0, 1<<40)
	require.EqualValues(t, RegionBlocks, n)
	_, n, _ = m.Run(0, 7)
	require.EqualValues(t, 7, n)

	m.InvalidateFrom(1)
	require.Zero(t, c.Used())
	require.NotNil(t, m.Chain())
	m.Close()
	m.Close()
	require.ErrorIs(t, m.Load(0), ErrClosed)
	require.ErrorIs(t, m.LoadLocked(0), ErrClosed)
	_, ok = m.Lookup(0)
	require.False(t, ok)
}

func TestMapLoadFails(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	require.NoError(t, x.Update(func(tx *Tx) error {
		tx.put(recordKey(nil, 1, 0, 1), []byte("damaged"))
		return nil
	}))
	c := NewCache(x, 1<<20)
	m := c.NewMap(&Chain{Segments: []Segment{{1, 1}}}, nil)
	require.ErrorIs(t, m.Load(0), ErrRecord)
	_, ok := m.Lookup(0)
	require.False(t, ok)
	require.Zero(t, c.Used())
	require.NoError(t, m.Load(1), "the locks are free")
}

func TestMapLookupAllocatesNothing(t *testing.T) {
	x := openIndex(t, t.TempDir(), Options{})
	m := NewCache(x, 1<<20).NewMap(&Chain{}, nil)
	require.NoError(t, m.Load(0))
	m.LockRegion(0)
	m.Set(0, 3, 700, 5)
	m.UnlockRegion(0)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		m.Lookup(500)
		m.Run(2, 1000)
	}))
}
