package blockmap

// This file holds directory: the leaves of one map by region, in pages made when needed and dropped when empty.

import "sync/atomic"

const (
	pageLeaves = 512
	pageBytes  = pageLeaves * 8
	slotBytes  = 16
)

type page [pageLeaves]atomic.Pointer[leaf]

// slot holds one page of a directory.
type slot struct {
	page   atomic.Pointer[page]
	leaves int // in the page; guarded by Cache.mu
}

// directory finds the leaf of a region. get takes no lock; put is called under Cache.mu.
type directory struct {
	slots atomic.Pointer[[]slot] // nil: no leaves
	pages int                    // in slots; guarded by Cache.mu
}

// get returns the leaf of a region, nil if it is not in memory.
func (d *directory) get(region uint64) *leaf {
	slots := d.slots.Load()
	if slots == nil || region/pageLeaves >= uint64(len(*slots)) {
		return nil
	}
	p := (*slots)[region/pageLeaves].page.Load()
	if p == nil {
		return nil
	}
	return p[region%pageLeaves].Load()
}

// regions returns a bound: from there up no region has a leaf.
func (d *directory) regions() uint64 {
	slots := d.slots.Load()
	if slots == nil {
		return 0
	}
	return uint64(len(*slots)) * pageLeaves
}

// put sets the leaf of a region that has none, or takes out (nil) that of one that has, and returns by how many bytes the
// directory itself grew.
func (d *directory) put(region uint64, l *leaf) int64 {
	if l == nil {
		return -d.remove(region)
	}
	grown := d.grow(region/pageLeaves + 1)
	s := &(*d.slots.Load())[region/pageLeaves]
	if s.leaves == 0 {
		s.page.Store(new(page))
		d.pages++
		grown += pageBytes
	}
	s.leaves++
	s.page.Load()[region%pageLeaves].Store(l)
	return grown
}

// remove takes a leaf out and returns how many bytes of pages became free with it.
func (d *directory) remove(region uint64) (freed int64) {
	slots := *d.slots.Load()
	s := &slots[region/pageLeaves]
	s.page.Load()[region%pageLeaves].Store(nil)
	if s.leaves--; s.leaves > 0 {
		return 0
	}
	s.page.Store(nil)
	if d.pages--; d.pages > 0 {
		return pageBytes
	}
	d.slots.Store(nil)
	return pageBytes + int64(len(slots))*slotBytes
}

// grow makes room for n pages and returns by how many bytes that grew the directory.
func (d *directory) grow(n uint64) int64 {
	var old []slot
	if slots := d.slots.Load(); slots != nil {
		old = *slots
	}
	if n <= uint64(len(old)) {
		return 0
	}
	slots := make([]slot, max(n, 2*uint64(len(old))))
	for i := range old {
		slots[i].page.Store(old[i].page.Load())
		slots[i].leaves = old[i].leaves
	}
	d.slots.Store(&slots)
	return int64(len(slots)-len(old)) * slotBytes
}
