package blockmap

// This file holds leaf, the owners of the blocks of one region in memory. Lookups take no lock; who changes a leaf holds
// its region's lock.

import (
	"slices"
	"sync/atomic"
)

// maxPalette is how many owners a palette may collect before those that own nothing any more are dropped.
const maxPalette = 2 * RegionBlocks

// Bytes in memory, as Go's allocator rounds them.
const (
	leafBytes  = 64
	mixedBytes = 2304
	idBytes    = 8
)

// leaf: either one layer owns the whole region, or mixed says who owns what.
type leaf struct {
	hot   atomic.Bool           // looked up since the cache last came by
	owner atomic.Uint64         // of all blocks, while mixed is nil
	mixed atomic.Pointer[mixed] // nil: one owner
	place                       // in the cache
}

// mixed names the owner of each block by its index in a palette, two indexes of 16 bits to a word. The palette only grows,
// and before an index that needs it is stored: readers load the index first and then the palette, which so has it.
type mixed struct {
	palette atomic.Pointer[[]LayerID]
	index   [RegionBlocks / 2]atomic.Uint32
	small   [24]LayerID // where the palette begins: this much is free in the allocator's size class
}

// newLeaf makes the leaf of a region.
func newLeaf(o *Owners) *leaf {
	l := new(leaf)
	l.owner.Store(uint64(o[0]))
	if slices.ContainsFunc(o[1:], func(id LayerID) bool { return id != o[0] }) {
		l.mixed.Store(newMixed(o))
	}
	return l
}

// at returns the owner of block i of the region.
func (l *leaf) at(i int) LayerID {
	m := l.mixed.Load()
	if m == nil {
		return LayerID(l.owner.Load())
	}
	return m.at(i)
}

// run returns the owner of block i and the first block up to limit that another owns.
func (l *leaf) run(i, limit int) (LayerID, int) {
	m := l.mixed.Load()
	if m == nil {
		return LayerID(l.owner.Load()), limit
	}
	return m.run(i, limit)
}

// set makes owner own the blocks from up to, not including, to.
func (l *leaf) set(from, to int, owner LayerID) {
	if from >= to {
		return
	}
	if from == 0 && to == RegionBlocks {
		l.owner.Store(uint64(owner)) // before readers are sent there
		l.mixed.Store(nil)
		return
	}
	m := l.mixed.Load()
	if m == nil {
		if LayerID(l.owner.Load()) == owner {
			return
		}
		m = newMixed(l.owners())
	} else if len(*m.palette.Load()) >= maxPalette {
		m = newMixed(l.owners())
	}
	m.set(from, to, owner)
	l.mixed.Store(m)
}

// owners returns the owners of all blocks.
func (l *leaf) owners() *Owners {
	o := new(Owners)
	for i := range o {
		o[i] = l.at(i)
	}
	return o
}

// bytes returns what the leaf takes in memory.
func (l *leaf) bytes() int64 {
	m := l.mixed.Load()
	if m == nil {
		return leafBytes
	}
	n := int64(leafBytes + mixedBytes)
	if c := cap(*m.palette.Load()); c > len(m.small) {
		n += int64(c) * idBytes
	}
	return n
}

func newMixed(o *Owners) *mixed {
	m := new(mixed)
	palette := m.small[:0]
	seen := make(map[LayerID]uint32)
	var n uint32
	for i, id := range o {
		if i == 0 || id != o[i-1] { // mostly it is the same
			var ok bool
			if n, ok = seen[id]; !ok {
				n = uint32(len(palette))
				seen[id] = n
				palette = append(palette, id)
			}
		}
		m.put(i, n)
	}
	m.palette.Store(&palette)
	return m
}

func (m *mixed) at(i int) LayerID {
	n := m.get(i)
	return (*m.palette.Load())[n]
}

// get returns the palette index of block i.
func (m *mixed) get(i int) uint32 {
	return m.index[i>>1].Load() >> (i & 1 << 4) & 0xffff
}

// put stores the palette index of block i.
func (m *mixed) put(i int, n uint32) {
	shift := i & 1 << 4
	word := &m.index[i>>1]
	word.Store(word.Load()&^(0xffff<<shift) | n<<shift)
}

func (m *mixed) run(i, limit int) (LayerID, int) {
	n := m.get(i)
	to := i + 1
	for to < limit {
		if to&1 == 0 && m.index[to>>1].Load() == n|n<<16 {
			to += 2
			continue
		}
		if m.get(to) != n {
			break
		}
		to++
	}
	return (*m.palette.Load())[n], min(to, limit)
}

func (m *mixed) set(from, to int, owner LayerID) {
	n := m.number(owner)
	for i := from; i < to; i++ {
		if i&1 == 0 && i+1 < to {
			m.index[i>>1].Store(n | n<<16)
			i++
			continue
		}
		m.put(i, n)
	}
}

// number returns the palette index of owner, which it adds if need be. The newest are the likeliest and come last.
func (m *mixed) number(owner LayerID) uint32 {
	palette := *m.palette.Load()
	for n := len(palette) - 1; n >= 0; n-- {
		if palette[n] == owner {
			return uint32(n)
		}
	}
	grown := append(palette, owner) // may write behind the palette that readers have, never in it
	m.palette.Store(&grown)
	return uint32(len(palette))
}
