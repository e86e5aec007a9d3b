package blockmap

// This file holds Map: for one chain, which layer owns each block, as far as it is in memory.

import (
	"sync"
	"sync/atomic"
)

const (
	stripeBits = 6
	stripes    = 1 << stripeBits
)

// Map is block → owning layer for one chain. Lookups take no lock and allocate nothing; they find only what Load brought
// in, and that may be dropped again at any time, except under its region's lock. Loading a region, changing its owners and
// dropping it all happen under that lock. Locks are striped: hold one region's at a time.
type Map struct {
	dir     directory
	cache   *Cache
	overlay func(region uint64) []LayerDelta
	chain   atomic.Pointer[Chain]
	closed  bool // written with all locks held, read with any
	locks   [stripes]sync.Mutex
}

// NewMap makes an empty map of a chain. The overlay returns the uncommitted deltas of the chain's layers in a region, by
// falling id; it is called with the region's lock held and may be nil.
func (c *Cache) NewMap(chain *Chain, overlay func(region uint64) []LayerDelta) *Map {
	m := &Map{cache: c, overlay: overlay}
	m.chain.Store(chain)
	return m
}

// Lookup returns the layer whose file holds a block, 0 if it reads as zeros. Not ok: its region is not in memory.
func (m *Map) Lookup(block uint64) (owner LayerID, ok bool) {
	l := m.warm(block / RegionBlocks)
	if l == nil {
		return 0, false
	}
	return l.at(int(block % RegionBlocks)), true
}

// Run returns the owner of a block and for how many blocks from there on, up to max and the end of the region, it is the
// same. Not ok: the region is not in memory.
func (m *Map) Run(block, max uint64) (owner LayerID, n uint64, ok bool) {
	l := m.warm(block / RegionBlocks)
	if l == nil {
		return 0, 0, false
	}
	i := int(block % RegionBlocks)
	limit := RegionBlocks
	if max < uint64(limit-i) {
		limit = i + int(max)
	}
	owner, to := l.run(i, limit)
	return owner, uint64(to - i), true
}

// warm returns the leaf of a region and marks it as used.
func (m *Map) warm(region uint64) *leaf {
	l := m.dir.get(region)
	if l != nil && !l.hot.Load() { // not stored each time: the line would go from core to core
		l.hot.Store(true)
	}
	return l
}

// Load brings a region into memory, if it is not there.
func (m *Map) Load(region uint64) error {
	m.LockRegion(region)
	defer m.UnlockRegion(region)
	return m.LoadLocked(region)
}

// LoadLocked is Load for a caller that holds the region's lock: the region then stays in memory until that is unlocked.
func (m *Map) LoadLocked(region uint64) error {
	if m.closed {
		return ErrClosed
	}
	if m.dir.get(region) != nil {
		return nil
	}
	// The uncommitted deltas first, the index then: what is committed in between is in both, and nothing in neither.
	var overlay []LayerDelta
	if m.overlay != nil {
		overlay = m.overlay(region)
	}
	owners := ownersPool.Get().(*Owners)
	defer ownersPool.Put(owners)
	if err := m.cache.index.Resolve(m.chain.Load(), region, overlay, owners); err != nil {
		return err
	}
	l := newLeaf(owners)
	l.in, l.region = m, region
	m.cache.add(l)
	return nil
}

var ownersPool = sync.Pool{New: func() any { return new(Owners) }}

// lock returns the lock of a region. Multiplying spreads any regular stride over all of them.
func (m *Map) lock(region uint64) *sync.Mutex {
	return &m.locks[region*0x9e3779b97f4a7c15>>(64-stripeBits)]
}

// LockRegion locks a region against loading, dropping and changes by others.
func (m *Map) LockRegion(region uint64) { m.lock(region).Lock() }

// UnlockRegion unlocks a region.
func (m *Map) UnlockRegion(region uint64) { m.lock(region).Unlock() }

// Set makes owner own the blocks from up to, not including, to of a region whose lock the caller holds. A region that is not
// in memory is left alone: loading it will find the change, in the index or in the overlay.
func (m *Map) Set(region uint64, from, to int, owner LayerID) {
	l := m.dir.get(region)
	if l == nil {
		return
	}
	l.set(from, to, owner)
	m.cache.resized(l)
}

// Chain returns the chain.
func (m *Map) Chain() *Chain { return m.chain.Load() }

// SetChain changes the chain for what is loaded from now on. What is in memory stays: it is for changes that give no block
// another owner, as putting an empty head on top.
func (m *Map) SetChain(c *Chain) { m.chain.Store(c) }

// Invalidate drops all regions from memory. The caller holds none of their locks.
func (m *Map) Invalidate() { m.invalidate(0, false) }

// InvalidateFrom drops the regions that hold block and those behind it. The caller holds none of their locks.
func (m *Map) InvalidateFrom(block uint64) { m.invalidate(block/RegionBlocks, false) }

// Close gives all memory back. Later Lookups find nothing and Load fails with ErrClosed. Close may be called twice.
func (m *Map) Close() { m.invalidate(0, true) }

// invalidate drops the regions from one on, under all locks: a load that began before has ended by then.
func (m *Map) invalidate(from uint64, closed bool) {
	for i := range m.locks {
		m.locks[i].Lock()
	}
	m.closed = m.closed || closed
	m.cache.drop(m, from, m.dir.regions())
	for i := range m.locks {
		m.locks[i].Unlock()
	}
}
